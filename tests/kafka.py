"""Apache Kafka for tests: one broker and controller in one JVM, from the folder that KAFKA_HOME names."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from streams.broker import free_port, wait_until_it_answers
from streams.children import start_child, stop_child


class KafkaMissing(Exception):
    """Where Apache Kafka is promised, its absence is a failure and not a reason to skip."""


@dataclass(frozen=True)
class NativeKafka:
    """A running Apache Kafka."""

    address: str
    pid: int


@contextmanager
def native_kafka(folder: Path) -> Iterator[NativeKafka]:
    """Apache Kafka on ports of its own, with its data and its output in `folder`, until the block ends."""
    home = _kafka_home()
    client_port, controller_port = free_port(), free_port()
    address = f"127.0.0.1:{client_port}"
    properties = folder / "server.properties"
    properties.write_text(
        f"""
process.roles=broker,controller
node.id=1
controller.quorum.voters=1@127.0.0.1:{controller_port}
controller.listener.names=CONTROLLER
listeners=PLAINTEXT://{address},CONTROLLER://127.0.0.1:{controller_port}
advertised.listeners=PLAINTEXT://{address}
listener.security.protocol.map=CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT
log.dirs={folder / "kafka-data"}
auto.create.topics.enable=false
offsets.topic.replication.factor=1
offsets.topic.num.partitions=4
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
transaction.state.log.num.partitions=4
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
group.initial.rebalance.delay.ms=0
"""
    )
    environ = {"KAFKA_HEAP_OPTS": "-Xms256m -Xmx512m", **os.environ, "LOG_DIR": str(folder / "logs")}
    storage = [str(home / "bin" / "kafka-storage.sh"), "format", "-t", "MkU3OEVBNTcwNTJENDM2Qg", "-c", str(properties)]
    subprocess.run(storage, check=True, env=environ, stdout=subprocess.DEVNULL, timeout=60)
    log = folder / "kafka.log"
    process = start_child([str(home / "bin" / "kafka-server-start.sh"), str(properties)], log=log, environ=environ)
    try:
        wait_until_it_answers(address, process, 60.0, log)
        yield NativeKafka(address, process.pid)
    finally:
        stop_child(process, grace_seconds=15.0)


def _kafka_home() -> Path:
    home = os.environ.get("KAFKA_HOME")
    if not home:
        raise KafkaMissing("KAFKA_HOME is not set; expected the folder of an Apache Kafka 4 download")
    if not (Path(home) / "bin" / "kafka-server-start.sh").exists():
        raise KafkaMissing(f"KAFKA_HOME is {home!r}; expected a folder with bin/kafka-server-start.sh")
    return Path(home)
