"""Leaks that are planted, and seen."""

from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from efficientrec.errors import EvaluationLeaks
from efficientrec.evaluation import leaks, metrics, protocols, ranks
from efficientrec.evaluation.baselines import rules
from efficientrec.evaluation.baselines.linear import Linear
from efficientrec.evaluation.contest import Contest
from efficientrec.evaluation.questions import Question, Split
from efficientrec.training.data import TrainingData
from tests.test_training import QUICK, WORLD

SPLIT = protocols.leave_one_out(WORLD, 0)


def added(data: TrainingData, question: Question) -> TrainingData:
    """The data with the targets of a question, at its end."""
    row, item = question.wanted.row, question.wanted.item
    return replace(
        data,
        user=np.concatenate((data.user, question.users[row])),
        item=np.concatenate((data.item, item)).astype(np.int32),
        weight=np.concatenate((data.weight, np.ones(len(row), np.float32))),
        at=np.concatenate((data.at, np.full(len(row), data.at[-1]))),
    )


def shown(found: list[str]) -> str:
    return "; ".join(found)


def test_an_honest_split_gives_nothing_away() -> None:
    assert leaks.of_split(SPLIT) == []


def test_targets_among_what_is_learned_are_seen() -> None:
    leaking = added(SPLIT.train, SPLIT.test)

    assert "120 targets of test stand in train" in shown(leaks.of_split(replace(SPLIT, train=leaking)))
    assert "120 targets of test stand in final" in shown(leaks.of_split(replace(SPLIT, final=leaking)))
    assert "120 targets of validation stand in train" in shown(
        leaks.of_split(replace(SPLIT, train=added(SPLIT.train, SPLIT.validation)))
    )


def test_a_validation_that_asks_for_the_test_is_seen() -> None:
    found = shown(leaks.of_split(replace(SPLIT, validation=SPLIT.test)))

    assert "120 targets are asked for in validation and in the test" in found


def test_targets_in_what_is_given_are_seen() -> None:
    given = replace(SPLIT.test, given=added(SPLIT.test.given, SPLIT.test))

    assert "120 targets of test stand in what the test is given" in shown(leaks.of_split(replace(SPLIT, test=given)))


def test_items_that_only_the_future_knows_are_seen_in_the_vocabulary() -> None:
    bare = replace(WORLD, tokens=[[] for _ in WORLD.items])
    split = protocols.leave_one_out(bare, 0)
    wider = replace(split.train, items=[*split.train.items, "new"], tokens=[*split.train.tokens, []])

    assert leaks.of_split(split) == []
    assert "1 items of train are neither described nor met" in shown(leaks.of_split(replace(split, train=wider)))


def test_events_of_the_time_of_the_test_are_seen() -> None:
    split = protocols.temporal(WORLD, 0)
    assert split.cut is not None
    late = WORLD.at >= split.cut
    one = np.zeros(len(WORLD), np.bool_)
    one[np.flatnonzero(late)[-1]] = True

    assert "1 events of final are of the time of the test" in shown(
        leaks.of_split(replace(split, final=WORLD.chosen(~late | one)))
    )


def test_lists_that_hold_what_was_met_or_what_nobody_knows_are_seen() -> None:
    test, known = SPLIT.test, len(SPLIT.train.items)
    items = np.full((len(test), 3), -1, np.int32)
    items[0, 0] = test.met.item[test.met.row == 0][0]
    items[1, 2] = known

    found = shown(leaks.of_lists(items, test, known, forgets=True))

    assert "1 places hold items that the user had met" in found
    assert "1 places hold items that could not be known" in found


def test_the_harness_refuses_a_split_that_leaks() -> None:
    leaking = replace(SPLIT, train=added(SPLIT.train, SPLIT.test))

    with pytest.raises(EvaluationLeaks, match="targets of test stand in train"):
        contest(leaking).run()


def contest(split: Split) -> Contest:
    return Contest(
        data="toy",
        protocol="leave-one-out",
        split=split,
        models=["sr"],
        recipe=QUICK,
        progress=lambda step, share: None,
        clock=lambda: 0.0,
    )


class Oracle:
    """Has seen the targets, as shortlists would that were made of the whole data."""

    def __init__(self, seen: Question, items: int) -> None:
        self.seen, self.items = seen, items

    def scores(self, question: Question) -> NDArray[np.float32]:
        scores = np.zeros((len(question), self.items), np.float32)
        place = np.searchsorted(self.seen.users, question.users)
        scores[:] = np.random.default_rng(0).random(scores.shape) / 2
        for row, origin in enumerate(place.tolist()):
            scores[row, self.seen.wanted.item[self.seen.wanted.row == origin]] = 1
        return scores


def test_what_a_model_hides_shows_on_targets_that_cannot_be_known() -> None:
    """Nobody beats chance on drawn targets, however good; who saw them does."""
    split = leaks.unknowable(SPLIT, 0)
    items = len(split.train.items)

    def hit_rate(scorer: ranks.Scorer) -> float:
        return float(metrics.hit_rate(ranks.hits(scorer, split.test, 3), 3).mean())

    chance = 3 / (items - np.diff(split.test.start).mean())
    error = np.sqrt(chance * (1 - chance) / len(split.test))
    assert abs(hit_rate(Linear(rules.followers(split.train), 0.7)) - chance) < 3 * error
    assert hit_rate(Oracle(split.test, items)) > chance + 3 * error
