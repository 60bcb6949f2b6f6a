"""Where the partitions of a topic end.

A broker answers a ListOffsets request with the offset after the last record; the embedded broker answers with the
first offset of the last *batch*, plus one. Whoever trusts that stops reading too early, or finds his own offset beyond
the end (Faust's ConsistencyError "persisted offset … higher than the last offset"). Every fetch, however, carries the
true end, so one record is fetched from each partition.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence

from aiokafka import AIOKafkaConsumer
from aiokafka.structs import TopicPartition

from streams.connection import Connection
from streams.lag import Look


async def end_offsets(connection: Connection, partitions: Iterable[TopicPartition]) -> dict[TopicPartition, int]:
    """The offset after the last record of each partition, with a consumer of its own. Raises KafkaError."""
    consumer: AIOKafkaConsumer[bytes | None, bytes | None] = AIOKafkaConsumer(
        enable_auto_commit=False, auto_offset_reset="earliest", **connection.options()
    )
    try:
        await consumer.start()
        return await true_ends(consumer, list(partitions))
    finally:
        await consumer.stop()


async def true_ends(
    consumer: AIOKafkaConsumer[bytes | None, bytes | None], partitions: list[TopicPartition]
) -> dict[TopicPartition, int]:
    """The same with a started consumer; afterwards these partitions are assigned to it, at positions of no meaning."""
    for topic in {partition.topic for partition in partitions}:
        await consumer._client._wait_on_metadata(topic)  # or aiokafka would ask on for what it may not see
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


async def looks(
    connection: Connection, group: str, partitions: Sequence[TopicPartition], timeout_seconds: float
) -> dict[TopicPartition, Look]:
    """How far a group has got with each partition, seen from outside and without joining it. Raises what `reach` does,
    KafkaError, and TimeoutError when the coordinator or a leader does not answer in time."""
    await connection.reach(0)
    consumer: AIOKafkaConsumer[bytes | None, bytes | None] = AIOKafkaConsumer(
        group_id=group,
        enable_auto_commit=False,
        auto_offset_reset="earliest",
        request_timeout_ms=int(1000 * timeout_seconds),
        max_partition_fetch_bytes=1,  # a broker sends a batch all the same
        **connection.options(),
    )
    try:
        async with asyncio.timeout(timeout_seconds):
            await consumer.start()
            ends = await true_ends(consumer, list(partitions))
            starts = await consumer.beginning_offsets(list(partitions))
            committed = {place: await consumer.committed(place) or 0 for place in partitions}
            done = {place: min(max(committed[place], starts[place]), ends[place]) for place in partitions}
            oldest_ms = await _times(consumer, done, ends)
            return {
                place: Look(ends[place], done[place], max(committed[place], starts[place]), oldest_ms.get(place))
                for place in partitions
            }
    finally:
        await consumer.stop()


async def _times(
    consumer: AIOKafkaConsumer[bytes | None, bytes | None],
    offsets: dict[TopicPartition, int],
    ends: dict[TopicPartition, int],
) -> dict[TopicPartition, int]:
    """The broker's time of the first record at or after each offset, where there is one."""
    times: dict[TopicPartition, int] = {}
    waiting = {place for place, offset in offsets.items() if offset < ends[place]}
    for place, offset in offsets.items():
        consumer.seek(place, offset)
    consumer.pause(*(offsets.keys() - waiting))
    while waiting:
        for place, records in (await consumer.getmany(*waiting, timeout_ms=500, max_records=len(offsets))).items():
            times.setdefault(place, records[0].timestamp)
        for place in list(waiting):
            if place in times or await consumer.position(place) >= ends[place]:
                waiting.discard(place)
                consumer.pause(place)
    return times


def position(consumer: AIOKafkaConsumer[bytes | None, bytes | None], partition: TopicPartition) -> int | None:
    """The offset that the consumer fetches next; None where that is not known.

    Nothing is awaited, and it may be asked from another thread: a partition may be another worker's by now, and between
    two assignments there is none.
    """
    subscription = consumer._subscription.subscription
    assignment = None if subscription is None else subscription.assignment
    state = None if assignment is None else assignment.state_value(partition)
    offset: int | None = None if state is None else state._position
    return offset
