"""What a batch of runs of several partitions comes to: the same as each run alone."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

from aiokafka.structs import ConsumerRecord

from efficientrec.interactions import WeightPolicy
from streams.arms import CONTROL, TREATMENT, Arm, Arms, is_treated
from streams.aside import ORIGIN, Aside
from streams.catalogue import Catalogue
from streams.metrics import WorkerMetrics
from streams.outbox import KeyValue
from streams.placement import partition_of
from streams.progress import PROGRESS_KEY
from streams.quality import Quality
from streams.records import Interaction, decode_list, encode
from streams.refresh import Refresh, Refreshed
from streams.settings import Settings
from streams.topics import Topics
from streams.transport import Run
from tests.toy import ITEMS, START, random_sequence_model, toy_model

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


def of_one_arm(refreshed: Sequence[Refreshed], name: str, is_treated: bool) -> dict[bytes, list[Any]]:
    """User → his row and his list after each run, as lists without an arm have it; of the users of one arm."""
    found = defaultdict(list)
    for each in refreshed:
        for key, value in (*each.changelog, *each.lists):
            if value is not None and not key.startswith(b"\xff") and TREATED[key.decode()] == is_treated:
                found[key].append(value.replace(b'"arm":"%s",' % name.encode(), b""))
    return found


TRIED = random_sequence_model(3)
ARMS = Arms(Arm(CONTROL, toy_model()), Arm(TREATMENT, TRIED), 0.5, "salt")
EVERYBODY = [user for partition in range(4) for user in users(partition, 15)]
TREATED = dict(zip(EVERYBODY, is_treated([user.encode() for user in EVERYBODY], 0.5, "salt").tolist(), strict=True))


def batches(first: int = 0) -> list[list[Run]]:
    """Events of items that one model or the other knows; junk; users who come later, when their partitions have got to
    different offsets; and a run that comes twice."""
    items = [*ITEMS[:6], "i1", "i2", "i3"]

    def some(partition: int, offset: int, count: int, shift: int, *junk: bytes) -> Run:
        events = [(user, items[(place + shift) % 9]) for place, user in enumerate(users(partition, count))]
        return run(partition, offset, *junk, *events)

    runs = [some(partition, first + 50 * partition, 12, partition) for partition in range(4)]
    later = [some(partition, first + 50 * partition + 12, 15, 2, b"junk") for partition in range(3)]
    return [runs, later, runs[:1]]


def test_each_arm_gets_what_a_worker_with_its_model_alone_would_make() -> None:
    divided = World(ARMS).play(batches())

    for arm, is_treatment in ((ARMS.control, False), (ARMS.treatment, True)):
        assert arm is not None
        alone = World(Arms(Arm(CONTROL, arm.model))).play(batches())
        expected = of_one_arm(alone, arm.name, is_treatment)
        assert len(expected) > 10
        assert of_one_arm(divided, arm.name, is_treatment) == expected


def test_arms_leave_rows_lists_and_counts_where_they_were() -> None:
    divided, alone = World(ARMS).play(batches()), World(Arms(ARMS.control)).play(batches())

    for one, other in zip(divided, alone, strict=True):
        assert [key for key, _ in one.changelog] == [key for key, _ in other.changelog]
        assert [key for key, _ in one.lists] == [key for key, _ in other.lists]
        assert [decode_list(body or b"").user_id.encode() for _, body in one.lists] == [key for key, _ in one.lists]
        assert (one.outcomes, one.newest_ms) == (other.outcomes, other.newest_ms)
        assert one.arrived_ms.tolist() == other.arrived_ms.tolist()
        assert len(one.letters) == len(other.letters)
        assert one.arms == Counter(CONTROL if not TREATED[key.decode()] else TREATMENT for key, _ in one.lists)
        assert other.arms == {CONTROL: len(other.lists)}


def test_a_list_says_its_users_arm_and_the_model_of_that_arm() -> None:
    for refreshed in World(ARMS).play(batches()):
        for key, body in refreshed.lists:
            published = decode_list(body or b"")
            expected = (TREATMENT, "random") if TREATED[key.decode()] else (CONTROL, "toy-1")
            assert (published.arm, published.model_version) == expected


def test_in_an_experiment_a_run_may_be_of_one_arm_or_of_nobody() -> None:
    (user,) = users(0, 1)

    one, nobody = World(ARMS).play([[run(0, 0, (user, "a1"))], [run(1, 0, b"junk")]])

    assert [key for key, _ in one.lists] == [user.encode()]
    assert [key for key, _ in nobody.changelog] == [PROGRESS_KEY]
    assert (nobody.lists, len(nobody.letters)) == ([], 1)


def test_whoever_changes_arms_is_served_from_a_row_that_the_other_model_makes_anew() -> None:
    changing, settled = World(Arms(ARMS.control)), World(Arms(Arm(CONTROL, TRIED)))
    changing.play(batches())
    settled.play(batches())
    changing.arms = ARMS

    after, expected = changing.play(batches(1000)), settled.play(batches(1000))

    lists, same = (
        [decode_list(body or b"").items for each in found for key, body in each.lists if TREATED[key.decode()]]
        for found in (after, expected)
    )
    assert len(lists) > 10
    assert lists == same


def test_a_user_with_events_on_two_partitions_has_a_row_on_each() -> None:
    (anna,) = users(0, 1)
    for headers in ((), ((ORIGIN, None),), ((ORIGIN, b"elsewhere/1/2"),)):  # Kafka lets a header have no value
        world = World()

        here, there = world.play([[run(0, 0, (anna, "a1")), run(1, 0, (anna, "b1"), headers=headers)]])

        assert [key for key, _ in here.changelog[:-1]] == [key for key, _ in there.changelog[:-1]] == [anna.encode()]
        assert here.changelog[0] != there.changelog[0]
        assert (here.misplaced, there.misplaced) == (0, 0 if (ORIGIN, b"elsewhere/1/2") in headers else 1)
