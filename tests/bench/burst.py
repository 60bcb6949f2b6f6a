"""A million events at once, and what becomes of a worker that cannot keep up: does it hold them in memory, does it miss
its heartbeats, and is every event counted?

1. A worker serves. A burst of events goes to the broker as fast as it takes them; the worker reads on meanwhile.
2. The worker is stopped. Another burst as large, of the same users, is produced while it is away. It starts again.
3. It stops, and the rows on its disk are looked at: how many there are, and how many events each has counted.

Users come in groups, as in sessions: those of a group send one event each in turn until each has sent all of his. So
events of a user lie near each other but never one after the other. A run of records that are waiting holds many of them
and gives each user one list.

A worker that did not send heartbeats for a session timeout would lose its partitions and be given them again, which
counts as a rebalance.
"""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from efficientrec.profile import HEADER
from streams.clock import wall_ms
from tests.bench import machine
from tests.bench.traffic import outcomes, poured, until_handled
from tests.bench.watched import LIMIT_SECONDS, PARTITIONS, event_of, serving, world_of
from tests.integration.harness import KeyValue, Worker, World

EVENTS_PER_USER = 10
"""In either burst."""
GROUP = 500


def measure(broker: str, users: int, console: Console) -> dict[str, Any]:
    """The figures of both bursts."""
    with (
        tempfile.TemporaryDirectory() as name,
        machine.running_broker(broker, Path(name) / "broker") as (address, _),
        serving(world_of(broker, address, Path(name) / "world")) as (world, worker),
    ):
        serving_on = asyncio.run(_while_it_serves(world, worker, users))
        console.print(serving_on)
        away = asyncio.run(_while_it_is_away(world, worker, users))
        console.print(away)
        assert worker.stop() == 0, worker.output()[-2000:]
        counts = _event_counts(world)
    counted = 2 * EVENTS_PER_USER
    return {
        "broker": broker,
        "partitions": PARTITIONS,
        "users": users,
        "events_per_user": counted,
        "session_timeout_seconds": world.settings.session_timeout_seconds,
        "serving": serving_on,
        "away": away,
        "sent": 2 * users * EVENTS_PER_USER,
        "applied": serving_on["applied"] + away["applied"],
        "rows": len(counts),
        "rows_miscounted": int((counts != counted).sum()),
    }


async def _while_it_serves(world: World, worker: Worker, users: int) -> dict[str, Any]:
    cpu, begun = machine.cpu_seconds(worker.process.pid), time.perf_counter()
    async with machine.peak_rss(worker.process.pid) as peak:
        before = peak()
        produced = await _produced(world, users, 0)
        handled = await until_handled(worker, users * EVENTS_PER_USER, LIMIT_SECONDS)
        seconds = time.perf_counter() - begun
        return _told(worker, handled, produced, seconds, cpu, {"before": before, "peak": peak()})


async def _while_it_is_away(world: World, worker: Worker, users: int) -> dict[str, Any]:
    """Its seconds are from when the partitions are its own to when it has caught up."""
    assert await asyncio.to_thread(worker.stop) == 0, worker.output()[-2000:]
    produced = await _produced(world, users, EVENTS_PER_USER)
    worker.start()
    async with machine.peak_rss(worker.process.pid) as peak:
        await asyncio.to_thread(world.wait_for_metric, worker, "efficientrec_partitions_assigned", PARTITIONS)
        cpu, begun = machine.cpu_seconds(worker.process.pid), time.perf_counter()
        before = machine.footprint(worker.process.pid).rss
        handled = await until_handled(worker, users * EVENTS_PER_USER, LIMIT_SECONDS)
        seconds = time.perf_counter() - begun
        return _told(worker, handled, produced, seconds, cpu, {"before": before, "peak": peak()})


async def _produced(world: World, users: int, first: int) -> float:
    """Sends a burst in which the events of each user have numbers from `first` on; the seconds that it took."""
    begun = time.perf_counter()
    await poured(world, world.topics.interactions, _events(users, first))
    return time.perf_counter() - begun


def _events(users: int, first: int) -> Iterator[KeyValue]:
    for group in range(0, users, GROUP):
        keys = [f"user-{number}" for number in range(group, min(group + GROUP, users))]
        for number in range(first, first + EVENTS_PER_USER):
            at = wall_ms()
            yield from ((key.encode(), event_of(key, number, at)) for key in keys)


def _told(
    worker: Worker, metrics: dict[str, float], produced: float, seconds: float, cpu: float, rss: dict[str, int]
) -> dict[str, Any]:
    done = outcomes(metrics)
    return {
        "seconds_to_produce": produced,
        "seconds": seconds,
        "events_per_second": done.applied / seconds,
        "cpu_seconds": machine.cpu_seconds(worker.process.pid) - cpu,
        "applied": done.applied,
        "lists": done.lists,
        "events_per_list": done.applied / done.lists,
        "rebalances": int(metrics["efficientrec_rebalances_total"]) - 1,  # the first one gave it its partitions
        "rss": rss,
        "load": machine.load(),
    }


def _event_counts(world: World) -> Any:
    """How many events each row has counted, (rows,)."""
    rows = world.rows_on_disk().values()
    return np.frombuffer(b"".join(row[: HEADER.itemsize] for row in rows), HEADER)["events"]
