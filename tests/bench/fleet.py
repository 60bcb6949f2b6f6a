"""How partitions are dealt among up to a thousand workers, and what a rebalance moves: `python -m tests.bench.fleet`.

Real code, as it runs in a worker:

- Faust's assignor: who gets which partition (`ClusterAssignment`, `CopartitionedAssignor`), what a member tells the
  group and is told by the leader (`PartitionAssignor`, its JSON and zlib), with the app that `create_app` makes, so
  with its standby copies and its topics. `tests/test_fleet.py` checks that the short way taken here for the deal gives
  what the assignor's own `assign` gives.
- aiokafka's encoding of both.

A model:

- The group's coordinator: no broker, no network, no time. Members have random ids, and the leader sees them in the
  order of these. A member that comes back has another id and remembers nothing of its assignment, as in a new process.
- Disks. A worker keeps the folder of each partition that it ever had and finds it after a restart (streams/table.py).
  Copies are taken to have caught up before the next rebalance.
- Seconds of the leader and bytes of the group above `SAMPLE` members: those of so many, times the rest. Every member
  says and is told the same but for its own partitions.
- What the coordinator writes down for the group is the sum of what members said and were told, and `MEMBER_BYTES` for
  each.
"""

from __future__ import annotations

import json
import random
import shlex
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from copy import deepcopy
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any

import typer
from aiokafka.coordinator.protocol import ConsumerProtocol
from faust.assignor.client_assignment import ClientAssignment
from faust.assignor.cluster_assignment import ClusterAssignment
from faust.assignor.copartitioned_assignor import CopartitionedAssignor
from faust.assignor.partition_assignor import PartitionAssignor
from rich.console import Console
from rich.table import Table

from streams.app import App, create_app
from streams.settings import Settings
from streams.topics import Topics
from tests.bench import machine

SAMPLE = 20
"""Members whose messages are made and read; the rest cost the same."""
TRIALS = 5
"""Deaths, each of another worker of the same fresh deal; the mean counts."""
RESTARTS_MAX = 50
"""Workers restarted one after the other; in larger fleets those stand for the rest."""
SURVEY_PARTITIONS = (128, 256, 512, 1024)
SURVEY_FLEETS = (8, 16, 20, 24, 32, 40, 48, 50, 60, 64, 80, 96, 100, 120, 128)
MEMBER_BYTES = 100
"""Of a member in the coordinator's record beside what it said and was told: ids, host, time limits."""
RECORD_BYTES_MAX = 1_048_588
"""Kafka's default for message.max.bytes, which bounds the coordinator's record of a group as well."""

app = typer.Typer(help="Deal partitions among simulated fleets with Faust's own assignor.")
console = Console()


@dataclass(slots=True, eq=False)
class Worker:
    """One worker, with the disk that outlives its processes."""

    assignment: Any = field(default_factory=lambda: ClientAssignment(actives={}, standbys={}))
    disk: set[int] = field(default_factory=set)


@dataclass(slots=True)
class Moves:
    """What a rebalance, or several, did to the partitions."""

    active: int = 0
    """Partitions that another worker serves now."""
    on_standby: int = 0
    """Of these, to a worker that kept a copy until now: it reads on where it is."""
    on_old_disk: int = 0
    """Of the others, to a worker that has had the partition before: it reads what has come since."""
    needless: int = 0
    """Of the moves, away from a worker that is still there."""
    copies: int = 0
    """Standby copies where there was none."""
    copies_on_old_disk: int = 0

    def __iadd__(self, other: Moves) -> Moves:
        for name in Moves.__slots__:
            setattr(self, name, getattr(self, name) + getattr(other, name))
        return self

    def each(self, times: int) -> dict[str, float]:
        return {name: count / times for name, count in asdict(self).items()}


class Fleet:
    """The members of a group, and what the leader makes of them."""

    def __init__(self, partitions: int, replicas: int, topics: Iterable[str], seed: int = 0) -> None:
        self.partitions = partitions
        self.replicas = replicas
        self.topics = set(topics)
        self.members: dict[str, Worker] = {}
        self.random = random.Random(seed)
        self.deal_seconds = 0.0
        """Of processor time: the last deal."""

    def join(self, worker: Worker) -> str:
        """A new process of this worker: it has its disk, and no assignment."""
        worker.assignment = ClientAssignment(actives={}, standbys={})
        member = f"{self.random.getrandbits(128):032x}"
        self.members[member] = worker
        self.members = dict(sorted(self.members.items()))
        return member

    def leave(self, member: str) -> Worker:
        return self.members.pop(member)

    def rebalance(self) -> Moves:
        """What `PartitionAssignor` does between reading what members say and writing what they are told."""
        before = {member: _parts(worker) for member, worker in self.members.items()}
        start = time.process_time()
        cluster = ClusterAssignment()
        for member, worker in self.members.items():
            cluster.subscriptions[member] = list(self.topics)
            cluster.assignments[member] = worker.assignment
        dealt = CopartitionedAssignor(
            topics=self.topics,
            cluster_asgn=cluster.copartitioned_assignments(self.topics),
            num_partitions=self.partitions,
            replicas=self.replicas,
        ).get_assignment()
        self.deal_seconds = time.process_time() - start
        for member, worker in self.members.items():
            worker.assignment = ClientAssignment(actives={}, standbys={})
            worker.assignment.add_copartitioned_assignment(dealt[member])
        return self._moves(before)

    def _moves(self, before: Mapping[str, tuple[set[int], set[int]]]) -> Moves:
        moves = Moves()
        kept = {partition for active, _ in before.values() for partition in active}
        for member, worker in self.members.items():
            active, standby = _parts(worker)
            had_active, had_standby = before[member]
            for partition in active - had_active:
                moves.active += 1
                moves.needless += partition in kept
                moves.on_standby += partition in had_standby
                moves.on_old_disk += partition in worker.disk - had_standby
            for partition in standby - had_standby:
                moves.copies += 1
                moves.copies_on_old_disk += partition in worker.disk
            worker.disk |= active | standby
        return moves

    def active(self) -> list[int]:
        """Partitions that each worker serves."""
        return [len(_parts(worker)[0]) for worker in self.members.values()]

    def standby(self) -> list[int]:
        return [len(_parts(worker)[1]) for worker in self.members.values()]


def _parts(worker: Worker) -> tuple[set[int], set[int]]:
    """Served and copied; the topics of a user's partition are always dealt alike, so one tells for all."""
    actives, standbys = worker.assignment.actives, worker.assignment.standbys
    return set(next(iter(actives.values()), ())), set(next(iter(standbys.values()), ()))


def dealt(workers: int, partitions: int, topics: Iterable[str], replicas: int, seed: int = 0) -> Fleet:
    """A fleet whose workers all started at once with empty disks.

    >>> dealt(3, 8, ["events"], replicas=1).active()
    [3, 3, 2]
    """
    fleet = Fleet(partitions, replicas, topics, seed)
    for _ in range(workers):
        fleet.join(Worker())
    fleet.rebalance()
    return fleet


def measure(workers: int, partitions: int, per_host: int = 1) -> dict[str, Any]:
    """All figures of one fleet. per_host: workers that share a host's name, and so an address."""
    worker_app = create_app(Settings(partitions=partitions))
    names = Topics.of(Settings(partitions=partitions))
    replicas: int = worker_app.conf.table_standby_replicas
    topics = (names.interactions, names.users, names.changelog)

    fleet = dealt(workers, partitions, topics, replicas)
    return {
        "workers": workers,
        "partitions": partitions,
        "deal_seconds": fleet.deal_seconds,
        "fresh": {"active": _spread(fleet.active()), "standby": _spread(fleet.standby())},
        "death": _deaths(fleet),
        "join": _joins(fleet),
        "restart": _restarts(deepcopy(fleet)),
        "cold": _cold(deepcopy(fleet)),
        "words": _words(fleet, worker_app, Member, per_host),
        "words_without_distributions": _words(fleet, worker_app, BriefMember, per_host),
    }


def takeovers(partitions: int, fleets: Iterable[int]) -> dict[int, float]:
    """Size of a fleet → share of a dead worker's partitions that go to a worker with a copy."""
    found = {}
    for workers in fleets:
        death = _deaths(dealt(workers, partitions, ["events"], replicas=1))
        found[workers] = death["on_standby"] / death["active"]
    return found


def idle(partitions: int, fleets: Sequence[int]) -> dict[int, int]:
    """Size of a fleet whose workers came one after the other → workers that serve nothing.

    >>> idle(8, [4, 5])
    {4: 0, 5: 1}
    """
    fleet, found = Fleet(partitions, 1, ["events"]), {}
    for workers in range(1, max(fleets) + 1):
        fleet.join(Worker())
        fleet.rebalance()
        if workers in fleets:
            found[workers] = sum(not count for count in fleet.active())
    return found


def _spread(counts: list[int]) -> dict[str, float]:
    return {"least": min(counts), "mean": sum(counts) / len(counts), "most": max(counts)}


def _deaths(fresh: Fleet) -> dict[str, Any]:
    """One worker of a freshly dealt fleet dies."""
    moves, most = Moves(), 0
    dying = fresh.random.sample(list(fresh.members), min(TRIALS, len(fresh.members)))
    for member in dying:
        fleet = deepcopy(fresh)
        fleet.leave(member)
        moves += fleet.rebalance()
        most = max(most, *fleet.active())
    return {**moves.each(len(dying)), "most_after": most}


def _joins(fresh: Fleet) -> dict[str, Any]:
    """One worker more, with an empty disk."""
    fleet = deepcopy(fresh)
    member = fleet.join(Worker())
    moves = fleet.rebalance()
    return {**moves.each(1), "joiner_gets": len(_parts(fleet.members[member])[0])}


def _restarts(fleet: Fleet) -> dict[str, Any]:
    """One worker after the other stops, and is back after the group has dealt without it: two rebalances each."""
    moves = Moves()
    restarted = list(fleet.members)[:RESTARTS_MAX]
    for member in restarted:
        worker = fleet.leave(member)
        moves += fleet.rebalance()
        fleet.join(worker)
        moves += fleet.rebalance()
    after = {"active_after": _spread(fleet.active()), "standby_after": _spread(fleet.standby())}
    return {**moves.each(len(restarted)), "restarted": len(restarted), **after}


def _cold(fleet: Fleet) -> dict[str, float]:
    """All stop, and start again with their disks."""
    workers = list(fleet.members.values())
    fleet.members.clear()
    fleet.random.shuffle(workers)
    for worker in workers:
        fleet.join(worker)
    moves = fleet.rebalance()
    return {
        "active_on_old_disk": moves.on_old_disk / fleet.partitions,
        "copies_on_old_disk": moves.copies_on_old_disk / max(1, moves.copies),
    }


class Member(PartitionAssignor):  # type: ignore[misc]  # untyped there
    """Faust's assignor as it is in a worker of this address."""

    def __init__(self, worker_app: App, address: str) -> None:
        super().__init__(worker_app, replicas=worker_app.conf.table_standby_replicas)
        self.address = address

    @property
    def _url(self) -> str:
        return self.address


class BriefMember(Member):
    """The same without the list of who serves what, which Faust gives to every member and nobody here asks for."""

    def _get_changelog_distribution(self, assignments: Any) -> dict[str, Any]:
        return {}

    def _get_external_topic_distribution(self, assignments: Any) -> dict[str, Any]:
        return {}


def addresses(fleet: Fleet, per_host: int) -> dict[str, str]:
    """As Faust makes them of the name of a host or container: workers of one host have the same."""
    return {member: f"http://worker-{number // per_host:04}:6066" for number, member in enumerate(fleet.members)}


def _words(fleet: Fleet, worker_app: App, kind: type[Member], per_host: int) -> dict[str, float]:
    """What the group says in one rebalance: every member tells what it has, the leader tells each what it gets."""
    urls = addresses(fleet, per_host)
    leader = kind(worker_app, next(iter(urls.values())))
    leader._member_urls = urls
    assignments = {member: worker.assignment for member, worker in fleet.members.items()}
    sample = dict(list(assignments.items())[:SAMPLE])
    others = len(assignments) / len(sample)

    start = time.process_time()
    serves = (leader._get_changelog_distribution(assignments), leader._get_external_topic_distribution(assignments))
    distributed = time.process_time()
    told = leader._protocol_assignments(sample, *serves, dict.fromkeys(fleet.topics, 0))
    answers = {member: each.encode() for member, each in told.items()}
    writing = distributed - start + (time.process_time() - distributed) * others

    start = time.process_time()
    members = {member: kind(worker_app, urls[member]) for member in sample}
    for member, each in members.items():
        each.on_assignment(ConsumerProtocol.ASSIGNMENT.decode(answers[member]))
    taking = (time.process_time() - start) / len(sample)
    said = [each.metadata(fleet.topics).encode() for each in members.values()]

    start = time.process_time()
    for each in said:
        leader._get_client_metadata(ConsumerProtocol.METADATA.decode(each))
    reading = (time.process_time() - start) * others

    join_bytes, answer_bytes = sum(map(len, said)) / len(sample), sum(map(len, answers.values())) / len(sample)
    return {
        "join_bytes": join_bytes,
        "answer_bytes": answer_bytes,
        "to_leader_bytes": join_bytes * len(assignments),
        "record_bytes": (join_bytes + answer_bytes + MEMBER_BYTES) * len(assignments),
        "leader_seconds": reading + fleet.deal_seconds + writing,
        "member_seconds": taking,
    }


def _show(
    figures: list[dict[str, Any]], taken: Mapping[int, Mapping[int, float]], left: Mapping[int, Mapping[int, int]]
) -> None:
    dealing = Table("workers", "partitions", "active", "standby", "deal, s", title="Dealt")
    moving = Table(title="Moved, per event; a restart is two rebalances")
    for name in (
        "workers",
        "partitions",
        "death: moves",
        "to a copy",
        "most after",
        "join: gets",
        "moves",
        "to a copy",
        "restart: moves",
        "to a copy",
        "to an old disk",
        "copies made",
        "active after",
        "all stopped: on old disk",
    ):
        moving.add_column(name)
    words = Table(
        *("workers", "partitions", "a member says", "is told", "record", "of 1 MiB", "leader, s", "member, s"),
        *("record, brief", "leader, brief"),
        title="Said",
    )
    for each in figures:
        size = (f"{each['workers']:,}", f"{each['partitions']:,}")
        dealing.add_row(
            *size,
            _range(each["fresh"]["active"]),
            _range(each["fresh"]["standby"]),
            f"{each['deal_seconds']:.3f}",
        )
        death, join, restart = each["death"], each["join"], each["restart"]
        moving.add_row(
            *size,
            f"{death['active']:.1f}",
            _share(death["on_standby"], death["active"]),
            f"{death['most_after']}",
            f"{join['joiner_gets']}",
            f"{join['active']:.0f}",
            _share(join["on_standby"], join["active"]),
            f"{restart['active']:.1f}",
            _share(restart["on_standby"], restart["active"]),
            _share(restart["on_old_disk"], restart["active"]),
            f"{restart['copies']:.1f}",
            _range(restart["active_after"]),
            f"{each['cold']['active_on_old_disk']:.0%}",
        )
        said, brief = each["words"], each["words_without_distributions"]
        words.add_row(
            *size,
            f"{said['join_bytes']:,.0f}",
            f"{said['answer_bytes']:,.0f}",
            f"{said['record_bytes']:,.0f}",
            f"{said['record_bytes'] / RECORD_BYTES_MAX:,.2f}",
            f"{said['leader_seconds']:.2f}",
            f"{said['member_seconds']:.3f}",
            f"{brief['record_bytes']:,.0f}",
            f"{brief['leader_seconds']:.2f}",
        )
    taking = Table("partitions", *map(str, SURVEY_FLEETS), title="Of a dead worker's partitions, to a copy; by workers")
    for partitions, shares in taken.items():
        taking.add_row(f"{partitions:,}", *(f"{share:.0%}" for share in shares.values()))
    idling = Table("partitions", *map(str, SURVEY_FLEETS), title="Idle when workers came one by one; by workers")
    for partitions, counts in left.items():
        idling.add_row(f"{partitions:,}", *map(str, counts.values()))
    for table in (dealing, moving, taking, idling, words):
        console.print(table)


def _range(spread: Mapping[str, float]) -> str:
    return f"{spread['least']:g} – {spread['most']:g} (mean {spread['mean']:g})"


def _share(part: float, whole: float) -> str:
    return f"{part / whole:.0%}" if whole else "–"


@app.command()
def main(
    workers: Annotated[list[int] | None, typer.Option(help="Sizes of fleets.")] = None,
    per_worker: Annotated[list[int] | None, typer.Option(help="Partitions per worker.")] = None,
    per_host: Annotated[int, typer.Option(help="Workers of one host, which share its name.")] = 1,
    output: Annotated[Path | None, typer.Option("--json", help="Write the figures to this file.")] = None,
) -> None:
    """How evenly partitions are dealt, what moves, and how much the group says."""
    start = time.process_time()
    figures = [
        measure(fleet, fleet * times, per_host)
        for fleet in workers or (3, 10, 100, 1000)
        for times in per_worker or (1, 2, 4, 10)
    ]
    taken = {partitions: takeovers(partitions, SURVEY_FLEETS) for partitions in SURVEY_PARTITIONS}
    left = {partitions: idle(partitions, SURVEY_FLEETS) for partitions in SURVEY_PARTITIONS}
    _show(figures, taken, left)
    console.print(f"{time.process_time() - start:.0f} s of processor time")
    if output is not None:
        command = shlex.join(["python", "-m", "tests.bench.fleet", *sys.argv[1:]])
        report = {**machine.described(), "command": command, "fleets": figures, "takeovers": taken, "idle": left}
        output.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    app()
