"""Hits, coverage and entropy against what one works out by hand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from zlib import crc32

import numpy as np
import pytest

from efficientrec import profile
from efficientrec.model import Model
from efficientrec.profile import Rows
from efficientrec.recommend import recommend
from streams.arms import CONTROL, TREATMENT, Arm
from streams.metrics import WorkerMetrics
from streams.quality import COVERED_SECONDS, HALF_LIFE_SECONDS, PLACES, TOP, Quality, evenness
from tests.toy import START, Act, dislike, like, rows_after, run_of, toy_model, view

SAMPLED = [name for number in range(200) if crc32((name := f"u{number}").encode()) % 10 == 0]
ANNA, BERT = SAMPLED[:2]
OTHER = next(name for number in range(200) if crc32((name := f"u{number}").encode()) % 10)


class World:
    """A worker's loop, as far as it is told of: rows in memory and a clock wound by hand."""

    def __init__(self, model: Model | None, trained_up_to: Mapping[int, int] | None = None) -> None:
        self.metrics = WorkerMetrics(())
        self.model = model
        self.arm = CONTROL
        self.now = START
        self.trained_up_to = dict(trained_up_to or {})
        self.quality = Quality(self.metrics, lambda: self.now)
        self.rows: dict[str, Rows] = {}
        self.offset = 0

    def acts(self, *acts: Act, popular: Sequence[str] = ()) -> None:
        """A run of partition 0. popular: the list that all get before the first model."""
        run = run_of(acts, self.offset)
        self.offset += len(acts)
        width = 0 if self.model is None else self.model.encoder.width
        before = [self.rows.get(user) or profile.empty(1, width) for user in run.users]
        rows = Rows(np.concatenate([row.kept for row in before]), np.concatenate([row.state for row in before]))
        folded = profile.fold(rows, run, None if self.model is None else self.model.encoder)
        arm = Arm(self.arm, self.model, self.trained_up_to)
        sample = self.quality.sample([user.encode() for user in run.users], np.zeros(len(run.users), np.int32), arm)
        self.quality.judge(sample, run, folded.counted, rows)
        everyone = np.arange(len(run.users))
        if self.model is None:
            self.quality.gave_popular(sample, everyone, [[(item, 1.0) for item in popular]] * len(everyone))
        else:
            self.quality.gave(sample, everyone, self.model, recommend(self.model, folded.rows, 4))
        for number, user in enumerate(run.users):
            self.rows[user] = profile.take(folded.rows, np.array([number]))

    def counts(self, arm: str = CONTROL) -> tuple[float, float, float]:
        """Events judged, hits of lists, hits of popularity."""
        value = self.metrics.registry.get_sample_value
        by_list, by_popularity = (
            value("efficientrec_online_hits_total", {"by": by, "arm": arm}) or 0.0 for by in ("list", "popularity")
        )
        return value("efficientrec_online_judged_events_total", {"arm": arm}) or 0.0, by_list, by_popularity

    def gauge(self, name: str) -> float:
        self.quality.show()
        return self.metrics.registry.get_sample_value(name) or 0.0


def test_an_event_is_looked_up_in_the_list_that_its_user_had_before() -> None:
    world = World(toy_model())

    world.acts(like(ANNA, "a1"))  # no list yet; now a2, a3, … are listed
    assert world.counts() == (0, 0, 0)
    world.acts(like(ANNA, "a2"))
    world.acts(like(ANNA, "b8"))  # neither listed nor among the ten most popular

    assert world.counts() == (2, 1, 1)


def test_popularity_is_what_most_liked_and_this_user_has_not_met() -> None:
    world = World(toy_model())  # the most popular first: a1, b1, a2, b2, … a8, b8

    world.acts(like(ANNA, "a1"))
    world.acts(like(ANNA, "b6"))  # the twelfth; a1 is met, so there are ten before it
    assert world.counts()[2] == 0
    world.acts(like(ANNA, "a6"))  # the eleventh, nine of the ten before it not met
    assert world.counts()[2] == 1


def test_what_is_no_like_or_met_already_or_came_before_is_not_judged() -> None:
    world = World(toy_model())
    world.acts(like(ANNA, "a1", event_id="one"))

    world.acts(dislike(ANNA, "a2"), view(ANNA, "a3"), like(ANNA, "a1"), like(ANNA, "a4", event_id="one"))

    assert world.counts() == (0, 0, 0)


def test_only_a_tenth_of_the_users_is_asked() -> None:
    world = World(toy_model())
    everyone = [f"u{number}" for number in range(200)]
    world.acts(*(like(user, "a1") for user in everyone))

    world.acts(*(like(user, "a2") for user in everyone))

    assert world.counts() == (len(SAMPLED), len(SAMPLED), len(SAMPLED))
    assert 10 <= len(SAMPLED) <= 30
    assert OTHER not in SAMPLED


def test_what_the_model_was_trained_on_is_not_judged() -> None:
    world = World(toy_model(), {0: 3})

    world.acts(like(ANNA, "a1"))
    world.acts(like(ANNA, "a2"), like(ANNA, "a3"))  # at offsets 1 and 2
    assert world.counts() == (0, 0, 0)
    world.acts(like(ANNA, "a4"))
    assert world.counts() == (1, 1, 1)


def test_the_list_counts_by_the_model_that_made_it_also_when_another_has_taken_its_place() -> None:
    world = World(toy_model())
    world.acts(like(ANNA, "a1"))

    world.model, world.trained_up_to = toy_model("toy-2"), {0: 100}
    world.acts(like(ANNA, "a2"))

    assert world.counts() == (1, 1, 1)


def test_an_event_counts_for_the_arm_for_which_its_users_list_was_made() -> None:
    world = World(toy_model())
    world.acts(like(ANNA, "a1"), like(BERT, "b1"))

    world.arm, world.model = TREATMENT, toy_model("toy-2")
    world.acts(like(ANNA, "a2"))  # looked up in a list of the control
    assert (world.counts(), world.counts(TREATMENT)) == ((1, 1, 1), (0, 0, 0))
    world.acts(like(ANNA, "b8"))
    assert (world.counts(), world.counts(TREATMENT)) == ((1, 1, 1), (1, 0, 0))
    world.arm, world.model = CONTROL, toy_model()
    world.acts(like(BERT, "b2"), like(ANNA, "a3"))  # bert was of the control all the time
    assert (world.counts(), world.counts(TREATMENT)) == ((2, 2, 2), (2, 1, 1))


def test_lists_of_an_earlier_experiment_say_nothing_of_the_next() -> None:
    world = World(toy_model())
    world.acts(like(BERT, "b1"))
    world.arm, world.model = TREATMENT, toy_model("toy-2")
    world.acts(like(ANNA, "a1"))

    world.model = toy_model("toy-3")
    world.acts(like(ANNA, "a2"), like(BERT, "b2"))

    assert (world.counts(), world.counts(TREATMENT)) == ((1, 1, 1), (0, 0, 0))


def test_coverage_and_entropy_are_those_of_the_released_model() -> None:
    world = World(toy_model())
    world.acts(like(OTHER, "a1"))
    coverage, entropy = "efficientrec_recommendation_coverage_ratio", "efficientrec_cluster_entropy_ratio"
    before = world.gauge(coverage), world.gauge(entropy)

    world.arm, world.model = TREATMENT, toy_model("toy-2")
    world.acts(like(OTHER, "b1"), like(ANNA, "b1"))

    assert (world.gauge(coverage), world.gauge(entropy)) == before


def test_before_the_first_model_the_list_is_popularity() -> None:
    world = World(None)
    world.acts(like(ANNA, "a1"), like(OTHER, "a1"), popular=["x", "y"])

    world.acts(like(ANNA, "y"), like(ANNA, "z"), popular=["x"])

    assert world.counts() == (2, 1, 1)


def test_nothing_is_kept_of_who_was_erased_or_whose_partition_has_gone() -> None:
    world = World(toy_model())
    world.acts(like(ANNA, "a1"), like(BERT, "b1"))

    world.quality.erased([ANNA.encode(), OTHER.encode()])
    world.acts(like(ANNA, "a2"), like(BERT, "b2"))
    assert world.counts() == (1, 1, 1)
    world.quality.forget()
    world.acts(like(ANNA, "a3"), like(BERT, "b3"))
    assert world.counts() == (1, 1, 1)


def test_memory_does_not_grow_with_users() -> None:
    world = World(None)
    for first in range(0, 100_000, 20_000):
        names = [f"user-{number}" for number in range(first, first + 20_000)]
        sample = world.quality.sample([name.encode() for name in names], np.zeros(len(names), np.int32), Arm(CONTROL))
        world.quality.gave_popular(sample, np.arange(len(names)), [[("x", 1.0)]] * len(names))

    arrays = [each for each in vars(world.quality).values() if isinstance(each, np.ndarray)]

    assert sum(array.nbytes for array in arrays) < 4 * 1024 * 1024
    assert {len(array) for array in arrays if len(array) > 1} == {PLACES}
    assert max(array.shape[-1] for array in arrays if array.ndim == 2) == TOP


def test_coverage_is_the_share_of_items_that_stood_in_lists_lately() -> None:
    world = World(toy_model())
    assert world.gauge("efficientrec_recommendation_coverage_ratio") == 0

    world.acts(like(OTHER, "a1"))  # a2, a3, a4, a5 of 16 items
    assert world.gauge("efficientrec_recommendation_coverage_ratio") == 4 / 16
    world.now += 60_000
    world.acts(like(OTHER, "a2"))  # a3, a4, a5, a6
    assert world.gauge("efficientrec_recommendation_coverage_ratio") == 5 / 16
    world.now = START + int(1000 * COVERED_SECONDS)
    assert world.gauge("efficientrec_recommendation_coverage_ratio") == 4 / 16, "a2 was last listed too long ago"


def test_entropy_is_one_when_both_tastes_are_as_common_and_falls_when_one_prevails() -> None:
    world = World(toy_model())
    assert world.gauge("efficientrec_cluster_entropy_ratio") == 0

    world.acts(like(ANNA, "a1"), like(BERT, "b1"))
    assert world.gauge("efficientrec_cluster_entropy_ratio") == pytest.approx(1)
    world.now += int(10_000 * HALF_LIFE_SECONDS)
    assert world.gauge("efficientrec_cluster_entropy_ratio") == pytest.approx(1)  # of what is left, a thousandth
    world.acts(*(like(f"new-{number}", "a1") for number in range(50)))
    (memberships,) = recommend(toy_model(), rows_after(toy_model(), like("new", "a1")), 4).memberships
    share = memberships[0] / memberships.sum()

    expected = -(share * np.log2(share) + (1 - share) * np.log2(1 - share))
    assert share > 0.7
    assert world.gauge("efficientrec_cluster_entropy_ratio") == pytest.approx(expected, abs=0.01)


def test_evenness_by_hand() -> None:
    assert evenness(np.array([3.0, 1.0])) == pytest.approx(0.811278, abs=1e-6)
    assert evenness(np.ones(8)) == pytest.approx(1)
    assert evenness(np.array([1.0, 1.0, 0.0, 0.0])) == pytest.approx(0.5)
    assert evenness(np.zeros(3)) == 0
