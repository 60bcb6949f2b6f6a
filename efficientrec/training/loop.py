"""The loop around what is learned in epochs: held-out scores, an end when they no longer rise, a place to resume.

  1. An epoch: draw its random numbers from the seed and its number, so that none need to be remembered; a step for each
     loss.
  2. The score, where there is one. The parameters of the best epoch are kept.
  3. The checkpoint: parameters, optimiser and best parameters in one safetensors file, with the scores so far as JSON
     in its header. It is written under another name and renamed whole, so a kill leaves the last epoch or this one.
  4. After `patience` epochs without a better score, or after the last one, the best parameters return.

What was killed and starts again with the same arguments goes on from the last whole epoch, and ends with the same bits
as if it had never stopped.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn

from efficientrec.errors import TrainingDiverged

Losses = Callable[[np.random.Generator], Iterable[torch.Tensor]]
"""The losses of one epoch's batches. Each is computed when it is asked for: after the step on the one before it."""
Progress = Callable[[float, float | None], None]
"""Told the share of the epochs that is done, and the latest score."""
Tensors = dict[str, torch.Tensor]


@dataclass(frozen=True, slots=True, kw_only=True)
class Epochs:
    """How long to learn."""

    most: int
    patience: int
    """Epochs without a better score after which no more are run."""
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """Where to resume."""

    path: Path
    about: str
    """Names data and settings: a file about something else is not resumed from, but written over."""


@dataclass(slots=True)
class Course:
    """What happened so far."""

    losses: list[float] = field(default_factory=list)
    """Mean loss of each epoch."""
    scores: list[float] = field(default_factory=list)
    """Score after each epoch; empty without a score."""
    ended: bool = False

    @property
    def epochs(self) -> int:
        return len(self.losses)

    @property
    def best(self) -> int:
        """Index of the epoch whose parameters count: that of the best score, the last of equals, since the loss still
        fell; or the last."""
        return self.epochs - 1 - (int(np.argmax(self.scores[::-1])) if self.scores else 0)


def run(
    model: nn.Module,
    optimiser: torch.optim.Optimizer,
    losses: Losses,
    epochs: Epochs,
    *,
    score: Callable[[], float] | None = None,
    progress: Progress | None = None,
    checkpoint: Checkpoint | None = None,
) -> Course:
    """Learns; afterwards the model has the parameters of the best epoch. Steps as above.

    score: of the model as it is, the more the better; called in evaluation mode, without gradients.
    Raises TrainingDiverged when a loss is not finite.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # sums over threads come in any order
    try:
        course, best = _resumed(model, optimiser, checkpoint)
        while not course.ended and course.epochs < epochs.most:
            course.losses.append(_epoch(model, optimiser, losses, epochs.seed, course.epochs))
            if score is not None:
                model.eval()
                with torch.no_grad():
                    course.scores.append(float(score()))
            if course.best == course.epochs - 1:
                best = _copy(model)
            course.ended = course.epochs - 1 - course.best >= epochs.patience or course.epochs == epochs.most
            if checkpoint is not None:
                _save(checkpoint, course, model, optimiser, best)
            if progress is not None:
                progress(
                    1.0 if course.ended else course.epochs / epochs.most, course.scores[-1] if course.scores else None
                )
        model.load_state_dict(best)
        model.eval()
        return course
    finally:
        torch.set_num_threads(threads)


def _epoch(model: nn.Module, optimiser: torch.optim.Optimizer, losses: Losses, seed: int, number: int) -> float:
    draw = np.random.default_rng([seed, number])
    model.train()
    total, steps = 0.0, 0
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(draw.integers(2**63)))
        for loss in losses(draw):
            value = float(loss.detach())
            if not np.isfinite(value):
                raise TrainingDiverged(f"the loss is {value} in epoch {number + 1}: lower learning_rate")
            optimiser.zero_grad()
            torch.autograd.backward(loss)
            optimiser.step()
            total, steps = total + value, steps + 1
    return total / max(steps, 1)


def _copy(model: nn.Module) -> Tensors:
    return {name: value.detach().clone() for name, value in model.state_dict().items()}


def _save(
    checkpoint: Checkpoint, course: Course, model: nn.Module, optimiser: torch.optim.Optimizer, best: Tensors
) -> None:
    tensors = {f"model.{name}": value.detach().clone() for name, value in model.state_dict().items()}
    tensors |= {f"best.{name}": value for name, value in best.items()}
    for parameter, state in optimiser.state_dict()["state"].items():
        tensors |= {f"optimiser.{parameter}.{name}": value for name, value in state.items()}
    header = {"about": checkpoint.about, "losses": course.losses, "scores": course.scores, "ended": course.ended}
    written = checkpoint.path.with_name(checkpoint.path.name + ".writing")
    save_file(tensors, written, metadata={"course": json.dumps(header)})
    written.replace(checkpoint.path)


def _resumed(
    model: nn.Module, optimiser: torch.optim.Optimizer, checkpoint: Checkpoint | None
) -> tuple[Course, Tensors]:
    """The course so far and the best parameters; model and optimiser are set to where it stands."""
    if checkpoint is None or not checkpoint.path.is_file():
        return Course(), _copy(model)
    with safe_open(checkpoint.path, framework="pt") as file:
        header = json.loads(file.metadata()["course"])
        if header["about"] != checkpoint.about:
            return Course(), _copy(model)
        names = list(file.keys())
        tensors = {name: file.get_tensor(name) for name in names}
    model.load_state_dict(_part(tensors, "model."))
    state: dict[int, dict[str, Any]] = {}
    for name, value in _part(tensors, "optimiser.").items():
        parameter, _, key = name.partition(".")
        state.setdefault(int(parameter), {})[key] = value
    optimiser.load_state_dict({"state": state, "param_groups": optimiser.state_dict()["param_groups"]})
    return Course(header["losses"], header["scores"], header["ended"]), _part(tensors, "best.")


def _part(tensors: Tensors, prefix: str) -> Tensors:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
