"""A worker under a steady stream for half an hour, with a new model every minute: does it stay as small as it was?

1. A broker, a worker of its own with the first model.
2. An open loop of interactions of users who come again and again: mostly new ones, some sent twice under one id, some
   junk. Meanwhile models are released, each under a new version, and the worker is looked at from outside.
3. What it held after the warm-up, in the third tenth of the time, beside what it held in the last tenth.
4. The worker stops. Every row on its disk is compared with the plain recomputation from the topic.
"""

from __future__ import annotations

import asyncio
import random
import shutil
import statistics
import tempfile
import time
from collections import deque
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
from rich.console import Console

from efficientrec.interactions import key_of
from efficientrec.model import Model
from streams.clock import wall_ms
from streams.records import Interaction, encode
from tests.bench import machine
from tests.bench.spread import spread
from tests.bench.synthetic import synthetic_model
from tests.bench.traffic import lag, outcomes, producer_for, steady, until_handled
from tests.integration.harness import KeyValue, Worker, World
from tests.toy import additive

PARTITIONS = 4
ITEMS = 2000
MODELS = 3
"""Of different weights; each release is one of them in turn under a version of its own."""
JUNK_SHARE = 0.01
REPEATED_SHARE = 0.02
LATELY = 500
"""Events among which one is chosen that is sent again: a producer's retry comes within seconds."""
TYPES = ("view", "click", "like", "like", "dislike", "add_to_cart", "purchase")
CACHE_BYTES = 16 * 1024 * 1024
"""RocksDB's block cache: smaller than the rows, so that it is full, and grows no more, within the warm-up."""
WARM_TENTHS = 2
"""Until each partition's memtable (16 MiB) has been full and written out twice, and the block cache is full: six
minutes of half an hour at 300 events a second. What RocksDB gives back, the allocator keeps for the next memtable."""
FLAT = 1.05
FEW_DESCRIPTORS = 4
"""Beside RocksDB's table files, of which there are more or fewer as it merges them."""
LIMIT_SECONDS = 120.0


class Sample(msgspec.Struct):
    """The worker at one moment."""

    seconds: float
    """Since the stream began."""
    rss: int
    anonymous: int
    descriptors: int
    table_files: int
    """Of the descriptors: see Footprint."""
    threads: int
    state_bytes: int
    applied: int
    repeated: int
    invalid: int
    lists: int
    swaps: int
    lag: int
    send_failures: int
    cpu_seconds: float
    load: float


class Stream:
    """The interactions, from a seed: what user and what item does not depend on the clock, only the time does."""

    def __init__(self, users: int, seed: int) -> None:
        self._random = random.Random(seed)  # a stream that can be had again
        self._users = users
        self._lately: deque[KeyValue] = deque(maxlen=LATELY)

    def record(self, number: int, due_ms: int) -> KeyValue:
        draw = self._random.random()
        user = f"user-{self._random.randrange(self._users)}"
        if draw < JUNK_SHARE:
            return user.encode(), self._junk(user, number)
        if draw < JUNK_SHARE + REPEATED_SHARE and self._lately:
            return self._random.choice(self._lately)
        item = f"item-{int(ITEMS * self._random.random() ** 2)}"  # some are met more often than others
        event = Interaction(self._random.choice(TYPES), user, item, due_ms, f"event-{number}")
        self._lately.append((user.encode(), encode(event)))
        return self._lately[-1]

    def _junk(self, user: str, number: int) -> bytes:
        """One of what producers get wrong."""
        return (
            b"\x00not JSON",
            b'{"event_type":"like"}',
            encode(Interaction("like", "somebody else", "item-1", wall_ms())),
            encode(Interaction("no such type", user, "item-1", wall_ms())),
            encode(Interaction("like", user, "item-1", "yesterday")),
        )[number % 5]


class Models:
    """Model after model for a world, each under a new version, with all but the last two folders removed."""

    def __init__(self, world: World) -> None:
        self._world = world
        first = synthetic_model(items=ITEMS)
        self._shapes = [first, *(_of_vocabulary(first, seed) for seed in range(1, MODELS))]
        self.released = 0

    def release(self) -> None:
        self.released += 1
        shape = self._shapes[self.released % MODELS]
        version = f"soak-{self.released:04}"
        self._world.release(replace(shape, version=version, encoder=replace(additive(shape), key=key_of(version))))
        shutil.rmtree(self._world.folder / f"model-soak-{self.released - 2:04}", ignore_errors=True)


def _of_vocabulary(first: Model, seed: int) -> Model:
    """A model of other weights for the same items. They share the vocabulary, whose places recomputation keeps."""
    other = synthetic_model(items=ITEMS, seed=seed)
    return replace(other, items=first.items, encoder=replace(additive(other), items=first.items))


def soak(
    broker: str,
    minutes: float,
    events_per_second: float,
    users: int,
    swap_seconds: float,
    sample_seconds: float,
    console: Console,
) -> dict[str, Any]:
    """The figures."""
    with tempfile.TemporaryDirectory() as name, machine.running_broker(broker, Path(name) / "broker") as (address, _):
        folder = Path(name) / "world"
        folder.mkdir()
        world = World(address, folder, partitions=PARTITIONS, block_cache_bytes=CACHE_BYTES)
        try:
            world.create_topics()
            models = Models(world)
            models.release()
            (worker,) = world.start("only")
            world.wait_for_metric(worker, "efficientrec_partitions_assigned", PARTITIONS)
            seconds = 60 * minutes
            sent, samples = asyncio.run(
                _played(world, worker, models, users, events_per_second, seconds, swap_seconds, sample_seconds, console)
            )
            stopped = worker.stop()
            console.print(f"the worker has stopped with status {stopped}; comparing rows")
            checked = _checked(world)
        finally:
            world.close()
    return {
        "broker": broker,
        "minutes": minutes,
        "events_per_second": events_per_second,
        "users": users,
        "block_cache_bytes": CACHE_BYTES,
        "sent": sent,
        "released": models.released,
        "swaps": samples[-1].swaps,
        "applied": samples[-1].applied,
        "repeated": samples[-1].repeated,
        "invalid": samples[-1].invalid,
        "lists": samples[-1].lists,
        "send_failures": samples[-1].send_failures,
        "lag_most": max(sample.lag for sample in samples),
        "load": spread(sample.load for sample in samples),
        **_compared(samples, seconds),
        **checked,
        "exit_status": stopped,
        "samples": [msgspec.to_builtins(sample) for sample in samples],
    }


async def _played(
    world: World,
    worker: Worker,
    models: Models,
    users: int,
    per_second: float,
    seconds: float,
    swap_seconds: float,
    sample_seconds: float,
    console: Console,
) -> tuple[int, list[Sample]]:
    """How many events were sent, and the samples; the last one is taken when all events are handled."""
    samples: list[Sample] = []
    begun = time.perf_counter()

    async def look() -> None:
        while True:
            try:
                samples.append(await asyncio.to_thread(_sample, worker, time.perf_counter() - begun))
            except OSError as error:  # a crowded machine may be late with /metrics for once
                assert worker.is_running(), worker.output()[-2000:]
                console.print(f"a sample is left out: {error}")
            if len(samples) % max(1, round(60 / sample_seconds)) == 1:
                console.print(samples[-1])
            await asyncio.sleep(sample_seconds - (time.perf_counter() - begun) % sample_seconds)

    async def swap() -> None:
        while True:
            await asyncio.sleep(swap_seconds)
            await asyncio.to_thread(models.release)

    producer = producer_for(world)
    await producer.start()
    beside = [asyncio.create_task(each) for each in (look(), swap())]
    try:
        stream = asyncio.create_task(
            steady(producer, world.topics.interactions, per_second, seconds, Stream(users, seed=1).record)
        )
        await asyncio.wait([stream, *beside], return_when=asyncio.FIRST_COMPLETED)  # the others end only by failing
        for task in beside:
            if task.done():
                stream.cancel()
                task.result()
        sent = await stream
        await until_handled(worker, sent, LIMIT_SECONDS)
    finally:
        for task in beside:
            task.cancel()
        await asyncio.gather(*beside, return_exceptions=True)
        await producer.stop()
    samples.append(_sample(worker, time.perf_counter() - begun))
    return sent, samples


def _sample(worker: Worker, seconds: float) -> Sample:
    held = machine.footprint(worker.process.pid)
    metrics = worker.metrics()
    done = outcomes(metrics)
    return Sample(
        seconds=seconds,
        rss=held.rss,
        anonymous=held.anonymous,
        descriptors=held.descriptors,
        table_files=held.table_files,
        threads=held.threads,
        state_bytes=machine.folder_bytes(worker.state_dir),
        applied=done.applied,
        repeated=done.repeated,
        invalid=done.invalid,
        lists=done.lists,
        swaps=int(metrics['efficientrec_model_swaps_total{outcome="installed"}']),
        lag=lag(metrics),
        send_failures=int(metrics["efficientrec_send_failures_total"]),
        cpu_seconds=machine.cpu_seconds(worker.process.pid),
        load=machine.load(),
    )


def _compared(samples: list[Sample], seconds: float) -> dict[str, Any]:
    """Medians of some tenths of the time, and the verdict."""

    def median(name: str, tenth: int) -> float:
        held = [float(getattr(each, name)) for each in samples if int(10 * each.seconds / seconds) == tenth]
        return statistics.median(held)

    found: dict[str, Any] = {}
    for name in ("rss", "anonymous", "descriptors", "table_files", "threads", "state_bytes"):
        warm, last = median(name, WARM_TENTHS), median(name, 9)
        found[name] = {
            "second_tenth": median(name, 1),
            "third_tenth": warm,
            "last_tenth": last,
            "ratio": last / max(warm, 1.0),
        }
    others = [found["descriptors"][when] - found["table_files"][when] for when in ("third_tenth", "last_tenth")]
    is_flat = found["rss"]["ratio"] < FLAT and others[1] - others[0] <= FEW_DESCRIPTORS
    return {**found, "verdict": "flat" if is_flat else "grows"}


def _checked(world: World) -> dict[str, Any]:
    """How many of the rows on disk are what the plain program makes of the topic."""
    begun = time.perf_counter()
    rows = world.rows_on_disk()
    expected = world.recomputed(rows)
    return {
        "rows": len(rows),
        "rows_expected": len(expected),
        "rows_different": sum(rows.get(key) != row for key, row in expected.items()) + len(rows.keys() - expected),
        "check_seconds": time.perf_counter() - begun,
    }
