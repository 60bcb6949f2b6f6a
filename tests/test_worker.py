"""The loop's order of steps: what is sent, written and marked when, and what a crash or a failed send leaves behind."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pytest
from aiokafka.errors import (
    KafkaError,
    MessageSizeTooLargeError,
    NotEnoughReplicasError,
    ProducerFenced,
    RequestTimedOutError,
)
from aiokafka.structs import ConsumerRecord

from efficientrec.interactions import key_of
from efficientrec.model import Model
from efficientrec.popularity import ITEMS_MAX, Popularity
from efficientrec.profile import HEADER, STATELESS_BYTES_MAX, unpack
from efficientrec.recompute import Event, recompute
from streams.aside import ORIGIN
from streams.catalogue import Catalogue
from streams.experiments import Models
from streams.metrics import WorkerMetrics
from streams.outbox import BATCH_BYTES, Headers, KeyValue
from streams.progress import PROGRESS_KEY, Progress
from streams.records import ID_BYTES_MAX, Experiment, Interaction, RecommendationList, User, decode_list, encode
from streams.refresh import POPULARITY_KEY
from streams.settings import Settings
from streams.topics import Topics
from streams.traces import Traces
from streams.transport import Run
from streams.wire import ProducerId
from streams.worker import COLD_EVENTS_MAX, STEPS, Loop
from streams.writer import Writers
from tests.toy import START, random_sequence_model, toy_model

SETTINGS = Settings()
TOPICS = Topics.of(SETTINGS)
PARTITION = 3
HERE, ELSEWHERE = "u5", "u1"  # where murmur2 puts them, of eight partitions
GENERATION = 7
LETTER_BYTES_MAX = 10_000


class Crashed(Exception):
    """The process is gone."""


@dataclass
class Machine:
    """What happens in order, until the step at which the worker dies."""

    dies_at: int | None = None
    steps: list[str] = field(default_factory=list)

    def step(self, name: str) -> None:
        if len(self.steps) == self.dies_at:
            raise Crashed(name)
        self.steps.append(name)


class Disk:
    """A store in memory: outlives the worker."""

    def __init__(self) -> None:
        self.rows: dict[bytes, bytes] = {}
        self.reach = -1
        self.machine = Machine()

    def read(self, partition: int, keys: Sequence[bytes]) -> list[bytes | None]:
        assert partition == PARTITION
        return [self.rows.get(key) for key in keys]

    def write(self, partition: int, rows: Iterable[KeyValue], changelog_offset: int) -> None:
        assert partition == PARTITION
        self.machine.step("before write")
        self.apply(rows)
        self.reach = changelog_offset
        self.machine.step("write")

    def apply(self, rows: Iterable[KeyValue]) -> None:
        for key, value in rows:
            if value is None:
                self.rows.pop(key, None)
            else:
                self.rows[key] = value

    def recover(self, changelog: Sequence[KeyValue]) -> None:
        """As a start does: the changelog from where the disk ends."""
        self.apply(changelog[self.reach + 1 :])
        self.reach = len(changelog) - 1


class Broker:
    """Topics in memory, which outlive the worker: the wire of its writers, and its post."""

    def __init__(self) -> None:
        self.records: dict[str, list[KeyValue]] = {name: [] for name in (TOPICS.changelog, TOPICS.lists)}
        self.letters: list[tuple[bytes | None, bytes | None, dict[str, bytes]]] = []
        self.forwarded: list[tuple[bytes | None, bytes | None, dict[str, bytes]]] = []
        self.failures: list[KafkaError] = []
        """What the next attempts to append fail with."""
        self.epoch = 0
        self.machine = Machine()

    async def claim(self, name: str) -> ProducerId:
        self.epoch += 1
        return ProducerId(0, self.epoch)

    async def append(
        self,
        topic: str,
        partition: int,
        producer: ProducerId,
        sequence: int,
        records: Sequence[KeyValue],
        timestamp_ms: int,
    ) -> int:
        assert partition == PARTITION
        if producer.epoch < self.epoch:
            raise ProducerFenced
        if self.failures:
            raise self.failures.pop(0)
        self.machine.step(f"before append {topic}")
        log = self.records[topic]
        log += records
        self.machine.step(f"append {topic}")
        return len(log) - len(records)

    async def send_one(
        self, topic: str, key: bytes | None, value: bytes | None, headers: Headers, timestamp_ms: int | None = None
    ) -> Acknowledged:
        kept = self.letters if topic == TOPICS.dead_letters else self.forwarded
        sent = Acknowledged(len(key or b"") + len(value or b"") > LETTER_BYTES_MAX)
        if not sent.too_large:
            kept.append((key, value, dict(headers)))
        return sent

    def lists(self) -> list[RecommendationList]:
        return [decode_list(value) for _, value in self.records[TOPICS.lists] if value is not None]

    def changed(self) -> list[bytes]:
        """The users in the changelog, in its order."""
        return [key for key, _ in self.records[TOPICS.changelog] if not key.startswith(b"\xff")]


@dataclass(frozen=True)
class Acknowledged:
    too_large: bool

    async def acknowledged(self) -> int | None:
        if self.too_large:
            raise MessageSizeTooLargeError
        return 0


class World:
    """Broker and disk, and a worker that can be started again on them."""

    traces: Traces | None = None
    tried: Model | None = None
    """The model that is tried on bert, and neither on anna nor on carl."""

    def __init__(self, model: Model | None, **settings: Any) -> None:
        self.settings = replace(SETTINGS, **settings)
        self.broker = Broker()
        self.disk = Disk()
        self.now = START
        self.model = model
        self.start()

    def start(self, dies_at: int | None = None) -> Machine:
        """A worker with nothing in memory."""
        self.broker.machine = self.disk.machine = Machine()
        self.metrics = WorkerMetrics(self.settings.policy.rules)
        models = Models(self.settings.models_dir, self.settings.list_size, self.metrics)
        models.released.current = self.model
        if self.tried is not None:
            models.tried.current = self.tried
            models.tried.experiment = Experiment(1, "tried", "", "", "", share=0.5, salt="2024-05")
        writers = Writers(
            self.broker,
            "changelog",
            TOPICS.changelog,
            fences=True,
            alive=lambda: True,
            clock=lambda: self.now,
            failed=lambda topic: self.metrics.send_failures.inc(),
            sleep=_at_once,
        )
        asyncio.run(writers.claim(PARTITION, GENERATION))
        self.disk.recover(self.broker.records[TOPICS.changelog])
        self.loop = Loop(
            *(self.settings, self.disk, writers, self.broker, models, Catalogue(), self.metrics, lambda: self.now),
            self._reached,
            self.traces,
        )
        machine = self.broker.machine = self.disk.machine = Machine(dies_at)
        return machine

    def _reached(self, step: str) -> None:
        self.disk.machine.step(step)

    def handle(self, run: Run) -> Run:
        (rest,) = self.loop.handle([run])
        asyncio.run(rest)
        return run

    def rows(self) -> dict[bytes, bytes]:
        return {key: row for key, row in self.disk.rows.items() if not key.startswith(b"\xff")}

    def counter(self, name: str, **labels: str) -> float:
        return self.metrics.registry.get_sample_value(name, labels) or 0.0


async def _at_once(seconds: float) -> None: ...


def like(user: str, item: str, event_id: str | None = None) -> Interaction:
    return Interaction("like", user, item, START, event_id)


def run_of(*values: Interaction | bytes, first: int = 0) -> Run:
    """A run of the interactions topic; bytes stand for junk."""
    return Run(
        TOPICS.interactions,
        PARTITION,
        [_record(TOPICS.interactions, at, each) for at, each in enumerate(values, first)],
        GENERATION,
    )


def users_run(*values: tuple[str, User | None], first: int = 0) -> Run:
    records = [_record(TOPICS.users, at, user, key.encode()) for at, (key, user) in enumerate(values, first)]
    return Run(TOPICS.users, PARTITION, records, GENERATION)


def _record(
    topic: str, offset: int, body: Interaction | User | bytes | None, key: bytes = b"junk"
) -> ConsumerRecord[bytes | None, bytes | None]:
    if isinstance(body, Interaction):
        key = body.user_id.encode()
    value = body if body is None or isinstance(body, bytes) else encode(body)
    return ConsumerRecord(topic, PARTITION, offset, START, 0, key, value, None, len(key), len(value or b""), ())


FIRST = run_of(like("anna", "a1"), like("bert", "b1"), like("anna", "a2"))
SECOND = run_of(like("anna", "a3"), b"junk", like("carl", "b2", "once"), like("carl", "b2", "once"), first=3)


def fresh(run: Run) -> Run:
    """The same records, delivered again."""
    return Run(run.topic, run.partition, run.records, GENERATION)


def test_the_steps_follow_each_other_as_they_are_named() -> None:
    world = World(toy_model())
    run = fresh(SECOND)

    world.handle(run)

    assert world.broker.machine.steps == [
        "folded",
        "forwarded",
        f"before append {TOPICS.changelog}",
        f"append {TOPICS.changelog}",
        "rows acknowledged",
        f"before append {TOPICS.lists}",
        f"append {TOPICS.lists}",
        "lists acknowledged",
        "before write",
        "write",
        "written",
        "handled",
    ]
    assert [step for step in world.broker.machine.steps if step in STEPS] == list(STEPS)
    assert run.handled


def test_a_run_that_was_not_written_is_not_handled() -> None:
    for dies_at in range(len(_steps_of(FIRST)) - 1):
        world = World(toy_model())
        world.start(dies_at)
        run = fresh(FIRST)

        with pytest.raises(Crashed):
            world.handle(run)

        assert not run.handled


def test_a_failed_send_is_tried_again_and_counts_nothing_twice() -> None:
    calm, rough = World(toy_model()), World(toy_model())
    rough.broker.failures = [RequestTimedOutError(), NotEnoughReplicasError()]
    run = fresh(SECOND)

    calm.handle(fresh(SECOND))
    rough.handle(run)

    assert run.handled
    assert rough.rows() == calm.rows()
    assert rough.broker.lists()[-2:] == calm.broker.lists()
    assert rough.counter("efficientrec_send_failures_total") == 2
    assert rough.counter("efficientrec_events_total", event_type="like", outcome="applied") == 2
    assert rough.counter("efficientrec_events_total", event_type="like", outcome="repeated") == 1


def test_a_run_that_comes_again_changes_no_row_and_repeats_its_lists() -> None:
    world = World(toy_model())
    world.handle(fresh(FIRST))
    rows, lists = dict(world.disk.rows), world.broker.lists()
    world.start()
    world.now += 60_000

    world.handle(fresh(FIRST))

    assert world.disk.rows == rows
    again = world.broker.lists()[len(lists) :]
    assert [each.rec_id for each in again] == [each.rec_id for each in lists]
    assert [each.items for each in again] == [each.items for each in lists]
    assert world.counter("efficientrec_events_total", event_type="like", outcome="replayed") == 3


def test_many_events_of_a_user_give_one_row_and_one_list_triggered_by_the_last() -> None:
    world = World(toy_model())

    world.handle(run_of(*(like("anna", f"a{number}") for number in (1, 2, 3)), like("bert", "b1"), like("anna", "a4")))

    assert world.broker.changed() == [b"anna", b"bert"]
    by_user = {each.user_id: each for each in world.broker.lists()}
    assert len(world.broker.lists()) == 2
    assert by_user["anna"].trigger.offset == 4
    assert by_user["bert"].trigger.offset == 3
    assert [item.item_id for item in by_user["anna"].items][:2] == ["a5", "a6"]


def test_who_has_later_events_gets_no_list_from_an_earlier_run() -> None:
    world = World(toy_model())
    world.handle(fresh(FIRST))
    world.handle(fresh(SECOND))
    sent = len(world.broker.lists())

    world.handle(fresh(FIRST))  # anna has gone on since, bert has not

    assert [each.user_id for each in world.broker.lists()[sent:]] == ["bert"]


def _steps_of(*runs: Run) -> list[str]:
    world = World(toy_model())
    for run in runs:
        world.handle(fresh(run))
    return world.broker.machine.steps


@pytest.mark.parametrize("disk", ["kept", "lost"])
def test_a_crash_between_any_two_steps_changes_no_row_and_takes_no_list_back(disk: str) -> None:
    calm = World(toy_model())
    for run in (FIRST, SECOND):
        calm.handle(fresh(run))

    for dies_at in range(len(_steps_of(FIRST, SECOND))):
        rough = World(toy_model())
        rough.start(dies_at)
        with suppress(Crashed):
            rough.handle(fresh(FIRST))
            rough.handle(fresh(SECOND))
        assert len(rough.broker.machine.steps) == dies_at
        if disk == "lost":
            rough.disk.rows, rough.disk.reach = {}, -1
        rough.start()
        for run in (FIRST, SECOND):  # nothing was committed: everything is delivered again
            rough.handle(fresh(run))

        assert rough.rows() == calm.rows(), f"died at step {dies_at}"
        newest: dict[str, RecommendationList] = {}
        for each in rough.broker.lists():
            before = newest.get(each.user_id)
            assert before is None or each.trigger.offset >= before.trigger.offset, f"died at step {dies_at}"
            newest[each.user_id] = each
        assert newest == {each.user_id: each for each in calm.broker.lists()}, f"died at step {dies_at}"


def test_rows_are_those_of_the_plain_program() -> None:
    world, model = World(toy_model()), toy_model()
    world.handle(fresh(FIRST))
    world.handle(fresh(SECOND))

    built = int(unpack([world.rows()[b"anna"]], model.encoder.width, model.encoder.key).built[0])
    events = [Event(0, "a1", 1.0, START), Event(2, "a2", 1.0, START), Event(3, "a3", 1.0, START)]
    assert world.rows()[b"anna"] == recompute(events, model, built=built, partition=PARTITION)


def test_junk_is_set_aside_with_its_reason_and_the_run_goes_on() -> None:
    world = World(toy_model())

    world.handle(fresh(SECOND))

    ((key, value, headers),) = world.broker.letters
    assert (key, value) == (b"junk", b"junk")
    assert headers["dlq.error.class"] == b"undecodable"
    assert headers["dlq.original.offset"] == b"4"
    assert world.rows().keys() == {b"anna", b"carl"}
    assert world.counter("efficientrec_dlq_records_total", reason="undecodable") == 1


def test_junk_that_is_too_large_to_be_set_aside_leaves_its_reason_and_does_not_hold_up_the_run() -> None:
    world = World(toy_model())
    run = run_of(like("anna", "a1"), b"x" * (LETTER_BYTES_MAX + 1), b"junk")

    world.handle(run)

    assert run.handled
    assert sorted(value or b"" for _, value, _ in world.broker.letters) == [b"", b"junk"]
    (bare,) = [headers for _, value, headers in world.broker.letters if value is None]
    assert bare["dlq.error.class"] == b"undecodable"
    assert b"10001 bytes" in bare["dlq.error.message"]
    assert bare["dlq.original.offset"] == b"1"


def test_a_key_that_is_too_large_to_be_set_aside_does_not_hold_up_the_run() -> None:
    world = World(toy_model())
    record = _record(TOPICS.interactions, 0, None, key=b"x" * (LETTER_BYTES_MAX + 1))
    run = Run(TOPICS.interactions, PARTITION, [record], GENERATION)

    world.handle(run)

    assert run.handled
    ((key, value, headers),) = world.broker.letters
    assert (key, value) == (None, None)
    assert b"key of 10001" in headers["dlq.error.message"]


def test_a_null_under_a_key_that_is_no_user_erases_nothing() -> None:
    world = World(None)
    world.handle(fresh(FIRST))
    before = world.rows(), world.disk.rows[POPULARITY_KEY]
    keys = (POPULARITY_KEY, b"", b"x" * 513)
    records = [_record(TOPICS.users, at, None, key) for at, key in enumerate(keys)]

    world.handle(Run(TOPICS.users, PARTITION, records, GENERATION))

    assert (world.rows(), world.disk.rows[POPULARITY_KEY]) == before
    assert [key for key, _, _ in world.broker.letters] == list(keys)
    assert world.counter("efficientrec_dlq_records_total", reason="undecodable") == 3


def test_a_run_of_junk_alone_writes_nothing_and_is_handled() -> None:
    world = World(toy_model())
    run = run_of(b"junk", b"more junk")

    world.handle(run)

    assert run.handled
    assert world.disk.rows.keys() == {PROGRESS_KEY}
    assert len(world.broker.letters) == 2


def test_popularity_counts_a_run_once_however_often_it_comes() -> None:
    world = World(None)
    world.handle(fresh(FIRST))
    before = world.disk.rows[POPULARITY_KEY]
    world.start()

    world.handle(fresh(FIRST))

    assert world.disk.rows[POPULARITY_KEY] == before


def test_the_model_of_a_run_is_the_one_at_its_start() -> None:
    world = World(None)
    world.handle(fresh(FIRST))
    assert {each.model_version for each in world.broker.lists()} == {None}
    world.model = toy_model()
    world.start()

    world.handle(fresh(SECOND))

    anna = world.broker.lists()[-2]
    assert (anna.user_id, anna.model_version) == ("anna", "toy-1")
    (row,) = unpack([world.rows()[b"anna"]], world.model.encoder.width, world.model.encoder.key).model.tolist()
    assert row == key_of("toy-1")


def test_a_null_on_the_users_topic_erases_row_and_list_also_when_it_comes_again() -> None:
    world = World(toy_model())
    world.handle(fresh(FIRST))

    for _ in range(2):
        world.handle(users_run(("anna", None)))

    assert world.rows().keys() == {b"bert"}
    assert [entry for entry in world.broker.records[TOPICS.changelog] if entry[0] == b"anna"][-1] == (b"anna", None)
    assert world.broker.records[TOPICS.lists][-1] == (b"anna", None)


def test_erasures_are_counted_once_for_each_request() -> None:
    world = World(toy_model())
    world.handle(fresh(FIRST))
    world.handle(users_run(("anna", None), ("bert", User("bert", {}))))
    world.start()

    world.handle(users_run(("anna", None), ("bert", User("bert", {}))))  # delivered again
    assert world.counter("efficientrec_erasures_total") == 0
    world.handle(users_run(("anna", None), ("bert", None), first=2))
    assert world.counter("efficientrec_erasures_total") == 2


def test_in_an_experiment_each_row_is_of_its_users_model_whatever_comes() -> None:
    control, treatment = toy_model(), toy_model("toy-2")
    both, one, other = World(control), World(control), World(treatment)
    both.tried = treatment
    both.start()

    described = users_run(*((user, User(user, {"taste": "b"})) for user in ("anna", "bert", "carl")))
    for world in (both, one, other):
        for run in (FIRST, described, SECOND):
            world.handle(fresh(run))

    heads = {user: np.frombuffer(row, HEADER, 1)[0] for user, row in both.rows().items()}
    versions = {b"anna": "toy-1", b"bert": "toy-2", b"carl": "toy-1"}
    assert {user: int(head["model"]) for user, head in heads.items()} == {
        user: key_of(version) for user, version in versions.items()
    }
    assert {int(head["built"]) for head in heads.values()} == {-1}, "no model took a row from another"
    assert both.rows() == one.rows() | {b"bert": other.rows()[b"bert"]}
    counted = [
        both.counter("efficientrec_recommendations_published_total", reason="event", arm=arm)
        for arm in ("control", "treatment")
    ]
    assert counted == [3, 1]
    assert {(each.user_id, each.arm, each.model_version) for each in both.broker.lists()} == {
        ("anna", "control", "toy-1"),
        ("bert", "treatment", "toy-2"),
        ("carl", "control", "toy-1"),
    }


@pytest.mark.parametrize("begins", [True, False], ids=["begins", "ends"])
def test_an_experiment_that_begins_or_ends_between_a_crash_and_the_next_start_loses_and_doubles_nothing(
    begins: bool,
) -> None:
    tried = random_sequence_model()
    for dies_at in range(len(_steps_of(FIRST)) - 1):
        world = World(toy_model())
        world.tried = None if begins else tried
        world.start(dies_at)
        with pytest.raises(Crashed):
            world.handle(fresh(FIRST))

        world.tried = tried if begins else None
        world.start()
        for run in (FIRST, users_run(("bert", User("bert", {"taste": "b"}))), SECOND):
            world.handle(fresh(run))

        heads = {user: np.frombuffer(row, HEADER, 1)[0] for user, row in world.rows().items()}
        assert {user: int(head["events"]) for user, head in heads.items()} == {b"anna": 3, b"bert": 1, b"carl": 1}
        of_bert = tried.version if begins else "toy-1"
        assert int(heads[b"bert"]["model"]) == key_of(of_bert)
        newest = {each.user_id: each.model_version for each in world.broker.lists()}
        assert newest == {"anna": "toy-1", "bert": of_bert, "carl": "toy-1"}


def test_users_of_a_run_are_those_who_get_a_list() -> None:
    world = World(toy_model())

    world.handle(run_of(like("anna", "a1"), like("anna", "a2"), like("bert", "b1"), b"junk"))

    assert world.counter("efficientrec_run_events_sum") == 4
    assert world.counter("efficientrec_run_users_sum") == 2


def test_what_is_described_after_an_erasure_in_one_run_starts_afresh() -> None:
    world = World(toy_model())
    world.handle(fresh(FIRST))

    world.handle(users_run(("anna", None), ("anna", User("anna", {"taste": "b"}))))

    row = unpack([world.rows()[b"anna"]], 0, 0)
    assert int(row.events[0]) == 0
    assert row.traits[0, 0] == key_of("taste=b")


def test_who_was_erased_does_not_come_back_with_a_run_that_is_delivered_again() -> None:
    world = World(toy_model())
    world.handle(fresh(FIRST))
    world.handle(users_run(("anna", None)))
    world.start()

    world.handle(fresh(FIRST))

    assert world.rows().keys() == {b"bert"}
    assert world.broker.records[TOPICS.lists][-1][0] == b"bert"


def test_an_erasure_that_is_delivered_again_leaves_the_fresh_profile_and_its_list_alone() -> None:
    world = World(toy_model())
    world.handle(fresh(FIRST))
    world.handle(users_run(("anna", None)))
    world.handle(fresh(SECOND))
    after = dict(world.rows()), list(world.broker.records[TOPICS.lists])
    world.start()

    world.handle(users_run(("anna", None)))

    assert (world.rows(), world.broker.records[TOPICS.lists]) == after
    row = unpack([world.rows()[b"anna"]], 0, 0)
    assert (int(row.events[0]), int(row.begun[0])) == (1, 3)


def test_an_erasure_whose_null_list_was_not_sent_sends_it_when_it_is_delivered_again() -> None:
    world = World(toy_model())
    world.handle(fresh(FIRST))
    machine = world.start()
    machine.dies_at = 3  # after "rows acknowledged", before the lists
    with pytest.raises(Crashed):
        world.handle(users_run(("anna", None)))
    assert world.broker.records[TOPICS.lists][-1][1] is not None
    world.start()

    world.handle(users_run(("anna", None)))

    assert world.broker.records[TOPICS.lists][-1] == (b"anna", None)


def test_a_run_of_an_earlier_generation_is_left_alone() -> None:
    world = World(toy_model())
    run = replace(fresh(FIRST), generation=GENERATION - 1)

    world.handle(run)

    assert not run.handled
    assert world.rows() == {}
    assert world.counter("efficientrec_runs_abandoned_total") == 1


def test_a_run_does_not_pass_one_that_never_came() -> None:
    world = World(toy_model())
    lost = fresh(FIRST)

    world.handle(late := replace(fresh(SECOND), follows=lost))
    world.handle(after := replace(fresh(SECOND), follows=late))

    assert (late.handled, after.handled) == (False, False)
    assert world.rows() == {}
    world.handle(lost)
    assert not lost.handled, "not before partitions have been dealt anew"


def test_who_has_lost_the_partition_appends_nothing_more() -> None:
    world = World(toy_model())
    old = world.loop
    world.start()  # another worker has claimed the partition
    world.handle(fresh(FIRST))
    before = {topic: list(records) for topic, records in world.broker.records.items()}
    late = fresh(SECOND)

    (rest,) = old.handle([late])
    asyncio.run(rest)

    assert not late.handled
    assert world.broker.records == before


def test_records_on_the_wrong_partition_are_counted_and_served_there_unless_told_otherwise() -> None:
    world = World(toy_model())

    world.handle(run_of(like(HERE, "a1"), like(ELSEWHERE, "a1")))

    assert world.rows().keys() == {HERE.encode(), ELSEWHERE.encode()}
    assert world.counter("efficientrec_key_partition_mismatches_total") == 1
    assert world.broker.forwarded == []


def test_records_on_the_wrong_partition_are_forwarded_once_when_the_settings_say_so() -> None:
    world = World(toy_model(), wrong_partition="forward")
    run = run_of(like(HERE, "a1"), like(ELSEWHERE, "a1"))

    world.handle(run)

    assert run.handled
    assert world.rows().keys() == {HERE.encode()}
    assert [each.user_id for each in world.broker.lists()] == [HERE]
    ((key, value, headers),) = world.broker.forwarded
    assert (key, value) == (ELSEWHERE.encode(), run.records[1].value)
    assert headers == {ORIGIN: f"{TOPICS.interactions}/{PARTITION}/1".encode()}


def test_a_forwarded_record_is_served_where_it_came_to_and_counts_once_however_often_it_comes() -> None:
    world = World(toy_model(), wrong_partition="forward")
    forwarded = [
        replace(record, offset=offset, headers=((ORIGIN, b"elsewhere/2/40"),))
        for offset in range(2)
        for record in run_of(like(ELSEWHERE, "a1")).records
    ]

    world.handle(Run(TOPICS.interactions, PARTITION, forwarded, GENERATION))

    assert world.broker.forwarded == []
    assert int(unpack([world.rows()[ELSEWHERE.encode()]], 0, 0).events[0]) == 1
    assert world.counter("efficientrec_events_total", event_type="like", outcome="repeated") == 1


def test_what_a_user_sends_beyond_the_limit_of_a_second_is_counted_as_limited() -> None:
    world = World(toy_model(), user_events_per_second=2)

    world.handle(run_of(*(like("anna", f"a{number}") for number in range(1, 6)), like("bert", "b1")))

    assert int(unpack([world.rows()[b"anna"]], 0, 0).events[0]) == 2
    assert int(unpack([world.rows()[b"bert"]], 0, 0).events[0]) == 1
    assert world.counter("efficientrec_events_total", event_type="like", outcome="limited") == 3


def test_before_the_first_model_rows_and_popularity_of_a_run_are_whole_or_absent() -> None:
    overhead = 24
    row = STATELESS_BYTES_MAX + ID_BYTES_MAX + overhead  # without a state, under the longest key
    popularity = Popularity(1.0, START, {f"{n:0{ID_BYTES_MAX}d}": 0.1 for n in range(ITEMS_MAX)}).to_bytes()

    assert COLD_EVENTS_MAX * row + len(popularity) + len(Progress(2**62, 2**62).to_bytes()) + 4 * overhead < BATCH_BYTES

    world = World(None)
    world.handle(run_of(*(like(f"u{number}", "a1") for number in range(2 * COLD_EVENTS_MAX + 1))))

    parts = [key for key, _ in world.broker.records[TOPICS.changelog] if key == PROGRESS_KEY]
    assert len(parts) == 3


def test_after_a_run_that_failed_none_is_handled_until_the_partition_is_claimed_again() -> None:
    world = World(toy_model())
    world.disk.machine.dies_at = len(world.broker.machine.steps) + 2
    with pytest.raises(Crashed):  # as an error of the disk or the broker would
        world.handle(fresh(FIRST))
    world.disk.machine.dies_at = None
    second = fresh(SECOND)

    world.handle(second)

    assert not second.handled
    world.start()
    world.handle(fresh(FIRST))
    world.handle(fresh(SECOND))
    assert int(unpack([world.rows()[b"anna"]], 0, 0).events[0]) == 3


def test_who_was_erased_and_described_anew_does_not_get_the_erased_events_back() -> None:
    world = World(toy_model())
    world.handle(fresh(FIRST))
    world.handle(users_run(("anna", None), ("anna", User("anna", {"taste": "b"}))))
    world.start()

    world.handle(fresh(FIRST))

    assert int(unpack([world.rows()[b"anna"]], 0, 0).events[0]) == 0
    assert world.broker.records[TOPICS.lists][-1][0] == b"bert"


def test_a_null_list_that_did_not_get_out_goes_out_also_when_the_user_is_described_in_the_same_run() -> None:
    world = World(toy_model())
    world.handle(fresh(FIRST))
    world.start().dies_at = 4  # after "rows acknowledged", before the lists
    with pytest.raises(Crashed):
        world.handle(users_run(("anna", None)))
    assert world.broker.records[TOPICS.lists][-1][1] is not None
    world.start()

    world.handle(users_run(("anna", None), ("anna", User("anna", {"taste": "b"}))))

    assert (b"anna", None) in world.broker.records[TOPICS.lists]
