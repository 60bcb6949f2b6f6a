"""Runs on their way to the loop: those of one partition one after the other, those of several at once.

What waits in all the partitions goes to the loop as one batch, whose fixed price is paid once. What comes while it is
under way makes the next one, which begins when this one has ended, or is as large as may be. So batches are small while
little happens, and large while much does; that the broker has several requests at a time only pays for large ones.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter, defaultdict, deque
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any

from streams.transport import Run

log = logging.getLogger(__name__)

Place = tuple[str, int]
"""Topic and partition."""
PATIENCE_SECONDS = 0.2
"""How long a batch may hold up the next one: then what is left of it, because one of several brokers does not answer,
goes on beside others."""


class Lanes:
    """The runs of all sources."""

    def __init__(
        self,
        handle: Callable[[Sequence[Run]], Sequence[Coroutine[Any, Any, None]]],
        crash: Callable[[Exception], Awaitable[None]],
        events_max: int,
    ) -> None:
        """handle: see `Loop.handle`. crash: ends the app with what was raised. events_max: most records of a batch,
        unless its only run holds more."""
        self._handle = handle
        self._crash = crash
        self._events_max = events_max
        self._waiting: dict[Place, deque[Run]] = defaultdict(deque)  # whose turn it is stands first
        self._tasks: dict[int, asyncio.Task[None]] = {}  # by partition: its topics share the rows
        self._is_woken = False
        self._batch: set[int] = set()  # the partitions of the last batch that it is still waited for
        self._patience: asyncio.TimerHandle | None = None
        self.events: Counter[Place] = Counter()
        """Records that wait or are being handled."""

    def put(self, run: Run) -> None:
        """Takes the next run of its place."""
        place = (run.topic, run.partition)
        self._waiting[place].append(run)
        self.events[place] += len(run.records)
        self._wake()

    async def settle(self) -> None:
        """Finishes what was begun, and lets go what waits: it will be delivered again."""
        for place, runs in self._waiting.items():
            self.events[place] -= sum(len(run.records) for run in runs)
            runs.clear()
        await asyncio.gather(*self._tasks.values())

    def _wake(self) -> None:
        if not self._is_woken:  # what else is put or gets free until then comes along
            self._is_woken = True
            asyncio.get_running_loop().call_soon(self._begin)

    def _begin(self) -> None:
        """Begins a batch, if it is time and there is anything to do."""
        self._is_woken = False
        free = [place for place, runs in self._waiting.items() if runs and place[1] not in self._tasks]
        if not free or (self._batch and sum(map(self._events_at, free)) < self._events_max):
            return
        rows = self._next_batch(free)
        wholes = [joined(row) for row in rows]
        try:
            rests = self._handle(wholes)
        except Exception as error:
            rests = [raising(error) for _ in wholes]
        for row, whole, rest in zip(rows, wholes, rests, strict=True):
            self._tasks[whole.partition] = asyncio.create_task(self._finish(row, whole, rest))
        self._expect({whole.partition for whole in wholes})
        self._wake()

    def _events_at(self, place: Place) -> int:
        return sum(len(run.records) for run in self._waiting[place])

    def _next_batch(self, free: Sequence[Place]) -> list[list[Run]]:
        rows: list[list[Run]] = []
        room = self._events_max
        taken: set[int] = set()
        for place in free:
            runs = self._waiting[place]
            _, partition = place
            if partition in taken or (rows and len(runs[0].records) > room):
                continue
            rows.append(next_row(runs, room))
            room -= sum(len(run.records) for run in rows[-1])
            taken.add(partition)
            self._waiting[place] = self._waiting.pop(place)
        return rows

    def _expect(self, partitions: set[int]) -> None:
        """Waits for these before the next small batch; for a while."""
        self._batch = partitions
        if self._patience is not None:
            self._patience.cancel()
        self._patience = asyncio.get_running_loop().call_later(PATIENCE_SECONDS, self._expect_nothing)

    def _expect_nothing(self) -> None:
        self._batch = set()
        self._wake()

    async def _finish(self, runs: Sequence[Run], whole: Run, rest: Awaitable[None]) -> None:
        try:
            await rest
        except Exception as error:
            log.critical("partition %d stopped at offset %d", whole.partition, whole.records[0].offset, exc_info=True)
            await self._crash(error)
            return  # and the partition is never free again
        for run in runs:
            run.handled = whole.handled
        self.events[whole.topic, whole.partition] -= len(whole.records)
        del self._tasks[whole.partition]
        self._batch.discard(whole.partition)
        self._wake()


async def raising(error: Exception) -> None:
    """Stands for the end of a run whose batch could not be begun."""
    raise error


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
