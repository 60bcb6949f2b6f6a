"""Splits of small worlds, where one can see by eye what may be learned, given and asked."""

from dataclasses import replace

import numpy as np
import pytest

from efficientrec.errors import SettingInvalid
from efficientrec.evaluation import leaks, protocols
from efficientrec.evaluation.questions import Question, Split
from efficientrec.training import popularity
from efficientrec.training.data import TrainingData
from efficientrec.training.recipe import Recipe
from tests.test_training import WORLD


def world(events: str, weights: dict[str, float] | None = None, described: str = "") -> TrainingData:
    """Events such as `aX bY aX`: users in lower case, items in upper case, a millisecond apart. weights: by event."""
    pairs = events.split()
    users, items = sorted({pair[0] for pair in pairs}), sorted({pair[1] for pair in pairs} | set(described))
    return TrainingData(
        user=np.array([users.index(pair[0]) for pair in pairs], np.int32),
        item=np.array([items.index(pair[1]) for pair in pairs], np.int32),
        weight=np.array([(weights or {}).get(pair, 1.0) for pair in pairs], np.float32),
        at=np.arange(len(pairs), dtype=np.int64),
        items=items,
        tokens=[[f"name={item}"] if item in described else [] for item in items],
        traits=[[] for _ in users],
    )


def events(data: TrainingData) -> list[str]:
    """The events of a world, as `world` takes them."""
    return [f"{'abcdef'[user]}{data.items[item]}" for user, item in zip(data.user, data.item, strict=True)]


def given(question: Question) -> list[str]:
    return [events(question.given)[event] for event in question.event]


def wanted(question: Question) -> list[str]:
    row, item = question.wanted.row, question.wanted.item
    return [f"{'abcdef'[question.users[r]]}{question.given.items[i]}" for r, i in zip(row, item, strict=True)]


def test_leave_one_out_asks_for_the_last_two_of_each_user() -> None:
    split = protocols.leave_one_out(world("aP bP aQ bR aR bQ aS"), seed=0)

    assert events(split.train) == ["aP", "bP", "aQ"]
    assert (given(split.validation), wanted(split.validation)) == (["aP", "aQ", "bP"], ["aR", "bR"])
    assert (given(split.test), wanted(split.test)) == (["aP", "aQ", "aR", "bP", "bR"], ["aS", "bQ"])
    assert split.final is split.train


def test_leave_one_out_asks_users_of_two_items_only_in_the_test_and_of_one_never() -> None:
    split = protocols.leave_one_out(world("aP aQ bP cP cQ cR"), seed=0)

    assert events(split.train) == ["aP", "bP", "cP"]
    assert wanted(split.validation) == ["cQ"]
    assert wanted(split.test) == ["aQ", "cR"]


def short(users: int, events: int) -> TrainingData:
    """Users with so few events each, of four items."""
    user = np.repeat(np.arange(users, dtype=np.int32), events)
    return TrainingData(
        user=user,
        item=((user + np.tile(np.arange(events), users)) % 4).astype(np.int32),
        weight=np.ones(len(user), np.float32),
        at=np.arange(len(user), dtype=np.int64),
        items=list("PQRS"),
        tokens=[[]] * 4,
        traits=[[]] * users,
    )


@pytest.mark.parametrize("length", [2, 3])
def test_where_histories_are_short_leave_one_out_asks_a_tenth_and_learns_the_others_whole(length: int) -> None:
    split = protocols.leave_one_out(short(600, length), seed=0)

    assert len(split.validation) == len(split.test) == 60
    assert not set(split.validation.users.tolist()) & set(split.test.users.tolist())
    kept = np.bincount(split.train.user, minlength=600)
    asked = np.isin(np.arange(600), [*split.validation.users, *split.test.users])
    assert set(kept[asked].tolist()) == {length - 1}
    assert set(kept[~asked].tolist()) == {length}
    leaks.refuse(leaks.of_split(split), "short histories")


def test_long_histories_are_all_asked_in_leave_one_out() -> None:
    split = protocols.leave_one_out(short(600, 4), seed=0)

    assert len(split.validation) == len(split.test) == 600


def test_where_next_to_nobody_has_five_likes_strong_asks_those_with_two() -> None:
    split = protocols.strong(short(600, 3), seed=0)

    assert len(split.validation) == len(split.test) == 60
    assert set(np.bincount(split.test.wanted.row).tolist()) == {1}


def test_leave_one_out_asks_only_for_what_is_new_to_the_user() -> None:
    split = protocols.leave_one_out(world("aP aQ aP aR aQ aS aP aR"), seed=0)

    assert events(split.train) == ["aP", "aQ", "aP"]
    assert wanted(split.validation) == ["aR"]
    assert (given(split.test), wanted(split.test)) == (["aP", "aQ", "aP", "aR", "aQ"], ["aS"])


def test_leave_one_out_takes_low_ratings_for_interactions() -> None:
    split = protocols.leave_one_out(world("aP aQ aR", {"aP": -1.0, "aR": -1.0}), seed=0)

    assert wanted(split.test) == ["aR"]
    assert split.train.weight.tolist() == [1.0]


def test_where_order_means_nothing_the_last_item_is_a_drawn_one() -> None:
    data = world("aP aQ aR aS aT")
    targets = {wanted(protocols.leave_one_out(data, seed, ordered=False).test)[0] for seed in range(30)}

    assert len(targets) == 5
    assert {wanted(protocols.leave_one_out(data, seed).test)[0] for seed in range(30)} == {"aT"}


def test_what_happened_at_one_time_is_put_in_a_drawn_order() -> None:
    data = replace(world("aP aQ aR aS"), at=np.array([0, 1, 1, 1]))
    targets = {wanted(protocols.leave_one_out(data, seed).test)[0] for seed in range(30)}

    assert targets == {"aQ", "aR", "aS"}


def test_items_that_only_the_future_knows_are_unknown_unless_they_are_described() -> None:
    bare = protocols.leave_one_out(world("aP aQ aX bP bQ bY"), seed=0)
    described = protocols.leave_one_out(world("aP aQ aX bP bQ bY", described="XY"), seed=0)

    assert bare.train.items == ["P"]
    assert described.train.items == ["P", "X", "Y"]
    assert wanted(bare.test) == wanted(described.test) == ["aX", "bY"]
    assert list(bare.test.given.items[:1]) == list(bare.train.items)


def test_the_temporal_protocol_learns_what_was_before_and_asks_for_what_came_after() -> None:
    data = world("aP bP aQ bQ aR cP aS bR cQ aT")  # the last tenth is one event, the tenth before it another
    split = protocols.temporal(data, seed=0)

    assert events(split.train) == ["aP", "bP", "aQ", "bQ", "aR", "cP", "aS", "bR"]
    assert events(split.final) == [*events(split.train), "cQ"]
    assert wanted(split.validation) == ["cQ"]
    assert wanted(split.test) == ["aT"]  # which nobody knew before, so it counts as missed
    assert "T" not in split.final.items


def test_the_temporal_protocol_asks_for_likes_of_items_new_to_the_user() -> None:
    data = world("aP bP aQ bQ " * 4 + "bX aX aP bX", {"bX": -1.0})
    split = protocols.temporal(data, seed=0)

    assert wanted(split.test) == []  # aP was met, bX is not liked
    assert wanted(split.validation) == ["aX"]


def test_the_strong_protocol_learns_nothing_of_those_whom_it_asks() -> None:
    split = protocols.strong(WORLD, 0)
    learned = set(split.train.user.tolist())

    assert len(split.validation) == len(split.test) == 12
    for question in (split.validation, split.test):
        assert not learned & set(question.users.tolist())
        assert not learned & set(question.given.user.tolist())
    assert not set(split.validation.users.tolist()) & set(split.test.users.tolist())


def test_the_strong_protocol_holds_out_a_fifth_of_what_is_liked() -> None:
    split = protocols.strong(WORLD, 0)
    liked = np.bincount(WORLD.user[WORLD.weight > 0], minlength=WORLD.users)[split.test.users]

    assert split.test.wanted.counts().tolist() == np.round(0.2 * liked).tolist()
    assert set(split.train.weight.tolist()) == {1.0}
    assert (np.diff(split.test.start) == liked - np.round(0.2 * liked)).all()


def test_with_signs_dislikes_are_learned_and_given_as_well() -> None:
    split = protocols.strong(WORLD, 0, only_liked=False)

    assert (split.train.weight < 0).any()
    assert (split.test.given.weight < 0).any()
    assert wanted_pairs(split.test) == wanted_pairs(protocols.strong(WORLD, 0).test)


@pytest.mark.parametrize("protocol", ["strong", "leave-one-out", "temporal"])
def test_every_protocol_is_honest_and_the_same_for_the_same_seed(protocol: str) -> None:
    one, again, other = (protocols.split(protocol, WORLD, "timestamp", seed) for seed in (0, 0, 1))

    assert leaks.of_split(one) == []
    assert one.test.wanted.key.tolist() == again.test.wanted.key.tolist()
    if protocol == "strong":
        assert one.test.users.tolist() != other.test.users.tolist()


def test_histories_fade_with_each_later_event_and_count_an_item_at_its_last_time() -> None:
    split = protocols.leave_one_out(world("aP aQ aP aR aS"), seed=0)
    history = split.test.history(len(split.train.items), 0.5).toarray()[0]

    assert dict(zip(split.train.items, history.tolist(), strict=True)) == {"P": 0.5, "Q": 0.25}


def test_a_sample_of_users_keeps_what_is_theirs() -> None:
    test = protocols.leave_one_out(WORLD, 0).test
    some = test.sample(20, 0)

    assert len(some) == 20
    assert set(wanted_pairs(some)) <= set(wanted_pairs(test))
    place = np.searchsorted(test.users, some.users)
    for row, origin in enumerate(place.tolist()):
        mine = some.event[some.start[row] : some.start[row + 1]]
        assert mine.tolist() == test.event[test.start[origin] : test.start[origin + 1]].tolist()


def wanted_pairs(question: Question) -> list[tuple[int, int]]:
    return list(zip(question.users[question.wanted.row].tolist(), question.wanted.item.tolist(), strict=True))


def test_a_hundred_thousand_users_and_items_are_asked_without_a_table_of_both() -> None:
    """A table of them would have ten thousand million places."""
    count = 100_000
    draw = np.random.default_rng(0)
    data = TrainingData(
        user=np.tile(np.arange(count, dtype=np.int32), 4),
        item=draw.integers(0, count, 4 * count).astype(np.int32),
        weight=np.ones(4 * count, np.float32),
        at=np.arange(4 * count, dtype=np.int64),
        items=[str(index) for index in range(count)],
        tokens=[[]] * count,
        traits=[[]] * count,
    )

    split = protocols.leave_one_out(data, 0)

    assert len(split.test) == pytest.approx(count, rel=0.01)
    assert len(split.test.wanted) == len(split.test)
    assert leaks.of_split(split) == []


def test_what_cannot_be_is_said() -> None:
    with pytest.raises(SettingInvalid, match="have no times"):
        protocols.split("temporal", WORLD, "position", 0)
    with pytest.raises(SettingInvalid, match="expected one of strong, leave-one-out, temporal"):
        protocols.split("crystal ball", WORLD, "timestamp", 0)


def test_one_split_is_all_that_a_seed_decides() -> None:
    def told(split: Split) -> tuple[list[str], list[str]]:
        return wanted(split.test), given(split.test)

    data = world("aP aQ aR aS aT bP bQ bR bS bT")

    assert told(protocols.leave_one_out(data, 5, ordered=False)) == told(
        protocols.leave_one_out(data, 5, ordered=False)
    )


def test_where_targets_are_of_any_time_what_is_popular_does_not_fade_either() -> None:
    strong, temporal = protocols.strong(WORLD, 0), protocols.temporal(WORLD, 0)
    old = np.arange(len(WORLD)) < len(WORLD) // 2
    years_later = replace(strong.train, at=np.where(old[: len(strong.train)], 0, 10**12).astype(np.int64))

    counted = popularity.decayed(years_later, strong.suited(Recipe()).popularity_half_life_seconds)

    assert counted == pytest.approx(np.bincount(years_later.item, years_later.weight, len(years_later.items)), rel=1e-2)
    assert temporal.suited(Recipe()) == Recipe()
