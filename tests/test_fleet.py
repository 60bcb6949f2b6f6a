from __future__ import annotations

from dataclasses import dataclass

from aiokafka.coordinator.protocol import ConsumerProtocol

from streams.app import create_app
from streams.settings import Settings
from tests.bench.fleet import Fleet, Member, Worker, dealt, idle

TOPICS = ("events", "users", "efficientrec-profiles-changelog")


@dataclass(frozen=True)
class Cluster:
    """What the leader asks of the cluster's metadata."""

    partitions: int

    def partitions_for_topic(self, topic: str) -> set[int]:
        return set(range(self.partitions))


def test_the_simulated_deal_is_the_one_that_a_leader_makes_of_what_members_say() -> None:
    fleet = dealt(5, 16, TOPICS, replicas=1)
    app = create_app(Settings(partitions=16))
    members = {name: Member(app, f"http://{name}:6066") for name in fleet.members}
    for name, member in members.items():
        member._assignment = fleet.members[name].assignment
    fleet.leave(list(members)[2])
    said = {
        name: ConsumerProtocol.METADATA.decode(members[name].metadata(set(TOPICS)).encode()) for name in fleet.members
    }

    told = members[next(iter(said))].assign(Cluster(16), said)
    fleet.rebalance()

    for name, answer in told.items():
        members[name].on_assignment(ConsumerProtocol.ASSIGNMENT.decode(answer.encode()))
        assert members[name]._assignment.actives == fleet.members[name].assignment.actives
        assert members[name]._assignment.standbys == fleet.members[name].assignment.standbys


def test_every_partition_has_one_worker_and_one_copy_elsewhere_whoever_dies_or_joins() -> None:
    fleet = dealt(6, 20, TOPICS, replicas=1)

    for _ in range(10):
        fleet.leave(fleet.random.choice(list(fleet.members)))
        fleet.rebalance()
        fleet.join(Worker())
        fleet.rebalance()

        parts = [worker.assignment for worker in fleet.members.values()]
        assert sorted(number for part in parts for number in part.actives["users"]) == list(range(20))
        assert sorted(number for part in parts for number in part.standbys["users"]) == list(range(20))
        assert not any(set(part.actives["users"]) & set(part.standbys["users"]) for part in parts)


def test_moves_tell_a_copy_from_an_old_disk_and_both_from_nothing() -> None:
    fleet = Fleet(4, 1, ["events"])
    first, second = fleet.join(Worker()), fleet.join(Worker())
    started = fleet.rebalance()
    worker = fleet.leave(first)
    died = fleet.rebalance()
    fleet.join(worker)
    came_back = fleet.rebalance()

    assert (started.active, started.on_standby, started.on_old_disk, started.copies) == (4, 0, 0, 4)
    assert (died.active, died.on_standby, died.needless) == (2, 2, 0)
    assert (came_back.active, came_back.on_standby, came_back.on_old_disk, came_back.needless) == (2, 0, 2, 2)
    assert second in fleet.members


def test_a_worker_that_comes_later_may_be_left_without_anything_to_serve() -> None:
    assert dealt(5, 8, TOPICS, replicas=1).active() == [2, 2, 2, 1, 1]

    assert idle(8, [5]) == {5: 1}
