"""The only writer of a partition: what a run produced is appended once, in order, or not at all.

A worker that was cut off may wake after another has taken its partitions over. Its late records must not reach a
changelog that the other one has read already. So who is given a partition claims it (`Writers.claim`):

1. He asks the broker for a producer id under the partition's name. That raises its epoch.
2. He appends a record of no meaning, a fence. From then on the broker refuses records of any earlier epoch.
3. Only then does he read the changelog, up to the fence.

So a late record of an earlier writer lies before the fence, and is read, or is refused. No transaction is needed: the
broker checks the epoch of every batch that bears a producer id. The lists of a partition need no fence of their own:
before the first list of the new writer an old one is merely repeated, after it it is refused.

A broker without producer ids (the embedded one) takes records from everybody. There, and before every batch anyway,
a writer asks whether the group has heard from this worker within its session timeout, and waits while it has not.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Container, Iterator, Sequence
from itertools import count
from typing import TypeVar

from aiokafka.errors import KafkaError, KafkaTimeoutError, ProducerFenced

from efficientrec.errors import BrokerUnavailable
from streams.outbox import BATCH_BYTES, KeyValue, WithHeaders
from streams.wire import UNFENCED, ProducerId, Wire

log = logging.getLogger(__name__)

FENCE_KEY = b"\xfffence"  # user ids are UTF-8, in which this byte never occurs
RETRY_SECONDS = (0.2, 0.5, 1, 2, 5)  # the last one repeats while the broker stays away
RECLAIM_SECONDS = 86_400.0  # Kafka forgets a producer's name after seven days, and the epoch would begin again
SEQUENCES = 2**31
NOT_TAKEN = "partition %d: the broker did not take %s (%s); again in %g s"
_RECORD_OVERHEAD = 24  # bytes of a record beside key and value, at most

T = TypeVar("T")
Sleep = Callable[[float], Awaitable[None]]


class PartitionLost(Exception):
    """The partition is another worker's now, or about to be: what was begun is left for whoever gets the run again."""


class Writer:
    """Appends to the topics of one partition from one claim to the next; never twice at a time."""

    def __init__(self, writers: Writers, partition: int, generation: int) -> None:
        self.partition = partition
        self.generation = generation
        self.is_lost = False
        """Another one has claimed the partition."""
        self._writers = writers
        self._leaving = False
        self._has_given_up = False
        self._producer = UNFENCED
        self._claimed_at = 0.0
        self._sequence: dict[str, int] = {}

    async def claim(self) -> int:
        """Makes this the only writer, and returns the offset of its fence. Raises PartitionLost when another one claims
        the partition at the same time, or the group hears nothing of this worker: it cannot join the group again while
        it claims. Raises KafkaError when trying again cannot help."""
        return await self.patiently(self._claim, "the claim of the partition", waits_for_group=False)

    async def append(self, topic: str, records: Sequence[KeyValue], timestamp_ms: int) -> int | None:
        """Returns when every in-sync replica has the records: the offset of the last one, None if there is none.

        Tries until then, however long the broker stays away. Records of one call that together take at most BATCH_BYTES
        arrive all or none. Raises PartitionLost when this is no longer the writer, and KafkaError when trying again
        cannot help.
        """
        last = None
        for batch in _batches(records):
            if self._producer != UNFENCED and time.monotonic() > self._claimed_at + RECLAIM_SECONDS:
                self._check_stay()  # or whoever is given the partition meanwhile would be robbed of it
                await self.claim()
                self._check_stay()
            last = await self.patiently(lambda: self._append(topic, batch, timestamp_ms), f"records for {topic}", topic)  # noqa: B023
        return last

    def leave(self) -> None:
        """What is under way may end; what fails is not tried again."""
        self._leaving = True

    def give_up(self) -> None:
        """Takes nothing more until the next claim: a run was left undone, and none may pass it."""
        self._has_given_up = True
        self._writers.rejoin()

    def check(self) -> None:
        """Raises PartitionLost when another one has claimed the partition, or a run of it was left undone."""
        if self._has_given_up:
            raise PartitionLost(f"an earlier run of partition {self.partition} was left undone")
        if self.is_lost:
            raise PartitionLost(f"another worker has claimed partition {self.partition}")

    def _check_stay(self) -> None:
        if self._leaving:
            raise PartitionLost(f"partition {self.partition} is about to be given back")

    async def _claim(self) -> int:
        writers = self._writers
        if writers.fences:
            self._producer = await writers.wire.claim(f"{writers.name}-{self.partition}")
            self._sequence.clear()
            self._claimed_at = time.monotonic()
        return await self._append(writers.changelog, [(FENCE_KEY, None)], writers.clock())

    async def _append(self, topic: str, batch: Sequence[KeyValue], timestamp_ms: int) -> int:
        sequence = self._sequence.get(topic, 0)
        producer: ProducerId = self._producer
        first = await self._writers.wire.append(topic, self.partition, producer, sequence, batch, timestamp_ms)
        self._sequence[topic] = (sequence + len(batch)) % SEQUENCES
        return first + len(batch) - 1

    async def patiently(
        self, attempt: Callable[[], Awaitable[T]], what: str, topic: str = "", *, waits_for_group: bool = True
    ) -> T:
        """What the attempt returns, as soon as it succeeds. Raises as `append` does. topic: that it appends to, if it
        is one of the partition's own."""
        writers = self._writers
        about = {"topic": topic, "partition": self.partition}
        for failures in count():
            self.check()
            if writers.alive():
                try:
                    done = await attempt()
                    if failures:
                        log.warning("partition %d: the broker has taken %s", self.partition, what, extra=about)
                    return done
                except ProducerFenced as error:
                    self.is_lost = True
                    raise PartitionLost(f"another worker has claimed partition {self.partition}") from error
                except KafkaError as error:
                    if not (error.retriable or isinstance(error, KafkaTimeoutError)):
                        raise
                    reason = repr(error)
            else:
                reason = "the group has not heard from this worker for a session timeout"
            writers.failed(topic)
            if self._leaving or not (waits_for_group or writers.alive()):
                raise PartitionLost(f"partition {self.partition} is given up without {what} ({reason})")
            pause = RETRY_SECONDS[min(failures, len(RETRY_SECONDS) - 1)]
            level = logging.ERROR if failures else logging.WARNING  # the first often passes: a leader has just changed
            log.log(level, NOT_TAKEN, self.partition, what, reason, pause, extra=about)
            await writers.sleep(pause)
        raise AssertionError


class Writers:
    """The writers of the partitions that are this worker's now."""

    def __init__(
        self,
        wire: Wire,
        name: str,
        changelog: str,
        *,
        fences: bool,
        alive: Callable[[], bool],
        clock: Callable[[], int],
        failed: Callable[[str], None] = lambda topic: None,
        rejoin: Callable[[], None] = lambda: None,
        sleep: Sleep = asyncio.sleep,
    ) -> None:
        """name: under which partitions are claimed; the same for all workers of a group and for nobody else. fences:
        whether the broker knows producer ids. alive: whether the group has heard from this worker lately. clock:
        milliseconds since 1970. failed: called for each attempt that failed, with the topic of `Writer.patiently`.
        rejoin: asks the group to deal partitions anew, since one was given up."""
        self.wire = wire
        self.name = name
        self.changelog = changelog
        self.fences = fences
        self.alive = alive
        self.clock = clock
        self.failed = failed
        self.rejoin = rejoin
        self.sleep = sleep
        self._writers: dict[int, Writer] = {}

    async def check(self, seconds: float) -> None:
        """Raises BrokerUnavailable when the broker gives out no producer ids: better at the start than with partitions
        in hand. seconds: how long a broker that is just starting may take."""
        deadline = time.monotonic() + seconds
        while self.fences:
            try:
                await self.wire.claim(f"{self.name}-check")
                return
            except KafkaError as error:
                if error.retriable and time.monotonic() < deadline:
                    await self.sleep(RETRY_SECONDS[0])
                    continue
                if error.retriable:
                    cure = f"it did not for {seconds:g} s: see whether its topic __transaction_state has its replicas"
                else:
                    cure = (
                        f"allow this client to use the transactional ids {self.name}-*, or, with the embedded broker, "
                        "set EFFICIENTREC_FENCING=off"
                    )
                raise BrokerUnavailable(
                    f"the broker gives out no producer ids ({error!r}), without which a worker that has lost a "
                    f"partition could still write to it; {cure}"
                ) from error

    async def claim(self, partition: int, generation: int) -> int:
        """Takes a partition over for this generation of the group; the offset of the fence, the changelog's last.
        Raises as `Writer.claim` does; nothing is written to the partition then until it is claimed once more."""
        before = self._writers.pop(partition, None)
        if before is not None:
            before.leave()
            before.is_lost = True
        writer = self._writers[partition] = Writer(self, partition, generation)
        try:
            return await writer.claim()
        except PartitionLost:
            writer.give_up()
            raise

    def of(self, partition: int, generation: int) -> Writer:
        """The writer of a run that was delivered in this generation. Raises PartitionLost when its time is over: what
        was fetched for an earlier claim may leave out what another worker has not handled."""
        writer = self._writers.get(partition)
        if writer is None or writer.generation != generation:
            raise PartitionLost(
                f"a run of partition {partition} was delivered in generation {generation}, which is over"
            )
        return writer

    def keep(self, partitions: Container[int]) -> None:
        """Forgets the writers of all other partitions: they are somebody else's now."""
        self._writers = {number: writer for number, writer in self._writers.items() if number in partitions}

    def leave(self) -> None:
        """Partitions are about to be given back: whoever waits for a broker stops waiting."""
        for writer in self._writers.values():
            writer.leave()


def _batches(records: Sequence[KeyValue]) -> Iterator[list[KeyValue]]:
    """The records in order, in batches of at most BATCH_BYTES; a larger record has one of its own."""
    batch: list[KeyValue] = []
    size = 0
    for key, value in records:
        more = len(key) + len(value or b"") + _RECORD_OVERHEAD
        if isinstance(value, WithHeaders):
            more += sum(len(name) + len(text) + _RECORD_OVERHEAD for name, text in value.headers)
        if batch and size + more > BATCH_BYTES:
            yield batch
            batch, size = [], 0
        batch.append((key, value))
        size += more
    if batch:
        yield batch
