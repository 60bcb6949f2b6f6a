"""The trainer logs everything once, releases what may serve, and waits out what fails."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import count
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import numpy as np
import pytest
from aiokafka import AIOKafkaConsumer
from aiokafka.structs import ConsumerRecord, TopicPartition
from prometheus_client import CollectorRegistry

from efficientrec import artifact
from efficientrec.datasets import Dataset
from efficientrec.errors import DataInvalid, SettingInvalid
from efficientrec.evaluation import judging
from efficientrec.model import Model
from efficientrec.training.blending import Voices
from efficientrec.training.data import TrainingData
from efficientrec.training.recipe import Recipe
from efficientrec.training.train import Trained
from streams import topics
from streams import trainer as trainer_module
from streams.broker import EmbeddedBroker
from streams.children import start_child, stop_child
from streams.clock import wall_ms
from streams.connection import Connection
from streams.erasures import Erasures
from streams.learning import METRIC, Job, Outcome, Report, held_out_share, learn, verdict
from streams.log import InteractionLog, read_log
from streams.models import experiment
from streams.outbox import Outbox
from streams.placement import partition_of
from streams.records import (
    EXPERIMENT_KEY,
    RELEASE_KEY,
    SCHEMA_VERSION,
    Experiment,
    Interaction,
    Release,
    User,
    decode_release,
    encode,
)
from streams.replay import replay
from streams.settings import Settings
from streams.signing import make_keys, trust
from streams.topics import Topics
from streams.trainer import ARTIFACTS_KEPT, ChildLearner, Trainer, World, clear, version_of
from streams.trainer import Learner as AnyLearner
from streams.trainer_metrics import TrainerMetrics
from tests.toy import ITEMS, START, save_toy, toy_model

NOW = START + 10 * 86_400_000
WAIT_SECONDS = 300.0
"""How long anything may take before a test fails: trainings give way to whatever else the machine does."""


def toy_dataset(events: int = 900, users: int = 60) -> Dataset:
    """Users of two tastes; nineteen in twenty choices are to their taste."""
    rng = np.random.default_rng(0)
    user = rng.integers(0, users, events).astype(np.int32)
    taste = (user + (rng.random(events) < 0.05)) % 2
    item = np.minimum(rng.geometric(0.25, events) - 1, 7) * 2 + taste
    return Dataset(
        name="toy",
        users=[f"u{number}" for number in range(users)],
        items=ITEMS,
        user=user,
        item=item.astype(np.int32),
        value=np.full(events, np.nan),
        at=START + 60_000 * np.arange(events, dtype=np.int64),
        split=None,
        clock="timestamp",
        catalogue={},
        people={},
    )


class Clock:
    """A clock wound by hand."""

    def __init__(self) -> None:
        self.now = NOW

    def __call__(self) -> int:
        return self.now


class Learner:
    """Learns in this process, with a training that is handed in; remembers its jobs."""

    def __init__(self, train: Callable[[TrainingData, Recipe, str, Report], Trained]) -> None:
        self.jobs: list[Job] = []
        self._train = train

    async def learn(self, job: Job, report: Report) -> Outcome:
        self.jobs.append(job)
        return await asyncio.to_thread(learn, job, report, self._train)


class Refuser:
    """Never has anything to give but the outcomes that it is made with."""

    def __init__(self, *outcomes: Outcome) -> None:
        self.jobs: list[Job] = []
        self._outcomes = list(outcomes)

    async def learn(self, job: Job, report: Report) -> Outcome:
        self.jobs.append(job)
        return self._outcomes[len(self.jobs) - 1]


def trained(model: Model) -> Callable[[TrainingData, Recipe, str, Report], Trained]:
    """A training that comes to this model."""

    def train(data: TrainingData, recipe: Recipe, version: str, report: Report) -> Trained:
        cut = data.cut(recipe.validation_share)
        scoring = judging.examples(data, cut, recipe.seed, 2 * recipe.examples_max).halves(recipe.seed)[1]
        scores = {
            "candidate": judging.judge(model, scoring),
            "popularity": judging.judge_popularity(scoring, recipe.popularity_half_life_seconds),
        }
        named = replace(model, version=version)
        return Trained(model=named, earlier=model, cut=cut, voices=Voices(), scores=scores)

    return train


def good_model() -> Model:
    """Knows both tastes."""
    return toy_model()


def bad_model() -> Model:
    """Takes each taste for the other."""
    good = toy_model()
    swapped = np.roll(good.cluster_shortlists.items, 1, axis=0)
    return replace(
        good,
        ranking_vectors=np.ascontiguousarray(good.ranking_vectors[:, ::-1]),
        cluster_shortlists=replace(good.cluster_shortlists, items=swapped),
        item_bias=-good.item_bias,
    )


class Stage:
    """Topics and folders of one test."""

    def __init__(self, broker: EmbeddedBroker, name: str, folder: Path, **changes: float) -> None:
        self.settings = Settings(
            broker=f"kafka://{broker.address}",
            prefix=name,
            group=name,
            partitions=3,
            log_dir=folder / "log",
            models_dir=str(folder / "models"),
            trainer_metrics_port=0,
            **{"train_first_events": 10**9, **changes},  # type: ignore[arg-type]  # numbers of the named settings
        )
        self.topics = Topics.of(self.settings)
        self.metrics = TrainerMetrics(CollectorRegistry(), self.topics.interactions, self.settings.partitions)

    def trainer(self, learner: AnyLearner, clock: Callable[[], int] | None = None) -> Trainer:
        return Trainer(self.settings, learner, self.metrics, clock or Clock())

    def runs(self, outcome: str) -> float:
        return self.metrics.registry.get_sample_value("efficientrec_trainer_runs_total", {"outcome": outcome}) or 0.0

    def erasures(self) -> float:
        return self.metrics.registry.get_sample_value("efficientrec_trainer_erasures_total") or 0.0

    async def tell_of(self, user_id: str, user: User | None, at: int | None = None) -> tuple[int, int]:
        """Produces a user, or erases him; returns partition and offset."""
        return await self._send(self.topics.users, user_id, None if user is None else encode(user), at or wall_ms())

    async def like(self, user_id: str, item_id: str, at: int) -> None:
        """Produces an interaction; at: its record's timestamp."""
        value = encode(Interaction("like", user_id, item_id, START))
        await self._send(self.topics.interactions, user_id, value, at)

    async def _send(self, topic: str, user_id: str, value: bytes | None, at: int) -> tuple[int, int]:
        key, partition = user_id.encode(), partition_of(user_id.encode(), self.settings.partitions)
        outbox = Outbox(Connection(self.settings), 10.0)
        await outbox.start()
        try:
            offset = await (await outbox.send(topic, partition, [(key, value)], at)).acknowledged()
        finally:
            await outbox.stop()
        assert offset is not None
        return partition, offset

    async def committed(self, partition: int) -> int | None:
        """What the trainer has acknowledged of the users topic."""
        consumer: AIOKafkaConsumer[bytes | None, bytes | None] = AIOKafkaConsumer(
            bootstrap_servers=self.settings.bootstrap_servers, group_id=f"{self.settings.group}-trainer"
        )
        await consumer.start()  # it subscribes to nothing, so it never joins the group
        try:
            offset: int | None = await consumer.committed(TopicPartition(self.topics.users, partition))
            return offset
        finally:
            await consumer.stop()

    async def until_committed(self, partition: int, offset: int) -> None:
        """Returns when the trainer has acknowledged this offset."""
        async with asyncio.timeout(WAIT_SECONDS):
            while True:
                committed = await self.committed(partition)
                if committed is not None and committed >= offset:
                    return
                await asyncio.sleep(0.1)

    async def releases(self) -> list[Release]:
        """Everything on the releases topic."""
        records = await everything(self.settings, self.topics.releases)
        return [decode_release(value) for key, value in records if key == RELEASE_KEY and value is not None]

    async def plant(self, model: Model, last_at: int) -> Release:
        """Releases a model as if an earlier training had."""
        address = f"{self.settings.models_dir}/{model.version}"
        digest = artifact.save(
            model,
            address,
            created_at="2023-11-14T00:00:00Z",
            window=artifact.Window(interactions=1, first_at=START, last_at=last_at, offsets={}),
            settings={},
            scores={},
        )
        release = Release(SCHEMA_VERSION, model.version, address, digest, "2023-11-14T00:00:00Z")
        outbox = Outbox(Connection(self.settings), 10.0)
        await outbox.start()
        try:
            await (await outbox.send_one(self.topics.releases, RELEASE_KEY, encode(release), [])).acknowledged()
        finally:
            await outbox.stop()
        return release


async def everything(settings: Settings, topic: str) -> list[tuple[bytes | None, bytes | None]]:
    """The records of a topic with one partition, as far as they come within half a second."""
    consumer: AIOKafkaConsumer[bytes | None, bytes | None] = AIOKafkaConsumer(
        bootstrap_servers=settings.bootstrap_servers, enable_auto_commit=False
    )
    await consumer.start()
    try:
        partition = TopicPartition(topic, 0)
        consumer.assign([partition])
        consumer.seek(partition, 0)
        batches = await consumer.getmany(timeout_ms=500)
        return [(record.key, record.value) for record in batches.get(partition, [])]
    finally:
        await consumer.stop()


async def until(condition: Callable[[], object], task: asyncio.Task[Any]) -> None:
    """Returns when the condition holds; fails when the task ends before, or when it takes too long."""
    async with asyncio.timeout(WAIT_SECONDS):
        while not condition():
            if task.done():
                task.result()
                raise AssertionError("the trainer ended by itself")
            await asyncio.sleep(0.02)


async def cancelled(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.wait([task])
    assert task.cancelled(), task


def test_a_model_is_learned_from_the_stream_and_released(embedded_broker: EmbeddedBroker, tmp_path: Path) -> None:
    stage = Stage(embedded_broker, "learn", tmp_path, train_first_events=900, half_life_seconds=30 * 86_400.0)

    async def play() -> list[Release]:
        await topics.create(stage.settings)
        task = asyncio.create_task(stage.trainer(ChildLearner()).run())
        await replay(toy_dataset(), stage.settings)
        await until(lambda: stage.runs("published"), task)
        await cancelled(task)
        return await stage.releases()

    (release,) = asyncio.run(play())
    model, manifest = artifact.load(release.address, release.sha256)

    assert model.version == manifest.version == release.version
    assert release.version.startswith("20231124T")
    assert sorted(model.items.ids) == sorted(ITEMS)
    assert manifest.window.interactions == 900
    assert sum(manifest.window.offsets.values()) == 900
    assert manifest.settings["half_life_seconds"] == 30 * 86_400.0
    assert manifest.scores["candidate"][METRIC] > manifest.scores["popularity"][METRIC]


def test_a_trainer_shows_that_it_trains_and_that_its_log_is_complete(
    embedded_broker: EmbeddedBroker, tmp_path: Path
) -> None:
    stage = Stage(embedded_broker, "watched", tmp_path, train_first_events=900)
    stage.settings = replace(stage.settings, log_format="json", log_level="ERROR")
    value = stage.metrics.registry.get_sample_value
    running: list[float | None] = []
    logged: list[tuple[str, str]] = []

    class Watching:
        async def learn(self, job: Job, report: Report) -> Outcome:
            running.append(value("efficientrec_trainer_running"))
            logged.append((job.log_format, job.log_level))
            return Outcome(result="refused", message="no need")

    async def play() -> None:
        await topics.create(stage.settings)
        trainer = stage.trainer(Watching())
        assert trainer.health.not_ready() == "the process is starting"
        task = asyncio.create_task(trainer.run())
        await replay(toy_dataset(), stage.settings)
        await until(lambda: stage.runs("refused") and not trainer.health.not_ready(), task)
        await until(lambda: value("efficientrec_disk_size_bytes", {"folder": "log"}), task)
        await cancelled(task)

    asyncio.run(play())

    assert running == [1]
    assert logged == [("json", "ERROR")]
    assert value("efficientrec_trainer_running") == 0
    assert value("efficientrec_trainer_last_run_timestamp_seconds") == Clock()() // 1000
    for partition in range(3):
        place = {"topic": stage.topics.interactions, "partition": str(partition)}
        assert value("efficientrec_consumer_lag_records", place) == 0
        assert value("efficientrec_consumer_lag_seconds", place) == 0


def test_a_log_with_a_backlog_is_as_late_as_what_it_has_just_taken(tmp_path: Path) -> None:
    class Backlog:
        """A consumer that has read 100 of 5,000 records of one partition."""

        async def position(self, place: TopicPartition) -> int:
            return 100

        def highwater(self, place: TopicPartition) -> int:
            return 5000 if place.partition == 1 else 100

    settings = Settings(log_dir=tmp_path, models_dir=str(tmp_path), partitions=2)
    metrics = TrainerMetrics(CollectorRegistry(), Topics.of(settings).interactions, 2)
    trainer = Trainer(settings, Refuser(), metrics, lambda: START + 3_600_000)
    consumer: Any = Backlog()
    log: Any = SimpleNamespace(add=lambda *_: None)

    trainer._take(1, [record(99, "anna", b"junk", timestamp=START)], log)
    asyncio.run(trainer._show(consumer))

    place = {"topic": Topics.of(settings).interactions, "partition": "1"}
    value = metrics.registry.get_sample_value
    assert value("efficientrec_consumer_lag_records", place) == 4900
    assert value("efficientrec_consumer_lag_seconds", place) == 3600
    assert value("efficientrec_consumer_lag_seconds", {**place, "partition": "0"}) == 0


def test_a_restart_neither_loses_nor_repeats(embedded_broker: EmbeddedBroker, tmp_path: Path) -> None:
    stage = Stage(embedded_broker, "restart", tmp_path)
    dataset = toy_dataset(3000)

    async def play() -> None:
        await topics.create(stage.settings)
        sender = asyncio.create_task(_in_pieces(dataset, stage.settings))
        for pause in (0.3, 1.3, 0.9, 1.6):  # some end before a flush, some after
            task = asyncio.create_task(stage.trainer(Refuser()).run())
            await asyncio.sleep(pause)
            await cancelled(task)
        await sender
        task = asyncio.create_task(stage.trainer(Refuser()).run())
        await until(lambda: _rows(stage) == 3000, task)
        await cancelled(task)

    asyncio.run(play())
    logged = read_log(stage.settings.log_dir)

    assert _rows(stage) == len(logged) == 3000
    assert sum(logged.offsets.values()) == 3000
    assert logged.at.tolist() == dataset.at.tolist()


def test_a_trainer_that_is_killed_neither_loses_nor_repeats(embedded_broker: EmbeddedBroker, tmp_path: Path) -> None:
    stage = Stage(embedded_broker, "killed", tmp_path)
    environ = {
        **os.environ,
        "EFFICIENTREC_BROKER": stage.settings.broker,
        "EFFICIENTREC_PREFIX": "killed",
        "EFFICIENTREC_GROUP": "killed",
        "EFFICIENTREC_PARTITIONS": "3",
        "EFFICIENTREC_LOG_DIR": str(stage.settings.log_dir),
        "EFFICIENTREC_TRAINER_METRICS_PORT": "0",
        "EFFICIENTREC_TRAIN_FIRST_EVENTS": "500",
    }
    asyncio.run(topics.create(stage.settings))
    dataset = toy_dataset(2000)

    with _process(environ) as first:
        asyncio.run(replay(dataset, stage.settings, limit=1000))
        _wait(lambda: len(_children(first.pid)) == 1)  # it logs, and a training is under way
        abandoned = _children(first.pid)
        first.send_signal(signal.SIGKILL)
        first.wait()
    asyncio.run(replay(dataset, stage.settings, start=1000))
    with _process(environ) as second:
        _wait(lambda: len(read_log(stage.settings.log_dir)) == 2000)
        _wait(lambda: len(_children(second.pid)) == 1)
        abandoned += _children(second.pid)
        second.send_signal(signal.SIGTERM)
        status = second.wait(10)

    assert status == 0
    assert read_log(stage.settings.log_dir).at.tolist() == dataset.at.tolist()
    _wait(lambda: not any(Path(f"/proc/{training}").exists() for training in abandoned))


@contextmanager
def _process(environ: dict[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    """A trainer in a process of its own, as the command starts it."""
    code = "import asyncio, os; from streams import trainer, settings; "
    code += "asyncio.run(trainer.serve(settings.Settings.load(os.environ)))"
    process = start_child([sys.executable, "-c", code], environ=environ)
    try:
        yield process
    finally:
        stop_child(process)


def test_an_erased_user_leaves_the_log_and_may_come_back(embedded_broker: EmbeddedBroker, tmp_path: Path) -> None:
    stage = Stage(embedded_broker, "erased", tmp_path)
    dataset = toy_dataset(300)

    async def play() -> None:
        await topics.create(stage.settings)
        task = asyncio.create_task(stage.trainer(Refuser(), wall_ms).run())
        await replay(dataset, stage.settings)
        await until(lambda: _rows(stage) == 300, task)
        assert stage.erasures() == 0
        partition, offset = await stage.tell_of("u7", None)
        await until(lambda: stage.erasures() == 1, task)
        logged = read_log(stage.settings.log_dir)
        assert set(logged.users) == set(dataset.users) - {"u7"}
        assert sum(logged.offsets.values()) == 300
        await stage.until_committed(partition, offset + 1)
        await replay(dataset, stage.settings)  # the same once more, for which no erasure asks
        await until(lambda: _rows(stage) == len(logged) + 300, task)
        await cancelled(task)

    asyncio.run(play())
    logged = read_log(stage.settings.log_dir)

    assert np.count_nonzero(logged.user == logged.users.index("u7")) == np.count_nonzero(dataset.user == 7)


def test_the_position_in_the_users_topic_moves_without_erasures(
    embedded_broker: EmbeddedBroker, tmp_path: Path
) -> None:
    stage = Stage(embedded_broker, "moves", tmp_path)

    async def play() -> None:
        await topics.create(stage.settings)
        task = asyncio.create_task(stage.trainer(Refuser()).run())
        for partition in range(3):
            await stage.until_committed(partition, 0)  # a trainer was here, although there is nothing
        partition, offset = await stage.tell_of("u1", User("u1", {"country": "SE"}))
        await stage.until_committed(partition, offset + 1)
        await cancelled(task)

    asyncio.run(play())

    assert stage.erasures() == 0


def test_a_trainer_that_ends_amid_an_erasure_carries_it_out_when_it_is_back(
    embedded_broker: EmbeddedBroker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage = Stage(embedded_broker, "amid", tmp_path)

    def powerless(log: InteractionLog, erased: Mapping[str, int]) -> None:
        log.flush()
        raise DataInvalid("the power went")

    async def play() -> None:
        await topics.create(stage.settings)
        await replay(toy_dataset(300), stage.settings)
        partition, offset = await stage.tell_of("u7", None)
        with monkeypatch.context() as patch:
            patch.setattr(InteractionLog, "erase", powerless)
            with pytest.raises(DataInvalid):
                await asyncio.wait_for(stage.trainer(Refuser(), wall_ms).run(), 15)
        assert (await stage.committed(partition) or 0) <= offset
        task = asyncio.create_task(stage.trainer(Refuser(), wall_ms).run())
        await stage.until_committed(partition, offset + 1)
        await until(lambda: sum(read_log(stage.settings.log_dir).offsets.values()) == 300, task)
        await cancelled(task)

    asyncio.run(play())

    assert "u7" not in read_log(stage.settings.log_dir).users


def test_interactions_from_before_an_erasure_that_are_read_after_it_stay_out(
    embedded_broker: EmbeddedBroker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage = Stage(embedded_broker, "late", tmp_path)
    dataset = toy_dataset(600)
    monkeypatch.setattr(trainer_module, "POLL_RECORDS", 10)
    monkeypatch.setattr(trainer_module, "FLUSH_ROWS", 40)  # many flushes
    stage = Stage(embedded_broker, "late", tmp_path)
    hold_back(monkeypatch, stage, stage.topics.interactions)
    dataset = toy_dataset(400)

    async def play() -> None:
        await topics.create(stage.settings)
        await replay(dataset, stage.settings)
        partition, offset = await stage.tell_of("u7", None)
        task = asyncio.create_task(stage.trainer(Refuser(), wall_ms).run())
        await stage.until_committed(partition, offset + 1)
        assert sum(read_log(stage.settings.log_dir).offsets.values()) == 400
        await cancelled(task)

    asyncio.run(play())

    assert set(read_log(stage.settings.log_dir).users) == set(dataset.users) - {"u7"}


def test_arrival_decides_what_an_erasure_takes_and_no_clock_outlives_it(
    embedded_broker: EmbeddedBroker, tmp_path: Path
) -> None:
    stage = Stage(embedded_broker, "arrival", tmp_path)

    def logged() -> Sequence[str]:
        return read_log(stage.settings.log_dir).items

    async def play() -> None:
        await topics.create(stage.settings)
        now = wall_ms()
        for number, item in enumerate(("before", "same moment", "after")):
            await stage.like("u7", item, now - 1 + number)
        partition, offset = await stage.tell_of("u7", None, now)
        task = asyncio.create_task(stage.trainer(Refuser(), wall_ms).run())
        await stage.until_committed(partition, offset + 1)
        assert logged() == ["after"]
        await stage.like("u7", "by a clock that is fast", wall_ms() + 3_600_000)
        await until(lambda: len(logged()) == 2, task)
        partition, offset = await stage.tell_of("u7", None)
        await stage.until_committed(partition, offset + 1)
        await cancelled(task)

    asyncio.run(play())

    assert logged() == []


def test_erasures_that_waited_for_the_trainer_come_before_the_first_training(
    embedded_broker: EmbeddedBroker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage = Stage(embedded_broker, "first", tmp_path)
    seen: list[tuple[set[str], set[str]]] = []

    class Reader:
        async def learn(self, job: Job, report: Report) -> Outcome:
            seen.append((set(read_log(Path(job.log_dir)).users), set(job.users)))
            return Outcome(result="impossible", message="it only looked")

    async def play() -> None:
        await topics.create(stage.settings)
        task = asyncio.create_task(stage.trainer(Refuser(), wall_ms).run())
        await stage.tell_of("u7", User("u7", {"country": "SE"}))
        await stage.tell_of("u8", User("u8", {"country": "SE"}))
        await replay(toy_dataset(300), stage.settings)
        await until(lambda: _rows(stage) == 300, task)
        await cancelled(task)
        await stage.tell_of("u7", None)
        hold_back(monkeypatch, stage, stage.topics.users)
        stage.settings = replace(stage.settings, train_first_events=1)
        task = asyncio.create_task(stage.trainer(Reader(), wall_ms).run())
        await until(lambda: seen, task)
        await cancelled(task)

    asyncio.run(play())

    ((logged, described),) = seen
    assert "u7" not in logged
    assert len(logged) == 59
    assert described == {"u8"}


def test_an_erasure_is_in_force_until_all_that_came_before_it_is_safe() -> None:
    erasures, interactions = Erasures({0: 0, 1: 5}), [TopicPartition("interactions", n) for n in range(2)]

    def at(*offsets: int) -> dict[TopicPartition, int]:
        return dict(zip(interactions, offsets, strict=True))

    erasures.came(1, [record(5, "u1", b"{}"), record(6, "u1", None, 1000), record(8, "u2", None, 1001)])
    assert erasures.are_new
    assert erasures.settle(at(99, 99)) == 0  # nobody has looked yet how far that is
    erasures.bind(at(10, 20))
    erasures.came(1, [record(9, "u1", None, 1002)])
    erasures.bind(at(11, 20))
    erasures.came(0, [record(0, "u3", b"{}"), record(1, b"\xff", None)])

    assert not erasures.are_new
    assert erasures.in_force == {"u1": 1002, "u2": 1001}
    assert (erasures.settle(at(10, 19)), erasures.done) == (0, {0: 2, 1: 5})
    assert (erasures.settle(at(10, 20)), erasures.done) == (2, {0: 2, 1: 9})
    assert erasures.in_force == {"u1": 1002}
    assert (erasures.settle(at(11, 20)), erasures.done) == (1, {0: 2, 1: 10})
    assert erasures.in_force == {}


def hold_back(monkeypatch: pytest.MonkeyPatch, stage: Stage, topic: str) -> None:
    """The consumer that reads interactions and erasures gets nothing of one of the topics for some seconds."""
    get, calls = AIOKafkaConsumer.getmany, count()

    async def held_back(consumer: Any, *wanted: TopicPartition, **limits: Any) -> Any:
        assigned = consumer.assignment()
        is_trainers = {stage.topics.interactions, stage.topics.users} == {place.topic for place in assigned}
        if is_trainers and not wanted and next(calls) < 15:
            wanted = tuple(place for place in assigned if place.topic != topic)
        return await get(consumer, *wanted, **limits)

    monkeypatch.setattr(AIOKafkaConsumer, "getmany", held_back)


def record(offset: int, key: str | bytes, value: bytes | None, timestamp: int = 0) -> ConsumerRecord[Any, Any]:
    key = key.encode() if isinstance(key, str) else key
    return ConsumerRecord("users", 0, offset, timestamp, 0, key, value, None, 0, 0, ())


def test_a_worse_candidate_is_not_released(embedded_broker: EmbeddedBroker, tmp_path: Path) -> None:
    stage = Stage(embedded_broker, "worse", tmp_path, train_new_events=500)
    learner = Learner(trained(bad_model()))

    async def play() -> list[Release]:
        await topics.create(stage.settings)
        await stage.plant(good_model(), START)
        task = asyncio.create_task(stage.trainer(learner).run())
        await replay(toy_dataset(), stage.settings)
        await until(lambda: stage.runs("refused"), task)
        await cancelled(task)
        return await stage.releases()

    releases = asyncio.run(play())

    assert [release.version for release in releases] == ["toy-1"]
    assert not (Path(stage.settings.models_dir) / learner.jobs[0].version).exists()
    scores = {
        model: stage.metrics.registry.get_sample_value(
            "efficientrec_eval_metric", {"metric": METRIC, "split": "held_out", "model": model}
        )
        for model in ("candidate", "serving")
    }
    assert (scores["candidate"] or 0) < (scores["serving"] or 0)


def test_an_equal_candidate_takes_the_serving_models_place(embedded_broker: EmbeddedBroker, tmp_path: Path) -> None:
    stage = Stage(embedded_broker, "equal", tmp_path, train_new_events=500)

    async def play() -> list[Release]:
        await topics.create(stage.settings)
        await stage.plant(good_model(), START)
        task = asyncio.create_task(stage.trainer(Learner(trained(good_model()))).run())
        await replay(toy_dataset(), stage.settings)
        await until(lambda: stage.runs("published"), task)
        await cancelled(task)
        return await stage.releases()

    before, after = asyncio.run(play())
    _, manifest = artifact.load(after.address, after.sha256)

    assert after.previous_version == manifest.previous == before.version == "toy-1"
    assert set(manifest.scores) == {"candidate", "serving", "popularity"}


def test_the_model_that_is_tried_is_not_cleared_away(
    embedded_broker: EmbeddedBroker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage = Stage(embedded_broker, "tried", tmp_path, train_new_events=500)
    monkeypatch.setattr("streams.trainer.ARTIFACTS_KEPT", 0)
    folder = Path(stage.settings.models_dir)
    tried, other = "20200101T000000Z-aaaa", "20200102T000000Z-bbbb"
    for version in (tried, other):
        _save(version, folder, stage.settings.installation)

    async def play() -> None:
        await topics.create(stage.settings)
        await stage.plant(good_model(), START)
        await experiment(stage.settings, tried, 0.1)
        task = asyncio.create_task(stage.trainer(Learner(trained(good_model()))).run())
        await replay(toy_dataset(), stage.settings)
        await until(lambda: not (folder / other).exists(), task)
        await cancelled(task)

    asyncio.run(play())

    assert (folder / tried).exists()


def test_for_the_time_of_an_experiment_a_trainer_logs_and_erases_and_trains_nothing(
    embedded_broker: EmbeddedBroker, tmp_path: Path
) -> None:
    page = (Path(__file__).parents[1] / "docs/procedures.md").read_text()
    told = {name.lower(): int(value) for name, value in re.findall(r"`EFFICIENTREC_(TRAIN_\w+)=(\d+)`", page)}
    assert set(told) == {"train_new_events", "train_every_seconds"}
    stage = Stage(embedded_broker, "held", tmp_path, **told)
    learner = Refuser(Outcome(result="refused", message="it was asked"))
    value = stage.metrics.registry.get_sample_value

    async def play() -> None:
        await topics.create(stage.settings)
        await stage.plant(good_model(), START)
        task = asyncio.create_task(stage.trainer(learner).run())
        await replay(toy_dataset(), stage.settings)
        await until(lambda: value("efficientrec_trainer_log_rows") == 900, task)
        await stage.tell_of("somebody", None)
        await until(lambda: stage.erasures() == 1, task)
        await cancelled(task)

    asyncio.run(play())

    assert learner.jobs == []


def test_a_trainer_knows_the_experiment_that_runs_and_whether_one_does() -> None:
    world = World("models")

    def after(*values: Experiment | bytes | None) -> str | None:
        bodies = [encode(value) if isinstance(value, Experiment) else value for value in values]
        asyncio.run(world.releases_came([record(at, EXPERIMENT_KEY, body) for at, body in enumerate(bodies)]))
        return None if world.experiment is None else world.experiment.version

    first, second = (
        Experiment(SCHEMA_VERSION, version, f"models/{version}", "0" * 64, at, share=0.1, salt="salt")
        for version, at in (("first", "2024-05-01T00:00:00Z"), ("second", "2024-05-02T00:00:00Z"))
    )

    assert after(first, second, b"junk") == "second"
    assert after(None) is None
    assert after(first, None) is None


def test_a_trainer_with_a_key_signs_its_releases(embedded_broker: EmbeddedBroker, tmp_path: Path) -> None:
    stage = Stage(embedded_broker, "signed", tmp_path, train_first_events=500)
    signing, trusted = make_keys(tmp_path / "keys")
    stage.settings = replace(stage.settings, models_signing_key_file=signing)

    async def play() -> list[Release]:
        await topics.create(stage.settings)
        task = asyncio.create_task(stage.trainer(Learner(trained(good_model()))).run())
        await replay(toy_dataset(), stage.settings)
        await until(lambda: stage.runs("published"), task)
        await cancelled(task)
        return await stage.releases()

    (release,) = asyncio.run(play())
    workers = trust(replace(stage.settings, models_trusted_key_file=trusted))

    assert workers is not None
    workers.check(release)


def test_what_fails_is_tried_again_and_what_is_too_little_waits_for_more(
    embedded_broker: EmbeddedBroker, tmp_path: Path
) -> None:
    stage = Stage(embedded_broker, "fails", tmp_path, train_first_events=100, train_new_events=100)
    failed, impossible = Outcome(result="failed", message="disk full"), Outcome(result="impossible", message="too few")
    learner, clock = Refuser(failed, impossible, impossible), Clock()

    async def play() -> tuple[int, int]:
        await topics.create(stage.settings)
        task = asyncio.create_task(stage.trainer(learner, clock).run())
        await replay(toy_dataset(), stage.settings, limit=150)
        await until(lambda: stage.runs("failed"), task)
        clock.now += 61_000
        await until(lambda: stage.runs("impossible"), task)
        clock.now += 3_600_000
        await asyncio.sleep(1.5)  # nothing is new: however long, there is nothing to learn
        quiet = len(learner.jobs)
        await replay(toy_dataset(), stage.settings, start=150, limit=1)
        await until(lambda: stage.runs("impossible") == 2, task)
        await cancelled(task)
        return quiet, len(learner.jobs)

    assert asyncio.run(play()) == (2, 3)


def test_a_log_of_another_topic_is_refused(embedded_broker: EmbeddedBroker, tmp_path: Path) -> None:
    old, new = Stage(embedded_broker, "old", tmp_path), Stage(embedded_broker, "new", tmp_path)

    async def play() -> None:
        await topics.create(old.settings)
        await topics.create(new.settings)
        await replay(toy_dataset(50), old.settings)
        task = asyncio.create_task(old.trainer(Refuser()).run())
        await until(lambda: _rows(old) == 50, task)
        await cancelled(task)
        async with asyncio.timeout(WAIT_SECONDS):
            await new.trainer(Refuser()).run()

    with pytest.raises(SettingInvalid, match="EFFICIENTREC_LOG_DIR"):
        asyncio.run(play())


def test_an_abandoned_training_leaves_no_process(tmp_path: Path) -> None:
    before = _children()

    async def play() -> bool:
        task = asyncio.create_task(ChildLearner().learn(_empty_job(tmp_path), lambda name, share: None))
        await until(lambda: _children() != before, task)
        task.cancel()
        await asyncio.wait([task])
        return task.cancelled()

    assert asyncio.run(play())
    assert _children() == before


def test_a_training_that_dies_is_a_failure_with_its_status(tmp_path: Path) -> None:
    before = _children()

    async def play() -> Outcome:
        task = asyncio.create_task(ChildLearner().learn(_empty_job(tmp_path), lambda name, share: None))
        await until(lambda: _children() != before, task)
        (training,) = set(_children()) - set(before)
        os.kill(int(training), signal.SIGKILL)
        return await task

    outcome = asyncio.run(play())

    assert outcome.result == "failed"
    assert "status -9" in outcome.message


def test_a_training_without_interactions_is_impossible(tmp_path: Path) -> None:
    outcome = asyncio.run(ChildLearner().learn(_empty_job(tmp_path), lambda name, share: None))

    assert (outcome.result, outcome.message) == ("impossible", "the log holds no interactions")


def test_a_training_logs_as_its_trainer_does(tmp_path: Path) -> None:
    job = msgspec.structs.replace(_empty_job(tmp_path), log_format="json")
    fails = "from streams import learning; learning.learn = lambda job, report: 1 / 0; learning.main()"
    with subprocess.Popen([sys.executable, "-c", fails], stdin=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stderr is not None
        process.stdin.write(msgspec.json.encode(job) + b"\n")
        process.stdin.flush()  # and stays open, or the training would end with it

        line = json.loads(process.stderr.read())

    assert (line["level"], line["message"]) == ("CRITICAL", "ended by ZeroDivisionError")


def test_a_training_ends_with_its_trainer(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "streams.learning"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None
        process.stdin.write(b'{"version":"cut off')
        process.stdin.close()

        assert process.wait(10) == 1


@pytest.mark.parametrize(
    ("rival", "own", "accepted"),
    [("serving", 0.30, True), ("serving", 0.295, True), ("serving", 0.29, False), ("popularity", 0.29, False)],
)
def test_a_candidate_has_to_reach_its_rival_less_the_margin(rival: str, own: float, accepted: bool) -> None:
    assert verdict({"candidate": {METRIC: own}, rival: {METRIC: 0.3}}, 0.02, 100)[0] is accepted


def test_a_serving_model_is_not_replaced_without_events_to_tell_by() -> None:
    scores = {"candidate": {METRIC: 0.0}, "serving": {METRIC: 0.0}}

    assert verdict(scores, 0.02, examples=100)[0]
    assert not verdict(scores, 0.02, examples=0)[0]


def test_what_is_held_out_is_what_the_serving_model_has_not_seen() -> None:
    at = np.arange(100_000, dtype=np.int64)
    nothing = np.zeros(len(at), np.int32)
    data = TrainingData(
        user=nothing, item=nothing, weight=np.ones(len(at), np.float32), at=at, items=["a"], tokens=[[]], traits=[[]]
    )

    assert held_out_share(data, None) == pytest.approx(0.1)
    assert held_out_share(data, 94_999) == pytest.approx(0.05)
    assert held_out_share(data, 50_000) == pytest.approx(0.1)
    assert held_out_share(data, 99_999) == pytest.approx(0.02)


def test_only_old_artifacts_of_this_installation_are_removed(tmp_path: Path) -> None:
    settings = Settings(models_dir=str(tmp_path), prefix="mine")
    versions = [version_of(NOW + 60_000 * number, str(number)) for number in range(ARTIFACTS_KEPT + 4)]
    for version in versions:
        _save(version, tmp_path, "mine/efficientrec")
    theirs, by_hand = version_of(START, "theirs"), "by-hand"
    _save(theirs, tmp_path, "theirs/efficientrec")
    save_toy(toy_model(by_hand), str(tmp_path / by_hand))
    fresh, stale = f"{versions[-1]}.0a1b2c3d.partial", f"{version_of(START, 'x')}.0a1b2c3d.partial"
    (tmp_path / fresh).mkdir()
    (tmp_path / stale).mkdir()

    gone = clear(settings, {versions[0], versions[2], None}, NOW + 3_600_000)

    assert sorted(gone) == [versions[1], versions[3]]
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {*versions, theirs, by_hand, fresh} - set(gone)


def _empty_job(folder: Path) -> Job:
    """A training with nothing to learn from."""
    return Job(
        version="v",
        created_at="2023-11-14T00:00:00Z",
        installation="reco/efficientrec",
        log_dir=str(folder),
        models_dir=str(folder),
        interactions_max=1,
        seed=0,
        encoder="efficientrec",
        half_life_seconds=1,
        popularity_half_life_seconds=1,
        margin=0,
        serving=None,
        items=[],
        users={},
    )


def _save(version: str, folder: Path, installation: str) -> None:
    artifact.save(
        toy_model(version),
        str(folder / version),
        created_at="",
        window=artifact.Window(interactions=1, first_at=0, last_at=1),
        settings={"installation": installation},
        scores={},
    )


async def _in_pieces(dataset: Dataset, settings: Settings) -> None:
    for start in range(0, len(dataset), 300):
        await replay(dataset, settings, start=start, limit=300)
        await asyncio.sleep(0.3)


def _rows(stage: Stage) -> float:
    return stage.metrics.registry.get_sample_value("efficientrec_trainer_log_rows") or 0.0


def _children(pid: int | None = None) -> list[str]:
    """The processes that a process has started; this one: the broker, and what a test adds."""
    pid = pid or os.getpid()
    return Path(f"/proc/{pid}/task/{pid}/children").read_text().split()


def _wait(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + WAIT_SECONDS
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.1)
