"""How late a partition is, against what one works out by hand."""

from __future__ import annotations

from streams.lag import Lag, Look

PLACE = ("events", 0)


def test_a_partition_in_which_nothing_waits_is_not_late() -> None:
    assert Lag().of(PLACE, Look(end=7, done=7, committed=7), 1_000_000) == (0, 0, 0)


def test_seconds_are_the_age_of_the_oldest_record_and_grow_while_nothing_is_handled() -> None:
    lag, look = Lag(), Look(end=9, done=4, committed=4, oldest_ms=1_000_000)

    assert lag.of(PLACE, look, 1_003_000)[:2] == (5, 3)
    assert lag.of(PLACE, look, 1_063_500)[:2] == (5, 63.5)


def test_a_record_that_nobody_has_read_yet_is_as_old_as_the_first_look_at_it() -> None:
    lag = Lag()

    assert lag.of(PLACE, Look(end=9, done=4), 10_000).seconds == 0
    assert lag.of(PLACE, Look(end=12, done=4), 14_000).seconds == 4
    assert lag.of(PLACE, Look(end=12, done=5), 15_000).seconds == 0, "another one is the oldest now"


def test_an_event_after_a_long_silence_is_as_old_as_it_is() -> None:
    lag = Lag()
    lag.of(PLACE, Look(end=4, done=4, committed=4), 0)

    assert lag.of(PLACE, Look(end=5, done=4, committed=4, oldest_ms=7_200_000), 7_200_250)[:2] == (1, 0.25)


def test_a_record_without_a_time_of_the_broker_counts_from_the_first_look() -> None:
    lag, look = Lag(), Look(end=5, done=4, oldest_ms=-1)
    lag.of(PLACE, look, 50_000)

    assert lag.of(PLACE, look, 52_000).seconds == 2


def test_a_commit_ages_from_when_there_was_something_to_commit_until_it_moves() -> None:
    lag = Lag()
    lag.of(PLACE, Look(end=4, done=4, committed=4), 0)

    ages = [
        lag.of(PLACE, Look(end, done, committed), now).commit_seconds
        for end, done, committed, now in (
            (9, 4, 4, 100_000),  # an hour of silence is no age
            (9, 9, 4, 103_000),  # handled, and still not committed
            (9, 9, 7, 105_000),  # it moved, if not far enough
            (9, 9, 7, 106_000),
            (9, 9, 9, 107_000),
        )
    ]

    assert ages == [0, 3, 0, 1, 0]


def test_a_partition_that_went_away_and_came_back_begins_anew() -> None:
    lag, look = Lag(), Look(end=9, done=4)
    lag.of(PLACE, look, 0)
    lag.keep({("events", 1)})

    assert lag.of(PLACE, look, 60_000) == (5, 0, 0)
