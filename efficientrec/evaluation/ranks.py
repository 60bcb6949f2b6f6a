"""From scores of all items to lists, and to the places at which targets stand.

Where several items have one score, none may gain by its number: a target stands in the middle of its equals, and lists
take equals in an order that is drawn.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from efficientrec.compiled import compiled
from efficientrec.evaluation.questions import Question

CHUNK_FLOATS = 2**24
"""Scores held at a time: 64 MiB."""


class Scorer(Protocol):
    """What ranks every item."""

    @property
    def items(self) -> int:
        """How many items it knows: the first ones of a question's."""

    def scores(self, question: Question) -> NDArray[np.float32]:
        """(asked, items) an array of its own for each call; the greater the better."""


@dataclass(frozen=True, slots=True)
class Answer:
    """The lists of the asked users."""

    items: NDArray[np.int32]
    """(asked, N) best first; -1 where a list ends early."""
    hits: NDArray[np.bool_]
    """(asked, N) whether a target stands at each place."""
    scored: NDArray[np.int64]
    """(asked,) how many items were scored for each list."""


def answer(scorer: Scorer, question: Question, size: int, seed: int) -> Answer:
    """The lists that follow from the scores of every item that the user has not met."""
    items = np.full((len(question), size), -1, np.int32)
    found = np.zeros((len(question), size), np.bool_)
    draw = np.random.default_rng(seed).permutation(scorer.items).astype(np.int32)
    for first, part, scores in _chunks(scorer, question):
        rows = slice(first, first + len(part))
        found[rows] = _hits(part, scores, size)
        fill_lists(scores, draw, items[rows])
    return Answer(items, found, np.full(len(question), scorer.items, np.int64))


def hits(scorer: Scorer, question: Question, size: int) -> NDArray[np.bool_]:
    """The hits of `answer` alone, which is quicker."""
    found = [_hits(part, scores, size) for _, part, scores in _chunks(scorer, question)]
    return np.concatenate(found) if found else np.zeros((0, size), np.bool_)


def _chunks(scorer: Scorer, question: Question) -> Iterator[tuple[int, Question, NDArray[np.float32]]]:
    most = max(1, CHUNK_FLOATS // max(scorer.items, 1))
    for first in range(0, len(question), most):
        part = question.part(first, most)
        scores = scorer.scores(part)
        known = part.met.item < scorer.items
        scores[part.met.row[known], part.met.item[known]] = -np.inf
        yield first, part, scores


def _hits(part: Question, scores: NDArray[np.float32], size: int) -> NDArray[np.bool_]:
    known = part.wanted.item < scores.shape[1]
    found = np.zeros((len(part), size), np.bool_)
    mark_targets(scores, part.wanted.row[known], part.wanted.item[known], found)
    return found


@compiled
def fill_lists(scores: NDArray[np.float32], draw: NDArray[np.int32], items: NDArray[np.int32]) -> None:
    """Fills items (rows, N) with the best of scores (rows, items), greatest first, equal ones by their draw (items,);
    what is -inf is not listed."""
    size = items.shape[1]
    best = np.empty(size, np.float32)
    for row in range(len(scores)):
        listed, kept = items[row], 0
        for item in range(scores.shape[1]):
            value = scores[row, item]
            if value == -np.inf or (kept == size and value < best[kept - 1]):
                continue
            if kept == size and value == best[kept - 1] and draw[item] > draw[listed[kept - 1]]:
                continue
            place = kept if kept < size else size - 1
            while place > 0 and (
                best[place - 1] < value or (best[place - 1] == value and draw[listed[place - 1]] > draw[item])
            ):
                best[place] = best[place - 1]
                listed[place] = listed[place - 1]
                place -= 1
            best[place] = value
            listed[place] = item
            kept = min(kept + 1, size)


@compiled
def mark_targets(
    scores: NDArray[np.float32], row: NDArray[np.int64], item: NDArray[np.int64], found: NDArray[np.bool_]
) -> None:
    """Marks in found (rows, N) the place of each target (n,), ascending by row. Of m items with one score, w of them
    targets, target j stands at ⌊(2j + 1)m / 2w - 1/2⌋ of these."""
    first = 0
    for target in range(len(row)):
        if row[target] != row[first]:
            first = target
        own = scores[row[target], item[target]]
        if own == -np.inf:
            continue
        ahead, equal = 0, 0
        for value in scores[row[target]]:
            ahead += value > own
            equal += value == own
        before, wanted, other = 0, 0, first
        while other < len(row) and row[other] == row[target]:
            same = scores[row[other], item[other]] == own
            wanted += same
            before += same and other < target
            other += 1
        place = ahead + ((2 * before + 1) * equal - wanted) // (2 * wanted)
        if place < found.shape[1]:
            found[row[target], place] = True
