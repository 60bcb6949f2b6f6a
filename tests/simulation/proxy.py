"""The network between one worker and a broker, which can fail: a TCP proxy that cuts, stalls and heals.

A Kafka client asks the broker where partitions and coordinators are, and connects to the addresses in the answer, which
would lead it past any proxy. So the answers that hold addresses are rewritten on their way: the port of each broker
becomes that of the proxy's own socket for it. Both have the same length, so nothing else of an answer changes. Thus
every worker has a network of its own, on any broker, and several brokers of a cluster are told apart.
"""

from __future__ import annotations

import asyncio
import socket
import struct
import threading
from collections.abc import Coroutine, Sequence
from enum import Enum
from typing import Any

from streams.broker import free_port

HOST = b"127.0.0.1"
_NAMING = {3, 10, 60}  # Metadata, FindCoordinator, DescribeCluster: the requests whose answers hold addresses
_CHUNK = 1 << 20


class Network(Enum):
    """What happens to bytes."""

    WELL = "well"
    STALLED = "stalled"
    """Nothing moves, and nobody is told; what was sent before arrives when it heals."""
    CUT = "cut"
    """Connections are reset, and new ones as well."""


class Proxy:
    """A socket for each of the brokers, served by a thread from `start` to `stop`."""

    def __init__(self, brokers: Sequence[str]) -> None:
        """brokers: `127.0.0.1:port` each."""
        self._ports = {int(broker.rpartition(":")[2]): free_port() for broker in brokers}
        self._names = {_named(broker): _named(own) for broker, own in self._ports.items()}
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="proxy", daemon=True)
        self._well = asyncio.Event()
        self._network = Network.WELL
        self._writers: set[asyncio.StreamWriter] = set()
        self._links: set[asyncio.Task[None]] = set()
        self._servers: list[asyncio.Server] = []

    @property
    def address(self) -> str:
        """Where the worker finds the brokers."""
        return ",".join(f"{HOST.decode()}:{port}" for port in self._ports.values())

    def start(self) -> None:
        self._thread.start()
        self._run(self._serve())

    def stop(self) -> None:
        """Resets what is connected; harmless when it was never started."""
        if self._thread.is_alive():
            self._run(self._close())
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
            self._loop.close()

    def become(self, network: Network) -> None:
        """From now on the network is like this."""
        self._run(self._become(network))

    def _run(self, action: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(action, self._loop).result(10.0)

    async def _serve(self) -> None:
        self._well.set()
        for broker, own in self._ports.items():
            self._servers.append(await asyncio.start_server(self._link(broker), HOST.decode(), own))

    async def _become(self, network: Network) -> None:
        self._network = network
        if network is Network.WELL:
            self._well.set()
        else:
            self._well.clear()
        if network is Network.CUT:
            self._reset()

    async def _close(self) -> None:
        self._network = Network.CUT
        for server in self._servers:
            server.close()
        self._reset()
        links = list(self._links)
        for link in links:
            link.cancel()
        await asyncio.gather(*links, return_exceptions=True)

    def _reset(self) -> None:
        """RST, not FIN: what is still on its way is lost."""
        for writer in self._writers:
            connection = writer.get_extra_info("socket")
            if connection is not None and connection.fileno() >= 0:
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            writer.transport.abort()

    def _link(self, broker: int) -> Any:
        """What to do with a connection that is meant for this broker."""

        async def link(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = asyncio.current_task()
            assert task is not None
            self._links.add(task)
            self._writers.add(writer)
            try:
                await self._serve_link(broker, reader, writer)
            except (OSError, EOFError, asyncio.CancelledError):
                pass  # either end has gone, or all ends now
            finally:
                writer.transport.abort()
                self._writers.discard(writer)
                self._links.discard(task)

        return link

    async def _serve_link(self, broker: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._network is Network.CUT:
            return
        await self._well.wait()
        far_reader, far_writer = await asyncio.open_connection(HOST.decode(), broker, limit=_CHUNK)
        self._writers.add(far_writer)
        asked: set[int] = set()
        ways = [
            asyncio.ensure_future(self._requests(reader, far_writer, asked)),
            asyncio.ensure_future(self._answers(far_reader, writer, asked)),
        ]
        try:
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for way in ways:
                way.cancel()
            await asyncio.gather(*ways, return_exceptions=True)
            far_writer.transport.abort()
            self._writers.discard(far_writer)

    async def _requests(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, asked: set[int]) -> None:
        """Frame by frame; `asked` learns which answers will hold addresses."""
        while True:
            frame = await _frame(reader)
            api, _, correlation = struct.unpack_from(">hhi", frame, 4)
            if api in _NAMING:
                asked.add(correlation)
            await self._pass(frame, writer)

    async def _answers(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, asked: set[int]) -> None:
        while True:
            frame = await _frame(reader)
            (correlation,) = struct.unpack_from(">i", frame, 4)
            if correlation in asked:
                asked.discard(correlation)
                for broker, own in self._names.items():
                    frame = frame.replace(broker, own)
            await self._pass(frame, writer)

    async def _pass(self, frame: bytes, writer: asyncio.StreamWriter) -> None:
        await self._well.wait()
        writer.write(frame)
        await writer.drain()


async def _frame(reader: asyncio.StreamReader) -> bytes:
    """A request or an answer with its length before it."""
    head = await reader.readexactly(4)
    return head + await reader.readexactly(struct.unpack(">i", head)[0])


def _named(port: int) -> bytes:
    """How an answer names a broker of this machine: host and port stand side by side."""
    return HOST + struct.pack(">i", port)
