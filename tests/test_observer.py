"""What is seen of a worker: a real app and its consumer, whose runs, commits and broker are dealt by hand."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from aiokafka.errors import KafkaConnectionError
from aiokafka.structs import ConsumerRecord
from faust.types import TP

from streams import observer as module
from streams.app import create_app
from streams.lag import Look
from streams.observer import Observer
from streams.settings import Settings
from streams.topics import Topics
from streams.transport import Run
from tests.test_transport import Fed
from tests.toy import START

TOPIC = Topics.of(Settings()).interactions
ZERO, ONE = TP(TOPIC, 0), TP(TOPIC, 1)


class Consumer(Fed):
    """With ends that a test sets."""

    ends: Mapping[TP, int] = {}

    def highwater(self, tp: TP) -> int:
        return self.ends.get(tp, 0)


class World:
    """A worker that serves two partitions, seen by a clock that is wound by hand."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self.app = create_app(Settings(state_dir=Path("nowhere")))
        self.consumer = Consumer()
        self.app.consumer = self.consumer
        self.is_heard = True
        self.app.is_alive = lambda: self.is_heard  # type: ignore[method-assign]
        services = self.app.services
        judged_by_nobody: Any = None
        self.observer = self.app.observer = Observer(
            self.app,
            Settings(state_dir=Path("nowhere"), stalled_seconds=60),
            services,
            judged_by_nobody,
            clock=lambda: START + self.now_ms,
            elapsed=lambda: self.seconds,
        )
        self.observer.phases.asked()
        self.observer.phases.assigned(2)
        self.observer.phases.served()
        self.consumer._committed_offset.update({ZERO: 10, ONE: 20})
        self.consumer.ends = {ZERO: 10, ONE: 20}

    @property
    def now_ms(self) -> int:
        return int(1000 * self.seconds)

    async def look(self, seconds: int = 1) -> None:
        for _ in range(seconds):
            self.seconds += 1
            await self.observer.look()

    async def comes(self, offset: int, at_seconds: float) -> Run:
        """An event on partition 0, that is delivered."""
        self.consumer.ends = {**self.consumer.ends, ZERO: offset + 1}
        record: Any = ConsumerRecord(
            TOPIC, 0, offset, START + int(1000 * at_seconds), 0, b"key", b"value", None, 3, 5, ()
        )
        run = Run(TOPIC, 0, [record])
        self.consumer._hand_out(ZERO, run)
        return run

    def shown(self, name: str, tp: TP = ZERO) -> float | None:
        labels = {"topic": tp.topic, "partition": str(tp.partition)}
        return self.app.services.metrics.registry.get_sample_value(f"efficientrec_{name}", labels)


def test_lag_grows_by_the_second_while_a_handler_stands_still_and_is_gone_when_it_is_done() -> None:
    async def play() -> None:
        world = World()
        await world.look()
        assert (world.shown("consumer_lag_records"), world.shown("consumer_lag_seconds")) == (0, 0)

        run = await world.comes(10, at_seconds=0.5)
        await world.look(3)
        assert (world.shown("consumer_lag_records"), world.shown("consumer_lag_seconds")) == (1, 3.5)
        await world.look(30)
        assert world.shown("consumer_lag_seconds") == 33.5
        assert world.shown("consumer_lag_seconds", ONE) == 0
        run.handled = True
        await world.look()
        assert (world.shown("consumer_lag_records"), world.shown("consumer_lag_seconds")) == (0, 0)

    asyncio.run(play())


def test_what_is_handled_but_not_committed_ages() -> None:
    async def play() -> None:
        world = World()
        run = await world.comes(10, at_seconds=0)
        run.handled = True

        await world.look(8)
        assert world.shown("commit_age_seconds") == 7
        assert world.shown("commit_age_seconds", ONE) == 0
        world.consumer._committed_offset[ZERO] = 11
        await world.look()
        assert world.shown("commit_age_seconds") == 0

    asyncio.run(play())


def test_a_worker_whose_handler_hangs_is_not_alive_after_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    async def answers(*_: object) -> dict[TP, Look]:
        return {ZERO: Look(11, 10, 10)}

    monkeypatch.setattr(module, "looks", answers)

    async def play() -> None:
        world = World()
        await world.comes(10, at_seconds=0)

        await world.look(7)
        await world.observer.ask()
        await world.look(59)
        assert world.observer.not_alive() == ""
        await world.look(1)
        assert world.observer.not_alive() == f"1 records of partition 0 of {TOPIC} wait, and nothing has moved for 60 s"

    asyncio.run(play())


def test_a_partition_that_hangs_is_seen_among_busy_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    async def answers(*_: object) -> dict[TP, Look]:
        return {ZERO: Look(11, 10, 10), ONE: Look(20, 20, 20)}

    monkeypatch.setattr(module, "looks", answers)

    async def play() -> None:
        world = World()
        await world.comes(10, at_seconds=0)

        for second in range(68):
            world.consumer._committed_offset[ONE] = 20 + second
            world.consumer.ends = {**world.consumer.ends, ONE: 30 + second}
            await world.look()
            await world.observer.ask()
            assert (world.observer.not_alive() == "") is (second < 60)
        assert f"of partition 0 of {TOPIC} wait" in world.observer.not_alive()
        assert world.observer.not_ready() == ""

        world.consumer.assignment = lambda: {ONE}  # type: ignore[method-assign]
        await world.look()
        assert world.observer.not_alive() == "", "another worker has it now"

    asyncio.run(play())


def test_until_the_broker_has_answered_nobody_is_to_blame() -> None:
    async def play() -> None:
        world = World()
        await world.comes(10, at_seconds=0)

        await world.look(3600)
        assert world.observer.not_alive() == ""

    asyncio.run(play())


def test_attempts_to_send_that_fail_wait_for_the_broker_and_so_does_who_hears_nothing_of_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def away(*_: object) -> Any:
        raise KafkaConnectionError

    monkeypatch.setattr(module, "looks", away)

    async def play() -> None:
        world = World()
        await world.comes(10, at_seconds=0)
        for _ in range(60):
            await world.look(5)
            world.app.services._failed(TOPIC)
        assert world.observer.not_alive() == ""
        world.is_heard = False
        await world.observer.ask()
        await world.look(3600)
        assert world.observer.not_alive() == ""
        assert "has not heard from this worker" in world.observer.not_ready()

    asyncio.run(play())


def test_who_the_group_does_not_hear_although_the_broker_answers_is_started_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def answers(*_: object) -> dict[TP, Look]:
        return {ZERO: Look(10, 10, 10)}

    monkeypatch.setattr(module, "looks", answers)

    async def play() -> None:
        world = World()
        world.is_heard = False
        for _ in range(14):
            await world.look(5)
            await world.observer.ask()

        assert "has not heard from this worker" in world.observer.not_alive()

    asyncio.run(play())


def test_during_a_recovery_lag_is_what_the_broker_says_of_the_group(monkeypatch: pytest.MonkeyPatch) -> None:
    async def answers(*_: object) -> dict[TP, Look]:
        return {ZERO: Look(end=110, done=10, committed=10, oldest_ms=START - 600_000)}

    monkeypatch.setattr(module, "looks", answers)

    async def play() -> None:
        world = World()
        world.consumer._committed_offset.clear()
        world.consumer.ends = {}
        world.observer.phases.asked()
        world.observer.phases.assigned(2)
        await world.look()
        assert world.shown("consumer_lag_seconds") == 0, "nobody knows yet"

        await world.observer.ask()
        await world.look(4)
        assert (world.shown("consumer_lag_records"), world.shown("consumer_lag_seconds")) == (100, 605)
        assert world.observer.not_ready() == "partitions are being recovered, 0 records are left"
        world.consumer._committed_offset[ZERO] = 60  # records flow again
        world.consumer.ends = {ZERO: 110}
        world.observer.phases.served()
        await world.look()
        assert world.shown("consumer_lag_records") == 50

    asyncio.run(play())


def test_series_of_a_partition_go_with_it() -> None:
    async def play() -> None:
        world = World()
        await world.look()
        assert world.shown("consumer_lag_seconds", ONE) == 0

        world.consumer.assignment = lambda: {ZERO}  # type: ignore[method-assign]
        await world.look()
        assert world.shown("consumer_lag_seconds", ONE) is None
        assert world.shown("consumer_lag_seconds", ZERO) == 0

    asyncio.run(play())


def test_a_worker_without_a_partition_is_ready_and_one_whose_first_model_was_refused_is_not() -> None:
    async def play() -> None:
        world = World()
        world.consumer.assignment = set  # type: ignore[method-assign]
        world.observer.phases.asked()
        world.observer.phases.assigned(0)
        world.observer.phases.served()
        await world.look()
        assert world.observer.not_ready() == ""

        world.app.services.models.released.unserved = "toy-9"
        await world.look()
        assert world.observer.not_ready() == "model toy-9 was refused, and there is no other"
        await world.look(3600)
        assert world.observer.not_alive() == "", "to start again would not help"

    asyncio.run(play())


def test_failed_attempts_are_told_apart_by_the_topic_that_they_were_for() -> None:
    services = World().app.services
    for topic in (Topics.of(Settings()).changelog, Topics.of(Settings()).lists, ""):
        services._failed(topic)

    value = services.metrics.registry.get_sample_value
    assert value("efficientrec_send_failures_total") == 3
    assert value("efficientrec_changelog_send_failures_total") == 1
