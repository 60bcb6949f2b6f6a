"""How long a list takes under open-loop load: events by the clock, each of another user, whatever becomes of them.

1. Saturation: a backlog is held back and let go; lists per second from the first to the last.
2. Rounds at shares of it, in turn: p50, p99, p99.9 and the most, from the moment at which an event was due. After each
   one of as many events for the echo (echo.py), which only reads and writes: what nobody could do without.
3. At half load a new model takes the old one's place in the middle of a round, and in another a second worker joins
   and leaves. The events due within a second of that are told apart from the rest of the same round.

The sender and the watching consumer share a core with the broker; the worker has the other one, where there are two,
and so has the echo, which is stopped while the worker plays. Each has a world of its own.
"""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from rich.console import Console

from streams.children import start_child
from streams.clock import wall_ms
from tests.bench import echo, machine
from tests.bench.synthetic import synthetic_model
from tests.bench.throughput import raw_task
from tests.bench.traffic import steady
from tests.bench.watched import Delays, Others, serving, watched, world_of
from tests.integration.harness import Worker, World

SHARES = (0.1, 0.5, 0.8)
BACKLOG = 30_000
PERCENTILES = {"p50_ms": 50, "p99_ms": 99, "p99_9_ms": 99.9, "most_ms": 100}
AROUND_SECONDS = 1.0


class Round(msgspec.Struct):
    """The delays of one round, and how busy the process was meanwhile."""

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
        echo_world = world_of(broker, address, Path(name) / "echo")
        with serving(world_of(broker, address, Path(name) / "world")) as (world, worker), echoing(echo_world) as floor:
            machine.pin(worker.process.pid, worker_core)
            machine.pin(floor.pid, worker_core)
            return {
                "broker": broker,
                **asyncio.run(_measured(world, worker, echo_world, floor, rounds, seconds, console)),
            }


@contextmanager
def echoing(world: World) -> Iterator[subprocess.Popen[bytes]]:
    """The process of the echo, which serves all partitions of the world."""
    world.create_topics()
    fetch_wait_ms = int(1000 * world.settings.fetch_wait_seconds)
    task = echo.Task(**msgspec.structs.asdict(raw_task(world)), fetch_wait_ms=fetch_wait_ms)
    log = world.folder / "process.log"
    process = start_child([sys.executable, "-m", "tests.bench.echo", msgspec.json.encode(task).decode()], log=log)
    try:
        yield process
    except AssertionError as error:
        error.add_note(log.read_text()[-2000:])
        raise
    finally:
        process.kill()  # it may be stopped, and would not hear of anything else
        process.wait()


@dataclass
class Player:
    """A process that makes lists out of events, those who send it the events and look for the lists, and its rounds."""

    name: str
    process: subprocess.Popen[bytes]
    topic: str
    producer: Any
    delays: Delays
    others: Others = field(default_factory=Others)
    rounds: list[Round] = field(default_factory=list)


async def _measured(
    world: World,
    worker: Worker,
    echo_world: World,
    echo_process: subprocess.Popen[bytes],
    rounds: int,
    seconds: float,
    console: Console,
) -> dict[str, Any]:
    async with watched(world) as (producer, delays):
        player = Player("worker", worker.process, world.topics.interactions, producer, delays)
        async with watched(echo_world) as (producer, delays):
            floor = Player("echo", echo_process, echo_world.topics.interactions, producer, delays)
            delays.pause()
            echo_process.send_signal(signal.SIGSTOP)
            saturation = await _saturation(player)
            console.print(f"saturated: {saturation:,.0f} lists a second")
            for _ in range(rounds):
                for share in SHARES:
                    await _played(player, share, saturation, seconds, console)
                    with _in_play(floor, instead_of=player):
                        await _played(floor, share, saturation, seconds, console)

        async def swap() -> None:
            await asyncio.to_thread(world.release, synthetic_model("another", seed=1))

        async def rebalance() -> None:
            (second,) = await asyncio.to_thread(world.start, "second")
            machine.pin(second.process.pid, machine.two_cores()[0])
            await asyncio.to_thread(world.wait_for_metric, second, "efficientrec_partitions_assigned", 1)
            await asyncio.to_thread(second.stop)

        events = {}
        for name, happens in (("swap", swap), ("rebalance", rebalance)):
            events[name] = await _through(player, saturation / 2, 2 * seconds, happens)
            console.print(name, events[name])
    return {
        "saturated_per_second": saturation,
        "shares": {
            str(share): {**_medians(player.rounds, share), "echo": _medians(floor.rounds, share)} for share in SHARES
        },
        **events,
        "rounds": {"worker": msgspec.to_builtins(player.rounds), "echo": msgspec.to_builtins(floor.rounds)},
    }


@contextmanager
def _in_play(floor: Player, *, instead_of: Player) -> Iterator[None]:
    """The echo is awake, and stopped again at the end.

    The worker idles, which takes 2% of its core: if it were stopped, its group would miss it.
    """
    instead_of.delays.pause()
    floor.delays.resume()
    floor.process.send_signal(signal.SIGCONT)
    try:
        yield
    finally:
        floor.process.send_signal(signal.SIGSTOP)
        floor.delays.pause()
        instead_of.delays.resume()


async def _saturation(player: Player) -> float:
    """Lists a second out of a backlog."""
    others = player.others
    others.due = {}
    records = [others.record(number, wall_ms()) for number in range(BACKLOG)]
    player.process.send_signal(signal.SIGSTOP)
    for key, value in records:
        await player.producer.send(player.topic, value, key=key)
    await player.producer.flush()
    begun = time.time_ns() / 1e6
    player.process.send_signal(signal.SIGCONT)
    await player.delays.of(others.due)
    return 1000 * BACKLOG / (max(player.delays.arrived[key] for key in others.due) - begun)


async def _round(player: Player, per_second: float, seconds: float) -> tuple[list[tuple[int, float]], float]:
    """When each event was due and how long its list took, and the cores that the process kept busy."""
    due = player.others.due = {}
    cpu, begun = machine.cpu_seconds(player.process.pid), time.perf_counter()
    await steady(player.producer, player.topic, per_second, seconds, player.others.record)
    delays = await player.delays.of(due)
    cores = (machine.cpu_seconds(player.process.pid) - cpu) / (time.perf_counter() - begun)
    return list(zip(due.values(), delays, strict=True)), cores


async def _played(player: Player, share: float, saturation: float, seconds: float, console: Console) -> None:
    """One more round of the player."""
    events, cores = await _round(player, share * saturation, seconds)
    found = _percentiles([delay for _, delay in events])
    player.rounds.append(Round(share, share * saturation, len(events), **found, cores=cores, load=machine.load()))
    console.print(player.name, player.rounds[-1])


def _medians(rounds: Sequence[Round], share: float) -> dict[str, float]:
    return {
        name: float(np.median([getattr(each, name) for each in rounds if each.share == share]))
        for name in (*PERCENTILES, "per_second", "cores", "load")
    }


def _percentiles(found: Sequence[float]) -> dict[str, float]:
    return {name: float(np.percentile(found, share)) for name, share in PERCENTILES.items()}


async def _through(
    player: Player, per_second: float, seconds: float, happens: Callable[[], Awaitable[None]]
) -> dict[str, Any]:
    """A round in the middle of which something happens: the delays of events due while it did, and of the others."""
    times: list[int] = []

    async def event() -> None:
        await asyncio.sleep(seconds / 2)
        times.append(wall_ms())
        await happens()
        times.append(wall_ms())

    happening = asyncio.create_task(event())
    events, _ = await _round(player, per_second, seconds)
    await happening
    first, last = times[0] - 1000 * AROUND_SECONDS, times[1] + 1000 * AROUND_SECONDS
    during = [delay for due, delay in events if first <= due <= last]
    apart = [delay for due, delay in events if not first <= due <= last]
    return {
        "seconds": (times[1] - times[0]) / 1000,
        "during": _percentiles(during),
        "apart": _percentiles(apart),
        "adds_to_p99_ms": float(np.percentile(during, 99) - np.percentile(apart, 99)),
    }
