"""One worker that serves, and how long a list takes there: from the moment at which its event was due to the moment at
which a consumer of the lists has it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import Any

from aiokafka import AIOKafkaConsumer
from aiokafka.structs import TopicPartition

from streams.records import Interaction, encode
from tests.bench.synthetic import ITEMS, synthetic_model
from tests.bench.traffic import producer_for, steady
from tests.integration.harness import KeyValue, Worker, World

PARTITIONS = 8
WARM_USERS = 500
WARM_PER_SECOND = 200
LIMIT_SECONDS = 300.0
TYPES = ("view", "click", "like", "like", "dislike", "add_to_cart", "purchase")


def world_of(broker: str, address: str, folder: Path, **settings: Any) -> World:
    """A world for one worker of the synthetic model. broker: "kafka" or "embedded", which answers late."""
    folder.mkdir()
    polled = {} if broker == "kafka" else {"fetch_wait_seconds": 0.03}
    return World(address, folder, partitions=PARTITIONS, session_timeout_seconds=12.0, **polled, **settings)


@contextmanager
def serving(world: World) -> Iterator[tuple[World, Worker]]:
    """The world with its only worker, which serves all partitions by the synthetic model."""
    try:
        world.create_topics()
        world.release(synthetic_model())
        (worker,) = world.start("only")
        world.wait_for_metric(worker, "efficientrec_partitions_assigned", PARTITIONS)
        yield world, worker
    finally:
        world.close()


class Delays:
    """Watches the lists: key → when the consumer got its first list, in milliseconds."""

    def __init__(self, consumer: Any) -> None:
        self._consumer = consumer
        self.arrived: dict[bytes, float] = {}

    def pause(self) -> None:
        """Asks for no more lists, so that the broker is left alone."""
        self._consumer.pause(*self._consumer.assignment())

    def resume(self) -> None:
        """Asks for them again."""
        self._consumer.resume(*self._consumer.assignment())

    async def follow(self) -> None:
        """Goes on until cancelled."""
        while True:
            batches = await self._consumer.getmany(timeout_ms=200)
            now = time.time_ns() / 1e6
            for records in batches.values():
                for record in records:
                    self.arrived.setdefault(record.key, now)

    async def of(self, due: dict[bytes, int]) -> list[float]:
        """The delay of each, in milliseconds; waits for those that are still to come."""
        deadline = time.monotonic() + LIMIT_SECONDS
        while missing := due.keys() - self.arrived.keys():
            assert time.monotonic() < deadline, f"{len(missing)} lists did not come"
            await asyncio.sleep(0.05)
        return [self.arrived[key] - at for key, at in due.items()]


class Others:
    """One event of a user of his own after the other, each user never seen before."""

    def __init__(self) -> None:
        self._made = 0
        self.due: dict[bytes, int] = {}
        """Of this round: key → when his event was due."""

    def record(self, number: int, due_ms: int) -> KeyValue:
        self._made += 1
        key = f"other-{self._made}".encode()
        self.due[key] = due_ms
        return key, event_of(key.decode(), self._made, due_ms)


@asynccontextmanager
async def watched(world: World) -> AsyncIterator[tuple[Any, Delays]]:
    """A producer, and a consumer of the lists that has seen a number of users' first ones."""
    consumer: AIOKafkaConsumer[bytes | None, bytes | None] = AIOKafkaConsumer(
        bootstrap_servers=world.address, enable_auto_commit=False, auto_offset_reset="earliest", fetch_max_wait_ms=30
    )
    producer = producer_for(world)
    await consumer.start()
    await producer.start()
    consumer.assign([TopicPartition(world.topics.lists, number) for number in range(PARTITIONS)])
    delays = Delays(consumer)
    following = asyncio.create_task(delays.follow())
    due: dict[bytes, int] = {}

    def warm(number: int, due_ms: int) -> KeyValue:
        key = f"warm-{number}".encode()
        due[key] = due_ms
        return key, event_of(key.decode(), number, due_ms)

    try:
        await steady(producer, world.topics.interactions, WARM_PER_SECOND, WARM_USERS / WARM_PER_SECOND, warm)
        await delays.of(due)
        yield producer, delays
    finally:
        following.cancel()
        with suppress(asyncio.CancelledError):
            await following
        await producer.stop()
        await consumer.stop()


def event_of(user: str, number: int, at_ms: int, *, named: bool = True) -> bytes:
    kind, item = TYPES[number % len(TYPES)], f"item-{number * 37 % ITEMS}"
    return encode(Interaction(kind, user, item, at_ms, f"event-{user}-{number}" if named else None))
