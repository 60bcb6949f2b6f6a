"""/metrics over HTTP while a block lasts."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from prometheus_client import CollectorRegistry, start_http_server

from efficientrec.errors import SettingInvalid


@contextmanager
def exposed(registry: CollectorRegistry, host: str, port: int, variable: str) -> Iterator[None]:
    """Serves the registry, unless the port is 0. SettingInvalid names the variable when the port is taken."""
    if not port:
        yield
        return
    try:
        server, thread = start_http_server(port, host, registry)
    except OSError as error:
        raise SettingInvalid(
            f"{variable} is {port}; expected a port that is free ({host}:{port}: {error.strerror})"
        ) from error
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
