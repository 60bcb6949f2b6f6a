"""What happens to an event: the loop from interactions to refreshed lists.

A Faust app (app.py) delivers runs of records; `Loop` turns each into rows, changelog and lists. Faust owns partitions,
rebalance, recovery and commit; the library decides; this page keeps the order of things.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from itertools import count
from typing import NamedTuple, Protocol

import numpy as np
from aiokafka.errors import KafkaError, MessageSizeTooLargeError
from aiokafka.structs import ConsumerRecord
from numpy.typing import NDArray

from efficientrec import profile
from efficientrec.errors import RecordInvalid
from efficientrec.features import trait_keys
from efficientrec.model import Model
from efficientrec.popularity import Popularity
from efficientrec.profile import Rows
from efficientrec.recommend import recommend
from streams.catalogue import Catalogue
from streams.features import feature_texts
from streams.lists import Cause, personal_lists, popular_lists
from streams.metrics import WorkerMetrics
from streams.outbox import Headers, KeyValue
from streams.records import (
    ID_BYTES_MAX,
    Decoded,
    Trigger,
    check_user_key,
    dead_letter_headers,
    decode_interactions,
    decode_user,
    rfc3339,
    rfc3339_column,
)
from streams.settings import Settings
from streams.slot import ModelSlot
from streams.topics import Topics
from streams.transport import Run

log = logging.getLogger(__name__)

POPULARITY_KEY = b"\xffpopularity"  # user ids are UTF-8, in which this byte never occurs
RETRY_SECONDS = (0.2, 0.5, 1, 2, 5)  # the last one repeats while the broker stays away

Clock = Callable[[], int]


class Store(Protocol):
    """Where rows are: one multi-get, one atomic write with the changelog offset."""

    def read(self, partition: int, keys: Sequence[bytes]) -> list[bytes | None]: ...

    def write(self, partition: int, rows: Iterable[KeyValue], changelog_offset: int) -> None: ...


class Acknowledgements(Protocol):
    async def acknowledged(self) -> int | None: ...


class Sender(Protocol):
    """Where records go."""

    async def send(
        self, topic: str, partition: int, records: Iterable[KeyValue], timestamp_ms: int
    ) -> Acknowledgements: ...

    async def send_one(
        self, topic: str, key: bytes | None, value: bytes | None, headers: Headers
    ) -> Acknowledgements: ...


class DeadLetter(NamedTuple):
    """A record that cannot be used."""

    record: ConsumerRecord[bytes | None, bytes | None]
    reason: str
    message: str


class Loop:
    """Handles one run after another; runs of one partition never overlap."""

    def __init__(
        self,
        settings: Settings,
        store: Store,
        outbox: Sender,
        slot: ModelSlot,
        catalogue: Catalogue,
        metrics: WorkerMetrics,
        clock: Clock,
    ) -> None:
        self._settings = settings
        self._topics = Topics.of(settings)
        self._store = store
        self._outbox = outbox
        self._slot = slot
        self._catalogue = catalogue
        self._metrics = metrics
        self._clock = clock
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
        """A run of the interactions topic. Each step says what a crash just after it leaves behind.

        1. Decode, read rows, fold, recommend. Crash: nothing has happened; the run is delivered again.
        2. Send changelog rows and await their acknowledgement. Crash: some may be out. They come back by recovery and
           skip the run's events by their offset; the run's lists go out when it is delivered again.
        3. Send lists and dead letters and await theirs. Crash: some may be out, and go out again as they were. Were
           they sent with the rows, a list could be out whose row is lost, and an earlier run, delivered again, would
           take it back.
        4. Write rows and changelog offset to disk, all or nothing. Crash: the disk may have lost this write, but never
           half of it, and recovery reads on from the offset that it has.
        5. Mark the run as handled, whereupon it may be committed. Crash before the commit: the run is delivered again,
           and its events are skipped.
        """
        async with self._locks[run.partition]:
            # 1. One model for the whole run, even if a swap lands meanwhile.
            model = self._slot.current
            with self._metrics.timed("decode"):
                decoded = self._decode(run)
            events = decoded.interactions
            keys = [user.encode() for user in events.users]
            with self._metrics.timed("read"):
                before = _unpacked(self._store.read(run.partition, keys), model)
            with self._metrics.timed("fold"):
                folded = profile.fold(before, events, None if model is None else model.encoder)
                changed = np.flatnonzero(folded.changed)
                rows = profile.pack(profile.take(folded.rows, changed), run.partition)
                changelog: list[KeyValue] = [(keys[user], row) for user, row in zip(changed, rows, strict=True)]
            due, causes = self._due(run, decoded, folded.rows)
            if model is None:
                here = self.popular[run.partition] = self._popularity(run.partition, decoded, folded)
                changelog.append((POPULARITY_KEY, here.to_bytes()))
                everywhere = Popularity.together(self.popular.values())
                bodies = self._popular(everywhere, profile.take(folded.rows, due), causes)
            else:
                bodies = self._personal(model, profile.take(folded.rows, due), causes)
            lists: list[KeyValue] = [(keys[user], body) for user, body in zip(due, bodies, strict=True)]
            letters = [DeadLetter(run.records[bad.index], bad.reason, bad.message) for bad in decoded.rejected]

            await self._commit(run, changelog, lists, letters)
            self._count(run, decoded, folded, causes, letters)

    async def users(self, run: Run) -> None:
        """A run of the users topic, in the same order: demographics enter the row, a null erases row and list."""
        async with self._locks[run.partition]:
            model = self._slot.current
            changes, letters = _user_changes(run)
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
            gone: list[KeyValue] = [(key, None) for key, change in changes.items() if change.erases]
            await self._commit(run, changelog, gone, letters)
            self._count_letters(letters)

    def _decode(self, run: Run) -> Decoded:
        records = run.records
        return decode_interactions(
            [record.value for record in records],
            [record.key for record in records],
            [record.offset for record in records],
            self._clock(),
            self._settings.policy,
            int(1000 * self._settings.future_tolerance_seconds),
        )

    def _due(self, run: Run, decoded: Decoded, rows: Rows) -> tuple[NDArray[np.intp], list[Cause]]:
        """Whose lists go out, and why: every user whose newest folded event is in this run.

        That holds for a run that is delivered again as well: whether its lists got out the first time is not known, and
        a repeated list replaces itself. A user with later events gets his list from the run that holds them.
        """
        events = decoded.interactions
        last = np.empty(len(events.users), np.intp)
        last[events.user] = np.arange(len(events))  # the last assignment wins: each user's last event of the run
        due = np.flatnonzero(rows.offset == events.offset[last])
        times = rfc3339_column(events.at[last[due]]) if len(due) else []
        causes = [
            Cause(
                events.users[user],
                Trigger(run.topic, run.partition, int(rows.offset[user]), decoded.event_ids[last[user]], time_of),
                run.records[decoded.index[last[user]]].timestamp,
            )
            for user, time_of in zip(due.tolist(), times, strict=True)
        ]
        return due, causes

    def _personal(self, model: Model, rows: Rows, causes: list[Cause]) -> list[bytes]:
        now = self._clock()
        with self._metrics.timed("recommend"):
            found = recommend(model, rows, self._settings.list_size, self._catalogue.blocked(model, now))
        with self._metrics.timed("encode"):
            return personal_lists(model, found, causes, rfc3339(now), "event")

    def _popular(self, popularity: Popularity, rows: Rows, causes: list[Cause]) -> list[bytes]:
        """Before the first model: what is popular and new to the user."""
        now = self._clock()
        with self._metrics.timed("recommend"):
            found = popularity.recommend(
                rows, self._settings.list_size, lambda item: self._catalogue.is_blocked(item, now)
            )
        with self._metrics.timed("encode"):
            return popular_lists(found, causes, rfc3339(now), "event")

    def _popularity(self, partition: int, decoded: Decoded, folded: profile.Folded) -> Popularity:
        (stored,) = self._store.read(partition, [POPULARITY_KEY])
        before = Popularity.from_bytes(stored, self._settings.popularity_half_life_seconds)
        counted = np.flatnonzero(folded.counted)
        events = decoded.interactions
        return before.fold([decoded.item_ids[place] for place in counted], events.weight[counted], events.at[counted])

    async def _commit(
        self, run: Run, changelog: list[KeyValue], lists: list[KeyValue], letters: list[DeadLetter]
    ) -> None:
        """Steps 2 to 5 of `interactions`. Sends until the broker has everything: what is sent again is the same."""
        for attempt in count():
            try:
                with self._metrics.timed("send"):
                    now = self._clock()
                    rows = await self._outbox.send(self._topics.changelog, run.partition, changelog, now)
                    offset = await rows.acknowledged()
                    # 3.
                    refreshed = await self._outbox.send(self._topics.lists, run.partition, lists, now)
                    await self._set_aside(letters)
                    await refreshed.acknowledged()
                break
            except KafkaError as error:
                self._metrics.send_failures.inc()
                pause = RETRY_SECONDS[min(attempt, len(RETRY_SECONDS) - 1)]
                log.error(
                    "partition %d: the broker did not take a run (%r); again in %g s", run.partition, error, pause
                )
                await asyncio.sleep(pause)
        # 4.
        if offset is not None:
            with self._metrics.timed("write"):
                self._store.write(run.partition, changelog, offset)
        # 5.
        run.handled = True
        self.handled[run.topic, run.partition] = run.records[-1].offset + 1

    async def _set_aside(self, letters: list[DeadLetter]) -> None:
        """Returns when the broker has them; a record that is too large with its headers goes without key and value."""
        sent = [await self._dead_letter(letter) for letter in letters]
        for letter, pending in zip(letters, sent, strict=True):
            try:
                await pending.acknowledged()
            except MessageSizeTooLargeError:
                record = letter.record
                key, size = record.key or b"", len(record.value or b"")
                bare = DeadLetter(
                    replace(record, key=key if len(key) <= ID_BYTES_MAX else None, value=None),
                    letter.reason,
                    f"{letter.message} (its key of {len(key)} and value of {size} bytes are too large to be set aside)",
                )
                await (await self._dead_letter(bare)).acknowledged()

    async def _dead_letter(self, letter: DeadLetter) -> Acknowledgements:
        record = letter.record
        headers = dead_letter_headers(
            record.topic, record.partition, record.offset, record.timestamp, letter.reason, letter.message
        )
        return await self._outbox.send_one(self._topics.dead_letters, record.key, record.value, headers)

    def _count(
        self,
        run: Run,
        decoded: Decoded,
        folded: profile.Folded,
        causes: list[Cause],
        letters: list[DeadLetter],
    ) -> None:
        """What became of the run, after it is safe."""
        metrics, now = self._metrics, self._clock()
        outcomes = np.where(folded.counted, "applied", np.where(folded.repeated, "repeated", "replayed")).tolist()
        for (event_type, outcome), events in Counter(zip(decoded.event_types, outcomes, strict=True)).items():
            metrics.events.labels(event_type, outcome).inc(events)
        metrics.events.labels("unknown", "invalid").inc(len(letters))
        self._count_letters(letters)
        metrics.lists.labels("event").inc(len(causes))
        metrics.run_events.observe(len(run.records))
        for cause in causes:
            metrics.latency.observe(max(0, now - cause.arrived_ms) / 1000)
        if len(decoded.interactions):
            metrics.last_event.set(int(decoded.interactions.at.max()) / 1000)

    def _count_letters(self, letters: list[DeadLetter]) -> None:
        for reason, records in Counter(letter.reason for letter in letters).items():
            self._metrics.dead_letters.labels(reason).inc(records)


class UserChange(NamedTuple):
    """What the last records of a user in a run come to."""

    offset: int
    erases: bool
    """A null was among them: what was kept before is gone."""
    remains: bool
    """The last one describes the user."""
    traits: NDArray[np.uint64]


def _user_changes(run: Run) -> tuple[dict[bytes, UserChange], list[DeadLetter]]:
    changes: dict[bytes, UserChange] = {}
    letters = []
    for record in run.records:
        key = record.key
        try:
            if key is None:
                raise RecordInvalid("the record has no key; expected the user_id")
            check_user_key(key)
            user = None if record.value is None else decode_user(record.value, key)
        except RecordInvalid as error:
            letters.append(DeadLetter(record, "undecodable", str(error)))
            continue
        erases = user is None or (key in changes and changes[key].erases)
        traits = trait_keys({} if user is None else feature_texts(user.features))
        changes[key] = UserChange(record.offset, erases, user is not None, traits)
    return changes, letters


def _unpacked(stored: Sequence[bytes | None], model: Model | None) -> Rows:
    if model is None:
        return profile.unpack(stored, 0, 0)
    return profile.unpack(stored, model.encoder.width, model.encoder.key)
