"""Baselines that learn from every event, before the next list is made."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from efficientrec.compiled import compiled
from efficientrec.evaluation.baselines.popular import DAY
from efficientrec.evaluation.baselines.rules import WINDOW
from efficientrec.evaluation.prequential import Stream
from efficientrec.evaluation.questions import Question

FAINT = 1e-6
"""What of a history counts less than this changes no list."""
ITEMS_MAX = 20_000
"""Items up to which directed counts are kept as a table."""


@dataclass(slots=True)
class StreamedPopularity:
    """Likes of each item that fade with a half-life; asked in the order of time."""

    stream: Stream
    half_life_days: float = math.inf
    _count: NDArray[np.float64] = field(init=False)
    _done: int = field(init=False, default=0)

    def __post_init__(self) -> None:
        self._count = np.zeros(self.items)

    @property
    def items(self) -> int:
        return len(self.stream.data.items)

    def scores(self, question: Question) -> NDArray[np.float32]:
        data, known = self.stream.data, _known(question, self._done)
        scores = np.empty((len(question), self.items), np.float32)
        rate = math.log(2) / (1000 * DAY * self.half_life_days)
        liked = np.maximum(data.weight, 0)
        fading_counts(liked, data.item, data.at, known, rate, self._done, self._count, scores)
        self._done = int(known[-1])
        return _hidden(scores, self.stream, known)


@dataclass(slots=True)
class StreamedRules:
    """SR (rules.py) whose counts are those of this moment; asked in the order of time."""

    stream: Stream
    decay: float
    _follows: NDArray[np.float32] = field(init=False)
    _count: NDArray[np.int64] = field(init=False)
    _last: NDArray[np.int32] = field(init=False)
    _done: int = field(init=False, default=0)

    def __post_init__(self) -> None:
        self._follows = np.zeros((self.items, self.items), np.float32)
        self._count = np.zeros(self.items, np.int64)
        self._last = np.full((self.stream.data.users, WINDOW), -1, np.int32)

    @property
    def items(self) -> int:
        return len(self.stream.data.items)

    def scores(self, question: Question) -> NDArray[np.float32]:
        data, known = self.stream.data, _known(question, self._done)
        history = question.history(self.items, self.decay)
        scores = np.zeros((len(question), self.items), np.float32)
        following(
            data.weight > 0,
            data.user,
            data.item,
            known,
            self._done,
            history.indptr,
            history.indices,
            history.data,
            self._follows,
            self._count,
            self._last,
            scores,
        )
        self._done = int(known[-1])
        return _hidden(scores, self.stream, known)


def _known(question: Question, done: int) -> NDArray[np.int64]:
    known = question.known
    assert known is not None, "a stream knows when it is asked"
    assert known[0] >= done, (int(known[0]), done)
    return known


def _hidden(scores: NDArray[np.float32], stream: Stream, known: NDArray[np.int64]) -> NDArray[np.float32]:
    """The scores, but none for items that nobody knew of."""
    scores[np.arange(scores.shape[1]) >= stream.items(known)[:, None]] = -np.inf
    return scores


@compiled
def fading_counts(
    weight: NDArray[np.float32],
    item: NDArray[np.int32],
    at: NDArray[np.int64],
    known: NDArray[np.int64],
    rate: float,
    done: int,
    count: NDArray[np.float64],
    scores: NDArray[np.float32],
) -> None:
    """Takes in the events from `done` on, and fills scores (rows, items) with the counts after known (rows,) events.
    count (items,): changed; decayed to the time of the last event taken in."""
    for row in range(len(known)):
        while done < known[row]:
            if done > 0 and at[done] > at[done - 1]:
                share = math.exp(-rate * (at[done] - at[done - 1]))
                for other in range(len(count)):
                    count[other] *= share
            count[item[done]] += weight[done]
            done += 1
        for other in range(len(count)):
            scores[row, other] = count[other]


@compiled
def following(
    liked: NDArray[np.bool_],
    user: NDArray[np.int32],
    item: NDArray[np.int32],
    known: NDArray[np.int64],
    done: int,
    begin: NDArray[np.int32],
    history_item: NDArray[np.int32],
    history_weight: NDArray[np.float32],
    follows: NDArray[np.float32],
    count: NDArray[np.int64],
    last: NDArray[np.int32],
    scores: NDArray[np.float32],
) -> None:
    """Takes in the events from `done` on, and fills scores (rows, items), zeros before, by the counts after known
    (rows,) events; who has no history gets what is popular. begin, history_*: rows of what each user had liked.
    follows (items, items), count (items,), last (users, WINDOW), newest first: changed."""
    window = last.shape[1]
    for row in range(len(known)):
        while done < known[row]:
            if liked[done]:
                owner, now = user[done], item[done]
                for distance in range(window):
                    before = last[owner, distance]
                    if before < 0:
                        break
                    if before != now:
                        follows[before, now] += np.float32(1.0 / (distance + 1))
                for distance in range(window - 1, 0, -1):
                    last[owner, distance] = last[owner, distance - 1]
                last[owner, 0] = now
                count[now] += 1
            done += 1
        if begin[row] == begin[row + 1]:
            for other in range(scores.shape[1]):
                scores[row, other] = count[other]
        for place in range(begin[row], begin[row + 1]):
            met = history_item[place]
            if history_weight[place] < FAINT:
                continue
            share = history_weight[place] / np.float32(math.sqrt(max(count[met], 1)))
            for other in range(scores.shape[1]):
                scores[row, other] += share * follows[met, other]
