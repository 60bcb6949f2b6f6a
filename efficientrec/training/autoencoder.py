"""Mult-DAE (arXiv 1802.05814), as a baseline: a user's likes, some of them dropped, are to give them all back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import csr_matrix
from torch import nn

from efficientrec.evaluation.baselines.baseline import Fit, Judge, Parameters, Unfit, matrix
from efficientrec.evaluation.questions import Question
from efficientrec.training.data import TrainingData

HIDDEN = 200
DROPOUT = 0.5
BATCH = 256
LEARNING_RATE = 1e-3
EPOCHS_MAX = 100
PLACES_MAX = 400_000_000  # users × items: an epoch takes a minute on one core
CHECK_EVERY = 5
PATIENCE = 3
"""Checks without a better score before it stops."""


class Network(nn.Module):
    """items → HIDDEN → items."""

    def __init__(self, items: int) -> None:
        super().__init__()
        self.inner = nn.Linear(items, HIDDEN)
        self.outer = nn.Linear(HIDDEN, items)
        for layer in (self.inner, self.outer):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.normal_(layer.bias, std=0.001)

    def forward(self, liked: torch.Tensor, generator: torch.Generator | None = None) -> torch.Tensor:
        """Logits (users, items). generator: of what is dropped, while it learns."""
        given = nn.functional.normalize(liked)
        if generator is not None:
            given = given * (torch.rand(given.shape, generator=generator) >= DROPOUT) / (1 - DROPOUT)
        logits: torch.Tensor = self.outer(torch.tanh(self.inner(given)))
        return logits


@dataclass(frozen=True, slots=True)
class Reconstruction:
    """The arrays of a trained network."""

    inner: NDArray[np.float32]
    inner_bias: NDArray[np.float32]
    outer: NDArray[np.float32]
    outer_bias: NDArray[np.float32]

    @classmethod
    def of(cls, network: Network) -> Reconstruction:
        layers = (network.inner, network.outer)
        parts = [part.detach().numpy().copy() for layer in layers for part in (layer.weight.T, layer.bias)]
        return cls(*parts)

    @property
    def items(self) -> int:
        return len(self.outer_bias)

    def scores(self, question: Question) -> NDArray[np.float32]:
        liked = question.history(self.items)
        length = np.sqrt(np.asarray(liked.multiply(liked).sum(axis=1)))
        hidden = np.tanh((liked @ self.inner) / np.maximum(length, 1e-12) + self.inner_bias)
        return np.asarray(hidden @ self.outer + self.outer_bias, np.float32)


class MultDAE:
    """One hidden layer of tanh, dropout on the input, multinomial loss; stops by validation."""

    def grid(self, data: TrainingData) -> Sequence[Parameters]:
        users, items = len(np.unique(data.user)), len(data.items)
        if users * items > PLACES_MAX:
            raise Unfit(f"{users} users and {items} items; every epoch goes through all their pairs")
        return [{}]

    def fit(self, data: TrainingData, parameters: Parameters, seed: int, judge: Judge | None) -> Fit:
        torch.manual_seed(seed)  # of the first weights
        generator = torch.Generator().manual_seed(seed)
        liked = matrix(data)
        liked = csr_matrix(liked[np.diff(liked.indptr) > 0])
        network = Network(liked.shape[1])
        optimiser = torch.optim.Adam(network.parameters(), LEARNING_RATE)
        best, found, waited = -1.0, Fit(Reconstruction.of(network), parameters), 0
        for epoch in range(1, int(parameters.get("epochs", EPOCHS_MAX)) + 1):
            _epoch(network, optimiser, liked, generator)
            if judge is None or epoch % CHECK_EVERY:
                continue
            scorer = Reconstruction.of(network)
            score, waited = judge(scorer), waited + 1
            if score > best:
                best, found, waited = score, Fit(scorer, {**parameters, "epochs": epoch}), 0
            if waited == PATIENCE:
                break
        return found if judge is not None else Fit(Reconstruction.of(network), parameters)


def _epoch(network: Network, optimiser: torch.optim.Optimizer, liked: csr_matrix, generator: torch.Generator) -> None:
    order = torch.randperm(liked.shape[0], generator=generator).numpy()
    for first in range(0, len(order), BATCH):
        batch = torch.from_numpy(liked[order[first : first + BATCH]].toarray())
        loss = -(nn.functional.log_softmax(network(batch, generator), dim=1) * batch).sum(dim=1).mean()
        optimiser.zero_grad()
        torch.autograd.backward(loss)
        optimiser.step()
