"""A second model is tried on a share of the users when everything about it is right; else all stay with the first."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path

import pytest
from aiokafka.structs import ConsumerRecord
from msgspec.structs import astuple, replace

from streams.arms import CONTROL, TREATMENT
from streams.experiments import Models
from streams.metrics import WorkerMetrics
from streams.records import EXPERIMENT_KEY, RELEASE_KEY, SCHEMA_VERSION, Experiment, Release, encode
from tests.toy import save_toy, toy_model

KEYS = {Release: RELEASE_KEY, Experiment: EXPERIMENT_KEY}


class World:
    """Slots that serve models from a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.metrics = WorkerMetrics(())
        self.models = Models(str(folder), 5, self.metrics)
        self._saved: dict[str, str] = {}

    def released(self, version: str) -> Release:
        address = str(self.folder / version)
        if version not in self._saved:
            self._saved[version] = save_toy(toy_model(version), address)
        return Release(SCHEMA_VERSION, version, address, self._saved[version], "2024-05-01T12:05:00.000Z")

    def tried(self, version: str, share: float = 0.1) -> Experiment:
        return Experiment(*astuple(self.released(version)), share=share, salt=f"salt of {version}")

    def hears(self, *said: Release | bytes | None) -> tuple[str | None, str | None, float]:
        """Released version, tried version and its share after these records, which come at once; bytes and nulls are
        of the experiment's key."""
        records = []
        for offset, each in enumerate(said):
            value, key = (encode(each), KEYS[type(each)]) if isinstance(each, Release) else (each, EXPERIMENT_KEY)
            records.append(ConsumerRecord("releases", 0, offset, 0, 0, key, value, None, 0, 0, ()))
        asyncio.run(self.models.handle(records))
        arms = self.models.arms
        control, treatment = (
            None if arm is None or arm.model is None else arm.model.version for arm in (arms.control, arms.treatment)
        )
        assert arms.share == self.metrics.registry.get_sample_value("efficientrec_experiment_share_ratio")
        return control, treatment, arms.share

    def shown(self) -> set[tuple[str, str]]:
        """Version and arm of the models in service, as the metrics have it."""
        return {
            (sample.labels["model_version"], sample.labels["arm"])
            for metric in self.metrics.model.collect()
            for sample in metric.samples
        }

    def swaps(self, outcome: str) -> float | None:
        return self.metrics.registry.get_sample_value("efficientrec_model_swaps_total", {"outcome": outcome})


@pytest.fixture
def world(tmp_path: Path) -> World:
    """One in which toy-1 is released."""
    world = World(tmp_path)
    assert world.hears(world.released("toy-1")) == ("toy-1", None, 0.0)
    return world


def test_an_experiment_begins_changes_its_share_and_ends(world: World) -> None:
    assert world.hears(world.tried("toy-2")) == ("toy-1", "toy-2", 0.1)
    assert world.shown() == {("toy-1", CONTROL), ("toy-2", TREATMENT)}

    assert world.hears(world.tried("toy-2", 0.5)) == ("toy-1", "toy-2", 0.5)
    assert world.models.arms.salt == "salt of toy-2"
    assert world.swaps("installed") == 2, "the model was there already"

    assert world.hears(None) == ("toy-1", None, 0.0)
    assert world.shown() == {("toy-1", CONTROL)}
    assert world.hears(None) == ("toy-1", None, 0.0)


def test_the_log_does_not_say_that_a_tried_model_took_the_place_of_another(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)

    world.hears(world.tried("toy-2"))

    assert [record.getMessage() for record in caplog.records if "took the place" in record.getMessage()] == []
    assert "model toy-2 is tried on 10% of the users" in caplog.text


def test_of_several_records_the_last_counts(world: World) -> None:
    assert world.hears(world.tried("toy-2"), None, world.tried("toy-3")) == ("toy-1", "toy-3", 0.1)
    assert world.hears(world.tried("toy-2"), None) == ("toy-1", None, 0.0)
    assert world.swaps("installed") == 2


def test_a_model_that_cannot_serve_leaves_all_with_the_released_one(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    good = world.tried("toy-2")
    assert world.hears(good) == ("toy-1", "toy-2", 0.1)

    assert world.hears(replace(world.tried("toy-3"), sha256="0" * 64)) == ("toy-1", None, 0.0)

    assert world.swaps("refused") == 1
    assert "model toy-3 refused, the released model goes on serving: ArtifactCorrupt" in caplog.text
    assert world.shown() == {("toy-1", CONTROL)}
    assert world.models.released.unserved == "", "the worker is as ready as before"


def test_what_cannot_be_read_changes_nothing(world: World) -> None:
    world.hears(world.tried("toy-2"))

    for junk in (b"junk", encode(world.released("toy-1")), encode(world.tried("toy-3", 1.5))):
        assert world.hears(junk) == ("toy-1", "toy-2", 0.1)


def test_a_model_beside_itself_is_no_experiment(world: World) -> None:
    world.hears(world.tried("toy-2"))

    assert world.hears(world.released("toy-2")) == ("toy-2", None, 0.0)
    assert world.hears(world.released("toy-1")) == ("toy-1", "toy-2", 0.1)


def test_before_the_first_model_there_is_no_experiment(tmp_path: Path) -> None:
    world = World(tmp_path)

    assert world.hears(world.tried("toy-2")) == (None, None, 0.0)
    assert world.hears(world.released("toy-1")) == ("toy-1", "toy-2", 0.1)


def test_arms_know_what_their_models_were_trained_on_and_a_batch_keeps_the_ones_that_it_took(world: World) -> None:
    world.hears(world.tried("toy-2"))
    taken = world.models.arms

    world.hears(world.released("toy-3"), None)

    assert taken.treatment is not None
    assert taken.treatment.trained_up_to == taken.control.trained_up_to == {0: 16}
    assert (taken.control.model, taken.treatment.model) != (None, None)
    assert taken.control.model is not None
    assert taken.control.model.version == "toy-1"
    assert taken.share == 0.1


def test_a_tried_model_counts_neither_as_a_rollback_nor_for_the_age_of_the_model(world: World) -> None:
    value = world.metrics.registry.get_sample_value
    before = value("efficientrec_model_age_seconds")
    address = str(world.folder / "old")
    digest = save_toy(toy_model("old"), address, "2020-01-01T00:00:00Z")

    world.hears(replace(world.tried("toy-2"), version="old", address=address, sha256=digest))

    assert world.models.arms.treatment is not None
    assert value("efficientrec_model_rollbacks_total") == 0
    assert (value("efficientrec_model_age_seconds") or 0) - (before or 0) < 86_400
