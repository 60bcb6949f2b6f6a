"""The server: lists over HTTP, read from their topic, and events over HTTP, written to theirs.

1. *Follow.* The lists topic goes into a store on disk (server_store.py), from where the store stands, and then on.
2. *Answer.* Requests are answered from the first moment on (server_api.py), with what the disk has. Ready is who has
   read what was in the topic at the start.

Knows what is started, in which order, and what ends it. Servers know nothing of each other: each holds all lists.
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import signal
from collections.abc import AsyncIterator, Coroutine
from contextlib import AsyncExitStack, asynccontextmanager, closing, suppress
from typing import Any

from aiohttp import web
from aiokafka.errors import KafkaError
from aiokafka.structs import TopicPartition

from efficientrec.errors import BrokerUnavailable, SettingInvalid
from streams import rights
from streams.clock import wall_ms
from streams.connection import NO_RIGHTS, Connection
from streams.exposition import exposed
from streams.follower import Follower, Record
from streams.health import Standing
from streams.offsets import end_offsets
from streams.outbox import Outbox
from streams.server_api import OUTCOMES, ROUTES, Api
from streams.server_metrics import ServerMetrics
from streams.server_store import ListStore
from streams.settings import Settings
from streams.topics import Topics

log = logging.getLogger(__name__)

FLUSH_SECONDS = 1.0
"""How long a stop waits for records that the broker has not acknowledged."""
LOOK_SECONDS = 1.0
"""Between two looks at how far the lists are behind."""


async def serve(settings: Settings) -> None:
    """Runs a server until SIGTERM or SIGINT; requests under way are answered."""
    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    assert task is not None
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, task.cancel)
    try:
        await Server(settings).run()
    except asyncio.CancelledError:
        log.info("server stopped")
    finally:
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(number)


class Server:
    """One server; `run` goes on until it is cancelled."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._topic = Topics.of(settings).lists
        self.metrics = ServerMetrics(ROUTES, OUTCOMES)
        self.health = Standing(settings.stalled_seconds)
        self._connection = Connection(settings)
        self._is_complete = False
        """Whether all lists that were in the topic at the start are here."""

    async def run(self) -> None:
        """Raises what nobody can wait out: SettingInvalid, BrokerRefused, TopicMismatch, StateMismatch,
        StateUnwritable, and BrokerUnavailable at the start."""
        settings = self._settings
        _warn_if_open(settings)
        where = (settings.metrics_host, settings.server_metrics_port, "EFFICIENTREC_SERVER_METRICS_PORT")
        with exposed(self.metrics.registry, self.health, *where, settings.metrics_token):
            try:
                await _until_one_ends(self.health.run(), self._serve())
            except NO_RIGHTS as error:
                raise await rights.explained(settings, "server", error) from error

    async def _serve(self) -> None:
        settings = self._settings
        await rights.check(settings, "server")
        async with AsyncExitStack() as stack:
            # A folder within it: the one of the settings may be a mount point, which cannot be put aside.
            folder = settings.server_state_dir / "lists"
            store = await asyncio.to_thread(ListStore, folder, self._topic, settings.partitions)
            stack.enter_context(closing(store))
            await self._start_anew_if_cut(store)
            outbox = Outbox(self._connection, settings.request_timeout_seconds)
            stack.push_async_callback(_stopped, outbox)
            await outbox.start()

            async def take(records: list[Record]) -> None:
                self.metrics.unusable.inc(await asyncio.to_thread(store.write, records))

            follower = Follower(self._topic, self._connection, take, store.offsets())
            api = Api(settings, store, outbox, self.metrics, wall_ms, lambda: self._is_complete)
            await stack.enter_async_context(_listening(api, settings))
            where = (settings.server_host, settings.server_port)
            log.info("answering on %s:%d with %d lists", *where, store.count, extra={"lists": store.count})
            self.health.missing = "lists are still being read"
            await _until_one_ends(follower.run(), self._look(follower, store), self._become_ready(follower, store))

    async def _become_ready(self, follower: Follower, store: ListStore) -> None:
        await follower.caught_up()
        self._is_complete = True
        self.health.missing = ""
        log.info("ready: all %d lists are here", store.count, extra={"lists": store.count})
        await asyncio.Event().wait()

    async def _start_anew_if_cut(self, store: ListStore) -> None:
        """A topic that ends before what was read from it was made anew: what one has is of another one."""
        known = {TopicPartition(self._topic, number): offset for number, offset in store.offsets().items()}
        try:
            ends = await end_offsets(self._connection, known) if known else {}
        except (KafkaError, OSError) as error:
            raise BrokerUnavailable(
                f"no answer from the Kafka broker at {self._connection.address}: {error!r}"
            ) from error
        cut = [str(place.partition) for place, end in ends.items() if known[place] > end]
        if cut:
            await asyncio.to_thread(
                store.start_anew,
                f"partition {', '.join(cut)} of {self._topic} ends before what was read from it: it was made anew",
            )

    async def _look(self, follower: Follower, store: ListStore) -> None:
        """Shows how far the lists are behind, until cancelled."""
        while True:
            for partition, records in follower.behind.items():
                self.metrics.lag.labels(self._topic, str(partition)).set(records)
            self.metrics.lists.set(store.count)
            await asyncio.sleep(LOOK_SECONDS)


@asynccontextmanager
async def _listening(api: Api, settings: Settings) -> AsyncIterator[None]:
    """Answers requests while the block lasts; those under way at its end are answered."""
    runner = api.runner()
    try:
        await runner.setup()
        try:
            await web.TCPSite(runner, settings.server_host, settings.server_port).start()
        except OSError as error:
            raise SettingInvalid(
                f"EFFICIENTREC_SERVER_PORT is {settings.server_port}; expected a port that is free "
                f"({settings.server_host}:{settings.server_port}: {error.strerror})"
            ) from error
        yield
    finally:
        await runner.cleanup()


async def _stopped(outbox: Outbox) -> None:
    """Waits no longer for a broker that is away: every request has its answer, and of what is left clients were told
    that it is not certain."""
    with suppress(TimeoutError):
        async with asyncio.timeout(FLUSH_SECONDS):
            await outbox.stop()


async def _until_one_ends(*work: Coroutine[Any, Any, None]) -> None:
    """Raises what ended one of them; the others are cancelled."""
    tasks = [asyncio.create_task(each) for each in work]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _warn_if_open(settings: Settings) -> None:
    host = settings.server_host
    try:
        is_loopback = host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:  # a name
        is_loopback = False
    if not is_loopback and not settings.server_token:
        log.warning(
            "EFFICIENTREC_SERVER_HOST is %s and there is no EFFICIENTREC_SERVER_TOKEN: whoever reaches the port reads "
            "all lists and sends events",
            host,
        )
