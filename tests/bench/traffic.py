"""Interactions at a steady pace or all at once, and what the worker's metrics say of them.

At a steady pace the loop is open: an event is due at its moment and bears that moment as its time, whether or not the
broker or the sender is late with it. So a list's delay, counted from there, leaves no waiting out.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable
from functools import cache
from typing import Any

import msgspec
from aiokafka import AIOKafkaProducer

from streams.clock import wall_ms
from streams.placement import partition_of
from tests.integration.harness import KeyValue, Worker, World

TICK_SECONDS = 0.002
BATCH_BYTES = 256 * 1024
"""Of one partition, that may wait for the broker before a sender has to: more than a second of what is sent here."""


def producer_for(world: World) -> Any:
    """A producer, not yet started, that never waits for a broker's answer before it takes the next record."""
    return AIOKafkaProducer(bootstrap_servers=world.address, acks="all", linger_ms=0, max_batch_size=BATCH_BYTES)


async def steady(
    producer: Any, topic: str, per_second: float, seconds: float, record: Callable[[int, int], KeyValue]
) -> int:
    """Sends `per_second` x `seconds` records and returns how many, once the broker has them all.

    record: the record with this number, due at this time in milliseconds.
    """
    failures: list[BaseException] = []

    def done(sent: asyncio.Future[Any]) -> None:
        if not sent.cancelled() and (error := sent.exception()) is not None:
            failures.append(error)

    begun, clock = wall_ms(), time.perf_counter()
    total, number = round(per_second * seconds), 0
    while number < total and not failures:
        due = min(total, int((time.perf_counter() - clock) * per_second) + 1)
        for each in range(number, due):
            key, value = record(each, begun + int(1000 * each / per_second))
            (await producer.send(topic, value, key=key)).add_done_callback(done)
        number = max(number, due)
        await asyncio.sleep(TICK_SECONDS)
    await producer.flush()
    await asyncio.sleep(0)  # the callbacks of what has just been acknowledged
    if failures:
        raise failures[0]
    return total


async def poured(world: World, topic: str, records: Iterable[KeyValue]) -> None:
    """Sends the records as fast as the broker takes them, in batches that are made here; returns once it has them."""
    producer = producer_for(world)
    await producer.start()
    try:
        await _poured(producer, topic, world.settings.partitions, records)
    finally:
        await producer.stop()


async def _poured(producer: Any, topic: str, partitions: int, records: Iterable[KeyValue]) -> None:
    place_of = cache(lambda key: partition_of(key, partitions))
    batches = [producer.create_batch() for _ in range(partitions)]
    sent = []
    for key, value in records:
        place = place_of(key)
        if batches[place].append(key=key, value=value, timestamp=None) is None:
            sent.append(await producer.send_batch(batches[place], topic, partition=place))
            await asyncio.sleep(0)
            batches[place] = producer.create_batch()
            batches[place].append(key=key, value=value, timestamp=None)
    for place, batch in enumerate(batches):
        if batch.record_count():
            sent.append(await producer.send_batch(batch, topic, partition=place))
    await asyncio.gather(*sent)


class Outcomes(msgspec.Struct):
    """What became of all interactions so far, by the worker's own count."""

    applied: int = 0
    repeated: int = 0
    limited: int = 0
    replayed: int = 0
    invalid: int = 0
    lists: int = 0

    @property
    def handled(self) -> int:
        return self.applied + self.repeated + self.limited + self.replayed + self.invalid


def outcomes(metrics: dict[str, float]) -> Outcomes:
    """Out of what /metrics says."""
    found = Outcomes(lists=int(metrics['efficientrec_recommendations_published_total{arm="control",reason="event"}']))
    for name, value in metrics.items():
        if name.startswith("efficientrec_events_total{"):
            outcome = name.rpartition('outcome="')[2].partition('"')[0]
            setattr(found, outcome, getattr(found, outcome) + int(value))
    return found


def lag(metrics: dict[str, float]) -> int:
    """Records that are not yet handled, of all partitions."""
    return int(sum(value for name, value in metrics.items() if name.startswith("efficientrec_consumer_lag_records{")))


async def until_handled(worker: Worker, interactions: int, limit_seconds: float) -> dict[str, float]:
    """Returns the metrics once they count so many interactions; fails with the worker's log after the limit."""
    deadline = time.monotonic() + limit_seconds
    while True:
        metrics = await asyncio.to_thread(worker.metrics)
        if outcomes(metrics).handled >= interactions:
            return metrics
        if time.monotonic() > deadline or not worker.is_running():
            raise AssertionError(f"{outcomes(metrics)}; expected {interactions}\n{worker.output()[-2000:]}")
        await asyncio.sleep(0.1)
