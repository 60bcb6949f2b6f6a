"""The model in service, and how another takes its place while the worker runs.

1. Read the artifact beside the old model, in a thread; check every digest and shape.
2. Probe: fold, recommend and write lists for made-up users, which also makes ready what is made at the first use.
3. Replace one reference. The worker takes it at the start of each run, so a run never sees two models.

Where there is a key to trust, a release comes that far only if it was signed with it, and is newer than the one in
service: an old one, sent again by somebody else, is signed as well.

Anything wrong leaves the old model serving, and says why.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from time import perf_counter
from typing import ClassVar, NamedTuple

import numpy as np

from efficientrec import artifact, profile
from efficientrec.errors import (
    ArtifactMismatch,
    ArtifactUnavailable,
    EfficientRecError,
    RecordInvalid,
    ReleaseUntrusted,
)
from efficientrec.interactions import Interactions
from efficientrec.model import Model
from efficientrec.recommend import recommend
from streams.arms import CONTROL, Arm
from streams.follower import Record, place_of
from streams.lists import Cause, personal_lists
from streams.metrics import WorkerMetrics
from streams.records import RELEASE_KEY, Release, Trigger, decode_release, moment_ms, rfc3339
from streams.signing import Trust

log = logging.getLogger(__name__)

PROBE_USERS = 64
READ_AGAIN_SECONDS = (0.5, 1.0, 2.0, 4.0, 8.0)


class Loaded(NamedTuple):
    """A model, and what its manifest says."""

    model: Model
    made_ms: int
    trained_up_to: Mapping[int, int]


class ModelSlot:
    """Holds `current`, None before the first model."""

    key: ClassVar[bytes] = RELEASE_KEY
    """Of the records that speak of this slot."""
    arm_name: ClassVar[str] = CONTROL

    def __init__(
        self,
        models_dir: str,
        list_size: int,
        metrics: WorkerMetrics,
        list_format: str = "json",
        trust: Trust | None = None,
    ) -> None:
        self.current: Model | None = None
        self.trained_up_to: Mapping[int, int] = {}
        """partition → offset after the last interaction that the model in service was trained on."""
        self.unserved = ""
        """The last release that was refused while there was no model in service."""
        self._made_ms = 0
        self._models_dir = models_dir
        self._list_size = list_size
        self._list_format = list_format
        self._metrics = metrics
        self._trust = trust
        self._released_at = 0
        """Milliseconds; nothing that was released before then is trusted. 0 before there is a model in service."""

    @property
    def arm(self) -> Arm:
        return Arm(self.arm_name, self.current, self.trained_up_to)

    async def handle(self, records: list[Record]) -> None:
        """Takes releases as they come; of several, only the newest is worth loading."""
        for record in reversed(records):
            if record.key != self.key:
                continue
            if record.value is None:
                if self._ended():
                    return
                continue
            try:
                release = self._decoded(record.value)
                if self._trust is not None:
                    self._trust.check(release, self._released_at)
            except (RecordInvalid, ReleaseUntrusted) as error:
                about = place_of(record)
                log.error("release at offset %s ignored, all goes on as before: %s", record.offset, error, extra=about)
                if isinstance(error, ReleaseUntrusted):
                    self._refused(release)
                continue
            await self.offer(release)
            return

    async def offer(self, release: Release) -> bool:
        """Installs a released version; False if it is refused, or already serving."""
        if self.current is not None and self.current.version == release.version:
            return False
        start = perf_counter()
        try:
            loaded = await self._loaded(release)
        except Exception as error:  # whatever it is, it must not end the following of releases
            self._refused(release)
            unforeseen = not isinstance(error, EfficientRecError)
            log.error(
                "model %s refused, %s goes on serving: %r",
                *(release.version, self._serving(), error),
                exc_info=unforeseen,
                extra={"model_version": release.version},
            )
            return False
        elapsed = perf_counter() - start
        previous = self._serving()
        self._install(release, loaded)
        self._metrics.serving(self.arm_name, release.version, release.sha256[:12])
        self._metrics.swaps.labels("installed").inc()
        self._metrics.swap_duration.observe(elapsed)
        self._say_installed(release.version, previous, elapsed)
        return True

    def _decoded(self, value: bytes) -> Release:
        return decode_release(value)

    def _ended(self) -> bool:
        """What a null says; False where that is nothing."""
        return False

    def _install(self, release: Release, loaded: Loaded) -> None:
        self.current, self.trained_up_to, self.unserved = loaded.model, loaded.trained_up_to, ""
        if loaded.made_ms < self._made_ms:
            self._metrics.rollbacks.inc()
        self._made_ms, self._released_at = loaded.made_ms, moment_ms(release.released_at)
        self._metrics.made(loaded.made_ms / 1000)

    def _say_installed(self, version: str, previous: str, seconds: float) -> None:
        log.info(
            "model %s took the place of %s in %.2f s",
            *(version, previous, seconds),
            extra={"model_version": version, "previous_version": previous, "seconds": round(seconds, 3)},
        )

    def _refused(self, release: Release) -> None:
        self._metrics.swaps.labels("refused").inc()
        self.unserved = release.version if self.current is None else ""

    async def _loaded(self, release: Release) -> Loaded:
        """The model, after a few more tries where its store does not answer: without a model, at a start, rows would
        lose their sums."""
        for pause in READ_AGAIN_SECONDS:
            try:
                return await asyncio.to_thread(self._load, release)
            except ArtifactUnavailable as error:
                about = {"model_version": release.version}
                log.warning("model %s: %s; again in %g s", release.version, error, pause, extra=about)
                await asyncio.sleep(pause)
        return await asyncio.to_thread(self._load, release)

    def _serving(self) -> str:
        return "popularity" if self.current is None else self.current.version

    def _load(self, release: Release) -> Loaded:
        if not artifact.lies_in(release.address, self._models_dir):
            raise ArtifactMismatch(
                f"{release.address} does not lie in EFFICIENTREC_MODELS_DIR, which is {self._models_dir}; expected a "
                "trainer with the same setting"
            )
        model, manifest = artifact.load(release.address, release.sha256)
        if model.version != release.version:
            raise ArtifactMismatch(f"{release.address} holds {model.version}, not {release.version}")
        probe(model, self._list_size, self._list_format)
        return Loaded(model, moment_ms(manifest.created_at), manifest.window.partitions())


def probe(model: Model, list_size: int, list_format: str = "json") -> None:
    """Raises ArtifactMismatch when made-up users get nothing, or nonsense."""
    items = len(model.items)
    events = 2 * PROBE_USERS
    run = Interactions(
        users=[f"probe-{user}" for user in range(PROBE_USERS)],
        user=np.arange(events, dtype=np.int32) % PROBE_USERS,
        item=model.items.keys[np.linspace(0, items - 1, events).astype(np.int64)],
        weight=np.ones(events, np.float32),
        at=np.full(events, 1_000, np.int64),
        arrived=np.full(events, 1_000, np.int64),
        offset=np.arange(events, dtype=np.int64),
        event=np.zeros(events, np.uint64),
        excludes=np.ones(events, np.bool_),
    )
    rows = profile.unpack([None] * PROBE_USERS, model.encoder.width, model.encoder.key)
    rows = profile.fold(rows, run, model.encoder).rows
    lists = recommend(model, rows, min(list_size, items))
    if not np.isfinite(lists.scores).all() or not np.isfinite(lists.memberships).all():
        raise ArtifactMismatch(f"{model.version} gives scores that are not finite")
    if items > 2 and (lists.items[:, 0] < 0).any():
        raise ArtifactMismatch(f"{model.version} has nothing to recommend to a probe")
    trigger = Trigger("probe", 0, 0, None, rfc3339(1_000))
    causes = [Cause(user, trigger, 0) for user in run.users]
    personal_lists(model, lists, causes, rfc3339(1_000), "event", list_format)
