"""What runs of interactions come to: the rows, lists and dead letters of a batch, worked out before any of it goes out.

Several partitions are worked out as one batch: most of what a small run costs is paid once for each batch.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from efficientrec import profile
from efficientrec.model import Model
from efficientrec.popularity import Popularity
from efficientrec.profile import Rows
from efficientrec.recommend import Recommendations, recommend
from streams.arms import Arm, Arms
from streams.aside import Aside, DeadLetter, origin_of
from streams.catalogue import Catalogue
from streams.cloudevents import TRACEPARENT, completed, list_headers, trace_of
from streams.follower import Record
from streams.lists import Cause, personal_lists, popular_lists
from streams.metrics import OUTCOMES, WorkerMetrics
from streams.outbox import Headers, KeyValue, WithHeaders
from streams.progress import PROGRESS_KEY, Progress
from streams.quality import Quality
from streams.records import Decoded, Trigger, decode_interactions, rfc3339, rfc3339_column
from streams.settings import Settings
from streams.traces import Traces
from streams.transport import Run

POPULARITY_KEY = b"\xffpopularity"  # user ids are UTF-8, in which this byte never occurs

Clock = Callable[[], int]
T = TypeVar("T")


class Store(Protocol):
    """Where rows are: one multi-get, one atomic write with the changelog offset."""

    def read(self, partition: int, keys: Sequence[bytes]) -> list[bytes | None]: ...

    def write(self, partition: int, rows: Iterable[KeyValue], changelog_offset: int) -> None: ...


@dataclass(slots=True)
class Refreshed:
    """What a run comes to."""

    run: Run
    elsewhere: list[Record] = field(default_factory=list)
    """To be forwarded before anything else goes out."""
    changelog: list[KeyValue] = field(default_factory=list)
    """Rows that have changed, the partition's progress last."""
    lists: list[KeyValue] = field(default_factory=list)
    letters: list[DeadLetter] = field(default_factory=list)
    # For the metrics:
    misplaced: int = 0
    arms: Counter[str] = field(default_factory=Counter)
    """Arm → lists."""
    outcomes: Counter[tuple[str, str]] = field(default_factory=Counter)
    """(event type, what became of it) → events."""
    arrived_ms: NDArray[np.int64] = field(default_factory=lambda: np.empty(0, np.int64))
    """(lists,) when the broker got the event that each list answers."""
    newest_ms: int | None = None
    """Latest event time."""


@dataclass(slots=True)
class _Part:
    """The users of a batch who have the same model, and what is worked out for them."""

    arm: Arm
    said: str | None
    """What their lists say of the arm."""
    keys: Sequence[bytes]
    """(users,)"""
    user: NDArray[np.intp]
    """(users,) number of each in the batch; rises."""
    event: NDArray[np.intp]
    """(events,) number of each in the batch; rises."""
    decoded: Decoded
    partition: NDArray[np.int32]
    """(users,)"""
    before: Rows
    outcomes: list[tuple[str, str]] = field(default_factory=list)
    """(event type, what became of it) of each event."""
    changed: NDArray[np.intp] = field(default_factory=lambda: np.empty(0, np.intp))
    """Numbers in the batch of the users whose rows have changed."""
    rows: list[bytes] = field(default_factory=list)
    due: NDArray[np.intp] = field(default_factory=lambda: np.empty(0, np.intp))
    """Numbers in the batch of the users who get lists."""
    lists: Sequence[bytes] = ()
    arrived_ms: Sequence[int] = ()


class Refresh:
    """Reads rows, and works out what they become. Writes and sends nothing."""

    def __init__(
        self,
        settings: Settings,
        store: Store,
        aside: Aside,
        catalogue: Catalogue,
        metrics: WorkerMetrics,
        quality: Quality,
        clock: Clock,
        traces: Traces | None = None,
    ) -> None:
        self._settings = settings
        self._store = store
        self._aside = aside
        self._catalogue = catalogue
        self._metrics = metrics
        self._quality = quality
        self._clock = clock
        self._traces = traces
        self.popular: dict[int, Popularity] = {}
        """Before the first model: what is popular in each partition that had a run since partitions were assigned."""

    def of(self, runs: Sequence[Run], arms: Arms) -> list[Refreshed]:
        """For each of these runs, of different partitions. Before the first model there has to be a single one: what is
        popular by then is counted run by run."""
        records = [record for run in runs for record in run.records]
        strays = self._aside.strays(records)
        if not strays.any():
            return self._together(runs, [Refreshed(run) for run in runs], records, arms)
        if len(runs) > 1:  # only here a user could have rows in two of the partitions
            return [refreshed for run in runs for refreshed in self.of([run], arms)]
        records, elsewhere, misplaced = self._aside.split(records, strays)
        return self._together(runs, [Refreshed(runs[0], elsewhere, misplaced=misplaced)], records, arms)

    def _together(
        self, runs: Sequence[Run], refreshed: list[Refreshed], records: Sequence[Record], arms: Arms
    ) -> list[Refreshed]:
        """Fills what the runs come to. records: all of theirs, or what is left of the only one's."""
        number_of = np.repeat(np.arange(len(runs)), [len(run.records) for run in runs])[: len(records)]
        with self._metrics.timed("decode"):
            decoded = self._decode(records)
        events = decoded.interactions
        number_of_event = number_of[decoded.index]
        number_of_user = np.empty(len(events.users), np.intp)
        number_of_user[events.user] = number_of_event  # rises: users stand in the order of their first events
        keys = [user.encode() for user in events.users]
        with self._metrics.timed("read"):
            stored, progress = self._read(runs, keys, number_of_user)
            parts = _parts(arms, runs, decoded, keys, stored, progress, number_of_user)
        for part in parts:
            self._work_out(part, records, runs)
        changed, rows = _in_order([(part.changed, part.rows) for part in parts])
        due, bodies = _in_order([(part.due, part.lists) for part in parts])
        _, arrived = _in_order([(part.due, part.arrived_ms) for part in parts])
        pairs: list[KeyValue] = [(keys[user], row) for user, row in zip(changed.tolist(), rows, strict=True)]
        lists: list[KeyValue] = [(keys[user], body) for user, body in zip(due.tolist(), bodies, strict=True)]
        arrived_ms = np.array(arrived, np.int64)
        of_changed, of_due = _slices(number_of_user[changed], len(runs)), _slices(number_of_user[due], len(runs))
        of_events = _slices(number_of_event, len(runs))
        for number, one in enumerate(refreshed):
            one.changelog = pairs[of_changed[number]]
            if arms.control.model is None:
                one.changelog.append((POPULARITY_KEY, self.popular[one.run.partition].to_bytes()))
            known, reach = progress[number], one.run.records[-1].offset + 1
            one.changelog.append((PROGRESS_KEY, Progress(max(known.interactions, reach), known.users).to_bytes()))
            one.lists, one.arrived_ms = lists[of_due[number]], arrived_ms[of_due[number]]
            one.newest_ms = max(events.at[of_events[number]].tolist(), default=None)
        for part in parts:
            its_events = _slices(number_of_event[part.event], len(runs))
            its_lists = np.bincount(number_of_user[part.due], minlength=len(runs)).tolist()
            for number, one in enumerate(refreshed):
                one.outcomes.update(part.outcomes[its_events[number]])
                one.arms[part.arm.name] = its_lists[number]
        for bad in decoded.rejected:
            letter = DeadLetter(records[bad.index], bad.reason, bad.message)
            refreshed[number_of[bad.index]].letters.append(letter)
        return refreshed

    def _read(
        self, runs: Sequence[Run], keys: Sequence[bytes], number_of: NDArray[np.intp]
    ) -> tuple[list[bytes | None], list[Progress]]:
        """The rows under these keys, and the progress of each run's partition. number_of (keys,): each key's run."""
        stored: list[bytes | None] = []
        progress: list[Progress] = []
        for run, some in zip(runs, _slices(number_of, len(runs)), strict=True):
            *values, at = self._store.read(run.partition, [*keys[some], PROGRESS_KEY])
            stored += values
            progress.append(Progress.from_bytes(at))
        return stored, progress

    def _work_out(self, part: _Part, records: Sequence[Record], runs: Sequence[Run]) -> None:
        """Fills what the part comes to: rows, and lists of who is due."""
        model, decoded = part.arm.model, part.decoded
        events = decoded.interactions
        with self._metrics.timed("fold"):
            encoder = None if model is None else model.encoder
            folded = profile.fold(part.before, events, encoder, self._settings.admission)
            changed = np.flatnonzero(folded.changed)
            part.changed = part.user[changed]
            part.rows = profile.pack(profile.take(folded.rows, changed), part.partition[changed])
        part.outcomes = list(zip(decoded.event_types, _outcomes(folded), strict=True))
        sample = self._quality.sample(part.keys, part.partition, part.arm)
        self._quality.judge(sample, events, folded.counted, part.before)
        due, causes = self._due(records, decoded, folded.rows)
        due_rows = profile.take(folded.rows, due)
        if model is None:
            (run,) = runs
            self.popular[run.partition] = self._popularity(run.partition, decoded, folded)
            popular, part.lists = self._popular(Popularity.together(self.popular.values()), due_rows, causes)
            self._quality.gave_popular(sample, due, popular)
        else:
            found, part.lists = self._personal(model, due_rows, causes, part.said)
            self._quality.gave(sample, due, model, found)
        part.due = part.user[due]
        part.arrived_ms = [cause.arrived_ms for cause in causes]

    def _decode(self, records: Sequence[Record]) -> Decoded:
        headed = any(record.headers for record in records)
        return decode_interactions(
            [completed(record.value, record.headers) if headed else record.value for record in records],
            [record.key for record in records],
            [record.offset for record in records],
            [record.timestamp for record in records],
            self._clock(),
            self._settings.policy,
            int(1000 * self._settings.future_tolerance_seconds),
            [origin_of(record) for record in records] if headed else None,
        )

    def _due(self, records: Sequence[Record], decoded: Decoded, rows: Rows) -> tuple[NDArray[np.intp], list[Cause]]:
        """Whose lists go out, and why: every user whose newest folded event is in this batch.

        That holds for a run that is delivered again as well: whether its lists got out the first time is not known, and
        a repeated list replaces itself. A user with later events gets his list from the run that holds them.
        """
        events = decoded.interactions
        last = np.empty(len(events.users), np.intp)
        last[events.user] = np.arange(len(events))  # the last assignment wins: each user's last event of the batch
        due = np.flatnonzero((rows.offset == events.offset[last]) & (rows.events > 0))
        times = rfc3339_column(events.at[last[due]]) if len(due) else []
        causes = []
        for user, event, time_of in zip(due.tolist(), last[due].tolist(), times, strict=True):
            record = records[decoded.index[event]]
            trigger = Trigger(record.topic, record.partition, record.offset, decoded.event_ids[event], time_of)
            trace = trace_of(record.headers) if record.headers else None
            causes.append(Cause(events.users[user], trigger, record.timestamp, trace))
        return due, causes

    def _personal(
        self, model: Model, rows: Rows, causes: list[Cause], arm: str | None
    ) -> tuple[Recommendations, Sequence[bytes]]:
        now = self._clock()
        with self._metrics.timed("recommend"):
            found = recommend(model, rows, self._settings.list_size, self._catalogue.blocked(model, now))
        with self._metrics.timed("encode"):
            bodies = personal_lists(model, found, causes, rfc3339(now), "event", self._settings.list_format, arm)
            return found, self._with_headers(bodies, causes, model.version, now, arm)

    def _popular(
        self, popularity: Popularity, rows: Rows, causes: list[Cause]
    ) -> tuple[list[list[tuple[str, float]]], Sequence[bytes]]:
        """Before the first model: what is popular and new to the user."""
        now = self._clock()
        with self._metrics.timed("recommend"):
            found = popularity.recommend(
                rows, self._settings.list_size, lambda item: self._catalogue.is_blocked(item, now)
            )
        with self._metrics.timed("encode"):
            bodies = popular_lists(found, causes, rfc3339(now), "event", self._settings.list_format)
            return found, self._with_headers(bodies, causes, None, now)

    def _with_headers(
        self, bodies: list[bytes], causes: list[Cause], version: str | None, now: int, arm: str | None = None
    ) -> Sequence[bytes]:
        """The lists with what is to stand beside them; mostly that is nothing."""
        settings = self._settings
        if settings.cloudevents == "off":
            if not any(cause.trace for cause in causes):
                return bodies
            own: list[Headers] = [[] for _ in causes]
        else:
            source, at = settings.installation, rfc3339(now)
            own = [list_headers(cause, version, at, source, settings.list_format, arm) for cause in causes]
        together = zip(bodies, own, causes, strict=True)
        return [self._with_trace(body, headers, cause, version) for body, headers, cause in together]

    def _with_trace(self, body: bytes, headers: Headers, cause: Cause, version: str | None) -> WithHeaders:
        if cause.trace is None:
            return WithHeaders.of(body, headers)
        if self._traces is not None:
            return self._traces.begun(body, headers, cause, version)
        return WithHeaders.of(body, [*headers, (TRACEPARENT, cause.trace)])

    def _popularity(self, partition: int, decoded: Decoded, folded: profile.Folded) -> Popularity:
        (stored,) = self._store.read(partition, [POPULARITY_KEY])
        before = Popularity.from_bytes(stored, self._settings.popularity_half_life_seconds)
        counted = np.flatnonzero(folded.counted)
        events = decoded.interactions
        return before.fold([decoded.item_ids[place] for place in counted], events.weight[counted], events.at[counted])


def unpacked(stored: Sequence[bytes | None], model: Model | None) -> Rows:
    """Rows as the model in service reads them."""
    if model is None:
        return profile.unpack(stored, 0, 0)
    return profile.unpack(stored, model.encoder.width, model.encoder.key)


def _parts(
    arms: Arms,
    runs: Sequence[Run],
    decoded: Decoded,
    keys: Sequence[bytes],
    stored: Sequence[bytes | None],
    progress: Sequence[Progress],
    number_of_user: NDArray[np.intp],
) -> list[_Part]:
    """The batch, divided by arms; as it is while no experiment runs. keys, stored, number_of_user: of its users."""
    taken_in = np.array([each.interactions for each in progress], np.int64)[number_of_user]
    partition = np.array([run.partition for run in runs], np.int32)[number_of_user]
    if arms.treatment is None:
        rows = _read_rows(stored, taken_in, arms.control.model)
        user, event = np.arange(len(keys)), np.arange(len(decoded.index))
        return [_Part(arms.control, None, keys, user, event, decoded, partition, rows)]
    parts = []
    for arm, user in arms.divided(keys):
        places = user.tolist()
        its, event = decoded.of(user)
        rows = _read_rows([stored[place] for place in places], taken_in[user], arm.model)
        its_keys = [keys[place] for place in places]
        parts.append(_Part(arm, arm.name, its_keys, user, event, its, partition[user], rows))
    return parts


def _read_rows(stored: Sequence[bytes | None], taken_in: NDArray[np.int64], model: Model | None) -> Rows:
    """taken_in (rows,): up to where their partition has come."""
    rows = unpacked(stored, model)
    # Who has no events has none yet, or was erased: what was taken in before does not begin a new profile.
    unknown = rows.events == 0
    rows.offset[unknown] = taken_in[unknown] - 1
    return rows


def _in_order(parts: Sequence[tuple[NDArray[np.intp], Sequence[T]]]) -> tuple[NDArray[np.intp], Sequence[T]]:
    """What stands in several parts, by its number, in the order of numbers."""
    if len(parts) == 1:
        return parts[0]
    numbers = np.concatenate([np.empty(0, np.intp), *(part for part, _ in parts)])
    things = [thing for _, some in parts for thing in some]
    order = np.argsort(numbers)
    return numbers[order], [things[place] for place in order.tolist()]


def _slices(number_of: NDArray[np.intp], runs: int) -> list[slice]:
    """Where each run's part is, of things that stand in the order of their runs."""
    begin = np.searchsorted(number_of, np.arange(runs + 1)).tolist()
    return list(map(slice, begin, begin[1:]))


def _outcomes(folded: profile.Folded) -> list[str]:
    """What became of each event."""
    code = np.where(folded.counted, 0, np.where(folded.repeated, 1, np.where(folded.limited, 2, 3)))
    return [OUTCOMES[each] for each in code.tolist()]
