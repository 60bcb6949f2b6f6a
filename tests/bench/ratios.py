"""The ratios that guard.py holds: each of two processor times of one run, measured in turn, so that neither another
machine nor another load changes it much. Of each the least of several rounds counts, since what else the machine does
can only add to it. No Kafka is needed.

In this process, with the loop and the disk of a real worker and a broker that answers at once (as in scale.py):

1. A list, and a run of a single event, against a kernel that never changes.
2. A list where there are ten times as many users, and one where there are a hundred times as many items.

On the embedded broker, in fewer rounds:

3. A list of a saturated worker against one of an idiomatic agent, and one of raw aiokafka (as in throughput.py).
4. A row that a worker restores from its changelog against one that raw aiokafka reads and forgets.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

import msgspec
import numpy as np
from aiokafka import AIOKafkaConsumer
from aiokafka.structs import TopicPartition

from tests.bench import machine
from tests.bench.histories import names, packed
from tests.bench.restoring import RestoringWorker
from tests.bench.scale import Size
from tests.bench.synthetic import synthetic_model
from tests.bench.throughput import PARTITIONS, idiomatic_round, raw_round, worker_round, world_at
from tests.bench.traffic import poured
from tests.integration.harness import World
from tests.toy import save_toy

ROUNDS = 15
LISTS = 4000
SINGLE_EVENTS = 200
FEW_USERS, MANY_USERS = 10_000, 100_000
FEW_ITEMS, MANY_ITEMS = 1_000, 100_000
ROUNDS_SERVED = 3
USERS = 20_000
IDIOMATIC_USERS = 1_500
ROWS = 40_000
DISTINCT_ROWS = 2000
"""Of which each user gets one."""


class Ratio(msgspec.Struct, frozen=True):
    """What is divided by what; more means slower."""

    above: str
    below: str


RATIOS = {
    "lists": Ratio("1,000 lists from full rows", "the calibration kernel"),
    "single_events": Ratio("100 runs of a single event", "the calibration kernel"),
    "users": Ratio("a list among 100,000 users", "one among 10,000"),
    "items": Ratio("a list out of 100,000 items", "one out of 1,000"),
    "agent": Ratio("100 lists of the worker", "one of an idiomatic agent"),
    "raw": Ratio("a list of the worker", "reading and writing as much with raw aiokafka"),
    "restored": Ratio("a row restored from the changelog", "one read with raw aiokafka"),
}


def measured() -> dict[str, float]:
    """Each of RATIOS, now."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        return {**_alone(folder / "alone"), **_served(folder)}


def _alone(folder: Path) -> dict[str, float]:
    rng = np.random.default_rng(0)
    with ExitStack() as stack:

        def size(items: int = 4000, users: int = FEW_USERS) -> Size:
            made = Size(folder / str(next(numbers)), synthetic_model(items=items), users)
            stack.callback(made.close)
            made.warm(LISTS, rng)
            return made

        numbers = itertools.count()
        plain, crowded, single = size(), size(users=MANY_USERS), size()
        few, many = size(items=FEW_ITEMS), size(items=MANY_ITEMS)
        kernel = []
        for _ in range(ROUNDS):
            kernel.append(kernel_seconds())
            for each in (plain, crowded, few, many):
                each.play(LISTS, rng)
            single.play(SINGLE_EVENTS, rng, run_events=1)
        return {
            "lists": min(plain.costs) / 1000 / min(kernel),
            "single_events": min(single.costs) / 10_000 / min(kernel),
            "users": min(crowded.costs) / min(plain.costs),
            "items": min(many.costs) / min(few.costs),
        }


def kernel_seconds() -> float:
    """Processor time of some work of the kind that a worker does and that is the same for ever: bytes and dictionaries
    of Python, and numpy on arrays of some thousand rows."""
    begun = time.process_time()
    counted: dict[bytes, int] = {}
    for number in range(60_000):
        key = f"user-{number % 5000}".encode()
        counted[key] = counted.get(key, 0) + len(key)
    values = np.linspace(0, 1, 400_000, dtype=np.float32).reshape(2000, 200)
    for _ in range(6):
        order = np.argsort(np.sin(1000 * values), axis=1)
        values = np.take_along_axis(values, order, axis=1)[:, ::-1]
    return time.process_time() - begun


def _served(folder: Path) -> dict[str, float]:
    model = folder / "model"
    save_toy(synthetic_model(), str(model))
    rows = packed(synthetic_model(), DISTINCT_ROWS)
    rounds: list[dict[str, float]] = []
    with machine.running_broker("embedded", folder / "broker") as (address, pid):
        _, other_core = machine.two_cores()
        machine.pin(pid, other_core)
        machine.pin(os.getpid(), other_core)
        for number in range(ROUNDS_SERVED):

            def world(kind: str, number: int = number) -> World:
                return world_at(address, folder / f"{kind}-{number}")

            restored, read = _restored_and_read(world("restored"), rows)
            rounds.append(
                {
                    "worker": 1 / worker_round(world("worker"), USERS).lists_per_core_second,
                    "agent": 1 / idiomatic_round(world("agent"), model, IDIOMATIC_USERS).lists_per_core_second,
                    "raw": 1 / raw_round(world("raw"), USERS).lists_per_core_second,
                    "restored": restored,
                    "read": read,
                }
            )
    least = {name: min(each[name] for each in rounds) for name in rounds[0]}
    return {
        "agent": 100 * least["worker"] / least["agent"],
        "raw": least["worker"] / least["raw"],
        "restored": least["restored"] / least["read"],
    }


def _restored_and_read(world: World, rows: list[bytes]) -> tuple[float, float]:
    """Processor time of a worker for all rows that come back, and of this process for reading them."""
    try:
        world.create_topics()
        world.release(synthetic_model())
        pairs = zip(names(0, ROWS), itertools.cycle(rows), strict=False)
        asyncio.run(poured(world, world.topics.changelog, ((name.encode(), row) for name, row in pairs)))
        worker = world.worker("only", RestoringWorker)
        assert isinstance(worker, RestoringWorker)
        worker.start()
        machine.pin(worker.process.pid, machine.two_cores()[0])
        world.wait_until(lambda: sum(note.rows for note in worker.notes()) >= ROWS, "all rows are back")
        notes = [note for note in worker.notes() if note.rows]
        later = sum(note.rows for note in notes[1:])
        restoring = (notes[-1].cpu_seconds - notes[0].cpu_seconds) / later * ROWS
        return restoring, asyncio.run(_reading_seconds(world))
    finally:
        world.close()


async def _reading_seconds(world: World) -> float:
    """Processor time of reading the changelog."""
    consumer: AIOKafkaConsumer[bytes | None, bytes | None] = AIOKafkaConsumer(
        bootstrap_servers=world.address, auto_offset_reset="earliest", enable_auto_commit=False
    )
    await consumer.start()
    try:
        consumer.assign([TopicPartition(world.topics.changelog, number) for number in range(PARTITIONS)])
        begun, found = time.process_time(), 0
        while found < ROWS:
            found += sum(map(len, (await consumer.getmany(timeout_ms=100)).values()))
        return time.process_time() - begun
    finally:
        await consumer.stop()
