"""The routes: what is answered, and what is refused before it costs anything."""

from __future__ import annotations

import asyncio
import email.utils
import io
import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

import pytest
from aiohttp import ClientResponse, web
from aiohttp.test_utils import BaseTestServer, TestClient
from aiokafka.errors import KafkaTimeoutError

from streams import server_api
from streams.outbox import Headers
from streams.secret import Secret
from streams.server_api import BODY_BYTES_MAX, OUTCOMES, ROUTES, Api
from streams.server_metrics import ServerMetrics
from streams.server_openapi import document
from streams.server_store import ListStore
from streams.settings import Settings
from tests.test_server_events import event
from tests.test_server_store import TOPIC, a_list, record
from tests.toy import START


class Sent(NamedTuple):
    topic: str
    key: bytes | None
    value: bytes | None
    headers: Headers


class Broker:
    """Takes records in memory, or fails to, when told so."""

    def __init__(self) -> None:
        self.sent: list[Sent] = []
        self._came = asyncio.Condition()
        self.gate = asyncio.Event()
        self.gate.set()
        self.failure: Exception | None = None

    async def send_one(
        self, topic: str, key: bytes | None, value: bytes | None, headers: Headers, timestamp_ms: int | None = None
    ) -> Broker:
        async with self._came:
            self.sent.append(Sent(topic, key, value, headers))
            self._came.notify_all()
        return self

    async def has(self, records: int) -> None:
        """Returns when it has been sent so many."""
        async with self._came:
            await self._came.wait_for(lambda: len(self.sent) >= records)

    async def acknowledged(self) -> int | None:
        await self.gate.wait()
        if self.failure is not None:
            raise self.failure
        return 0


class Socket(BaseTestServer):
    """Listens as a server does, on a free port."""

    def __init__(self, api: Api) -> None:
        super().__init__()
        self._api = api

    async def _make_runner(self, **settings: Any) -> web.AppRunner:
        return self._api.runner()


class Site:
    """A server's routes on a real socket, with a broker in memory."""

    def __init__(self, folder: Path, **settings: Any) -> None:
        self.settings = Settings(**settings)
        self.store = ListStore(folder / "lists", TOPIC, 2)
        self.metrics = ServerMetrics(ROUTES, OUTCOMES)
        self.has_caught_up = True
        self.broker: Broker
        self.client: TestClient[Any, Any]

    def play(self, act: Callable[[], Awaitable[None]]) -> None:
        async def played() -> None:
            self.broker = Broker()
            api = Api(self.settings, self.store, self.broker, self.metrics, lambda: START, lambda: self.has_caught_up)
            async with TestClient(Socket(api)) as self.client:
                await act()

        try:
            asyncio.run(played())
        finally:
            self.store.close()

    async def list(self, user: str, **headers: str) -> ClientResponse:
        from yarl import URL

        url = URL(f"/v1/users/{quote(user, safe='')}/list", encoded=True)
        return await self.client.get(url, headers={name.replace("_", "-"): value for name, value in headers.items()})

    async def post(self, body: object, kind: str = "application/json", **headers: str) -> ClientResponse:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        return await self.client.post("/v1/events", data=io.BytesIO(data), headers={"Content-Type": kind, **headers})

    def metric(self, name: str, **labels: str) -> float:
        value = self.metrics.registry.get_sample_value(f"efficientrec_server_{name}", labels)
        assert value is not None, f"no {name} with {labels}"
        return value


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


async def problem_of(response: ClientResponse, status: int) -> dict[str, Any]:
    """The body of an answer that says what went wrong."""
    assert response.status == status, await response.text()
    assert response.content_type == "application/problem+json"
    body: dict[str, Any] = json.loads(await response.read())
    assert body["status"] == status
    assert body["detail"]
    return body


def test_a_list_comes_with_a_tag_by_which_it_need_not_come_again(site: Site) -> None:
    async def act() -> None:
        site.store.write([record(0, "u1", a_list("u1", 1, START + 1500))])

        first = await site.list("u1")
        again = await site.list("u1", If_None_Match=first.headers["ETag"])
        weak = await site.list("u1", If_None_Match=f'"other", W/{first.headers["ETag"]}')
        other = await site.list("u1", If_None_Match='"other"')
        site.store.write([record(1, "u1", a_list("u1", 2, START + 9000, "fresh"))])
        newer = await site.list("u1", If_None_Match=first.headers["ETag"])

        assert (first.status, first.content_type) == (200, "application/json")
        assert (await first.json())["user_id"] == "u1"
        assert first.headers["Cache-Control"] == "private, no-cache"
        moment = email.utils.parsedate_to_datetime(first.headers["Last-Modified"])
        assert int(moment.timestamp()) in (START // 1000 + 1, START // 1000 + 2)
        assert (again.status, await again.read()) == (304, b"")
        assert again.headers["ETag"] == first.headers["ETag"]
        assert weak.status == 304
        assert other.status == 200
        assert (newer.status, (await newer.json())["rec_id"]) == (200, "fresh")

    site.play(act)


@pytest.mark.parametrize("user", ["a/b", "é", "100%", "a?b#c", "a b", "%2F", "商", '"', "x" * 512, "+", "\x00"])
def test_any_id_can_be_asked_for(site: Site, user: str) -> None:
    async def act() -> None:
        site.store.write([record(0, user, a_list(user))])

        found = await site.list(user)

        assert found.status == 200
        assert (await found.json())["user_id"] == user

    site.play(act)


def test_who_has_no_list_is_unknown_only_when_all_lists_are_here(site: Site) -> None:
    async def act() -> None:
        site.store.write([record(0, "u1", a_list("u1")), record(1, "u2", a_list("u2")), record(2, "u2", None)])

        assert "no list" in (await problem_of(await site.list("u3"), 404))["detail"]
        await problem_of(await site.list("u2"), 404)
        await problem_of(await site.client.get("/v1/users/%ff%ffcount/list"), 404)
        site.has_caught_up = False
        early = await site.list("u3")
        await problem_of(early, 503)
        assert early.headers["Retry-After"]
        assert (await site.list("u1")).status == 200

    site.play(act)


def test_events_are_accepted_when_the_broker_has_them(site: Site) -> None:
    async def act() -> None:
        site.broker.gate.clear()
        answer = asyncio.create_task(site.post([event(user_id="a"), event(user_id="é")]))
        await site.broker.has(2)
        assert not answer.done()
        site.broker.gate.set()

        response = await answer

        assert (response.status, await response.json()) == (202, {"accepted": 2})
        assert [(sent.topic, sent.key) for sent in site.broker.sent] == [
            ("reco.interactions.events.v1", b"a"),
            ("reco.interactions.events.v1", "é".encode()),
        ]
        assert site.metric("events_total", outcome="accepted") == 2

    site.play(act)


def test_a_refused_event_takes_its_neighbours_with_it_and_is_named(site: Site) -> None:
    async def act() -> None:
        body = await problem_of(await site.post([event(), event(event_type="sneeze")]), 422)

        (error,) = body["errors"]
        assert (error["index"], error["reason"]) == (1, "unknown_type")
        assert "expected one of view" in error["detail"]
        assert site.broker.sent == []
        assert site.metric("events_total", outcome="invalid") == 2

    site.play(act)


def test_a_broker_that_does_not_take_events_makes_the_client_try_again(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server_api, "SEND_SECONDS", 0.05)

    async def act() -> None:
        site.broker.failure = KafkaTimeoutError()
        failed = await site.post(event())
        site.broker.gate.clear()
        silent = await site.post(event())

        for response in (failed, silent):
            assert "event_id" in (await problem_of(response, 503))["detail"]
            assert response.headers["Retry-After"]
        assert site.metric("events_total", outcome="unavailable") == 2

    site.play(act)


def test_what_is_too_much_or_of_another_kind_is_refused(site: Site) -> None:
    async def act() -> None:
        await problem_of(await site.post(b" " * (BODY_BYTES_MAX + 1)), 413)
        await problem_of(await site.post([event()] * 1001), 413)
        await problem_of(await site.post(event(), "text/plain"), 415)
        await problem_of(await site.post(event(), **{"Content-Encoding": "gzip"}), 415)
        await problem_of(await site.post(b"{"), 400)
        await problem_of(await site.client.get("/v1/events"), 405)
        await problem_of(await site.client.get("/metrics"), 404)
        await problem_of(await site.client.get("/"), 404)
        long = await site.client.get("/v1/users/u/list", headers={"X": "x" * 9000})
        assert long.status == 400

        assert site.broker.sent == []
        assert site.metric("requests_total", route="/v1/events", status="413") == 2
        assert site.metric("requests_total", route="other", status="404") == 2

    site.play(act)


def test_a_body_that_does_not_come_is_not_waited_for(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_api, "READ_SECONDS", 0.05)

    async def act() -> None:
        assert site.client.port is not None
        reader, writer = await asyncio.open_connection("127.0.0.1", site.client.port)
        writer.write(
            b"POST /v1/events HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 9\r\n\r\n{"
        )

        assert (await reader.readline()).startswith(b"HTTP/1.1 408")
        writer.close()

    site.play(act)


def test_more_requests_at_once_than_memory_is_meant_for_are_refused(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server_api, "REQUESTS_MAX", 2)

    async def act() -> None:
        site.broker.gate.clear()
        waiting = [asyncio.create_task(site.post(event())) for _ in range(2)]
        await site.broker.has(2)

        await problem_of(await site.post(event()), 503)
        site.broker.gate.set()

        assert [(await each).status for each in waiting] == [202, 202]
        assert (await site.post(event())).status == 202

    site.play(act)


def test_a_connection_that_comes_to_no_request_is_closed(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_api, "READ_SECONDS", 0.05)

    async def act() -> None:
        connections = [await asyncio.open_connection("127.0.0.1", site.client.port) for _ in range(2)]
        connections[1][1].write(b"GET /v1/openapi.json HTTP/1.1\r\nHost: x\r\n")

        for reader, writer in connections:
            assert await reader.read() == b""
            writer.close()

    site.play(act)


def test_a_connection_that_has_asked_once_is_kept_for_its_next_request(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server_api, "READ_SECONDS", 0.05)

    async def act() -> None:
        first, asked = await asyncio.open_connection("127.0.0.1", site.client.port)
        asked.write(b"GET /nowhere HTTP/1.1\r\nHost: x\r\n\r\n")
        await first.readuntil(b"\r\n\r\n")
        silent, writer = await asyncio.open_connection("127.0.0.1", site.client.port)
        await silent.read()  # by when the time of the first one was up as well
        asked.write(b"GET /nowhere HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")

        assert (await first.read()).count(b"HTTP/1.1 404") == 1
        writer.close()
        asked.close()

    site.play(act)


def test_more_connections_than_memory_is_meant_for_are_closed(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_api, "CONNECTIONS_MAX", 2)

    async def act() -> None:
        held = [await asyncio.open_connection("127.0.0.1", site.client.port) for _ in range(2)]
        refused, writer = await asyncio.open_connection("127.0.0.1", site.client.port)
        assert await refused.read() == b""
        writer.close()

        for reader, each in held:
            each.write(b"GET /nowhere HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            assert (await reader.readline()).startswith(b"HTTP/1.1 404")
            await reader.read()
            each.close()
        async with await site.client.get("/nowhere") as response:
            assert response.status == 404

    site.play(act)


@pytest.mark.parametrize("head", [{"X-Long": "x" * 5000}, {f"X-{number}": "x" for number in range(80)}])
def test_heads_that_are_larger_than_any_client_needs_are_refused(site: Site, head: dict[str, str]) -> None:
    async def act() -> None:
        async with await site.client.get("/v1/openapi.json", headers=head) as response:
            assert response.status == 400

    site.play(act)


def test_with_a_token_nobody_comes_in_without_it(tmp_path: Path) -> None:
    site = Site(tmp_path, server_token=Secret("swordfish"))

    async def act() -> None:
        site.store.write([record(0, "u1", a_list("u1"))])
        for given in ("", "Bearer", "Bearer swordfis", "Basic swordfish", "Bearer swordfish2", "Bearer ü"):
            refused = await site.list("u1", Authorization=given)
            await problem_of(refused, 401)
            assert refused.headers["WWW-Authenticate"] == "Bearer"
        await problem_of(await site.post(event()), 401)
        await problem_of(await site.client.get("/v1/openapi.json"), 401)
        await problem_of(await site.client.get("/nothing"), 401)

        assert (await site.list("u1", Authorization="Bearer swordfish")).status == 200
        assert (await site.post(event(), Authorization="bearer swordfish")).status == 202
        assert len(site.broker.sent) == 1

    site.play(act)


def test_the_trace_of_a_request_goes_on_with_its_events(site: Site) -> None:
    trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"

    async def act() -> None:
        await site.post([event(), event()], traceparent=trace)
        await site.post(event(), traceparent="nonsense")
        await site.post(event())

        headers = [list(sent.headers) for sent in site.broker.sent]
        assert headers == [[("traceparent", trace.encode())]] * 2 + [[], []]

    site.play(act)


def test_an_answer_tells_nothing_of_versions_and_is_not_to_be_guessed_at(site: Site) -> None:
    async def act() -> None:
        for response in (await site.list("u1"), await site.client.get("/nothing"), await site.post(event())):
            assert response.headers["Server"] == "efficientrec"
            assert response.headers["X-Content-Type-Options"] == "nosniff"

    site.play(act)


def test_an_error_of_ours_is_logged_and_tells_the_client_nothing(
    site: Site, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def act() -> None:
        site.broker.failure = RuntimeError("the inside of things")
        body = await problem_of(await site.post(event()), 500)

        assert "inside" not in json.dumps(body)
        assert "the inside of things" in caplog.text

    site.play(act)


def test_the_document_names_every_route_and_every_answer_that_a_test_here_saw(site: Site) -> None:
    async def act() -> None:
        response = await site.client.get("/v1/openapi.json")

        assert await response.json() == json.loads(json.dumps(document()))
        assert {*document()["paths"], "/v1/openapi.json"} == set(ROUTES)
        assert set(document()["paths"]["/v1/events"]["post"]["responses"]) >= {"202", "400", "401", "408", "413", "422"}

    site.play(act)


def test_zero_is_visible_from_the_start(site: Site) -> None:
    assert site.metric("requests_total", route="/v1/users/{user_id}/list", status="200") == 0
    assert site.metric("lists") == 0
    assert site.metric("events_total", outcome="accepted") == 0
    site.store.close()
