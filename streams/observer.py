"""What is seen of a worker: looked at every second, measured every few, and told to whoever asks.

Looks at the app from beside it and moves nothing. Figures go into the metrics (metrics.py); whether the worker is alive
and ready is said here, for /livez and /readyz, by the rules of health.py.
"""

from __future__ import annotations

import asyncio
import logging
import time
from pathlib import Path
from typing import TYPE_CHECKING

from aiokafka.errors import KafkaError
from aiokafka.structs import TopicPartition
from faust.types import TP

from efficientrec.errors import BrokerUnavailable
from streams.health import Clock, Pulse, Watchdog
from streams.lag import Lag, Look
from streams.metrics import show, show_disks
from streams.offsets import looks
from streams.phases import Phases
from streams.quality import Quality
from streams.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Callable

    from streams.app import App, Services

log = logging.getLogger(__name__)

LOOK_SECONDS = 1.0
MEASURE_SECONDS = 10.0
ASK_SECONDS = 5.0
ANSWER_SECONDS = 10.0
"""How long the broker may take when it is asked how far the group has got."""


class Observer:
    """Health of a worker, and what it shows of itself beside what it counts."""

    def __init__(
        self,
        app: App,
        settings: Settings,
        services: Services,
        quality: Quality,
        clock: Callable[[], int],
        elapsed: Clock = time.monotonic,
    ) -> None:
        """clock: milliseconds since 1970. elapsed: by which something stands still."""
        self.pulse = Pulse(settings.stalled_seconds)
        self.phases = Phases(services.metrics)
        self._app = app
        self._settings = settings
        self._services = services
        self._metrics = services.metrics
        self._quality = quality
        self._clock = clock
        self._elapsed = elapsed
        self._watchdog = self._new_watchdog()
        """Of the worker, while it serves nobody."""
        self._watchdogs: dict[TP, Watchdog] = {}
        """Of each partition that it serves: one that hangs would not be missed while the others are busy."""
        self._lag = Lag()
        self._answers: dict[TP, Look] = {}
        """What the broker said of the sources when it was asked last, in this generation of the group."""
        self._answered_in = -1
        self._broker_answers = False
        """Whether it did when it was asked last, since there was reason to ask."""
        self._missing = "the worker is starting"
        self._idles = False

    def not_alive(self) -> str:
        watched: tuple[Pulse | Watchdog, ...] = (self.pulse, self._watchdog, *self._watchdogs.values())
        return next((reason for each in watched if (reason := each.not_alive())), "")

    def not_ready(self) -> str:
        return self.pulse.not_alive() or self._missing

    async def look(self) -> None:
        """Lag, recovery, and whether anything moves."""
        app, metrics = self._app, self._metrics
        sources = [tp for tp in app.consumer.assignment() if tp.topic in app.sources]
        seen = {tp: self._seen(tp) for tp in sources}
        now = self._clock()
        late = {(tp.topic, str(tp.partition)): self._lag.of(tp, look, now) for tp, look in seen.items()}
        self._lag.keep(set(sources))
        show(metrics.lag, {place: each.records for place, each in late.items()})
        show(metrics.lag_seconds, {place: each.seconds for place, each in late.items()})
        show(metrics.commit_age, {place: each.commit_seconds for place, each in late.items()})
        recovery = app.tables.recovery
        lacking = recovery.lacking()
        show(metrics.recovery_remaining, {(str(partition),): records for partition, records in lacking.items()})
        copies = recovery.standby_lag()
        show(metrics.standby_lag, {(str(partition),): records for partition, records in copies.items()})
        idle = self._idle(sum(lacking.values()))
        unserved = self._services.models.released.unserved
        self._missing = idle or (f"model {unserved} was refused, and there is no other" if unserved else "")
        self._idles = bool(idle)
        is_excused = self._has_to_ask() and not self._broker_answers
        # Of the attempts that fail each counts as progress: who tries waits for the broker.
        common = (self.phases.phase, app.consumer_generation_id, self._services.failures)
        places = {tp: (look.done, look.committed) for tp, look in seen.items()}
        progress = (common, tuple(sorted(places.items())), tuple(sorted(lacking.items())))
        self._watchdog.saw(idle, progress, is_excused=is_excused)
        self._watchdogs = {tp: self._watchdogs.get(tp) or self._new_watchdog() for tp in sources}
        for tp, watchdog in self._watchdogs.items():
            waiting = 0 if idle else late[tp.topic, str(tp.partition)].records
            work = f"{waiting} records of partition {tp.partition} of {tp.topic} wait" if waiting else ""
            watchdog.saw(work, (common, places[tp]), is_excused=is_excused)

    async def keep_asking(self) -> None:
        """Asks now and then, until it is cancelled."""
        while True:
            await asyncio.sleep(ASK_SECONDS)
            await self.ask()

    async def ask(self) -> None:
        """What only the broker knows while records do not flow: how far behind the sources are, and whether it is there
        at all. Until it has said so, nobody is to blame. Raises BrokerRefused when it does not let us in any more:
        clients would try on for ever."""
        if not self._has_to_ask():
            self._broker_answers = False
            return
        generation = self._app.consumer_generation_id
        sources = [TopicPartition(*tp) for tp in self._app.consumer.assignment() if tp.topic in self._app.sources]
        places = sources or [TopicPartition(self._app.sources[0], 0)]
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                found = await looks(self._app.connection, self._settings.group, places, ANSWER_SECONDS)
        except (KafkaError, OSError, BrokerUnavailable) as error:
            log.warning("the broker does not say how far the group has got: %r", error)
            self._broker_answers = False
            return
        self._broker_answers = True
        self._answers, self._answered_in = {TP(*place): look for place, look in found.items()}, generation

    async def measure(self) -> None:
        """Disks, RocksDB, and the quality of lists."""
        metrics, store = self._metrics, self._app.table.store
        folders: dict[str, str | Path] = {"state": self._settings.state_dir, "models": self._settings.models_dir}
        rows, sizes = store.figures("estimate-num-keys"), store.figures("total-sst-files-size")
        show(metrics.state_rows, {(str(partition),): count for partition, count in rows.items()})
        show(metrics.state_bytes, {(str(partition),): size for partition, size in sizes.items()})
        metrics.block_cache_bytes.set(store.cache_used_bytes())
        metrics.memtable_bytes.set(sum(store.figures("cur-size-all-mem-tables").values()))
        metrics.pending_compaction_bytes.set(sum(store.figures("estimate-pending-compaction-bytes").values()))
        self._quality.show()
        # In a thread and last: a store over the network that hangs must hold up nothing but this.
        await asyncio.to_thread(show_disks, metrics.disk_free, metrics.disk_size, folders)

    def _has_to_ask(self) -> bool:
        """Whether the worker does nothing, or does not get on."""
        return self._idles or any(each.stands(ASK_SECONDS) for each in self._watchdogs.values())

    def _new_watchdog(self) -> Watchdog:
        return Watchdog(self._settings.stalled_seconds, self._elapsed)

    def _seen(self, tp: TP) -> Look:
        """A source's partition: what this worker has in hand and, where it has nothing, what the broker said."""
        consumer = self._app.consumer
        done, oldest_ms = consumer.first_undone(tp)
        end, committed = consumer.highwater(tp), consumer.committed(tp)
        answer = self._answers.get(tp)
        if answer is None or self._answered_in != self._app.consumer_generation_id:
            return Look(end, done, committed, oldest_ms)
        if oldest_ms is None and done <= answer.done:
            done, oldest_ms = answer.done, answer.oldest_ms
        return Look(max(end, answer.end), done, max(committed, answer.committed), oldest_ms)

    def _idle(self, lacking: int) -> str:
        """Why the worker handles nothing now; empty when it could."""
        if self.phases.phase == "recovering":
            return f"partitions are being recovered, {lacking} records are left"
        if self.phases.phase != "serving":
            return "the group is dealing partitions"
        if not self._app.is_alive():
            return "the group has not heard from this worker for a session timeout"
        return ""
