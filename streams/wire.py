"""Requests to the broker by which a partition has one writer: claim a producer id, append a batch under it.

Each is tried once: what to do about a failure is the writer's affair (writer.py). Batches of several partitions that
are ready at the same moment travel in one request. aiokafka's own producer has one producer id for all its partitions,
so its client and its record batches are used without it.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple, Protocol

from aiokafka.client import AIOKafkaClient, ConnectionGroup, CoordinationType
from aiokafka.errors import (
    ConcurrentTransactions,
    CorruptRecordException,
    InvalidProducerEpoch,
    KafkaError,
    LeaderNotAvailableError,
    NodeNotReadyError,
    NoError,
    ProducerFenced,
    for_code,
)
from aiokafka.protocol.produce import ProduceRequest
from aiokafka.protocol.transaction import InitProducerIdRequest
from aiokafka.record.default_records import DefaultRecordBatchBuilder
from aiokafka.structs import TopicPartition

from streams.connection import Connection
from streams.outbox import KeyValue, WithHeaders

_MAGIC = 2
_BATCH_BYTES_MAX = 1 << 30  # the builder's own limit: the writer has cut the batches already
_TRANSACTION_TIMEOUT_MS = 60_000  # the broker wants one; no transaction is ever begun
_PRODUCER_FENCED = 90  # a code that aiokafka does not know; it means the same as an epoch that is over


class ProducerId(NamedTuple):
    """Under which the records of a partition are appended; a broker refuses those of an earlier epoch."""

    number: int
    epoch: int


class _Again(KafkaError):  # type: ignore[misc]  # untyped there
    """What aiokafka counts among the final errors, and Kafka among those that pass."""

    retriable = True


_AGAIN = (ConcurrentTransactions, CorruptRecordException)

_Parcels = dict[tuple[str, int], tuple[bytes, asyncio.Future[tuple[int, int]]]]
"""(topic, partition) → a batch for it, and who waits for the code and the offset that the broker answers."""

UNFENCED = ProducerId(-1, -1)
"""Stands for none: the broker then takes records from everybody."""


class Wire(Protocol):
    """What a writer asks of the broker. Both raise KafkaError, whose `retriable` says whether to try again."""

    async def claim(self, name: str) -> ProducerId:
        """A producer id with an epoch above all that were given out under this name before."""
        ...

    async def append(
        self,
        topic: str,
        partition: int,
        producer: ProducerId,
        sequence: int,
        records: Sequence[KeyValue],
        timestamp_ms: int,
    ) -> int:
        """The offset of the first of these records, once every in-sync replica has them. A batch whose producer and
        sequence the broker has seen is not appended twice. Raises ProducerFenced when the epoch is over."""
        ...


class KafkaWire:
    """The requests over aiokafka's client: one connection to each broker for all partitions."""

    def __init__(self, connection: Connection, request_timeout_seconds: float, topics: Iterable[str]) -> None:
        self._connection = connection
        self._timeout_ms = int(1000 * request_timeout_seconds)
        self._topics = list(topics)
        self._client: Any = None
        self._waiting: dict[int, _Parcels] = {}
        """By the number of their broker: what leaves together before long."""
        self._under_way: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        self._client = AIOKafkaClient(request_timeout_ms=self._timeout_ms, **self._connection.options())
        await self._client.bootstrap()
        await self._client.set_topics(self._topics)

    async def stop(self) -> None:
        """Closes the connections; harmless when they were never opened."""
        if self._client is not None:
            await self._client.close()

    async def claim(self, name: str) -> ProducerId:
        try:
            node = await self._client.coordinator_lookup(CoordinationType.TRANSACTION, name)
            request = InitProducerIdRequest(name, _TRANSACTION_TIMEOUT_MS)
            reply = await self._client.send(node, request, group=ConnectionGroup.COORDINATION)
        except KafkaError:
            self._client.force_metadata_update()
            raise
        _raise_for(reply.error_code)
        return ProducerId(reply.producer_id, reply.producer_epoch)

    async def append(
        self,
        topic: str,
        partition: int,
        producer: ProducerId,
        sequence: int,
        records: Sequence[KeyValue],
        timestamp_ms: int,
    ) -> int:
        leader = self._client.cluster.leader_for_partition(TopicPartition(topic, partition))
        if leader is None or leader < 0:
            self._client.force_metadata_update()
            raise LeaderNotAvailableError(f"{topic}-{partition}")
        batch = record_batch(producer, sequence, records, timestamp_ms)
        code, first = await self._handed_over(leader, topic, partition, batch)
        if getattr(for_code(code), "invalid_metadata", False):
            self._client.force_metadata_update()
        _raise_for(code)
        return first

    def _handed_over(self, leader: int, topic: str, partition: int, batch: bytes) -> asyncio.Future[tuple[int, int]]:
        """Joins what else is handed over to this broker until the event loop has gone round once."""
        if leader in self._waiting and (topic, partition) in self._waiting[leader]:
            self._send(leader)  # a request holds one batch of a partition
        if leader not in self._waiting:
            self._waiting[leader] = {}
            asyncio.get_running_loop().call_soon(self._send, leader)
        answer: asyncio.Future[tuple[int, int]] = asyncio.get_running_loop().create_future()
        self._waiting[leader][topic, partition] = (batch, answer)
        return answer

    def _send(self, leader: int) -> None:
        if leader in self._waiting:
            task = asyncio.create_task(self._deliver(leader, self._waiting.pop(leader)))
            self._under_way.add(task)  # or nobody would hold it
            task.add_done_callback(self._under_way.discard)

    async def _deliver(self, leader: int, parcels: _Parcels) -> None:
        topics: dict[str, list[tuple[int, bytes]]] = defaultdict(list)
        for (topic, partition), (batch, _) in parcels.items():
            topics[topic].append((partition, batch))
        request = ProduceRequest(
            transactional_id=None, required_acks=-1, timeout=self._timeout_ms, topics=list(topics.items())
        )
        try:
            reply = await self._client.send(leader, request)
            answers = {
                (topic, partition): (code, first)
                for topic, partitions in reply.topics
                for partition, code, first, *_ in partitions
            }
            found = [answers[place] for place in parcels]
        except Exception as error:
            if isinstance(error, NodeNotReadyError):
                self._client.force_metadata_update()
            for _, answer in parcels.values():
                if not answer.done():
                    answer.set_exception(error)
            return
        for (_, answer), each in zip(parcels.values(), found, strict=True):
            if not answer.done():  # or nobody waits for it any more
                answer.set_result(each)


def record_batch(producer: ProducerId, sequence: int, records: Sequence[KeyValue], timestamp_ms: int) -> bytes:
    """The bytes that a broker appends: records (key, value) under one producer and sequence."""
    builder = DefaultRecordBatchBuilder(
        _MAGIC,
        compression_type=0,
        is_transactional=0,
        producer_id=producer.number,
        producer_epoch=producer.epoch,
        base_sequence=sequence,
        batch_size=_BATCH_BYTES_MAX,
    )
    for place, (key, value) in enumerate(records):
        builder.append(place, timestamp_ms, key, value, value.headers if isinstance(value, WithHeaders) else [])
    return bytes(builder.build())


def _raise_for(code: int) -> None:
    error = for_code(code)
    if code == _PRODUCER_FENCED or error is InvalidProducerEpoch:
        raise ProducerFenced
    if error is not NoError:
        raise _Again(error.__name__) if error in _AGAIN else error
