"""Runs of different partitions side by side, those of one partition one after the other.

While a run waits for the broker, runs of other partitions go on. What comes to a partition meanwhile waits and is then
handled as one run: so runs are small while little happens, and large while much does.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter, defaultdict, deque
from collections.abc import Awaitable, Callable, Sequence

from streams.transport import Run

log = logging.getLogger(__name__)


class Lanes:
    """The runs of one topic, on their way to `handle`."""

    def __init__(
        self, handle: Callable[[Run], Awaitable[None]], crash: Callable[[Exception], Awaitable[None]], events_max: int
    ) -> None:
        """handle: marks a run as handled unless the partition was lost. crash: ends the app with what handle raised.
        events_max: most records that are handled as one run, unless a run already holds more."""
        self._handle = handle
        self._crash = crash
        self._events_max = events_max
        self._waiting: dict[int, deque[Run]] = defaultdict(deque)
        self._tasks: dict[int, asyncio.Task[None]] = {}
        self.events: Counter[int] = Counter()
        """Partition → records that wait or are being handled."""

    def put(self, run: Run) -> None:
        """Takes the next run of its partition."""
        self._waiting[run.partition].append(run)
        self.events[run.partition] += len(run.records)
        if run.partition not in self._tasks:
            self._tasks[run.partition] = asyncio.create_task(self._work(run.partition))

    async def settle(self) -> None:
        """Finishes what was begun, and lets go what waits: it will be delivered again."""
        for partition, runs in self._waiting.items():
            self.events[partition] -= sum(len(run.records) for run in runs)
            runs.clear()
        await asyncio.gather(*self._tasks.values())

    async def _work(self, partition: int) -> None:
        try:
            while runs := next_row(self._waiting[partition], self._events_max):
                whole = joined(runs)
                try:
                    await self._handle(whole)
                except Exception as error:
                    log.critical("partition %d stopped at offset %d", partition, whole.records[0].offset, exc_info=True)
                    await self._crash(error)
                    return
                finally:
                    self.events[partition] -= len(whole.records)
                for run in runs:
                    run.handled = whole.handled
        finally:
            del self._tasks[partition]


def next_row(waiting: deque[Run], events_max: int) -> list[Run]:
    """Takes the longest row of runs that may be handled as one: each follows the one before it, in one generation."""
    taken: list[Run] = []
    events = 0
    while waiting:
        run = waiting[0]
        events += len(run.records)
        if taken and (run.follows is not taken[-1] or run.generation != taken[-1].generation or events > events_max):
            break
        taken.append(waiting.popleft())
    return taken


def joined(runs: Sequence[Run]) -> Run:
    """One run of all their records; it is handled when they are."""
    first = runs[0]
    if len(runs) == 1:
        return first
    records = [record for run in runs for record in run.records]
    return Run(first.topic, first.partition, records, first.generation, follows=first.follows)
