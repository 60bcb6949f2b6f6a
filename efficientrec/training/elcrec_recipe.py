"""Every number that learning `elcrec` depends on; without torch, so that settings may hold it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from efficientrec.training.sequence_recipe import SequenceRecipe


@dataclass(frozen=True, kw_only=True)
class ElcrecRecipe:
    """The net, and the intents that its states gather around; training/intents.py has the losses."""

    sequence: SequenceRecipe = field(default_factory=SequenceRecipe)
    clustering: Literal["none", "published", "assigned"] = "assigned"
    """Which clustering loss."""
    clustering_weight: float = 0.1
    centres: Literal["learned", "frozen", "random"] = "learned"
    """From k-means after `warm_epochs` and learned on; the same and left there; or random directions."""
    contrast_weight: float = 0.1
    """Of the losses that tell augmented views apart; 0 leaves them out, and halves the time."""
    clusters: int = 256
    """k: intents at most."""
    warm_epochs: int = 3
    """Epochs of the next item's loss alone: the states of a net that has learned nothing have no groups."""
    temperature: float = 0.1
    """τ of soft assignments and of what is told apart; cosines lie in [-1, 1]."""
    spread: float = 0.3
    """Standard deviation of a user's scores over the items, on average: votes are added to them, and their weights come
    from a grid that expects about this."""

    @property
    def intents(self) -> bool:
        """Whether anything but the next item is learned from."""
        return self.clustering != "none" or self.contrast_weight > 0
