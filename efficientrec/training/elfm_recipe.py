"""Every number that learning `elfm` depends on; without torch, so that settings may hold it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class ElfmRecipe:
    """Local factor models, as found on the validation part of ml-1m."""

    clusters: int = 512
    """N: co-clusters at most; never more than items."""
    dim: int = 128
    """d: of items, co-clusters and heads."""
    places: int = 128
    """K: co-clusters that an item keeps, its strongest."""
    clusters_kept: int = 16
    """c: co-clusters that vote for a user."""
    cluster_shortlist: int = 100
    """L: items in a co-cluster's shortlist."""

    loss: Literal["softmax", "ratio"] = "softmax"
    """Of scores or, as (7) is printed, of their ratios."""
    smoothing: float = 0.0
    """α: share of the loss that wants all items alike."""
    sparsity: float = 0.0
    """λ: of the sum of all affinities."""
    withheld: float = 0.5
    """Share of what a user liked that is to be told from the rest."""
    batch: int = 250
    """Users of a step."""
    round_steps: int = 20
    """Steps between two scores."""
    rounds: int = 14
    """At most."""
    passes: int = 8
    """Times that each user is drawn, at least; more users so mean longer rounds."""
    patience: int = 5
    """Rounds without a better score after which it ends."""
    learning_rate: float = 5e-3
    """The greatest: it rises over the first `warm_up` of the steps and falls to nothing at their end."""
    warm_up: float = 0.15
    full_items: int = 6000
    """Items at which a step still scores them all; of more, what its users liked and as many `negatives`."""
    negatives: int = 3000

    held_out_share: float = 0.1
    """Share of the users of whom a fifth of the likes, one at least, is held out for the score."""
    held_out_max: int = 500
