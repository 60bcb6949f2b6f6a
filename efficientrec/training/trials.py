"""What is held out while a model is made, to choose how loud its voices speak and to say how good it is: the next thing
that a user likes, from the list made just before, as a stream asks it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from efficientrec import profile
from efficientrec.evaluation import histories, judging, metrics
from efficientrec.model import Model
from efficientrec.profile import Rows
from efficientrec.training.data import TrainingData
from efficientrec.training.recipe import Recipe

Scores = dict[str, float]


@dataclass(frozen=True, slots=True)
class Gains:
    """How good a model's answers are."""

    each: NDArray[np.float64]
    """(questions,) NDCG."""
    scored: NDArray[np.integer]
    """(questions,) items scored for the list."""


Judged = Sequence[Callable[[Model], Gains]]
"""How a model answers held-out questions: part by part, drawn at random and longer each time, so that what is plainly
worse is not asked them all."""


@dataclass(frozen=True, slots=True)
class Jury:
    """Who judges voices."""

    users: Judged
    newcomers: Judged
    """The same users, as if each had come not long ago."""


Choosing = Callable[[Model], Jury]
"""Given a model, how any that differs from it only in its voices is judged."""
ASKED_AFTER = (0, 1, 2, 3, 5, 10)
"""Interactions after which a newcomer is asked."""
FIRST_PART = 250
ANSWERS_MIN = 50
"""Held-out questions below which two settings of the voices cannot be told apart: the defaults stay."""


@dataclass(frozen=True, slots=True)
class Trial:
    """One way to hold out."""

    learn: TrainingData
    """What may be learned from."""
    cut: int
    """Time in milliseconds from which on nothing was learned."""
    choosing: Choosing | None
    """None where too little is held out."""
    scores: Callable[[Model], dict[str, Scores]]
    """Of a model (as `candidate`) and of popularity."""


def in_parts(questions: int, seed: int) -> Iterator[NDArray[np.int64]]:
    """The places of so many questions in parts, rising in each."""
    order, begin, length = np.random.default_rng(seed).permutation(questions), 0, FIRST_PART
    while begin < questions:
        end = questions if questions - begin < 2 * length else begin + length
        yield np.sort(order[begin:end])
        begin, length = end, end


def few_events(questions: int, seed: int) -> NDArray[np.int64]:
    """(questions,) after how many interactions each newcomer is asked."""
    return np.random.default_rng(seed).choice(ASKED_AFTER, questions)


def next_events(data: TrainingData, recipe: Recipe) -> Trial:
    """The latest interactions, each predicted from the list before it. One half of the users serves for choosing, the
    other for scoring."""
    cut = data.cut(recipe.validation_share)
    choosing, scoring = judging.examples(data, cut, recipe.seed, 2 * recipe.examples_max).halves(recipe.seed)

    def choose(model: Model) -> Jury:
        few = few_events(len(choosing), recipe.seed)
        return Jury(
            users=judged_by(histories.before_each(model, data, choosing.event)),
            newcomers=judged_by(histories.before_each(model, data, choosing.event, few)),
        )

    def judged_by(rows: Rows) -> Judged:
        def part(chosen: NDArray[np.int64]) -> Callable[[Model], Gains]:
            some, asked = profile.take(rows, chosen), judging.Examples(data, choosing.event[chosen])

            def judged(other: Model) -> Gains:
                hits, scored = judging.hits_of_rows(other, some, asked)
                return Gains(metrics.ndcg(hits, np.ones(len(asked), np.int64), judging.LIST_SIZE), scored)

            return judged

        return [part(chosen) for chosen in in_parts(len(choosing), recipe.seed)]

    return Trial(
        data.before(cut),
        cut,
        choose if len(choosing) >= ANSWERS_MIN else None,
        lambda model: {
            "candidate": judging.judge(model, scoring),
            "popularity": judging.judge_popularity(scoring, recipe.popularity_half_life_seconds),
        },
    )
