"""What the sequence net and its intents learn, in worlds where the right answer is known."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch.nn import functional

from efficientrec import profile
from efficientrec.evaluation import histories
from efficientrec.model import Model
from efficientrec.recommend import recommend
from efficientrec.training import elcrec, intents, loop
from efficientrec.training.data import TrainingData
from efficientrec.training.elcrec_recipe import ElcrecRecipe
from efficientrec.training.loop import Checkpoint
from efficientrec.training.recipe import Recipe
from efficientrec.training.sequence import (
    SequenceNet,
    Sequences,
    fit_sequence,
    learn_net,
    sequences_of,
    tokens_of,
    windows,
)
from efficientrec.training.sequence_recipe import SequenceRecipe
from efficientrec.training.train import fit
from tests.toy import like, run_of

CYCLES = (range(0, 6), range(6, 12))
"""Two tastes: 0 → 1 → … → 5 → 0, and 6 → … → 11 → 6."""
QUICK = SequenceRecipe(
    length=8, dim=16, heads=2, widening=2, dropout=0.1, learning_rate=1e-2, batch=50, epochs=20, patience=20
)


def circling(users: int = 80, seed: int = 0) -> TrainingData:
    """Each user goes round one of the cycles, from anywhere."""
    draw = np.random.default_rng(seed)
    events = []
    for user in range(users):
        cycle, start = CYCLES[user % 2], int(draw.integers(6))
        events += [(step, user, cycle[(start + step) % 6]) for step in range(int(draw.integers(3, 6)))]
    at, who, what = (np.array(column) for column in zip(*sorted(events), strict=True))
    return TrainingData(
        user=who.astype(np.int32),
        item=what.astype(np.int32),
        weight=np.ones(len(who), np.float32),
        at=at.astype(np.int64),
        items=[f"item-{number}" for number in range(12)],
        tokens=[[] for _ in range(12)],
        traits=[[] for _ in range(users)],
    )


WORLD = circling()


def followers(data: TrainingData, scores: NDArray[np.float32]) -> float:
    """How often the best new item is the next of the cycle."""
    sequences = sequences_of(data)
    right = 0
    for user in range(len(sequences)):
        done = sequences.items[sequences.starts[user] : sequences.starts[user + 1]]
        last = int(done[-1])
        scores[user, done] = -np.inf
        right += int(np.argmax(scores[user])) == last // 6 * 6 + (last + 1) % 6
    return right / len(sequences)


@pytest.mark.parametrize("negatives", [12, 5])
def test_the_net_learns_what_follows_what(negatives: int) -> None:
    fitted = fit_sequence(WORLD, replace(QUICK, negatives=negatives))

    assert followers(WORLD, fitted.score(WORLD, np.arange(WORLD.users))) == 1.0


def test_learning_is_deterministic_and_a_seed_changes_it() -> None:
    short = replace(QUICK, epochs=2)

    first, again, other = (fit_sequence(WORLD, short, seed).score(WORLD, np.arange(5)) for seed in (1, 1, 2))

    assert first.tobytes() == again.tobytes()
    assert first.tobytes() != other.tobytes()


class Killed(Exception):
    """Stands for what ends a process."""


def kill(share: float, score: float | None) -> None:
    if share >= 0.5:
        raise Killed


def test_a_resumed_training_ends_as_if_it_had_not_stopped(tmp_path: Path) -> None:
    short, checkpoint = replace(QUICK, epochs=4), Checkpoint(tmp_path / "net.safetensors", "the world")
    whole = fit_sequence(WORLD, short)

    with pytest.raises(Killed):
        fit_sequence(WORLD, short, progress=kill, checkpoint=checkpoint)
    resumed = fit_sequence(WORLD, short, checkpoint=checkpoint)

    assert resumed.course == whole.course
    users = np.arange(WORLD.users)
    assert resumed.score(WORLD, users).tobytes() == whole.score(WORLD, users).tobytes()


@pytest.mark.parametrize("warm_epochs", [0, 1, 2, 3])
def test_intents_resume_as_if_they_had_not_stopped(warm_epochs: int, tmp_path: Path) -> None:
    recipe = ElcrecRecipe(sequence=replace(QUICK, epochs=4), warm_epochs=warm_epochs)
    sequences, checkpoint = sequences_of(WORLD), Checkpoint(tmp_path / "net.safetensors", "the world")

    def learned(progress: loop.Progress | None = None, checkpoint: Checkpoint | None = None) -> bytes:
        net = SequenceNet(tokens_of(WORLD, recipe.sequence), sequences.items, recipe.sequence, 0)
        both = intents.IntentNet(net, 4, recipe, 0)
        learn_net(net, both, sequences, 0, beside=both, progress=progress, checkpoint=checkpoint)
        return b"".join(value.numpy().tobytes() for value in both.state_dict().values())

    whole = learned()
    with pytest.raises(Killed):
        learned(kill, checkpoint)

    assert learned(checkpoint=checkpoint) == whole


@pytest.mark.parametrize("length", [1, 3, 7, 50])
def test_every_item_but_a_users_first_is_predicted_once(length: int) -> None:
    counts = np.array([0, 1, 2, 3, 4, 9, 50, 51, 52, 130])
    sequences = Sequences(np.arange(counts.sum()), np.concatenate(([0], np.cumsum(counts))))

    begin, end = windows(sequences, length, np.random.default_rng(3))

    predicted = [place for first, last in zip(begin, end, strict=True) for place in range(first + 1, last)]
    assert sorted(predicted) == sorted(set(range(counts.sum())) - set(sequences.starts[:-1].tolist()))
    assert (end - begin - 1 <= length).all()
    assert (np.searchsorted(sequences.starts, begin, "right") == np.searchsorted(sequences.starts, end, "left")).all()


def test_items_that_a_user_disliked_are_no_part_of_his_sequence() -> None:
    weight = WORLD.weight.copy()
    weight[WORLD.item == 3] = -0.5

    sequences = sequences_of(replace(WORLD, weight=weight))

    assert 3 not in sequences.items
    assert len(sequences.items) == int((WORLD.item != 3).sum())


def test_what_descriptions_share_is_learned_for_items_that_nobody_touched() -> None:
    tokens = [["sea" if item < 6 else "hill"] for item in range(12)]
    data = replace(WORLD, items=[*WORLD.items, "new-sea", "new-hill"], tokens=[*tokens, ["sea"], ["hill"]])

    fitted = fit_sequence(data, replace(QUICK, negatives=14))

    scores = fitted.score(data, np.arange(data.users))
    assert (scores[::2, 12] > scores[::2, 13]).mean() > 0.9
    assert (scores[1::2, 12] < scores[1::2, 13]).mean() > 0.9


def spread(count: int, angles: list[float]) -> torch.Tensor:
    """Directions at these angles, each `count` times."""
    return torch.tensor([[np.cos(angle), np.sin(angle)] for angle in angles], dtype=torch.float32).repeat(count, 1)


def test_the_published_loss_depends_on_means_alone() -> None:
    generator = torch.Generator().manual_seed(1)
    h = functional.normalize(torch.randn((50, 8), generator=generator, dtype=torch.float64), dim=1)
    centres = functional.normalize(torch.randn((7, 8), generator=generator, dtype=torch.float64), dim=1)
    mean_h, mean_c = h.mean(dim=0), centres.mean(dim=0)

    by_means = 2 - 2 * mean_h @ mean_c - 2 * 7 / 6 * (1 - mean_c @ mean_c)

    assert float(intents.published(h, centres)) == pytest.approx(float(by_means), abs=1e-12)


def test_the_assigned_loss_tells_centres_with_one_mean_apart_and_the_published_does_not() -> None:
    users = spread(10, [0.0, np.pi / 2, np.pi, 3 * np.pi / 2])
    among, between = spread(1, [0, np.pi / 2, np.pi, 3 * np.pi / 2]), spread(1, [0.7, 0.7 + np.pi, 0.9, 0.9 + np.pi])
    recipe = ElcrecRecipe()

    published = [float(intents.published(users, centres)) for centres in (among, between)]
    assigned = [float(intents.assigned(users, centres, recipe)) for centres in (among, between)]

    assert published[0] == pytest.approx(published[1], abs=1e-5)
    assert assigned[0] < assigned[1] - 0.5


def test_the_assigned_loss_asks_that_all_centres_are_used() -> None:
    users = spread(10, [0.0, np.pi])
    both, one = spread(1, [0, np.pi]), spread(1, [0, 0])

    used = [float(intents.assigned(users, centres, ElcrecRecipe())) for centres in (both, one)]

    assert used[0] == pytest.approx(0.0, abs=1e-3)
    assert used[1] > 1


@pytest.mark.parametrize("seed", range(5))
def test_a_view_of_a_sequence_is_made_of_it(seed: int) -> None:
    length = np.array([1, 2, 5, 20, 20, 20, 20, 20])

    order, shown, count = intents.augmented(length, 20, np.random.default_rng(seed))

    for place, seen, found, whole in zip(order, shown, count, length, strict=True):
        assert 1 <= found <= whole
        part = place[:found]
        assert len(set(part.tolist())) == found
        assert part.max() < whole
        assert seen[:found].any()
        cropped, masked = found < whole, not seen[:found].all()
        assert not (cropped and masked)
        if cropped:
            assert (np.diff(part) == 1).all()


RECIPE = Recipe(
    encoder="elcrec", elcrec=ElcrecRecipe(sequence=QUICK, warm_epochs=2), users_per_cluster=20, clusters_kept=2
)


@pytest.fixture(scope="module")
def model() -> Model:
    return fit(WORLD, RECIPE, version="v", choosing=None)[0]


def test_a_model_of_the_cycles_recommends_what_comes_next(model: Model) -> None:
    rows = histories.all_of(model, WORLD)
    sequences = sequences_of(WORLD)

    lists = recommend(model, rows, 1)

    last = sequences.items[sequences.starts[1:] - 1]
    assert lists.items[:, 0].tolist() == (last // 6 * 6 + (last + 1) % 6).tolist()


def test_users_of_one_taste_share_intents_that_those_of_the_other_have_not(model: Model) -> None:
    chosen, memberships = model.clusters.assign(model.encoder.vector(histories.all_of(model, WORLD)))

    even, odd = set(chosen[::2, 0].tolist()), set(chosen[1::2, 0].tolist())
    assert not even & odd
    assert np.median(memberships[:, 0]) > 0.9


def test_scores_have_the_spread_that_votes_are_weighed_against(model: Model) -> None:
    scores = model.encoder.taste(histories.all_of(model, WORLD)) @ model.ranking_vectors.T

    assert scores.std(axis=1).mean() == pytest.approx(RECIPE.elcrec.spread, rel=0.05)


@pytest.mark.parametrize("clustering", ["none", "published", "assigned"])
@pytest.mark.parametrize("centres", ["learned", "frozen", "random"])
def test_every_ablation_learns_the_cycles(
    clustering: Literal["none", "published", "assigned"], centres: Literal["learned", "frozen", "random"]
) -> None:
    settings = replace(RECIPE.elcrec, clustering=clustering, centres=centres)

    learned = elcrec.learn(WORLD, replace(RECIPE, elcrec=settings), "v", lambda step, share: None)

    rows = profile.fold(profile.empty(1), run_of([like("anna", f"item-{item}") for item in (1, 2)]), learned.encoder)
    scores = learned.encoder.taste(rows.rows) @ learned.ranking_vectors.T
    scores[0, [1, 2]] = -np.inf
    assert scores.argmax() == 3


def test_progress_tells_the_score() -> None:
    told: list[tuple[str, float]] = []

    elcrec.learn(WORLD, RECIPE, "v", lambda step, share: told.append((step, share)))

    assert told[-1][1] == 1.0
    assert "NDCG@20" in told[-1][0]


def test_users_who_liked_one_thing_each_are_enough_for_a_model() -> None:
    """Nothing follows anything here, so there is nothing to learn from; what is made of it must serve all the same."""
    data = replace(
        WORLD.chosen(slice(0, 16)),
        user=np.repeat(np.arange(8, dtype=np.int32), 2),
        weight=np.tile(np.array([1, -1], np.float32), 8),
        at=np.arange(16, dtype=np.int64),
    )

    model, _ = fit(data, RECIPE, version="v", choosing=None)

    model.check()
    lists = recommend(model, histories.all_of(model, data), 3)
    assert (lists.items[:8, 0] >= 0).all()


def test_what_is_not_shown_tells_nothing() -> None:
    net = SequenceNet(tokens_of(WORLD, QUICK), WORLD.item, QUICK, 0).eval()
    one, other = torch.tensor([[0, 1, 2]]), torch.tensor([[0, 7, 2]])

    with torch.no_grad():
        states = [net(items, net.item_vectors(), torch.tensor([[True, False, True]])) for items in (one, other)]

    assert torch.equal(states[0], states[1])
