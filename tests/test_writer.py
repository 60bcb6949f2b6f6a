"""One writer for a partition: what it appends, how long it tries, and when it must stop."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Sequence
from pathlib import Path
from typing import Any, TypeVar

import pytest
from aiokafka.errors import (
    GroupCoordinatorNotAvailableError,
    KafkaError,
    MessageSizeTooLargeError,
    ProducerFenced,
    RequestTimedOutError,
    TransactionalIdAuthorizationFailed,
)

from efficientrec.errors import BrokerUnavailable
from streams import topics, writer
from streams.connection import Connection
from streams.outbox import KeyValue
from streams.settings import Settings
from streams.topics import Topics
from streams.wire import UNFENCED, KafkaWire, ProducerId
from streams.writer import FENCE_KEY, PartitionLost, Writers
from tests.kafka import NativeKafka

NOW = 1_700_000_000_000
LOG, LISTS = "changelog", "lists"


T = TypeVar("T")


class Log:
    """A broker's logs with its rules for producer ids."""

    def __init__(self) -> None:
        self.records: dict[str, list[KeyValue]] = {LOG: [], LISTS: []}
        self.epoch = 0
        self.requests: list[tuple[str, ProducerId, int, int]] = []
        """(topic, producer, sequence, records) of each request."""
        self.failures: list[KafkaError | None] = []
        """What becomes of the next requests; None lets one pass."""
        self.refusals: list[KafkaError] = []
        """What becomes of the next claims."""

    async def claim(self, name: str) -> ProducerId:
        if self.refusals:
            raise self.refusals.pop(0)
        self.epoch += 1
        return ProducerId(5, self.epoch)

    async def append(
        self,
        topic: str,
        partition: int,
        producer: ProducerId,
        sequence: int,
        records: Sequence[KeyValue],
        timestamp: int,
    ) -> int:
        self.requests.append((topic, producer, sequence, len(records)))
        failure = self.failures.pop(0) if self.failures else None
        if failure is not None:
            raise failure
        if producer != UNFENCED and producer.epoch < self.epoch:
            raise ProducerFenced
        self.records[topic] += records
        return len(self.records[topic]) - len(records)


class Group:
    """Writers over a log, with a clock that does not wait."""

    def __init__(self, log: Log, *, fences: bool = True) -> None:
        self.log = log
        self.alive = True
        self.pauses: list[float] = []
        self.failed: list[str] = []
        self.rejoined = 0
        self.writers = Writers(
            log,
            "name",
            LOG,
            fences=fences,
            alive=lambda: self.alive,
            clock=lambda: NOW,
            failed=self._count,
            rejoin=self._rejoin,
            sleep=self._pause,
        )

    def _count(self, topic: str) -> None:
        self.failed.append(topic)

    def _rejoin(self) -> None:
        self.rejoined += 1

    async def _pause(self, seconds: float) -> None:
        self.pauses.append(seconds)
        if len(self.pauses) == 3:
            self.alive = True

    def claim(self, generation: int = 1) -> int:
        return played(self.writers.claim(0, generation))

    def append(self, *records: KeyValue, generation: int = 1, topic: str = LOG) -> int | None:
        return played(self.writers.of(0, generation).append(topic, records, NOW))


def played(what: Coroutine[Any, Any, T]) -> T:
    return asyncio.run(what)


def test_a_broker_that_is_still_starting_is_asked_for_producer_ids_again() -> None:
    log = Log()
    log.refusals = [GroupCoordinatorNotAvailableError(), GroupCoordinatorNotAvailableError()]

    played(Group(log).writers.check(seconds=60))

    assert not log.refusals


@pytest.mark.parametrize(
    ("refusal", "cure"),
    [
        (GroupCoordinatorNotAvailableError(), "__transaction_state"),
        (TransactionalIdAuthorizationFailed(), "transactional ids name-\\*"),
    ],
)
def test_where_there_are_no_producer_ids_the_error_says_what_to_do(refusal: KafkaError, cure: str) -> None:
    log = Log()
    log.refusals = [refusal] * 2

    with pytest.raises(BrokerUnavailable, match=cure):
        played(Group(log).writers.check(seconds=0))


def test_a_claim_puts_a_fence_into_the_changelog_and_says_where() -> None:
    log = Log()
    log.records[LOG] += [(b"u", b"row")] * 4

    assert Group(log).claim() == 4
    assert log.records[LOG][-1] == (FENCE_KEY, None)


def test_records_are_numbered_on_for_each_topic_and_the_last_offset_comes_back() -> None:
    group = Group(Log())
    group.claim()

    assert group.append((b"u", b"1"), (b"v", b"2")) == 2
    assert group.append((b"u", b"3")) == 3
    assert group.append((b"u", b"list"), topic=LISTS) == 0
    assert group.append() is None
    assert [(topic, sequence) for topic, _, sequence, _ in group.log.requests] == [
        (LOG, 0),
        (LOG, 1),
        (LOG, 3),
        (LISTS, 0),
    ]


def test_what_failed_is_tried_again_under_the_same_number_until_the_broker_has_it() -> None:
    group = Group(Log())
    group.claim()
    group.log.failures = [RequestTimedOutError()] * 7

    assert group.append((b"u", b"1")) == 1

    assert {sequence for _, _, sequence, _ in group.log.requests[1:]} == {1}
    assert group.failed == [LOG] * 7
    assert group.pauses == [0.2, 0.5, 1, 2, 5, 5, 5]


def test_what_cannot_be_mended_by_trying_again_is_raised() -> None:
    group = Group(Log())
    group.claim()
    group.log.failures = [MessageSizeTooLargeError()]

    with pytest.raises(MessageSizeTooLargeError):
        group.append((b"u", b"1"))


def test_a_claim_of_another_ends_a_writer_for_good() -> None:
    log = Log()
    old, new = Group(log), Group(log)
    old.claim()
    new.claim()
    before = list(log.records[LOG])

    for _ in range(2):
        with pytest.raises(PartitionLost):
            old.append((b"u", b"stale"))

    assert log.records[LOG] == before
    assert len(log.requests) == 3  # two fences and one that was refused; the second was not even asked
    assert new.append((b"u", b"fresh")) == 2


def test_who_claims_again_may_write_again_but_not_for_runs_of_before() -> None:
    log = Log()
    group, other = Group(log), Group(log)
    group.claim(generation=1)
    late = group.writers.of(0, 1)
    other.claim()
    group.claim(generation=3)

    assert group.append((b"u", b"1"), generation=3) == 3
    with pytest.raises(PartitionLost):
        group.append((b"u", b"2"), generation=1)
    with pytest.raises(PartitionLost):
        played(late.append(LOG, [(b"u", b"3")], NOW))


def test_who_was_claimed_over_is_forgotten_with_the_partition() -> None:
    log = Log()
    old, new = Group(log), Group(log)
    old.claim()
    new.claim()
    with pytest.raises(PartitionLost):
        old.append((b"u", b"stale"))

    old.writers.keep({1, 2})

    with pytest.raises(PartitionLost):
        old.append((b"u", b"stale"))


def test_while_the_group_hears_nothing_of_a_worker_it_does_not_write() -> None:
    group = Group(Log(), fences=False)
    group.claim()
    group.alive = False  # until the third pause

    assert group.append((b"u", b"1")) == 1
    assert len(group.pauses) == 3
    assert len(group.log.requests) == 2


def test_who_gives_his_partitions_back_does_not_wait_for_a_broker_that_stays_away() -> None:
    group = Group(Log())
    group.claim()
    group.writers.leave()
    group.log.failures = [RequestTimedOutError()]

    with pytest.raises(PartitionLost):
        group.append((b"u", b"1"))
    assert group.pauses == []


def test_a_claim_does_not_wait_for_a_group_that_hears_nothing_but_has_it_deal_anew() -> None:
    group = Group(Log())
    group.alive = False

    with pytest.raises(PartitionLost, match="without the claim"):
        group.claim()

    assert group.rejoined == 1
    assert group.pauses == []
    with pytest.raises(PartitionLost):  # also not under the producer id that it has not got
        group.append((b"u", b"1"))
    assert group.log.requests == []


def test_what_is_under_way_when_partitions_are_given_back_may_end() -> None:
    group = Group(Log())
    group.claim()
    group.writers.leave()

    assert group.append((b"u", b"1")) == 1


def test_records_beyond_the_size_of_a_batch_go_in_several_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer, "BATCH_BYTES", 1000)
    group = Group(Log())
    group.claim()
    records: list[KeyValue] = [
        (b"u%d" % number, b"x" * size) for number, size in enumerate((400, 400, 400, 3000, 1, 2))
    ]

    assert group.append(*records) == 6
    assert group.log.records[LOG][1:] == records
    assert [count for *_, count in group.log.requests[1:]] == [2, 1, 1, 2]


def test_a_name_is_claimed_again_before_the_broker_forgets_it(monkeypatch: pytest.MonkeyPatch) -> None:
    group = Group(Log())
    group.claim()
    group.append((b"u", b"1"))
    monkeypatch.setattr(writer, "RECLAIM_SECONDS", -1.0)

    assert group.append((b"u", b"2")) == 3  # after a fence of its own
    assert group.log.epoch == 2


def test_who_is_about_to_give_a_partition_back_does_not_claim_it_again(monkeypatch: pytest.MonkeyPatch) -> None:
    group = Group(Log())
    group.claim()
    group.writers.leave()
    monkeypatch.setattr(writer, "RECLAIM_SECONDS", -1.0)

    with pytest.raises(PartitionLost):
        group.append((b"u", b"1"))
    assert group.log.epoch == 1


def test_who_has_given_up_appends_nothing_until_the_next_claim() -> None:
    group = Group(Log())
    group.claim()
    group.writers.of(0, 1).give_up()

    with pytest.raises(PartitionLost):
        group.append((b"u", b"1"))
    group.claim(generation=2)

    assert group.append((b"u", b"1"), generation=2) == 2


@pytest.mark.full
def test_apache_kafka_refuses_whoever_was_claimed_over(apache_kafka: NativeKafka, tmp_path: Path) -> None:
    settings = Settings(broker=f"kafka://{apache_kafka.address}", prefix="fence", group="fence", partitions=1)
    names = Topics.of(settings)

    async def play() -> None:
        await topics.create(settings)
        wires = [KafkaWire(Connection(settings), 10.0, [names.changelog, names.lists]) for _ in range(2)]
        for wire in wires:
            await wire.start()
        old, new = (
            Writers(wire, names.changelog, names.changelog, fences=True, alive=lambda: True, clock=lambda: NOW)
            for wire in wires
        )
        try:
            assert await old.claim(0, 1) == 0
            zombie = old.of(0, 1)
            assert await zombie.append(names.changelog, [(b"u", b"1"), (b"v", b"2")], NOW) == 2
            assert await zombie.append(names.lists, [(b"u", b"list")], NOW) == 0

            assert await new.claim(0, 2) == 3
            assert await new.of(0, 2).append(names.lists, [(b"u", b"newer")], NOW) == 1
            for topic in (names.changelog, names.lists):
                zombie.is_lost = False  # as if it had not been told yet
                with pytest.raises(PartitionLost):
                    await zombie.append(topic, [(b"u", b"stale")], NOW)

            assert await new.of(0, 2).append(names.changelog, [(b"u", b"3")], NOW) == 4
            # The answer to a batch was lost: sent again under its number, it is not appended twice.
            again = new.of(0, 2)
            again._sequence[names.changelog] -= 1
            assert await again.append(names.changelog, [(b"u", b"3")], NOW) == 4
        finally:
            for wire in wires:
                await wire.stop()

    asyncio.run(play())
