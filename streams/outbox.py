"""Sends records that anybody may send: whole batches with explicit partitions, or one by one, acknowledged by every
in-sync replica."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from typing import Any, Self

from aiokafka import AIOKafkaProducer
from aiokafka.structs import RecordMetadata

from streams.connection import Connection

BATCH_BYTES = 512 * 1024  # a broker takes about 1 MiB by default; half of it keeps its requests short
REQUEST_BYTES = 64 * 1024 * 1024  # what is too large is for the broker to say, at the acknowledgement

Headers = Sequence[tuple[str, bytes]]
KeyValue = tuple[bytes, bytes | None]


class WithHeaders(bytes):
    """A record's value that has headers beside it. Few have, and all else that handles values need not know."""

    headers: Headers

    @classmethod
    def of(cls, value: bytes, headers: Headers) -> Self:
        made = cls(value)
        made.headers = headers
        return made


class Pending:
    """Records handed over and not yet acknowledged."""

    def __init__(self) -> None:
        self._batches: list[tuple[asyncio.Future[RecordMetadata], int]] = []

    def add(self, future: asyncio.Future[RecordMetadata], records: int) -> None:
        future.add_done_callback(_noticed)
        self._batches.append((future, records))

    async def acknowledged(self) -> int | None:
        """Waits for the broker. The offset of the last record, None if there is none. Raises KafkaError."""
        if not self._batches:
            return None
        await asyncio.wait([future for future, _ in self._batches])  # whoever tries again does not race with himself
        last = [future.result() for future, _ in self._batches][-1]
        end: int = last.offset + self._batches[-1][1] - 1  # a batch is acknowledged with its first record's offset
        return end


def _noticed(future: asyncio.Future[RecordMetadata]) -> None:
    """Who has stopped waiting has been told; asyncio would log every failure that nobody asks for."""
    if not future.cancelled():
        future.exception()


class Outbox:
    """One producer for records that need no writer of their own (writer.py): dead letters, events, releases."""

    def __init__(self, connection: Connection, request_timeout_seconds: float) -> None:
        self._connection = connection
        self._request_timeout_seconds = request_timeout_seconds
        self._producer: Any = None

    async def start(self) -> None:
        self._producer = AIOKafkaProducer(
            acks="all",
            max_batch_size=BATCH_BYTES,
            max_request_size=REQUEST_BYTES,
            request_timeout_ms=int(1000 * self._request_timeout_seconds),
            **self._connection.options(),
        )
        await self._producer.start()

    async def stop(self) -> None:
        """Sends what is still on its way; harmless when it was never started."""
        if self._producer is not None:
            await self._producer.stop()

    async def send(self, topic: str, partition: int, records: Iterable[KeyValue], timestamp_ms: int) -> Pending:
        """Hands over records (key, value) in order, batch by batch."""
        return await self.send_timed(topic, partition, ((key, value, timestamp_ms) for key, value in records))

    async def send_timed(
        self, topic: str, partition: int, records: Iterable[tuple[bytes, bytes | None, int]]
    ) -> Pending:
        """The same with a time for each record."""
        pending = Pending()
        batch = self._producer.create_batch()
        for key, value, timestamp_ms in records:
            if batch.append(timestamp=timestamp_ms, key=key, value=value) is None:
                pending.add(await self._producer.send_batch(batch, topic, partition=partition), batch.record_count())
                batch = self._producer.create_batch()
                batch.append(timestamp=timestamp_ms, key=key, value=value)
        if batch.record_count():
            pending.add(await self._producer.send_batch(batch, topic, partition=partition), batch.record_count())
        return pending

    async def send_one(
        self, topic: str, key: bytes | None, value: bytes | None, headers: Headers, timestamp_ms: int | None = None
    ) -> Pending:
        """One record with headers, to the partition of its key."""
        pending = Pending()
        sent = await self._producer.send(topic, value, key=key, headers=list(headers), timestamp_ms=timestamp_ms)
        pending.add(sent, 1)
        return pending
