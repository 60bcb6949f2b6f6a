"""How long a list takes under open-loop load: events by the clock, each of another user, whatever becomes of them.

1. Saturation: a backlog is held back and let go; lists per second from the first to the last.
2. Rounds at shares of it, in turn: p50, p99, p99.9 and the most, from the moment at which an event was due.
3. At half load a new model takes the old one's place in the middle of a round, and in another a second worker joins
   and leaves. The events due within a second of that are told apart from the rest of the same round.

The sender and the watching consumer share a core with the broker; the worker has the other one, where there are two.
"""

from __future__ import annotations

import asyncio
import os
import signal
import tempfile
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from rich.console import Console

from tests.bench import machine
from tests.bench.synthetic import synthetic_model
from tests.bench.traffic import now_ms, steady
from tests.bench.watched import Delays, Others, serving, watched, world_of
from tests.integration.harness import Worker, World

SHARES = (0.1, 0.5, 0.8)
BACKLOG = 30_000
PERCENTILES = {"p50_ms": 50, "p99_ms": 99, "p99_9_ms": 99.9, "most_ms": 100}
AROUND_SECONDS = 1.0


class Round(msgspec.Struct):
    """The delays of one round, and what the worker had to do meanwhile."""

    share: float
    per_second: float
    lists: int
    p50_ms: float
    p99_ms: float
    p99_9_ms: float
    most_ms: float
    cores: float
    load: float


def measure(broker: str, rounds: int, seconds: float, console: Console) -> dict[str, Any]:
    """The figures of all rounds."""
    with tempfile.TemporaryDirectory() as name, machine.running_broker(broker, Path(name) / "broker") as (address, pid):
        worker_core, other_core = machine.two_cores()
        machine.pin(pid, other_core)
        machine.pin(os.getpid(), other_core)
        with serving(world_of(broker, address, Path(name) / "world")) as (world, worker):
            machine.pin(worker.process.pid, worker_core)
            return {"broker": broker, **asyncio.run(_measured(world, worker, rounds, seconds, console))}


async def _measured(world: World, worker: Worker, rounds: int, seconds: float, console: Console) -> dict[str, Any]:
    others = Others()
    async with watched(world) as (producer, delays):
        saturation = await _saturation(world, worker, producer, delays, others)
        console.print(f"saturated: {saturation:,.0f} lists a second")
        played: list[Round] = []
        for _ in range(rounds):
            for share in SHARES:
                due, cores = await _round(world, worker, producer, delays, others, share * saturation, seconds)
                played.append(_told(share, share * saturation, list((await _delays(delays, due)).values()), cores))
                console.print(played[-1])
        half = saturation / 2

        async def swap() -> None:
            await asyncio.to_thread(world.release, synthetic_model("another", seed=1))

        async def rebalance() -> None:
            (second,) = await asyncio.to_thread(world.start, "second")
            machine.pin(second.process.pid, machine.two_cores()[0])
            await asyncio.to_thread(world.wait_for_metric, second, "efficientrec_partitions_assigned", 1)
            await asyncio.to_thread(second.stop)

        events = {}
        for name, happens in (("swap", swap), ("rebalance", rebalance)):
            events[name] = await _through(world, worker, producer, delays, others, half, 2 * seconds, happens)
            console.print(name, events[name])
    return {
        "saturated_per_second": saturation,
        "shares": {
            str(share): {
                name: float(np.median([getattr(each, name) for each in played if each.share == share]))
                for name in (*PERCENTILES, "per_second", "cores", "load")
            }
            for share in SHARES
        },
        **events,
        "rounds": [msgspec.to_builtins(each) for each in played],
    }


async def _saturation(world: World, worker: Worker, producer: Any, delays: Delays, others: Others) -> float:
    """Lists a second out of a backlog."""
    others.due = {}
    records = [others.record(number, now_ms()) for number in range(BACKLOG)]
    worker.process.send_signal(signal.SIGSTOP)
    for key, value in records:
        await producer.send(world.topics.interactions, value, key=key)
    await producer.flush()
    begun = time.time_ns() / 1e6
    worker.process.send_signal(signal.SIGCONT)
    await delays.of(others.due)
    return 1000 * BACKLOG / (max(delays.arrived[key] for key in others.due) - begun)


async def _round(
    world: World, worker: Worker, producer: Any, delays: Delays, others: Others, per_second: float, seconds: float
) -> tuple[dict[bytes, int], float]:
    """When the event of each key was due, and the cores that the worker kept busy; all lists are out."""
    others.due = {}
    cpu, begun = machine.cpu_seconds(worker.process.pid), time.perf_counter()
    await steady(producer, world.topics.interactions, per_second, seconds, others.record)
    await delays.of(others.due)
    return others.due, (machine.cpu_seconds(worker.process.pid) - cpu) / (time.perf_counter() - begun)


async def _delays(delays: Delays, due: dict[bytes, int]) -> dict[bytes, float]:
    return dict(zip(due, await delays.of(due), strict=True))


def _told(share: float, per_second: float, found: Sequence[float], cores: float) -> Round:
    return Round(share, per_second, len(found), **_percentiles(found), cores=cores, load=machine.load())


def _percentiles(found: Sequence[float]) -> dict[str, float]:
    return {name: float(np.percentile(found, share)) for name, share in PERCENTILES.items()}


async def _through(
    world: World,
    worker: Worker,
    producer: Any,
    delays: Delays,
    others: Others,
    per_second: float,
    seconds: float,
    happens: Callable[[], Awaitable[None]],
) -> dict[str, Any]:
    """A round in the middle of which something happens: the delays of events due while it did, and of the others."""
    times: list[int] = []

    async def event() -> None:
        await asyncio.sleep(seconds / 2)
        times.append(now_ms())
        await happens()
        times.append(now_ms())

    happening = asyncio.create_task(event())
    due, _ = await _round(world, worker, producer, delays, others, per_second, seconds)
    await happening
    found = await _delays(delays, due)
    first, last = times[0] - 1000 * AROUND_SECONDS, times[1] + 1000 * AROUND_SECONDS
    during = [found[key] for key, at in due.items() if first <= at <= last]
    apart = [found[key] for key, at in due.items() if not first <= at <= last]
    return {
        "seconds": (times[1] - times[0]) / 1000,
        "during": _percentiles(during),
        "apart": _percentiles(apart),
        "adds_to_p99_ms": float(np.percentile(during, 99) - np.percentile(apart, 99)),
    }
