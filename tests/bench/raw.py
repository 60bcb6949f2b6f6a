"""The ceiling: raw aiokafka that reads every event and writes as many bytes as rows and lists have, and nothing else.

The batches go out as the worker's do: for each fetched partition one of rows, and when it is acknowledged one of lists.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Sequence
from typing import Any

import msgspec
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.structs import TopicPartition

from streams.outbox import BATCH_BYTES

RECORDS_MAX = 2000


class Task(msgspec.Struct):
    """What the process is told, as JSON on its command line."""

    broker: str
    source: str
    rows: str
    lists: str
    partitions: int
    row_bytes: int
    list_bytes: int


async def run(task: Task) -> None:
    """Goes on until it is killed."""
    consumer: AIOKafkaConsumer[bytes | None, bytes | None] = AIOKafkaConsumer(
        bootstrap_servers=task.broker, auto_offset_reset="earliest", enable_auto_commit=False
    )
    producer: Any = AIOKafkaProducer(bootstrap_servers=task.broker, acks="all", max_batch_size=BATCH_BYTES)
    await consumer.start()
    await producer.start()
    consumer.assign([TopicPartition(task.source, number) for number in range(task.partitions)])
    row, body = b"r" * task.row_bytes, b"l" * task.list_bytes
    while True:
        for place, records in (await consumer.getmany(timeout_ms=100, max_records=RECORDS_MAX)).items():
            keys = [record.key or b"" for record in records]
            await _written(producer, task.rows, place.partition, keys, row)
            await _written(producer, task.lists, place.partition, keys, body)


async def _written(producer: Any, topic: str, partition: int, keys: Sequence[bytes], value: bytes) -> None:
    """Returns when the broker has a record of this value for each key."""
    sent, batch = [], producer.create_batch()
    for key in keys:
        if batch.append(key=key, value=value, timestamp=None) is None:
            sent.append(await producer.send_batch(batch, topic, partition=partition))
            batch = producer.create_batch()
            batch.append(key=key, value=value, timestamp=None)
    sent.append(await producer.send_batch(batch, topic, partition=partition))
    await asyncio.gather(*sent)


if __name__ == "__main__":
    asyncio.run(run(msgspec.json.decode(sys.argv[1], type=Task)))
