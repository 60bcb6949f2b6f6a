"""Releases that only the owner of a key can have made, and what others try in vain."""

from __future__ import annotations

import asyncio
import base64
import json
import shutil
import stat
from collections.abc import Callable
from pathlib import Path

import pytest
from aiokafka.structs import ConsumerRecord
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from msgspec.structs import astuple, replace

from efficientrec.errors import ReleaseUntrusted, SettingInvalid
from streams.experiments import Models
from streams.follower import Record
from streams.metrics import WorkerMetrics
from streams.records import (
    EXPERIMENT_KEY,
    RELEASE_KEY,
    SCHEMA_VERSION,
    Experiment,
    Release,
    decode_experiment,
    decode_release,
    encode,
)
from streams.settings import Settings
from streams.signing import Signer, make_keys, signer, trust
from streams.trainer import World
from tests.toy import save_toy, toy_model

RELEASE = Release(SCHEMA_VERSION, "v1", "s3://models/v1", "0" * 64, "2024-05-01T12:05:00.000Z", "v0")


@pytest.fixture
def keys(tmp_path: Path) -> Settings:
    signing, trusted = make_keys(tmp_path / "keys")
    return Settings(models_dir=str(tmp_path), models_signing_key_file=signing, models_trusted_key_file=trusted)


class Installation:
    """A worker's slot that trusts a key, and a trainer's that has it."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self.metrics = WorkerMetrics(())
        self.models = Models(settings.models_dir, 5, self.metrics, trust=trust(settings))
        made = signer(settings)
        assert made is not None
        self.signer: Signer = made

    def saved(self, version: str, day: int = 1) -> Release:
        """A model in the folder, and what an attacker could say of it."""
        address = f"{self._settings.models_dir}/{version}"
        digest = save_toy(toy_model(version), address)
        return Release(SCHEMA_VERSION, version, address, digest, f"2024-05-{day:02}T12:05:00.000Z")

    def hears(self, *releases: Release) -> str | None:
        records: list[Record] = [
            ConsumerRecord("releases", 0, offset, 0, 0, RELEASE_KEY, encode(release), None, 0, 0, ())
            for offset, release in enumerate(releases)
        ]
        asyncio.run(self.models.handle(records))
        current = self.models.released.current
        return None if current is None else current.version

    def tries(self, experiment: Experiment | None) -> str | None:
        """The version that is tried after this record."""
        value = None if experiment is None else encode(experiment)
        asyncio.run(self.models.handle([ConsumerRecord("releases", 0, 0, 0, 0, EXPERIMENT_KEY, value, None, 0, 0, ())]))
        treatment = self.models.arms.treatment
        return None if treatment is None or treatment.model is None else treatment.model.version

    def refused(self) -> float | None:
        return self.metrics.registry.get_sample_value("efficientrec_model_swaps_total", {"outcome": "refused"})


def test_a_signed_release_is_trusted_as_it_travels(keys: Settings) -> None:
    installation, trusted = Installation(keys), trust(keys)
    assert trusted is not None

    trusted.check(decode_release(encode(installation.signer.signed(RELEASE))))


CHANGES: dict[str, Callable[[Release], Release]] = {
    "version": lambda release: replace(release, version="v2"),
    "address": lambda release: replace(release, address="s3://models/v2"),
    "sha256": lambda release: replace(release, sha256="1" * 64),
    "released_at": lambda release: replace(release, released_at="2025-05-01T12:05:00.000Z"),
    "previous_version": lambda release: replace(release, previous_version=None),
    "signature": lambda release: replace(release, signature=None),
    "another signature": lambda release: replace(release, signature=base64.b64encode(bytes(64)).decode()),
    "no base64": lambda release: replace(release, signature="é\n"),
    "an empty one": lambda release: replace(release, signature=""),
}


@pytest.mark.parametrize("name", CHANGES)
def test_whatever_is_changed_in_it_it_is_trusted_no_more(keys: Settings, name: str) -> None:
    installation, trusted = Installation(keys), trust(keys)
    assert trusted is not None

    with pytest.raises(ReleaseUntrusted, match=r"release v\d .*expected"):
        trusted.check(CHANGES[name](installation.signer.signed(RELEASE)))


def test_a_worker_serves_on_whoever_writes_to_the_topic(keys: Settings, tmp_path: Path) -> None:
    installation = Installation(keys)
    mallory = Signer(make_keys(tmp_path / "mallory")[0])
    evil = installation.saved("evil", day=9)
    good = installation.signer.signed(installation.saved("good", day=2))

    assert installation.hears(evil, mallory.signed(evil)) is None
    assert installation.hears(good, evil, mallory.signed(evil)) == "good"
    assert installation.hears(replace(good, version=evil.version, address=evil.address)) == "good"
    assert installation.refused() == 5
    assert installation.hears(installation.signer.signed(installation.saved("better", day=3))) == "better"


def test_an_old_release_that_is_sent_again_is_refused_and_a_new_one_of_an_old_model_is_not(keys: Settings) -> None:
    installation = Installation(keys)
    sign = installation.signer.signed
    old, new = installation.saved("old", day=1), installation.saved("new", day=2)
    assert installation.hears(sign(old), sign(new)) == "new"

    assert installation.hears(sign(old)) == "new"
    assert installation.hears(sign(replace(old, released_at="2024-05-03T12:05:00.000Z"))) == "old"


EXPERIMENT = Experiment(*astuple(RELEASE), share=0.1, salt="salt")
CHANGES_OF_AN_EXPERIMENT: dict[str, Callable[[Experiment], Release]] = {
    "share": lambda experiment: replace(experiment, share=0.9),
    "salt": lambda experiment: replace(experiment, salt="pepper"),
    "version": lambda experiment: replace(experiment, version="v2"),
    "into a release": lambda experiment: Release(*astuple(experiment)[:7]),
    "signature": lambda experiment: replace(experiment, signature=None),
}


@pytest.mark.parametrize("name", CHANGES_OF_AN_EXPERIMENT)
def test_an_experiment_is_trusted_as_it_was_signed_and_never_as_a_release(keys: Settings, name: str) -> None:
    installation, trusted = Installation(keys), trust(keys)
    assert trusted is not None
    signed = installation.signer.signed(EXPERIMENT)
    trusted.check(decode_experiment(encode(signed)))

    with pytest.raises(ReleaseUntrusted, match="expected"):
        trusted.check(CHANGES_OF_AN_EXPERIMENT[name](signed))


def test_a_release_is_never_trusted_as_an_experiment(keys: Settings) -> None:
    installation, trusted = Installation(keys), trust(keys)
    assert trusted is not None
    signed = installation.signer.signed(RELEASE)

    with pytest.raises(ReleaseUntrusted, match="experiment v1 was not signed"):
        trusted.check(Experiment(*astuple(signed), share=0.1, salt="salt"))


def test_a_worker_with_a_key_tries_only_what_was_signed_and_nothing_that_came_before(
    keys: Settings, tmp_path: Path
) -> None:
    installation = Installation(keys)
    mallory = Signer(make_keys(tmp_path / "mallory")[0])
    assert installation.hears(installation.signer.signed(installation.saved("main"))) == "main"
    first, second = (
        installation.signer.signed(Experiment(*astuple(installation.saved(name, day)), share=0.1, salt=name))
        for name, day in (("first", 2), ("second", 3))
    )

    assert installation.tries(mallory.signed(first)) is None
    assert installation.tries(first) == "first"
    assert installation.tries(second) == "second"
    assert installation.tries(first) == "second", "an older one does not come back"
    assert installation.tries(None) is None
    assert installation.tries(second) is None, "nor does one that was ended"
    later = replace(second, released_at="2024-05-04T12:05:00.000Z")
    assert installation.tries(installation.signer.signed(later)) == "second"
    assert installation.refused() == 3


def test_whoever_writes_to_the_folder_swaps_no_model(keys: Settings, tmp_path: Path) -> None:
    installation = Installation(keys)
    assert installation.hears(installation.signer.signed(installation.saved("good"))) == "good"
    announced = installation.signer.signed(installation.saved("next", day=2))
    shutil.rmtree(tmp_path / "next")
    save_toy(toy_model("next", items=[f"b{number}" for number in range(12)]), f"{tmp_path}/next")

    assert installation.hears(announced) == "good"


def test_a_trainer_with_a_key_takes_no_others_release_for_the_one_in_service(keys: Settings) -> None:
    installation = Installation(keys)
    world = World(keys.models_dir, installation.signer.trust)
    evil = encode(installation.saved("evil"))
    record: Record = ConsumerRecord("releases", 0, 0, 0, 0, RELEASE_KEY, evil, None, 0, 0, ())

    asyncio.run(world.releases_came([record]))

    assert world.release is None


def test_a_trainer_does_not_go_back_to_an_older_release_that_is_sent_again(keys: Settings) -> None:
    installation = Installation(keys)
    world = World(keys.models_dir, installation.signer.trust)
    for offset, (version, day) in enumerate([("newer", 2), ("older", 1)]):
        signed = encode(installation.signer.signed(installation.saved(version, day)))
        record: Record = ConsumerRecord("releases", 0, offset, 0, 0, RELEASE_KEY, signed, None, 0, 0, ())
        asyncio.run(world.releases_came([record]))

    assert world.release is not None
    assert world.release.version == "newer"


def test_a_trainer_believes_only_the_manifest_that_was_released(keys: Settings) -> None:
    installation = Installation(keys)
    world = World(keys.models_dir, installation.signer.trust)
    signed = installation.signer.signed(installation.saved("good"))
    manifest = Path(signed.address) / "manifest.json"
    told = json.loads(manifest.read_bytes())
    told["window"]["offsets"] = {"0": 2**53 - 1}
    manifest.write_text(json.dumps(told))
    record: Record = ConsumerRecord("releases", 0, 0, 0, 0, RELEASE_KEY, encode(signed), None, 0, 0, ())

    asyncio.run(world.releases_came([record]))

    assert world.seen_by_serving == {}


def test_the_private_key_is_for_its_owner_and_never_written_over(tmp_path: Path) -> None:
    signing, _ = make_keys(tmp_path / "keys")
    before = signing.read_bytes()

    assert stat.S_IMODE(signing.stat().st_mode) == 0o600
    with pytest.raises(SettingInvalid, match=r"signing\.pem cannot be written \(File exists\)"):
        make_keys(tmp_path / "keys")
    assert signing.read_bytes() == before


def test_what_is_no_such_key_is_refused_and_not_shown(keys: Settings, tmp_path: Path) -> None:
    other = ec.generate_private_key(ec.SECP256R1())
    pem, plain = serialization.Encoding.PEM, serialization.NoEncryption()
    contents = {
        "junk": b"swordfish",
        "another kind": other.private_bytes(pem, serialization.PrivateFormat.PKCS8, plain),
        "encrypted": other.private_bytes(
            pem, serialization.PrivateFormat.PKCS8, serialization.BestAvailableEncryption(b"swordfish")
        ),
    }
    for name, content in contents.items():
        file = tmp_path / name
        file.write_bytes(content)
        with pytest.raises(SettingInvalid, match=r"expected an ed25519 private key in PEM") as caught:
            signer(Settings(models_signing_key_file=file))
        assert "swordfish" not in str(caught.value)
    with pytest.raises(SettingInvalid, match=r"MODELS_TRUSTED_KEY_FILE is .*expected an ed25519 public key"):
        trust(Settings(models_trusted_key_file=keys.models_signing_key_file))
