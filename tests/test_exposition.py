"""What is answered over HTTP, also while the event loop hangs."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from http.client import HTTPConnection
from typing import Any

import pytest
from prometheus_client import CollectorRegistry, Counter

from efficientrec.errors import SettingInvalid
from streams.broker import free_port
from streams.exposition import CONNECTIONS_MAX, exposed
from streams.health import Standing
from streams.secret import Secret


class Served:
    """A process with one counter."""

    def __init__(self, token: str = "", stalled_seconds: float = 60) -> None:
        self.registry = CollectorRegistry()
        Counter("events", "Events.", registry=self.registry).inc(3)
        self.health = Standing(stalled_seconds)
        self.port = free_port()
        self._token = Secret(token)

    @contextmanager
    def running(self) -> Iterator[Served]:
        with exposed(self.registry, self.health, "127.0.0.1", self.port, "THE_PORT", self._token):
            yield self

    def asks(self, path: str, method: str = "GET", headers: Mapping[str, str] | None = None) -> tuple[int, str]:
        with closing(HTTPConnection("127.0.0.1", self.port, timeout=5)) as connection:
            connection.request(method, path, headers=dict(headers or {}))
            reply = connection.getresponse()
            return reply.status, reply.read().decode()


def test_metrics_and_health_are_served_and_nothing_else() -> None:
    with Served().running() as served:
        status, text = served.asks("/metrics")
        assert status == 200
        assert "events_total 3.0" in text.splitlines()
        assert served.asks("/livez") == (200, "ok\n")
        assert served.asks("/readyz") == (503, "the process is starting\n")
        served.health.missing = ""
        assert served.asks("/readyz") == (200, "ok\n")
        assert {served.asks(path)[0] for path in ("/", "/favicon.ico", "/metrics/", "/metricsx")} == {404}
        assert {served.asks("/metrics", method)[0] for method in ("POST", "HEAD", "OPTIONS", "DELETE")} == {405}
        assert served.asks("/livez", "POST")[0] == 405


@pytest.mark.parametrize("given", [None, "Bearer ", "Bearer sesame2", "Bearer Sesame", "Basic sesame", "sesame", "é"])
def test_metrics_want_the_token_and_health_does_not(given: str | None) -> None:
    with Served(token="sesame").running() as served:
        headers = {} if given is None else {"Authorization": given}

        status, text = served.asks("/metrics", headers=headers)
        assert status == 401
        assert "events" not in text
        assert "sesame" not in text
        assert served.asks("/metrics", headers={"Authorization": "Bearer sesame"})[0] == 200
        assert served.asks("/livez")[0] == 200


def test_an_event_loop_that_hangs_is_told_by_a_server_that_does_not() -> None:
    served = Served(stalled_seconds=0.3)
    answers: list[Any] = []

    def probe() -> None:
        answers.append(served.asks("/livez"))
        hangs.set()
        while answers[-1][0] == 200:
            answers.append(served.asks("/livez"))
        over.set()

    hangs, over = threading.Event(), threading.Event()

    async def hang() -> None:
        beats = asyncio.create_task(served.health.run())
        await asyncio.sleep(0)
        prober = threading.Thread(target=probe)
        prober.start()
        hangs.wait(10)
        over.wait(10)  # the loop does not run meanwhile
        beats.cancel()
        prober.join()

    with served.running():
        asyncio.run(hang())

    assert answers[0] == (200, "ok\n")
    assert answers[-1][0] == 503
    assert answers[-1][1].startswith("the event loop has not run for")


def test_clients_that_say_nothing_do_not_keep_others_out_for_good() -> None:
    with Served().running() as served:
        silent = [socket.create_connection(("127.0.0.1", served.port)) for _ in range(2 * CONNECTIONS_MAX)]
        for each in silent:
            each.close()

        deadline = time.monotonic() + 10
        while True:
            try:
                assert served.asks("/livez") == (200, "ok\n")
                break
            except OSError:  # the room is still being cleared
                assert time.monotonic() < deadline


def test_a_port_that_is_taken_names_its_variable() -> None:
    with Served().running() as served:
        other = Served()
        other.port = served.port
        with pytest.raises(SettingInvalid, match=r"THE_PORT is \d+; expected a port that is free"), other.running():
            pass
