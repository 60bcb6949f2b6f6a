"""An artifact is read as it was written, or refused with the reason."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import fsspec
import msgspec
import numpy as np
import pytest
from fsspec.implementations.local import LocalFileSystem
from fsspec.implementations.memory import MemoryFileSystem

from efficientrec import artifact
from efficientrec.clusters import Clusters, CoClusters
from efficientrec.errors import ArtifactCorrupt, ArtifactError, ArtifactMismatch
from efficientrec.model import Model
from efficientrec.recommend import recommend
from efficientrec.shortlists import Shortlists, nothing
from efficientrec.vocabulary import Vocabulary
from tests.toy import START, additive, like, names, random_model, rows_after, same_bits, save_toy, sigmoid, toy_model

FILES = ["manifest.json", "weights.safetensors", "shortlists.safetensors", "items.json"]


@pytest.fixture
def saved(tmp_path: Path) -> tuple[Path, str]:
    folder = tmp_path / "toy-1"
    return folder, save_toy(toy_model(), str(folder))


@pytest.mark.parametrize("model", [toy_model(), random_model(), random_model(items=0, traits=0)])
def test_a_model_comes_back_as_it_was(model: Model, tmp_path: Path) -> None:
    digest = save_toy(model, str(tmp_path / "v"))

    loaded, manifest = artifact.load(str(tmp_path / "v"), digest)

    acts = [like("anna", "i1"), like("anna", "a1"), like("ben", "i2")]
    lists = recommend(model, rows_after(model, *acts), 10)
    assert same_bits(recommend(loaded, rows_after(loaded, *acts), 10), lists)
    assert (loaded.version, loaded.items.ids, loaded.blend) == (model.version, model.items.ids, model.blend)
    assert loaded.encoder.key == model.encoder.key
    assert (manifest.version, manifest.window.offsets, manifest.scores) == (
        model.version,
        {"0": 16},
        {"this": {"ndcg": 1.0}},
    )


def test_an_artifact_is_its_four_files_and_its_digest_is_its_manifests(saved: tuple[Path, str]) -> None:
    folder, digest = saved

    assert sorted(file.name for file in folder.iterdir()) == sorted(FILES)
    assert [file.name for file in folder.parent.iterdir()] == [folder.name]
    assert hashlib.sha256((folder / "manifest.json").read_bytes()).hexdigest() == digest


def test_a_url_serves_as_well_as_a_path() -> None:
    digest = save_toy(toy_model(), "memory://models/toy-1")

    loaded, _ = artifact.load("memory://models/toy-1", digest)

    assert loaded.version == "toy-1"


def flip_a_byte(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def truncate(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-1])


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("harm", [flip_a_byte, truncate, Path.unlink])
def test_a_file_that_is_not_what_was_published_is_refused_by_name(
    saved: tuple[Path, str], name: str, harm: Callable[[Path], None]
) -> None:
    folder, digest = saved
    harm(folder / name)

    with pytest.raises(ArtifactCorrupt, match=name):
        artifact.load(str(folder), digest)


class Counted(MemoryFileSystem):  # type: ignore[misc]  # untyped there
    """A store that notes how many bytes were read of each file."""

    protocol = "counted"
    read: ClassVar[dict[str, int]] = {}

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        stripped: str = super()._strip_protocol(path.removeprefix("counted:/"))
        return stripped

    def _open(self, path: str, mode: str = "rb", **options: Any) -> Any:
        file = super()._open(path, mode, **options)
        if mode == "rb":
            kept, name = file.read, path.rpartition("/")[2]
            file.read = lambda size=-1: self.noted(name, kept(size))
        return file

    def noted(self, name: str, content: bytes) -> bytes:
        self.read[name] = self.read.get(name, 0) + len(content)
        return content


@pytest.mark.parametrize("name", FILES)
def test_no_more_is_read_of_a_file_than_was_published(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    fsspec.register_implementation("counted", Counted, clobber=True)
    store, folder = Counted(), f"/models/{name}"
    digest = save_toy(toy_model(), f"counted:/{folder}")
    monkeypatch.setattr(artifact, "MANIFEST_BYTES_MAX", store.size(f"{folder}/manifest.json"))
    published = store.size(f"{folder}/{name}")
    with store.open(f"{folder}/{name}", "ab") as file:
        file.write(bytes(1_000_000))
    Counted.read.clear()

    with pytest.raises(ArtifactCorrupt, match=f"{name} .* more than {published} bytes"):
        artifact.load(f"counted:/{folder}", digest)

    assert Counted.read[name] == published + 1


def test_an_artifact_from_before_sizes_were_written_is_read(saved: tuple[Path, str]) -> None:
    folder, _ = saved
    rewritten(folder, sizes={})

    loaded, _ = artifact.load(str(folder))

    assert loaded.version == "toy-1"


def test_another_artifact_than_the_one_announced_is_refused(saved: tuple[Path, str], tmp_path: Path) -> None:
    _, digest = saved
    save_toy(toy_model("toy-2"), str(tmp_path / "toy-2"))

    with pytest.raises(ArtifactCorrupt, match=r"manifest\.json"):
        artifact.load(str(tmp_path / "toy-2"), digest)


def test_where_nothing_is_or_nothing_can_be_opened_the_reason_names_the_address(tmp_path: Path) -> None:
    with pytest.raises(ArtifactCorrupt, match="nowhere"):
        artifact.load(str(tmp_path / "nowhere"))
    with pytest.raises(ArtifactMismatch, match="nothing-opens-this://v"):
        artifact.load("nothing-opens-this://v")


def rewritten(folder: Path, **changes: Any) -> None:
    manifest = msgspec.json.decode((folder / "manifest.json").read_bytes())
    (folder / "manifest.json").write_bytes(msgspec.json.encode(manifest | changes))


@pytest.mark.parametrize("changes", [{"format": 3}, {"encoder": "later"}, {"parameters": {}}, {"version": 3}])
def test_what_a_newer_release_wrote_is_refused(saved: tuple[Path, str], changes: dict[str, Any]) -> None:
    folder, _ = saved
    rewritten(folder, **changes)

    with pytest.raises(ArtifactMismatch, match=r"release|format"):
        artifact.load(str(folder))


def test_a_manifest_that_lists_too_few_files_is_refused(saved: tuple[Path, str]) -> None:
    folder, _ = saved
    rewritten(folder, files={})

    with pytest.raises(ArtifactCorrupt, match=r"items\.json"):
        artifact.load(str(folder))


def replace_file(folder: Path, name: str, content: bytes) -> None:
    """As a faulty publisher would: the digest fits."""
    (folder / name).write_bytes(content)
    manifest = msgspec.json.decode((folder / "manifest.json").read_bytes())
    files = manifest["files"] | {name: hashlib.sha256(content).hexdigest()}
    rewritten(folder, files=files, sizes=manifest["sizes"] | {name: len(content)})


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("weights.safetensors", b"nonsense"),
        ("weights.safetensors", b""),
        ("shortlists.safetensors", (2).to_bytes(8, "little") + b"{}"),
        ("items.json", b"[1, 2]"),
        ("items.json", b"["),
        ("items.json", b"[]"),
        ("items.json", b'["a1", "a1"]'),
    ],
)
def test_a_file_that_was_published_wrong_is_refused(saved: tuple[Path, str], name: str, content: bytes) -> None:
    folder, _ = saved
    replace_file(folder, name, content)

    with pytest.raises(ArtifactMismatch):
        artifact.load(str(folder))


TOY = toy_model()
ENCODER = additive(TOY)
MISFITS: dict[str, Model] = {
    "item_vectors": replace(TOY, encoder=replace(ENCODER, item_vectors=ENCODER.item_vectors[:-1])),
    "ranking_vectors": replace(TOY, ranking_vectors=np.zeros((16, 3), np.float32)),
    "item_bias": replace(TOY, item_bias=TOY.item_bias[:-1]),
    "trait_vectors": replace(TOY, encoder=replace(ENCODER, trait_vectors=ENCODER.trait_vectors[:1])),
    "trait_keys": replace(TOY, encoder=replace(ENCODER, trait_keys=np.array([2, 1], np.uint64))),
    "hidden_weights": replace(TOY, encoder=replace(ENCODER, hidden_weights=ENCODER.hidden_weights[1:])),
    "hidden_bias": replace(TOY, encoder=replace(ENCODER, hidden_bias=np.zeros((2, 1), np.float32))),
    "vector_weights": replace(TOY, encoder=replace(ENCODER, vector_weights=np.zeros((2, 3), np.float32))),
    "vector_bias": replace(TOY, encoder=replace(ENCODER, vector_bias=np.zeros((), np.float32))),
    "cluster_weights": replace(TOY, clusters=Clusters(np.zeros((2, 3), np.float32), np.zeros(2, np.float32), 2)),
    "cluster_bias": replace(TOY, clusters=Clusters(sigmoid(TOY).weights, np.full(2, np.nan, np.float32), 2)),
    "3 clusters are kept": replace(TOY, clusters=replace(sigmoid(TOY), kept=3)),
    "0 clusters are kept": replace(TOY, clusters=replace(sigmoid(TOY), kept=0)),
    "cluster_items": replace(
        TOY, cluster_shortlists=Shortlists(np.zeros((3, 1), np.int32), np.ones((3, 1), np.float32))
    ),
    "cluster_scores": replace(
        TOY, cluster_shortlists=replace(TOY.cluster_shortlists, scores=np.ones((2, 1), np.float32))
    ),
    "anchor_items": replace(
        TOY, anchor_shortlists=replace(TOY.anchor_shortlists, items=np.full((16, 1), 16, np.int32))
    ),
    "anchor_scores": replace(
        TOY, anchor_shortlists=replace(TOY.anchor_shortlists, scores=np.full((16, 1), np.inf, np.float32))
    ),
    "neighbour_items": replace(TOY, neighbour_shortlists=nothing(15)),
    "ranking_places names": replace(
        TOY, ranking_places=np.full((16, 1), 2, np.int32), ranking_vectors=np.ones((16, 1), np.float32)
    ),
    "ranking_vectors has shape": replace(TOY, ranking_places=np.zeros((16, 3), np.int32)),
    "there are 3 co-clusters": replace(TOY, clusters=CoClusters(3, 2)),
    "the encoder knows other items": replace(TOY, items=Vocabulary(["x", *TOY.items.ids[1:]])),
    "blend.neighbours": replace(TOY, blend=replace(TOY.blend, neighbours=65)),
    "blend.neighbour_decay": replace(TOY, blend=replace(TOY.blend, neighbour_decay=-0.5)),
    "popular": replace(TOY, popular=np.array([0, -1], np.int32)),
    "popular is of int64": replace(TOY, popular=np.array([0], np.int64)),
    "item_bias lies in pieces": replace(TOY, item_bias=np.zeros(32, np.float32)[::2]),
    "half_life_seconds": replace(TOY, encoder=replace(ENCODER, half_life_seconds=0.0)),
    "dislike": replace(TOY, encoder=replace(ENCODER, dislike=float("nan"))),
    "blend.anchors": replace(TOY, blend=replace(TOY.blend, anchors=65)),
    "blend.anchor_decay": replace(TOY, blend=replace(TOY.blend, anchor_decay=1.5)),
    "blend.cluster_weight": replace(TOY, blend=replace(TOY.blend, cluster_weight=float("inf"))),
    "the state": random_model(items=2, dim=2050),
}


@pytest.mark.parametrize("name", list(MISFITS))
def test_a_model_whose_parts_do_not_fit_is_neither_written_nor_served(name: str, tmp_path: Path) -> None:
    model = MISFITS[name]

    with pytest.raises(ArtifactMismatch, match=name):
        save_toy(model, str(tmp_path / "v"))

    assert list(tmp_path.iterdir()) == []


def test_misfitting_shapes_are_refused_when_they_are_read(saved: tuple[Path, str], tmp_path: Path) -> None:
    folder, _ = saved
    save_toy(random_model(), str(tmp_path / "other"))

    replace_file(folder, "shortlists.safetensors", (tmp_path / "other" / "shortlists.safetensors").read_bytes())

    with pytest.raises(ArtifactMismatch, match="cluster_items"):
        artifact.load(str(folder))


def test_a_version_is_written_once(saved: tuple[Path, str]) -> None:
    folder, digest = saved

    with pytest.raises(ArtifactError, match="exists already"):
        save_toy(toy_model(items=["a1"]), str(folder))

    assert names(artifact.load(str(folder), digest)[0], recommend(TOY, rows_after(TOY, like("u", "a1")), 1)) == ["a2"]


@pytest.mark.parametrize("name", FILES)
def test_a_writing_that_is_interrupted_leaves_nothing(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = LocalFileSystem.open

    def full_disk(filesystem: LocalFileSystem, path: str, mode: str = "rb", **rest: Any) -> Any:
        if path.endswith(name):
            raise OSError("no space left on device")
        return whole(filesystem, path, mode, **rest)

    monkeypatch.setattr(LocalFileSystem, "open", full_disk)

    with pytest.raises(OSError, match="no space"):
        save_toy(toy_model(), str(tmp_path / "v"))

    assert list(tmp_path.iterdir()) == []


def test_what_is_being_written_has_another_name_until_it_is_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[list[str], bool]] = []
    move = LocalFileSystem.mv

    def watched(filesystem: LocalFileSystem, source: str, target: str, **rest: Any) -> None:
        seen.append((sorted(file.name for file in Path(source).iterdir()), Path(target).exists()))
        move(filesystem, source, target, **rest)

    monkeypatch.setattr(LocalFileSystem, "mv", watched)

    save_toy(toy_model(), str(tmp_path / "v"))

    assert seen == [(sorted(FILES), False)]


def test_the_window_of_training_comes_back(tmp_path: Path) -> None:
    window = artifact.Window(interactions=3, first_at=START, last_at=START + 1, offsets={"0": 2, "1": 1})
    artifact.save(
        TOY, str(tmp_path / "v"), created_at="now", window=window, settings={"seed": 7}, scores={}, previous="toy-0"
    )

    _, manifest = artifact.load(str(tmp_path / "v"))

    assert (manifest.window, manifest.settings, manifest.previous) == (window, {"seed": 7}, "toy-0")


@pytest.mark.parametrize(
    ("address", "folder"),
    [
        ("/models/v1", "/models"),
        ("/models/v1/", "/models/"),
        ("file:///models/v1", "/models"),
        ("models/v1", "models"),
        (str(Path("models/v1").resolve()), "models"),
        ("s3://bucket/models/20240501T120000Z-4f2a", "s3://bucket/models"),
        ("simplecache::s3://bucket/v1", "simplecache::s3://bucket"),
    ],
)
def test_an_address_right_below_the_folder_lies_in_it(address: str, folder: str) -> None:
    assert artifact.lies_in(address, folder)


@pytest.mark.parametrize(
    "address",
    [
        "/etc/v1",
        "/models",
        "/models/",
        "/models/..",
        "/models/../etc",
        "/models/a/b",
        "/models/a::b",
        "file::http://host/v1",
        "http://host/models/v1",
        "reference::http://host/models/v1",
        "simplecache::file:///models/v1",
        "s3://models/v1",
        "",
    ],
)
def test_an_address_elsewhere_does_not(address: str) -> None:
    assert not artifact.lies_in(address, "/models")
    assert not artifact.lies_in(address, "s3://bucket/models")
