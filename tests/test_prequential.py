"""Streams: what is asked, what a list may know, and that nothing is learned before it is asked."""

from dataclasses import replace

import numpy as np
import pytest

from efficientrec.errors import SettingInvalid
from efficientrec.evaluation import metrics, prequential, ranks
from efficientrec.evaluation.baselines import popular, rules
from efficientrec.evaluation.baselines.linear import Linear
from efficientrec.evaluation.baselines.streamed import StreamedPopularity, StreamedRules
from efficientrec.evaluation.prequential import Stream
from efficientrec.evaluation.replay import Replay
from efficientrec.evaluation.results import Result
from tests.test_protocols import events, world
from tests.test_training import QUICK, WORLD

HOUR = 3_600_000
STREAM = Stream.of(WORLD, 0)


def stream(text: str, at: list[int] | None = None, weights: dict[str, float] | None = None) -> Stream:
    data = world(text, weights)
    return Stream.of(data if at is None else replace(data, at=np.array(at, np.int64)), 0)


def asked(of: Stream, every: int = 1) -> list[str]:
    return [events(of.data)[event] for event in of.liked(0, len(of.data), every)]


def test_asked_is_for_what_is_liked_new_and_not_the_first_of_its_user() -> None:
    of = stream("aP aQ aP bP aR bQ bR", weights={"aR": -1.0})

    assert asked(of) == ["aQ", "bQ", "bR"]
    assert asked(of, every=2) == ["aQ", "bR"]


def test_events_of_one_time_come_in_an_order_that_is_drawn() -> None:
    data = replace(world("aP aQ aR bP"), at=np.array([0, 0, 0, 1]))
    orders = {tuple(events(Stream.of(data, seed).data)) for seed in range(40)}

    assert len(orders) == 6
    assert {order[3] for order in orders} == {"bP"}


def test_a_list_knows_what_was_before_it_was_made() -> None:
    of = stream("aP bP aQ aR aS", [0, HOUR - 1, HOUR, HOUR + 1, 25 * HOUR])
    last = np.array([3, 4])

    assert of.known(last, "event").tolist() == [3, 4]
    assert of.known(last, "hour").tolist() == [2, 4]
    assert of.known(last, "day").tolist() == [0, 4]


def test_a_question_gives_what_was_known_and_leaves_out_what_was_met_since() -> None:
    of = stream("aP bP aQ aR aS", [0, HOUR - 1, HOUR, HOUR + 1, HOUR + 2])
    question = of.question(np.array([4]), of.known(np.array([4]), "hour"))
    names = [of.data.items[item] for item in question.met.item]

    assert [events(of.data)[event] for event in question.event] == ["aP"]
    assert sorted(names) == ["P", "Q", "R"]
    assert [of.data.items[item] for item in question.wanted.item] == ["S"]


def test_items_become_known_one_after_another() -> None:
    of = stream("aQ bP aR")

    assert list(of.data.items) == ["Q", "P", "R"]
    assert of.items(np.array([0, 1, 2, 3])).tolist() == [0, 1, 2, 3]
    assert list(of.learned(2).items) == ["Q", "P"]
    assert events(of.learned(2)) == ["aQ", "bP"]


def test_models_are_learned_anew_every_so_many_events_or_hours() -> None:
    of = stream("aP " * 20, [index * HOUR // 2 for index in range(20)])

    assert prequential.refits(of, 5).tolist() == [4, 6, 11, 16]
    assert prequential.refits(of, "hour").tolist() == [4, 6, 8, 10, 12, 14, 16, 18]
    with pytest.raises(SettingInvalid, match="expected hour, day or a number"):
        prequential.refit_setting("weekly")


def test_rules_of_the_stream_are_those_of_everything_before() -> None:
    """The running counts give what counting anew before every question would."""
    some = STREAM.liked(300, len(WORLD), 7)
    running = StreamedRules(STREAM, 0.7)
    question = STREAM.question(some, some)

    scores = running.scores(question)

    for row, event in enumerate(some.tolist()):
        learned = STREAM.learned(event)
        one = question.take(np.array([row]))
        anew = Linear(rules.followers(learned), 0.7).scores(one)[0]
        np.testing.assert_allclose(scores[row, : len(learned.items)], anew, rtol=1e-4, atol=1e-6)


def test_the_popularity_of_the_stream_is_that_of_everything_before() -> None:
    some = STREAM.liked(300, len(WORLD), 50)
    running = StreamedPopularity(STREAM, 7.0)
    question = STREAM.question(some, some)

    scores = running.scores(question)

    for row, event in enumerate(some.tolist()):
        learned = STREAM.learned(event)
        anew = popular.RECENCY.fit(learned, {"half_life_days": 7.0}, 0, None).scorer.scores(question)[0]
        np.testing.assert_allclose(scores[row, : len(anew)], anew, rtol=1e-4, atol=1e-6)


def test_nothing_of_the_future_changes_a_list() -> None:
    """The events after a question may be anything: what was asked before them stays as it was."""
    some = STREAM.liked(300, 700, 5)
    later = int(some[-1])
    changed = replace(STREAM.data, item=np.where(np.arange(len(WORLD)) > later, 0, STREAM.data.item).astype(np.int32))
    other = replace(STREAM, data=changed)

    for make in (lambda of: StreamedRules(of, 0.9), lambda of: StreamedPopularity(of)):
        one, two = (ranks.hits(make(of), of.question(some, some), 10) for of in (STREAM, other))
        np.testing.assert_array_equal(one, two)


def replay(
    models: list[str],
    refreshes: tuple[str, ...] = ("event", "day"),
    refit: int | str = 300,
    stream: Stream = STREAM,
) -> Result:
    return Replay(
        data="toy",
        stream=stream,
        models=models,
        recipe=QUICK,
        every=2,
        refit=refit,
        refreshes=refreshes,
        progress=lambda step, share: None,
        clock=lambda: 0.0,
    ).run()


def test_every_model_is_replayed_with_lists_of_the_moment_and_of_midnight() -> None:
    result = replay(["efficientrec", "sr+ease", "sr", "recency-popularity"])
    rates = {entry.name: entry.intervals()["hit_rate@10"].mean for entry in result.entries}

    assert list(rates) == [
        "efficientrec",
        "efficientrec by votes",
        "efficientrec, lists per day",
        "efficientrec by votes, lists per day",
        "sr+ease",
        "sr+ease, lists per day",
        "sr",
        "sr, lists per day",
        "recency-popularity",
        "recency-popularity, lists per day",
    ]
    assert rates["efficientrec"] > rates["recency-popularity"] + 0.2
    assert rates["sr+ease"] > rates["recency-popularity"] + 0.2
    assert result.sizes["test_events"] > 100


@pytest.mark.parametrize("model", ["itemknn", "sr+ease", "efficientrec"])
def test_nobody_beats_chance_on_a_future_that_is_drawn(model: str) -> None:
    """A model that had learned from the future would."""
    draw = np.random.default_rng(0)
    future = np.arange(len(WORLD)) >= prequential.bounds(STREAM)[1]
    drawn = draw.integers(0, len(WORLD.items), len(WORLD))
    noise = replace(WORLD, item=np.where(future, drawn, WORLD.item).astype(np.int32))
    noise = replace(noise, weight=np.where(future, 1.0, WORLD.weight).astype(np.float32))
    of = Stream.of(noise, 0)
    _, start = prequential.bounds(of)
    events = of.liked(start, len(noise), 2)

    got = replay([model], ("event",), 10_000, of).entries[0].intervals()["hit_rate@5"].mean

    chance = (5 / (len(WORLD.items) - np.diff(of.question(events, events).start))).mean()
    assert abs(got - chance) < 3 * np.sqrt(chance * (1 - chance) / len(events))


def test_a_replay_is_the_same_for_the_same_seed() -> None:
    one, again = replay(["sr+ease"], ("event",)), replay(["sr+ease"], ("event",))

    assert one.as_json() == again.as_json()


def test_learning_anew_more_often_may_be_asked_by_the_day() -> None:
    result = replay(["itemknn"], ("event",), "day")

    assert result.sizes["refits"] > 20
    assert result.entries[0].intervals()["hit_rate@10"].mean > 0.3


def test_a_user_without_a_history_gets_what_is_popular() -> None:
    of = Stream.of(replace(WORLD, at=WORLD.at // 40), 0)
    some = of.liked(400, len(WORLD), 1)
    question = of.question(some, of.known(some, "day"))
    fresh = np.flatnonzero(np.diff(question.start) == 0)

    lists = ranks.answer(StreamedRules(of, 0.9), question, 5, 0)
    plain = ranks.answer(StreamedPopularity(of), question, 5, 0)

    assert len(fresh)
    np.testing.assert_array_equal(metrics.hit_rate(lists.hits[fresh], 5), metrics.hit_rate(plain.hits[fresh], 5))
