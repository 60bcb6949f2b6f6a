"""Training and evaluation in a world of two tastes, where the right answer is known."""

import math
import subprocess
import sys
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
import torch

from efficientrec import artifact
from efficientrec.errors import TrainingDiverged, TrainingImpossible
from efficientrec.evaluation import histories, judging
from efficientrec.model import Model
from efficientrec.recommend import recommend
from efficientrec.training import checkpoints, memberships, nearest
from efficientrec.training.data import TrainingData
from efficientrec.training.elcrec_recipe import ElcrecRecipe
from efficientrec.training.folder import train_folder
from efficientrec.training.recipe import Recipe
from efficientrec.training.sequence_recipe import SequenceRecipe
from efficientrec.training.train import Trained, build, train
from efficientrec.training.weights import signed
from tests.toy import additive, sigmoid

DAY = 86_400_000
TASTE = 12  # items of each of the two tastes; the last item of either is described, and nobody touched it
QUICK = Recipe(
    feature_dim=4,
    item_dim=12,
    steps=150,
    learning_rate=0.01,
    clusters=8,
    hidden=16,
    token_items_min=2,
    popular=24,
    scored_min=24,
)


def two_tastes(users: int = 120, seed: int = 0) -> TrainingData:
    """Even users like the first taste's items and dislike a few of the second's; odd users the other way round."""
    draw = np.random.default_rng(seed)
    events: list[tuple[int, int, int, float]] = []
    for user in range(users):
        mine, other = (user % 2) * TASTE, (1 - user % 2) * TASTE
        start = int(draw.integers(0, 60 * DAY))
        liked = draw.permutation(TASTE - 1)[:7] + mine
        disliked = draw.permutation(TASTE - 1)[:2] + other
        for step, item in enumerate(draw.permutation(np.concatenate((liked, disliked))).tolist()):
            events.append((start + step * 3 * DAY, user, item, 1.0 if mine <= item < mine + TASTE else -0.6))
    columns = list(zip(*sorted(events), strict=True))
    return TrainingData(
        user=np.array(columns[1], np.int32),
        item=np.array(columns[2], np.int32),
        weight=np.array(columns[3], np.float32),
        at=np.array(columns[0], np.int64),
        items=[f"item-{index}" for index in range(2 * TASTE)],
        tokens=[["category=sea" if index < TASTE else "category=hill"] for index in range(2 * TASTE)],
        traits=[[f"side={user % 2}"] for user in range(users)],
    )


WORLD = two_tastes()


@pytest.fixture(scope="module")
def trained() -> Trained:
    return train(WORLD, QUICK, version="toy")


def listed(model: Model, items: list[int], weight: float = 1.0, traits: tuple[str, ...] = ()) -> list[int]:
    """What a new user who did this gets."""
    world = TrainingData(
        user=np.zeros(len(items), np.int32),
        item=np.array(items, np.int32),
        weight=np.full(len(items), weight, np.float32),
        at=np.full(len(items), WORLD.at[-1]),
        items=WORLD.items,
        tokens=WORLD.tokens,
        traits=[list(traits)],
    )
    return [item for item in recommend(model, histories.all_of(model, world), 8).items[0].tolist() if item >= 0]


@pytest.mark.parametrize("taste", [0, 1])
def test_who_liked_three_items_of_a_taste_gets_the_rest_of_it(trained: Trained, taste: int) -> None:
    first = taste * TASTE

    got = listed(trained.model, [first, first + 1, first + 2])

    assert set(got) == set(range(first + 3, first + 11))


@pytest.mark.parametrize("telling", [100, 0])  # 0: no word brings the item near to any other
def test_so_it_does_in_a_catalogue_too_large_for_exact_weights(telling: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nearest, "TOKEN_ITEMS_MAX", telling)
    model = build(WORLD, replace(QUICK, exact_items=0), "toy", lambda step, share: None).model

    _goes_by_its_description(model)


def test_an_item_that_nobody_touched_goes_to_the_taste_that_it_is_described_by(trained: Trained) -> None:
    _goes_by_its_description(trained.model)


def _goes_by_its_description(model: Model) -> None:
    new = (TASTE - 1, 2 * TASTE - 1)
    for taste in (0, 1):
        rows = histories.folded(
            model,
            WORLD,
            np.zeros(3, np.int32),
            np.flatnonzero((WORLD.user == taste) & (WORLD.weight > 0))[:3].astype(np.int64),
            1,
            np.array([taste], np.int32),
        )
        score = (model.encoder.taste(rows) @ model.ranking_vectors.T)[0]

        assert score[new[taste]] > score[new[1 - taste]]


def test_the_two_tastes_belong_to_different_clusters(trained: Trained) -> None:
    rows = histories.all_of(trained.model, WORLD)
    chosen, _ = trained.model.clusters.assign(trained.model.encoder.vector(rows))
    first = chosen[:, 0]

    assert not set(first[0::2].tolist()) & set(first[1::2].tolist())


def test_later_events_are_predicted_better_than_by_popularity(trained: Trained) -> None:
    assert trained.scores["candidate"]["hit_rate@10"] > trained.scores["popularity"]["hit_rate@10"] + 0.1


def test_the_model_is_fit_to_be_published(trained: Trained, tmp_path_factory: pytest.TempPathFactory) -> None:
    address = str(tmp_path_factory.mktemp("models") / "toy")
    digest = artifact.save(
        trained.model,
        address,
        created_at="2024-01-01T00:00:00Z",
        window=artifact.Window(interactions=len(WORLD), first_at=int(WORLD.at[0]), last_at=int(WORLD.at[-1])),
        settings={},
        scores=trained.scores,
    )
    loaded, _ = artifact.load(address, digest)

    assert listed(loaded, [0, 1, 2]) == listed(trained.model, [0, 1, 2])


def test_the_network_that_serves_is_the_one_that_was_trained(trained: Trained) -> None:
    encoder, clusters = additive(trained.model), sigmoid(trained.model)
    head = memberships.MembershipHead(
        encoder.hidden_weights.shape[0], QUICK.hidden, len(clusters), torch.Generator().manual_seed(0)
    )
    arrays = {
        "hidden_weights": encoder.hidden_weights,
        "hidden_bias": encoder.hidden_bias,
        "vector_weights": encoder.vector_weights,
        "vector_bias": encoder.vector_bias,
        "cluster_weights": clusters.weights,
        "cluster_bias": clusters.bias,
    }
    head.load_state_dict({name: torch.from_numpy(array) for name, array in arrays.items()})
    rows = histories.all_of(trained.model, WORLD)
    inputs = np.concatenate((memberships.inputs(rows.state), encoder.trait_vectors[_places(trained.model)]), axis=1)

    vector = head.vector(torch.from_numpy(inputs)).detach().numpy()
    p = torch.sigmoid(head(torch.from_numpy(inputs))).detach().numpy()
    chosen, kept = clusters.assign(encoder.vector(rows))

    np.testing.assert_allclose(encoder.vector(rows), vector, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(kept, np.take_along_axis(p, chosen, axis=1), rtol=1e-5, atol=1e-5)


def _places(model: Model) -> np.ndarray[tuple[int], np.dtype[np.intp]]:
    """Place of each user's single trait among those that the model knows."""
    rows = histories.all_of(model, WORLD)
    return np.searchsorted(additive(model).trait_keys, rows.traits[:, 0])


def test_the_states_that_the_head_learns_from_are_those_that_the_encoder_keeps(trained: Trained) -> None:
    sums = memberships.sums(signed(WORLD, QUICK.half_life_seconds), additive(trained.model).item_vectors)

    np.testing.assert_allclose(histories.all_of(trained.model, WORLD).state, sums, rtol=1e-3, atol=1e-4)


def test_the_same_seed_gives_the_same_arrays(trained: Trained) -> None:
    again = train(WORLD, QUICK, version="toy").model

    for name in ("ranking_vectors", "item_bias", "popular"):
        np.testing.assert_array_equal(getattr(again, name), getattr(trained.model, name))
    for field in fields(additive(again)):
        if field.name != "items":
            np.testing.assert_array_equal(
                getattr(again.encoder, field.name), getattr(trained.model.encoder, field.name)
            )
    np.testing.assert_array_equal(again.cluster_shortlists.items, trained.model.cluster_shortlists.items)
    assert again.blend == trained.model.blend


def test_nothing_of_what_was_held_out_is_learned(trained: Trained) -> None:
    """Whatever happens after the cut, the model that is judged on it stays the same: a leak would move it."""
    after = WORLD.at >= trained.cut
    scrambled = replace(WORLD, item=np.where(after, (WORLD.item + TASTE) % (2 * TASTE), WORLD.item).astype(np.int32))

    other = train(scrambled, QUICK, version="toy").earlier

    np.testing.assert_array_equal(additive(other).item_vectors, additive(trained.earlier).item_vectors)
    np.testing.assert_array_equal(other.ranking_vectors, trained.earlier.ranking_vectors)
    np.testing.assert_array_equal(other.cluster_shortlists.items, trained.earlier.cluster_shortlists.items)
    np.testing.assert_array_equal(other.anchor_shortlists.items, trained.earlier.anchor_shortlists.items)
    np.testing.assert_array_equal(other.popular, trained.earlier.popular)


def test_a_leak_is_noticed_by_its_score(trained: Trained) -> None:
    """Pairs that nothing but the held-out future knows: who has seen it scores higher than who has not."""
    draw = np.random.default_rng(1)
    after = WORLD.at >= trained.cut
    noise = replace(
        WORLD,
        item=np.where(after, draw.permutation(WORLD.item), WORLD.item).astype(np.int32),
        weight=np.where(after, 1.0, WORLD.weight).astype(np.float32),
    )
    held_out = judging.examples(noise, trained.cut, 0)

    honest = judging.judge(train(noise, QUICK, version="toy").earlier, held_out)
    leaking = replace(trained.earlier, item_bias=_future(noise, trained.cut))

    assert judging.judge(leaking, held_out)["ndcg@20"] > honest["ndcg@20"]


def _future(world: TrainingData, cut: int) -> np.ndarray[tuple[int], np.dtype[np.float32]]:
    """How often each item will be chosen."""
    return np.bincount(world.item[world.at >= cut], minlength=len(world.items)).astype(np.float32)


def test_models_of_different_vocabularies_are_judged_on_the_same_events(trained: Trained) -> None:
    held_out = judging.examples(WORLD, trained.cut, 0)
    order = np.random.default_rng(0).permutation(len(WORLD.items))
    back = np.argsort(order)
    shuffled = replace(
        WORLD,
        item=back[WORLD.item].astype(np.int32),
        items=[WORLD.items[index] for index in order],
        tokens=[WORLD.tokens[index] for index in order],
    )
    other = train(shuffled, QUICK, version="other").earlier

    scores = judging.judge(other, held_out)

    assert scores["hit_rate@10"] == pytest.approx(judging.judge(trained.earlier, held_out)["hit_rate@10"], abs=0.15)


@pytest.mark.parametrize(
    ("world", "expected"),
    [
        (WORLD.chosen(slice(0, 0)), "no interaction with a positive weight"),
        (WORLD.weighing(-1.0), "no interaction with a positive weight"),
        (WORLD.chosen(WORLD.user < 5), "5 users with two interactions or more"),
    ],
)
def test_too_little_to_learn_from_is_said(world: TrainingData, expected: str) -> None:
    with pytest.raises(TrainingImpossible, match=expected):
        train(world, QUICK, version="toy")


def test_a_loss_that_is_not_finite_is_said() -> None:
    with pytest.raises(TrainingDiverged, match="lower learning_rate"):
        train(WORLD, replace(QUICK, learning_rate=1e30), version="toy")


def written(folder: Path) -> Path:
    """The world as a data set: five stars for what is liked, one for what is not."""
    lines = [
        f"user-{user},{WORLD.items[item]},{5 if weight > 0 else 1},{at // 1000}"
        for user, item, weight, at in zip(WORLD.user, WORLD.item, WORLD.weight, WORLD.at, strict=True)
    ]
    (folder / "interactions.csv").write_text("\n".join(["user_id,item_id,rating,timestamp", *lines]), encoding="utf-8")
    return folder


def test_a_folder_becomes_an_artifact(tmp_path: Path) -> None:
    address = str(tmp_path / "models" / "one")
    done, digest = train_folder(
        written(tmp_path), address, version="one", created_at="2024-01-01T00:00:00Z", recipe=QUICK
    )

    model, manifest = artifact.load(address, digest)

    assert model.version == manifest.version == "one"
    assert manifest.window.interactions == len(WORLD)
    assert manifest.settings["seed"] == QUICK.seed
    assert manifest.scores == done.scores


class Killed(Exception):
    """Stands for what ends a process."""


def test_a_training_that_was_cut_off_goes_on_where_it_was(tmp_path: Path) -> None:
    recipe = replace(QUICK, encoder="elcrec", elcrec=ElcrecRecipe(sequence=SequenceRecipe(epochs=4)))
    heard: list[tuple[str, float]] = []

    def trained(folder: Path | None, until: float = math.inf) -> bytes:
        def progress(step: str, share: float) -> None:
            heard.append((step, share))
            if step.startswith("sequences") and share >= until:
                raise Killed

        return train(WORLD, recipe, version="v", progress=progress, checkpoints=folder).model.ranking_vectors.tobytes()

    whole = trained(None)
    with pytest.raises(Killed):
        trained(tmp_path / "checkpoints", until=0.5)
    heard.clear()

    assert trained(tmp_path / "checkpoints") == whole
    learned = [(step, share) for step, share in heard if "NDCG" in step]
    assert not any(step.startswith("held out") for step, _ in learned), "what was done was done again"
    assert [share for _, share in learned] == [0.75, 1.0]
    assert len(list((tmp_path / "checkpoints").iterdir())) == 2


def test_a_checkpoint_of_other_data_or_another_recipe_is_not_gone_on_from(tmp_path: Path) -> None:
    places = [
        checkpoints.place(tmp_path, data, recipe)
        for data, recipe in (
            (WORLD, QUICK),
            (WORLD, replace(QUICK, seed=QUICK.seed + 1)),
            (WORLD.chosen(slice(1, None)), QUICK),
            (WORLD.weighing(0.5), QUICK),
        )
    ]

    assert len({each.about for each in places if each is not None}) == len(places)


def test_judging_needs_no_torch() -> None:
    code = "import sys; from efficientrec.evaluation import contest, judging, replay; sys.exit('torch' in sys.modules)"

    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
