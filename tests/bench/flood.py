"""Floods, and what becomes of everybody else: one hot user, a million events of one user, a hundred thousand new users.

(a) Others alone, each an event of a user of his own; then the same beside one user who sends nine events to each of
    theirs. In turn, so that a change of the machine's speed touches both. What counts is the others' delay.
(b) One user's million events, as fast as the broker takes them: one row, one partition, every event in order.
(c) New users only, a hundred thousand a minute.
(d) As (a), in a worker that lets 20 events of a user count in a second.

A delay runs from the moment at which an event was due to the moment at which a consumer of the lists has its user's
list. Each of the others sends one event, so his list is the one for it. Each part has a worker of its own.
"""

from __future__ import annotations

import asyncio
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from rich.console import Console

from tests.bench import machine
from tests.bench.traffic import lag, outcomes, poured, steady, until_handled
from tests.bench.watched import (
    LIMIT_SECONDS,
    PARTITIONS,
    WARM_USERS,
    Delays,
    Others,
    event_of,
    serving,
    watched,
    world_of,
)
from tests.integration.harness import KeyValue, Worker, World
from tests.toy import START

OTHERS_PER_SECOND = 200
HOT_PER_SECOND = 1800
LIMIT = 20
"""Events a second that count of one user, in (d)."""
NEW_PER_SECOND = 100_000 / 60
NAMED = 100
"""Every how many-th event of the million bears an id."""
HOT = "hot"


class Round(msgspec.Struct):
    """The others' delays in one round."""

    others: int
    p50_ms: float
    p99_ms: float
    seconds: float
    """From the first event to the last list."""
    cores: float
    """Cores that the worker kept busy meanwhile, on average."""
    load: float
    delays_ms: list[float]


def flood(broker: str, rounds: int, seconds: float, events: int, console: Console) -> dict[str, Any]:
    """The figures of all four parts."""
    with tempfile.TemporaryDirectory() as name, machine.running_broker(broker, Path(name) / "broker") as (address, _):
        folder = Path(name)

        def world(part: str, **settings: Any) -> World:
            return world_of(broker, address, folder / part, **settings)

        figures: dict[str, Any] = {"broker": broker, "partitions": PARTITIONS}
        with serving(world("hot")) as (hot, worker):
            figures["hot_user"] = asyncio.run(_hot_user(hot, worker, rounds, seconds))
        console.print(_without_delays(figures["hot_user"]))
        with serving(world("one")) as (one, worker):
            figures["one_user"] = asyncio.run(_one_user(one, worker, events))
            worker.stop()
            figures["one_user"] |= _rows_compared(one)
        console.print(figures["one_user"])
        with serving(world("new")) as (new, worker):
            figures["new_users"] = asyncio.run(_new_users(new, worker, 60.0))
            worker.stop()
            figures["new_users"] |= _state_of(new, worker)
        console.print(_without_delays(figures["new_users"]))
        with serving(world("limited", user_events_per_second=LIMIT)) as (limited, worker):
            figures["limited"] = asyncio.run(_hot_user(limited, worker, rounds, seconds))
        console.print(_without_delays(figures["limited"]))
    return figures


async def _hot_user(world: World, worker: Worker, rounds: int, seconds: float) -> dict[str, Any]:
    """Parts (a) and (d): rounds of the others alone and beside the hot user, in turn."""
    alone, beside, others, hot = [], [], Others(), 0
    async with watched(world) as (producer, delays):
        for _ in range(rounds):
            alone.append(await _round(world, worker, producer, delays, others, seconds, 0, hot))
            beside.append(await _round(world, worker, producer, delays, others, seconds, HOT_PER_SECOND, hot))
            hot += round(HOT_PER_SECOND * seconds)
        sent = WARM_USERS + hot + sum(each.others for each in alone + beside)
        done = outcomes(await until_handled(worker, sent, LIMIT_SECONDS))
    a, b = _percentiles(alone), _percentiles(beside)
    return {
        "others_per_second": OTHERS_PER_SECOND,
        "hot_per_second": HOT_PER_SECOND,
        "alone": a,
        "beside": b,
        "ratio_p50": b["p50_ms"] / a["p50_ms"],
        "ratio_p99": b["p99_ms"] / a["p99_ms"],
        "hot_events": hot,
        "applied": done.applied,
        "limited": done.limited,
        "lists": done.lists,
        "rounds": {"alone": _plain(alone), "beside": _plain(beside)},
    }


async def _round(
    world: World,
    worker: Worker,
    producer: Any,
    delays: Delays,
    others: Others,
    seconds: float,
    hot_per_second: float,
    hot_before: int,
) -> Round:
    """One round; it ends when the last of the others has his list."""
    topic, pid = world.topics.interactions, worker.process.pid
    others.due = {}

    def hot(number: int, due_ms: int) -> KeyValue:
        return HOT.encode(), event_of(HOT, hot_before + number, due_ms)

    cpu, begun = machine.cpu_seconds(pid), time.perf_counter()
    await asyncio.gather(
        steady(producer, topic, OTHERS_PER_SECOND, seconds, others.record),
        steady(producer, topic, hot_per_second, seconds, hot),
    )
    found = await delays.of(others.due)
    spent = time.perf_counter() - begun
    p50, p99 = np.percentile(found, (50, 99)).tolist()
    cores = (machine.cpu_seconds(pid) - cpu) / spent
    return Round(len(found), p50, p99, spent, cores, machine.load(), found)


async def _one_user(world: World, worker: Worker, events: int) -> dict[str, Any]:
    """Part (b)."""
    async with watched(world):
        before = machine.footprint(worker.process.pid)
        cpu, begun = machine.cpu_seconds(worker.process.pid), time.perf_counter()
        async with machine.peak_rss(worker.process.pid) as peak:
            await poured(world, world.topics.interactions, _his_events(events))
            produced = time.perf_counter() - begun
            metrics = await until_handled(worker, WARM_USERS + events, LIMIT_SECONDS)
            seconds = time.perf_counter() - begun
            cpu = machine.cpu_seconds(worker.process.pid) - cpu
            await asyncio.sleep(5)
            after = machine.footprint(worker.process.pid)
    return {
        "events": events,
        "seconds_to_produce": produced,
        "seconds": seconds,
        "events_per_second": events / seconds,
        "cpu_seconds": cpu,
        "lists": outcomes(metrics).lists - WARM_USERS,
        "rss": {"before": before.rss, "peak": peak(), "after": after.rss},
        "anonymous": {"before": before.anonymous, "after": after.anonymous},
        "load": machine.load(),
    }


def _his_events(events: int) -> Iterator[KeyValue]:
    for number in range(events):
        yield HOT.encode(), event_of(HOT, number, START + 1000 * number, named=number % NAMED == 0)


async def _new_users(world: World, worker: Worker, seconds: float) -> dict[str, Any]:
    """Part (c)."""
    others = Others()
    async with watched(world) as (producer, delays):
        before, cpu = machine.footprint(worker.process.pid), machine.cpu_seconds(worker.process.pid)
        begun = time.perf_counter()
        users = await steady(producer, world.topics.interactions, NEW_PER_SECOND, seconds, others.record)
        behind = users + WARM_USERS - outcomes(await asyncio.to_thread(worker.metrics)).handled
        found = await delays.of(others.due)
        spent = time.perf_counter() - begun
        cpu = machine.cpu_seconds(worker.process.pid) - cpu
        await asyncio.sleep(5)
        metrics = await asyncio.to_thread(worker.metrics)
        after = machine.footprint(worker.process.pid)
    p50, p99 = np.percentile(found, (50, 99)).tolist()
    return {
        "users": users,
        "seconds": spent,
        "behind_at_the_end": behind,
        "lag_afterwards": lag(metrics),
        "p50_ms": p50,
        "p99_ms": p99,
        "most_ms": max(found),
        "cores": cpu / spent,
        "rss": {"before": before.rss, "after": after.rss},
        "anonymous": {"before": before.anonymous, "after": after.anonymous},
        "load": machine.load(),
    }


def _rows_compared(world: World) -> dict[str, Any]:
    rows = world.rows_on_disk()
    expected = world.recomputed(rows)
    return {
        "row_bytes": len(rows[HOT.encode()]),
        "rows": len(rows),
        "rows_different": sum(rows.get(key) != row for key, row in expected.items()) + len(rows.keys() - expected),
    }


def _state_of(world: World, worker: Worker) -> dict[str, Any]:
    """What the users take on disk, once the worker has stopped."""
    rows = world.rows_on_disk()
    return {
        "rows": len(rows),
        "row_bytes": statistics.mean(map(len, rows.values())),
        "state_bytes_per_user": machine.folder_bytes(worker.state_dir) / len(rows),
    }


def _percentiles(rounds: list[Round]) -> dict[str, float]:
    """Of all rounds together."""
    p50, p99 = np.percentile(np.concatenate([each.delays_ms for each in rounds]), (50, 99)).tolist()
    return {
        "p50_ms": p50,
        "p99_ms": p99,
        "cores": statistics.mean(each.cores for each in rounds),
        "load": statistics.mean(each.load for each in rounds),
    }


def _plain(rounds: list[Round]) -> list[dict[str, float]]:
    """The rounds without the single delays."""
    return [{key: value for key, value in msgspec.to_builtins(each).items() if key != "delays_ms"} for each in rounds]


def _without_delays(figures: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in figures.items() if key != "rounds"}
