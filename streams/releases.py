"""Puts a model version into service, for all users or a share of them: the one place where a release or an experiment
is made, signed and announced."""

from __future__ import annotations

import asyncio
import logging
import posixpath
from contextlib import suppress

import fsspec

from efficientrec import artifact
from efficientrec.errors import RecordInvalid, ReleaseUntrusted
from streams.aside import Post
from streams.records import (
    EXPERIMENT_KEY,
    RELEASE_KEY,
    SCHEMA_VERSION,
    Experiment,
    Release,
    decode_release,
    encode,
    rfc3339,
)
from streams.settings import Settings
from streams.signing import signer
from streams.topics import Topics

log = logging.getLogger(__name__)

RECORD = "release.json"
"""The signed release, in the folder of its artifact: who puts the model back into service vouches for no other."""


async def announce(
    post: Post, settings: Settings, version: str, address: str, sha256: str, previous: str | None, now_ms: int
) -> Release:
    """Returns when the broker has the release; every worker takes it from there. Raises KafkaError, and
    SettingInvalid for a key that cannot be used.

    sha256: of the artifact's manifest. previous: the version that it takes the place of.
    """
    release = Release(
        schema_version=SCHEMA_VERSION,
        version=version,
        address=address,
        sha256=sha256,
        released_at=rfc3339(now_ms),
        previous_version=previous,
    )
    own = signer(settings)
    if own is not None:
        release = own.signed(release)
        try:
            await asyncio.to_thread(_leave, release)
        except Exception as error:  # a store's own client raises errors of its own kind
            log.warning("%s cannot be put back into service later, with this key: %r", version, error)
    await _send(post, settings, RELEASE_KEY, encode(release))
    return release


async def begin_experiment(
    post: Post, settings: Settings, version: str, address: str, sha256: str, control: str, share: float, now_ms: int
) -> Experiment:
    """The same for a version that a share of the users shall get. control: the released version, beside which it is
    tried."""
    started_at = rfc3339(now_ms)
    experiment = Experiment(
        schema_version=SCHEMA_VERSION,
        version=version,
        address=address,
        sha256=sha256,
        released_at=started_at,
        previous_version=control,
        share=share,
        salt=f"{version} {started_at}",  # each experiment divides the users in a way of its own
    )
    own = signer(settings)
    if own is not None:
        experiment = own.signed(experiment)
    await _send(post, settings, EXPERIMENT_KEY, encode(experiment))
    return experiment


async def end_experiment(post: Post, settings: Settings) -> None:
    """Returns when the broker knows that all users shall get the released version. Raises KafkaError."""
    await _send(post, settings, EXPERIMENT_KEY, None)


async def _send(post: Post, settings: Settings, key: bytes, value: bytes | None) -> None:
    sent = await post.send_one(Topics.of(settings).releases, key, value, [])
    await sent.acknowledged()


def check(settings: Settings, version: str, address: str, sha256: str) -> None:
    """Returns if the artifact was released with the key of the settings, as it is, or if there is none. Raises
    ReleaseUntrusted."""
    own = signer(settings)
    if own is None:
        return
    found = None
    # A store's own client raises errors of its own kind.
    with suppress(Exception), fsspec.open(posixpath.join(address, RECORD), "rb") as file:
        found = file.read(artifact.MANIFEST_BYTES_MAX)
    try:
        release = decode_release(found or b"")
        own.trust.check(release)
    except (RecordInvalid, ReleaseUntrusted):
        release = None
    if release is None or (release.version, release.sha256) != (version, sha256):
        raise ReleaseUntrusted(
            f"{address} was not released with this key, as it is now; expected a {RECORD} of the trainer that has it: "
            "who signs what merely lies there vouches for whoever can write there"
        )


def _leave(release: Release) -> None:
    with fsspec.open(posixpath.join(release.address, RECORD), "wb") as file:
        file.write(encode(release))
