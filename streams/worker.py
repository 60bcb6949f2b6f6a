"""What happens to an event: the loop from interactions to refreshed lists.

A Faust app (app.py) delivers runs of records; `Loop` turns them into rows, changelog and lists. Faust owns partitions,
rebalance, recovery and commit; the library decides; this page keeps the order of things.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from efficientrec import profile
from streams.arms import CONTROL, Arm, Arms
from streams.aside import Aside, DeadLetter, Post
from streams.catalogue import Catalogue
from streams.experiments import Models
from streams.follower import place_of
from streams.metrics import WorkerMetrics
from streams.outbox import KeyValue
from streams.progress import PROGRESS_KEY, Progress
from streams.quality import Quality
from streams.refresh import Clock, Refresh, Refreshed, Store, unpacked
from streams.settings import Settings
from streams.topics import Topics
from streams.traces import Traces
from streams.transport import Run
from streams.users import user_changes
from streams.writer import PartitionLost, Writer, Writers

log = logging.getLogger(__name__)

STEPS = ("folded", "forwarded", "rows acknowledged", "lists acknowledged", "written", "handled")
"""The order of things, as `Loop.handle` explains it. A worker can be told to call somebody after each."""
COLD_EVENTS_MAX = 80
"""Most events of a run before the first model: so their rows and the popularity fit into one record batch (outbox.py),
which a broker takes whole or not at all. Else a crash could leave the rows of a run and not its popularity."""

BEFORE_THE_FIRST_MODEL = Arms(Arm(CONTROL))


class Loop:
    """Handles runs: of several partitions at once, of one partition one after the other."""

    def __init__(
        self,
        settings: Settings,
        store: Store,
        writers: Writers,
        post: Post,
        models: Models,
        catalogue: Catalogue,
        metrics: WorkerMetrics,
        clock: Clock,
        reached: Callable[[str], None] = lambda step: None,
        traces: Traces | None = None,
    ) -> None:
        """reached: called after each of STEPS."""
        self._topics = Topics.of(settings)
        self._store = store
        self._writers = writers
        self._aside = Aside(settings, post)
        self.quality = Quality(metrics, clock)
        self._refresh = Refresh(settings, store, self._aside, catalogue, metrics, self.quality, clock, traces)
        self._models = models
        self._metrics = metrics
        self._clock = clock
        self._reached = reached
        self._traces = traces

    def reassigned(self) -> None:
        """Forgets what is known of partitions: another worker may have moved them on."""
        self.quality.forget()
        self._refresh.popular.clear()

    def handle(self, runs: Sequence[Run]) -> list[Coroutine[Any, Any, None]]:
        """Begins a run of each of several partitions, none of which may have another one under way. Each coroutine ends
        one run: marks it as handled when all that it asks for is safe, or leaves it to whoever has its partition now.

        Each step says what a crash just after it leaves behind.

        1. Decode, read rows, fold, recommend, for all runs of interactions at once. Crash: nothing has happened; the
           runs are delivered again.
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
        arms = self._models.arms  # for the whole batch, even if a swap lands meanwhile
        mine = {run: writer for run in runs if (writer := self._writer_for(run)) is not None}
        together = [run for run in mine if run.topic == self._topics.interactions and arms.control.model is not None]
        try:
            refreshed = {each.run: each for each in self._refresh.of(together, arms)} if together else {}
        except Exception:
            for writer in mine.values():
                writer.give_up()
            raise
        if refreshed:
            self._reached("folded")
        return [self._end(run, mine.get(run), refreshed.get(run)) for run in runs]

    def _writer_for(self, run: Run) -> Writer | None:
        """None where the run is not this worker's to handle."""
        try:
            writer = self._writers.of(run.partition, run.generation)
        except PartitionLost as lost:
            self._leave(run, lost)
            return None
        if not run.is_next():
            writer.give_up()
            self._leave(run, PartitionLost(f"a run before offset {run.records[0].offset} never came"))
            return None
        return writer

    def _leave(self, run: Run, lost: PartitionLost) -> None:
        """A run whose partition has gone to another worker is left to him: it is not handled, and so not committed."""
        self._metrics.abandoned.inc()
        log.warning("a run of partition %d is left alone: %s", run.partition, lost, extra=place_of(run.records[0]))

    async def _end(self, run: Run, writer: Writer | None, refreshed: Refreshed | None) -> None:
        """Steps 2 to 6 of `handle`, or all of them where the run was not refreshed with others."""
        if writer is None:
            return
        try:
            if run.topic == self._topics.users:
                await self._users(run, writer)
            elif refreshed is not None:
                await self._make_safe(writer, refreshed)
            else:
                await self._cold(run, writer)
        except PartitionLost as lost:
            writer.give_up()
            self._leave(run, lost)
        except Exception:
            writer.give_up()
            raise
        else:
            run.handled = True
            self._reached("handled")

    async def _cold(self, run: Run, writer: Writer) -> None:
        """A run of interactions before the first model."""
        for first in range(0, len(run.records), COLD_EVENTS_MAX):
            part = replace(run, records=run.records[first : first + COLD_EVENTS_MAX])
            (refreshed,) = self._refresh.of([part], BEFORE_THE_FIRST_MODEL)
            self._reached("folded")
            await self._make_safe(writer, refreshed)

    async def _make_safe(self, writer: Writer, refreshed: Refreshed) -> None:
        """Steps 2 to 5 of `handle`."""
        elsewhere = refreshed.elsewhere
        if elsewhere:
            await writer.patiently(lambda: self._aside.forward(elsewhere), "records for other partitions")
        self._reached("forwarded")
        await self._commit(writer, refreshed.changelog, refreshed.lists, refreshed.letters)
        self._count(refreshed)

    async def _users(self, run: Run, writer: Writer) -> None:
        """Demographics enter the row, a null erases row and list; then steps 3 to 5 of `handle`.

        What was applied before is not applied again: the user may have begun a fresh profile since. Whether the null
        list got out is not known, so it goes out again where there is none.
        """
        (at,) = self._store.read(run.partition, [PROGRESS_KEY])
        progress = Progress.from_bytes(at)
        applied, letters_again = user_changes([each for each in run.records if each.offset < progress.users])
        changes, letters = user_changes([each for each in run.records if each.offset >= progress.users])
        keys = list(changes)
        stored = self._store.read(run.partition, keys)
        kept = [None if changes[key].erases else row for key, row in zip(keys, stored, strict=True)]
        changelog: list[KeyValue] = []
        for arm, some in self._models.arms.divided(keys):
            places = some.tolist()
            its = [changes[keys[place]] for place in places]
            encoder = None if arm.model is None else arm.model.encoder
            rows = profile.rebuilt(unpacked([kept[place] for place in places], arm.model), encoder)
            offsets = np.array([change.offset for change in its], np.int64)
            fresh = rows.users_offset < offsets
            rows = profile.with_traits(rows, [change.traits for change in its], offsets)
            changelog += [
                (keys[place], row if change.remains else None)
                for place, change, row, is_fresh in zip(
                    places, its, profile.pack(rows, run.partition), fresh.tolist(), strict=True
                )
                if is_fresh
            ]
        erased = [key for key, change in applied.items() if change.erases]
        events = unpacked(self._store.read(run.partition, erased), None).events.tolist()
        gone: list[KeyValue] = [(key, None) for key, count in zip(erased, events, strict=True) if not count]
        leaving = [key for key, change in changes.items() if change.erases]
        gone += [(key, None) for key in leaving]
        reach = max(progress.users, run.records[-1].offset + 1)
        changelog.append((PROGRESS_KEY, Progress(progress.interactions, reach).to_bytes()))
        self._reached("folded")
        await self._commit(writer, changelog, gone, letters_again + letters)
        self._count_letters(letters)
        self.quality.erased(leaving)
        self._metrics.erasures.inc(len(leaving))

    async def _commit(
        self, writer: Writer, changelog: list[KeyValue], lists: list[KeyValue], letters: list[DeadLetter]
    ) -> None:
        """Steps 3 to 5 of `handle`."""
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

    def _count(self, refreshed: Refreshed) -> None:
        """What became of the run, after it is safe."""
        if self._traces is not None:
            self._traces.ended(refreshed.lists)
        metrics = self._metrics
        for (event_type, outcome), events in refreshed.outcomes.items():
            metrics.events.labels(event_type, outcome).inc(events)
        metrics.events.labels("unknown", "invalid").inc(len(refreshed.letters))
        self._count_letters(refreshed.letters)
        for arm, lists in refreshed.arms.items():
            metrics.lists.labels("event", arm).inc(lists)
        metrics.run_events.observe(len(refreshed.run.records))
        metrics.run_users.observe(len(refreshed.lists))
        metrics.latency.observe(np.maximum(0, self._clock() - refreshed.arrived_ms) / 1000)
        metrics.misplaced.inc(refreshed.misplaced)
        if refreshed.newest_ms is not None:
            metrics.last_event.set(refreshed.newest_ms / 1000)

    def _count_letters(self, letters: list[DeadLetter]) -> None:
        for reason, records in Counter(letter.reason for letter in letters).items():
            self._metrics.dead_letters.labels(reason).inc(records)
            first = next(letter.record for letter in letters if letter.reason == reason)
            log.warning(
                f"{reason}: %d records of partition %d are set aside, the first at offset %d",  # told apart by logs.py
                *(records, first.partition, first.offset),
                extra={**place_of(first), "reason": reason, "records": records},
            )
