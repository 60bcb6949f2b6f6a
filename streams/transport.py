"""A fetched run of records of one partition as one Faust event.

Faust hands an agent one record at a time and spends about 100 µs on each. Here every message that Faust sees stands for
a whole run of records: its offset is the last record's, its value the list of them. Partition, flow control, rebalance,
recovery and commit stay Faust's; only the two places where it counts offsets one by one are replaced.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from aiokafka.errors import IllegalStateError
from aiokafka.structs import ConsumerRecord, TopicPartition
from faust.transport.drivers import aiokafka as driver
from faust.types import TP, ConsumerMessage, Message

from streams.offsets import end_offsets


@dataclass(slots=True, eq=False)
class Run:
    """Records of one partition, in offset order, at least one."""

    topic: str
    partition: int
    records: list[ConsumerRecord[bytes | None, bytes | None]]
    handled: bool = False
    """Set when everything that the run asks for is safe. Faust acknowledges an event as well when its agent is
    cancelled or raises; only this flag lets the commit pass."""

    @classmethod
    def from_data(cls, data: Run, *, preferred_type: object = None) -> Run:
        """Faust asks a topic's value type to decode a record; the worker decodes a run's records all at once."""
        return data


class ConsumerThread(driver.AIOKafkaConsumerThread):
    """Faust's, with our own wait for new records, which Faust fixes at 1.5 seconds."""

    def _create_worker_consumer(self, transport: Transport) -> Any:
        consumer = super()._create_worker_consumer(transport)
        consumer._fetch_max_wait_ms = int(1000 * self.app.fetch_wait_seconds)
        return consumer


class Consumer(driver.Consumer):
    """Delivers runs, and commits only what was delivered to the present generation and acknowledged."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._delivered: dict[TP, deque[int]] = defaultdict(deque)
        """Last offsets of the runs that were handed out and not yet committed, in order."""
        self._seeks = 0
        """Starts and ends of seeks to the committed offsets: odd while one is under way."""
        self._sought: int | None = None
        """The generation whose partitions stand at their committed offsets."""

    def _new_consumer_thread(self) -> ConsumerThread:
        return ConsumerThread(self, loop=self.loop, beacon=self.beacon)

    async def getmany(self, timeout: float) -> AsyncIterator[tuple[TP, Message]]:
        """Runs of what a fetch brought; what cannot be delivered now goes back, and will be fetched again.

        A fetch waits up to a second, and a rebalance or a recovery may begin or end meanwhile. Faust lets such records
        go and seeks to the committed offsets, which moves nothing where nothing was ever committed. It also lets the
        sources flow before that seek has ended: of what is delivered twice then, it may drop both copies. Here they
        flow when a generation's seek has ended, and with what was fetched after it.
        """
        seeks = self._seeks
        records, active = await self._wait_next_records(timeout)
        generation = self.app.consumer_generation_id
        if records is None or self.should_stop:
            return
        returned: set[TP] = set()
        for tp, run in _dealt(records, self.app.run_events_max):
            if tp in returned or self.app.consumer_generation_id != generation:
                continue  # of a partition that was assigned anew every position is new as well
            is_source = self.app.topics.acks_enabled_for(tp.topic)
            is_settled = not is_source or (seeks == self._seeks and seeks % 2 == 0 and self._sought == generation)
            is_open = active is None or tp in active or tp in self._buffered_partitions
            if not (self.flow_active and is_open and is_settled):
                returned.add(tp)
                with suppress(IllegalStateError):  # the partition has gone to another worker
                    await self._seek(tp, run.records[0].offset)
                continue
            self.app.monitor.track_tp_end_offset(tp, self.highwater(tp) or 0)
            if is_source:
                delivered = self._delivered[tp]
                while delivered and delivered[-1] >= run.records[0].offset:
                    delivered.pop()  # delivered again, perhaps in other runs, of which some were lost on their way
                delivered.append(run.records[-1].offset)
            yield tp, self._message(tp, run)

    def _message(self, tp: TP, run: Run) -> ConsumerMessage:
        message = self._to_message(tp, run.records[-1])
        message.value = run
        return message

    def ack(self, message: Message) -> bool:
        """What was not handled counts for nothing, nor what belongs to an earlier generation: both are read again."""
        if message.value.handled and message.generation_id == self.app.consumer_generation_id:
            counted: bool = super().ack(message)
            return counted
        message.acked = True
        self._unacked_messages.discard(message)
        return False

    def _new_offset(self, tp: TP) -> int | None:
        """Offset after the last run of an unbroken row of acknowledged ones; None when there is none.

        Faust's own looks for gaps between offsets, of which runs consist, and stays stuck for ever when the first run
        of a partition is a single record. A run that came twice is not acknowledged twice, so what lies below the
        committed offset counts as done.
        """
        delivered, acked, committed = self._delivered[tp], self._acked_index[tp], self._committed_offset[tp]
        newest = None
        while delivered and (delivered[0] in acked or delivered[0] < (committed or 0)):
            newest = delivered.popleft()
            acked.discard(newest)
        self._acked[tp] = sorted(acked)
        return None if newest is None else newest + 1

    async def _add_gap(self, tp: TP, offset_from: int, offset_to: int) -> None:
        """Offsets between runs are no gaps: what is committed follows from what was delivered."""

    async def highwaters(self, *partitions: TP) -> Mapping[TP, int]:
        """Recovery reads up to these; see offsets.py for why the consumer's own are not asked."""
        servers = driver.server_list(self.transport.url, self.transport.default_port)
        ends = await end_offsets(servers, [TopicPartition(tp.topic, tp.partition) for tp in partitions])
        return {TP(tp.topic, tp.partition): end for tp, end in ends.items()}

    async def perform_seek(self) -> None:
        self._seeks += 1
        generation = self.app.consumer_generation_id
        self._forget(set(self._delivered))
        try:
            await super().perform_seek()
            self._sought = generation
        finally:
            self._seeks += 1

    async def on_partitions_revoked(self, revoked: set[TP]) -> None:
        await super().on_partitions_revoked(revoked)
        self._forget(revoked)

    def _forget(self, partitions: set[TP]) -> None:
        """What was handed out of these partitions will be delivered again, from the committed offset."""
        for tp in partitions:
            self._delivered.pop(tp, None)
            self._acked.pop(tp, None)
            self._acked_index.pop(tp, None)


class Transport(driver.Transport):
    """Faust's aiokafka transport with our consumer."""

    Consumer = Consumer


def _dealt(records: Mapping[Any, list[Any]], most: int) -> Iterator[tuple[TP, Run]]:
    """Runs of at most `most` records, partition by partition in turn: none waits for all of another's records."""
    waiting = deque((partition, batch, 0) for partition, batch in records.items() if batch)
    while waiting:
        partition, batch, first = waiting.popleft()
        end = min(first + most, len(batch))
        tp = TP(partition.topic, partition.partition)
        yield tp, Run(tp.topic, tp.partition, batch[first:end])
        if end < len(batch):
            waiting.append((partition, batch, end))
