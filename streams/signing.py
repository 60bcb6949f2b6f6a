"""Releases that only the trainer can have made: an ed25519 signature of what a release says.

Signed are version, address, digest and time, and the digest stands for every byte of the artifact; of an experiment
also share and salt, for another purpose, so that neither passes for the other. So whoever can write
to the releases topic or to the models folder, but has not the key, can bring no model into service that the trainer has
not released. An old release stays a signed one: against its return see slot.py and docs/security.md.
"""

from __future__ import annotations

import base64
import binascii
import os
from pathlib import Path
from typing import Any, Final, TypeVar

import msgspec

from efficientrec.errors import ReleaseUntrusted, SettingInvalid
from streams.records import Experiment, Release, moment_ms
from streams.settings import PREFIX, Settings

SIGNING_KEY: Final = "signing.pem"
TRUSTED_KEY: Final = "trusted.pem"
_SIGNED_FOR: Final = {Release: "efficientrec release 1", Experiment: "efficientrec experiment 1"}
"""So that a signature of something else under the same key never passes for one of a release."""


AnyRelease = TypeVar("AnyRelease", bound=Release)


class Signer:
    """The trainer's private key."""

    def __init__(self, path: Path) -> None:
        private = _ed25519("private", path, f"{PREFIX}MODELS_SIGNING_KEY_FILE")
        self._private, self.trust = private, Trust(private.public_key())

    def signed(self, release: AnyRelease) -> AnyRelease:
        """The release or experiment with its signature."""
        signature = base64.b64encode(self._private.sign(_said(release))).decode()
        return msgspec.structs.replace(release, signature=signature)


class Trust:
    """The public key to that, with which everybody can tell whether a release is the trainer's."""

    def __init__(self, public: Any) -> None:
        self._public = public

    def check(self, release: Release, after_ms: int = 0) -> None:
        """Returns if the release or experiment was signed with the private key, as it is, and not before `after_ms`.

        after_ms: the release time of what is in service, so that nobody can send an old release once more.

        Raises:
            ReleaseUntrusted: neither the one nor the other.
        """
        from cryptography.exceptions import InvalidSignature

        what = f"{type(release).__name__.lower()} {release.version}"
        if release.signature is None:
            raise ReleaseUntrusted(f"{what} is not signed; expected one by the trusted key")
        try:
            self._public.verify(base64.b64decode(release.signature, validate=True), _said(release))
        except (InvalidSignature, binascii.Error, ValueError):
            raise ReleaseUntrusted(
                f"{what} was not signed, as it is, with the key that is trusted; expected a trainer "
                f"with the {PREFIX}MODELS_SIGNING_KEY_FILE that belongs to {PREFIX}MODELS_TRUSTED_KEY_FILE"
            ) from None
        if moment_ms(release.released_at) < after_ms:
            raise ReleaseUntrusted(
                f"{what} is of {release.released_at}, before the one in service; expected a newer one: to go back to "
                "an old model, announce it anew"
            )


def signer(settings: Settings) -> Signer | None:
    """None where releases are not signed."""
    return None if settings.models_signing_key_file is None else Signer(settings.models_signing_key_file)


def trust(settings: Settings) -> Trust | None:
    """None where releases are taken as they come."""
    path = settings.models_trusted_key_file
    return None if path is None else Trust(_ed25519("public", path, f"{PREFIX}MODELS_TRUSTED_KEY_FILE"))


def make_keys(folder: Path) -> tuple[Path, Path]:
    """Writes a new pair, the private key for its owner's eyes only; raises SettingInvalid where there is one."""
    serialization, ed25519 = _library()
    private = ed25519.Ed25519PrivateKey.generate()
    pem = serialization.Encoding.PEM
    paths = folder / SIGNING_KEY, folder / TRUSTED_KEY
    texts = (
        private.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()),
        private.public_key().public_bytes(pem, serialization.PublicFormat.SubjectPublicKeyInfo),
    )
    for path, text, mode in zip(paths, texts, (0o600, 0o644), strict=True):
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
                file.write(text)
        except OSError as error:
            raise SettingInvalid(
                f"{path} cannot be written ({error.strerror}); expected a folder of its own"
            ) from error
    return paths


def _said(release: Release) -> bytes:
    fields = (release.version, release.address, release.sha256, release.released_at, release.previous_version)
    more = (release.share, release.salt) if isinstance(release, Experiment) else ()
    return msgspec.json.encode((_SIGNED_FOR[type(release)], *fields, *more))


def _ed25519(kind: str, path: Path, where: str) -> Any:
    serialization, ed25519 = _library()
    try:
        text = path.read_bytes()
        if kind == "public":
            key, expected = serialization.load_pem_public_key(text), ed25519.Ed25519PublicKey
        else:
            key, expected = serialization.load_pem_private_key(text, None), ed25519.Ed25519PrivateKey
    except (OSError, ValueError, TypeError):
        key, expected = None, object  # what is said of it could show what is in the file
    if key is None or not isinstance(key, expected):
        form = "PKCS 8, not encrypted" if kind == "private" else "SubjectPublicKeyInfo"
        raise SettingInvalid(f"{where} is {str(path)!r}; expected an ed25519 {kind} key in PEM ({form})")
    return key


def _library() -> tuple[Any, Any]:
    try:
        from cryptography.hazmat.primitives import serialization
        from cryptography.hazmat.primitives.asymmetric import ed25519
    except ImportError as error:
        raise SettingInvalid(
            "releases cannot be signed or checked: the package cryptography is not installed; expected "
            "pip install 'efficientrec[signed]'"
        ) from error
    return serialization, ed25519
