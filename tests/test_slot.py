"""A release is served when everything about it is right; else the old model goes on, and nothing breaks."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from pathlib import Path

from aiokafka.structs import ConsumerRecord

from streams.follower import Record
from streams.metrics import WorkerMetrics
from streams.records import RELEASE_KEY, SCHEMA_VERSION, Release, encode, moment_ms
from streams.slot import ModelSlot
from tests.toy import save_toy, toy_model


class OnWarning(logging.Handler):
    """Does something when the slot first warns."""

    def __init__(self, act: Callable[[], object]) -> None:
        super().__init__(logging.WARNING)
        self._act = act

    def emit(self, record: logging.LogRecord) -> None:
        self._act()


class World:
    """A slot that serves models from a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.now = 0.0
        self.metrics = WorkerMetrics((), lambda: self.now)
        self.slot = ModelSlot(str(folder), 5, self.metrics)

    def saved(self, version: str, folder: Path | None = None, created_at: str = "2026-01-01T00:00:00Z") -> Release:
        address = str((folder or self.folder) / version)
        digest = save_toy(toy_model(version), address, created_at)
        return Release(SCHEMA_VERSION, version, address, digest, "2024-05-01T12:05:00.000Z")

    def hears(self, *values: Release | bytes | None, key: bytes | None = RELEASE_KEY) -> str | None:
        """The version in service after these records."""
        bodies = [encode(value) if isinstance(value, Release) else value for value in values]
        records: list[Record] = [
            ConsumerRecord("releases", 0, offset, 0, 0, key, body, None, 0, 0, ()) for offset, body in enumerate(bodies)
        ]
        asyncio.run(self.slot.handle(records))
        return None if self.slot.current is None else self.slot.current.version

    def shown(self, name: str) -> float | None:
        return self.metrics.registry.get_sample_value(name)

    def swaps(self, outcome: str) -> float | None:
        return self.metrics.registry.get_sample_value("efficientrec_model_swaps_total", {"outcome": outcome})


def test_the_newest_release_is_served(tmp_path: Path) -> None:
    world = World(tmp_path)

    assert world.hears(world.saved("toy-1"), world.saved("toy-2"), b"junk", None) == "toy-2"
    assert world.swaps("installed") == 1


def test_a_release_that_lies_elsewhere_is_refused_though_it_could_be_served(tmp_path: Path) -> None:
    world = World(tmp_path / "models")
    world.hears(world.saved("toy-1"))

    assert world.hears(world.saved("toy-2", tmp_path / "elsewhere")) == "toy-1"
    assert world.swaps("refused") == 1


def test_an_artifact_that_cannot_be_read_at_first_is_served_when_it_can(tmp_path: Path) -> None:
    world = World(tmp_path)
    release = world.saved("toy-1")
    there, away = tmp_path / "toy-1", tmp_path / "away"
    there.rename(away)

    handler = OnWarning(lambda: away.rename(there))
    logging.getLogger("streams.slot").addHandler(handler)
    try:
        installed = asyncio.run(world.slot.offer(release))
    finally:
        logging.getLogger("streams.slot").removeHandler(handler)

    assert installed
    assert (world.swaps("installed"), world.swaps("refused")) == (1, 0)


def test_a_release_under_another_name_than_its_artifact_is_refused(tmp_path: Path) -> None:
    world = World(tmp_path)
    release = world.saved("toy-1")
    release.version = "toy-9"

    assert world.hears(release) is None
    assert world.swaps("refused") == 1


def test_a_release_that_cannot_be_opened_is_refused(tmp_path: Path) -> None:
    world = World(tmp_path)
    release = world.saved("toy-1")
    release.address = "nosuchkind://host/toy-1"

    assert world.hears(release) is None


def test_only_records_of_the_releases_key_count(tmp_path: Path) -> None:
    world = World(tmp_path)

    assert world.hears(world.saved("toy-1"), key=b"other") is None


def test_the_age_of_the_model_in_service_is_since_it_was_made_not_since_it_came(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.now = moment_ms("2026-01-03T00:00:00Z") / 1000
    assert world.shown("efficientrec_model_age_seconds") == 0

    world.hears(world.saved("toy-1", created_at="2026-01-01T00:00:00Z"))
    assert world.shown("efficientrec_model_age_seconds") == 2 * 86_400
    world.now += 60
    assert world.shown("efficientrec_model_age_seconds") == 2 * 86_400 + 60
    world.hears(world.saved("toy-2", created_at="2026-01-03T00:00:00Z"))
    assert world.shown("efficientrec_model_age_seconds") == 60


def test_an_older_model_that_takes_a_newer_ones_place_is_a_rollback(tmp_path: Path) -> None:
    world = World(tmp_path)
    first = world.saved("toy-1", created_at="2026-01-01T00:00:00Z")
    world.hears(first)
    world.hears(world.saved("toy-2", created_at="2026-01-02T00:00:00Z"))
    assert world.shown("efficientrec_model_rollbacks_total") == 0

    world.hears(first)

    assert world.shown("efficientrec_model_rollbacks_total") == 1


def test_a_first_model_that_is_refused_leaves_its_name_until_another_is_served(tmp_path: Path) -> None:
    world = World(tmp_path / "models")
    world.hears(world.saved("toy-1", tmp_path / "elsewhere"))
    assert world.slot.unserved == "toy-1"

    world.hears(world.saved("toy-2"))
    assert world.slot.unserved == ""
    world.hears(world.saved("toy-3", tmp_path / "elsewhere"))
    assert world.slot.unserved == "", "toy-2 serves"


def test_the_slot_knows_what_its_model_was_trained_on(tmp_path: Path) -> None:
    world = World(tmp_path)

    world.hears(world.saved("toy-1"))

    assert world.slot.trained_up_to == {0: 16}
