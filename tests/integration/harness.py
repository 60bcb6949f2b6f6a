"""Worker processes on a real broker, and what can be seen of them from outside: topics, offsets, disk, metrics.

Knows how to start and stop them, to produce records and to wait until all are handled. Judges nothing.
"""

from __future__ import annotations

import asyncio
import secrets
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import rocksdict
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.errors import KafkaError
from aiokafka.structs import ConsumerRecord, TopicPartition
from numpy.typing import NDArray

from efficientrec.artifact import WEIGHTS
from efficientrec.errors import InteractionInvalid, RecordInvalid
from efficientrec.features import trait_keys
from efficientrec.interactions import key_of
from efficientrec.model import Model
from efficientrec.profile import HEADER
from efficientrec.recompute import Event, recompute
from streams import topics
from streams.broker import free_port
from streams.children import start_child, stop_child
from streams.clock import wall_ms
from streams.cloudevents import completed
from streams.connection import Connection
from streams.disk import OFFSET_KEY
from streams.features import feature_texts
from streams.offsets import true_ends
from streams.outbox import Headers
from streams.records import (
    RELEASE_KEY,
    SCHEMA_VERSION,
    Interaction,
    RecommendationList,
    Release,
    decode_interaction,
    decode_list,
    decode_user,
    encode,
    moment_ms,
    rfc3339,
)
from streams.settings import Settings
from streams.topics import Topics
from streams.wire import KafkaWire
from tests.environment import environment
from tests.kafka import is_apache
from tests.toy import START, save_toy

WAIT_SECONDS = 300.0
"""How long anything may take before a test fails: a rebalance takes ten seconds, and more while a broker is away, and
the machine may be crowded."""

Record: TypeAlias = ConsumerRecord[bytes | None, bytes | None]
KeyValue: TypeAlias = tuple[bytes | None, bytes | None]
NOT_A_USER = b"\xff"
"""How the keys of the changelog begin that are no user's: this byte never occurs in UTF-8."""


class Worker:
    """A process of `efficientrec worker` with a disk of its own, which outlives it."""

    command: Sequence[str] = ("-m", "streams", "worker")

    def __init__(self, settings: Settings, folder: Path) -> None:
        self.folder = folder
        self.log = folder / "worker.log"
        self.state_dir = folder / "state"
        self._settings = settings
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        self.port = free_port()
        environ = environment(self._settings, state_dir=self.state_dir, metrics_port=self.port)
        environ |= self.environ()
        self._process = start_child([sys.executable, *self.command], log=self.log, environ=environ)

    def environ(self) -> dict[str, str]:
        """Variables beside the settings."""
        return {}

    def is_running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def process(self) -> subprocess.Popen[bytes]:
        assert self._process is not None, "the worker was never started"
        return self._process

    def kill(self) -> None:
        """SIGKILL, which leaves the worker no time for anything."""
        self.process.kill()  # of a process that is stopped (SIGSTOP) as well
        self.process.wait()

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Ask it to stop and return its exit status."""
        self.process.send_signal(number)
        return self.process.wait(WAIT_SECONDS)

    def output(self) -> str:
        return self.log.read_text() if self.log.exists() else ""

    def metrics(self) -> dict[str, float]:
        """What /metrics says: name with labels → value."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/metrics", timeout=5) as reply:
            lines = reply.read().decode().splitlines()
        pairs = (line.rpartition(" ") for line in lines if not line.startswith("#"))
        return {name: float(value) for name, _, value in pairs}

    def answer(self, path: str) -> tuple[int, str]:
        """Status and text of /livez or /readyz; 0 where nobody answers."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=5) as reply:
                return reply.status, reply.read().decode().strip()
        except urllib.error.HTTPError as refused:
            return refused.code, refused.read().decode().strip()
        except OSError:
            return 0, ""

    def whole_copies(self) -> int:
        """Copies of other workers' partitions that lack nothing, as /metrics says."""
        return sum(
            lag == 0 for name, lag in self.metrics().items() if name.startswith("efficientrec_standby_lag_records")
        )

    def disk(self) -> dict[int, dict[bytes, bytes]]:
        """Partition → what its RocksDB holds; the worker must have stopped."""
        options = rocksdict.Options(raw_mode=True)
        contents = {}
        for path in sorted(self.state_dir.glob("partition-*")):
            db = rocksdict.Rdict(str(path), options, access_type=rocksdict.AccessType.read_only())
            contents[int(path.name.partition("-")[2])] = dict(db.items())
            db.close()
        return contents


class TrainerProcess(Worker):
    """A process of `efficientrec trainer`."""

    command = ("-m", "streams", "trainer")


class World:
    """One installation of its own on a shared broker: topics, workers, models."""

    def __init__(self, address: str, folder: Path, **settings: Any) -> None:
        name = f"world-{secrets.token_hex(4)}"
        self.address = address
        self.folder = folder
        self.settings = Settings(
            **{
                "broker": f"kafka://{address}",
                "prefix": name,
                "group": name,
                "models_dir": str(folder),
                "partitions": 4,
                "session_timeout_seconds": 6.0,  # a group of the embedded broker waits half of it before it forms
                "heartbeat_interval_seconds": 1.0,
                "commit_interval_seconds": 0.2,
                "request_timeout_seconds": 20.0,
                "broker_wait_seconds": 60.0,  # a broker on a crowded machine is long at its first producer id
                "fencing": "on" if is_apache(address) else "off",  # the embedded broker knows no producer ids
                **settings,
            }
        )
        self.topics = Topics.of(self.settings)
        self.models: dict[int, Model] = {}
        """By the key of their version: those that were released here."""
        self._workers: dict[str, Worker] = {}
        self._ends: dict[TopicPartition, int] = {}

    def create_topics(self) -> None:
        asyncio.run(topics.create(self.settings))

    def worker(self, name: str, kind: type[Worker] = Worker, **settings: Any) -> Worker:
        """The worker of this name, started or not. kind, settings: of one that is not there yet, if it is special."""
        if name not in self._workers:
            folder = self.folder / name
            folder.mkdir(parents=True)
            self._workers[name] = kind(replace(self.settings, **settings), folder)
        return self._workers[name]

    def start(self, *names: str) -> list[Worker]:
        """Start these workers; a partition is served soon after."""
        workers = [self.worker(name) for name in names]
        for worker in workers:
            worker.start()
        return workers

    def close(self) -> None:
        """End every worker that runs."""
        for worker in self._workers.values():
            if worker._process is not None:
                stop_child(worker._process)

    def produce(self, topic: str, records: Iterable[KeyValue], headers: Headers = ()) -> list[tuple[int, int]]:
        """Returns when the broker has them, with (partition, offset) of each; the key decides the partition as it does
        for any Kafka client. headers: of each of them."""
        return asyncio.run(self._produce(topic, list(records), headers))

    async def _produce(self, topic: str, records: Sequence[KeyValue], headers: Headers = ()) -> list[tuple[int, int]]:
        places = []
        producer = AIOKafkaProducer(bootstrap_servers=self.address, linger_ms=5, acks="all")
        await producer.start()
        try:
            sent = [await producer.send(topic, value, key=key, headers=list(headers)) for key, value in records]
            for future in sent:
                at = await future
                place = TopicPartition(at.topic, at.partition)
                self._ends[place] = max(self._ends.get(place, 0), at.offset + 1)
                places.append((at.partition, at.offset))
        finally:
            await producer.stop()
        return places

    def append(self, topic: str, partition: int, batch: bytes) -> None:
        """A batch as it is, whatever is in it."""
        asyncio.run(self._append(topic, partition, batch))

    async def _append(self, topic: str, partition: int, batch: bytes) -> None:
        wire = KafkaWire(Connection(self.settings), self.settings.request_timeout_seconds, [topic])
        await wire.start()
        try:
            leader = wire._client.cluster.leader_for_partition(TopicPartition(topic, partition))
            code, _ = await wire._handed_over(leader, topic, partition, batch)
            assert code == 0, f"the broker does not take it: {code}"
        finally:
            await wire.stop()

    def notice(self, topic: str) -> None:
        """From now on what others have sent to the topic is waited for as well."""
        for record in self.read(topic):
            self._ends[TopicPartition(topic, record.partition)] = record.offset + 1

    def interact(self, *events: Interaction) -> None:
        self.produce(self.topics.interactions, [(event.user_id.encode(), encode(event)) for event in events])

    def release(self, model: Model, *, damaged: bool = False, made_ms: int = START) -> None:
        """Write the model and announce it. damaged: one byte of its weights changes in between."""
        folder = self.folder / f"model-{model.version}"
        digest = save_toy(model, str(folder), rfc3339(made_ms))
        if damaged:
            weights = bytearray((folder / WEIGHTS).read_bytes())
            weights[-1] ^= 1
            (folder / WEIGHTS).write_bytes(weights)
        self.models[key_of(model.version)] = model
        record = Release(SCHEMA_VERSION, model.version, str(folder), digest, rfc3339(made_ms))
        self.produce(self.topics.releases, [(RELEASE_KEY, encode(record))])

    def behind(self) -> int:
        """How many of the produced interactions and users the workers have not committed yet."""
        return sum(self.backlog().values())

    def backlog(self) -> dict[tuple[str, int], int]:
        """The same by (topic, partition), without those that are done."""
        left = {
            (topic, number): self.end(topic, number) - done
            for topic in (self.topics.interactions, self.topics.users)
            for number, done in self.committed(topic).items()
        }
        return {place: records for place, records in left.items() if records > 0}  # others may have produced more

    def end(self, topic: str, partition: int) -> int:
        """The offset after the last record that was produced here."""
        return self._ends.get(TopicPartition(topic, partition), 0)

    def committed(self, topic: str) -> dict[int, int]:
        """Partition → up to where the workers have committed what was produced here."""
        places = [place for place in self._ends if place.topic == topic]
        found = asyncio.run(self._committed(places)) if places else {}
        return {place.partition: offset for place, offset in found.items()}

    async def _committed(self, places: Sequence[TopicPartition]) -> dict[TopicPartition, int]:
        consumer: AIOKafkaConsumer[bytes | None, bytes | None] = AIOKafkaConsumer(
            bootstrap_servers=self.address, group_id=self.settings.group, enable_auto_commit=False
        )
        try:
            await consumer.start()  # it subscribes to nothing, so it never joins the group
            return {place: await consumer.committed(place) or 0 for place in places}
        finally:
            await consumer.stop()

    def wait_until_handled(self) -> None:
        self.wait_until(lambda: self.behind() == 0, "everything is committed")

    def wait_until(self, condition: Callable[[], bool], what: str, seconds: float = WAIT_SECONDS) -> None:
        """Return when the condition holds; a worker that ends meanwhile, or the deadline, fails with its log."""
        deadline = time.monotonic() + seconds
        running = [worker.process for worker in self._workers.values() if worker.is_running()]
        while not condition():
            has_failed = any((process.poll() or 0) > 0 for process in running)  # below 0 it was killed, by a test
            if has_failed or time.monotonic() > deadline:
                told = "\n".join(f"{name}:\n{worker.output()[-4000:]}" for name, worker in self._workers.items())
                why = "a worker ended" if has_failed else f"after {seconds:g} s"
                raise AssertionError(f"{why}, not true: {what}; left {self._told_backlog()}\n{told}")
            time.sleep(0.05)

    def _told_backlog(self) -> str:
        try:
            return str(self.backlog())
        except KafkaError as error:
            return repr(error)

    def wait_for_metric(self, worker: Worker, name: str, least: float) -> None:
        def reached() -> bool:
            try:
                return worker.metrics().get(name, 0.0) >= least
            except OSError:  # it has only just started
                return False

        self.wait_until(reached, f"{name} is at least {least:g}")

    def read(self, topic: str) -> list[Record]:
        """Every record of the topic, in the order of each partition."""
        return asyncio.run(self._read(topic))

    async def _read(self, topic: str) -> list[Record]:
        consumer: AIOKafkaConsumer[bytes | None, bytes | None] = AIOKafkaConsumer(
            bootstrap_servers=self.address, auto_offset_reset="earliest", enable_auto_commit=False
        )
        await consumer.start()
        try:
            count = {entry.name: entry.partitions for entry in topics.wanted(self.settings)}[topic]
            places = [TopicPartition(topic, number) for number in range(count)]
            ends = await true_ends(consumer, places)
            await consumer.seek_to_beginning(*places)
            found: list[Record] = []
            while any([await consumer.position(place) < end for place, end in ends.items()]):
                for records in (await consumer.getmany(timeout_ms=100)).values():
                    found += records
            return sorted(found, key=lambda record: (record.partition, record.offset))
        finally:
            await consumer.stop()

    def last(self, topic: str) -> dict[bytes | None, Record]:
        """Key → its last record: what compaction keeps."""
        return {record.key: record for record in self.read(topic)}

    def lists(self) -> list[RecommendationList]:
        """Every list, in the order of each partition; nulls are left out."""
        return [list_in(record.value) for record in self.read(self.topics.lists) if record.value is not None]

    def list_of(self, user: str) -> RecommendationList | None:
        """The user's last list; None where there is none, or it was erased."""
        record = self.last(self.topics.lists).get(user.encode())
        return None if record is None or record.value is None else list_in(record.value)

    def rows(self) -> dict[bytes, bytes]:
        """User → row, from the changelog's last record of each key."""
        return {
            key: record.value
            for key, record in self.last(self.topics.changelog).items()
            if key is not None and not key.startswith(NOT_A_USER) and record.value is not None
        }

    def accepted(self, whose: str = "") -> dict[str, list[Event]]:
        """User → the interactions that a worker must accept, read back from the topic one by one.

        whose: how the ids of the users of interest begin.
        """
        policy, events = self.settings.policy, defaultdict(list)
        latest = wall_ms() + int(1000 * self.settings.future_tolerance_seconds)
        for record in self.read(self.topics.interactions):
            try:
                event = decode_interaction(completed(record.value, record.headers), record.key, policy, latest)
            except InteractionInvalid:
                continue
            if not event.user_id.startswith(whose):
                continue
            values = np.array([np.nan if event.value is None else event.value])
            events[event.user_id].append(
                Event(
                    offset=record.offset,
                    item_id=event.item_id,
                    weight=float(policy.weights([event.event_type], values)[0]),
                    at_ms=moment_ms(event.event_time),
                    event_id=event.event_id,
                    excludes=bool(policy.excludes([event.event_type])[0]),
                    arrived_ms=max(0, record.timestamp),
                )
            )
        return events

    def recomputed(self, rows: Mapping[bytes, bytes], whose: str = "") -> dict[bytes, bytes]:
        """User → what the row should be by the plain program, which takes model and `built` from the row's header.

        Only of a user who was erased it takes the row's word for where the profile begins, and whether there is one:
        others have every event.
        """
        described: dict[bytes, tuple[int, NDArray[np.uint64]]] = {}
        erased: set[bytes] = set()
        for record in self.read(self.topics.users):
            key = record.key
            try:
                if key is None:
                    continue
                if record.value is None:
                    erased.add(key)
                    described.pop(key, None)
                else:
                    user = decode_user(record.value, key)
                    described[key] = (record.offset, trait_keys(feature_texts(user.features)))
            except RecordInvalid:
                continue
        events = {user_id.encode(): found for user_id, found in self.accepted(whose).items()}
        expected = {}
        for key in events | {key: [] for key in described if key.startswith(whose.encode()) and key not in events}:
            if key in erased and key not in rows:
                continue
            head: Any = np.frombuffer(rows[key], HEADER, 1)[0] if key in rows else np.zeros((), HEADER)
            offset, traits = described.get(key, (-1, np.zeros(0, np.uint64)))
            began = int(head["begun"]) if key in erased else -1
            expected[key] = recompute(
                () if key in erased and began < 0 else events.get(key, ()),
                self.models.get(int(head["model"])),
                built=int(head["built"]),
                partition=int(head["partition"]),
                traits=traits.tolist(),
                users_offset=offset,
                begun=began,
                admission=self.settings.admission,
            )
        return expected

    def rows_on_disk(self) -> dict[bytes, bytes]:
        """User → row, from the disks of all workers; of several copies of a partition the furthest one."""
        furthest: dict[int, dict[bytes, bytes]] = {}
        for worker in self._workers.values():
            for partition, content in worker.disk().items():
                if _reach(content) > _reach(furthest.get(partition, {})):
                    furthest[partition] = content
        return {
            key: row for content in furthest.values() for key, row in content.items() if not key.startswith(NOT_A_USER)
        }


@dataclass(frozen=True)
class Listener:
    """A socket on which a process listens."""

    host: str
    port: int


def listeners(pid: int) -> list[Listener]:
    """The listening TCP sockets of a process (Linux)."""
    inodes = set()
    for descriptor in Path(f"/proc/{pid}/fd").iterdir():
        target = str(descriptor.readlink())
        if target.startswith("socket:["):
            inodes.add(target[8:-1])
    found = []
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/{pid}/net/{table}").read_text().splitlines()[1:]:
            words = line.split()
            if words[3] == "0A" and words[9] in inodes:  # 0A: LISTEN
                host, _, port = words[1].partition(":")
                found.append(Listener(host, int(port, 16)))
    return found


def list_in(value: bytes | None) -> RecommendationList:
    assert value is not None
    return decode_list(value)


def _reach(content: Mapping[bytes, bytes]) -> int:
    """The changelog offset that a disk's copy of a partition reaches up to."""
    return int(content.get(OFFSET_KEY, b"-1"))
