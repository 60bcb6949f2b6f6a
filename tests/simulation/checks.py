"""What must hold when everything has been handled: the dull truth beside what the workers left.

Counts into an `Outcome` what was compared and what is wrong. Knows nothing of how it came about, but for erasures: two
topics are not ordered against each other, so what of an erased user's events must count is told by an `Erasure`.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from efficientrec.interactions import REPEAT_IDS_MAX, key_of
from efficientrec.popularity import Popularity
from efficientrec.profile import unpack
from efficientrec.recommend import recommend
from efficientrec.recompute import Event
from streams.progress import PROGRESS_KEY, Progress
from streams.records import RecommendationList
from streams.refresh import POPULARITY_KEY
from tests.integration.harness import Record, World, list_in
from tests.simulation.judged import events_of, header_of, judge_row, say
from tests.simulation.outcome import Outcome
from tests.toy import names

"""Sentences about the same kind of thing."""


class Place(NamedTuple):
    """Where a record lies."""

    topic: str
    partition: int
    offset: int


class Erasure(NamedTuple):
    """A null on the users topic."""

    key: bytes
    partition: int
    offset: int
    floor: int
    """Interactions of the partition below this offset had been handled before it was sent: none of them remains."""


class Handled(NamedTuple):
    """A moment: partition → users that had been handled by then, and interactions that had been sent."""

    users: Mapping[int, int]
    sent: Mapping[int, int]


@dataclass
class Ledger:
    """What is known of the records beyond what the topics say."""

    erasures: list[Erasure] = field(default_factory=list)
    poison: dict[Place, tuple[bytes | None, bytes | None]] = field(default_factory=dict)
    moments: list[Handled] = field(default_factory=list)

    def after(self, partition: int, users_offset: int) -> float:
        """The offset from which on interactions were sent after this users record had been handled."""
        later = [each.sent.get(partition, 0) for each in self.moments if each.users.get(partition, 0) > users_offset]
        return min(later, default=math.inf)

    def bounds(self, key: bytes) -> tuple[int, float] | None:
        """Of a user who was erased: no interaction below the first offset counts, all from the second one on do. None
        of a user who never was."""
        mine = [each for each in self.erasures if each.key == key]
        if not mine:
            return None
        return max(each.floor for each in mine), max(self.after(each.partition, each.offset) for each in mine)


class Truth:
    """What the topics say at the end, read once."""

    def __init__(self, world: World, ledger: Ledger) -> None:
        self.world = world
        self.ledger = ledger
        self.events: Mapping[str, Sequence[Event]] = world.accepted()
        self.changelog = world.read(world.topics.changelog)
        self.lists = world.read(world.topics.lists)
        self.rows = {
            key: record.value
            for key, record in {record.key: record for record in self.changelog}.items()
            if key is not None and not key.startswith(b"\xff") and record.value is not None
        }
        self.expected = world.recomputed(self.rows)


def check_topics(truth: Truth, outcome: Outcome) -> None:
    """Everything that can be seen while the workers run."""
    outcome.events = sum(map(len, truth.events.values()))
    _check_rows(truth, truth.rows, "in the changelog", outcome)
    _check_erasures(truth, outcome)
    _check_progress(truth, outcome)
    _check_lists(truth, outcome)
    _check_dead_letters(truth, outcome)
    if not truth.world.models:
        _check_popularity(truth, outcome)


def check_disk(truth: Truth, rows: Mapping[bytes, bytes], outcome: Outcome) -> None:
    """The disks of workers that have stopped."""
    _check_rows(truth, rows, "on disk", outcome)


def _check_rows(truth: Truth, rows: Mapping[bytes, bytes], where: str, outcome: Outcome) -> None:
    said: list[str] = []
    for key in sorted(truth.expected.keys() | rows.keys()):
        outcome.compared[f"rows {where}"] += 1
        said += judge_row(rows.get(key), truth.expected.get(key), f"row of {key!r} {where}", outcome)
    say(said, outcome)


def _check_erasures(truth: Truth, outcome: Outcome) -> None:
    """A profile of a user who was erased begins late enough and early enough; one of nobody is not there at all."""
    said: list[str] = []
    for key in {each.key for each in truth.ledger.erasures}:
        bounds = truth.ledger.bounds(key)
        assert bounds is not None
        floor, ceiling = bounds
        outcome.compared["erased users"] += 1
        offsets = [event.offset for event in truth.events.get(key.decode(), ())]
        must = next((offset for offset in offsets if offset >= ceiling), None)
        row = truth.rows.get(key)
        begun = -1 if row is None else int(header_of(row)["begun"])
        if begun >= 0 and begun < floor:
            outcome.doubled += 1
            said.append(f"{key!r} was erased; the profile begins at {begun}, which was handled before {floor}")
        if must is not None and (begun < 0 or begun > must):
            outcome.lost += 1
            said.append(f"{key!r} did something at {must}, after the erasure; the profile begins at {begun}")
    say(said, outcome)


def _check_progress(truth: Truth, outcome: Outcome) -> None:
    """Where each partition's rows say that they have got."""
    world = truth.world
    newest: dict[int, Progress] = {}
    said: list[str] = []
    for record in truth.changelog:
        if record.key == PROGRESS_KEY:
            at = Progress.from_bytes(record.value)
            before = newest.get(record.partition, Progress())
            if at.interactions < before.interactions or at.users < before.users:
                said.append(f"partition {record.partition}: progress fell from {before} to {at} at {record.offset}")
            newest[record.partition] = at
    for partition in range(world.settings.partitions):
        outcome.compared["progress of partitions"] += 1
        ends = Progress(world.end(world.topics.interactions, partition), world.end(world.topics.users, partition))
        if newest.get(partition, Progress()) != ends:
            said.append(f"partition {partition}: {newest.get(partition)}; expected {ends}")
    say(said, outcome)


def _check_lists(truth: Truth, outcome: Outcome) -> None:
    """No list is older than the one before it; the last one is that of the user's last event, and says what the library
    says."""
    said: list[str] = []
    newest: dict[bytes | None, RecommendationList | None] = {}
    for record in truth.lists:
        outcome.compared["lists in order"] += 1
        if record.value is None:
            newest[record.key] = None
            continue
        list_ = list_in(record.value)
        before = newest.get(record.key)
        if before is not None and list_.trigger.offset < before.trigger.offset:
            said.append(
                f"a list of {record.key!r} of {list_.trigger.offset} follows one of {before.trigger.offset} "
                f"at {record.partition}:{record.offset}"
            )
        newest[record.key] = list_
    for key in truth.rows.keys() | {user.encode() for user in truth.events} | newest.keys():
        assert key is not None
        outcome.compared["last lists"] += 1
        last, row = newest.get(key), truth.rows.get(key)
        if row is None or not events_of(row):
            if last is not None:
                said.append(f"{key!r} has no events and a list of {last.trigger.offset}")
            elif key not in newest and truth.ledger.bounds(key) is not None:
                said.append(f"{key!r} was erased, and no null says so to the readers of lists")
            continue
        end = truth.events[key.decode()][-1].offset
        if last is None or last.trigger.offset != end:
            said.append(f"the last list of {key!r} is {last and last.trigger.offset}; the last event is {end}")
            continue
        said += _compared_items(truth, key, row, last, outcome)
    say(said, outcome)


def _compared_items(truth: Truth, key: bytes, row: bytes, last: RecommendationList, outcome: Outcome) -> list[str]:
    """What the library recommends for the row, beside the list. Only where the list was made from this very row: not
    where no model or another one made it, and not where demographics may have come after it."""
    header = header_of(row)
    model = truth.world.models.get(key_of(last.model_version)) if last.model_version else None
    described = int(header["users_offset"])
    is_settled = described < 0 or truth.ledger.after(last.trigger.partition, described) <= last.trigger.offset
    if model is None or model.encoder.key != int(header["model"]) or not is_settled:
        return []
    found = recommend(model, unpack([row], model.encoder.width, model.encoder.key), truth.world.settings.list_size)
    outcome.compared["lists item by item"] += 1
    listed, right = [item.item_id for item in last.items], names(model, found)
    return [] if listed == right else [f"the list of {key!r} is {listed}; the library says {right}"]


def _check_dead_letters(truth: Truth, outcome: Outcome) -> None:
    """Every poison record at least once, with its key and bytes, and nothing else."""
    world, said = truth.world, []
    letters = {_origin(record): (record.key, record.value) for record in world.read(world.topics.dead_letters)}
    for place, body in truth.ledger.poison.items():
        outcome.compared["dead letters"] += 1
        if place not in letters:
            said.append(f"{body[0]!r} at {place} is not among the dead letters")
        elif letters[place] != body:
            said.append(f"the dead letter of {place} is {letters[place]!r}; it was {body!r}")
    said += [f"{letters[place]!r} of {place} was set aside" for place in letters.keys() - truth.ledger.poison.keys()]
    say(said, outcome)


def _origin(record: Record) -> Place:
    headers = {name: value.decode() for name, value in record.headers}
    return Place(
        headers["dlq.original.topic"], int(headers["dlq.original.partition"]), int(headers["dlq.original.offset"])
    )


def _check_popularity(truth: Truth, outcome: Outcome) -> None:
    """Before the first model: every like of a partition once, by its age. Sums of floats depend on their order in the
    last digits only."""
    world, said = truth.world, []
    half_life_ms = 1000 * world.settings.popularity_half_life_seconds
    counted = {user: list(_not_repeated(events)) for user, events in truth.events.items()}
    partitions: dict[int, list[Event]] = defaultdict(list)
    for record in world.read(world.topics.interactions):
        user = (record.key or b"").decode(errors="replace")
        found = next((event for event in counted.get(user, ()) if event.offset == record.offset), None)
        if found is not None:
            partitions[record.partition].append(found)
    stored = {record.partition: record.value for record in truth.changelog if record.key == POPULARITY_KEY}
    for partition, events in partitions.items():
        outcome.compared["popularity counters"] += 1
        now = max(event.at_ms for event in events)
        scores: Counter[str] = Counter()
        for event in events:
            if event.weight > 0:
                scores[event.item_id] += float(np.float32(event.weight)) * 2.0 ** ((event.at_ms - now) / half_life_ms)
        found_ = Popularity.from_bytes(stored.get(partition), world.settings.popularity_half_life_seconds)
        close = found_.scores.keys() == scores.keys() and all(
            math.isclose(found_.scores[item], score, rel_tol=1e-9) for item, score in scores.items()
        )
        if found_.at != now or not close:
            said.append(f"partition {partition}: popularity {found_.at} {found_.scores}; expected {now} {dict(scores)}")
    say(said, outcome)


def _not_repeated(events: Iterable[Event]) -> Iterable[Event]:
    """What comes again under one of the user's last event ids counts once; all of a seed comes within a day."""
    noted: list[str] = []
    for event in events:
        if event.event_id is not None:
            if event.event_id in noted[-REPEAT_IDS_MAX:]:
                continue
            noted.append(event.event_id)
        yield event
