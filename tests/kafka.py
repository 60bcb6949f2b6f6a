"""Apache Kafka for tests, from the folder that KAFKA_HOME names: a node that can be killed and started again on what it
has written, alone or as one of a cluster."""

from __future__ import annotations

import asyncio
import os
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import KafkaError

from streams.broker import free_port, wait_until_it_answers
from streams.children import start_child, stop_child

CLUSTER_ID = "MkU3OEVBNTcwNTJENDM2Qg"
START_SECONDS = 90.0  # three seconds on an idle machine; three JVMs on a crowded one take their time
SESSION_MS_MIN = 1000
"""Tests let workers be missed sooner than Kafka's own six seconds, since each of them waits that long.
The same goes for a killed broker: its next life is let in when its last one has been silent for a session timeout."""


_addresses: set[str] = set()


def is_apache(address: str) -> bool:
    """Whether Apache Kafka listens there, started by this process, and not the embedded broker."""
    return any(part in _addresses for part in address.split(","))


class KafkaMissing(Exception):
    """Where Apache Kafka is promised, its absence is a failure and not a reason to skip."""


@dataclass(frozen=True)
class Place:
    """Where a node listens."""

    node: int
    client_port: int
    controller_port: int

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.client_port}"

    @property
    def voter(self) -> str:
        return f"{self.node}@127.0.0.1:{self.controller_port}"


class NativeKafka:
    """One node, broker and controller in one JVM, with data and output in a folder of its own, which outlive it."""

    def __init__(
        self,
        folder: Path,
        place: Place,
        nodes: Sequence[Place],
        heap: str,
        more: str = "",
        format_with: Sequence[str] = (),
    ) -> None:
        """more: properties over those that every node has. format_with: arguments of kafka-storage.sh format."""
        self.address = place.address
        _addresses.add(place.address)
        self.log = folder / "kafka.log"
        self._folder = folder
        self._properties = folder / "server.properties"
        self._environ = {"KAFKA_HEAP_OPTS": heap, **os.environ, "LOG_DIR": str(folder / "logs")}
        self._process: subprocess.Popen[bytes] | None = None
        folder.mkdir(parents=True, exist_ok=True)
        self._properties.write_text(_properties(folder, place, nodes) + more)
        arguments = ["-t", CLUSTER_ID, "-c", str(self._properties), *format_with]
        _run("kafka-storage.sh", "format", *arguments, environ=self._environ)

    @property
    def pid(self) -> int:
        assert self._process is not None, "the node was never started"
        return self._process.pid

    def begin(self) -> None:
        """Start it, on the ports and the data that it had before, without waiting for its answer."""
        command = [str(kafka_home() / "bin" / "kafka-server-start.sh"), str(self._properties)]
        self._process = start_child(command, log=self.log, environ=self._environ)

    def start(self) -> None:
        """Start it and return once it answers."""
        self.begin()
        self.wait_until_it_answers()

    def wait_until_it_answers(self) -> None:
        assert self._process is not None, "the node was never started"
        wait_until_it_answers(self.address, self._process, START_SECONDS, self.log)

    def kill(self) -> None:
        """SIGKILL: what it had not written out, only the operating system has."""
        assert self._process is not None, "the node was never started"
        self._process.kill()
        self._process.wait()

    def stop(self) -> None:
        if self._process is not None:
            stop_child(self._process, grace_seconds=15.0)


@dataclass(frozen=True)
class Cluster:
    """Several nodes that keep copies of each other's partitions."""

    nodes: list[NativeKafka]

    @property
    def address(self) -> str:
        """All of them, as clients take them."""
        return ",".join(node.address for node in self.nodes)


@contextmanager
def native_kafka(folder: Path) -> Iterator[NativeKafka]:
    """Apache Kafka, alone, until the block ends."""
    place = _places(1)[0]
    kafka = NativeKafka(folder, place, [place], "-Xms256m -Xmx512m")
    try:
        kafka.start()
        yield kafka
    finally:
        kafka.stop()


@contextmanager
def native_cluster(folder: Path, nodes: int = 3) -> Iterator[Cluster]:
    """A cluster that keeps every partition on all its nodes and takes a record when all but one have it."""
    places = _places(nodes)
    members = [NativeKafka(folder / f"node-{place.node}", place, places, "-Xms128m -Xmx320m") for place in places]
    with ExitStack() as stack:
        for member in members:
            stack.callback(member.stop)
            member.begin()  # a node answers only when most of the controllers are there
        for member in members:
            member.wait_until_it_answers()
        cluster = Cluster(members)
        asyncio.run(_wait_until_all_are_in(cluster))
        yield cluster


async def _wait_until_all_are_in(cluster: Cluster) -> None:
    """A topic with as many copies as nodes can be made only when every node is known to the controllers."""
    deadline = time.monotonic() + START_SECONDS
    admin = AIOKafkaAdminClient(bootstrap_servers=cluster.address)
    await admin.start()
    try:
        while True:
            try:
                known = await admin.describe_cluster()
                if len(known["brokers"]) == len(cluster.nodes):
                    return
            except KafkaError:
                known = {}
            assert time.monotonic() < deadline, f"of {len(cluster.nodes)} nodes these are known: {known}"
            await asyncio.sleep(0.1)
    finally:
        await admin.close()


def _places(nodes: int) -> list[Place]:
    return [Place(node, free_port(), free_port()) for node in range(1, nodes + 1)]


def _properties(folder: Path, place: Place, nodes: Sequence[Place]) -> str:
    copies, in_sync = len(nodes), max(1, len(nodes) - 1)
    return f"""
process.roles=broker,controller
node.id={place.node}
controller.quorum.voters={",".join(node.voter for node in nodes)}
controller.listener.names=CONTROLLER
listeners=PLAINTEXT://{place.address},CONTROLLER://127.0.0.1:{place.controller_port}
advertised.listeners=PLAINTEXT://{place.address}
listener.security.protocol.map=CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT
log.dirs={folder / "kafka-data"}
auto.create.topics.enable=false
default.replication.factor={copies}
min.insync.replicas={in_sync}
unclean.leader.election.enable=false
offsets.topic.replication.factor={copies}
offsets.topic.num.partitions=4
transaction.state.log.replication.factor={copies}
transaction.state.log.min.isr={in_sync}
transaction.state.log.num.partitions=4
share.coordinator.state.topic.replication.factor={copies}
share.coordinator.state.topic.min.isr={in_sync}
group.initial.rebalance.delay.ms=0
group.min.session.timeout.ms={SESSION_MS_MIN}
broker.heartbeat.interval.ms=500
broker.session.timeout.ms=3000
"""


def _run(script: str, *arguments: str, environ: dict[str, str]) -> None:
    command = [str(kafka_home() / "bin" / script), *arguments]
    subprocess.run(command, check=True, env=environ, stdout=subprocess.DEVNULL, timeout=60)


def kafka_home() -> Path:
    """The folder of the download; KafkaMissing where there is none."""
    home = os.environ.get("KAFKA_HOME")
    if not home:
        raise KafkaMissing("KAFKA_HOME is not set; expected the folder of an Apache Kafka 4 download")
    if not (Path(home) / "bin" / "kafka-server-start.sh").exists():
        raise KafkaMissing(f"KAFKA_HOME is {home!r}; expected a folder with bin/kafka-server-start.sh")
    return Path(home)
