"""Every number that learning from sequences depends on; without torch, so that settings may hold it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class SequenceRecipe:
    """A causal transformer over the last items of a user, and how it learns to tell the next one."""

    length: int = 50
    """T: items that it reads, at most profile.RING_SIZE."""
    dim: int = 64
    """Width of an item's vector, and of all between the layers."""
    layers: int = 1
    heads: int = 1
    widening: int = 1
    """Width of the dense layers' middle, in widths of an item's vector."""
    tokens_max: int = 3000
    """Tokens of item descriptions that are told apart, the most frequent first."""
    token_items_min: int = 3
    """Items that must share a token before it can say anything."""
    dropout: float = 0.3
    temperature: float = 0.06
    """By which cosines are divided before the softmax."""
    learning_rate: float = 1e-3
    batch: int = 1500
    """Predictions of a step: windows of like length are put together until there are so many."""
    negatives: int = 1024
    """Items that the true one is told from, drawn alike for all predictions of a step; the sum over them stands for the
    sum over all items. At this number or fewer the softmax is over all items."""
    epochs: int = 25
    """Passes over the data, at most."""
    patience: int = 4
    """Epochs without a better score after which it ends."""
    held_out_share: float = 0.1
    """Share of the users whose last item is held out for the score."""
    held_out_max: int = 2000
