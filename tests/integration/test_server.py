"""The server as a process, beside a real worker on a real broker.

Each test runs on the embedded broker and, marked `full`, on Apache Kafka.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from streams.broker import EmbeddedBroker, free_port
from streams.children import start_child, stop_child
from streams.records import Interaction, encode
from streams.secret import Secret
from tests.environment import environment
from tests.integration.harness import WAIT_SECONDS, World
from tests.test_server_store import a_list
from tests.toy import DAY, START, toy_model

BROKERS = ["embedded_broker", pytest.param("apache_kafka", marks=pytest.mark.full)]


class Server:
    """A process of `efficientrec server` with a disk of its own, which outlives it."""

    def __init__(self, world: World, **settings: Any) -> None:
        folder = world.folder / "server"
        folder.mkdir(parents=True, exist_ok=True)
        self.log = folder / "server.log"
        self._world = world
        self.settings = replace(
            world.settings,
            server_state_dir=folder / "lists",
            server_port=free_port(),
            server_metrics_port=free_port(),
            **settings,
        )
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> Server:
        self.log.unlink(missing_ok=True)
        command = [sys.executable, "-m", "streams", "server"]
        self._process = start_child(command, log=self.log, environ=environment(self.settings))
        return self

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        assert self._process is not None
        self._process.send_signal(number)
        return self._process.wait(WAIT_SECONDS)

    def close(self) -> None:
        if self._process is not None:
            stop_child(self._process)

    def output(self) -> str:
        return self.log.read_text() if self.log.exists() else ""

    def get(self, user: str) -> tuple[int, dict[str, Any]]:
        return self._asked(f"/v1/users/{quote(user, safe='')}/list")

    def post(self, *events: Interaction) -> tuple[int, dict[str, Any]]:
        return self._asked("/v1/events", b"[%b]" % b",".join(map(encode, events)))

    def _asked(self, path: str, body: bytes | None = None) -> tuple[int, dict[str, Any]]:
        headers = {"Content-Type": "application/json"}
        if self.settings.server_token:
            headers["Authorization"] = f"Bearer {self.settings.server_token.reveal()}"
        request = urllib.request.Request(f"http://127.0.0.1:{self.settings.server_port}{path}", body, headers)
        try:
            with urllib.request.urlopen(request, timeout=30) as reply:
                return reply.status, json.loads(reply.read())
        except urllib.error.HTTPError as error:
            with error:
                return error.code, json.loads(error.read())

    def metrics(self) -> dict[str, float]:
        url = f"http://127.0.0.1:{self.settings.server_metrics_port}/metrics"
        with urllib.request.urlopen(url, timeout=5) as reply:
            lines = reply.read().decode().splitlines()
        return {name: float(value) for name, _, value in (each.rpartition(" ") for each in lines if each[0] != "#")}

    def probe(self, path: str) -> int:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.settings.server_metrics_port}{path}", timeout=5) as reply:
            status: int = reply.status
            return status

    def wait_until_ready(self) -> None:
        self._world.wait_until(lambda: "ready: all" in self.output(), "the server is ready")

    def has(self, user: str, rec_id: str) -> bool:
        status, body = self.get(user)
        return status == 200 and body["rec_id"] == rec_id


@pytest.fixture(params=BROKERS)
def world(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[World]:
    world = World(request.getfixturevalue(request.param).address, tmp_path)
    world.create_topics()
    try:
        yield world
    finally:
        world.close()


@pytest.fixture
def server(world: World) -> Iterator[Server]:
    server = Server(world, server_token=Secret("swordfish"))
    try:
        yield server
    finally:
        server.close()


def test_an_event_that_is_posted_becomes_a_list_that_is_read(world: World, server: Server) -> None:
    world.settings = replace(world.settings, list_format="msgpack")
    world.release(toy_model())
    world.start("only")
    server.start()
    server.wait_until_ready()
    assert server.get("ann")[0] == 404

    taken = server.post(*(Interaction("like", "ann", item, START + DAY) for item in ("a1", "a2")))
    refused = server.post(Interaction("like", "ann", "a3", START + DAY), Interaction("sneeze", "ann", "a3", START))
    world.wait_until(lambda: server.get("ann")[0] == 200, "the list is served")

    assert taken == (202, {"accepted": 2})
    assert refused[0] == 422
    assert refused[1]["errors"][0]["index"] == 1
    body = server.get("ann")[1]
    assert (body["user_id"], body["items"][0]["item_id"]) == ("ann", "a3")
    assert {event.item_id for event in world.accepted()["ann"]} == {"a1", "a2"}
    world.wait_until(lambda: server.metrics()["efficientrec_server_lists"] == 1, "the list is counted")
    assert server.probe("/livez") == 200
    assert server.probe("/readyz") == 200
    assert server.metrics()['efficientrec_server_events_total{outcome="accepted"}'] == 2
    assert server.stop() == 0, server.output()


def test_a_restart_goes_on_where_it_stopped_and_an_erasure_reaches_it(world: World, server: Server) -> None:
    lists, users = world.topics.lists, [f"u{number}" for number in range(300)]
    world.produce(lists, [(user.encode(), encode(a_list(user, rec_id="first"))) for user in users])
    server.start()
    server.wait_until_ready()
    assert server.has("u299", "first")
    assert server.stop() == 0, server.output()
    world.produce(lists, [(b"u1", encode(a_list("u1", 2, rec_id="second"))), (b"u2", None)])

    server.start()
    server.wait_until_ready()

    assert "with 300 lists" in server.output()
    assert server.has("u1", "second")
    assert server.get("u2")[0] == 404
    assert server.has("u3", "first")
    world.produce(lists, [(b"u3", encode(a_list("u3", 3, rec_id="third")))])
    world.wait_until(lambda: server.has("u3", "third"), "what comes later is served")
    assert server.stop(signal.SIGKILL) == -signal.SIGKILL

    server.start()
    server.wait_until_ready()

    assert server.has("u3", "third")
    assert server.has("u4", "first")
    assert server.get("u2")[0] == 404


def test_a_server_says_in_one_line_why_it_does_not_start(world: World, server: Server) -> None:
    server.start()
    server.wait_until_ready()
    twin = Server(world, server_token=Secret("swordfish"))

    def told(**changes: Any) -> str:
        settings = replace(twin.settings, **changes)
        run = subprocess.run(
            [sys.executable, "-m", "streams", "server"],
            env=environment(settings),
            capture_output=True,
            text=True,
            timeout=WAIT_SECONDS,
        )
        assert run.returncode == 1
        return run.stderr.strip().splitlines()[-1]

    other = world.folder / "other"
    assert "EFFICIENTREC_SERVER_STATE_DIR" in told()
    assert "EFFICIENTREC_SERVER_PORT" in told(server_state_dir=other, server_port=server.settings.server_port)
    assert "topics create" in told(server_state_dir=other, prefix="nobodys")
    assert server.get("u1")[0] == 404  # it goes on


def test_without_a_broker_lists_are_served_and_events_are_not_taken(tmp_path: Path) -> None:
    with EmbeddedBroker() as broker:
        world = World(broker.address, tmp_path)
        world.create_topics()
        world.produce(world.topics.lists, [(b"u1", encode(a_list("u1", rec_id="first")))])
        server = Server(world).start()
        try:
            server.wait_until_ready()
            broker.stop()

            status, body = server.post(Interaction("like", "u1", "a1", START))

            assert status == 503
            assert "event_id" in body["detail"]
            assert server.has("u1", "first")
            assert server.stop() == 0, server.output()
        finally:
            server.close()
