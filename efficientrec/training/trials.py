"""What is held out while a model is made, to choose how loud its voices speak and to say how good it is.

`next_events` asks what a stream asks: the next thing a user likes, from the list made just before. `later_events` asks
for all that a user likes after a moment. `new_users` asks to complete what strangers did, in no order of time. Each
wants other voices: what follows the last item matters most to the first, and nothing to the third.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from efficientrec import profile
from efficientrec.evaluation import baselines, histories, judging, protocols
from efficientrec.model import Model
from efficientrec.training.data import TrainingData
from efficientrec.training.recipe import Recipe

Scores = dict[str, float]
Judged = Callable[[Model], Scores]
ANSWERS_MIN = 50
"""Held-out questions below which two settings of the voices cannot be told apart: the defaults stay."""


@dataclass(frozen=True, slots=True)
class Trial:
    """One way to hold out."""

    learn: TrainingData
    """What may be learned from."""
    cut: int
    """Time in milliseconds from which on nothing was learned."""
    choosing: Callable[[Model], Judged] | None
    """Given a model, how any that differs from it only in its voices is judged; None where too little is held out."""
    scores: Callable[[Model], dict[str, Scores]]
    """Of a model (as `candidate`) and of popularity."""


def next_events(data: TrainingData, recipe: Recipe) -> Trial:
    """The latest interactions, each predicted from the list before it. One half of the users serves for choosing, the
    other for scoring."""
    cut = data.cut(recipe.validation_share)
    choosing, scoring = judging.examples(data, cut, recipe.seed, 2 * recipe.examples_max).halves(recipe.seed)

    def choose(model: Model) -> Judged:
        rows = histories.before_each(model, data, choosing.event)
        return lambda other: judging.judge_rows(other, rows, choosing)

    return Trial(
        data.before(cut),
        cut,
        choose if len(choosing) >= ANSWERS_MIN else None,
        lambda model: {
            "candidate": judging.judge(model, scoring),
            "popularity": judging.judge_popularity(scoring, recipe.popularity_half_life_seconds),
        },
    )


def later_events(data: TrainingData, recipe: Recipe) -> Trial:
    """All that a user liked after a moment."""
    question = protocols.temporal(data, recipe.validation_share).sample(recipe.examples_max, recipe.seed)
    return _asked(question, data.cut(recipe.validation_share))


def new_users(data: TrainingData, recipe: Recipe) -> Trial:
    """A fifth of what a stranger liked."""
    question = protocols.strong(data, recipe.seed, "validation").sample(recipe.examples_max, recipe.seed)
    return _asked(question, int(data.at[-1]) + 1)


def _asked(question: protocols.Question, cut: int) -> Trial:
    def choose(model: Model) -> Judged:
        rows = profile.take(histories.all_of(model, question.given), question.users)
        return lambda other: protocols.answer_rows(other, rows, question)

    return Trial(
        question.train,
        cut,
        choose if len(question.users) >= ANSWERS_MIN else None,
        lambda model: {
            "candidate": protocols.answer(model, question),
            "popularity": protocols.answer_scores(baselines.popularity(question), question),
        },
    )
