"""The models on the shelf, how an earlier one is put back into service, and how one is tried on a share of the users.

Reads the folder of artifacts and the releases topic. Whether a model should serve is for the trainer to judge; who puts
one back or tries one has judged already, so here it is only checked that it can serve.
"""

from __future__ import annotations

import asyncio
import hashlib
import posixpath
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final

import fsspec
import msgspec
from aiokafka.errors import KafkaError
from aiokafka.structs import TopicPartition
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from efficientrec import artifact
from efficientrec.errors import ArtifactMismatch, BrokerUnavailable, ModelUnknown, RecordInvalid, SettingInvalid
from streams import releases, rights
from streams.clock import wall_ms
from streams.connection import Connection
from streams.outbox import Outbox
from streams.records import (
    EXPERIMENT_KEY,
    RELEASE_KEY,
    Experiment,
    Release,
    decode_experiment,
    decode_release,
)
from streams.releases import announce
from streams.settings import Settings
from streams.show import last_record, reader
from streams.slot import probe
from streams.topics import Topics

CURES: Final = {
    RELEASE_KEY: "Release a model anew: efficientrec models rollback VERSION",
    EXPERIMENT_KEY: "End it: efficientrec models experiment --end",
}
"""What helps against a record that cannot be read, by its key."""


@dataclass(frozen=True, slots=True)
class Stored:
    """An artifact in the folder of models."""

    version: str
    address: str
    sha256: str
    manifest: artifact.Manifest


@dataclass(frozen=True, slots=True)
class Shelf:
    """What there is, and which of it is in service."""

    models: list[Stored]
    """The newest first; of this installation, or of nobody."""
    release: Release | None
    """The newest release; None before the first, and where its record cannot be read."""
    experiment: Experiment | None
    """None while none runs, and where its record cannot be read."""
    unreadable: Mapping[bytes, str]
    """Key of a record that cannot be read → why."""

    def find(self, version: str) -> Stored:
        """ModelUnknown says which there are."""
        for stored in self.models:
            if stored.version == version:
                return stored
        known = ", ".join(stored.version for stored in self.models) or "none"
        raise ModelUnknown(f"there is no model {version} in EFFICIENTREC_MODELS_DIR; there are: {known}")


async def shelf(settings: Settings, process: str = "models list") -> Shelf:
    """Raises BrokerUnavailable, BrokerRefused and TopicMismatch. A record that cannot be read is no reason: workers
    pass over it, and nobody shall be kept from a rollback by it. process: which rights.py asks for."""
    await rights.check(settings, process)
    place = TopicPartition(Topics.of(settings).releases, 0)
    async with reader(settings) as consumer:
        released = await last_record(consumer, place, RELEASE_KEY, settings.request_timeout_seconds)
        tried = await last_record(consumer, place, EXPERIMENT_KEY, settings.request_timeout_seconds)
    release = experiment = None
    unreadable = {}
    try:
        release = None if released is None or released.value is None else decode_release(released.value)
    except RecordInvalid as error:
        unreadable[RELEASE_KEY] = str(error)
    try:
        experiment = None if tried is None or tried.value is None else decode_experiment(tried.value)
    except RecordInvalid as error:
        unreadable[EXPERIMENT_KEY] = str(error)
    return Shelf(await asyncio.to_thread(stored, settings), release, experiment, unreadable)


def stored(settings: Settings) -> list[Stored]:
    """The artifacts whose manifest can be read, the newest first, without those of other installations."""
    filesystem, root = fsspec.url_to_fs(settings.models_dir)
    if not filesystem.exists(root):
        return []
    found = []
    for path in filesystem.ls(root, detail=False):
        version = posixpath.basename(path.rstrip("/"))
        try:
            with filesystem.open(posixpath.join(path, artifact.MANIFEST), "rb") as file:
                content = file.read(artifact.MANIFEST_BYTES_MAX)
            manifest = msgspec.json.decode(content, type=artifact.Manifest)
        except Exception:  # noqa: S112  # a store's own client raises errors of its own kind, and this is no artifact
            continue
        if manifest.version == version and manifest.settings.get("installation") in (None, settings.installation):
            address = posixpath.join(settings.models_dir, version)
            found.append(Stored(version, address, hashlib.sha256(content).hexdigest(), manifest))
    return sorted(found, key=lambda each: (each.manifest.created_at, each.version), reverse=True)


async def rollback(settings: Settings, version: str | None) -> Release:
    """Announces a version again: the one named, or else the one that served when the present one was trained.

    It is read whole and probed first, as a worker does. Workers install it within seconds, and the trainer compares its
    next model with it. An experiment that it was in ends. Raises ModelUnknown, ArtifactError, ReleaseUntrusted, and as
    `shelf` does.
    """
    present = await shelf(settings, "models rollback")
    release = present.release
    chosen = present.find(version or _before(present))
    serves = release is not None and (chosen.version, chosen.sha256) == (release.version, release.sha256)
    is_tried = present.experiment is not None and present.experiment.version == chosen.version
    if serves and not is_tried:
        raise ModelUnknown(f"{chosen.version} is in service already; expected another one")
    await _check(chosen, settings)
    async with _post(settings) as outbox:
        if release is None or not serves:  # it does where an earlier attempt got no further
            previous = None if release is None else release.version
            what = (chosen.version, chosen.address, chosen.sha256, previous)
            release = await announce(outbox, settings, *what, wall_ms())
        if is_tried:
            await releases.end_experiment(outbox, settings)  # or it would be tried anew on them at the next release
        return release


async def experiment(settings: Settings, version: str, share: float) -> Experiment:
    """Announces that a share of the users shall get lists of this version, beside the released one; an experiment that
    runs is replaced. The version is checked as by `rollback`, and the same is raised."""
    if not 0 < share < 1:
        raise SettingInvalid(f"--share is {share:g}; expected a share between 0 and 1, such as 0.1")
    present = await shelf(settings, "models experiment")
    chosen = present.find(version)
    if present.release is None:
        raise ModelUnknown("no model was ever released: there is nothing to compare with; release one first")
    if chosen.version == present.release.version:
        raise ModelUnknown(f"{chosen.version} is in service already; expected another one")
    await _check(chosen, settings)
    async with _post(settings) as outbox:
        what = (chosen.version, chosen.address, chosen.sha256, present.release.version)
        return await releases.begin_experiment(outbox, settings, *what, share, wall_ms())


async def end_experiment(settings: Settings) -> None:
    """Gives all users back to the released version, whatever stands in the topic. Raises as `shelf` does."""
    await rights.check(settings, "models experiment")
    async with _post(settings) as outbox:
        await releases.end_experiment(outbox, settings)


@asynccontextmanager
async def _post(settings: Settings) -> AsyncIterator[Outbox]:
    """Raises BrokerUnavailable for whatever the broker does not do."""
    connection = Connection(settings)
    outbox = Outbox(connection, settings.request_timeout_seconds)
    try:
        await outbox.start()
        yield outbox
    except (KafkaError, OSError) as error:
        raise BrokerUnavailable(f"no answer from the Kafka broker at {connection.address}: {error!r}") from error
    finally:
        await outbox.stop()


def _before(present: Shelf) -> str:
    """The version that served when the present one was trained. Not the one that was released before it: to roll back
    twice goes back twice, and not to and fro."""
    if present.release is None:
        why = present.unreadable.get(RELEASE_KEY, "no model was ever released")
        raise ModelUnknown(f"{why}; name the version that shall be: efficientrec models list")
    manifest = present.find(present.release.version).manifest
    if manifest.previous is None:
        raise ModelUnknown(f"{manifest.version} took the place of none; name the version: efficientrec models list")
    return manifest.previous


async def _check(chosen: Stored, settings: Settings) -> None:
    """Raises ArtifactError for what a worker would refuse, ReleaseUntrusted for what our key vouched for never."""
    await asyncio.to_thread(_load, chosen, settings)
    await asyncio.to_thread(releases.check, settings, chosen.version, chosen.address, chosen.sha256)


def _load(chosen: Stored, settings: Settings) -> None:
    if not artifact.lies_in(chosen.address, settings.models_dir):
        raise ArtifactMismatch(f"{chosen.address} does not lie in EFFICIENTREC_MODELS_DIR, {settings.models_dir}")
    model, _ = artifact.load(chosen.address, chosen.sha256)
    probe(model, settings.list_size, settings.list_format)


def render(present: Shelf) -> RenderableType:
    """A table for a terminal: the newest first, with the scores on held-out events of each model and its rivals."""
    serving = None if present.release is None else present.release.version
    scores = list(dict.fromkeys(metric for each in present.models for metric in _scores(each)))
    table = Table("version", "created", "encoder", "events", *scores, "", box=None, header_style="dim", pad_edge=False)
    for each in present.models:
        own = _scores(each)
        table.add_row(
            Text(each.version),
            Text(each.manifest.created_at),
            Text(each.manifest.encoder),
            f"{each.manifest.window.interactions:,}",
            *(f"{own[metric]:.4f}" if metric in own else "" for metric in scores),
            _state(each.version, serving, present.experiment),
        )
    said = [Text(f"{why}. {CURES[key]}", style="bold red") for key, why in present.unreadable.items()]
    if serving is None:
        if RELEASE_KEY not in present.unreadable:
            said.append(Text("No model was released yet: lists are what is popular.", style="dim"))
        return Group(table, *said)
    known = {each.version for each in present.models}
    states = {serving: "released"} | ({} if present.experiment is None else {present.experiment.version: "tried"})
    missing = [
        Text(f"{version} is {state}, but is not in EFFICIENTREC_MODELS_DIR.", style="bold red")
        for version, state in states.items()
        if version not in known
    ]
    return Group(table, *said, *missing)


def _state(version: str, serving: str | None, tried: Experiment | None) -> str:
    if version == serving:
        return "released"
    return f"tried on {100 * tried.share:.4g}%" if tried is not None and version == tried.version else ""


def _scores(stored: Stored) -> dict[str, float]:
    return stored.manifest.scores.get("candidate", {})
