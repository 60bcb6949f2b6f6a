"""Kafka and RocksDB in memory, with their rules and without their machinery.

Whatever would wait for a network yields a `Tick`, so who drives the coroutines decides what happens between any two
requests. The rules are those that the real parts promise: a broker checks epoch and sequence of what bears a producer
id, partition by partition; a disk without a write-ahead log falls back to an earlier whole state.
"""

from __future__ import annotations

import random
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import NamedTuple, TypeVar

from aiokafka.errors import (
    KafkaConnectionError,
    KafkaError,
    MessageSizeTooLargeError,
    OutOfOrderSequenceNumber,
    ProducerFenced,
    RequestTimedOutError,
)

from efficientrec.errors import StateUnwritable
from streams.outbox import Headers, KeyValue
from streams.placement import partitions_of
from streams.transport import Run
from streams.wire import UNFENCED, ProducerId
from streams.writer import FENCE_KEY

REMEMBERED = 5
"""Batches of a producer that Kafka knows again."""
LETTER_BYTES_MAX = 2_000
Place = tuple[str, int]
"""Topic and partition."""
T = TypeVar("T")


class Request(NamedTuple):
    """What goes to the broker, and what happens when it gets there."""

    name: str
    send: Callable[[], object]


class Tick:
    """A moment at which somebody else may go on. request: what leaves for the broker right after it."""

    def __init__(self, name: str, request: Request | None = None) -> None:
        self.name = name
        self.request = request

    def __await__(self) -> Generator[Tick, None, None]:
        yield self


class Note(NamedTuple):
    """What the harness, not the broker, knows of a batch."""

    run: Run | None
    """The run that it comes from; None for a fence."""
    model: str | None
    """Version in service when the run was begun."""
    worker: str


class Entry(NamedTuple):
    offset: int
    key: bytes | None
    value: bytes | None
    headers: Headers
    timestamp: int


class Batch(NamedTuple):
    entries: list[Entry]
    producer: ProducerId
    sequence: int
    note: Note | None


@dataclass
class _Known:
    """What a partition knows of a producer."""

    epoch: int
    last: deque[Batch] = field(default_factory=lambda: deque(maxlen=REMEMBERED))


class Log:
    """One partition: batches in order, offsets with gaps."""

    def __init__(self, rng: random.Random, gaps: float) -> None:
        self._rng = rng
        self._gaps = gaps
        self.batches: list[Batch] = []
        self.next = 0
        self._known: dict[int, _Known] = {}

    def append(
        self,
        records: Sequence[tuple[bytes | None, bytes | None, Headers, int]],
        producer: ProducerId = UNFENCED,
        sequence: int = 0,
        note: Note | None = None,
    ) -> tuple[int, Batch | None]:
        """The offset of the first record, and the batch unless it was there already."""
        if producer != UNFENCED:
            known = self._known.get(producer.number)
            if known is not None and producer.epoch < known.epoch:
                raise ProducerFenced
            if known is not None and producer.epoch == known.epoch:
                for batch in known.last:
                    if (batch.sequence, len(batch.entries)) == (sequence, len(records)):
                        return batch.entries[0].offset, None
                if sequence != known.last[-1].sequence + len(known.last[-1].entries):
                    raise OutOfOrderSequenceNumber
            elif known is not None and sequence != 0:
                raise OutOfOrderSequenceNumber
        if self._gaps and self._rng.random() < self._gaps:
            self.next += 1  # the marker of somebody's transaction
        entries = [Entry(offset, *record) for offset, record in enumerate(records, self.next)]
        self.next += len(entries)
        batch = Batch(entries, producer, sequence, note)
        self.batches.append(batch)
        self._learn(batch)
        return entries[0].offset, batch

    def truncate(self, batches: int) -> int:
        """Loses the last batches, and what is known from them of producers; the new end."""
        del self.batches[len(self.batches) - batches :]
        self.next = self.batches[-1].entries[-1].offset + 1 if self.batches else 0
        self._known.clear()
        for batch in self.batches:
            self._learn(batch)
        return self.next

    def _learn(self, batch: Batch) -> None:
        if batch.producer != UNFENCED:
            known = self._known.get(batch.producer.number)
            if known is None or known.epoch != batch.producer.epoch:
                known = self._known[batch.producer.number] = _Known(batch.producer.epoch)
            known.last.append(batch)

    def entries(self) -> Iterator[Entry]:
        for batch in self.batches:
            yield from batch.entries

    @property
    def end(self) -> int:
        """After the last record."""
        return self.batches[-1].entries[-1].offset + 1 if self.batches else 0


class Broker:
    """All partitions, the epochs of names, and what is still on its way."""

    def __init__(self, rng: random.Random, gaps: float) -> None:
        self.logs: dict[Place, Log] = defaultdict(lambda: Log(rng, gaps))
        self.is_away = False
        self.held: list[Request] = []
        """Requests that the network keeps; they arrive later, or never."""
        self.watch: Callable[[Place, Batch], None] = lambda place, batch: None
        self._names: dict[str, ProducerId] = {}

    def claim(self, name: str) -> ProducerId:
        number, epoch = self._names.get(name, (len(self._names), -1))
        self._names[name] = ProducerId(number, epoch + 1)
        return self._names[name]

    def append(
        self,
        place: Place,
        records: Sequence[tuple[bytes | None, bytes | None, Headers, int]],
        producer: ProducerId = UNFENCED,
        sequence: int = 0,
        note: Note | None = None,
    ) -> int:
        first, batch = self.logs[place].append(records, producer, sequence, note)
        if batch is not None:
            self.watch(place, batch)
        return first


class Network:
    """What becomes of a worker's requests."""

    def __init__(self, broker: Broker, rng: random.Random, struck: Counter[str]) -> None:
        self.broker = broker
        self.struck = struck
        self.failing = 0.0
        """How often a request fails."""
        self.delays = True
        """Whether a request can arrive after its sender has given it up."""
        self._rng = rng

    async def ask(self, name: str, send: Callable[[], T]) -> T:
        await Tick(name, Request(name, send))
        if self.broker.is_away:
            self.struck["broker away"] += 1
            raise KafkaConnectionError("the broker is away")
        if self._rng.random() < self.failing:
            fate = self._rng.random()
            if fate < 0.35:
                self.struck["request lost"] += 1
                raise RequestTimedOutError
            if fate < 0.6 and self.delays:
                self.struck["request held back"] += 1
                self.broker.held.append(Request(name, send))
                raise RequestTimedOutError
            with suppress(KafkaError):
                send()
            self.struck["answer lost"] += 1
            raise RequestTimedOutError
        try:
            answer = send()
        except ProducerFenced:
            self.struck["earlier writer refused"] += 1
            raise
        await Tick(f"answer to {name}")
        return answer


class Wire:
    """streams.wire.Wire of one worker."""

    def __init__(self, network: Network, note: Callable[[int], Note]) -> None:
        """note: what there is to know of a batch for a partition."""
        self._network = network
        self._note = note

    async def claim(self, name: str) -> ProducerId:
        return await self._network.ask("claim", lambda: self._network.broker.claim(name))

    async def append(
        self,
        topic: str,
        partition: int,
        producer: ProducerId,
        sequence: int,
        records: Sequence[KeyValue],
        timestamp_ms: int,
    ) -> int:
        note = self._note(partition)
        is_fence = records[0][0] == FENCE_KEY
        what = "fence" if is_fence else "rows" if topic.endswith("changelog") else "lists"
        stamped = [(key, value, (), timestamp_ms) for key, value in records]
        return await self._network.ask(
            what,
            lambda: self._network.broker.append((topic, partition), stamped, producer, sequence, note),
        )


class _Posted:
    """A record that was handed over: it may arrive at any time from then on."""

    def __init__(self, network: Network, place: Place, record: tuple[bytes | None, bytes | None, Headers, int]) -> None:
        self._network = network
        self._is_too_large = place[0].endswith("dlq.v1") and len(record[0] or b"") + len(record[1] or b"") > (
            LETTER_BYTES_MAX
        )
        self._has_arrived = False

        def arrive() -> None:
            if not self._has_arrived and not self._is_too_large:
                network.broker.append(place, [record])
            self._has_arrived = True

        self._request = Request("post", arrive)
        network.broker.held.append(self._request)

    async def acknowledged(self) -> int | None:
        if self._is_too_large:
            raise MessageSizeTooLargeError
        if self._request in self._network.broker.held:
            self._network.broker.held.remove(self._request)
        await self._network.ask("post", self._request.send)
        return 0


class Post:
    """streams.aside.Post of one worker."""

    def __init__(self, network: Network, partitions: dict[str, int]) -> None:
        self._network = network
        self._partitions = partitions

    async def send_one(
        self, topic: str, key: bytes | None, value: bytes | None, headers: Headers, timestamp_ms: int | None = None
    ) -> _Posted:
        partition = int(partitions_of([key or b""], self._partitions[topic])[0])
        return _Posted(self._network, (topic, partition), (key, value, tuple(headers), timestamp_ms or 0))


class Disk:
    """One partition's RocksDB without write-ahead log."""

    def __init__(self) -> None:
        self.rows: dict[bytes, bytes] = {}
        self.offset: int | None = None
        self._durable: tuple[dict[bytes, bytes], int | None] = ({}, None)
        self._writes: list[tuple[list[KeyValue], int]] = []

    def write(self, rows: Iterable[KeyValue], changelog_offset: int) -> None:
        rows = list(rows)
        self._writes.append((rows, changelog_offset))
        self._apply(rows, changelog_offset)

    def _apply(self, rows: Iterable[KeyValue], changelog_offset: int) -> None:
        for key, value in rows:
            if value is None:
                self.rows.pop(key, None)
            else:
                self.rows[key] = value
        self.offset = changelog_offset

    def close(self) -> None:
        """All that was written stays."""
        self._durable = (dict(self.rows), self.offset)
        self._writes.clear()

    def crash(self, rng: random.Random) -> bool:
        """Falls back to the state after one of the writes since it was closed; whether that is an earlier one."""
        kept, fell = self._writes[: rng.randint(0, len(self._writes))], len(self._writes)
        self.rows, self.offset = dict(self._durable[0]), self._durable[1]
        for rows, offset in kept:
            self._apply(rows, offset)
        self.close()
        return len(kept) < fell

    def lose(self) -> None:
        """A new disk."""
        self.__init__()  # type: ignore[misc]


class Store:
    """streams.refresh.Store of one worker: its disks, until it is closed or dies."""

    def __init__(self, disks: dict[int, Disk]) -> None:
        self._disks = disks
        self.is_full = False
        self.ends: dict[int, int] = {}
        """Where the changelog ended when the partitions were claimed."""

    def read(self, partition: int, keys: Sequence[bytes]) -> list[bytes | None]:
        rows = self._disks[partition].rows
        return [rows.get(key) for key in keys]

    def write(self, partition: int, rows: Iterable[KeyValue], changelog_offset: int) -> None:
        if self.is_full:
            raise StateUnwritable("no space is left on the device")
        self._disks[partition].write(rows, changelog_offset)
