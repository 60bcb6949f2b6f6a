"""Where the partitions of a topic end.

A broker answers a ListOffsets request with the offset after the last record; the embedded broker answers with the
first offset of the last *batch*, plus one. Whoever trusts that stops reading too early, or finds his own offset beyond
the end (Faust's ConsistencyError "persisted offset … higher than the last offset"). Every fetch, however, carries the
true end, so one record is fetched from each partition.
"""

from __future__ import annotations

from collections.abc import Iterable

from aiokafka import AIOKafkaConsumer
from aiokafka.structs import TopicPartition

from streams.connection import Connection


async def end_offsets(connection: Connection, partitions: Iterable[TopicPartition]) -> dict[TopicPartition, int]:
    """The offset after the last record of each partition, with a consumer of its own. Raises KafkaError."""
    consumer: AIOKafkaConsumer[bytes | None, bytes | None] = AIOKafkaConsumer(
        enable_auto_commit=False, auto_offset_reset="earliest", **connection.options()
    )
    await consumer.start()
    try:
        return await true_ends(consumer, list(partitions))
    finally:
        await consumer.stop()


async def true_ends(
    consumer: AIOKafkaConsumer[bytes | None, bytes | None], partitions: list[TopicPartition]
) -> dict[TopicPartition, int]:
    """The same with a started consumer; afterwards these partitions are assigned to it, at positions of no meaning."""
    consumer.assign(partitions)
    consumer.pause(*partitions)  # or the broker's answers would wait behind a fetch that waits for records
    ends: dict[TopicPartition, int] = await consumer.end_offsets(partitions)
    starts: dict[TopicPartition, int] = await consumer.beginning_offsets(partitions)
    waiting = {partition for partition in partitions if ends[partition] > starts[partition]}
    for partition in waiting:
        consumer.seek(partition, ends[partition] - 1)
        consumer.resume(partition)
    while waiting:
        await consumer.getmany(*waiting, timeout_ms=500)
        for partition in list(waiting):
            # Not the records decide but the position: a topic may end with the marker of a transaction, which is none.
            if await consumer.position(partition) >= ends[partition]:
                ends[partition] = max(ends[partition], consumer.highwater(partition) or 0)
                waiting.discard(partition)
                consumer.pause(partition)
    consumer.resume(*partitions)
    return ends
