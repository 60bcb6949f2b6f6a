"""What a baseline is: something learned from interactions by a few numbers, which ranks every item."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from scipy.sparse import csr_matrix

from efficientrec.evaluation.ranks import Scorer
from efficientrec.training.data import TrainingData
from efficientrec.training.weights import signed

Parameters = Mapping[str, float]
Judge = Callable[[Scorer], float]
"""The score of a scorer on validation; the greater the better."""


class Unfit(Exception):
    """A baseline that cannot be had for these data; says why."""


@dataclass(frozen=True, slots=True)
class Fit:
    """What was learned."""

    scorer: Scorer
    parameters: Parameters
    """Those it was asked for, and what was found on the way, such as when to stop."""


class Baseline(Protocol):
    """One method."""

    def grid(self, data: TrainingData) -> Sequence[Parameters]:
        """What is tried on validation. Raises Unfit where the method cannot be had."""

    def fit(self, data: TrainingData, parameters: Parameters, seed: int, judge: Judge | None) -> Fit:
        """judge: given while parameters are still chosen, None once they are settled."""


def matrix(data: TrainingData) -> csr_matrix:
    """(users, items) what each user liked: its weight, the last one where an item was met twice."""
    return signed(data.chosen(data.weight > 0), None)


def product(parameters: Mapping[str, Sequence[float]]) -> list[dict[str, float]]:
    """Every combination, the first parameter changing slowest.

    >>> product({"a": [1, 2], "b": [3]})
    [{'a': 1, 'b': 3}, {'a': 2, 'b': 3}]
    """
    combined: list[dict[str, float]] = [{}]
    for name, values in parameters.items():
        combined = [{**before, name: value} for before in combined for value in values]
    return combined
