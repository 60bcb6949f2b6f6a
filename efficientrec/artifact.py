"""A model version on disk: one directory, written whole or not at all, and checked byte for byte when it is read.

  manifest.json            version, encoder, parameters, training window, held-out scores, sha256 and size of all others
  weights.safetensors      the arrays of the encoder, of the clusters and of the ranking
  shortlists.safetensors   shortlists of clusters, anchors and neighbours, and what is popular
  items.json               item ids in the order of the arrays

An address is a path or a URL that fsspec opens, so a local folder, NFS and an object store serve alike. Nothing is
pickled.
"""

from __future__ import annotations

import hashlib
import posixpath
import re
import secrets
from contextlib import suppress
from dataclasses import asdict
from typing import Any, TypeVar

import fsspec
import msgspec
from fsspec.core import strip_protocol
from fsspec.implementations.local import LocalFileSystem
from fsspec.utils import get_protocol
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load as load_arrays
from safetensors.numpy import save as save_arrays

from efficientrec.clusters import Assignment, Clusters, CoClusters
from efficientrec.encoders.registry import ENCODERS
from efficientrec.errors import ArtifactCorrupt, ArtifactMismatch, ArtifactUnavailable
from efficientrec.interactions import key_of
from efficientrec.model import VOICES, Blend, Model
from efficientrec.shortlists import Shortlists
from efficientrec.vocabulary import Vocabulary

FORMAT = 2
MANIFEST = "manifest.json"
WEIGHTS = "weights.safetensors"
SHORTLISTS = "shortlists.safetensors"
ITEMS = "items.json"
MANIFEST_BYTES_MAX = 16 * 1024 * 1024
"""What is read of a manifest, whose size nobody has announced: one has some kilobytes, and 20 bytes a partition."""
_RANKING = ("ranking_vectors", "ranking_places", "item_bias")
_NAME = re.compile(r"\w[\w.-]*")

Decoded = TypeVar("Decoded")


class Window(msgspec.Struct, frozen=True, kw_only=True):
    """What a model was trained on: `offsets` maps each partition to the offset after the last one read."""

    interactions: int
    first_at: int
    """Event time in milliseconds."""
    last_at: int
    offsets: dict[str, int] = {}

    def partitions(self) -> dict[int, int]:
        """Partition of the topic → offset; without what did not come from one."""
        return {int(partition): offset for partition, offset in self.offsets.items() if partition.isdecimal()}


class Parameters(msgspec.Struct, frozen=True, kw_only=True):
    """The numbers of a model that are not arrays."""

    encoder: dict[str, int | float]
    clusters: int
    clusters_kept: int
    blend: dict[str, int | float]
    votes: dict[str, int | float] | None = None


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """What stands in manifest.json."""

    format: int = FORMAT
    version: str
    encoder: str
    created_at: str
    """RFC 3339."""
    window: Window
    parameters: Parameters
    settings: dict[str, Any]
    """Everything the training was called with, the seed among it."""
    scores: dict[str, dict[str, float]]
    """Held-out scores: of this model, of the one in service then, and of popularity."""
    previous: str | None = None
    files: dict[str, str] = {}
    """sha256 of every file, in hex."""
    sizes: dict[str, int] = {}
    """Bytes of every file; none in artifacts from before there were any."""


def save(
    model: Model,
    address: str,
    *,
    created_at: str,
    window: Window,
    settings: dict[str, Any],
    scores: dict[str, dict[str, float]],
    previous: str | None = None,
) -> str:
    """Writes the artifact to a folder that must not exist yet; returns the sha256 of its manifest.

    It is written under a temporary name and renamed whole, so nobody ever reads half of it.
    """
    model.check()
    encoder, clusters = model.encoder, model.clusters
    weights: dict[str, NDArray[Any]] = {name: getattr(encoder, name) for name in encoder.ARRAYS}
    if isinstance(clusters, Clusters):
        weights |= {"cluster_weights": clusters.weights, "cluster_bias": clusters.bias}
    weights |= {name: getattr(model, name) for name in _RANKING}
    lists: dict[str, NDArray[Any]] = {"popular": model.popular}
    for voice, shortlists in model.shortlists.items():
        lists |= {f"{voice}_items": shortlists.items, f"{voice}_scores": shortlists.scores}
    files = {
        WEIGHTS: save_arrays(weights),
        SHORTLISTS: save_arrays(lists),
        ITEMS: msgspec.json.encode(model.items.ids),
    }
    manifest = Manifest(
        version=model.version,
        encoder=encoder.NAME,
        created_at=created_at,
        window=window,
        parameters=Parameters(
            encoder={name: getattr(encoder, name) for name in encoder.NUMBERS},
            clusters=len(clusters),
            clusters_kept=clusters.kept,
            blend=asdict(model.blend),
            votes=None if model.votes is None else asdict(model.votes),
        ),
        settings=settings,
        scores=scores,
        previous=previous,
        files={name: hashlib.sha256(content).hexdigest() for name, content in files.items()},
        sizes={name: len(content) for name, content in files.items()},
    )
    described = msgspec.json.format(msgspec.json.encode(manifest), indent=2)
    filesystem, path = fsspec.url_to_fs(address)
    if filesystem.exists(path):
        raise ArtifactMismatch(f"{address} exists already; every version has a folder of its own")
    partial = f"{path}.{secrets.token_hex(4)}.partial"
    try:
        filesystem.makedirs(partial)
        for name, content in (*files.items(), (MANIFEST, described)):
            with filesystem.open(posixpath.join(partial, name), "wb") as file:
                file.write(content)
        filesystem.mv(partial, path, recursive=True)
    except BaseException:
        with suppress(Exception):  # what stopped the writing is the news, not that half of it could not be removed
            filesystem.rm(partial, recursive=True)
        raise
    return hashlib.sha256(described).hexdigest()


def lies_in(address: str, folder: str) -> bool:
    """Whether an address is that of a folder right below `folder`; tells by the texts, and opens nothing.

    An address can come from a topic, and fsspec opens whatever it is told: any host, any file, archives within both.

    >>> lies_in("s3://models/v1", "s3://models"), lies_in("http://elsewhere/v1", "s3://models")
    (True, False)
    """

    def place(text: str) -> str:
        is_local = "::" not in text and get_protocol(text) in LocalFileSystem.protocol
        return str(strip_protocol(text) if is_local else text).rstrip("/")

    parent, _, name = place(address).rpartition("/")
    return parent == place(folder) and _NAME.fullmatch(name) is not None


def load(address: str, sha256: str | None = None) -> tuple[Model, Manifest]:
    """Reads an artifact. sha256: the digest that its manifest must have, as announced; None trusts the folder.

    Raises ArtifactCorrupt when bytes are missing or not those that were published, ArtifactMismatch when they are but
    cannot be served by this release.
    """
    try:
        filesystem, path = fsspec.url_to_fs(address)
    except (ImportError, ValueError) as error:
        raise ArtifactMismatch(f"{address} is of a kind that cannot be opened here: {error}") from error

    def read(name: str, digest: str | None, most: int | None) -> bytes:
        """most: bytes that it may have, so that who can write to the folder cannot fill the memory; None is any."""
        try:
            with filesystem.open(posixpath.join(path, name), "rb") as file:
                content: bytes = file.read(-1 if most is None else most + 1)
        except Exception as error:  # a store's own client raises errors of its own kind
            raise ArtifactUnavailable(f"{name} of {address} cannot be read: {error!r}") from error
        if most is not None and len(content) > most:
            raise ArtifactCorrupt(f"{name} of {address} is not what was published: it has more than {most} bytes")
        if digest is not None and hashlib.sha256(content).hexdigest() != digest:
            raise ArtifactCorrupt(f"{name} of {address} is not what was published: its sha256 is not {digest}")
        return content

    described = read(MANIFEST, sha256, MANIFEST_BYTES_MAX)
    manifest = _decoded(described, Manifest, MANIFEST, address)
    if manifest.format != FORMAT or manifest.encoder not in ENCODERS:
        raise ArtifactMismatch(
            f"{address} has format {manifest.format}, encoder {manifest.encoder!r}; "
            f"this release serves format {FORMAT}, encoders {', '.join(ENCODERS)}"
        )
    missing = {WEIGHTS, SHORTLISTS, ITEMS} - manifest.files.keys()
    if missing:
        raise ArtifactCorrupt(f"{MANIFEST} of {address} does not list {', '.join(sorted(missing))}")

    def content_of(name: str) -> bytes:
        return read(name, manifest.files[name], manifest.sizes.get(name))

    weights = _arrays(content_of(WEIGHTS), WEIGHTS, address)
    lists = _arrays(content_of(SHORTLISTS), SHORTLISTS, address)
    items = Vocabulary(_decoded(content_of(ITEMS), list[str], ITEMS, address))
    try:
        model = _assemble(manifest, items, weights, lists)
    except (KeyError, msgspec.ValidationError) as error:
        raise ArtifactMismatch(f"{address} lacks or misnames a part: {error}") from error
    model.check()
    return model, manifest


def _assemble(
    manifest: Manifest, items: Vocabulary, weights: dict[str, NDArray[Any]], lists: dict[str, NDArray[Any]]
) -> Model:
    parameters, kind = manifest.parameters, ENCODERS[manifest.encoder]
    encoder = kind(
        key=key_of(manifest.version),
        items=items,
        **{name: weights[name] for name in kind.ARRAYS},
        **{name: convert(parameters.encoder[name]) for name, convert in kind.NUMBERS.items()},
    )
    if "cluster_weights" in weights:
        clusters: Assignment = Clusters(weights["cluster_weights"], weights["cluster_bias"], parameters.clusters_kept)
    else:
        clusters = CoClusters(parameters.clusters, parameters.clusters_kept)
    voices = {voice: Shortlists(lists[f"{voice}_items"], lists[f"{voice}_scores"]) for voice in VOICES}
    return Model(
        version=manifest.version,
        items=items,
        encoder=encoder,
        clusters=clusters,
        cluster_shortlists=voices["cluster"],
        anchor_shortlists=voices["anchor"],
        neighbour_shortlists=voices["neighbour"],
        popular=lists["popular"],
        ranking_vectors=weights["ranking_vectors"],
        ranking_places=weights["ranking_places"],
        item_bias=weights["item_bias"],
        blend=msgspec.convert(parameters.blend, Blend, strict=False),
        votes=None if parameters.votes is None else msgspec.convert(parameters.votes, Blend, strict=False),
    )


def _decoded(content: bytes, kind: type[Decoded], name: str, address: str) -> Decoded:
    try:
        return msgspec.json.decode(content, type=kind)
    except msgspec.DecodeError as error:
        raise ArtifactMismatch(f"{name} of {address} cannot be read by this release: {error}") from error


def _arrays(content: bytes, name: str, address: str) -> dict[str, NDArray[Any]]:
    try:
        # Copies: safetensors gives read-only arrays, for which numba would compile every kernel a second time.
        return {key: array.copy() for key, array in load_arrays(content).items()}
    except (SafetensorError, KeyError, TypeError, ValueError) as error:  # KeyError: a type that numpy does not have
        raise ArtifactMismatch(f"{name} of {address} cannot be read by this release: {error}") from error
