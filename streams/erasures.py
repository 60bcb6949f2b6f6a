"""Who is to be erased from the trainer's log, and until when.

Knows offsets and moments. Knows nothing of files (log.py), nor of how records are read (trainer.py).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass

from aiokafka.structs import TopicPartition

from streams.follower import Record


@dataclass(slots=True)
class _Step:
    """Records of one partition of the users topic that were read together."""

    position: int
    """Offset after the last of them."""
    erased: dict[str, int]
    """user id → timestamp of his null."""
    bounds: Mapping[TopicPartition, int] | None
    """Where the interactions ended after these were read; None until somebody has looked."""


class Erasures:
    """Who is to be erased from the log: from a null on the users topic until nothing can bring the user back.

    When a null is read, interactions that came before it may still lie unread, in any partition if a producer placed
    them by another hash. So it is in force until all that the interactions topic held then is either in the log's
    files or left out. Only then is it through, and the position behind it may be committed. A restart reads again what
    was not: an erasure that is carried out twice takes nothing that it should not have taken at once.
    """

    def __init__(self, done: dict[int, int]) -> None:
        self.done = done
        """partition of the users topic → offset up to which all erasures are through."""
        self._steps: dict[int, deque[_Step]] = {partition: deque() for partition in done}

    def came(self, partition: int, records: list[Record]) -> None:
        """Takes records of a partition of the users topic; those with a value only move the position."""
        erased: dict[str, int] = {}
        for record in records:
            if record.value is None and (user_id := _user_id(record)) is not None:
                _add(erased, {user_id: record.timestamp})
        self._steps[partition].append(_Step(records[-1].offset + 1, erased, None if erased else {}))

    @property
    def are_new(self) -> bool:
        """Whether some came since `bind` was called."""
        return any(step.bounds is None for steps in self._steps.values() for step in steps)

    @property
    def in_force(self) -> dict[str, int]:
        """user id → moment: interactions that arrived up to then must not stay."""
        erased: dict[str, int] = {}
        for steps in self._steps.values():
            for step in steps:
                _add(erased, step.erased)
        return erased

    def bind(self, ends: Mapping[TopicPartition, int]) -> None:
        """ends: where every partition of the interactions topic ends, looked up after the last call of `came`."""
        for steps in self._steps.values():
            for step in steps:
                step.bounds = ends if step.bounds is None else step.bounds

    def settle(self, safe: Mapping[TopicPartition, int]) -> int:
        """safe: the offset before which every interaction is in the log's files or left out. Moves `done`; returns how
        many erasures are through."""
        users = 0
        for number, steps in self._steps.items():
            while steps and steps[0].bounds is not None and reach(safe, steps[0].bounds):
                step = steps.popleft()
                self.done[number] = step.position
                users += len(step.erased)
        return users


def _add(erased: dict[str, int], more: Mapping[str, int]) -> None:
    """Of two erasures of a user the later one counts."""
    for user_id, moment in more.items():
        erased[user_id] = max(moment, erased.get(user_id, moment))


def _user_id(record: Record) -> str | None:
    """None where the key is none: nobody can have interactions under it."""
    try:
        return None if record.key is None else record.key.decode()
    except UnicodeDecodeError:
        return None


def reach(positions: Mapping[TopicPartition, int], ends: Mapping[TopicPartition, int]) -> bool:
    return all(positions[partition] >= end for partition, end in ends.items())
