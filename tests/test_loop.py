"""Epochs, early stopping and resuming, on a small net with dropout: what draws random numbers is what could differ."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from efficientrec.errors import TrainingDiverged
from efficientrec.training.loop import Checkpoint, Course, Epochs, run


class Killed(Exception):
    """Stands for what ends a process."""


class Task:
    """A line to fit through noise: a net, its optimiser, and the losses of an epoch."""

    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(5)
        self.inputs = torch.randn((64, 4), generator=generator)
        self.answers = self.inputs.sum(dim=1, keepdim=True)
        self.net = nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Dropout(0.3), nn.Linear(16, 1))
        with torch.no_grad():
            for value in self.net.parameters():
                value.copy_(torch.randn(value.shape, generator=generator) / 4)
        self.optimiser = torch.optim.Adam(self.net.parameters(), lr=1e-2)
        self.steps = 0
        self.killed_at = -1

    def losses(self, draw: np.random.Generator) -> Iterator[torch.Tensor]:
        for batch in draw.permutation(64).reshape(8, 8):
            self.steps += 1
            if self.steps == self.killed_at:
                raise Killed
            yield ((self.net(self.inputs[batch]) - self.answers[batch]) ** 2).mean()

    def score(self) -> float:
        return -float(((self.net(self.inputs) - self.answers) ** 2).mean())

    def learn(self, epochs: int = 6, patience: int = 6, checkpoint: Checkpoint | None = None) -> Course:
        return run(
            self.net,
            self.optimiser,
            self.losses,
            Epochs(most=epochs, patience=patience, seed=3),
            score=self.score,
            checkpoint=checkpoint,
        )

    def bits(self) -> bytes:
        return b"".join(value.detach().numpy().tobytes() for value in self.net.parameters())


@pytest.mark.parametrize("killed_at", [1, 8, 9, 20, 48])
def test_what_was_killed_and_resumed_ends_with_the_bits_of_what_was_not(killed_at: int, tmp_path: Path) -> None:
    whole, first, second = Task(), Task(), Task()
    checkpoint = Checkpoint(tmp_path / "line.safetensors", "the line")
    course = whole.learn()

    first.killed_at = killed_at
    with pytest.raises(Killed):
        first.learn(checkpoint=checkpoint)
    resumed = second.learn(checkpoint=checkpoint)

    assert second.bits() == whole.bits()
    assert resumed == course
    assert second.steps == 48 - (killed_at - 1) // 8 * 8


def test_a_finished_training_is_not_run_again(tmp_path: Path) -> None:
    first, second = Task(), Task()
    checkpoint = Checkpoint(tmp_path / "line.safetensors", "the line")

    first.learn(checkpoint=checkpoint)
    second.learn(checkpoint=checkpoint)

    assert second.steps == 0
    assert second.bits() == first.bits()


def test_a_checkpoint_about_something_else_is_not_resumed_from(tmp_path: Path) -> None:
    path = tmp_path / "line.safetensors"
    Task().learn(checkpoint=Checkpoint(path, "other settings"))
    task = Task()

    task.learn(checkpoint=Checkpoint(path, "the line"))

    assert task.steps == 48


def test_what_else_draws_random_numbers_neither_changes_a_training_nor_is_changed_by_it() -> None:
    first, second = Task(), Task()
    first.learn()
    torch.manual_seed(1)
    expected = torch.rand(3)

    torch.manual_seed(1)
    second.learn()

    assert torch.rand(3).tolist() == expected.tolist()
    assert second.bits() == first.bits()


def test_it_ends_when_the_score_no_longer_rises_and_keeps_the_best_parameters() -> None:
    task, scores = Task(), [0.5, 0.5, 0.3, 0.1, 0.4, 0.9]
    at_epoch: list[bytes] = []

    def score() -> float:
        at_epoch.append(task.bits())
        return scores[len(at_epoch) - 1]

    course = run(task.net, task.optimiser, task.losses, Epochs(most=6, patience=3), score=score)

    assert course.scores == [0.5, 0.5, 0.3, 0.1, 0.4]
    assert course.best == 1
    assert task.bits() == at_epoch[1]


def test_without_a_score_the_last_parameters_count() -> None:
    task = Task()

    course = run(task.net, task.optimiser, task.losses, Epochs(most=2, patience=1))

    assert course.epochs == 2
    assert course.best == 1
    assert course.losses[1] < course.losses[0]


def test_progress_tells_share_and_score() -> None:
    task, told = Task(), list[tuple[float, float | None]]()

    course = run(
        task.net,
        task.optimiser,
        task.losses,
        Epochs(most=4, patience=4),
        score=task.score,
        progress=lambda share, score: told.append((share, score)),
    )

    assert told == list(zip([0.25, 0.5, 0.75, 1.0], course.scores, strict=True))


def test_a_loss_that_is_not_finite_ends_it() -> None:
    task = Task()
    task.answers[3] = torch.inf

    with pytest.raises(TrainingDiverged, match="epoch 1"):
        task.learn()
