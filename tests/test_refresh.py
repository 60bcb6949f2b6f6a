"""What a batch of runs of several partitions comes to: the same as each run alone."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

from aiokafka.structs import ConsumerRecord

from efficientrec.interactions import WeightPolicy
from streams.arms import CONTROL, Arm, Arms
from streams.aside import ORIGIN, Aside
from streams.catalogue import Catalogue
from streams.metrics import WorkerMetrics
from streams.outbox import KeyValue
from streams.placement import partition_of
from streams.quality import Quality
from streams.records import Interaction, encode
from streams.refresh import Refresh, Refreshed
from streams.settings import Settings
from streams.topics import Topics
from streams.transport import Run
from tests.toy import START, toy_model

SETTINGS = Settings(partitions=4)
TOPIC = Topics.of(SETTINGS).interactions
ONE_MODEL = Arms(Arm(CONTROL, toy_model()))


class Rows:
    """Rows in memory."""

    def __init__(self) -> None:
        self.of: dict[int, dict[bytes, bytes | None]] = defaultdict(dict)

    def read(self, partition: int, keys: Sequence[bytes]) -> list[bytes | None]:
        return [self.of[partition].get(key) for key in keys]

    def write(self, partition: int, rows: Iterable[KeyValue], changelog_offset: int) -> None:
        self.of[partition].update(rows)


class World:
    def __init__(self, arms: Arms = ONE_MODEL) -> None:
        self.arms = arms
        self.rows = Rows()
        post: Any = None  # nothing is sent here
        metrics = WorkerMetrics(WeightPolicy().rules)
        quality = Quality(metrics, lambda: START)
        self.refresh = Refresh(SETTINGS, self.rows, Aside(SETTINGS, post), Catalogue(), metrics, quality, lambda: START)

    def play(self, batches: Sequence[Sequence[Run]]) -> list[Refreshed]:
        found = []
        for batch in batches:
            for refreshed in self.refresh.of(batch, self.arms):
                self.rows.write(refreshed.run.partition, refreshed.changelog, 0)
                found.append(refreshed)
        return found


def run(partition: int, first: int, *events: tuple[str, str] | bytes, headers: Any = ()) -> Run:
    """Events (user, item) that lie on a partition, at offsets from `first` on; bytes stand for junk."""
    records = []
    for offset, event in enumerate(events, first):
        key, value = b"junk", event
        if not isinstance(event, bytes):
            user, item = event
            key, value = user.encode(), encode(Interaction("like", user, item, START + offset, f"{user} {offset}"))
        records.append(ConsumerRecord(TOPIC, partition, offset, START, 0, key, value, None, 0, 0, headers))
    return Run(TOPIC, partition, records)


def users(partition: int, count: int) -> list[str]:
    """Ids that murmur2 puts on a partition."""
    names = (f"user {number}" for number in range(1000))
    return [name for name in names if partition_of(name.encode(), SETTINGS.partitions) == partition][:count]


def parts(refreshed: Sequence[Refreshed]) -> list[Any]:
    """Everything that goes out, and what is counted."""
    return [
        (each.changelog, each.lists, each.letters, each.outcomes, each.newest_ms, each.arrived_ms.tolist())
        for each in refreshed
    ]


def test_runs_of_several_partitions_come_to_what_each_comes_to_alone() -> None:
    (anna, bert), (carl, dora), (emil,) = users(0, 2), users(2, 2), users(3, 1)
    first = [run(0, 5, (anna, "a1"), (bert, "b1")), run(2, 100, (carl, "a2"))]
    second = [
        run(3, 0, (emil, "b2"), b"junk", (emil, "a1")),
        run(0, 7, b"junk", (anna, "b2"), (anna, "a2")),
        run(2, 100, (carl, "a2")),  # delivered again
        run(1, 3, b"junk"),
    ]
    third = [run(2, 101, (dora, "a1"), (carl, "b1")), run(0, 9, (bert, "a1"))]

    together = World().play([first, second, third])
    alone = World().play([[each] for each in (*first, *second, *third)])

    assert [each.run for each in together] == [*first, *second, *third]
    assert parts(together) == parts(alone)
    assert [len(each.lists) for each in together] == [2, 1, 1, 1, 1, 0, 2, 1]
    assert [len(each.letters) for each in together] == [0, 0, 1, 1, 0, 1, 0, 0]


def test_a_user_with_events_on_two_partitions_has_a_row_on_each() -> None:
    (anna,) = users(0, 1)
    for headers in ((), ((ORIGIN, None),), ((ORIGIN, b"elsewhere/1/2"),)):  # Kafka lets a header have no value
        world = World()

        here, there = world.play([[run(0, 0, (anna, "a1")), run(1, 0, (anna, "b1"), headers=headers)]])

        assert [key for key, _ in here.changelog[:-1]] == [key for key, _ in there.changelog[:-1]] == [anna.encode()]
        assert here.changelog[0] != there.changelog[0]
        assert (here.misplaced, there.misplaced) == (0, 0 if (ORIGIN, b"elsewhere/1/2") in headers else 1)
