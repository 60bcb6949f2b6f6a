"""What every learner gives, whatever encoder it learns."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from efficientrec.clusters import Assignment
from efficientrec.encoders import Encoder
from efficientrec.shortlists import Shortlists
from efficientrec.training.data import TrainingData
from efficientrec.training.recipe import Recipe

Progress = Callable[[str, float], None]
"""Told the name of a step and the share of it that is done."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Learned:
    """The parts of a model that depend on the encoder; see model.py for their shapes."""

    encoder: Encoder
    clusters: Assignment
    ranking_vectors: NDArray[np.float32]
    ranking_places: NDArray[np.int32]
    cluster_shortlists: Shortlists | None = None
    """None: what the members of the clusters like."""
    neighbour_shortlists: Shortlists | None = None
    """None: by weights between items that are learned for this."""


Learner = Callable[[TrainingData, Recipe, str, Progress, Path | None], Learned]
"""Learns from the interactions, by the recipe, an encoder of the version named; says how far it is. Where a folder is
given, what takes long leaves checkpoints there, and goes on from one of the same data and recipe."""
