"""Reads a compacted topic from its beginning, then keeps up with it: releases, the catalogue, users, lists.

Everyone who follows reads everything, so there is no consumer group and nothing to commit.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from types import MappingProxyType
from typing import TypeAlias

from aiokafka import AIOKafkaConsumer
from aiokafka.errors import KafkaError, UnknownTopicOrPartitionError
from aiokafka.structs import ConsumerRecord, TopicPartition

from streams.connection import NO_RIGHTS, Connection
from streams.offsets import true_ends

log = logging.getLogger(__name__)

RETRY_SECONDS = 1.0

Record: TypeAlias = ConsumerRecord[bytes | None, bytes | None]


def place_of(record: Record) -> dict[str, str | int]:
    """Where a record lies, as fields of a line of the log."""
    return {"topic": record.topic, "partition": record.partition, "offset": record.offset}


class Follower:
    """Hands every batch of records of a topic to `handle`, in the order of each partition."""

    def __init__(
        self,
        topic: str,
        connection: Connection,
        handle: Callable[[list[Record]], Awaitable[None]],
        positions: Mapping[int, int] = MappingProxyType({}),
    ) -> None:
        """positions: partition → offset at which to go on, where not from the beginning."""
        self.topic = topic
        self.behind: dict[int, int] = {}
        """Partition → records that are not handled yet, as far as is known."""
        self._positions = {TopicPartition(topic, number): offset for number, offset in positions.items()}
        self._connection = connection
        self._handle = handle
        self._caught_up = asyncio.Event()

    async def caught_up(self) -> None:
        """Returns when everything that was in the topic at the start has been handled."""
        await self._caught_up.wait()

    async def run(self) -> None:
        """Follows until cancelled. A broker that stays away is waited for; what was read stays read. Raises what the
        broker answers to whom it does not let read, of NO_RIGHTS."""
        while True:
            try:
                await self._follow()
            except NO_RIGHTS:
                raise
            except (KafkaError, OSError) as error:
                log.warning("following %s again after: %s", self.topic, error, extra={"topic": self.topic})
                await asyncio.sleep(RETRY_SECONDS)

    async def _follow(self) -> None:
        consumer: AIOKafkaConsumer[bytes | None, bytes | None] = AIOKafkaConsumer(
            auto_offset_reset="earliest", enable_auto_commit=False, **self._connection.options()
        )
        try:
            await consumer.start()
            known = await consumer._client.fetch_all_metadata()
            partitions = [TopicPartition(self.topic, n) for n in sorted(known.partitions_for_topic(self.topic) or ())]
            if not partitions:  # nothing to read would pass for everything read
                raise UnknownTopicOrPartitionError(self.topic)
            at_start = await true_ends(consumer, partitions)
            await consumer.seek_to_beginning(*partitions)
            for partition, position in self._positions.items():
                consumer.seek(partition, position)
            while True:
                reached = {partition: await consumer.position(partition) for partition in partitions}
                for partition, position in reached.items():
                    end = max(at_start[partition], consumer.highwater(partition) or 0)
                    self.behind[partition.partition] = max(0, end - position)
                if not self._caught_up.is_set() and all(reached[each] >= end for each, end in at_start.items()):
                    self._caught_up.set()
                batches = await consumer.getmany(timeout_ms=200)
                for partition, records in batches.items():
                    await self._handle(records)
                    self._positions[partition] = records[-1].offset + 1
        finally:
            await consumer.stop()
