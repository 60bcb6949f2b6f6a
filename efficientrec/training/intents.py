"""Intents of ELCRec (arXiv 2401.05975): centres that the states of users gather around, learned with the net itself.

h and c stand at length 1 throughout. Losses beside the next item's:

- *Clustering*, of all users of a batch and all centres:
  - `published` (eq. 3): push all centres apart, pull every user to all centres. It depends on the means h̄ and c̄ alone,
    2 - 2 h̄·c̄ - 2k/(k-1) (1 - |c̄|²), so it cannot tell centres that users gather around from others.
  - `assigned`: pull each user to the centres by how much he is theirs, p = softmax(h·c / τ), and use all centres alike,
    Σ_c p̄_c log p̄_c + log k, which is zero when they are.
- *Sequences* (eq. 4): of two augmented views of a sequence, each with its nearest centre added (eq. 5, shift), one
  should know the other among all of the batch.
- *Intents* (eq. 6): a view should know its nearest centre among all, as the paper's text has it; the formula as printed
  takes the furthest.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn import functional

from efficientrec.training.elcrec_recipe import ElcrecRecipe
from efficientrec.training.sequence import Batch, SequenceNet, Sequences

ROUNDS = 10  # of k-means: centres are learned on from there
KMEANS_USERS = 20_000
CROPPED, MASKED, REORDERED = 0.2, 0.7, 0.2  # shares of a sequence that are kept, hidden, put in another order (paper)


class IntentNet(nn.Module):
    """A sequence net and the centres of intents; what `sequence.learn` asks for losses beside its own."""

    def __init__(self, net: SequenceNet, clusters: int, recipe: ElcrecRecipe, seed: int) -> None:
        super().__init__()
        self.net, self.recipe = net, recipe
        generator = torch.Generator().manual_seed(seed)
        self.centres = nn.Parameter(
            torch.randn(clusters, net.recipe.dim, generator=generator), requires_grad=recipe.centres == "learned"
        )
        self.epochs: torch.Tensor
        self.register_buffer("epochs", torch.zeros((), dtype=torch.int64))

    def begin_epoch(self, sequences: Sequences, draw: np.random.Generator) -> None:
        """Once the net has learned for some epochs the centres start as the means of groups of users."""
        self.epochs += 1
        if int(self.epochs) == self.recipe.warm_epochs + 1 and self.recipe.centres != "random":
            self.group(sequences, draw)

    def group(self, sequences: Sequences, draw: np.random.Generator) -> None:
        """Makes centres of the means of groups of users, as the net sees them now."""
        training = self.net.training
        self.net.eval()
        self.centres.data = k_means(self.net.last_states(sequences), len(self.centres), draw)
        self.net.train(training)

    def loss(self, batch: Batch, states: torch.Tensor, draw: np.random.Generator) -> torch.Tensor:
        recipe, total = self.recipe, torch.zeros(())
        if int(self.epochs) <= recipe.warm_epochs:
            return total
        centres = functional.normalize(self.centres, dim=1)
        if recipe.clustering != "none":
            h = functional.normalize(states, dim=1)
            clustering = published(h, centres) if recipe.clustering == "published" else assigned(h, centres, recipe)
            total = total + recipe.clustering_weight * clustering
        if recipe.contrast_weight > 0:
            first, second = (self._view(batch, draw) for _ in range(2))
            total = total + recipe.contrast_weight * contrast(first, second, centres, recipe.temperature)
        return total

    def _view(self, batch: Batch, draw: np.random.Generator) -> torch.Tensor:
        """States (windows, dim), at length 1, of an augmented view of what tells the last item of each window."""
        order, shown, count = augmented(batch.length.numpy() - 1, batch.items.shape[1] - 1, draw)
        items = batch.items.gather(1, torch.from_numpy(order))
        states = self.net(items, batch.vectors, torch.from_numpy(shown))
        last: torch.Tensor = states[torch.arange(len(items)), torch.from_numpy(count - 1)]
        unit: torch.Tensor = functional.normalize(last, dim=1)
        return unit


def published(h: torch.Tensor, centres: torch.Tensor) -> torch.Tensor:
    """Eq. 3 of the paper, of users (b, d) and centres (k, d), all at length 1."""
    k = len(centres)
    apart = torch.cdist(centres, centres).square().sum() / max(k * (k - 1), 1)
    together: torch.Tensor = torch.cdist(h, centres).square().mean()
    loss: torch.Tensor = together - apart
    return loss


def assigned(h: torch.Tensor, centres: torch.Tensor, recipe: ElcrecRecipe) -> torch.Tensor:
    """Users pulled to their own centres, all centres used alike."""
    likeness = h @ centres.T
    share = torch.softmax(likeness / recipe.temperature, dim=1)
    pull = 2 - 2 * (share.detach() * likeness).sum(dim=1).mean()
    use = share.mean(dim=0)
    balance: torch.Tensor = torch.special.xlogy(use, use).sum() + float(np.log(len(centres)))
    return pull + balance


def contrast(first: torch.Tensor, second: torch.Tensor, centres: torch.Tensor, temperature: float) -> torch.Tensor:
    """Eqs. 4 to 7 of two views (b, d), all at length 1."""
    likeness = [view @ centres.T for view in (first, second)]
    nearest = [each.argmax(dim=1) for each in likeness]
    intents = [
        functional.cross_entropy(each / temperature, chosen) for each, chosen in zip(likeness, nearest, strict=True)
    ]
    one, other = (
        functional.normalize(view + centres[chosen], dim=1)
        for view, chosen in zip((first, second), nearest, strict=True)
    )
    same = one @ other.T / temperature
    own = torch.arange(len(same))
    return functional.cross_entropy(same, own) + functional.cross_entropy(same.T, own) + intents[0] + intents[1]


def augmented(
    length: NDArray[np.int64], width: int, draw: np.random.Generator
) -> tuple[NDArray[np.int64], NDArray[np.bool_], NDArray[np.int64]]:
    """A view of each of some windows: which place stands where (windows, width), what of it is shown, and how long it
    is. Each window is cropped, masked or reordered, by lot."""
    windows = len(length)
    kind = draw.integers(3, size=windows)
    part = np.maximum(1, np.choose(kind, (CROPPED, MASKED, REORDERED)) * length).astype(np.int64)
    start = (draw.random(windows) * (length - part + 1)).astype(np.int64)[:, None]
    place = np.broadcast_to(np.arange(width), (windows, width))
    within = (place >= start) & (place < start + part[:, None])
    lot = draw.random((windows, width))
    order = np.argsort(
        np.where(within & (kind == 2)[:, None], start + lot * part[:, None], place), axis=1, kind="stable"
    )
    order = np.where((kind == 0)[:, None], np.minimum(start + place, start + part[:, None] - 1), order)
    rank = np.argsort(np.argsort(np.where(place < length[:, None], lot, 2.0), axis=1), axis=1)
    hidden = (kind == 1)[:, None] & (rank < np.minimum(part, length - 1)[:, None])
    return order, ~hidden, np.where(kind == 0, part, length)


def k_means(states: torch.Tensor, clusters: int, draw: np.random.Generator) -> torch.Tensor:
    """Directions (clusters, dim) of groups of states, those that are zero left out."""
    unit = functional.normalize(states[states.abs().sum(dim=1) > 0], dim=1)
    unit = unit[torch.from_numpy(draw.permutation(len(unit))[:KMEANS_USERS])]
    centres = unit[torch.from_numpy(draw.choice(len(unit), clusters, replace=len(unit) < clusters))]
    for _ in range(ROUNDS):
        nearest = (unit @ centres.T).argmax(dim=1)
        total = torch.zeros_like(centres).index_add_(0, nearest, unit)
        empty = torch.bincount(nearest, minlength=clusters) == 0
        lost = torch.from_numpy(draw.integers(len(unit), size=int(empty.sum())))
        total[empty] = unit[lost]
        centres = functional.normalize(total, dim=1)
    return centres
