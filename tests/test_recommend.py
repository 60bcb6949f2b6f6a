"""Who gets what, and why: the right answer in the toy world, and a plain twin of votes and ranking for any world."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from efficientrec import profile
from efficientrec.interactions import key_of
from efficientrec.model import Model
from efficientrec.profile import Rows
from efficientrec.recommend import recommend
from tests import strategies
from tests.toy import (
    ITEMS,
    Act,
    dislike,
    like,
    names,
    new_rows,
    random_model,
    rows_after,
    run_of,
    same_bits,
    sigmoid,
    toy_model,
    view,
)
from tests.toy_elfm import random_elfm

MODEL = toy_model()
USERS = ["anna", "ben", "clara"]


def test_who_likes_a_gets_more_of_a_and_first_what_follows() -> None:
    rows = rows_after(MODEL, like("anna", "a1"), like("anna", "a2"))

    result = recommend(MODEL, rows, 6)

    assert names(MODEL, result) == ["a3", "a4", "a5", "a6", "a7", "a8"]


def test_who_likes_b_gets_b_and_who_dislikes_b_gets_a() -> None:
    rows = rows_after(MODEL, like("ben", "b5"), dislike("clara", "b5"))

    result = recommend(MODEL, rows, 4)

    assert names(MODEL, result, 0) == ["b6", "b1", "b2", "b3"]
    assert names(MODEL, result, 1)[0] == "a1"
    assert {name[0] for name in names(MODEL, result, 1)} == {"a"}


def test_a_user_of_whom_nothing_is_known_gets_what_is_popular() -> None:
    result = recommend(MODEL, new_rows(MODEL), 6)

    assert names(MODEL, result) == list(ITEMS[:6])


def test_demographics_stand_in_for_a_history() -> None:
    rows = profile.with_traits(new_rows(MODEL), [np.array([key_of("taste=b")], np.uint64)], np.array([0]))

    result = recommend(MODEL, rows, 3)

    assert names(MODEL, result) == ["b1", "b2", "b3"]


def test_the_list_changes_with_every_event() -> None:
    before = rows_after(MODEL, like("anna", "a1"))
    after = rows_after(MODEL, like("anna", "a1"), like("anna", "b1"), like("anna", "b2"))

    assert names(MODEL, recommend(MODEL, before, 1)) == ["a2"]
    assert names(MODEL, recommend(MODEL, after, 1)) == ["b3"]


def test_the_reasons_name_the_cluster_and_the_anchor() -> None:
    rows = rows_after(MODEL, like("anna", "a1"), like("anna", "a2"))

    result = recommend(MODEL, rows, 3)

    place = MODEL.items.ids.index
    assert names(MODEL, result) == ["a3", "a4", "a5"]
    assert result.strongest[0].tolist() == [[0, place("a2")], [0, -1], [0, -1]]  # cluster A; after a2 comes a3
    assert result.clusters[0].tolist() == [0, 1]
    membership = 1 / (1 + math.exp(2 - 4 * 2 / 3))  # two likes of A: mean 2 / (1 + 2)
    assert result.memberships[0] == pytest.approx([membership, 1 / (1 + math.exp(2))])
    assert result.part[0] == pytest.approx(
        np.array([[0.4 * membership, 1], [0.3 * membership, 0], [0.2 * membership, 0]])
    )


def test_an_anchor_speaks_softer_the_longer_ago_and_not_at_all_when_it_was_disliked() -> None:
    older = recommend(MODEL, rows_after(MODEL, like("anna", "a1"), view("anna", "b1")), 16)
    disliked = recommend(MODEL, rows_after(MODEL, like("anna", "a1"), dislike("anna", "b1")), 16)

    after_a1, after_b1 = names(MODEL, older).index("a2"), names(MODEL, older).index("b2")
    assert older.part[0, after_a1, 1] == 0.5
    assert older.part[0, after_b1, 1] == 1.0
    assert disliked.strongest[0, names(MODEL, disliked).index("b2"), 1] == -1


def test_what_was_judged_never_comes_again_and_what_was_looked_at_may() -> None:
    rows = rows_after(MODEL, like("anna", "a1"), dislike("anna", "a2"), view("anna", "a3"))

    listed = names(MODEL, recommend(MODEL, rows, 16))

    assert len(listed) == 14
    assert not {"a1", "a2"} & set(listed)
    assert "a3" in listed


def test_what_is_blocked_comes_to_nobody() -> None:
    blocked = np.array([item in ("a3", "b1") for item in MODEL.items.ids])
    rows = rows_after(MODEL, like("anna", "a2"), like("ben", "b5"))

    result = recommend(MODEL, rows, 16, blocked)

    for user in range(2):
        assert len(names(MODEL, result, user)) == 13
        assert not {"a3", "b1"} & set(names(MODEL, result, user))


def test_a_list_that_is_shorter_is_filled_with_nothing() -> None:
    rows = rows_after(MODEL, *(like("anna", item) for item in ITEMS[:13]))

    result = recommend(MODEL, rows, 5)

    assert result.items[0, 3:].tolist() == [-1, -1]
    assert result.scores[0, 3:].tolist() == [0, 0]
    assert result.strongest[0, 3:].tolist() == [[-1, -1], [-1, -1]]
    assert result.part[0, 3:].tolist() == [[0, 0], [0, 0]]
    assert set(names(MODEL, result)) == set(ITEMS[13:])
    assert result.ranked.tolist() == [3]


def test_who_has_met_all_that_his_clusters_offer_gets_what_is_popular() -> None:
    offered = [f"{taste}{number}" for taste in "ab" for number in range(1, 7)]
    rows = rows_after(MODEL, *(like("anna", item) for item in offered))

    result = recommend(MODEL, rows, 2)

    assert set(names(MODEL, result)) <= {"a7", "b7", "a8", "b8"}
    assert len(names(MODEL, result)) == 2


def test_by_votes_alone_the_order_is_that_of_the_votes() -> None:
    model = replace(MODEL, votes=replace(MODEL.blend, popularity=0.0))
    rows = rows_after(model, like("anna", "a1"))

    result = recommend(model, rows, 5, exact=False)

    votes = result.part.sum(axis=2)
    assert names(model, result)[0] == "a2"
    assert result.scores[0] == pytest.approx(votes[0])


def test_no_rows_make_no_lists() -> None:
    result = recommend(MODEL, new_rows(MODEL, 0), 5)

    assert result.items.shape == (0, 5)


def test_a_model_without_anchors_or_without_items_still_answers() -> None:
    quiet = replace(MODEL, blend=replace(MODEL.blend, anchors=0))
    empty = random_model(items=0)

    listed = recommend(quiet, rows_after(quiet, like("anna", "a1")), 3)
    nothing = recommend(empty, rows_after(empty, like("anna", "a1")), 3)

    assert names(quiet, listed) == ["a2", "a3", "a4"]
    assert nothing.items.tolist() == [[-1, -1, -1]]


def test_what_cannot_be_answered_stops_the_worker() -> None:
    rows = rows_after(MODEL, like("anna", "a1"))
    other = toy_model("other")

    with pytest.raises(AssertionError, match="at least 1"):
        recommend(MODEL, rows, 0)
    with pytest.raises(AssertionError, match="rows of the models"):
        recommend(other, rows, 3)
    with pytest.raises(AssertionError, match="wide"):
        recommend(MODEL, profile.empty(1), 3)
    with pytest.raises(AssertionError, match="blocked"):
        recommend(MODEL, rows, 3, np.zeros(3, np.bool_))


def test_memberships_of_any_vector_stay_between_nothing_and_everything() -> None:
    vectors = np.array([[1e4, 0], [0, 0], [-1e4, 20]], np.float32)

    clusters, memberships = MODEL.clusters.assign(vectors)

    assert clusters.tolist() == [[0, 1], [0, 1], [1, 0]]
    middle = 1 / (1 + math.exp(2))
    assert memberships == pytest.approx(np.array([[1, middle], [middle, middle], [1, 0]]))


def plain_list(
    model: Model, rows: Rows, user: int, size: int, blocked: set[int], exact: bool
) -> tuple[dict[int, float], int]:
    """Every candidate of one user that may be listed, with its score, and how many of them there are, step by step."""
    vector = model.encoder.vector(rows)[user].astype(float)
    taste = model.encoder.taste(rows)[user].astype(float)
    is_local = model.ranking_places.shape[1] > 0
    if is_local:
        memberships = vector
    else:
        memberships = 1 / (1 + np.exp(-(vector @ sigmoid(model).weights.astype(float) + sigmoid(model).bias)))
    votes: dict[int, float] = {}

    def vote(items: list[int], scores: list[float], share: float, nominating: bool = True) -> None:
        for item, score in zip(items, scores, strict=True):
            if item >= 0 and (nominating or item in votes):
                votes[item] = votes.get(item, 0.0) + share * score

    for cluster in np.argsort(-memberships, kind="stable")[: model.clusters.kept].tolist():
        p, scores = memberships[cluster], model.cluster_shortlists.scores[cluster].astype(float)
        given = np.minimum(p, scores) if is_local else p * scores
        vote(model.cluster_shortlists.items[cluster].tolist(), given.tolist(), model.blend.cluster_weight)
    events = int(rows.events[user])
    blend = model.blend
    every, few = slice(None), blend.neighbour_nominees
    follows = model.anchor_shortlists, blend.anchors, blend.anchor_weight, blend.anchor_decay
    friendly = blend.neighbour_weight / math.sqrt(1 + events)
    resembles = model.neighbour_shortlists, blend.neighbours, friendly, blend.neighbour_decay
    for (lists, count, share, decay), part, nominating in (
        (follows, every, True),
        (resembles, slice(few), True),
        (resembles, slice(few, None), False),
    ):
        for back in range(min(count, events)):
            slot = (events - 1 - back) % profile.RING_SIZE
            key, weight = int(rows.ring_item[user, slot]), float(rows.ring_weight[user, slot])
            known = [place for place, name in enumerate(model.items.ids) if key_of(name) == key]
            if known and weight >= 0:
                items, scores = (array[known[0]][part].tolist() for array in (lists.items, lists.scores))
                vote(items, scores, share * decay**back, nominating)
    met = set(rows.seen[user, : int(rows.seen_count[user])].tolist())

    def allowed(item: int) -> bool:
        return item not in blocked and key_of(model.items.ids[item]) % 65_536 not in met

    kept = {item: score for item, score in votes.items() if allowed(item)}
    greeting = blend.newcomer_popularity * max(0.0, 1 - events / max(blend.newcomer_events, 1))
    if len(kept) < 2 * size or greeting > 0:
        kept.update({item: 0.0 for item in model.popular.tolist() if allowed(item) and item not in kept})
    for item in kept:
        kept[item] += (blend.popularity + greeting) * float(model.item_bias[item])
    if exact:
        for item in kept:
            fit, places = model.ranking_vectors[item].astype(float), model.ranking_places[item]
            fit = np.minimum(taste[places[places >= 0]], fit[places >= 0]) if is_local else taste * fit
            kept[item] += float(fit.sum())
    return kept, len(kept)


@pytest.mark.parametrize("make", [random_model, random_elfm])
@given(
    st.integers(0, 2**32 - 1),
    strategies.histories(),
    st.integers(1, 70),
    st.sets(st.integers(0, 39), max_size=10),
    st.booleans(),
)
def test_lists_equal_those_of_a_plain_twin(
    make: Callable[..., Model], seed: int, acts: list[Act], size: int, blocked: set[int], exact: bool
) -> None:
    model = make(seed, items=40)
    rows = profile.fold(profile.empty(3), run_of(acts, users=USERS), model.encoder).rows
    mask = np.isin(np.arange(40), list(blocked))

    result = recommend(model, rows, size, mask, exact)

    for user in range(3):
        expected, ranked = plain_list(model, rows, user, size, blocked, exact)
        listed = [item for item in result.items[user].tolist() if item >= 0]
        scores = result.scores[user, : len(listed)]
        assert result.ranked[user] == ranked
        assert len(listed) == len(set(listed)) == min(size, ranked)
        assert scores == pytest.approx([expected[item] for item in listed], rel=1e-4, abs=1e-4)
        assert scores == pytest.approx(sorted(expected.values(), reverse=True)[:size], rel=1e-4, abs=1e-4)
        assert (np.diff(scores) <= 0).all()


@pytest.mark.parametrize("events", [1, 2, 63, 64, 65, 150])
def test_the_anchors_are_the_latest_interactions_however_long_the_history(events: int) -> None:
    model = random_model(3)
    model = replace(model, blend=replace(model.blend, anchors=profile.RING_SIZE))
    acts = [(view if step % 3 else dislike)("anna", f"i{step * step % 67}") for step in range(events)]
    rows = rows_after(model, *acts)

    result = recommend(model, rows, 60)

    expected, ranked = plain_list(model, rows, 0, 60, set(), True)
    listed = result.items[0, :ranked].tolist()
    assert result.ranked.tolist() == [ranked]
    assert result.scores[0, :ranked] == pytest.approx([expected[item] for item in listed], rel=1e-4, abs=1e-4)


@given(strategies.histories())
def test_one_user_gets_the_same_list_alone_and_in_a_batch(acts: list[Act]) -> None:
    model = random_model(3)
    rows = profile.fold(profile.empty(3), run_of(acts, users=USERS), model.encoder).rows

    together = recommend(model, rows, 10)

    for user, row in enumerate(profile.pack(rows, 0)):
        alone = recommend(model, profile.unpack([row], model.encoder.width, model.encoder.key), 10)
        for field in ("items", "scores", "clusters", "memberships", "strongest", "part", "ranked"):
            assert getattr(alone, field)[0].tobytes() == getattr(together, field)[user].tobytes()


def test_recommending_changes_no_row() -> None:
    rows = rows_after(MODEL, like("anna", "a1"), dislike("ben", "b1"))
    then = copy.deepcopy(rows)

    recommend(MODEL, rows, 5)

    assert same_bits(rows, then)


def test_who_is_new_gets_what_is_popular_until_he_is_known() -> None:
    """b7, in no shortlist of what ann likes, is by far the most popular."""
    model = toy_model()
    popular = model.items.ids.index("b7")
    bias = np.zeros(len(model.items), np.float32)
    bias[popular] = 1.0
    greeting = replace(model.blend, popularity=0.0, newcomer_popularity=100.0, newcomer_events=3)
    model = replace(model, item_bias=bias, popular=np.array([popular], np.int32), blend=greeting)
    acts = [like("ann", f"a{number}") for number in range(4)]

    lists = [recommend(model, rows_after(model, *acts[:events]), 3).items[0].tolist() for events in (1, 2, 3, 4)]

    assert [items[0] == popular for items in lists] == [True, True, False, False]
    assert all(popular not in items for items in lists[2:])
