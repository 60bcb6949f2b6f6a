"""A broker that asks everybody who he is: who may come in does, and who may not is told why, once."""

from __future__ import annotations

import asyncio
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from efficientrec.errors import BrokerRefused, EfficientRecError
from streams import rights
from streams.records import Interaction
from streams.secret import Secret
from streams.settings import Settings
from tests.certificates import DAY, Authority
from tests.environment import environment
from tests.integration.harness import Worker, World
from tests.secured import SecuredKafka, documented, secured_kafka
from tests.toy import START, toy_model

pytestmark = pytest.mark.full

WAYS = ("SCRAM-SHA-512", "PLAIN", "SSL")


@pytest.fixture(scope="module")
def kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SecuredKafka]:
    with secured_kafka(tmp_path_factory.mktemp("secured")) as running:
        yield running


@pytest.fixture
def world(kafka: SecuredKafka, tmp_path: Path) -> Iterator[World]:
    """An installation whose processes have the rights that docs/security.md says, and no others."""
    made = World(kafka.address, tmp_path, broker_wait_seconds=20.0)
    kafka.grant(documented(made.settings.prefix, made.settings.group))
    yield made
    made.close()


def as_user(world: World, kafka: SecuredKafka, way: str, user: str) -> Settings:
    return replace(world.settings, **kafka.access(way, user))


def command(settings: Settings, *words: str) -> subprocess.CompletedProcess[str]:
    """Runs a command to its end, with all that the libraries have to say."""
    return subprocess.run(
        [sys.executable, "-m", "streams", *words],
        env=environment(replace(settings, log_level="DEBUG")),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


class Trainer(Worker):
    command = ("-m", "streams", "trainer")

    def environ(self) -> dict[str, str]:
        return {
            "EFFICIENTREC_TRAINER_METRICS_PORT": str(self.port),
            "EFFICIENTREC_LOG_DIR": str(self.folder / "interactions"),
        }


class Server(Worker):
    command = ("-m", "streams", "server")
    token = "swordfish-of-whoever-asks"

    def environ(self) -> dict[str, str]:
        return {
            "EFFICIENTREC_SERVER_PORT": str(self.port),
            "EFFICIENTREC_SERVER_METRICS_PORT": "0",
            "EFFICIENTREC_SERVER_STATE_DIR": str(self.folder / "lists"),
            "EFFICIENTREC_SERVER_TOKEN": self.token,
        }

    def status_of(self, user: str, token: str = "") -> int:
        """What it answers to whoever asks for a list; 0 while it does not."""
        address = f"http://127.0.0.1:{self.port}/v1/users/{user}/list"
        asked = urllib.request.Request(address, headers={"Authorization": f"Bearer {token}"} if token else {})
        try:
            with urllib.request.urlopen(asked, timeout=5) as reply:
                return int(reply.status)
        except urllib.error.HTTPError as error:
            error.close()
            return error.code
        except OSError:
            return 0


@pytest.mark.parametrize("way", WAYS)
def test_everything_works_with_the_rights_that_are_documented(
    kafka: SecuredKafka, world: World, tmp_path: Path, way: str
) -> None:
    data = tmp_path / "data"
    data.mkdir()
    (data / "interactions.csv").write_text("user_id,item_id,timestamp\nann,a,1600000000\nbob,b,1600000001\n")

    def run(*words: str) -> str:
        name = "-".join(words[:2]) if words[0] in ("topics", "models") else words[0]
        done = command(as_user(world, kafka, way, name), *words)
        said.append(done.stdout + done.stderr)
        assert done.returncode == 0, said[-1][-4000:]
        return done.stdout

    said: list[str] = []
    assert "created" in run("topics", "create")
    assert "exists" in run("topics", "create")
    assert "as they must be" in run("topics", "check")
    secured: dict[str, Any] = {"log_level": "DEBUG"}
    worker = world.worker("worker", **secured, **kafka.access(way, "worker"))
    trainer = world.worker("trainer", Trainer, **secured, **kafka.access(way, "trainer"))
    server = world.worker("server", Server, **secured, **kafka.access(way, "server"))
    assert isinstance(server, Server)
    world.release(toy_model())
    for process in (worker, trainer, server):
        process.start()
    run("replay", str(data))
    run("send", "like", "eve", "a0")
    for user in ("ann", "bob", "eve"):
        world.wait_until(lambda: world.list_of(user) is not None, f"a list for {user}")  # noqa: B023
    world.wait_until(lambda: server.status_of("eve", server.token) == 200, "the server has it as well")
    assert server.status_of("eve") == server.status_of("eve", "wrong") == 401
    assert "model" in run("recommend", "eve")
    assert "toy-1" in run("models", "list")
    run("audit")
    run("erase", "eve")
    metrics = world.worker("worker").metrics()
    assert metrics["efficientrec_send_failures_total"] == 0
    for process in (server, trainer, worker):
        assert process.stop() == 0

    said += [str(metrics), server.output(), trainer.output(), worker.output()]
    assert not any("swordfish" in text for text in said)
    assert "aiokafka.conn" in said[-1], "at DEBUG, the client tells of its requests"


@pytest.mark.parametrize("process", rights.PROCESSES)
def test_each_documented_right_that_is_missing_is_named(kafka: SecuredKafka, world: World, process: str) -> None:
    world.create_topics()
    settings = as_user(world, kafka, "SCRAM-SHA-512", process.replace(" ", "-"))
    grants = [each for each in documented(settings.prefix, settings.group) if each.process == process]
    grants = [each for each in grants if each.kind != "TransactionalId" and each.operation != "Create"]
    asyncio.run(rights.check(settings, process))
    for grant in grants:
        kafka.withdraw(grant)

        with pytest.raises(BrokerRefused) as caught:
            asyncio.run(rights.check(settings, process))

        first, line = str(caught.value).splitlines()
        kafka.grant([grant])
        assert f"user '{grant.user}' may not do what efficientrec {process} does" in first
        operations, _, rest = line.strip().partition(" on ")
        assert grant.operation in operations.split(
            " and "
        )  # with all others, where not even the topic is seen any more
        assert rest == f"{grant.kind} {grant.name}"
    asyncio.run(rights.check(settings, process))


def test_a_worker_that_may_not_use_its_producer_ids_says_so(kafka: SecuredKafka, world: World) -> None:
    world.create_topics()
    (grant,) = [
        each for each in documented(world.settings.prefix, world.settings.group) if each.kind == "TransactionalId"
    ]
    kafka.withdraw(grant)

    done = command(as_user(world, kafka, "PLAIN", "worker"), "worker")

    assert done.returncode == 1
    assert f"allow this client to use the transactional ids {grant.name}" in done.stderr.splitlines()[-1]


@pytest.mark.parametrize("words", [["worker"], ["trainer"], ["send", "like", "u", "a0"], ["recommend", "u"]])
def test_a_process_that_is_refused_ends_with_one_line_after_one_attempt(
    kafka: SecuredKafka, world: World, words: list[str]
) -> None:
    settings = as_user(world, kafka, "SCRAM-SHA-512", words[0])

    with counted(kafka.at("PASSWORDS")) as door:
        done = command(replace(settings, broker=f"kafka://{door.address}", sasl_password=Secret("wrong")), *words)

    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert (
        f"BrokerRefused: the broker at {door.address} does not accept user {words[0]!r}" in done.stderr.splitlines()[-1]
    )
    assert door.connections == 1


def test_who_is_not_let_in_is_told_why_at_the_first_attempt(kafka: SecuredKafka, tmp_path: Path) -> None:
    other = Authority(tmp_path, "other")
    stranger, old = other.pair("worker"), kafka.authority.pair("worker", ends_in=-DAY, file="old")
    passwords, mutual = kafka.access("SCRAM-SHA-512", "worker"), kafka.access("SSL", "worker")
    bare = {name: mutual[name] for name in ("security_protocol", "ssl_ca_file")}
    cases: dict[str, tuple[str, Mapping[str, Any], str]] = {
        "wrong password": (
            "PASSWORDS",
            passwords | {"sasl_password": Secret("wrong")},
            "does not accept user 'worker'",
        ),
        "wrong password in PLAIN": (
            "PASSWORDS",
            passwords | {"sasl_password": Secret("wrong"), "sasl_mechanism": "PLAIN"},
            "with this password by PLAIN",
        ),
        "unknown user": ("PASSWORDS", passwords | {"sasl_username": "mallory"}, "does not accept user 'mallory'"),
        "unknown mechanism": (
            "PASSWORDS",
            passwords | {"sasl_mechanism": "SCRAM-SHA-256"},
            "does not take EFFICIENTREC_SASL_MECHANISM SCRAM-SHA-256",
        ),
        "wrong authority": ("PASSWORDS", passwords | {"ssl_ca_file": other.file}, f"SSL_CA_FILE, '{other.file}', has"),
        "the system's authorities": ("PASSWORDS", passwords | {"ssl_ca_file": None}, "(no EFFICIENTREC_SSL_CA_FILE"),
        "expired": ("EXPIRED", passwords, "certificate has expired; expected a certificate that is valid now"),
        "another host's": ("STRANGER", passwords, "not valid for '127.0.0.1'"),
        "no certificate": ("MUTUAL", bare, "does not accept us without a certificate"),
        "a stranger's certificate": (
            "MUTUAL",
            bare | {"ssl_certificate_file": stranger.certificate, "ssl_key_file": stranger.key},
            f"does not accept our certificate '{stranger.certificate}'",
        ),
        "an old certificate": (
            "MUTUAL",
            bare | {"ssl_certificate_file": old.certificate, "ssl_key_file": old.key},
            f"does not accept our certificate '{old.certificate}'",
        ),
        "a password where none is asked for": ("MUTUAL", passwords | {}, "does not accept us without a certificate"),
    }
    for name, (listener, access, expected) in cases.items():
        with counted(kafka.at(listener)) as door:
            settings = Settings(**{**access, "broker": f"kafka://{door.address}"})

            with pytest.raises(BrokerRefused) as caught:
                asyncio.run(rights.check(settings, "send"))

        message = str(caught.value)
        assert expected in message, name
        assert "expected" in message, name
        assert "\n" not in message, name
        assert door.connections == 1, name


@pytest.mark.parametrize(("listener", "protocol"), [("PASSWORDS", "PLAINTEXT"), ("PASSWORDS", "SSL"), (None, "SSL")])
def test_the_wrong_protocol_is_suspected_by_name(kafka: SecuredKafka, listener: str | None, protocol: str) -> None:
    address = kafka.at(listener) if listener else kafka.address
    ca: dict[str, Any] = {"ssl_ca_file": kafka.authority.file} if protocol == "SSL" else {}
    settings = Settings(broker=f"kafka://{address}", security_protocol=protocol, broker_wait_seconds=0.5, **ca)

    with pytest.raises(EfficientRecError, match=f"SECURITY_PROTOCOL, which is {protocol}"):
        asyncio.run(rights.check(settings, "send"))


@pytest.mark.parametrize(
    ("operation", "topic"), [("Write", "lists"), ("Write", "changelog"), ("Read", "interactions"), ("Read", "releases")]
)
def test_rights_that_are_taken_away_end_the_worker_and_nothing_is_lost(
    kafka: SecuredKafka, world: World, operation: str, topic: str
) -> None:
    world.create_topics()
    world.release(toy_model())
    worker = world.worker("worker", **kafka.access("SCRAM-SHA-512", "worker"))
    worker.start()
    world.interact(*events("before"))
    world.wait_until_handled()
    name = getattr(world.topics, topic)
    (grant,) = [
        each
        for each in documented(world.settings.prefix, world.settings.group)
        if (each.process, each.name, each.operation) == ("worker", name, operation)
    ]

    kafka.withdraw(grant)
    world.interact(*events("after"))
    deadline = time.monotonic() + 60
    while worker.is_running():
        assert time.monotonic() < deadline, worker.output()[-4000:]
        time.sleep(0.1)

    assert worker.process.returncode == 1
    told = worker.output()
    assert "Traceback" not in told, told
    operations, _, rest = told.splitlines()[-1].strip().partition(" on ")
    assert operation in operations.split(" and ")
    assert rest == f"Topic {name}"
    assert len(told.splitlines()) < 60, told

    kafka.grant([grant])
    worker.start()
    world.wait_until_handled()
    assert {event.user_id for event in (*events("before"), *events("after"))} == {
        published.user_id for published in world.lists()
    }


def test_a_group_that_may_not_be_joined_any_more_ends_the_worker(kafka: SecuredKafka, world: World) -> None:
    world.create_topics()
    worker = world.worker("worker", **kafka.access("SCRAM-SHA-512", "worker"))
    worker.start()
    world.interact(*events("before"))
    world.wait_until_handled()
    (grant,) = [
        each
        for each in documented(world.settings.prefix, world.settings.group)
        if (each.process, each.kind) == ("worker", "Group")
    ]

    kafka.withdraw(grant)
    deadline = time.monotonic() + 60
    while worker.is_running():
        assert time.monotonic() < deadline, worker.output()[-4000:]
        time.sleep(0.1)

    assert worker.process.returncode == 1
    assert worker.output().splitlines()[-1] == f"  Read on Group {grant.name}"


@pytest.mark.parametrize(("kind", "which"), [("Topic", "interactions"), ("Topic", "releases"), ("Group", "")])
def test_rights_that_are_taken_away_end_the_trainer(kafka: SecuredKafka, world: World, kind: str, which: str) -> None:
    world.create_topics()
    trainer = world.worker("trainer", Trainer, **kafka.access("PLAIN", "trainer"))
    trainer.start()
    world.interact(*events("before"))
    world.wait_until(lambda: "log of 0 interactions" in trainer.output(), "the trainer runs")
    name = getattr(world.topics, which) if which else f"{world.settings.group}-trainer"
    (grant,) = [
        each
        for each in documented(world.settings.prefix, world.settings.group)
        if (each.process, each.kind, each.name, each.operation) == ("trainer", kind, name, "Read")
    ]

    kafka.withdraw(grant)
    world.interact(*events("after"))
    deadline = time.monotonic() + 60
    while trainer.is_running():
        assert time.monotonic() < deadline, trainer.output()[-4000:]
        time.sleep(0.1)

    told = trainer.output()
    assert trainer.process.returncode == 1
    assert "Traceback" not in told, told
    assert told.splitlines()[-1].endswith(f" on {kind} {name}")


def test_a_password_that_is_changed_ends_the_worker_when_the_broker_asks_for_it_again(tmp_path: Path) -> None:
    with secured_kafka(tmp_path / "kafka") as kafka:
        world = World(kafka.address, tmp_path)
        kafka.grant(documented(world.settings.prefix, world.settings.group))
        world.create_topics()
        worker = world.worker("worker", **kafka.access("PLAIN", "worker"))
        try:
            worker.start()
            world.interact(*events("before"))
            world.wait_until_handled()

            kafka.kill()
            kafka.change_passwords()
            kafka.start()
            deadline = time.monotonic() + 90
            while worker.is_running():
                assert time.monotonic() < deadline, worker.output()[-4000:]
                time.sleep(0.1)
        finally:
            world.close()

    assert worker.process.returncode == 1
    assert "Traceback" not in worker.output()
    assert "does not accept user 'worker' with this password by PLAIN" in worker.output().splitlines()[-1]


def events(when: str) -> list[Interaction]:
    return [Interaction("like", f"{when}-{number}", "a0", START, event_id=f"{when}-{number}") for number in range(8)]


class Door:
    """Passes everything on to a listener, and counts who came."""

    def __init__(self, address: str) -> None:
        host, _, port = address.rpartition(":")
        self._behind = (host, int(port))
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._socket.getsockname()[1]}"
        self.connections = 0

    def run(self) -> None:
        while True:
            try:
                visitor, _ = self._socket.accept()
            except OSError:  # closed
                return
            self.connections += 1
            inside = socket.create_connection(self._behind)
            for source, sink in ((visitor, inside), (inside, visitor)):
                threading.Thread(target=_pass_on, args=(source, sink), daemon=True).start()

    def close(self) -> None:
        self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()


def _pass_on(source: socket.socket, sink: socket.socket) -> None:
    with source, sink:
        try:
            while data := source.recv(65_536):
                sink.sendall(data)
            sink.shutdown(socket.SHUT_WR)
        except OSError:
            return


@contextmanager
def counted(address: str) -> Iterator[Door]:
    door = Door(address)
    thread = threading.Thread(target=door.run)
    thread.start()
    try:
        yield door
    finally:
        door.close()
        thread.join()
