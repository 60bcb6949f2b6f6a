"""The floor: reads every event and writes as many bytes as rows and lists have, and nothing else.

What waits is one batch, as in the worker: for each of its partitions rows, and when these are acknowledged lists, those
of several partitions in one request (wire.py). So a list takes as long here as broker, client, sender and watcher need.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Sequence

import msgspec
from aiokafka import AIOKafkaConsumer
from aiokafka.structs import TopicPartition

from streams.clock import wall_ms
from streams.connection import Connection
from streams.outbox import BATCH_BYTES
from streams.settings import Settings
from streams.wire import UNFENCED, KafkaWire
from tests.bench import raw

REQUEST_SECONDS = 300.0  # an answer may wait for as long as the process is stopped


class Task(raw.Task):
    """The same, and how long the broker may hold a fetch."""

    fetch_wait_ms: int


async def run(task: Task) -> None:
    """Goes on until it is killed."""
    consumer: AIOKafkaConsumer[bytes | None, bytes | None] = AIOKafkaConsumer(
        bootstrap_servers=task.broker,
        auto_offset_reset="earliest",
        enable_auto_commit=False,
        fetch_max_wait_ms=task.fetch_wait_ms,
    )
    wire = KafkaWire(Connection(Settings(broker=f"kafka://{task.broker}")), REQUEST_SECONDS, [task.rows, task.lists])
    await consumer.start()
    await wire.start()
    consumer.assign([TopicPartition(task.source, number) for number in range(task.partitions)])
    row, body = b"r" * task.row_bytes, b"l" * task.list_bytes

    async def echoed(partition: int, keys: Sequence[bytes]) -> None:
        await _written(wire, task.rows, partition, keys, row)
        await _written(wire, task.lists, partition, keys, body)

    while True:
        batches = await consumer.getmany(timeout_ms=100, max_records=raw.RECORDS_MAX)
        await asyncio.gather(
            *(echoed(place.partition, [each.key or b"" for each in records]) for place, records in batches.items())
        )


async def _written(wire: KafkaWire, topic: str, partition: int, keys: Sequence[bytes], value: bytes) -> None:
    """Returns when the broker has a record of this value for each key."""
    now_ms, most = wall_ms(), BATCH_BYTES // len(value)
    for first in range(0, len(keys), most):
        records = [(key, value) for key in keys[first : first + most]]
        await wire.append(topic, partition, UNFENCED, -1, records, now_ms)


if __name__ == "__main__":
    asyncio.run(run(msgspec.json.decode(sys.argv[1], type=Task)))
