"""Which numbers of a recipe are searched, and where: those that were seen to matter.

A name with dots is a number of a part of the recipe, such as `elcrec.sequence.dim`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from typing import Any, cast

from efficientrec.training.recipe import DAY, Recipe


@dataclass(frozen=True, slots=True)
class Range:
    """From low to high, both included."""

    low: float
    high: float
    log: bool = False
    whole: bool = False


Space = Mapping[str, Range | Sequence[float | str]]
"""The name of each number, and its range or the values it may have."""

EFFICIENTREC: Space = {
    "ridge": Range(1.0, 100.0, log=True),
    "dropout": Range(0.0, 0.9),
    "length_power": Range(0.0, 0.6),
    "popularity_power": Range(0.0, 0.5),
    "description_weight": Range(1.0, 100.0, log=True),
    "item_dim": (64, 96, 128, 158),
    "clusters": (64, 128, 256, 512),
    "clusters_kept": Range(2, 16, whole=True),
    "cluster_shortlist": Range(40, 400, log=True, whole=True),
    "prior": Range(0.5, 50.0, log=True),
    "transition_window": Range(1, 20, log=True, whole=True),
    "transition_backward": Range(0.0, 1.0),
    "anchor_shortlist": Range(20, 150, log=True, whole=True),
    "neighbour_shortlist": Range(20, 300, log=True, whole=True),
}
ELFM: Space = {
    "elfm.clusters": (256, 512, 1024, 2048),
    "elfm.dim": (64, 128, 256),
    "elfm.places": (32, 64, 128),
    "elfm.clusters_kept": Range(4, 32, log=True, whole=True),
    "elfm.cluster_shortlist": Range(40, 400, log=True, whole=True),
    "elfm.learning_rate": Range(1e-3, 2e-2, log=True),
    "elfm.withheld": Range(0.2, 0.8),
    "elfm.smoothing": Range(0.0, 0.3),
}
ELCREC: Space = {
    "elcrec.sequence.dim": (32, 64, 96, 128),
    "elcrec.sequence.length": (20, 35, 50, 64),
    "elcrec.sequence.layers": (1, 2),
    "elcrec.sequence.dropout": Range(0.1, 0.7),
    "elcrec.sequence.temperature": Range(0.03, 0.3, log=True),
    "elcrec.sequence.learning_rate": Range(2e-4, 5e-3, log=True),
    "elcrec.clustering": ("none", "published", "assigned"),
    "elcrec.clustering_weight": Range(0.01, 1.0, log=True),
    "elcrec.contrast_weight": Range(0.01, 1.0, log=True),
    "elcrec.clusters": (64, 128, 256, 512),
    "cluster_shortlist": Range(40, 400, log=True, whole=True),
    "prior": Range(0.5, 50.0, log=True),
}
SPACES: Mapping[str, Space] = {"efficientrec": EFFICIENTREC, "elfm": ELFM, "elcrec": ELCREC}
"""Of each encoder."""
HALF_LIFE: Space = {"half_life_seconds": Range(3 * DAY, 3000 * DAY, log=True)}
"""Searched as well where what was long ago may tell less."""


def with_numbers(recipe: Recipe, numbers: Mapping[str, float | str]) -> Recipe:
    """The recipe with other numbers, by the names of a space.

    >>> with_numbers(Recipe(), {"prior": 3.0, "elcrec.sequence.dim": 96}).elcrec.sequence.dim
    96
    """
    for name, value in numbers.items():
        recipe = _with(recipe, name.split("."), value)
    return recipe


def numbers_of(recipe: Recipe, space: Space) -> dict[str, float | str]:
    """What the recipe has for each name of the space.

    >>> numbers_of(Recipe(), {"prior": Range(0.0, 9.0)})
    {'prior': 5.0}
    """
    return {name: reduce(getattr, name.split("."), cast(Any, recipe)) for name in space}


def within(numbers: Mapping[str, float | str], space: Space) -> bool:
    """Whether each number is one that its range, or its values, allow."""
    return all(
        values.low <= cast(float, numbers[name]) <= values.high
        if isinstance(values, Range)
        else numbers[name] in values
        for name, values in space.items()
    )


def _with(part: Any, path: Sequence[str], value: float | str) -> Any:
    """A copy of a dataclass with one number, which may lie deeper, changed."""
    head, *rest = path
    return replace(part, **{head: _with(getattr(part, head), rest, value) if rest else value})
