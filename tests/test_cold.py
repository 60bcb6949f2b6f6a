"""Cold start against worlds in which the right answer is known."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from efficientrec.errors import EvaluationLeaks, TrainingImpossible
from efficientrec.evaluation import cluster_map, cold, protocols, ranks, served, tradeoff
from efficientrec.evaluation.cold import NewItems
from efficientrec.evaluation.portrait import Portrait, everybody
from efficientrec.evaluation.questions import Question, asking
from efficientrec.model import Model
from efficientrec.recommend import recommend
from efficientrec.training import trials
from efficientrec.training.data import TrainingData
from efficientrec.training.train import Trained, fit, train
from tests.test_training import QUICK, TASTE, WORLD
from tests.toy import random_model
from tests.toy_elfm import random_elfm

SPLIT = protocols.strong(WORLD, 0)


def hand_made() -> Question:
    """User 0 liked items 0, 1, 2, disliked 3 before the last; user 1 liked item 4. Asked for are 5 and 6."""
    given = TrainingData(
        user=np.array([0, 0, 0, 1, 0], np.int32),
        item=np.array([0, 1, 3, 4, 2], np.int32),
        weight=np.array([1, 1, -1, 1, 1], np.float32),
        at=np.arange(5, dtype=np.int64),
        items=[f"i{item}" for item in range(7)],
        tokens=[["a"]] * 7,
        traits=[[], []],
    )
    later = replace(
        given,
        user=np.array([0, 1], np.int32),
        item=np.array([5, 6], np.int32),
        weight=np.ones(2, np.float32),
        at=np.array([9, 9], np.int64),
    )
    return asking(given, later, np.ones(2, np.bool_))


def given_to(question: Question, user: int) -> list[int]:
    events = question.event[question.start[user] : question.start[user + 1]]
    return [int(item) for item in question.given.item[events]]


@pytest.mark.parametrize(
    ("likes", "expected"),
    [(0, [[], []]), (1, [[0], [4]]), (2, [[0, 1], [4]]), (3, [[0, 1, 2], [4]]), (9, [[0, 1, 2], [4]])],
)
def test_a_cold_user_is_one_with_his_first_likes_and_nothing_else(likes: int, expected: list[list[int]]) -> None:
    question = hand_made().after(likes)

    assert [given_to(question, user) for user in (0, 1)] == expected
    assert question.met.item.tolist() == [item for items in expected for item in items]
    assert question.wanted.item.tolist() == [5, 6]


@pytest.fixture(scope="module")
def trained() -> Trained:
    return train(SPLIT.train, QUICK, version="cold")


def test_clusters_vote_for_a_user_of_whom_only_demographics_are_known_as_for_those_like_him(trained: Trained) -> None:
    question = SPLIT.test.after(0)

    lists = served.answer(trained.model, question, 5, exact=False).items

    names = np.array([int(name.removeprefix("item-")) for name in trained.model.items.ids])
    assert (names[lists] // TASTE == (question.users % 2)[:, None]).mean() > 0.9


def test_more_likes_of_a_user_make_better_lists(trained: Trained) -> None:
    hits = [served.answer(trained.model, SPLIT.test.after(likes), 5).hits.any(axis=1).mean() for likes in (1, 5)]

    assert hits[1] >= hits[0] > 0


def test_new_items_stand_in_nothing_that_is_learned_and_are_all_that_is_asked_for() -> None:
    world = NewItems.of(SPLIT, 0, share=0.2)
    new = np.flatnonzero(world.new)

    assert len(new) == round(0.2 * 2 * (TASTE - 1))
    assert not np.isin(world.split.train.item, new).any()
    for question in (world.split.validation, world.split.test):
        assert not np.isin(question.given.item[question.event], new).any()
        assert not np.isin(question.met.item, new).any()
    assert np.isin(world.split.test.wanted.item, new).all()
    assert not np.isin(world.split.validation.wanted.item, new).any()


def test_all_that_a_user_liked_of_the_new_items_is_a_target() -> None:
    world = NewItems.of(SPLIT, 0, share=0.2)
    question, new = world.split.test, np.flatnonzero(world.new)
    names = np.array(question.given.items)

    for row, user in enumerate(question.users.tolist()):
        liked = (WORLD.user == user) & (WORLD.weight > 0)
        expected = {WORLD.items[item] for item in WORLD.item[liked].tolist()} & set(names[new].tolist())
        assert set(names[question.wanted.item[question.wanted.row == row]].tolist()) == expected


def test_new_items_are_found_by_their_description_and_chance_finds_them_by_chance() -> None:
    world = NewItems.of(SPLIT, 0, share=0.3)
    data, question, new = world.split.train, world.split.test, world.new
    model, _ = fit(data, QUICK, version="new", choosing=None)

    def first(scorer: ranks.Scorer) -> np.ndarray[tuple[int], np.dtype[np.int32]]:
        return ranks.answer(cold.Among(scorer, new), question, int(new.sum()), 0).items[:, 0]

    names = np.array([int(name.removeprefix("item-")) for name in data.items])
    for scorer in (cold.Exactly(model, new), cold.LikeDescribed(data)):
        assert (names[first(scorer)] // TASTE == question.users % 2).all()
    drawn = first(cold.Chance(len(new), np.random.default_rng(0)))
    assert 0.1 < (names[drawn] // TASTE == question.users % 2).mean() < 0.9
    assert len(set(first(cold.CategoryPopularity(data)).tolist())) == 1  # the same for everybody


@pytest.mark.parametrize("model", [random_model(1), random_elfm(1)], ids=["products", "minima"])
def test_exact_scores_are_those_that_serve(model: Model) -> None:
    items = len(model.items)
    data = TrainingData(
        user=np.repeat(np.arange(3, dtype=np.int32), 4),
        item=np.arange(12, dtype=np.int32),
        weight=np.ones(12, np.float32),
        at=np.arange(12, dtype=np.int64),
        items=model.items.ids,
        tokens=[[]] * items,
        traits=[[]] * 3,
    )
    silent = replace(model.blend, cluster_weight=0.0, anchor_weight=0.0, neighbour_weight=0.0)
    question = everybody(data, 3, 0)

    served_lists = recommend(replace(model, blend=silent), served.rows_of(model, question), 10)
    scores = cold.Exactly(model, np.arange(items) < 50).scores(question)

    known = (served_lists.items >= 0) & (served_lists.items < 50)
    assert known.any()
    assert (scores[:, 50:] == -np.inf).all()
    expected = np.take_along_axis(scores, np.maximum(served_lists.items, 0), axis=1)
    np.testing.assert_allclose(served_lists.scores[known], expected[known], rtol=1e-5, atol=1e-5)


def test_lists_of_new_items_hold_nothing_else(trained: Trained) -> None:
    world = NewItems.of(SPLIT, 0, share=0.3)
    model, _ = fit(world.split.train, QUICK, version="new", choosing=None)

    items = cold.listed_among(model, world.split.test, world.new, 5).items

    assert world.new[items[items >= 0]].all()


def test_without_descriptions_there_are_no_new_items() -> None:
    nameless = replace(SPLIT, train=replace(SPLIT.train, tokens=[[]] * len(SPLIT.train.items)))

    with pytest.raises(TrainingImpossible, match="0 items are both described and met"):
        NewItems.of(nameless, 0)


def test_a_model_serves_with_fewer_candidates_and_with_its_own_numbers_as_ever(trained: Trained) -> None:
    kept, own = trained.model.clusters.kept, served.answer(trained.model, SPLIT.test, 5)
    blend, longest = trained.model.blend, trained.model.neighbour_shortlists.items.shape[1]
    own_value = {
        "clusters kept": kept,
        "share of each shortlist": 1.0,
        "last items that vote": max(blend.anchors, blend.neighbours),
    }
    if blend.neighbour_weight > 0:
        own_value["neighbours nominated by each"] = min(blend.neighbour_nominees, longest)
    as_ever: list[str] = []

    for variant in tradeoff.variants(trained.model):
        variant.model.check()
        answer = served.answer(variant.model, SPLIT.test, 5)
        if variant.value == own_value[variant.knob]:
            np.testing.assert_array_equal(answer.items, own.items)
            as_ever.append(variant.knob)

    assert as_ever == list(own_value)


def test_clusters_of_one_taste_lie_together_on_the_map(trained: Trained) -> None:
    rows = served.rows_of(trained.model, everybody(SPLIT.train, 1000, 0))

    placed = [each for each in cluster_map.places(trained.model, rows) if each.top]
    taste = np.array([int(trained.model.items.ids[each.top[0]].removeprefix("item-")) // TASTE for each in placed])
    x = np.array([each.x for each in placed])

    assert [each.members for each in placed] == sorted((each.members for each in placed), reverse=True)
    assert (x[taste == 0].max() < x[taste == 1].min()) or (x[taste == 1].max() < x[taste == 0].min())


def test_a_portrait_tells_of_cold_users_new_items_cost_and_clusters() -> None:
    told = Portrait(
        data="toy", split=SPLIT, recipe=QUICK, title=str.upper, progress=lambda *_: None, clock=lambda: 0.0
    ).draw()

    assert [point["events"] for point in told["cold_users"]] == [*trials.ASKED_AFTER, None]
    for point in told["cold_users"]:
        itemknn = {"itemknn", "ease"} if point["events"] != 0 else set()
        assert point["models"].keys() == {"efficientrec", "efficientrec by votes", "popularity"} | itemknn
    assert told["cold_items"]["models"]["random"].keys() >= {"recall@20", "hit_rate@10"}
    assert {point["knob"] for point in told["tradeoff"]} >= {"clusters kept", "share of each shortlist"}
    assert all(title.startswith("ITEM-") for cluster in told["clusters"] for title in cluster["top"])
    assert json.loads(json.dumps(told)) == told


def test_a_leak_in_the_split_is_refused() -> None:
    leaking = replace(SPLIT, train=WORLD, final=WORLD)

    with pytest.raises(EvaluationLeaks):
        Portrait(data="toy", split=leaking, recipe=QUICK, title=str, progress=lambda *_: None, clock=lambda: 0.0).draw()


def test_data_without_anybody_to_ask_are_refused() -> None:
    nobody = replace(SPLIT, test=SPLIT.test.take(np.zeros(0, np.int64)))
    portrait = Portrait(data="few", split=nobody, recipe=QUICK, title=str, progress=lambda *_: None, clock=lambda: 0.0)

    with pytest.raises(TrainingImpossible, match="users need more interactions"):
        portrait.draw()
