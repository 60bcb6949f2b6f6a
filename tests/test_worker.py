"""The loop's order of steps: what is sent, written and marked when, and what a crash or a failed send leaves behind."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

import msgspec
import pytest
from aiokafka.errors import KafkaError, KafkaTimeoutError, MessageSizeTooLargeError
from aiokafka.structs import ConsumerRecord

from efficientrec.interactions import key_of
from efficientrec.model import Model
from efficientrec.profile import unpack
from efficientrec.recompute import Event, recompute
from streams import worker
from streams.catalogue import Catalogue
from streams.metrics import WorkerMetrics
from streams.outbox import Headers, KeyValue
from streams.records import Interaction, RecommendationList, User, encode
from streams.settings import Settings
from streams.slot import ModelSlot
from streams.topics import Topics
from streams.transport import Run
from streams.worker import POPULARITY_KEY, Loop
from tests.toy import START, toy_model

SETTINGS = Settings()
TOPICS = Topics.of(SETTINGS)
PARTITION = 3
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
    """Topics in memory: outlive the worker. A record arrives when it is sent, or as late as its acknowledgement."""

    def __init__(self, arrives_early: frozenset[str] = frozenset()) -> None:
        self.records: dict[str, list[KeyValue]] = {name: [] for name in (TOPICS.changelog, TOPICS.lists)}
        self.letters: list[tuple[bytes | None, bytes | None, dict[str, bytes]]] = []
        self.failures: list[KafkaError] = []
        """What the next acknowledgements fail with."""
        self.arrives_early = arrives_early
        self.machine = Machine()

    async def send(self, topic: str, partition: int, records: Iterable[KeyValue], timestamp_ms: int) -> Acknowledged:
        assert partition == PARTITION
        self.machine.step(f"before send {topic}")
        sent = Acknowledged(self, topic, list(records))
        if topic in self.arrives_early:
            sent.arrive()
        self.machine.step(f"send {topic}")
        return sent

    async def send_one(self, topic: str, key: bytes | None, value: bytes | None, headers: Headers) -> Acknowledged:
        assert topic == TOPICS.dead_letters
        sent = Acknowledged(self, topic, [])
        sent.too_large = len(key or b"") + len(value or b"") > LETTER_BYTES_MAX
        if not sent.too_large:
            self.letters.append((key, value, dict(headers)))
        return sent

    def lists(self) -> list[RecommendationList]:
        return [
            msgspec.json.decode(value, type=RecommendationList)
            for _, value in self.records[TOPICS.lists]
            if value is not None
        ]


class Acknowledged:
    def __init__(self, broker: Broker, topic: str, records: list[KeyValue]) -> None:
        self.broker, self.topic, self.waiting = broker, topic, records
        self.offset: int | None = None
        self.too_large = False

    def arrive(self) -> None:
        if self.waiting:
            log = self.broker.records[self.topic]
            log += self.waiting
            self.offset = len(log) - 1
            self.waiting = []

    async def acknowledged(self) -> int | None:
        if self.broker.failures:
            raise self.broker.failures.pop(0)
        if self.too_large:
            raise MessageSizeTooLargeError
        self.arrive()
        self.broker.machine.step(f"acknowledged {self.topic}")
        return self.offset


class World:
    """Broker and disk, and a worker that can be started again on them."""

    def __init__(self, model: Model | None, broker: Broker | None = None) -> None:
        self.broker = broker or Broker()
        self.disk = Disk()
        self.now = START
        self.model = model
        self.start()

    def start(self, dies_at: int | None = None) -> Machine:
        """A worker with nothing in memory."""
        machine = self.broker.machine = self.disk.machine = Machine(dies_at)
        self.disk.recover(self.broker.records[TOPICS.changelog])
        self.metrics = WorkerMetrics(SETTINGS.policy.rules)
        slot = ModelSlot(SETTINGS.models_dir, SETTINGS.list_size, self.metrics)
        slot.current = self.model
        self.loop = Loop(SETTINGS, self.disk, self.broker, slot, Catalogue(), self.metrics, lambda: self.now)
        return machine

    def handle(self, run: Run) -> Run:
        asyncio.run(self.loop.interactions(run) if run.topic == TOPICS.interactions else self.loop.users(run))
        return run

    def rows(self) -> dict[bytes, bytes]:
        return {key: row for key, row in self.disk.rows.items() if key != POPULARITY_KEY}

    def counter(self, name: str, **labels: str) -> float:
        return self.metrics.registry.get_sample_value(name, labels) or 0.0


def like(user: str, item: str, event_id: str | None = None) -> Interaction:
    return Interaction("like", user, item, START, event_id)


def run_of(*values: Interaction | bytes, first: int = 0) -> Run:
    """A run of the interactions topic; bytes stand for junk."""
    return Run(
        TOPICS.interactions,
        PARTITION,
        [_record(TOPICS.interactions, at, each) for at, each in enumerate(values, first)],
    )


def users_run(*values: tuple[str, User | None], first: int = 0) -> Run:
    records = [_record(TOPICS.users, at, user, key.encode()) for at, (key, user) in enumerate(values, first)]
    return Run(TOPICS.users, PARTITION, records)


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
    return Run(run.topic, run.partition, run.records)


def test_nothing_is_written_before_every_acknowledgement_and_handled_comes_last() -> None:
    world = World(toy_model())
    run = fresh(FIRST)

    world.handle(run)

    steps = world.broker.machine.steps
    last_acknowledgement = max(place for place, step in enumerate(steps) if step.startswith("acknowledged"))
    assert steps.index("before write") > last_acknowledgement
    assert steps[-1] == "write"
    assert f"acknowledged {TOPICS.changelog}" in steps
    assert f"acknowledged {TOPICS.lists}" in steps
    assert run.handled


def test_a_run_that_was_not_written_is_not_handled() -> None:
    for dies_at in range(len(_steps_of(FIRST))):
        world = World(toy_model())
        world.start(dies_at)
        run = fresh(FIRST)

        with pytest.raises(Crashed):
            world.handle(run)

        assert not run.handled


def test_a_failed_send_is_tried_again_and_counts_nothing_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker, "RETRY_SECONDS", (0.0,))
    calm, rough = World(toy_model()), World(toy_model())
    rough.broker.failures = [KafkaTimeoutError(), KafkaTimeoutError()]
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

    assert [key for key, _ in world.broker.records[TOPICS.changelog]] == [b"anna", b"bert"]
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


EARLY = [frozenset[str](), {TOPICS.changelog}, {TOPICS.lists}, {TOPICS.changelog, TOPICS.lists}]


def _steps_of(*runs: Run) -> list[str]:
    world = World(toy_model())
    for run in runs:
        world.handle(fresh(run))
    return world.broker.machine.steps


@pytest.mark.parametrize("early", EARLY, ids=["all late", "rows early", "lists early", "all early"])
@pytest.mark.parametrize("disk", ["kept", "lost"])
def test_a_crash_between_any_two_steps_changes_no_row_and_takes_no_list_back(early: frozenset[str], disk: str) -> None:
    calm = World(toy_model())
    for run in (FIRST, SECOND):
        calm.handle(fresh(run))

    for dies_at in range(len(_steps_of(FIRST, SECOND))):
        rough = World(toy_model(), Broker(frozenset(early)))
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
    run = Run(TOPICS.interactions, PARTITION, [record])

    world.handle(run)

    assert run.handled
    ((key, value, headers),) = world.broker.letters
    assert (key, value) == (None, None)
    assert b"key of 10001" in headers["dlq.error.message"]


def test_a_null_under_a_key_that_is_no_user_erases_nothing() -> None:
    world = World(None)
    world.handle(fresh(FIRST))
    before = dict(world.disk.rows)
    keys = (POPULARITY_KEY, b"", b"x" * 513)
    records = [_record(TOPICS.users, at, None, key) for at, key in enumerate(keys)]

    world.handle(Run(TOPICS.users, PARTITION, records))

    assert world.disk.rows == before
    assert [key for key, _, _ in world.broker.letters] == list(keys)
    assert world.counter("efficientrec_dlq_records_total", reason="undecodable") == 3


def test_a_run_of_junk_alone_writes_nothing_and_is_handled() -> None:
    world = World(toy_model())
    run = run_of(b"junk", b"more junk")

    world.handle(run)

    assert run.handled
    assert world.disk.rows == {}
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
    assert world.broker.records[TOPICS.changelog][-1] == (b"anna", None)
    assert world.broker.records[TOPICS.lists][-1] == (b"anna", None)


def test_what_is_described_after_an_erasure_in_one_run_starts_afresh() -> None:
    world = World(toy_model())
    world.handle(fresh(FIRST))

    world.handle(users_run(("anna", None), ("anna", User("anna", {"taste": "b"}))))

    row = unpack([world.rows()[b"anna"]], 0, 0)
    assert int(row.events[0]) == 0
    assert row.traits[0, 0] == key_of("taste=b")
