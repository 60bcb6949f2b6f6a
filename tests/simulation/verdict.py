"""The truth of a schedule in memory, recomputed plainly from the source topics, beside what the workers left.

Two topics are not ordered against each other, so what an erasure leaves depends on when it took effect. That is told by
the changelog itself: the rows and the progress that stood there when the erasure entered it. (That the progress was
right at that moment is checked when it is appended, memory.py.) From then on exactly the interactions that the
partition had not taken in yet belong to the user.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from efficientrec.errors import InteractionInvalid, RecordInvalid
from efficientrec.features import trait_keys
from efficientrec.interactions import REPEAT_IDS_MAX, key_of
from efficientrec.model import Model
from efficientrec.popularity import Popularity
from efficientrec.profile import rebuilt, unpack
from efficientrec.recommend import recommend
from efficientrec.recompute import Event, recompute
from streams.aside import ORIGIN
from streams.features import feature_texts
from streams.placement import partitions_of
from streams.progress import PROGRESS_KEY, Progress
from streams.records import RecommendationList, check_user_key, decode_interaction, decode_list, decode_user, moment_ms
from streams.refresh import POPULARITY_KEY
from streams.topics import Topics
from streams.writer import FENCE_KEY
from tests.simulation.deal import MODELS, Deal, model_of
from tests.simulation.fakes import LETTER_BYTES_MAX, Broker, Entry
from tests.simulation.judged import events_of, header_of, judge_row, say, told
from tests.simulation.member import Around, recover
from tests.simulation.outcome import Outcome
from tests.toy import DAY, names

NOT_A_USER = b"\xff"


class ListSent(NamedTuple):
    """A record of the lists topic, and the user's row in the changelog when it was appended."""

    partition: int
    key: bytes
    value: bytes | None
    row: bytes | None


@dataclass
class End:
    """What is left of a schedule."""

    deal: Deal
    topics: Topics
    broker: Broker
    around: Around
    lists: list[ListSent]
    cuts: set[int]
    """Partitions whose changelog has lost its end. Their rows come back, and lists with them, perhaps older ones; but a
    second failure may keep the last list back, since the group's commit knows nothing of what was lost."""
    was_ever_warm: bool
    now_ms: int


@dataclass
class User:
    """What must be true of a user in one partition."""

    events: list[Event] = field(default_factory=list)
    """All that were accepted, erased ones as well."""
    erasures: list[int] = field(default_factory=list)
    """For each erasure, in order, the offset from which on events were still to come."""
    traits: list[int] = field(default_factory=list)
    users_offset: int = -1
    is_described: bool = False

    @property
    def kept(self) -> list[Event]:
        first = self.erasures[-1] if self.erasures else 0
        return [event for event in self.events if event.offset >= first]

    @property
    def lives(self) -> list[list[Event]]:
        """The events between one erasure and the next: each life begins with nothing."""
        ends = [*self.erasures, math.inf]
        starts = [-1, *self.erasures]
        return [
            [event for event in self.events if start <= event.offset < end]
            for start, end in zip(starts, ends, strict=True)
        ]


class Letter(NamedTuple):
    """A dead letter: whence, and what."""

    topic: str
    partition: int
    offset: int
    key: bytes | None
    value: bytes | None


def judge(end: End, outcome: Outcome) -> None:
    letters: set[Letter] = set()
    forwarded: set[str] = set()
    for partition in range(end.deal.settings.partitions):
        users, rejected, misplaced = _truth(end, partition)
        letters |= rejected
        forwarded |= misplaced
        _erasures(end, partition, users)
        outcome.events += sum(len(user.events) for user in users.values())
        changelog = _newest(end, partition)
        _check_rows(end, partition, users, changelog, outcome)
        _check_counted(end, users, changelog, outcome)
        _check_progress(end, partition, changelog, outcome)
        _check_disks(end, partition, changelog, outcome)
        _check_lists(end, partition, users, changelog, outcome)
        if not end.was_ever_warm:
            _check_popularity(end, partition, users, changelog, outcome)
    _check_letters(end, letters, outcome)
    _check_forwarded(end, forwarded, outcome)


# The truth


def _truth(end: End, partition: int) -> tuple[dict[bytes, User], set[Letter], set[str]]:
    """What the source topics say: users by key, what must be set aside, and what must be forwarded (its origin)."""
    settings, policy = end.deal.settings, end.deal.settings.policy
    users: dict[bytes, User] = defaultdict(User)
    letters: set[Letter] = set()
    forwarded: set[str] = set()
    latest_ms = end.now_ms + int(1000 * settings.future_tolerance_seconds)
    topic = end.topics.interactions
    for record in end.broker.logs[topic, partition].entries():
        origin = _origin(record)
        if settings.wrong_partition == "forward" and origin is None and record.key is not None:
            (right,) = partitions_of([record.key], settings.partitions).tolist()
            if right != partition:
                forwarded.add(f"{topic}/{partition}/{record.offset}")
                continue
        try:
            event = decode_interaction(record.value, record.key, policy, latest_ms)
        except InteractionInvalid:
            letters.add(_letter(topic, partition, record))
            continue
        rule = policy.rules[event.event_type]
        line = ((event.value or 0.0) - rule.neutral) / rule.span if rule.needs_value else rule.weight
        users[event.user_id.encode()].events.append(
            Event(
                record.offset,
                event.item_id,
                min(1.0, max(-1.0, line)),
                moment_ms(event.event_time),
                event.event_id or origin,
                rule.excludes,
                record.timestamp,
            )
        )
    for record in end.broker.logs[end.topics.users, partition].entries():
        try:
            assert record.key is not None
            check_user_key(record.key)
            described = None if record.value is None else decode_user(record.value, record.key)
        except RecordInvalid:
            letters.add(_letter(end.topics.users, partition, record))
            continue
        user = users[record.key]
        user.is_described = described is not None
        user.users_offset = -1 if described is None else record.offset
        user.traits = [] if described is None else trait_keys(feature_texts(described.features)).tolist()
    return users, letters, forwarded


def _erasures(end: End, partition: int, users: dict[bytes, User]) -> None:
    """When each erasure took effect, as the changelog tells: nulls that were new when their run was appended."""
    progress = Progress()
    for batch in end.broker.logs[end.topics.changelog, partition].batches:
        run = batch.note.run if batch.note else None
        kept = {entry.key for entry in batch.entries}
        if run is not None and run.topic == end.topics.users:
            for key in {
                record.key for record in run.records if record.value is None and record.offset >= progress.users
            }:
                if key in kept and key is not None:
                    users[key].erasures.append(progress.interactions)
        for entry in batch.entries:
            if entry.key == PROGRESS_KEY:
                progress = Progress.from_bytes(entry.value)


def _origin(record: Entry) -> str | None:
    return next((value.decode() for name, value in record.headers if name == ORIGIN), None)


def _letter(topic: str, partition: int, record: Entry) -> Letter:
    is_too_large = len(record.key or b"") + len(record.value or b"") > LETTER_BYTES_MAX
    return Letter(topic, partition, record.offset, record.key, None if is_too_large else record.value)


def _newest(end: End, partition: int) -> dict[bytes, bytes]:
    """What compaction keeps of the changelog."""
    newest: dict[bytes, bytes] = {}
    for entry in end.broker.logs[end.topics.changelog, partition].entries():
        assert entry.key is not None
        newest.pop(entry.key, None)
        if entry.value is not None:
            newest[entry.key] = entry.value
    return newest


# Rows


def _expected(end: End, partition: int, user: User, row: bytes | None) -> bytes | None:
    """The user's row, which names its model and where that began to build it."""
    if not user.kept and not user.is_described:
        return None
    header = header_of(row)
    return recompute(
        user.kept,
        _model(header),
        built=int(header["built"]),
        partition=partition,
        traits=user.traits,
        users_offset=user.users_offset,
        admission=end.deal.settings.admission,
    )


def _check_rows(
    end: End, partition: int, users: dict[bytes, User], changelog: dict[bytes, bytes], outcome: Outcome
) -> None:
    rows = {key: row for key, row in changelog.items() if not key.startswith(NOT_A_USER)}
    said: list[str] = []
    for key in sorted(users.keys() | rows.keys()):
        outcome.compared["rows in changelog"] += 1
        row = rows.get(key)
        expected = _expected(end, partition, users[key], row) if key in users else None
        if row is not None and not end.deal.is_cold and int(header_of(row)["model"]) == 0:
            said.append(f"row of {key!r} in partition {partition} has no model, though there always was one")
        said += judge_row(row, expected, f"row of {key!r} in partition {partition}", outcome)
    say(said, outcome)


def _check_counted(end: End, users: dict[bytes, User], rows: dict[bytes, bytes], outcome: Outcome) -> None:
    """Where every id that was used is remembered, each counts once, and so does what was forwarded twice."""
    admission = end.deal.settings.admission
    remembers = admission.repeat_ids == REPEAT_IDS_MAX and admission.repeat_seconds >= DAY / 1000
    if not remembers or admission.events_per_second:
        return
    for key, user in users.items():
        if user.erasures or len(user.events) > REPEAT_IDS_MAX:
            continue
        outcome.compared["counts of ids"] += 1
        named = {event.event_id for event in user.events if event.event_id is not None}
        wants = len(named) + sum(event.event_id is None for event in user.events)
        if events_of(rows.get(key)) != wants:
            outcome.problems.append(f"{key!r} has {events_of(rows.get(key))} events, of {wants} different ones")


def _check_progress(end: End, partition: int, changelog: dict[bytes, bytes], outcome: Outcome) -> None:
    outcome.compared["progress of partitions"] += 1
    ends = [end.broker.logs[topic, partition].end for topic in (end.topics.interactions, end.topics.users)]
    found = Progress.from_bytes(changelog.get(PROGRESS_KEY))
    if [found.interactions, found.users] != ends:
        outcome.problems.append(f"partition {partition}: {found}; expected {ends}")


def _check_disks(end: End, partition: int, changelog: dict[bytes, bytes], outcome: Outcome) -> None:
    """Every disk, after the recovery that a start would begin with, says what the changelog says."""
    expected = {key: value for key, value in changelog.items() if key != FENCE_KEY}
    fence = end.broker.logs[end.topics.changelog, partition].next
    for machine in end.around.machines:
        outcome.compared["disks"] += 1
        recover(end.around, machine, partition, fence)
        rows = machine.disks[partition].rows
        if rows != expected:
            wrong = sorted(key for key in rows.keys() | expected.keys() if rows.get(key) != expected.get(key))
            outcome.different += 1
            outcome.problems.append(f"disk of {machine.name} differs from changelog {partition} in {wrong}")


# Lists


def _check_lists(
    end: End, partition: int, users: dict[bytes, User], changelog: dict[bytes, bytes], outcome: Outcome
) -> None:
    said: list[str] = []
    newest: dict[bytes, tuple[ListSent, RecommendationList | None]] = {}
    if partition in end.cuts:
        return
    for sent in end.lists:
        if sent.partition != partition:
            continue
        list_ = None if sent.value is None else decode_list(sent.value)
        last = newest.get(sent.key)
        if list_ is not None and last is not None and last[1] is not None:
            outcome.compared["lists in order"] += 1
            if list_.trigger.offset < last[1].trigger.offset:
                said.append(f"a list of {sent.key!r} of {list_.trigger.offset} follows {last[1].trigger.offset}")
        newest[sent.key] = (sent, list_)
    for key, user in users.items():
        outcome.compared["last lists"] += 1
        sent_, last_ = newest.get(key, (None, None))
        if not user.kept:
            if last_ is not None:
                said.append(f"{key!r} has no events and a list of {last_.trigger.offset}")
            elif user.erasures and sent_ is None:
                said.append(f"{key!r} was erased, and no null says so")
            continue
        if last_ is None or sent_ is None or last_.trigger.offset != user.kept[-1].offset:
            found = last_ and last_.trigger.offset
            said.append(f"the last list of {key!r} is of {found}; the last event is {user.kept[-1].offset}")
            continue
        said += _check_items(end, partition, key, user, sent_, last_, outcome)
    say(said, outcome)


def _check_items(
    end: End, partition: int, key: bytes, user: User, sent: ListSent, last: RecommendationList, outcome: Outcome
) -> list[str]:
    """The row that the list was made from is right but for demographics that came later, and so are the items."""
    assert sent.row is not None
    header = header_of(sent.row)
    count = int(header["traits_count"])
    traits = np.frombuffer(sent.row[len(sent.row) - 8 * count :], np.uint64).tolist()
    events = [event for event in user.kept if event.offset <= last.trigger.offset]
    expected = recompute(
        events,
        _model(header),
        built=int(header["built"]),
        partition=partition,
        traits=traits,
        users_offset=int(header["users_offset"]),
        admission=end.deal.settings.admission,
    )
    outcome.compared["rows behind lists"] += 1
    if sent.row != expected:
        return [f"the row behind the last list of {key!r} is {told(sent.row)}; expected {told(expected)}"]
    listed = [item.item_id for item in last.items]
    size = end.deal.settings.list_size
    if last.model_version is None:
        row = unpack([expected], 0, 0)
        met = set(row.seen[0, : row.seen_count[0]].tolist())
        again = [item for item in listed if key_of(item) % 2**16 in met]
        right = not again and len(listed) == len(set(listed)) <= size
        return [] if right else [f"the list of {key!r} is {listed}, of which were seen {again}"]
    model = model_of(last.model_version)
    rows = rebuilt(unpack([expected], model.encoder.width, model.encoder.key), model.encoder)
    found = names(model, recommend(model, rows, size))
    outcome.compared["lists item by item"] += 1
    return [] if listed == found else [f"the list of {key!r} is {listed}; the library says {found}"]


# What is beside rows and lists


def _check_popularity(
    end: End, partition: int, users: dict[bytes, User], changelog: dict[bytes, bytes], outcome: Outcome
) -> None:
    """Every event that counted, by its age; those of erased users as well."""
    settings = end.deal.settings
    counted: list[Event] = []
    for user in users.values():
        for life in user.lives:
            before = 0
            for number, event in enumerate(life, 1):
                after = events_of(recompute(life[:number], None, admission=settings.admission))
                if after > before:
                    counted.append(event)
                before = after
    if not counted:
        return
    outcome.compared["popularity counters"] += 1
    now = max(event.at_ms for event in counted)
    scores: dict[str, float] = defaultdict(float)
    for event in counted:
        if event.weight > 0:
            age = (now - event.at_ms) / 1000 / settings.popularity_half_life_seconds
            scores[event.item_id] += float(np.float32(event.weight)) * 2.0**-age
    found = Popularity.from_bytes(changelog.get(POPULARITY_KEY), settings.popularity_half_life_seconds)
    if (
        found.at != now
        or found.scores.keys() != scores.keys()
        or not all(math.isclose(found.scores[item], score, rel_tol=1e-9) for item, score in scores.items())
    ):
        outcome.problems.append(f"popularity of {partition}: {found.at} {found.scores}; expected {now} {dict(scores)}")


def _check_letters(end: End, expected: set[Letter], outcome: Outcome) -> None:
    found = Counter(
        Letter(
            (headers := {name: value.decode() for name, value in entry.headers})["dlq.original.topic"],
            int(headers["dlq.original.partition"]),
            int(headers["dlq.original.offset"]),
            entry.key,
            entry.value,
        )
        for entry in end.broker.logs[end.topics.dead_letters, 0].entries()
    )
    outcome.compared["dead letters"] += len(expected)
    say([f"not among the dead letters: {each}" for each in sorted(expected - found.keys(), key=str)], outcome)
    say([f"set aside, and was good: {each}" for each in sorted(found.keys() - expected, key=str)], outcome)


def _check_forwarded(end: End, expected: set[str], outcome: Outcome) -> None:
    found = {
        origin
        for partition in range(end.deal.settings.partitions)
        for entry in end.broker.logs[end.topics.interactions, partition].entries()
        if (origin := _origin(entry)) is not None
    }
    outcome.compared["forwarded records"] += len(expected)
    if found != expected:
        outcome.problems.append(f"forwarded were {sorted(found)}; expected {sorted(expected)}")


def _model(header: Any) -> Model | None:
    versions = {key_of(version): version for version in MODELS}
    key = int(header["model"])
    if key and key not in versions:
        raise AssertionError(f"a row was built by a model of key {key}, which was never released")
    return model_of(versions[key]) if key else None
