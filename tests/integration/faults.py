"""Faults made on purpose in a small installation that a real Prometheus watches, and the alerts that each fires.

1. Apache Kafka, two workers with a fresh model, a trainer, a server.
2. Prometheus with our rules, FACTOR times as fast: all durations of the rules are divided by it. Users who do something
   all the time, and read their lists.
3. One fault after the other: made, its alerts awaited, mended, and all is well again before the next one.

Every wait is for something that Prometheus says, with a deadline. `python -m tests.integration.faults` prints the table
of docs/runbook.md.
"""

from __future__ import annotations

import asyncio
import math
import os
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from aiohttp import ClientError, ClientSession, ClientTimeout
from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError

from streams.broker import free_port
from streams.clock import wall_ms
from streams.placement import partition_of
from streams.records import Interaction, encode
from streams.settings import PREFIX, Settings
from tests.integration.harness import Worker, World
from tests.integration.picture import draw
from tests.kafka import NativeKafka, native_kafka
from tests.prometheus import Prometheus
from tests.toy import ITEMS, toy_model

FACTOR = 30.0
PARTITIONS = 4
EVENTS_PER_SECOND = 50
READS_PER_SECOND = 5
USERS = 2000
"""So many that each event is answered by a list of its own, also when workers catch up."""
CALM_EVENTS = 500
"""While nobody breaks anything: ten seconds, five minutes of the rules."""
TRAIN_EVENTS = 900
STOPPED_SECONDS, RUNNING_SECONDS = 2.0, 0.3
"""Of a throttled worker: what comes in the first second of a pause is late."""
LIMIT_SECONDS = 300.0

LATE = frozenset({"EfficientrecLatencyBudgetBurningFast", "EfficientrecLatencyBudgetBurningSlow"})
FENCED = frozenset({"EfficientrecChangelogSendFailures"})
"""Of a worker that wakes up without its partitions, and of one whose broker has gone: its rows are not taken."""
WAITING = LATE | {"EfficientrecLagSeconds", "EfficientrecCommitStalled"}


@dataclass(frozen=True)
class Fault:
    """Something that goes wrong, and what is to be said of it."""

    name: str
    make: Callable[[Installation], Any]
    """A context: it breaks at its beginning, says when (monotonic), and is mended at its end."""
    fires: frozenset[str]
    """Alerts that fire while it lasts."""
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
        return set(self.after) - self.fault.fires - self.fault.may


class SamePort(Worker):
    """A worker whose next life has the address of the last one."""

    _port: int | None = None

    def environ(self) -> dict[str, str]:
        self.port = self._port = self._port or self.port
        return {PREFIX + "METRICS_PORT": str(self.port)}


class Trainer(SamePort):
    command = ("-m", "streams", "trainer")

    def environ(self) -> dict[str, str]:
        log_dir = str(self.folder / "interactions")
        return {**super().environ(), PREFIX + "TRAINER_METRICS_PORT": str(self.port), PREFIX + "LOG_DIR": log_dir}

    def training(self) -> int | None:
        """The process of a training that is under way."""
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        return int(children[0]) if children else None


class Server(SamePort):
    command = ("-m", "streams", "server")

    def __init__(self, settings: Settings, folder: Path) -> None:
        super().__init__(settings, folder)
        self.address = f"127.0.0.1:{settings.server_port}"

    def environ(self) -> dict[str, str]:
        state_dir = str(self.folder / "lists")
        return {
            **super().environ(),
            PREFIX + "SERVER_METRICS_PORT": str(self.port),
            PREFIX + "SERVER_STATE_DIR": state_dir,
        }


class Load:
    """Users who like things at a steady pace, and readers of their lists, in a thread of its own."""

    def __init__(self, world: World, server: Server) -> None:
        self.sent = 0
        self._world = world
        self._url = f"http://{server.address}/v1"
        self._over = threading.Event()
        self._random = np.random.default_rng(0)
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()), name="load")

    def __enter__(self) -> Load:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    async def _run(self) -> None:
        producer: Any = AIOKafkaProducer(bootstrap_servers=self._world.address, acks="all")
        await producer.start()
        try:
            async with ClientSession(timeout=ClientTimeout(total=15)) as session:
                await asyncio.gather(self._send(producer), self._read(session), self._post(session))
        finally:
            with suppress(KafkaError):
                await producer.stop()

    async def _send(self, producer: Any) -> None:
        topic = self._world.topics.interactions
        while not self._over.is_set():
            event = self._event()
            with suppress(KafkaError):  # the broker is away: what cannot be sent is not
                await producer.send(topic, encode(event), key=event.user_id.encode())
                self.sent += 1
            await asyncio.sleep(1 / EVENTS_PER_SECOND)

    async def _read(self, session: ClientSession) -> None:
        while not self._over.is_set():
            with suppress(ClientError, TimeoutError):
                async with session.get(f"{self._url}/users/u{self._random.integers(USERS)}/list") as answer:
                    await answer.read()
            await asyncio.sleep(1 / READS_PER_SECOND)

    async def _post(self, session: ClientSession) -> None:
        """Now and then an event comes over HTTP."""
        while not self._over.is_set():
            headers = {"Content-Type": "application/json"}
            with suppress(ClientError, TimeoutError):
                async with session.post(f"{self._url}/events", data=encode(self._event()), headers=headers) as answer:
                    await answer.read()
            await asyncio.sleep(1)

    def _event(self) -> Interaction:
        user = int(self._random.integers(USERS))
        item = ITEMS[2 * min(int(self._random.geometric(0.25)) - 1, len(ITEMS) // 2 - 1) + user % 2]
        return Interaction("like", f"u{user}", item, wall_ms())


@dataclass
class Installation:
    """Broker, workers, trainer, users and Prometheus."""

    world: World
    kafka: NativeKafka
    workers: list[Worker]
    trainer: Trainer
    server: Server
    load: Load
    prometheus: Prometheus
    began: float
    """Time of day at which Prometheus began to look."""
    is_training: bool = True

    @property
    def processes(self) -> list[Worker]:
        """All that Prometheus looks at."""
        return [*self.workers, self.trainer, self.server]

    def signal_workers(self, number: signal.Signals) -> None:
        for worker in self.workers:
            worker.process.send_signal(number)

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
            "sum(up)": len(self.processes) - (not self.is_training),
            'sum(efficientrec_partitions_assigned{job="worker"})': PARTITIONS,
            'sum(efficientrec_recovering{job="worker"})': 0,
            'max(efficientrec_consumer_lag_seconds{job="worker"}) < bool 1': 1,
            'max(efficientrec_commit_age_seconds{job="worker"}) < bool 2': 1,
        }
        self.wait(lambda: all(self.prometheus.number(asked) == value for asked, value in well.items()), f"{well}")
        for _ in ("what is scraped", "what is derived", "alerts"):  # each of them asks for the one before
            self._wait_for_evaluation(time.time())

    def _wait_for_evaluation(self, since: float) -> None:
        self.wait(lambda: self.prometheus.evaluated() > since, "every rule is evaluated once more")

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
            session_timeout_seconds=6.0,
            request_timeout_seconds=10.0,
            train_new_events=TRAIN_EVENTS,
        )
        stack.callback(world.close)
        world.create_topics()
        workers = [world.worker(name, SamePort) for name in ("first", "second")]
        trainer = world.worker("trainer", Trainer)
        server = world.worker("server", Server, server_port=free_port())
        assert isinstance(trainer, Trainer)
        assert isinstance(server, Server)
        for each in (*workers, trainer, server):
            each.start()
        for worker in workers:
            world.wait_for_metric(worker, "efficientrec_partitions_assigned", PARTITIONS / len(workers))
        world.release(toy_model("fresh"), made_ms=wall_ms())
        for worker in workers:
            world.wait_for_metric(worker, 'efficientrec_model_swaps_total{outcome="installed"}', 1)
        targets = {
            "worker": [f"127.0.0.1:{worker.port}" for worker in workers],
            "trainer": [f"127.0.0.1:{trainer.port}"],
            "server": [f"127.0.0.1:{server.port}"],
        }
        began = time.time()
        prometheus = stack.enter_context(Prometheus(folder / "prometheus", targets, FACTOR))
        load = stack.enter_context(Load(world, server))
        yield Installation(world, kafka, workers, trainer, server, load, prometheus, began)


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
    moment = time.monotonic()
    here.trainer.stop()
    here.is_training = False
    yield moment


@contextmanager
def a_record_cannot_be_read(here: Installation) -> Iterator[float]:
    moment = time.monotonic()
    here.world.produce(here.world.topics.interactions, [(b"u1", b"not JSON")])
    yield moment


@contextmanager
def a_producer_hashes_in_its_own_way(here: Installation) -> Iterator[float]:
    async def produce() -> None:
        producer: Any = AIOKafkaProducer(bootstrap_servers=here.world.address)
        await producer.start()
        for number in range(20):
            event = Interaction("like", f"elsewhere-{number}", ITEMS[0], wall_ms())
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
    here.world.release(toy_model("damaged"), damaged=True, made_ms=wall_ms())
    yield moment
    here.world.release(toy_model("mended"), made_ms=wall_ms())  # a worker that starts needs a good one


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
    here.signal_workers(signal.SIGSTOP)
    yield moment
    here.signal_workers(signal.SIGCONT)


@contextmanager
def all_workers_are_throttled(here: Installation) -> Iterator[float]:
    """They run for a moment only, again and again, as in a container that may use little of a core."""
    over = threading.Event()

    def throttle() -> None:
        while not over.is_set():
            here.signal_workers(signal.SIGSTOP)
            over.wait(STOPPED_SECONDS)
            here.signal_workers(signal.SIGCONT)
            over.wait(RUNNING_SECONDS)

    thread = threading.Thread(target=throttle, name="throttle")
    moment = time.monotonic()
    thread.start()
    try:
        yield moment
    finally:
        over.set()
        thread.join()


@contextmanager
def the_broker_is_down(here: Installation) -> Iterator[float]:
    here.kafka.kill()
    yield time.monotonic()
    here.kafka.start()


@contextmanager
def an_old_model_is_released(here: Installation) -> Iterator[float]:
    moment = time.monotonic()
    here.world.release(toy_model("of-long-ago"))
    yield moment


FAULTS = (
    Fault(
        "both workers get a seventh of a core",
        all_workers_are_throttled,
        LATE,
        may=WAITING,
    ),
    Fault("a training is killed (SIGKILL)", a_training_is_killed, frozenset({"EfficientrecTrainerFailing"})),
    Fault("the trainer is stopped", the_trainer_is_stopped, frozenset({"EfficientrecTargetDown"})),
    Fault("a record cannot be read", a_record_cannot_be_read, frozenset({"EfficientrecDeadLettersGrowing"})),
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
    Fault(
        "one of two workers hangs (SIGSTOP)",
        a_worker_hangs,
        frozenset({"EfficientrecTargetDown"}),
        may=WAITING | FENCED,
    ),
    Fault(
        "both workers hang (SIGSTOP)",
        all_workers_hang,
        frozenset({"EfficientrecTargetDown", "EfficientrecNoWorker"}),
        may=WAITING | FENCED,
    ),
    Fault(
        "the broker is killed (SIGKILL) and started again",
        the_broker_is_down,
        frozenset({"EfficientrecCommitStalled"}),
        may=WAITING | FENCED,
    ),
    Fault("a model of long ago is released", an_old_model_is_released, frozenset({"EfficientrecModelTooOld"})),
)


def table(calm: set[str], seen: list[Seen]) -> str:
    """In Markdown. Alerts of `may` are said to follow."""
    lines = ["| fault | alert | after | times 30 |", "| --- | --- | ---: | ---: |"]
    lines.append(f"| none, {CALM_EVENTS:,} events | {', '.join(sorted(calm)) or 'none'} | | |")
    for each in seen:
        for alert, seconds in sorted(each.after.items(), key=lambda pair: pair[1]):
            follows = "" if alert in each.fault.fires else " follows"
            minutes, rest = divmod(round(seconds * FACTOR), 60)
            lines.append(f"| {each.fault.name} | {alert}{follows} | {seconds:.1f} s | {minutes} min {rest:02} s |")
    return "\n".join(lines)


def play(here: Installation) -> tuple[set[str], list[Seen]]:
    """What fired while nothing was broken, and each fault with what it fired."""
    here.wait_until_well()
    moment = time.monotonic()
    here.wait_for_events(CALM_EVENTS)
    calm = set(here.fired_since(moment))
    return calm, [here.run(fault) for fault in FAULTS]


VARIABLES = {"$partition": "|".join(map(str, range(PARTITIONS))), "$__rate_interval": "4s"}
"""What Grafana puts in: all partitions, and the time of four scrapes."""
JOBS = {"efficientrec.json": "worker", "trainer.json": "trainer"}
"""And for $job: the jobs that have the metric by which a board finds its own."""


def main() -> None:
    """Where a folder is named it draws the boards there, too."""
    with tempfile.TemporaryDirectory() as folder, running(Path(folder)) as here:
        print(table(*play(here)))
        for name, job in JOBS.items() if sys.argv[1:] else ():
            picture = Path(sys.argv[1]) / f"board-{Path(name).stem}.png"
            draw(name, {**VARIABLES, "$job": job}, here.prometheus, (here.began, time.time()), picture)


if __name__ == "__main__":
    main()
