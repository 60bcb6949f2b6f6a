"""The worker as a process: a Faust app around `Loop`, and what it needs beside it.

Knows which services there are, in which order they start and stop, and what ends them. What happens to an event is in
worker.py.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import signal
from collections.abc import Callable, Sequence
from typing import Any

import faust
from aiokafka.errors import KafkaConnectionError
from faust.types import TP
from yarl import URL

from efficientrec.errors import BrokerUnavailable
from efficientrec.warm import warm
from streams import rights
from streams.catalogue import Catalogue
from streams.clock import wall_ms
from streams.connection import NO_RIGHTS, Connection
from streams.experiments import Models
from streams.exposition import exposed
from streams.follower import Follower
from streams.lanes import Lanes
from streams.lists import KERNELS
from streams.metrics import WorkerMetrics
from streams.observer import LOOK_SECONDS, MEASURE_SECONDS, Observer
from streams.outbox import Outbox
from streams.progress import PROGRESS_KEY, Progress
from streams.recovery import Tables
from streams.settings import Settings
from streams.signing import trust
from streams.table import ProfileTable
from streams.topics import TABLE, Topics
from streams.traces import traces
from streams.transport import Consumer, Transport
from streams.wire import KafkaWire
from streams.worker import Loop
from streams.writer import PartitionLost, Writers

log = logging.getLogger(__name__)


async def run(settings: Settings, reached: Callable[[str], None] = lambda step: None) -> None:
    """Serves until SIGTERM or SIGINT; raises what made it stop otherwise. reached: see `Loop`."""
    log.info("worker of group %s starts; broker %s", settings.group, ",".join(settings.bootstrap_servers))
    await rights.check(settings, "worker")
    try:
        await _serve(settings, reached)
        log.info("worker stopped")
    except NO_RIGHTS as error:
        raise await rights.explained(settings, "worker", error) from error
    except KafkaConnectionError as error:
        address = ",".join(settings.bootstrap_servers)
        raise BrokerUnavailable(f"the Kafka broker at {address} went away while the worker started") from error


async def _serve(settings: Settings, reached: Callable[[str], None]) -> None:
    settings.state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    app = create_app(settings, reached)
    where = (settings.metrics_host, settings.metrics_port, "EFFICIENTREC_METRICS_PORT", settings.metrics_token)
    with exposed(app.services.metrics.registry, app.observer, *where):
        await _served(settings, app)


async def _served(settings: Settings, app: App) -> None:
    pulse = asyncio.create_task(app.observer.pulse.run())
    await asyncio.to_thread(warm, KERNELS[settings.list_format])  # before the group counts on this worker's heartbeats
    asked_to_stop = asyncio.Event()
    for name in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(name, asked_to_stop.set)
    ends = [asyncio.create_task(each) for each in (app.start(), asked_to_stop.wait(), app.wait_until_stopped())]
    try:
        await asyncio.wait(ends[:2], return_when=asyncio.FIRST_COMPLETED)
        if not asked_to_stop.is_set():
            await ends[0]
            await asyncio.wait(ends[1:], return_when=asyncio.FIRST_COMPLETED)
    finally:
        app.leave()
        await app.stop()
        for end in (*ends, pulse):
            end.cancel()
        await asyncio.gather(*ends, pulse, return_exceptions=True)
    if app.crash_reason is not None:
        raise app.crash_reason


class Services:
    """Writers, producer, model slot, catalogue, metrics."""

    def __init__(
        self, settings: Settings, connection: Connection, alive: Callable[[], bool], rejoin: Callable[[], None]
    ) -> None:
        topics = Topics.of(settings)
        self._settings = settings
        self._changelog = topics.changelog
        self.traces = traces(settings)
        self.metrics = WorkerMetrics(settings.policy.rules)
        # An answer that takes longer than a session comes too late: by then the partition may be somebody else's.
        self._wire = KafkaWire(connection, settings.session_timeout_seconds, [topics.changelog, topics.lists])
        self.writers = Writers(
            self._wire,
            topics.changelog,
            topics.changelog,
            fences=settings.fencing == "on",
            alive=alive,
            clock=wall_ms,
            failed=self._failed,
            rejoin=rejoin,
        )
        self.outbox = Outbox(connection, settings.request_timeout_seconds)
        self.models = Models(
            settings.models_dir, settings.list_size, self.metrics, settings.list_format, trust(settings)
        )
        self.catalogue = Catalogue()
        self._followers = [
            Follower(topics.items, connection, self.catalogue.handle),
            Follower(topics.releases, connection, self.models.handle),
        ]
        self.failures = 0
        """Attempts to send that failed."""
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """Returns when catalogue and model are those of the topics, so that the first run is served by them."""
        await self._wire.start()
        await self.writers.check(self._settings.broker_wait_seconds)
        await self.outbox.start()
        self._tasks = [asyncio.create_task(follower.run()) for follower in self._followers]
        caught_up = [asyncio.create_task(follower.caught_up()) for follower in self._followers]
        for waiting, following in zip(caught_up, self._tasks, strict=True):
            await asyncio.wait((waiting, following), return_when=asyncio.FIRST_COMPLETED)
            if following.done():
                following.result()  # raises: it never ends by itself otherwise
        gc.collect()
        gc.freeze()  # what was loaded by now stays: the collector need not go through it again and again

    async def run(self) -> None:
        """Follows until cancelled; raises what ended it."""
        await asyncio.gather(*self._tasks)

    async def stop(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self.traces is not None:
            await self.traces.close()
        await self.outbox.stop()
        await self._wire.stop()

    def _failed(self, topic: str) -> None:
        """An attempt to send failed."""
        self.failures += 1
        self.metrics.send_failures.inc()
        if topic == self._changelog:
            self.metrics.changelog_send_failures.inc()


class App(faust.App):
    """A Faust app that delivers runs, with its services started before its consumer and stopped after it."""

    run_events_max: int
    fetch_wait_seconds: float
    sources: Sequence[str]
    """Topics whose records rows are made of, as Progress names them."""
    services: Services
    connection: Connection
    table: ProfileTable
    lanes: Lanes
    observer: Observer

    def _new_transport(self) -> Transport:
        return Transport(self.conf.broker_consumer, self)

    async def on_start(self) -> None:
        await self.services.start()
        self.observer.phases.asked()
        self.add_future(self.services.run())  # an error there stops the app
        self.add_future(self.observer.keep_asking())
        await super().on_start()

    async def on_shutdown(self) -> None:
        await super().on_shutdown()
        await self.services.stop()

    def waiting(self, tp: TP) -> int:
        """Records of a source's partition that wait in memory, or are being handled."""
        return self.lanes.events[tp.topic, tp.partition]

    async def _consumer_wait_empty(self, consumer: Any, logger: Any) -> None:
        """Before partitions are given back, and before the end, what was begun is finished, and then committed."""
        await self.lanes.settle()
        await super()._consumer_wait_empty(consumer, logger)

    def leave(self) -> None:
        """Partitions are about to be given back: nobody waits any longer for a broker that does not answer."""
        self.services.writers.leave()

    def is_alive(self) -> bool:
        """Whether the group has heard from this worker within its session timeout."""
        consumer: Consumer = self.consumer
        return consumer.is_alive()

    def rejoin(self) -> None:
        """Asks the group to deal partitions anew."""
        consumer: Consumer = self.consumer
        consumer.rejoin()

    async def claim(self, partition: int) -> int | None:
        """Makes this worker the only writer of a partition that it serves: the offset of the fence in the changelog.
        None for a partition of which it only keeps a copy, for the case that its worker dies, and for one that it could
        not claim: what is delivered of that is left alone until the group has dealt anew."""
        changelog = self.table.changelog_topic.get_topic_name()
        if TP(changelog, partition) not in self.assignor.assigned_actives():
            return None
        try:
            return await self.services.writers.claim(partition, self.consumer_generation_id)
        except PartitionLost as lost:
            log.warning("%s", lost)
            return None

    def progress(self) -> dict[TP, int]:
        """How far the rows of each partition have got with each source."""
        found = {}
        for partition in self.table.store.ends:
            (stored,) = self.table.store.read(partition, [PROGRESS_KEY])
            progress = Progress.from_bytes(stored)
            for topic, offset in zip(self.sources, (progress.interactions, progress.users), strict=True):
                found[TP(topic, partition)] = offset
        return found


def create_app(settings: Settings, reached: Callable[[str], None] = lambda step: None) -> App:
    """The worker as a Faust app, ready to start. Importing this module starts nothing. reached: see `Loop`."""
    topics, connection = Topics.of(settings), Connection(settings)
    app = App(
        settings.group,
        broker=[URL(f"kafka://{server}") for server in settings.bootstrap_servers],
        broker_credentials=connection.credentials(),
        datadir=settings.state_dir,
        store="memory://",  # for tables of Faust's own, of which there are none
        web_enabled=False,
        topic_allow_declare=False,
        topic_disable_leader=True,
        topic_partitions=settings.partitions,
        broker_session_timeout=settings.session_timeout_seconds,
        broker_heartbeat_interval=settings.heartbeat_interval_seconds,
        broker_request_timeout=settings.request_timeout_seconds,
        broker_commit_interval=settings.commit_interval_seconds,
        consumer_auto_offset_reset="earliest",
        stream_wait_empty=True,  # see App._consumer_wait_empty
        stream_recovery_delay=0.0,
        table_standby_replicas=1,  # where there are several workers: another one keeps a copy and takes over at once
        worker_redirect_stdouts=False,
        TableManager=Tables,
    )
    app.run_events_max = settings.run_events_max
    app.fetch_wait_seconds = settings.fetch_wait_seconds
    app.connection = connection
    app.sources = (topics.interactions, topics.users)
    app.services = services = Services(settings, connection, app.is_alive, app.rejoin)
    app.table = table = ProfileTable(
        app,
        name=TABLE,
        partitions=settings.partitions,
        directory=settings.state_dir,
        cache_bytes=settings.block_cache_bytes,
        claim=app.claim,
    )
    app.tables.add(table)
    loop = Loop(
        settings,
        table.store,
        services.writers,
        services.outbox,
        services.models,
        services.catalogue,
        services.metrics,
        wall_ms,
        reached,
        services.traces,
    )
    app.observer = Observer(app, settings, services, loop.quality, wall_ms)
    app.lanes = Lanes(loop.handle, app.crash, settings.run_events_max)

    for source in app.sources:
        app.topics.add(app.topic(source))  # what the consumer subscribes to

    observer = app.observer
    app.timer(interval=LOOK_SECONDS)(observer.look)
    app.timer(interval=MEASURE_SECONDS)(observer.measure)

    @app.on_partitions_assigned.connect
    async def assigned(app: App, assigned: set[TP], **_: Any) -> None:
        loop.reassigned()
        services.writers.keep(table.store.ends)
        mine = sorted(tp.partition for tp in assigned if tp.topic == topics.interactions)
        observer.phases.assigned(len(mine))
        log.info("serving %d of %d partitions", len(mine), settings.partitions, extra={"partitions": mine})

    return app
