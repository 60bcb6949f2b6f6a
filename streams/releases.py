"""Puts a model version into service: the one place where a release is made, signed and announced."""

from __future__ import annotations

from streams.aside import Post
from streams.records import RELEASE_KEY, SCHEMA_VERSION, Release, encode, rfc3339
from streams.settings import Settings
from streams.signing import signer
from streams.topics import Topics


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
    sent = await post.send_one(Topics.of(settings).releases, RELEASE_KEY, encode(release), [])
    await sent.acknowledged()
    return release
