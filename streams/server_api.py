"""HTTP in front of lists and events: routes, answers, limits, and who may come in.

Answers are JSON; what goes wrong is told as RFC 9457 has it (application/problem+json). Knows aiohttp. Where lists come
from is server_store.py's affair, what events are server_events.py's.
"""

from __future__ import annotations

import asyncio
import hmac
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from time import perf_counter
from typing import TYPE_CHECKING, Any, Final

import msgspec
from aiohttp import web
from aiokafka.errors import KafkaError

from streams.cloudevents import TRACEPARENT, trace_of
from streams.outbox import Headers, KeyValue
from streams.server_events import JSON, NDJSON, BodyUnreadable, EventsInvalid, TooMany, records_in
from streams.server_metrics import ServerMetrics
from streams.server_openapi import document
from streams.server_store import ListStore
from streams.settings import Settings
from streams.topics import Topics

if TYPE_CHECKING:
    from streams.aside import Post

log = logging.getLogger(__name__)

LIST_ROUTE: Final = "/v1/users/{user_id}/list"
EVENTS_ROUTE: Final = "/v1/events"
OPENAPI_ROUTE: Final = "/v1/openapi.json"
ROUTES: Final = (LIST_ROUTE, EVENTS_ROUTE, OPENAPI_ROUTE)

OUTCOMES: Final = ("accepted", "invalid", "unavailable")
"""What becomes of an event: acknowledged by the broker; refused, or sent along with one that is; not acknowledged in
time."""
BODY_BYTES_MAX: Final = 1024 * 1024
LINE_BYTES_MAX: Final = 8190  # a user's id takes three bytes for each of its own
FIELD_BYTES_MAX: Final = 4096
FIELDS_MAX: Final = 64
CONNECTIONS_MAX: Final = 256
"""Twice the requests; together with the limits on lines and fields it bounds what those take who do not get as far."""
KEEP_SECONDS: Final = 30.0
"""How long a connection may wait for its next request."""
REQUESTS_MAX: Final = 128
"""Requests under way at once; together with the limit on bodies it bounds memory."""
READ_SECONDS: Final = 10.0
"""How long a connection may take to its first request, and a body to arrive."""
SEND_SECONDS: Final = 10.0
"""How long the broker may take to acknowledge events."""
LINGER_SECONDS: Final = 1.0
"""How long the rest of a body is still read after its answer, so that the answer is."""
STOP_SECONDS: Final = SEND_SECONDS + 1.0
"""How long requests under way may take to their end when the server stops."""

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Api:
    """The routes of one server."""

    def __init__(
        self,
        settings: Settings,
        store: ListStore,
        post: Post,
        metrics: ServerMetrics,
        clock: Callable[[], int],
        has_caught_up: Callable[[], bool],
    ) -> None:
        """clock: milliseconds since 1970. has_caught_up: whether a user without a list here is one without a list."""
        self._settings = settings
        self._topic = Topics.of(settings).interactions
        self._token = settings.server_token.reveal().encode()
        self._store = store
        self._post = post
        self._metrics = metrics
        self._clock = clock
        self._has_caught_up = has_caught_up
        self._under_way = 0
        self._openapi = msgspec.json.encode(document())

    def runner(self) -> web.AppRunner:
        """What serves the routes, with the limits on what comes before them."""
        return _Runner(
            self._application(),
            access_log=None,  # a line a request, with users in it
            auto_decompress=False,  # a few kilobytes can become gigabytes
            max_line_size=LINE_BYTES_MAX,
            max_field_size=FIELD_BYTES_MAX,
            max_headers=FIELDS_MAX,
            keepalive_timeout=KEEP_SECONDS,
            lingering_time=LINGER_SECONDS,
            shutdown_timeout=STOP_SECONDS,
        )

    def _application(self) -> web.Application:
        app = web.Application(middlewares=[self._guarded], client_max_size=BODY_BYTES_MAX)
        app.router.add_get(LIST_ROUTE, self._list)
        app.router.add_post(EVENTS_ROUTE, self._events)
        app.router.add_get(OPENAPI_ROUTE, self._document)
        return app

    @web.middleware
    async def _guarded(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Around every request: what it takes is measured, and nothing but an answer of ours goes out."""
        start = perf_counter()
        self._under_way += 1
        try:
            response = await self._answer(request, handler)
        finally:
            self._under_way -= 1
        resource = request.match_info.route.resource
        route = "other" if resource is None else resource.canonical
        self._metrics.requests.labels(route, str(response.status)).inc()
        self._metrics.duration.labels(route).observe(perf_counter() - start)
        response.headers["Server"] = "efficientrec"  # aiohttp would name its version and Python's
        response.headers["X-Content-Type-Options"] = "nosniff"
        return response

    async def _answer(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        if self._token and not self._is_known(request):
            return problem(
                401, "expected the header Authorization: Bearer with the token", {"WWW-Authenticate": "Bearer"}
            )
        if self._under_way > REQUESTS_MAX:
            return problem(503, f"{REQUESTS_MAX} requests are under way", {"Retry-After": "1"})
        try:
            return await handler(request)
        except web.HTTPRequestEntityTooLarge:
            return problem(413, f"the body has more than {BODY_BYTES_MAX} bytes")
        except web.HTTPException as error:  # what the router says: no such route, no such method
            return problem(error.status, error.reason, {k: v for k, v in error.headers.items() if k == "Allow"})
        except ConnectionError:  # the client went away amid its body
            return problem(400, "the body ended too early")
        except Exception:
            log.exception("a request to %s failed", request.match_info.route.resource)
            return problem(500, "the server's log says more")

    def _is_known(self, request: web.Request) -> bool:
        scheme, _, token = request.headers.get("Authorization", "").partition(" ")
        return scheme.lower() == "bearer" and hmac.compare_digest(token.encode(errors="replace"), self._token)

    async def _list(self, request: web.Request) -> web.StreamResponse:
        """GET: the newest list of a user. One point look-up, quicker than to hand it to a thread."""
        held = self._store.read(request.match_info["user_id"])
        if held is None and not self._has_caught_up():
            return problem(503, "the server is still reading lists; this user's may be to come", {"Retry-After": "1"})
        if held is None:
            return problem(404, "there is no list of this user: none yet, or the user was erased")
        headers = {"ETag": f'"{held.tag}"', "Cache-Control": "private, no-cache"}
        matches = request.if_none_match
        is_same = matches is not None and any(each.value in ("*", held.tag) for each in matches)
        response = web.Response(status=304, headers=headers) if is_same else _json(held.json, headers)
        response.last_modified = held.generated_ms / 1000
        return response

    async def _events(self, request: web.Request) -> web.StreamResponse:
        """POST: one event, a JSON array of events, or one a line. 202 when the broker has them all."""
        if request.content_type not in (JSON, NDJSON) or request.headers.get("Content-Encoding"):
            return problem(415, f"expected {JSON} or {NDJSON}, not compressed")
        try:
            async with asyncio.timeout(READ_SECONDS):
                body = await request.read()
        except TimeoutError:
            return problem(408, f"the body did not come within {READ_SECONDS:g} seconds")
        latest_ms = self._clock() + int(1000 * self._settings.future_tolerance_seconds)
        try:
            records = records_in(body, request.content_type, self._settings.policy, latest_ms)
        except BodyUnreadable as error:
            return problem(400, str(error))
        except TooMany as error:
            return problem(413, str(error))
        except EventsInvalid as error:
            self._metrics.events.labels("invalid").inc(error.events)
            return problem(422, str(error), errors=error.faults)
        return await self._sent(records, _trace_of(request))

    async def _sent(self, records: Sequence[KeyValue], headers: Headers) -> web.StreamResponse:
        try:
            async with asyncio.timeout(SEND_SECONDS):
                sent = [await self._post.send_one(self._topic, key, value, headers) for key, value in records]
                for pending in sent:
                    await pending.acknowledged()
        except (KafkaError, TimeoutError) as error:
            self._metrics.events.labels("unavailable").inc(len(records))
            log.warning("events not acknowledged by the broker: %r", error)
            return problem(
                503,
                "the broker did not acknowledge the events, and may have taken some: sent again under the same "
                "event_id each counts once, as long as it is among its user's last 24",
                {"Retry-After": "5"},
            )
        self._metrics.events.labels("accepted").inc(len(records))
        return _json(msgspec.json.encode({"accepted": len(records)}), status=202)

    async def _document(self, request: web.Request) -> web.StreamResponse:
        return _json(self._openapi)


class _Runner(web.AppRunner):
    """aiohttp's, with a server that counts its connections."""

    async def _make_server(self) -> web.Server:
        made = await super()._make_server()
        return _Server(made.request_handler, request_factory=made.request_factory, **made._kwargs)


class _Server(web.Server):
    """aiohttp's, which takes any number of connections and lets them say nothing for as long as it keeps idle ones."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._timers: dict[web.RequestHandler, asyncio.TimerHandle] = {}

    def connection_made(self, handler: web.RequestHandler, transport: asyncio.Transport) -> None:
        super().connection_made(handler, transport)
        if len(self.connections) > CONNECTIONS_MAX:
            self._loop.call_soon(handler.force_close)  # not before the handler has come to its end of this
        else:
            self._timers[handler] = self._loop.call_later(READ_SECONDS, self._expect_request, handler)

    def connection_lost(self, handler: web.RequestHandler, exc: BaseException | None = None) -> None:
        super().connection_lost(handler, exc)
        if handler in self._timers:
            self._timers.pop(handler).cancel()

    def _expect_request(self, handler: web.RequestHandler) -> None:
        if not handler._request_count:
            handler.force_close()


def problem(status: int, detail: str, headers: Mapping[str, str] | None = None, **more: Any) -> web.Response:
    """An answer that says what is wrong, by RFC 9457."""
    body = msgspec.json.encode({"type": "about:blank", "status": status, "detail": detail, **more})
    return web.Response(body=body, status=status, headers=headers, content_type="application/problem+json")


def _json(body: bytes, headers: Mapping[str, str] | None = None, status: int = 200) -> web.Response:
    return web.Response(body=body, status=status, headers=headers, content_type=JSON)


def _trace_of(request: web.Request) -> Headers:
    """The W3C trace context that the events came in, for their records; what is none is left out."""
    given = request.headers.get(TRACEPARENT, "").encode(errors="replace")
    trace = trace_of([(TRACEPARENT, given)])
    return [] if trace is None else [(TRACEPARENT, trace)]
