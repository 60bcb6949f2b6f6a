"""How fast rows come back from the changelog, and how long users wait for a list when their worker is killed.

1. A changelog of full rows, and a worker that has them all.
2. In turn, some rounds of each:
   stopped        the worker is asked to stop, and started again on the disk that it left: nothing has to come back
   empty          it is asked to stop, and started again without its disk: every row comes back
   killed         SIGKILL; started again at once on its disk, which has lost what was in memory
   killed, empty  SIGKILL; started again at once without its disk
   standby        SIGKILL while a second worker has half of the partitions, and copies of the others, which it takes
3. Each time an event of a new user waits in every partition that has to come back, produced just after the signal. What
   counts is when a consumer has the first of their lists, and when it has the last.

Rows per second are told in two ways. By the worker's own clock: the rows that went to disk after the first run of the
changelog, over the seconds from then to the last run. From outside: all rows, over the seconds by which the last list
of an `empty` start comes later after the partitions were dealt than that of the `stopped` one before it. What lies
before that is the start of a process, which start.py measures, and the group's waiting.

A group that hears nothing of a killed worker waits for the session timeout before it deals its partitions anew. The
embedded broker waits half of it whenever a group forms, and twice as long or more when the group has just been left.
Settings that bear on this are at their defaults, but for the wait of a fetch from the embedded broker.
"""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from itertools import count
from pathlib import Path
from typing import Any

import msgspec
from rich.console import Console

from streams.clock import wall_ms
from streams.placement import partition_of
from streams.settings import Settings
from tests.bench import machine
from tests.bench.histories import names, packed
from tests.bench.restoring import Note, RestoringWorker
from tests.bench.spread import spread
from tests.bench.synthetic import synthetic_model
from tests.bench.traffic import producer_for
from tests.bench.watched import LIMIT_SECONDS, PARTITIONS, Delays, event_of, watched
from tests.integration.harness import World

GOAL = 100_000
"""Rows per second that are to come back."""
DISTINCT_ROWS = 2000
"""Rows made, of which each user gets one: to make as many as there are users would take longer than to restore them."""
TELLING_ROWS = 1000
"""Fewer rows that come back say nothing of how fast they do."""
CASES = ("stopped", "empty", "killed", "killed, empty", "standby")


class Outcome(msgspec.Struct):
    """One worker that came into service."""

    case: str
    dealt_seconds: float
    """From the start of the process, or from SIGKILL, to when the partitions were the worker's and their disks open."""
    first_seconds: float
    """The same to the first list of an event produced after it."""
    all_seconds: float
    """The same to the first list of every partition."""
    rows: int
    """Rows that came back from the changelog; one that comes more than once in a stretch of it counts once."""
    rows_per_second: float | None
    """By the worker's own clock; None where too few came back to tell."""
    cpu_microseconds: float | None
    """Of the worker's processor time for each of them."""
    load: float


def measure(broker: str, rows: int, rounds: int, session_seconds: float, console: Console) -> dict[str, Any]:
    """The figures of all rounds."""
    with tempfile.TemporaryDirectory() as name, machine.running_broker(broker, Path(name) / "broker") as (address, pid):
        _, other_core = machine.two_cores()
        machine.pin(pid, other_core)
        machine.pin(os.getpid(), other_core)
        world = _world(broker, address, Path(name) / "world", session_seconds)
        try:
            world.create_topics()
            world.release(synthetic_model())
            row_bytes = asyncio.run(_fill(world, rows))
            played = asyncio.run(_played(world, rounds, console))
        finally:
            world.close()
    return {
        "broker": broker,
        "partitions": PARTITIONS,
        "rows": rows,
        "row_bytes": row_bytes,
        "session_timeout_seconds": world.settings.session_timeout_seconds,
        "heartbeat_interval_seconds": world.settings.heartbeat_interval_seconds,
        "goal_rows_per_second": GOAL,
        **_restored(rows, played),
        "seconds": {case: _seconds(each for each in played if each.case == case) for case in CASES},
        "rounds": [msgspec.to_builtins(each) for each in played],
    }


def _world(broker: str, address: str, folder: Path, session_seconds: float) -> World:
    folder.mkdir()
    default = Settings()
    return World(
        address,
        folder,
        partitions=PARTITIONS,
        session_timeout_seconds=session_seconds,
        heartbeat_interval_seconds=min(default.heartbeat_interval_seconds, session_seconds / 3),
        commit_interval_seconds=default.commit_interval_seconds,
        fetch_wait_seconds=default.fetch_wait_seconds if broker == "kafka" else 0.03,
        request_timeout_seconds=max(default.request_timeout_seconds, 2 * session_seconds),
    )


async def _fill(world: World, rows: int) -> float:
    """Puts a row for each user into the changelog; bytes per row."""
    distinct = packed(synthetic_model(), min(rows, DISTINCT_ROWS))
    producer = producer_for(world)
    await producer.start()
    try:
        for number, name in enumerate(names(0, rows)):
            await producer.send(world.topics.changelog, distinct[number % len(distinct)], key=name.encode())
        await producer.flush()
    finally:
        await producer.stop()
    return sum(map(len, distinct)) / len(distinct)


async def _played(world: World, rounds: int, console: Console) -> list[Outcome]:
    outcomes: list[Outcome] = []
    serving = _worker(world, "worker-0")
    _start(serving)
    async with watched(world) as (producer, delays):
        probes = _Probes(world, producer, delays)
        for number in range(1, rounds + 1):
            for case in CASES[:-1]:
                outcomes.append(await _again(serving, probes, case))
                console.print(outcomes[-1])
            standby = _worker(world, f"worker-{number}")
            outcomes.append(await _taken_over(world, serving, standby, probes))
            console.print(outcomes[-1])
            serving = standby
    return outcomes


async def _again(worker: RestoringWorker, probes: _Probes, case: str) -> Outcome:
    """The worker ends and starts anew, as the case says."""
    if case.startswith("killed"):
        begun = time.time_ns() / 1e6
        worker.kill()
    else:
        assert await asyncio.to_thread(worker.stop) == 0, worker.output()[-2000:]
    if case.endswith("empty"):
        await asyncio.to_thread(shutil.rmtree, worker.state_dir)
    if not case.startswith("killed"):
        begun = time.time_ns() / 1e6
    _start(worker)
    first, last = await probes.seconds(begun, range(PARTITIONS))
    return _outcome(case, begun, first, last, worker.notes())


async def _taken_over(world: World, serving: RestoringWorker, standby: RestoringWorker, probes: _Probes) -> Outcome:
    """A second worker joins and catches up; then the first one is killed."""
    _start(standby)
    await _until(
        lambda: standby.whole_copies() > 0 and standby.whole_copies() + len(_served(standby)) == PARTITIONS, standby
    )
    await probes.seconds(time.time_ns() / 1e6, range(PARTITIONS))  # both serve
    orphans = _served(serving)
    assert len(orphans) == PARTITIONS - len(_served(standby)), f"the worker to be killed serves {orphans}"
    before = len(standby.notes())
    begun = time.time_ns() / 1e6
    serving.kill()
    first, last = await probes.seconds(begun, orphans)
    return _outcome("standby", begun, first, last, standby.notes()[before:])


def _outcome(case: str, begun_ms: float, first: float, last: float, notes: list[Note]) -> Outcome:
    dealt = max(note.at for note in notes if not note.rows) - begun_ms / 1000
    runs = [note for note in notes if note.rows]
    rows = sum(run.rows for run in runs)
    per_second = cpu = None
    if rows > TELLING_ROWS and len(runs) > 1:
        later = rows - runs[0].rows
        per_second = later / (runs[-1].at - runs[0].at)
        cpu = 1e6 * (runs[-1].cpu_seconds - runs[0].cpu_seconds) / later
    return Outcome(case, dealt, first, last, rows, per_second, cpu, machine.load())


class _Probes:
    """Events of new users, one in each partition that is asked about, and when their lists are there."""

    def __init__(self, world: World, producer: Any, delays: Delays) -> None:
        self._world = world
        self._producer = producer
        self._delays = delays
        self._numbers = count()

    async def seconds(self, begun_ms: float, partitions: Iterable[int]) -> tuple[float, float]:
        """Sends them now: seconds from `begun_ms` to the first list and to the last one."""
        due: dict[bytes, int] = {}
        missing = set(partitions)
        while missing:
            number = next(self._numbers)
            key = f"probe-{number}".encode()
            partition = partition_of(key, PARTITIONS)
            if partition in missing:
                missing.remove(partition)
                due[key] = int(begun_ms)
                event = event_of(key.decode(), number, wall_ms())
                await self._producer.send_and_wait(self._world.topics.interactions, event, key=key)
        found = await self._delays.of(due)
        return min(found) / 1000, max(found) / 1000


def _worker(world: World, name: str) -> RestoringWorker:
    worker = world.worker(name, RestoringWorker)
    assert isinstance(worker, RestoringWorker)
    return worker


def _start(worker: RestoringWorker) -> None:
    worker.start()
    machine.pin(worker.process.pid, machine.two_cores()[0])


def _served(worker: RestoringWorker) -> list[int]:
    """The partitions of the interactions that a worker serves, as its /metrics say."""
    pattern = re.compile(r'efficientrec_consumer_lag_records\{partition="(\d+)",topic="[^"]*interactions[^"]*"\}')
    return [int(match[1]) for match in map(pattern.fullmatch, worker.metrics()) if match]


async def _until(condition: Callable[[], bool], worker: RestoringWorker) -> None:
    deadline = time.monotonic() + LIMIT_SECONDS
    while True:
        with suppress(OSError):  # it has only just started
            if await asyncio.to_thread(condition):
                return
        assert time.monotonic() < deadline, worker.output()[-2000:]
        await asyncio.sleep(0.2)


def _restored(rows: int, played: list[Outcome]) -> dict[str, Any]:
    emptied = [each for each in played if each.case == "empty"]
    told = [each for each in emptied if each.rows_per_second is not None and each.cpu_microseconds is not None]
    stopped = [each for each in played if each.case == "stopped"]
    longer = [
        _serving_seconds(after) - _serving_seconds(before) for before, after in zip(stopped, emptied, strict=True)
    ]
    return {
        "rows_per_second": spread(each.rows_per_second or 0.0 for each in told),
        "cpu_microseconds_per_row": spread(each.cpu_microseconds or 0.0 for each in told),
        "rows_per_second_from_outside": rows / statistics.median(longer),
        "seconds_longer": spread(longer),
    }


def _serving_seconds(outcome: Outcome) -> float:
    """From the dealing of the partitions to the first list of every one."""
    return outcome.all_seconds - outcome.dealt_seconds


def _seconds(outcomes: Iterable[Outcome]) -> dict[str, Any]:
    found = list(outcomes)
    return {
        "dealt": spread(each.dealt_seconds for each in found),
        "first": spread(each.first_seconds for each in found),
        "all": spread(each.all_seconds for each in found),
        "rows": spread(each.rows for each in found),
    }
