"""One row beside what it should be, and how that is told; the same for rows of processes and of those in memory."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from efficientrec.profile import HEADER
from tests.simulation.outcome import Outcome

SAID_MOST = 5


def header_of(row: bytes | None) -> Any:
    """All zero where there is no row."""
    return np.zeros((), HEADER) if row is None else np.frombuffer(row, HEADER, 1)[0]


def events_of(row: bytes | None) -> int:
    """How many events a row knows of."""
    return int(header_of(row)["events"])


def told(row: bytes | None) -> str:
    """What a row says of itself."""
    if row is None:
        return "none"
    header = header_of(row)
    names = ("events", "offset", "begun", "users_offset", "built", "model")
    return ", ".join(f"{name} {header[name]}" for name in names)


def judge_row(row: bytes | None, expected: bytes | None, name: str, outcome: Outcome) -> list[str]:
    """Counts a row that is lost, doubled or different, and says so; nothing where it is as it should be."""
    if row == expected:
        return []
    has, wants = events_of(row), events_of(expected)
    if row is None or (expected is not None and has < wants):
        outcome.lost += 1
        what = "lost"
    elif expected is None or has > wants:
        outcome.doubled += 1
        what = "doubled"
    else:
        outcome.different += 1
        what = "different"
    return [f"{name} is {what}: {told(row)}; expected {told(expected)}"]


def say(said: Sequence[str], outcome: Outcome) -> None:
    """Adds the first of these to the outcome's problems, and how many more there are."""
    outcome.problems += said[:SAID_MOST]
    if len(said) > SAID_MOST:
        outcome.problems.append(f"and {len(said) - SAID_MOST} more like this")
