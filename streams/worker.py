"""What happens to an event: the loop from interactions to refreshed lists.

A Faust app (app.py) delivers runs of records; `Loop` turns each into rows, changelog and lists. Faust owns partitions,
rebalance, recovery and commit; the library decides; this page keeps the order of things.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import replace
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from efficientrec import profile
from efficientrec.model import Model
from efficientrec.popularity import Popularity
from efficientrec.profile import Rows
from efficientrec.recommend import recommend
from streams.aside import Aside, DeadLetter, Post, origin_of
from streams.catalogue import Catalogue
from streams.follower import Record
from streams.lists import Cause, personal_lists, popular_lists
from streams.metrics import WorkerMetrics
from streams.outbox import KeyValue
from streams.progress import PROGRESS_KEY, Progress
from streams.records import Decoded, Trigger, decode_interactions, rfc3339, rfc3339_column
from streams.settings import Settings
from streams.slot import ModelSlot
from streams.topics import Topics
from streams.transport import Run
from streams.users import user_changes
from streams.writer import PartitionLost, Writer, Writers

log = logging.getLogger(__name__)

STEPS = ("folded", "forwarded", "rows acknowledged", "lists acknowledged", "written", "handled")
"""The order of things, as `Loop._interactions` explains it. A worker can be told to call somebody after each."""
POPULARITY_KEY = b"\xffpopularity"  # user ids are UTF-8, in which this byte never occurs
COLD_EVENTS_MAX = 80
"""Most events of a run before the first model: so their rows and the popularity fit into one record batch (outbox.py),
which a broker takes whole or not at all. Else a crash could leave the rows of a run and not its popularity."""

Clock = Callable[[], int]


class Store(Protocol):
    """Where rows are: one multi-get, one atomic write with the changelog offset."""

    def read(self, partition: int, keys: Sequence[bytes]) -> list[bytes | None]: ...

    def write(self, partition: int, rows: Iterable[KeyValue], changelog_offset: int) -> None: ...


class Loop:
    """Handles one run after another; runs of one partition never overlap."""

    def __init__(
        self,
        settings: Settings,
        store: Store,
        writers: Writers,
        post: Post,
        slot: ModelSlot,
        catalogue: Catalogue,
        metrics: WorkerMetrics,
        clock: Clock,
        reached: Callable[[str], None] = lambda step: None,
    ) -> None:
        """reached: called after each of STEPS."""
        self._settings = settings
        self._topics = Topics.of(settings)
        self._store = store
        self._writers = writers
        self._aside = Aside(settings, post)
        self._slot = slot
        self._catalogue = catalogue
        self._metrics = metrics
        self._clock = clock
        self._reached = reached
        self._locks: dict[int, asyncio.Lock] = defaultdict(asyncio.Lock)
        self.handled: dict[tuple[str, int], int] = {}
        """(topic, partition) → offset after the last run that is safe."""
        self.popular: dict[int, Popularity] = {}
        """Before the first model: what is popular in each partition that had a run since partitions were assigned."""

    def reassigned(self) -> None:
        """Forgets what is known of partitions: another worker may have moved them on."""
        self.handled.clear()
        self.popular.clear()

    async def interactions(self, run: Run) -> None:
        """A run of the interactions topic."""
        await self._exclusively(run, self._interactions)

    async def users(self, run: Run) -> None:
        """A run of the users topic: demographics enter the row, a null erases row and list."""
        await self._exclusively(run, self._users)

    async def _exclusively(self, run: Run, handle: Callable[[Run, Writer], Awaitable[None]]) -> None:
        """One run of a partition at a time, by the partition's writer. A run whose partition has gone to another worker
        is left to him: it is not handled, and so not committed."""
        try:
            async with self._locks[run.partition]:
                writer = self._writers.of(run.partition, run.generation)
                try:
                    if not run.is_next():
                        raise PartitionLost(f"a run before offset {run.records[0].offset} never came")
                    await handle(run, writer)
                except Exception:
                    writer.give_up()
                    raise
        except PartitionLost as lost:
            self._metrics.abandoned.inc()
            log.warning("a run of partition %d is left alone: %s", run.partition, lost)
        else:
            run.handled = True
            self.handled[run.topic, run.partition] = run.records[-1].offset + 1
            self._reached("handled")

    async def _interactions(self, run: Run, writer: Writer) -> None:
        """Each step says what a crash just after it leaves behind.

        1. Decode, read rows, fold, recommend. Crash: nothing has happened; the run is delivered again.
        2. Forward what lies on the wrong partition, if the settings say so, and await it. Crash: it is forwarded again
           when the run is delivered again, and counts once, like every event that comes twice under one id.
        3. Append changelog rows, the partition's progress last, and await the broker. Crash: some or all are out. They
           come back by recovery and skip the run's events by their offset; its lists go out when it comes again.
        4. Append lists, send dead letters, and await the broker. Crash: some may be out, and go out again as they were.
           Were they sent with the rows, a list could be out whose row is lost, and an earlier run, delivered again,
           would take it back.
        5. Write rows and changelog offset to disk, all or nothing. Crash: the disk may have lost this write, but never
           half of it, and recovery reads on from the offset that it has.
        6. Mark the run as handled, whereupon it may be committed. Crash before the commit: the run is delivered again,
           and its events are skipped.
        """
        model = self._slot.current  # for the whole run, even if a swap lands meanwhile
        most = len(run.records) if model is not None else COLD_EVENTS_MAX
        for first in range(0, len(run.records), most):
            await self._part(replace(run, records=run.records[first : first + most]), writer, model)

    async def _part(self, run: Run, writer: Writer, model: Model | None) -> None:
        """Steps 1 to 5 of `_interactions`."""
        # 1.
        misplaced = self._aside.misplaced(run.records)
        records, elsewhere = self._aside.split(run.records, misplaced)
        with self._metrics.timed("decode"):
            decoded = self._decode(records)
        events = decoded.interactions
        keys = [user.encode() for user in events.users]
        with self._metrics.timed("read"):
            *stored, at = self._store.read(run.partition, [*keys, PROGRESS_KEY])
            progress = Progress.from_bytes(at)
            before = _unpacked(stored, model)
            # Who has no events has none yet, or was erased: what was taken in before does not begin a new profile.
            before.offset[before.events == 0] = progress.interactions - 1
        with self._metrics.timed("fold"):
            folded = profile.fold(before, events, None if model is None else model.encoder, self._settings.admission)
            changed = np.flatnonzero(folded.changed)
            rows = profile.pack(profile.take(folded.rows, changed), run.partition)
            changelog: list[KeyValue] = [(keys[user], row) for user, row in zip(changed, rows, strict=True)]
        due, causes = self._due(run, records, decoded, folded.rows)
        if model is None:
            here = self.popular[run.partition] = self._popularity(run.partition, decoded, folded)
            changelog.append((POPULARITY_KEY, here.to_bytes()))
            everywhere = Popularity.together(self.popular.values())
            bodies = self._popular(everywhere, profile.take(folded.rows, due), causes)
        else:
            bodies = self._personal(model, profile.take(folded.rows, due), causes)
        lists: list[KeyValue] = [(keys[user], body) for user, body in zip(due, bodies, strict=True)]
        letters = [DeadLetter(records[bad.index], bad.reason, bad.message) for bad in decoded.rejected]
        reach = max(progress.interactions, run.records[-1].offset + 1)
        changelog.append((PROGRESS_KEY, Progress(reach, progress.users).to_bytes()))
        self._reached("folded")
        # 2.
        if elsewhere:
            await writer.patiently(lambda: self._aside.forward(elsewhere), "records for other partitions")
        self._reached("forwarded")
        # 3. to 5.
        await self._commit(writer, changelog, lists, letters)
        self._count(decoded, folded, causes, letters)
        self._metrics.misplaced.inc(sum(misplaced))

    async def _users(self, run: Run, writer: Writer) -> None:
        """Steps 3 to 6 of `_interactions`. What was applied before is not applied again: the user may have begun a
        fresh profile since. Whether the null list got out is not known, so it goes out again where there is none."""
        model = self._slot.current
        (at,) = self._store.read(run.partition, [PROGRESS_KEY])
        progress = Progress.from_bytes(at)
        applied, letters_again = user_changes([each for each in run.records if each.offset < progress.users])
        changes, letters = user_changes([each for each in run.records if each.offset >= progress.users])
        keys = list(changes)
        stored = self._store.read(run.partition, keys)
        kept = [None if changes[key].erases else row for key, row in zip(keys, stored, strict=True)]
        rows = profile.rebuilt(_unpacked(kept, model), None if model is None else model.encoder)
        offsets = np.array([change.offset for change in changes.values()], np.int64)
        fresh = rows.users_offset < offsets
        rows = profile.with_traits(rows, [change.traits for change in changes.values()], offsets)
        packed = profile.pack(rows, run.partition)
        changelog: list[KeyValue] = [
            (key, row if changes[key].remains else None)
            for key, row, is_fresh in zip(keys, packed, fresh.tolist(), strict=True)
            if is_fresh
        ]
        erased = [key for key, change in applied.items() if change.erases]
        events = _unpacked(self._store.read(run.partition, erased), None).events.tolist()
        gone: list[KeyValue] = [(key, None) for key, count in zip(erased, events, strict=True) if not count]
        gone += [(key, None) for key, change in changes.items() if change.erases]
        reach = max(progress.users, run.records[-1].offset + 1)
        changelog.append((PROGRESS_KEY, Progress(progress.interactions, reach).to_bytes()))
        self._reached("folded")
        await self._commit(writer, changelog, gone, letters_again + letters)
        self._count_letters(letters)

    def _decode(self, records: Sequence[Record]) -> Decoded:
        forwarded = any(record.headers for record in records)
        return decode_interactions(
            [record.value for record in records],
            [record.key for record in records],
            [record.offset for record in records],
            [record.timestamp for record in records],
            self._clock(),
            self._settings.policy,
            int(1000 * self._settings.future_tolerance_seconds),
            [origin_of(record) for record in records] if forwarded else None,
        )

    def _due(
        self, run: Run, records: Sequence[Record], decoded: Decoded, rows: Rows
    ) -> tuple[NDArray[np.intp], list[Cause]]:
        """Whose lists go out, and why: every user whose newest folded event is in this run.

        That holds for a run that is delivered again as well: whether its lists got out the first time is not known, and
        a repeated list replaces itself. A user with later events gets his list from the run that holds them.
        """
        events = decoded.interactions
        last = np.empty(len(events.users), np.intp)
        last[events.user] = np.arange(len(events))  # the last assignment wins: each user's last event of the run
        due = np.flatnonzero((rows.offset == events.offset[last]) & (rows.events > 0))
        times = rfc3339_column(events.at[last[due]]) if len(due) else []
        causes = [
            Cause(
                events.users[user],
                Trigger(run.topic, run.partition, int(rows.offset[user]), decoded.event_ids[last[user]], time_of),
                records[decoded.index[last[user]]].timestamp,
            )
            for user, time_of in zip(due.tolist(), times, strict=True)
        ]
        return due, causes

    def _personal(self, model: Model, rows: Rows, causes: list[Cause]) -> list[bytes]:
        now = self._clock()
        with self._metrics.timed("recommend"):
            found = recommend(model, rows, self._settings.list_size, self._catalogue.blocked(model, now))
        with self._metrics.timed("encode"):
            return personal_lists(model, found, causes, rfc3339(now), "event", self._settings.list_format)

    def _popular(self, popularity: Popularity, rows: Rows, causes: list[Cause]) -> list[bytes]:
        """Before the first model: what is popular and new to the user."""
        now = self._clock()
        with self._metrics.timed("recommend"):
            found = popularity.recommend(
                rows, self._settings.list_size, lambda item: self._catalogue.is_blocked(item, now)
            )
        with self._metrics.timed("encode"):
            return popular_lists(found, causes, rfc3339(now), "event", self._settings.list_format)

    def _popularity(self, partition: int, decoded: Decoded, folded: profile.Folded) -> Popularity:
        (stored,) = self._store.read(partition, [POPULARITY_KEY])
        before = Popularity.from_bytes(stored, self._settings.popularity_half_life_seconds)
        counted = np.flatnonzero(folded.counted)
        events = decoded.interactions
        return before.fold([decoded.item_ids[place] for place in counted], events.weight[counted], events.at[counted])

    async def _commit(
        self, writer: Writer, changelog: list[KeyValue], lists: list[KeyValue], letters: list[DeadLetter]
    ) -> None:
        """Steps 3 to 5 of `_interactions`."""
        now = self._clock()
        with self._metrics.timed("send"):
            offset = await writer.append(self._topics.changelog, changelog, now)
            self._reached("rows acknowledged")
            # 4.
            await writer.append(self._topics.lists, lists, now)
            if letters:
                await writer.patiently(lambda: self._aside.set_aside(letters), "dead letters")
            self._reached("lists acknowledged")
        # 5.
        writer.check()  # or these rows would go over newer ones, read from the changelog after another claim
        assert offset is not None, "a run always moves the progress on"
        with self._metrics.timed("write"):
            self._store.write(writer.partition, changelog, offset)
        self._reached("written")

    def _count(self, decoded: Decoded, folded: profile.Folded, causes: list[Cause], letters: list[DeadLetter]) -> None:
        """What became of the run, after it is safe."""
        metrics, now = self._metrics, self._clock()
        outcomes = np.select(
            [folded.counted, folded.repeated, folded.limited], ["applied", "repeated", "limited"], "replayed"
        ).tolist()
        for (event_type, outcome), events in Counter(zip(decoded.event_types, outcomes, strict=True)).items():
            metrics.events.labels(event_type, outcome).inc(events)
        metrics.events.labels("unknown", "invalid").inc(len(letters))
        self._count_letters(letters)
        metrics.lists.labels("event").inc(len(causes))
        metrics.run_events.observe(len(decoded.index) + len(letters))
        arrived = np.array([cause.arrived_ms for cause in causes], np.float64)
        metrics.latency.observe(np.maximum(0, now - arrived) / 1000)
        if len(decoded.interactions):
            metrics.last_event.set(int(decoded.interactions.at.max()) / 1000)

    def _count_letters(self, letters: list[DeadLetter]) -> None:
        for reason, records in Counter(letter.reason for letter in letters).items():
            self._metrics.dead_letters.labels(reason).inc(records)


def _unpacked(stored: Sequence[bytes | None], model: Model | None) -> Rows:
    if model is None:
        return profile.unpack(stored, 0, 0)
    return profile.unpack(stored, model.encoder.width, model.encoder.key)
