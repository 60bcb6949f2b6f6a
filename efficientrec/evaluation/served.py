"""Models as they serve: rows folded by profile.py, lists made by recommend.py."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from efficientrec.evaluation import histories, metrics
from efficientrec.evaluation.questions import Question
from efficientrec.evaluation.ranks import Answer
from efficientrec.model import Model
from efficientrec.profile import Rows, take
from efficientrec.recommend import recommend
from efficientrec.training.trials import ANSWERS_MIN, Choosing, Gains, Judged, Jury, few_events, in_parts

ROWS_AT_A_TIME = 4096


def rows_of(model: Model, question: Question) -> Rows:
    """The row of each asked user, after everything that was given."""
    owner = question.owner().astype(np.int32)
    return histories.folded(model, question.given, owner, question.event, len(question), question.users)


def answer(model: Model, question: Question, size: int, exact: bool = True) -> Answer:
    """The lists that a worker would send. exact: False ranks by votes alone."""
    known = len(model.items)
    assert model.items.ids == list(question.given.items[:known]), "the model's items are not the question's"
    items = np.full((len(question), size), -1, np.int32)
    scored = np.zeros(len(question), np.int64)
    for first in range(0, len(question), ROWS_AT_A_TIME):
        part = question.part(first, ROWS_AT_A_TIME)
        lists = recommend(model, rows_of(model, part), size, exact=exact)
        items[first : first + len(part)] = lists.items
        scored[first : first + len(part)] = lists.ranked
    return Answer(items, question.wanted.has(items), scored)


def choosing(question: Question, criterion: str, most: int, seed: int) -> Choosing | None:
    """How voices are judged on a question: by the NDCG named, on at most so many of its users; None where these are too
    few to tell voices apart."""
    if len(question) < ANSWERS_MIN:
        return None
    asked = question.sample(most, seed)
    size = int(criterion.rpartition("@")[2])

    newly = asked.after(few_events(len(asked), seed))

    def given(model: Model) -> Jury:
        return Jury(users=judged_by(rows_of(model, asked)), newcomers=judged_by(rows_of(model, newly)))

    def judged_by(rows: Rows) -> Judged:
        def part(chosen: NDArray[np.int64]) -> Callable[[Model], Gains]:
            some, wanted = take(rows, chosen), asked.take(chosen).wanted

            def judged(other: Model) -> Gains:
                lists = recommend(other, some, size)
                return Gains(metrics.ndcg(wanted.has(lists.items), wanted.counts(), size), lists.ranked)

            return judged

        return [part(chosen) for chosen in in_parts(len(asked), seed)]

    return given
