"""`efficientrec worker` that notes when it was given partitions, and when the rows of their changelog came back:
`python -m tests.bench.restoring`."""

from __future__ import annotations

import asyncio
import os
import time
from pathlib import Path
from typing import Any

import msgspec
from faust.types import TP

from streams import logs, table
from streams.app import run
from streams.changelog import Stretch
from streams.settings import Settings
from streams.table import RowStore
from tests.integration.harness import Worker

FILE = "RESTORED"
"""The variable that names the file for the notes."""


class Note(msgspec.Struct):
    """A run of the changelog that has just gone to disk; one without rows when partitions were dealt, and their disks
    opened."""

    rows: int
    at: float
    """Seconds since the epoch."""
    cpu_seconds: float
    """Of the process, so far."""


class RestoringWorker(Worker):
    """The process, seen from outside, and what it has noted since it was last started."""

    command = ("-m", "tests.bench.restoring")

    @property
    def _file(self) -> Path:
        return self.folder / "restored"

    def start(self) -> None:
        self._file.unlink(missing_ok=True)
        super().start()

    def environ(self) -> dict[str, str]:
        return {FILE: str(self._file)}

    def notes(self) -> list[Note]:
        lines = self._file.read_bytes().splitlines() if self._file.exists() else []
        return [msgspec.json.decode(line, type=Note) for line in lines]


class NotingStore(RowStore):
    """Notes when it has opened its disks, and each run that it has restored."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._notes = os.open(os.environ[FILE], os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    async def on_rebalance(
        self, assigned: set[TP], revoked: set[TP], newly_assigned: set[TP], generation_id: int = 0
    ) -> None:
        await super().on_rebalance(assigned, revoked, newly_assigned, generation_id)
        self._note(0)

    def restore(self, run: Stretch) -> None:
        super().restore(run)
        self._note(len(run.rows))

    def _note(self, rows: int) -> None:
        os.write(self._notes, msgspec.json.encode(Note(rows, time.time(), time.process_time())) + b"\n")


def main() -> None:
    table.RowStore = NotingStore  # type: ignore[misc]  # the one that the table of profiles makes
    settings = Settings.load(os.environ)
    logs.configure(settings.log_level)
    asyncio.run(run(settings))


if __name__ == "__main__":
    main()
