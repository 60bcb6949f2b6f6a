"""/metrics, /livez and /readyz over HTTP while a block lasts.

A server of its own in threads of its own: it answers while the event loop is busy, or hangs, and says so. Only GET, no
bodies, few connections at a time, and each for a few seconds.
"""

from __future__ import annotations

import hmac
import socket
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from http import HTTPStatus
from typing import TYPE_CHECKING, Any
from wsgiref.simple_server import WSGIRequestHandler, make_server

from prometheus_client import CollectorRegistry, make_wsgi_app
from prometheus_client.exposition import ThreadingWSGIServer

from efficientrec.errors import SettingInvalid
from streams.health import Health
from streams.secret import Secret

if TYPE_CHECKING:
    from wsgiref.types import StartResponse, WSGIEnvironment

CONNECTIONS_MAX = 16
CONNECTION_SECONDS = 10.0
"""How long a client may take to send its request, or to take the answer."""


@contextmanager
def exposed(
    registry: CollectorRegistry, health: Health, host: str, port: int, variable: str, token: Secret
) -> Iterator[None]:
    """Serves both, unless the port is 0. token: who asks for /metrics has to bear it, unless it is empty; the other two
    say nothing worth hiding, and who asks for them can seldom bear one. SettingInvalid names the variable when the port
    is taken."""
    if not port:
        yield
        return
    try:
        server = make_server(host, port, routed(registry, health, token), _server_for(host, port), _Handler)
    except OSError as error:
        raise SettingInvalid(
            f"{variable} is {port}; expected a port that is free ({host}:{port}: {error.strerror})"
        ) from error
    thread = threading.Thread(target=server.serve_forever, name="exposition", daemon=True)
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def routed(
    registry: CollectorRegistry, health: Health, token: Secret
) -> Callable[[WSGIEnvironment, StartResponse], Iterable[bytes]]:
    """The three paths as a WSGI application."""
    metrics = make_wsgi_app(registry)
    reasons = {"/livez": health.not_alive, "/readyz": health.not_ready}

    def answer(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        path, headers = environ["PATH_INFO"], [("Content-Type", "text/plain; charset=utf-8")]
        status, text = HTTPStatus.OK, "ok"
        if path != "/metrics" and path not in reasons:
            status, text = HTTPStatus.NOT_FOUND, "expected /metrics, /livez or /readyz"
        elif environ["REQUEST_METHOD"] != "GET":
            status, text = HTTPStatus.METHOD_NOT_ALLOWED, "expected GET"
            headers.append(("Allow", "GET"))
        elif path in reasons:
            reason = reasons[path]()
            if reason:
                status, text = HTTPStatus.SERVICE_UNAVAILABLE, reason
        elif not _bears(environ, token):
            status, text = HTTPStatus.UNAUTHORIZED, "expected the token of EFFICIENTREC_METRICS_TOKEN"
            headers.append(("WWW-Authenticate", "Bearer"))
        else:
            body: Iterable[bytes] = metrics(environ, start_response)
            return body
        start_response(f"{status.value} {status.phrase}", headers)
        return [f"{text}\n".encode()]

    return answer


def _bears(environ: WSGIEnvironment, token: Secret) -> bool:
    given = environ.get("HTTP_AUTHORIZATION", "").encode("latin-1")  # as WSGI hands bytes on
    return not token or hmac.compare_digest(given, f"Bearer {token.reveal()}".encode())


class _Handler(WSGIRequestHandler):
    timeout = CONNECTION_SECONDS

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing: a probe comes every few seconds."""


class _Server(ThreadingWSGIServer):
    """A thread for each connection, as long as there are few of them."""

    def __init__(self, *args: Any) -> None:
        self._room = threading.BoundedSemaphore(CONNECTIONS_MAX)
        super().__init__(*args)

    def process_request(self, request: Any, client_address: Any) -> None:
        if self._room.acquire(blocking=False):
            super().process_request(request, client_address)
        else:
            self.shutdown_request(request)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        timer = threading.Timer(CONNECTION_SECONDS, _cut, (request,))  # the handler's timeout is that of one read
        timer.daemon = True
        timer.start()
        try:
            super().process_request_thread(request, client_address)
        finally:
            timer.cancel()
            self._room.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Nothing: a client has gone away."""


def _cut(request: socket.socket) -> None:
    with suppress(OSError):
        request.shutdown(socket.SHUT_RDWR)


def _server_for(host: str, port: int) -> type[_Server]:
    """For IPv4 or IPv6, as the host asks for."""
    family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
    return type("_Server", (_Server,), {"address_family": family})
