"""The score that the demo shows: prediction first, learning after."""

from __future__ import annotations

import math

from efficientrec.interactions import WeightPolicy
from streams.records import Interaction, RankedItem, RecommendationList, Trigger
from streams.scoreboard import Scoreboard

HOUR = 3_600


def board(trained_up_to: dict[str, dict[int, int]] | None = None) -> Scoreboard:
    known = trained_up_to or {}
    return Scoreboard(WeightPolicy(), 7 * 24 * HOUR, lambda version: known.get(version, {}))


def likes(scores: Scoreboard, offset: int, user: str, item: str, partition: int = 0) -> None:
    scores.event(partition, offset, 1000 * offset, Interaction("like", user, item, 1_700_000_000 + offset))


def list_of(user: str, offset: int, *items: str, version: str | None = "m1", partition: int = 0) -> RecommendationList:
    trigger = Trigger("interactions", partition, offset, None, "2023-11-14T22:13:20.000Z")
    ranked = [RankedItem(item, rank, 1.0, []) for rank, item in enumerate(items, 1)]
    return RecommendationList(
        1, "r", user, version, "2023-11-14T22:13:20.000Z", trigger, "event", clusters=[], items=ranked
    )


def test_an_event_is_looked_up_in_the_list_that_does_not_know_it_yet() -> None:
    scores = board()

    likes(scores, 0, "u", "a")
    scores.published(list_of("u", 0, "b", "c"), received_ms=10)
    likes(scores, 1, "u", "b")
    scores.published(list_of("u", 1, "x"), received_ms=1015)
    likes(scores, 2, "u", "c")
    scores.published(list_of("u", 2, "c"), received_ms=2020)

    assert (scores.score.all.judged, scores.score.all.hits) == (2, 1)


def test_several_events_between_two_lists_are_all_judged_by_the_earlier_one() -> None:
    scores = board()

    likes(scores, 0, "u", "a")
    scores.published(list_of("u", 0, "b", "c"), received_ms=0)
    for offset, item in ((1, "b"), (2, "c"), (3, "d")):
        likes(scores, offset, "u", item)
    scores.published(list_of("u", 3, "e"), received_ms=0)

    assert (scores.score.all.judged, scores.score.all.hits) == (3, 2)


def test_a_list_that_is_read_before_its_event_waits_for_it() -> None:
    scores = board()

    scores.published(list_of("u", 0, "b"), received_ms=7)
    scores.published(list_of("v", 1, "b"), received_ms=1009)
    before = scores.score.lists
    likes(scores, 0, "u", "a")
    likes(scores, 1, "v", "a")

    assert before == 0
    assert scores.score.lists == 2
    assert scores.score.latencies_ms == [7, 9]


def test_what_a_model_was_trained_on_is_not_counted_for_it() -> None:
    scores = board({"m1": {0: 2}})

    likes(scores, 0, "u", "a")
    scores.published(list_of("u", 0, "b", "c"), received_ms=0)
    likes(scores, 1, "u", "b")
    likes(scores, 2, "u", "c")
    scores.published(list_of("u", 2), received_ms=0)

    assert (scores.score.known, scores.score.all.judged, scores.score.all.hits) == (1, 1, 1)


def test_disliked_and_repeated_items_are_no_wishes_fulfilled() -> None:
    scores = board()

    likes(scores, 0, "u", "a")
    scores.published(list_of("u", 0, "a", "b"), received_ms=0)
    scores.event(0, 1, 0, Interaction("dislike", "u", "b", 1_700_000_001))
    likes(scores, 2, "u", "a")
    scores.published(list_of("u", 2), received_ms=0)

    assert scores.score.all.judged == 0
    assert math.isnan(scores.score.all.rate)


def test_popularity_answers_the_same_question_without_what_the_user_has_met() -> None:
    scores = board()
    for offset in range(12):
        likes(scores, offset, f"fan-{offset}", "hit")
    likes(scores, 12, "u", "other")
    scores.published(list_of("u", 12, "nothing"), received_ms=0)

    likes(scores, 13, "u", "hit")
    likes(scores, 14, "u", "unheard")
    scores.published(list_of("u", 14), received_ms=0)

    assert (scores.score.all.judged, scores.score.all.popularity_hits, scores.score.all.hits) == (2, 1, 0)


def test_lists_of_a_model_are_counted_for_themselves_too() -> None:
    scores = board()

    likes(scores, 0, "u", "a")
    scores.published(list_of("u", 0, "b", version=None), received_ms=0)
    likes(scores, 1, "u", "b")
    scores.published(list_of("u", 1, "x"), received_ms=0)
    likes(scores, 2, "u", "y")
    scores.published(list_of("u", 2), received_ms=0)

    assert (scores.score.all.judged, scores.score.all.hits) == (2, 1)
    assert (scores.score.personal.judged, scores.score.personal.hits) == (1, 0)
