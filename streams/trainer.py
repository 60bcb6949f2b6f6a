"""The trainer: keeps the interaction log, learns a new model from it now and then, and releases what may serve.

1. *Log.* Interactions of all partitions go to disk; the log's own offsets say where to go on, so a restart neither
   loses nor repeats any. Offsets are committed only afterwards, and only so that the lag can be seen.
   Users that the users topic erases leave the log within seconds; the offset that is committed there says how far.
2. *Learn.* When enough is new, a process of its own trains and judges (learning.py); the log goes on beside it.
3. *Release.* A model that may serve is announced on the releases topic, and artifacts that nobody needs any more go.

Knows Kafka, the clock and when to train. Knows nothing of how a model is learned or judged.
"""

from __future__ import annotations

import asyncio
import calendar
import hashlib
import logging
import os
import posixpath
import re
import signal
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from contextlib import asynccontextmanager, closing, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeVar

import fsspec
import msgspec
import xxhash
from aiokafka import AIOKafkaConsumer
from aiokafka.errors import KafkaError
from aiokafka.structs import OffsetAndMetadata, TopicPartition
from prometheus_client import CollectorRegistry

from efficientrec import artifact
from efficientrec.errors import ArtifactCorrupt, RecordInvalid, ReleaseUntrusted, SettingInvalid
from streams import rights
from streams.aside import origin_of
from streams.clock import wall_ms
from streams.cloudevents import completed
from streams.connection import NO_RIGHTS, Connection
from streams.erasures import Erasures, reach
from streams.exposition import exposed
from streams.features import described, feature_texts
from streams.follower import Follower, Record, place_of
from streams.health import Standing
from streams.lag import Lag, Look
from streams.learning import ItemAbout, Job, Line, Outcome, Report, Step
from streams.log import INTERACTIONS_MAX, InteractionLog, rows_of
from streams.metrics import show_disks
from streams.offsets import end_offsets, true_ends
from streams.outbox import Outbox
from streams.records import (
    EXPERIMENT_KEY,
    RELEASE_KEY,
    Experiment,
    Release,
    decode_experiment,
    decode_interactions,
    decode_item,
    decode_release,
    decode_user,
    moment_ms,
    rfc3339,
)
from streams.releases import announce
from streams.settings import PREFIX, Settings
from streams.signing import Trust, signer
from streams.topics import Topics
from streams.trainer_metrics import TrainerMetrics

if TYPE_CHECKING:
    from typing import TypeAlias

    Consumer: TypeAlias = AIOKafkaConsumer[bytes | None, bytes | None]

log = logging.getLogger(__name__)

Result = TypeVar("Result")

FLUSH_SECONDS: Final = 1.0  # the log is at most this far behind; files this small are merged later
FLUSH_ROWS: Final = 100_000  # some 20 MB in memory until they are on disk
POLL_RECORDS: Final = 20_000
RETRY_SECONDS: Final = 60.0
"""Pause after a training that failed otherwise than by too few interactions: a full disk, an unreachable store."""
RECONNECT_SECONDS: Final = 1.0
LINE_BYTES_MAX: Final = 16 * 1024 * 1024  # of what a training says; an outcome with its scores is a few kilobytes
ARTIFACTS_KEPT: Final = 10
"""Newest artifacts that stay, beside the serving, the previous and the tried one: room to look back over some days."""
PARTIAL_SECONDS: Final = 86_400  # a folder left half-written is no longer being written a day later

VERSION: Final = re.compile(r"\d{8}T\d{6}Z-[0-9a-f]{4}")

Clock = Callable[[], int]
"""Milliseconds since 1970."""


class Learner(Protocol):
    """Who does a training."""

    async def learn(self, job: Job, report: Report) -> Outcome: ...


class Trainer:
    """One trainer; `run` goes on until it is cancelled."""

    def __init__(self, settings: Settings, learner: Learner, metrics: TrainerMetrics, clock: Clock) -> None:
        self._settings = settings
        self._topics = Topics.of(settings)
        self._learner = learner
        self._metrics = metrics
        self._clock = clock
        own = signer(settings)
        self._world = World(settings.models_dir, None if own is None else own.trust)
        self._connection = Connection(settings)
        self._outbox = Outbox(self._connection, settings.request_timeout_seconds)
        self._tried: dict[int, int] | None = None
        """partition → offset up to which interactions were in the last training, ours or that of the serving model."""
        self._tried_at = 0
        self._again_at: int | None = None
        """When to train once more although nothing is new, since the last one failed."""
        self._erasures = Erasures({})
        self._committed: Mapping[TopicPartition, OffsetAndMetadata] = {}
        self._lag = Lag()
        self._taken_ms: dict[int, int] = {}
        """partition → the broker's time of the last record that was just taken: what comes next is no older."""
        self._shown_ms = clock()
        """When it was last known how far the log is behind."""
        self._looking: asyncio.Task[None] | None = None
        """At the disks."""
        self.health = Standing(settings.stalled_seconds)

    async def run(self) -> None:
        """Raises what nobody can wait out: SettingInvalid, BrokerRefused, TopicMismatch, BrokerUnavailable at the
        start, DataInvalid for a damaged log."""
        await rights.check(self._settings, "trainer")
        world, names = self._world, self._topics
        followers = [
            Follower(names.items, self._connection, world.items_came),
            Follower(names.users, self._connection, world.users_came),
            Follower(names.releases, self._connection, world.releases_came),
        ]
        with closing(await asyncio.to_thread(InteractionLog, self._settings.log_dir)) as interactions:
            log.info(
                "log of %d interactions in %s; offsets %s",
                *(interactions.rows, self._settings.log_dir, interactions.offsets),
            )
            await self._outbox.start()
            try:
                async with asyncio.TaskGroup() as tasks:
                    for follower in followers:
                        tasks.create_task(follower.run())
                    tasks.create_task(self._follow(interactions, followers))
            except ExceptionGroup as group:
                first = _first(group)  # the others were cancelled for its sake
                if isinstance(first, NO_RIGHTS):
                    raise await rights.explained(self._settings, "trainer", first) from first
                raise first from None
            finally:
                await self._outbox.stop()

    # 1. Log.

    async def _follow(self, interactions: InteractionLog, followers: list[Follower]) -> None:
        """Logs until cancelled, and sees to it that what is due is learned."""
        async with asyncio.TaskGroup() as tasks:
            ready = tasks.create_task(_all_caught_up(followers))
            training: asyncio.Task[None] | None = None
            while True:
                try:
                    async with _consumer(self._settings, self._connection) as consumer:
                        users_ends = await self._seek(consumer, interactions)
                        self.health.missing = ""
                        while True:
                            await self._log_some(consumer, interactions)
                            is_free = training is None or training.done()
                            is_ready = ready.done() and reach(await _positions(consumer, users_ends), users_ends)
                            if is_free and is_ready and self._is_due(interactions):
                                training = tasks.create_task(self._train(interactions.offsets, interactions.rows))
                except NO_RIGHTS:
                    raise
                except (KafkaError, OSError) as error:
                    log.warning("reading interactions again after: %r", error)
                    self._show_standstill()
                    await asyncio.sleep(RECONNECT_SECONDS)

    async def _seek(self, consumer: Consumer, interactions: InteractionLog) -> dict[TopicPartition, int]:
        """To where the log ends, partition by partition, and in the users topic to the first erasure that may not be
        through; returns where the users topic ends."""
        partitions, users = self._partitions(self._topics.interactions), self._partitions(self._topics.users)
        end = await true_ends(consumer, [*partitions, *users])
        first = await consumer.beginning_offsets([*partitions, *users])
        for partition in partitions:
            position = interactions.read_up_to.get(partition.partition, 0)
            if position > end[partition]:
                raise SettingInvalid(
                    f"EFFICIENTREC_LOG_DIR is {str(self._settings.log_dir)!r}, a log that reaches to offset {position} "
                    f"of partition {partition.partition}; expected one of the present topic {partition.topic}, which "
                    f"ends at {end[partition]}: move the log of the former topic away"
                )
            if 0 < position < first[partition]:
                lost = first[partition] - position
                log.warning("%d interactions of %s were deleted before they could be logged", lost, partition)
            consumer.seek(partition, max(position, first[partition]))
        done = {}
        for partition, committed in zip(users, await asyncio.gather(*map(consumer.committed, users)), strict=True):
            is_known = committed is not None and first[partition] <= committed <= end[partition]
            done[partition.partition] = committed if is_known else first[partition]
            consumer.seek(partition, done[partition.partition])
        self._erasures = Erasures(done)
        return {partition: end[partition] for partition in users}

    def _partitions(self, topic: str) -> list[TopicPartition]:
        return [TopicPartition(topic, number) for number in range(self._settings.partitions)]

    async def _log_some(self, consumer: Consumer, interactions: InteractionLog) -> None:
        """Takes what has come; makes it durable now and then. A crash before that reads it again."""
        loop = asyncio.get_running_loop()
        until = loop.time() + FLUSH_SECONDS
        self._taken_ms.clear()
        while interactions.waiting < FLUSH_ROWS and (left := until - loop.time()) > 0:
            batches = await consumer.getmany(timeout_ms=int(1000 * min(left, 0.2)), max_records=POLL_RECORDS)
            for partition, records in batches.items():
                if partition.topic == self._topics.users:
                    self._erasures.came(partition.partition, records)
                else:
                    self._take(partition.partition, records, interactions)
        await self._flush(consumer, interactions)
        await self._commit(consumer, interactions.offsets)
        await self._show(consumer)

    async def _flush(self, consumer: Consumer, interactions: InteractionLog) -> None:
        """Makes durable what has come, but for the users who are to be erased; the files lose them, too, when they are
        new among these."""
        erasures, partitions = self._erasures, self._partitions(self._topics.interactions)
        are_new = erasures.are_new
        if are_new:
            erasures.bind(await end_offsets(self._connection, partitions))
        await _finished(asyncio.to_thread(interactions.erase if are_new else interactions.flush, erasures.in_force))
        self._metrics.rows.set(interactions.rows)
        self._metrics.erasures.inc(erasures.settle(await _positions(consumer, partitions)))

    def _take(self, partition: int, records: list[Record], interactions: InteractionLog) -> None:
        now = self._clock()
        came = [record for record in records if origin_of(record) is None]  # what was forwarded is here already
        values = [completed(record.value, record.headers) if record.headers else record.value for record in came]
        decoded = decode_interactions(
            values,
            [record.key for record in came],
            [record.offset for record in came],
            [min(record.timestamp, now) for record in came],  # a clock ahead of ours must not outlive an erasure
            now,
            self._settings.policy,
            int(1000 * self._settings.future_tolerance_seconds),
        )
        self._metrics.rejected.inc(len(decoded.rejected))
        self._taken_ms[partition] = records[-1].timestamp
        interactions.add(partition, records[0].offset, records[-1].offset, rows_of(decoded, values))

    async def _commit(self, consumer: Consumer, offsets: Mapping[int, int]) -> None:
        """Acknowledges the erasures that are through, also while there are none, and shows the lag to whoever asks the
        broker about the group. It may fail: what is acknowledged too late is done again."""
        users = self._partitions(self._topics.users)
        committed = {place: OffsetAndMetadata(self._erasures.done[place.partition], "") for place in users}
        for partition in self._partitions(self._topics.interactions):
            done = offsets.get(partition.partition, 0)
            if done:
                committed[partition] = OffsetAndMetadata(done, "")
        if committed == self._committed:
            return
        try:
            await consumer.commit(committed)
            self._committed = committed
        except NO_RIGHTS:
            raise
        except KafkaError as error:
            log.warning("offsets not committed, again in %g s: %r", FLUSH_SECONDS, error)

    async def _show(self, consumer: Consumer) -> None:
        """How late the log is, and the room it has."""
        done = await _positions(consumer, self._partitions(self._topics.interactions))  # all that came is on disk now
        for place, offset in done.items():
            look = Look(consumer.highwater(place) or 0, offset, offset, self._taken_ms.get(place.partition))
            self._metrics.late(place.partition, self._lag.of((place.topic, place.partition), look, self._clock()))
        self._shown_ms = self._clock()
        if self._looking is None or self._looking.done():  # a store over the network may hang: nobody waits for it
            folders: dict[str, str | Path] = {"log": self._settings.log_dir, "models": self._settings.models_dir}
            showing = asyncio.to_thread(show_disks, self._metrics.disk_free, self._metrics.disk_size, folders)
            self._looking = asyncio.create_task(showing)

    def _show_standstill(self) -> None:
        """Nothing is known to be safe in the log since it was last looked at."""
        for partition in range(self._settings.partitions):
            self._metrics.stands(partition, (self._clock() - self._shown_ms) / 1000)

    # 2. Learn.

    def _is_due(self, interactions: InteractionLog) -> bool:
        """Whether to train now: at the first threshold, then when enough is new, or anything after the pause."""
        now = self._clock()
        if self._again_at is not None and now >= self._again_at:
            return True
        if self._tried is None and self._world.release is not None:
            self._tried, self._tried_at = self._world.seen_by_serving, moment_ms(self._world.release.released_at)
        if self._tried is None:
            return interactions.rows >= self._settings.train_first_events
        new = sum(max(0, offset - self._tried.get(n, 0)) for n, offset in interactions.offsets.items())
        overdue = now - self._tried_at >= 1000 * self._settings.train_every_seconds
        return new >= self._settings.train_new_events or (new > 0 and overdue)

    async def _train(self, offsets: dict[int, int], rows: int) -> None:
        """One training, whatever comes of it."""
        settings, now = self._settings, self._clock()
        job = Job(
            version=version_of(now, f"{settings.prefix}/{settings.group}/{offsets}"),
            created_at=rfc3339(now),
            installation=settings.installation,
            log_dir=str(settings.log_dir),
            models_dir=settings.models_dir,
            interactions_max=INTERACTIONS_MAX,
            seed=settings.train_seed,
            encoder=settings.encoder,
            half_life_seconds=settings.half_life_seconds,
            popularity_half_life_seconds=settings.popularity_half_life_seconds,
            margin=settings.train_margin,
            serving=self._world.release,
            items=list(self._world.items.values()),
            users=self._world.users,
            log_level=settings.log_level,
            log_format=settings.log_format,
        )
        log.info("training %s on %d interactions", job.version, rows, extra={"model_version": job.version})
        loop = asyncio.get_running_loop()
        start = loop.time()
        result = "abandoned"
        self._metrics.running.set(1)
        try:
            outcome = await self._learner.learn(job, _logged_steps(job.version))
            self._metrics.duration.observe(loop.time() - start)
            self._metrics.judged(outcome.scores)
            self._metrics.examples.set(outcome.examples)
            result = await self._conclude(job, outcome)
        finally:
            self._metrics.runs.labels(result).inc()
            self._metrics.running.set(0)
            self._metrics.ran_at.set(self._clock() / 1000)
        self._tried, self._tried_at = offsets, self._clock()
        again = result in ("failed", "outdated")  # sooner if enough is new: it may be what was lacking
        self._again_at = self._tried_at + int(1000 * RETRY_SECONDS) if again else None

    async def _conclude(self, job: Job, outcome: Outcome) -> str:
        """Releases the model if it may serve; returns what came of the training, one of trainer_metrics.OUTCOMES."""
        about = {"model_version": job.version}
        for model, scores in outcome.scores.items():
            log.info("  %-10s %s", model, "  ".join(f"{name} {score:.4g}" for name, score in scores.items()))
        if outcome.result == "impossible":
            log.info("nothing to learn yet: %s", outcome.message)
            return "impossible"
        if outcome.result == "failed":
            log.error("training %s failed, again in %g s: %s", job.version, RETRY_SECONDS, outcome.message, extra=about)
            return "failed"
        if outcome.result == "refused":
            log.warning("%s is not released: %s", job.version, outcome.message, extra=about)
            return "refused"
        if self._world.release != job.serving:
            log.warning(
                "%s is not released: it was compared with a model that serves no longer", job.version, extra=about
            )
            return "outdated"
        return await self._release(job, outcome)

    # 3. Release.

    async def _release(self, job: Job, outcome: Outcome) -> str:
        """Announces the artifact. After a crash just before it lies there for nobody, and is removed in time."""
        previous = None if job.serving is None else job.serving.version
        what = (job.version, outcome.address, outcome.sha256, previous)
        try:
            release = await announce(self._outbox, self._settings, *what, self._clock())
        except KafkaError as error:
            log.error("%s is not released, again in %g s: %r", job.version, RETRY_SECONDS, error)
            return "failed"
        self._metrics.published_at.set(self._clock() / 1000)
        about = {"model_version": job.version, "previous_version": previous}
        log.info("%s is released after %.1f s: %s", job.version, outcome.seconds, outcome.message, extra=about)
        tried = self._world.experiment
        keep = {release.version, release.previous_version, None if tried is None else tried.version}
        try:
            await asyncio.to_thread(clear, self._settings, keep, self._clock())
        except Exception as error:  # a store's own client raises errors of its own kind
            log.warning("old artifacts in %s stay: %r", self._settings.models_dir, error)
        return "published"


async def _positions(consumer: Consumer, partitions: Iterable[TopicPartition]) -> dict[TopicPartition, int]:
    return {partition: await consumer.position(partition) for partition in partitions}


class World:
    """What the small topics say: items, users, the release in service, and the experiment that runs."""

    def __init__(self, models_dir: str, trust: Trust | None = None) -> None:
        """trust: releases of others are not taken for the one in service."""
        self._models_dir = models_dir
        self._trust = trust
        self.items: dict[str, ItemAbout] = {}
        self.users: dict[str, dict[str, str]] = {}
        self.release: Release | None = None
        self.experiment: Experiment | None = None
        self.seen_by_serving: dict[int, int] = {}
        """partition → offset after the last interaction that the serving model was trained on."""

    async def items_came(self, records: list[Record]) -> None:
        """Takes item records; a null removes, one that cannot be read changes nothing."""
        for record in records:
            if record.key is None:
                continue
            try:
                if record.value is None:
                    self.items.pop(record.key.decode(errors="replace"), None)
                else:
                    item = decode_item(record.value, record.key)
                    self.items[item.item_id] = ItemAbout(item.item_id, *described(item))
            except RecordInvalid as error:
                log.warning("item at offset %s ignored: %s", record.offset, error, extra=place_of(record))

    async def users_came(self, records: list[Record]) -> None:
        """The same for users."""
        for record in records:
            if record.key is None:
                continue
            try:
                if record.value is None:
                    self.users.pop(record.key.decode(errors="replace"), None)
                else:
                    user = decode_user(record.value, record.key)
                    self.users[user.user_id] = feature_texts(user.features)
            except RecordInvalid as error:
                log.warning(
                    "user at offset %s ignored: it is no user of its key", record.offset, extra=place_of(record)
                )
                log.debug("user at offset %s: %s", record.offset, error)

    async def releases_came(self, records: list[Record]) -> None:
        """Keeps the newest release and the newest experiment that can be read."""
        for record in records:
            if record.key == EXPERIMENT_KEY:
                self._experiment_came(record)
        for record in reversed(records):
            if record.key != RELEASE_KEY or record.value is None:
                continue
            try:
                release = decode_release(record.value)
                if self._trust is not None:
                    self._trust.check(release, 0 if self.release is None else moment_ms(self.release.released_at))
            except (RecordInvalid, ReleaseUntrusted) as error:
                log.error("release at offset %s ignored: %s", record.offset, error, extra=place_of(record))
                continue
            if not artifact.lies_in(release.address, self._models_dir):
                log.error("release %s ignored: %s is not in %s", release.version, release.address, self._models_dir)
                continue
            self.seen_by_serving = await asyncio.to_thread(_offsets_of, release)
            self.release = release
            return

    def _experiment_came(self, record: Record) -> None:
        try:
            experiment = None if record.value is None else decode_experiment(record.value)
            if experiment is not None and self._trust is not None:
                self._trust.check(experiment, 0 if self.experiment is None else moment_ms(self.experiment.released_at))
        except (RecordInvalid, ReleaseUntrusted) as error:
            log.error("experiment at offset %s ignored: %s", record.offset, error, extra=place_of(record))
            return
        self.experiment = experiment


class ChildLearner:
    """Trains in a process of its own (learning.py), which ends with this one."""

    async def learn(self, job: Job, report: Report) -> Outcome:
        """Cancelled, it ends the process before it returns."""
        try:
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "streams.learning"),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                env=_environ(max(1, available_cores() - 1)),  # one core stays with the stream
                limit=LINE_BYTES_MAX,
                start_new_session=True,
            )
        except OSError as error:
            return Outcome(result="failed", message=f"the training process did not start: {error}")
        assert process.stdin is not None
        assert process.stdout is not None
        outcome = None
        try:
            with suppress(ConnectionError):  # it died over the job: its status says more
                process.stdin.write(msgspec.json.encode(job) + b"\n")
                await process.stdin.drain()
            async for line in process.stdout:
                said: Line = msgspec.json.decode(line, type=Line)
                if isinstance(said, Step):
                    report(said.name, said.share)
                else:
                    outcome = said
            status = await process.wait()
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
            process.stdin.close()
        if outcome is None:
            why = "for lack of memory, it may be" if status == -signal.SIGKILL else "its error stands above"
            return Outcome(result="failed", message=f"the training process ended with status {status}; {why}")
        return outcome


def version_of(now_ms: int, seed: str) -> str:
    """A name that sorts by time.

    >>> version_of(1537971300000, "reco")
    '20180926T141500Z-adde'
    """
    moment = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(now_ms / 1000))
    return f"{moment}-{xxhash.xxh3_64_hexdigest(seed.encode())[:4]}"


def clear(settings: Settings, keep: set[str | None], now_ms: int) -> list[str]:
    """Removes the artifacts that this installation wrote, but for the newest and those to keep; returns their versions.

    What was not written by a trainer of the same prefix and group stays, and so does what cannot be read.
    """
    filesystem, root = fsspec.url_to_fs(settings.models_dir)
    names = sorted((posixpath.basename(path.rstrip("/")) for path in filesystem.ls(root, detail=False)), reverse=True)
    ours = []
    for name in names:
        path = posixpath.join(root, name)
        if VERSION.fullmatch(name) and _writer(filesystem, path) == settings.installation:
            ours.append(name)
        elif VERSION.match(name) and name.endswith(".partial") and _age_seconds(name, now_ms) > PARTIAL_SECONDS:
            filesystem.rm(path, recursive=True)
    gone = [name for name in ours[ARTIFACTS_KEPT:] if name not in keep]
    for name in gone:
        filesystem.rm(posixpath.join(root, name), recursive=True)
        log.info("artifact %s removed", name)
    return gone


def available_cores() -> int:
    """Cores that this process may use: those it is bound to, and as many as its container may keep busy."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    with suppress(OSError, ValueError):
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        cores = min(cores, max(1, int(quota) // int(period)))
    return cores


async def serve(settings: Settings, learner: Learner | None = None, clock: Clock | None = None) -> None:
    """Runs a trainer with its /metrics until SIGTERM or SIGINT; a training under way is abandoned."""
    metrics = TrainerMetrics(CollectorRegistry(), Topics.of(settings).interactions, settings.partitions)
    trainer = Trainer(settings, learner or ChildLearner(), metrics, clock or wall_ms)
    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    assert task is not None
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, task.cancel)
    where = (settings.metrics_host, settings.trainer_metrics_port, "EFFICIENTREC_TRAINER_METRICS_PORT")
    try:
        with exposed(metrics.registry, trainer.health, *where, settings.metrics_token):
            pulse = asyncio.create_task(trainer.health.run())
            try:
                await trainer.run()
            finally:
                pulse.cancel()
    except asyncio.CancelledError:
        log.info("trainer stopped")
    finally:
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(number)


def _environ(cores: int) -> dict[str, str]:
    """What a training gets to see: not our settings, which its job holds as far as it needs them, nor our secrets."""
    return {name: value for name, value in os.environ.items() if not name.startswith(PREFIX)} | _threads(cores)


def _threads(cores: int) -> dict[str, str]:
    """Variables by which torch, BLAS and numba start no more threads than there are cores, and threads that wait for
    each other sleep: spinning, as is their habit, made trainings many times slower on cores that a worker used, too."""
    names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS")
    return {**dict.fromkeys(names, str(cores)), "OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "0"}


def _logged_steps(version: str) -> Report:
    """Logs each step of a training once."""
    last = ""

    def report(name: str, share: float) -> None:
        nonlocal last
        if name != last:
            log.info("training %s: %s", version, name)
        last = name

    return report


class _Manifest(msgspec.Struct):
    """What the trainer reads of a manifest."""

    window: artifact.Window
    settings: dict[str, Any] = {}


def _manifest(filesystem: Any, path: str, sha256: str | None = None) -> _Manifest | None:
    """None where there is none that can be read, or not the one with this digest."""
    try:
        with filesystem.open(posixpath.join(path, artifact.MANIFEST), "rb") as file:
            content = file.read(artifact.MANIFEST_BYTES_MAX)
        if sha256 is not None and hashlib.sha256(content).hexdigest() != sha256:
            raise ArtifactCorrupt("it is not what was released")
        return msgspec.json.decode(content, type=_Manifest)
    except Exception as error:  # a store's own client raises errors of its own kind
        log.warning("manifest in %s cannot be read: %r", path, error)
        return None


def _writer(filesystem: Any, path: str) -> str | None:
    manifest = _manifest(filesystem, path)
    return None if manifest is None else manifest.settings.get("installation")


def _offsets_of(release: Release) -> dict[int, int]:
    """Up to where a release was trained on our topic; nowhere, if it cannot be read or has none."""
    filesystem, path = fsspec.url_to_fs(release.address)
    manifest = _manifest(filesystem, path, release.sha256)
    return {} if manifest is None else manifest.window.partitions()


def _age_seconds(name: str, now_ms: int) -> float:
    """Age of a folder by the time in its name."""
    try:
        return now_ms / 1000 - calendar.timegm(time.strptime(name[:16], "%Y%m%dT%H%M%SZ"))
    except ValueError:
        return 0.0


@asynccontextmanager
async def _consumer(settings: Settings, connection: Connection) -> AsyncIterator[Consumer]:
    """A consumer that names a group for its commits, but shares partitions with nobody."""
    consumer: Consumer = AIOKafkaConsumer(
        group_id=f"{settings.group}-trainer",
        auto_offset_reset="earliest",
        enable_auto_commit=False,
        request_timeout_ms=int(1000 * settings.request_timeout_seconds),
        **connection.options(),
    )
    try:
        await consumer.start()
        yield consumer
    finally:
        await consumer.stop()


async def _all_caught_up(followers: list[Follower]) -> None:
    for follower in followers:
        await follower.caught_up()


async def _finished(work: Awaitable[Result]) -> Result:
    """The result of what must not be left half-done: a cancellation comes through when it has ended."""
    task = asyncio.ensure_future(work)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait([task])
        raise


def _first(group: ExceptionGroup[Exception]) -> Exception:
    first = group.exceptions[0]
    return _first(first) if isinstance(first, ExceptionGroup) else first
