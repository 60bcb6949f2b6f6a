"""Lists per second of one worker, and of two in one group.

1. For each round a world of its own on one broker: topics, model, one worker or two, each pinned to a core of its own.
   The broker and the sender are pinned to none, so where there are two cores in all they take from the workers what
   they need, and from two workers more than from one. Lists per core-second leave that out.
2. Warm up: some users' lists are out.
3. Hold the workers (SIGSTOP), produce one event for each of many users, let them go, and wait until they have counted
   as many lists, which they do when the broker has them.
4. The rounds alternate between one worker and two. Medians are reported.

Of two workers each keeps a copy of the other's rows besides, for the case that it dies. One worker alone does not.
"""

from __future__ import annotations

import os
import signal
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
from rich.console import Console

from streams.clock import wall_ms
from tests.bench import machine
from tests.bench.spread import spread
from tests.bench.synthetic import synthetic_model
from tests.bench.traffic import outcomes
from tests.bench.watched import LIMIT_SECONDS, PARTITIONS, WARM_USERS, event_of, world_of
from tests.integration.harness import Worker, World

LOOK_SECONDS = 0.1
NAMES = ("first", "second")


class Round(msgspec.Struct):
    """What one worker, or two, did with one backlog."""

    workers: int
    lists: int
    seconds: float
    cpu_seconds: float
    """Of the workers together."""
    load: float

    @property
    def per_second(self) -> float:
        return self.lists / self.seconds

    @property
    def per_core_second(self) -> float:
        return self.lists / self.cpu_seconds


def measure(broker: str, users: int, rounds: int, console: Console) -> dict[str, Any]:
    """The figures of all rounds."""
    played: list[Round] = []
    with tempfile.TemporaryDirectory() as name, machine.running_broker(broker, Path(name) / "broker") as (address, _):
        for number in range(rounds):
            for workers in (1, 2):
                world = world_of(broker, address, Path(name) / f"{number}-{workers}")
                try:
                    played.append(_round(world, workers, users))
                finally:
                    world.close()
                console.print(played[-1])
    by_workers = {workers: [each for each in played if each.workers == workers] for workers in (1, 2)}
    one, two = by_workers.values()
    return {
        "broker": broker,
        "partitions": PARTITIONS,
        "shares_cores_with_the_broker": len(os.sched_getaffinity(0)) <= len(NAMES),
        "workers": {
            str(workers): {
                "lists_per_second": spread(each.per_second for each in found),
                "lists_per_core_second": spread(each.per_core_second for each in found),
                "cores_busy": spread(each.cpu_seconds / each.seconds for each in found),
            }
            for workers, found in by_workers.items()
        },
        "scaling": _ratio([each.per_second for each in two], [each.per_second for each in one]),
        "scaling_per_core_second": _ratio(
            [each.per_core_second for each in two], [each.per_core_second for each in one]
        ),
        "rounds": [msgspec.to_builtins(each) for each in played],
    }


def _ratio(above: Sequence[float], below: Sequence[float]) -> float:
    return statistics.median(above) / statistics.median(below)


def _round(world: World, count: int, users: int) -> Round:
    world.create_topics()
    world.release(synthetic_model())
    workers = world.start(*NAMES[:count])
    for worker, core in zip(workers, machine.two_cores(), strict=False):
        machine.pin(worker.process.pid, core)
    share = PARTITIONS // count
    for worker in workers:
        world.wait_for_metric(worker, "efficientrec_partitions_assigned", share)
    _interact(world, "warm", WARM_USERS)
    world.wait_until(lambda: _lists(workers) >= WARM_USERS, "the first lists are out")
    dealt = [worker.metrics()["efficientrec_partitions_assigned"] for worker in workers]
    assert dealt == [share] * count, f"of {PARTITIONS} partitions the workers have {dealt}"
    world.wait_until_handled()
    for worker in workers:
        worker.process.send_signal(signal.SIGSTOP)
    _interact(world, "user", users)
    cpu, begun = _cpu_seconds(workers), time.perf_counter()
    for worker in workers:
        worker.process.send_signal(signal.SIGCONT)
    while (missing := WARM_USERS + users - _lists(workers)) > 0:
        if time.perf_counter() - begun > LIMIT_SECONDS or not all(map(Worker.is_running, workers)):
            raise RuntimeError(f"{missing} lists are missing")
        time.sleep(LOOK_SECONDS)
    seconds = time.perf_counter() - begun
    return Round(count, users, seconds, _cpu_seconds(workers) - cpu, machine.load())


def _interact(world: World, kind: str, users: int) -> None:
    """One event of each of so many new users."""
    keys = [f"{kind}-{number}" for number in range(users)]
    records = [(key.encode(), event_of(key, number, wall_ms())) for number, key in enumerate(keys)]
    world.produce(world.topics.interactions, records)


def _lists(workers: Sequence[Worker]) -> int:
    return sum(outcomes(worker.metrics()).lists for worker in workers)


def _cpu_seconds(workers: Sequence[Worker]) -> float:
    return sum(machine.cpu_seconds(worker.process.pid) for worker in workers)
