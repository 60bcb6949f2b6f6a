"""Fetched runs of records, from the consumer straight into their lanes.

Faust hands an agent one record at a time, through a handler, a stream and two queues, and spends about 100 µs on each;
four times as much on one that stands for a run. Here runs go round all that. Assignment, flow control, rebalance,
recovery and the rhythm of commits stay Faust's; what is handed out and what may be committed is decided here.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections import Counter, defaultdict, deque
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from aiokafka.errors import IllegalStateError
from aiokafka.structs import ConsumerRecord, TopicPartition
from faust.transport.drivers import aiokafka as driver
from faust.types import TP

from efficientrec.errors import SourceTruncated
from streams.changelog import Batch, Stretch, keep_batches, stretches
from streams.offsets import end_offsets, position

log = logging.getLogger(__name__)

RUNS_WAITING = 2
"""Full runs of a partition that may wait in memory, the one that is being handled among them."""
FETCH_SECONDS = 1.0
"""How long a fetch may wait for records; it ends with the first."""
FULL_SECONDS = 0.02
"""How long a fetch from the other partitions may wait while one is full."""


@dataclass(slots=True, eq=False)
class Run:
    """Records of one partition, in offset order, at least one."""

    topic: str
    partition: int
    records: list[ConsumerRecord[bytes | None, bytes | None]]
    generation: int = 0
    """Of the group, when the run was delivered. A partition may have been another worker's between two of them."""
    handled: bool = False
    """Set when everything that the run asks for is safe: only this lets the commit pass."""
    follows: Run | None = None
    """The run that was handed out before it."""

    @property
    def first(self) -> int:
        """Offset of the first record."""
        offset: int = self.records[0].offset
        return offset

    @property
    def last(self) -> int:
        """Offset of the last record."""
        offset: int = self.records[-1].offset
        return offset

    def is_next(self) -> bool:
        """Whether nothing before it was left undone. If it went first, it would pass for all that lies before it."""
        if self.follows is not None and self.follows.handled:
            self.follows = None  # or every run of the past would be kept
        return self.follows is None


class ConsumerThread(driver.AIOKafkaConsumerThread):
    """Faust's, with our own wait for new records, which Faust fixes at 1.5 seconds, and an ear for heartbeats."""

    heard_at = -math.inf
    """When the last sign of life was sent that the group has answered, by `elapsed`."""

    async def on_start(self) -> None:
        await super().on_start()
        coordinator: Any = self._consumer._coordinator
        heartbeat = coordinator._do_heartbeat

        async def heard() -> bool:
            sent_at = elapsed()
            answered: bool = await heartbeat()
            if answered:
                self.heard_at = sent_at
            return answered

        coordinator._do_heartbeat = heard
        keep_batches(self._consumer._fetcher, self.app.table.changelog_topic.get_topic_name())

    async def on_thread_stop(self) -> None:
        """Leaves the group, unless that takes longer than the group waits for a member: a rebalance may be under way
        which asks for this worker's part, and nobody here answers any more."""
        try:
            await asyncio.wait_for(super().on_thread_stop(), self.app.conf.broker_session_timeout)
        except TimeoutError:
            log.warning("the group was left without a word: it was dealing partitions anew")

    def _stopped_set(self) -> None:
        if self.thread_loop.is_closed():  # an error has ended the thread, and nobody waits in it
            self._stopped.set()
        else:
            super()._stopped_set()

    def _create_worker_consumer(self, transport: Transport) -> Any:
        consumer = super()._create_worker_consumer(transport)
        consumer._fetch_max_wait_ms = int(1000 * self.app.fetch_wait_seconds)
        return consumer


class Consumer(driver.Consumer):
    """Delivers runs, and commits only those that were delivered to the present generation and handled."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._delivered: dict[TP, deque[Run]] = defaultdict(deque)
        """The runs that were handed out and not yet committed, in order."""
        self._done: dict[TP, int] = {}
        """Offset after the last run of an unbroken row of handled ones: what may be committed."""
        self._read_to: dict[TP, int] = {}
        """Where the last fetch that brought nothing ended. Beyond the last record: a transaction ends with a marker."""
        self._moves: Counter[TP] = Counter()
        """Starts and ends of recovery's seeks in a changelog partition: odd while one is under way."""
        self._restored_from: dict[TP, int] = {}
        """Where recovery's last seek went to."""
        self._opening: object | None = None
        """Made whenever the sources begin to flow; None while they must not."""

    def _new_consumer_thread(self) -> ConsumerThread:
        return ConsumerThread(self, loop=self.loop, beacon=self.beacon)

    async def _drain_messages(self, fetcher: Any) -> None:
        """Delivers until the end; an error ends the worker."""
        try:
            while not (self.should_stop or fetcher.should_stop):
                await self.deliver(FETCH_SECONDS)
                await asyncio.sleep(0)
        except (*self.consumer_stopped_errors, asyncio.CancelledError):
            if not self.app.should_stop:
                raise

    async def deliver(self, timeout: float) -> None:
        """Runs of the sources go to their lanes, those of the changelog to disk.

        A fetch waits up to a second, and a rebalance or a recovery may begin or end meanwhile. What cannot be delivered
        then goes back and will be fetched again, where Faust lets it go and relies on a seek to the committed offsets,
        which moves nothing where nothing was ever committed.
        """
        opening, moves = self._opening, self._moves.copy()
        records, active = await self._wait_next_records(timeout)
        generation = self.app.consumer_generation_id
        if records is None or self.should_stop:
            return
        returned: set[TP] = set()
        for tp, run in _dealt(records, self.app.run_events_max):
            if tp in returned or self.app.consumer_generation_id != generation:
                continue  # of a partition that was assigned anew every position is new as well
            is_open = self.flow_active and (active is None or tp in active or tp in self._buffered_partitions)
            if isinstance(run, Run):
                is_current, origin = opening is not None and opening is self._opening, self._committed_offset[tp]
            else:
                is_current, origin = moves[tp] == self._moves[tp] and moves[tp] % 2 == 0, self._restored_from.get(tp)
            if not (is_open and is_current):
                returned.add(tp)
                # A seek that has moved the partition meanwhile may have gone back further than this fetch began.
                await self._give_back(tp, run.first if is_current or origin is None else min(run.first, origin))
            elif isinstance(run, Run):
                run.generation = generation
                self._hand_out(tp, run)
                self.app.lanes.put(run)
                self.app.monitor.stream_inbound_time[tp] = time.monotonic()  # or Faust would take it for stuck
            else:
                self.app.tables.recovery.restore(tp, run)
                await asyncio.sleep(0)
        if opening is not None and opening is self._opening:
            self._note_ends(tp for tp in active or () if tp not in records and tp.topic in self.app.sources)

    def _note_ends(self, tps: Iterable[TP]) -> None:
        for tp in tps:
            read_to = self._position(tp)
            if read_to is not None:
                self._read_to[tp] = read_to

    def _position(self, tp: TP) -> int | None:
        """As of `position`; None before the consumer is made."""
        consumer = self._thread._consumer
        return None if consumer is None else position(consumer, tp)

    async def _wait_next_records(self, timeout: float) -> tuple[Any, set[TP] | None]:
        """Faust's, but for partitions of which enough waits in memory: they are left out for the moment. And while
        there are none, as at the end of a recovery, Faust would sleep for a second."""
        most = RUNS_WAITING * self.app.run_events_max
        full = {tp for tp in self._delivered if self.app.waiting(tp) >= most}
        active = self._get_active_partitions() - full if self.flow_active else set()
        if active and full:
            return await self._getmany(active, FULL_SECONDS), active
        if active or not self.flow_active:
            found: tuple[Any, set[TP] | None] = await super()._wait_next_records(timeout)
            return found
        await self.sleep(FULL_SECONDS)
        return {}, active

    async def _give_back(self, tp: TP, offset: int) -> None:
        with suppress(IllegalStateError):  # the partition has gone to another worker
            await self._seek(tp, offset)

    def open_sources(self) -> None:
        """Lets the sources flow, with what is fetched from now on.

        Not before recovery has ended: to the very last it resumes the flow, and Faust empties the queues of its agents
        whenever it does. A run that was in one of them would never be handled, nor would any after it be committed.
        """
        self._opening = object()

    def _hand_out(self, tp: TP, run: Run) -> None:
        """Notes the run. It may come again, and be cut otherwise: some were lost on their way, others are handled."""
        delivered, again = self._delivered[tp], []
        while delivered and delivered[-1].last >= run.first:
            again.append(delivered.pop())
        run.handled = bool(again) and all(each.handled for each in again) and again[0].last >= run.last
        run.follows = delivered[-1] if delivered else None
        delivered.append(run)

    def _new_offset(self, tp: TP) -> int | None:
        """Offset after the last run of an unbroken row of handled ones; None when there was none.

        Faust's own looks at what an agent has acknowledged. Here only a run counts that is marked as handled and
        belongs to the present generation: everything else is read again.
        """
        delivered, committed = self._delivered[tp], self._committed_offset[tp] or 0
        while delivered and (delivered[0].handled or delivered[0].last < committed):
            if delivered[0].generation != self.app.consumer_generation_id:
                break
            self._done[tp] = delivered.popleft().last + 1
        return self._done.get(tp)

    def first_undone(self, tp: TP) -> tuple[int, int | None]:
        """Offset of the first record of a source that is not yet handled, and the broker's time of it in milliseconds,
        None where it was not delivered yet."""
        offset = max(self._committed_offset.get(tp) or 0, self._done.get(tp, 0), self._read_to.get(tp, 0))
        for run in self._delivered.get(tp, ()):
            if not run.handled:
                return run.first, run.records[0].timestamp
            offset = max(offset, run.last + 1)
        return offset, None

    def committed(self, tp: TP) -> int:
        """Offset up to which there is nothing left to commit, as far as this worker knows: what lies behind the last
        record that was handled and is none, such as a transaction's marker, never is."""
        committed = self._committed_offset.get(tp) or 0
        if self._delivered.get(tp) or self._done.get(tp, 0) > committed:
            return committed
        return max(committed, self._read_to.get(tp, 0))

    def _filter_tps_with_pending_acks(self, topics: Any = None) -> Iterator[TP]:
        """Where there may be something to commit."""
        return (tp for tp in list(self._delivered) if topics is None or tp in topics or tp.topic in topics)

    async def _commit_offsets(self, offsets: Mapping[TP, int], start_new_transaction: bool = True) -> bool:
        """Faust takes offsets for committed whether the broker took them or not; what it did not is due again."""
        if self.crashed:
            return False  # the thread that would commit may be gone; what was handled comes again, and is skipped
        before = {tp: self._committed_offset[tp] for tp in offsets}
        try:
            did_commit: bool = await super()._commit_offsets(offsets, start_new_transaction)
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is None or task.cancelling():
                raise
            did_commit = False  # not we were cancelled: the consumer's thread has come to its end, after a crash
        if not did_commit:
            self._committed_offset.update(before)
            log.warning("offsets of %d partitions were not committed, and are due again", len(before))
        return did_commit

    def highwater(self, tp: TP) -> int:
        """Offset after the last record; 0 where it is not known, or the partition has just gone to another worker."""
        try:
            return super().highwater(tp) or 0
        except AssertionError:  # aiokafka's, in whose thread partitions come and go
            return 0

    async def highwaters(self, *partitions: TP) -> Mapping[TP, int]:
        """Recovery reads up to these: the fences that this worker has put into the changelog (writer.py), and what is
        there already of partitions that it only keeps a copy of. See offsets.py for why the consumer is not asked."""
        fences = self.app.table.store.ends
        copies = [TopicPartition(tp.topic, tp.partition) for tp in partitions if tp.partition not in fences]
        ends = await end_offsets(self.app.connection, copies) if copies else {}
        return {tp: fences.get(tp.partition) or ends[TopicPartition(tp.topic, tp.partition)] for tp in partitions}

    def is_alive(self) -> bool:
        """Whether the group has heard from this worker within its session timeout. If not, it may have given the
        partitions away."""
        silent: float = elapsed() - self._thread.heard_at
        return silent < float(self.app.conf.broker_session_timeout)

    def rejoin(self) -> None:
        """Has the group deal partitions anew."""
        thread: Any = self._thread
        thread.thread_loop.call_soon_threadsafe(thread._consumer._coordinator.request_rejoin)

    async def perform_seek(self) -> None:
        self._opening = None
        self._read_to.clear()
        self._forget(set(self._delivered))
        await super().perform_seek()
        await self._seek_to_state()

    async def seek_wait(self, partitions: Mapping[TP, int]) -> None:
        self._moves.update(partitions.keys())
        self._restored_from.update(partitions)
        try:
            await super().seek_wait(partitions)
        finally:
            self._moves.update(partitions.keys())

    async def _seek_to_state(self) -> None:
        """What the changelog has lost (a broker that died, a topic made anew) was committed all the same: such events
        are read once more. Raises SourceTruncated when the state knows of more events than there are."""
        progress: dict[TP, int] = self.app.progress()
        bounds = await self._bounds(progress) if progress else {}
        for tp, known in progress.items():
            start, end = bounds[tp]
            if known > end:
                raise SourceTruncated(
                    f"partition {tp.partition} of {tp.topic} ends at offset {end}, but profiles have taken in events "
                    f"up to {known}: the topic was made anew or has lost records, and what comes next would pass for "
                    "folded; restore the topic, or start with empty profiles under another EFFICIENTREC_GROUP"
                )
            committed = self._committed_offset.get(tp)
            if known < start and committed is not None:
                log.error(
                    "partition %d of %s begins at offset %d, but its profiles have got to %d only: the events between "
                    "were deleted before any worker came to them; let the topic keep its records for longer",
                    *(tp.partition, tp.topic, start, known),
                    extra={"topic": tp.topic, "partition": tp.partition, "offset": start},
                )
            if committed is not None and known < committed:
                log.warning(
                    "partition %d of %s was committed up to %d, its profiles reach up to %d: going back there",
                    *(tp.partition, tp.topic, committed, known),
                    extra={"topic": tp.topic, "partition": tp.partition, "offset": known},
                )
                await self.seek(tp, known)
                self._committed_offset[tp] = known
                await self._commit({tp: known})  # or a crash before its lists are out would pass them over

    async def _bounds(self, tps: Iterable[TP]) -> dict[TP, tuple[int, int]]:
        """Where each partition begins and ends."""
        places = {TopicPartition(tp.topic, tp.partition): tp for tp in tps}
        starts = await self.earliest_offsets(*places.values())
        ends = await end_offsets(self.app.connection, places)
        return {tp: (starts.get(tp) or 0, ends[place]) for place, tp in places.items()}

    async def on_partitions_assigned(self, assigned: set[TP], generation_id: int = 0) -> None:
        self._thread.heard_at = elapsed()  # to have joined is a sign of life
        await super().on_partitions_assigned(assigned, generation_id)

    async def on_partitions_revoked(self, revoked: set[TP]) -> None:
        self.app.observer.phases.asked()
        self.app.leave()
        await super().on_partitions_revoked(revoked)
        self._forget(revoked)

    def _forget(self, partitions: set[TP]) -> None:
        """What was handed out of these partitions will be delivered again, from the committed offset."""
        for tp in partitions:
            self._delivered.pop(tp, None)
            self._done.pop(tp, None)
            self._read_to.pop(tp, None)


def elapsed() -> float:
    """Seconds on a clock that goes on while the process, or the whole machine, sleeps."""
    return time.clock_gettime(time.CLOCK_BOOTTIME) if hasattr(time, "CLOCK_BOOTTIME") else time.monotonic()


class Transport(driver.Transport):
    """Faust's aiokafka transport with our consumer."""

    Consumer = Consumer


def _dealt(fetched: Mapping[Any, list[Any]], most: int) -> Iterator[tuple[TP, Run | Stretch]]:
    """Runs of at most `most` records, or stretches where batches were fetched, partition by partition in turn: none
    waits for all of another's records."""
    waiting = deque((TP(*place), _cut(place, found, most)) for place, found in fetched.items() if found)
    while waiting:
        tp, runs = waiting.popleft()
        run = next(runs, None)
        if run is not None:
            yield tp, run
            waiting.append((tp, runs))


def _cut(place: Any, found: list[Any], most: int) -> Iterator[Run | Stretch]:
    if isinstance(found[0], Batch):
        yield from stretches(place.partition, found, most)
    else:
        for first in range(0, len(found), most):
            yield Run(place.topic, place.partition, found[first : first + most])
