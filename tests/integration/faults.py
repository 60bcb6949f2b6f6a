"""Faults made on purpose in a small installation that a real Prometheus watches, and the alerts that each fires.

1. Apache Kafka, two workers with a fresh model, a trainer.
2. Prometheus with our rules, FACTOR times as fast: all durations of the rules are divided by it. Users who do something
   all the time.
3. One fault after the other: made, its alerts awaited, mended, and all is well again before the next one.

Every wait is for something that Prometheus says, with a deadline. `python -m tests.integration.faults` prints the table
of docs/runbook.md.
"""

from __future__ import annotations

import asyncio
import math
import os
import signal
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError

from streams.broker import free_port
from streams.placement import partition_of
from streams.records import Interaction, encode
from tests.integration.harness import Worker, World
from tests.kafka import NativeKafka, native_kafka
from tests.prometheus import Alert, Prometheus
from tests.toy import ITEMS, toy_model

FACTOR = 30.0
PARTITIONS = 4
EVENTS_PER_SECOND = 50
USERS = 100
CALM_EVENTS = 500
"""While nobody breaks anything: ten seconds, five minutes of the rules."""
TRAIN_EVENTS = 900
LATE_EVENTS = 1500
"""That come while no worker runs: so many late lists that both budgets burn."""
LIMIT_SECONDS = 90.0

LATE = frozenset({"EfficientrecLatencyBudgetBurningFast", "EfficientrecLatencyBudgetBurningSlow"})
WAITING = LATE | {"EfficientrecLagSeconds", "EfficientrecCommitStalled"}


@dataclass(frozen=True)
class Fault:
    """Something that goes wrong, and what is to be said of it."""

    name: str
    make: Callable[[Installation], Any]
    """A context: it breaks at its beginning, says when (monotonic), and is mended at its end."""
    fires: frozenset[str]
    """Alerts that fire while it lasts."""
    then: frozenset[str] = frozenset()
    """Alerts that fire when it is mended and shows."""
    may: frozenset[str] = frozenset()
    """Alerts that may fire as well. A session timeout and a restart are not FACTOR times as fast: what is seconds of
    lateness in production looks like minutes here."""


@dataclass(frozen=True)
class Seen:
    """A fault, and after how many seconds each alert fired."""

    fault: Fault
    after: dict[str, float]

    @property
    def others(self) -> set[str]:
        """Alerts that had no business to fire."""
        return set(self.after) - self.fault.fires - self.fault.then - self.fault.may


class SamePort(Worker):
    """A worker whose next life has the address of the last one."""

    _port: int | None = None

    def ports(self) -> int:
        self._port = self._port or free_port()
        return self._port


class Trainer(SamePort):
    command = ("-m", "streams", "trainer")

    def environ(self) -> dict[str, str]:
        return {
            "EFFICIENTREC_TRAINER_METRICS_PORT": str(self.port),
            "EFFICIENTREC_LOG_DIR": str(self.folder / "interactions"),
        }

    def training(self) -> int | None:
        """The process of a training that is under way."""
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        return int(children[0]) if children else None


class Load:
    """Users who like things at a steady pace, from a thread of its own, until the block ends."""

    def __init__(self, world: World) -> None:
        self.sent = 0
        self._world = world
        self._over = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()), name="load")

    def __enter__(self) -> Load:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    async def _run(self) -> None:
        rng = np.random.default_rng(0)
        producer: Any = AIOKafkaProducer(bootstrap_servers=self._world.address, acks="all")
        await producer.start()
        try:
            while not self._over.is_set():
                user = int(rng.integers(USERS))
                item = ITEMS[2 * min(int(rng.geometric(0.25)) - 1, len(ITEMS) // 2 - 1) + user % 2]
                event = Interaction("like", f"u{user}", item, time.time_ns() // 1_000_000, f"load-{self.sent}")
                with suppress(KafkaError):  # the broker is away: what cannot be sent is not
                    await producer.send(self._world.topics.interactions, encode(event), key=event.user_id.encode())
                    self.sent += 1
                await asyncio.sleep(1 / EVENTS_PER_SECOND)
        finally:
            with suppress(KafkaError):
                await producer.stop()


@dataclass
class Installation:
    """Broker, workers, trainer, users and Prometheus."""

    world: World
    kafka: NativeKafka
    workers: list[Worker]
    trainer: Trainer
    load: Load
    prometheus: Prometheus
    began: float
    """Time of day at which Prometheus began to look."""
    is_training: bool = field(default=True)

    def wait(self, condition: Callable[[], bool], what: str) -> None:
        """Until it holds; fails with what Prometheus and the processes say."""
        deadline = time.monotonic() + LIMIT_SECONDS
        while not condition():
            if time.monotonic() > deadline:
                firing = sorted(map(str, self.prometheus.firing()))
                told = "\n".join(
                    f"{worker.log}:\n{worker.output()[-3000:]}" for worker in [*self.workers, self.trainer]
                )
                raise AssertionError(f"after {LIMIT_SECONDS:g} s not true: {what}; firing: {firing}\n{told}")
            time.sleep(0.1)

    def wait_for_events(self, events: int) -> None:
        """Until users have done so much more."""
        until = self.load.sent + events
        self.wait(lambda: self.load.sent >= until, f"{events} more events")

    def wait_until_well(self) -> None:
        """Until everything that should run answers, and nothing waits."""
        well = {
            "sum(up)": len(self.workers) + self.is_training,
            'sum(efficientrec_partitions_assigned{job="worker"})': PARTITIONS,
            'sum(efficientrec_recovering{job="worker"})': 0,
            'max(efficientrec_consumer_lag_seconds{job="worker"}) < bool 1': 1,
            'max(efficientrec_commit_age_seconds{job="worker"}) < bool 2': 1,
        }
        self.wait(lambda: all(self.prometheus.number(asked) == value for asked, value in well.items()), f"{well}")

    def fired_since(self, moment: float) -> dict[str, float]:
        """Alert → after how many seconds it was first seen firing."""
        after: dict[str, float] = {}
        for alert, seconds in self.prometheus.since(moment).items():
            after[alert.name] = min(seconds, after.get(alert.name, math.inf))
        return after

    def run(self, fault: Fault) -> Seen:
        """Makes and mends it."""
        with fault.make(self) as moment:
            self._wait_for_alerts(moment, fault.fires)
        self._wait_for_alerts(moment, fault.fires | fault.then)
        self.wait_until_well()
        return Seen(fault, self.fired_since(moment))

    def _wait_for_alerts(self, moment: float, names: frozenset[str]) -> None:
        self.wait(lambda: names <= self.fired_since(moment).keys(), f"{sorted(names)} fire")


@contextmanager
def running(folder: Path) -> Iterator[Installation]:
    """The installation, serving by a fresh model; Prometheus has begun to look."""
    with ExitStack() as stack:
        kafka = stack.enter_context(native_kafka(folder / "kafka"))
        world = World(
            kafka.address,
            folder / "world",
            partitions=PARTITIONS,
            session_timeout_seconds=3.0,
            request_timeout_seconds=10.0,
            train_first_events=TRAIN_EVENTS,
        )
        stack.callback(world.close)
        world.create_topics()
        workers = [world.worker(name, SamePort) for name in ("first", "second")]
        trainer = world.worker("trainer", Trainer)
        assert isinstance(trainer, Trainer)
        for each in (*workers, trainer):
            each.start()
        for worker in workers:
            world.wait_for_metric(worker, "efficientrec_partitions_assigned", PARTITIONS / len(workers))
        world.release(toy_model("fresh"), made_ms=time.time_ns() // 1_000_000)
        for worker in workers:
            world.wait_for_metric(worker, 'efficientrec_model_swaps_total{outcome="installed"}', 1)
        targets = {
            "worker": [f"127.0.0.1:{worker.port}" for worker in workers],
            "trainer": [f"127.0.0.1:{trainer.port}"],
        }
        began = time.time()
        prometheus = stack.enter_context(Prometheus(folder / "prometheus", targets, FACTOR))
        load = stack.enter_context(Load(world))
        yield Installation(world, kafka, workers, trainer, load, prometheus, began)


@contextmanager
def a_training_is_killed(here: Installation) -> Iterator[float]:
    here.wait(lambda: here.trainer.training() is not None, "a training begins")
    training = here.trainer.training()
    assert training is not None
    os.kill(training, signal.SIGKILL)
    yield time.monotonic()


@contextmanager
def the_trainer_is_stopped(here: Installation) -> Iterator[float]:
    """It stays so."""
    here.trainer.stop()
    here.is_training = False
    yield time.monotonic()


@contextmanager
def records_cannot_be_read(here: Installation) -> Iterator[float]:
    moment = time.monotonic()
    here.world.produce(here.world.topics.interactions, [(b"u1", b"not JSON"), (b"u2", b'{"event_type": "like"}')])
    yield moment


@contextmanager
def a_producer_hashes_in_its_own_way(here: Installation) -> Iterator[float]:
    async def produce() -> None:
        producer: Any = AIOKafkaProducer(bootstrap_servers=here.world.address)
        await producer.start()
        for number in range(20):
            event = Interaction("like", f"elsewhere-{number}", ITEMS[0], time.time_ns() // 1_000_000)
            key = event.user_id.encode()
            wrong = (partition_of(key, PARTITIONS) + 1) % PARTITIONS
            await producer.send(here.world.topics.interactions, encode(event), key=key, partition=wrong)
        await producer.stop()

    moment = time.monotonic()
    asyncio.run(produce())
    yield moment


@contextmanager
def a_damaged_model_is_released(here: Installation) -> Iterator[float]:
    moment = time.monotonic()
    here.world.release(toy_model("damaged"), damaged=True, made_ms=time.time_ns() // 1_000_000)
    yield moment


@contextmanager
def a_worker_is_killed(here: Installation) -> Iterator[float]:
    here.workers[0].kill()
    yield time.monotonic()
    here.workers[0].start()


@contextmanager
def a_worker_hangs(here: Installation) -> Iterator[float]:
    here.workers[1].process.send_signal(signal.SIGSTOP)
    yield time.monotonic()
    here.workers[1].process.send_signal(signal.SIGCONT)


@contextmanager
def all_workers_hang(here: Installation) -> Iterator[float]:
    moment = time.monotonic()
    for worker in here.workers:
        worker.process.send_signal(signal.SIGSTOP)
    here.wait_for_events(LATE_EVENTS)
    yield moment
    for worker in here.workers:
        worker.process.send_signal(signal.SIGCONT)


@contextmanager
def the_broker_is_down(here: Installation) -> Iterator[float]:
    here.kafka.kill()
    yield time.monotonic()
    here.kafka.start()


@contextmanager
def a_model_of_january_is_released(here: Installation) -> Iterator[float]:
    moment = time.monotonic()
    here.world.release(toy_model("of-january"))
    yield moment


FAULTS = (
    Fault("a training is killed (SIGKILL)", a_training_is_killed, frozenset({"EfficientrecTrainerFailing"})),
    Fault("the trainer is stopped", the_trainer_is_stopped, frozenset({"EfficientrecTargetDown"})),
    Fault("two records cannot be read", records_cannot_be_read, frozenset({"EfficientrecDeadLettersGrowing"})),
    Fault(
        "a producer puts 20 users on wrong partitions",
        a_producer_hashes_in_its_own_way,
        frozenset({"EfficientrecPartitionMismatch"}),
    ),
    Fault("a damaged model is released", a_damaged_model_is_released, frozenset({"EfficientrecModelRefused"})),
    Fault(
        "one of two workers is killed (SIGKILL)",
        a_worker_is_killed,
        frozenset({"EfficientrecTargetDown"}),
        may=WAITING,
    ),
    Fault("one of two workers hangs (SIGSTOP)", a_worker_hangs, frozenset({"EfficientrecTargetDown"}), may=WAITING),
    Fault(
        "both workers hang (SIGSTOP) while 1,500 events come",
        all_workers_hang,
        frozenset({"EfficientrecTargetDown", "EfficientrecNoWorker"}),
        then=LATE,
        may=WAITING,
    ),
    Fault(
        "the broker is killed (SIGKILL) and started again",
        the_broker_is_down,
        frozenset({"EfficientrecCommitStalled"}),
        may=WAITING | {"EfficientrecChangelogSendFailures"},
    ),
    Fault("a model of January is released", a_model_of_january_is_released, frozenset({"EfficientrecModelTooOld"})),
)


def table(calm: set[Alert], seen: list[Seen]) -> str:
    """In Markdown."""
    lines = ["| fault | alert | after | in production |", "| --- | --- | ---: | ---: |"]
    lines.append(f"| none, {CALM_EVENTS:,} events | {', '.join(sorted(each.name for each in calm)) or 'none'} | | |")
    for each in seen:
        for alert, seconds in sorted(each.after.items(), key=lambda pair: pair[1]):
            minutes, rest = divmod(round(seconds * FACTOR), 60)
            lines.append(f"| {each.fault.name} | {alert} | {seconds:.1f} s | {minutes} min {rest:02} s |")
    return "\n".join(lines)


def play(here: Installation) -> tuple[set[Alert], list[Seen]]:
    """What fired while nothing was broken, and each fault with what it fired."""
    here.wait_until_well()
    here.wait_for_events(CALM_EVENTS)
    calm = set(here.prometheus.fired)
    return calm, [here.run(fault) for fault in FAULTS]


def main() -> None:
    with tempfile.TemporaryDirectory() as folder, running(Path(folder)) as here:
        print(table(*play(here)))


if __name__ == "__main__":
    main()
