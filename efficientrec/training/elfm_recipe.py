"""The numbers that the training of local factor models depends on."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class ElfmRecipe:
    """Found on the validation part of ml-1m."""

    clusters: int = 512
    """N: co-clusters at most."""
    dim: int = 128
    """d: of items, co-clusters and heads."""
    places: int = 64
    """K: co-clusters of an item, its strongest."""
    clusters_kept: int = 16
    """c: co-clusters that vote for a user."""
    cluster_shortlist: int = 200
    """L: items in a co-cluster's shortlist."""

    epochs: int = 40
    batch: int = 500
    """Users of a step."""
    learning_rate: float = 3e-3
    """The greatest: it rises over the first `warm_up` of the steps and falls to nothing at their end."""
    warm_up: float = 0.15
    dropout: float = 0.5
    """Share of what a user liked that is withheld while the rest must tell it."""
    literal: bool = False
    """Whether the loss is the paper's (7) as printed, ratios of scores, rather than a softmax of them."""
    smoothing: float = 0.0
    """α of label smoothing: share of the loss that wants all items alike."""
    sparsity: float = 0.0
    """λ: of the sum of all affinities."""
    full_items: int = 20_000
    """Items of a catalogue that is scored whole in every step; of a greater one, what the batch liked and as many
    `negatives`."""
    negatives: int = 5_000

    held_out: float = 0.03
    """Share of the users on whom the best epoch is chosen."""
    held_out_max: int = 300
