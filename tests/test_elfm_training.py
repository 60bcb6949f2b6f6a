"""Local factor models learn what belongs together, and what is served is what was learned."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.sparse import csr_matrix

from efficientrec import profile
from efficientrec.encoders.elfm import ElfmEncoder
from efficientrec.training import elfm
from efficientrec.training.elfm_factors import LocalFactors
from efficientrec.training.elfm_recipe import ElfmRecipe
from efficientrec.training.learned import Learned
from efficientrec.training.loop import Checkpoint
from efficientrec.training.min_sum import min_sum
from efficientrec.training.recipe import Recipe
from efficientrec.training.weights import positive, signed
from tests.test_training import TASTE, WORLD
from tests.toy import like, run_of

SMALL = ElfmRecipe(clusters=16, dim=8, places=16, batch=40, rounds=4, round_steps=10, learning_rate=2e-2)
LIKES = positive(signed(WORLD, None))


def learned(recipe: ElfmRecipe = SMALL, seed: int = 0) -> Learned:
    return elfm.learn(WORLD, Recipe(seed=seed, elfm=recipe), "toy", lambda step, share: None)


def random_factors(kept: int = 16, seed: int = 0) -> LocalFactors:
    """Factors of nothing in particular, with every number far from where it starts."""
    factors = LocalFactors(LIKES, 8, 16, kept, seed)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for value in factors.parameters():
            value.add_(torch.randn(value.shape, generator=generator) / 2)
    return factors


def likes_of(users: list[list[int]]) -> csr_matrix:
    """(users, items)"""
    table = np.zeros((len(users), len(WORLD.items)), np.float32)
    for user, items in enumerate(users):
        table[user, items] = 1
    return csr_matrix(table)


def served(outcome: Learned, users: list[list[int]]) -> tuple[np.ndarray, np.ndarray]:
    """Memberships (users, N) and scores (users, items) of users who liked these items."""
    acts = [like(f"u{user}", WORLD.items[item]) for user, items in enumerate(users) for item in items]
    run = run_of(acts, users=[f"u{user}" for user in range(len(users))])
    rows = profile.fold(profile.empty(len(users)), run, outcome.encoder).rows
    taste = outcome.encoder.taste(rows)
    affinities = np.zeros((len(WORLD.items), taste.shape[1]), np.float32)
    for item, (places, values) in enumerate(zip(outcome.ranking_places, outcome.ranking_vectors, strict=True)):
        affinities[item, places[places >= 0]] = values[places >= 0]
    return outcome.encoder.vector(rows), np.minimum(taste[:, None], affinities).sum(axis=2)


def test_min_sum_and_its_gradient_are_those_of_torch() -> None:
    generator = torch.Generator().manual_seed(0)
    users = torch.relu(torch.randn((7, 30), generator=generator)).requires_grad_()
    items = torch.relu(torch.randn((30, 600), generator=generator)).requires_grad_()
    pull = torch.randn((7, 600), generator=generator)

    scores = min_sum(users, items)
    (scores * pull).sum().backward()  # type: ignore[no-untyped-call]

    ours = users.grad, items.grad
    users.grad = items.grad = None
    expected = torch.minimum(users[:, :, None], items[None]).sum(dim=1)
    (expected * pull).sum().backward()  # type: ignore[no-untyped-call]
    torch.testing.assert_close(scores, expected)
    for found, wanted, value in zip(ours, (users.grad, items.grad), (users, items), strict=True):
        assert found is not None
        assert wanted is not None
        torch.testing.assert_close(found[value > 0], wanted[value > 0])  # elsewhere both are torch's to share


@pytest.mark.parametrize("kept", [16, 5])
def test_what_is_served_is_what_was_learned(kept: int) -> None:
    factors = random_factors(kept)
    users = [[0], [3, 5, 7], [1, 20, 4, 9], []]
    likes = likes_of(users)

    outcome = elfm.learned(factors, LIKES, WORLD.items, Recipe(elfm=replace(SMALL, places=kept)), "toy")

    memberships, scores = served(outcome, users)
    with torch.no_grad():
        a = factors.users(likes).numpy()
    every = elfm.every_score(factors, likes)
    factor = memberships[1].max() / a[1].max()
    assert memberships == pytest.approx(factor * a, rel=1e-5, abs=1e-6)
    assert scores - scores[:, :1] == pytest.approx(factor * (every - every[:, :1]), rel=1e-4, abs=1e-5)
    assert not memberships[3].any()


def test_two_tastes_are_told_apart() -> None:
    _, scores = served(learned(), [[0, 3, 5], [TASTE + 1, TASTE + 4], [2]])

    for user, own in enumerate((0, 1, 0)):
        best = np.argsort(-scores[user])[: TASTE - 1]
        assert set(best.tolist()) == set(range(own * TASTE, own * TASTE + TASTE - 1))


def test_what_a_cocluster_nominates_is_of_one_taste() -> None:
    outcome = learned()

    lists = outcome.cluster_shortlists
    assert lists is not None
    strongest = [row[row >= 0][:5] // TASTE for row in lists.items if (row >= 0).sum() >= 5]
    assert {int(row[0]) for row in strongest} == {0, 1}
    assert np.mean([len(set(row.tolist())) == 1 for row in strongest]) > 0.8


@pytest.mark.parametrize(
    "other",
    [
        replace(SMALL, loss="ratio"),
        replace(SMALL, full_items=0, negatives=12),
        replace(SMALL, places=5),
        replace(SMALL, smoothing=0.1, sparsity=1e-3),
        replace(SMALL, held_out_share=0.0),
    ],
    ids=["ratio", "sampled", "few places", "regular", "nothing held out"],
)
def test_other_ways_to_learn_find_the_tastes_too(other: ElfmRecipe) -> None:
    _, scores = served(learned(other), [[0, 3, 5]])

    assert set(np.argsort(-scores[0])[:7].tolist()) <= set(range(TASTE))


def test_affinities_that_cost_something_are_fewer() -> None:
    def size(recipe: ElfmRecipe) -> float:
        factors = LocalFactors(LIKES, recipe.dim, recipe.clusters, recipe.places, 0)
        elfm.fit(factors, LIKES, recipe, 0)
        return float((factors.affinities() > 0).float().mean())

    assert size(replace(SMALL, sparsity=0.1)) < size(SMALL)


def test_the_same_seed_learns_the_same() -> None:
    first, second, other = learned(seed=1), learned(seed=1), learned(seed=2)

    def bits(outcome: Learned) -> bytes:
        assert isinstance(outcome.encoder, ElfmEncoder)
        encoder = outcome.encoder
        return b"".join(
            array.tobytes() for array in (encoder.item_vectors, encoder.heads, encoder.readers, outcome.ranking_vectors)
        )

    assert bits(first) == bits(second)
    assert bits(first) != bits(other)


def test_a_training_that_resumes_ends_as_if_it_had_not_stopped(tmp_path: Path) -> None:
    whole, broken = LocalFactors(LIKES, 8, 16, 16, 0), LocalFactors(LIKES, 8, 16, 16, 0)
    at = Checkpoint(tmp_path / "factors", "two tastes")

    class Killed(Exception):
        pass

    def kill(share: float, score: float | None) -> None:
        if share >= 0.5:
            raise Killed

    elfm.fit(whole, LIKES, SMALL, 0)
    with pytest.raises(Killed):
        elfm.fit(broken, LIKES, SMALL, 0, progress=kill, checkpoint=at)
    again = LocalFactors(LIKES, 8, 16, 16, 0)
    elfm.fit(again, LIKES, SMALL, 0, checkpoint=at)

    for one, other in zip(whole.parameters(), again.parameters(), strict=True):
        assert one.detach().numpy().tobytes() == other.detach().numpy().tobytes()


def test_what_is_given_counts_as_neither_right_nor_wrong() -> None:
    factors = random_factors()
    liked = [1, 3, 4, 6, 7, 9]

    loss = elfm._loss(factors, likes_of([liked]), SMALL, np.random.default_rng(3))
    torch.autograd.backward(loss)

    gradient = factors.bias.grad
    assert gradient is not None
    right, indifferent = np.flatnonzero(gradient < 0).tolist(), np.flatnonzero(gradient == 0).tolist()
    assert right
    assert indifferent
    assert sorted(right + indifferent) == liked


def test_an_item_that_nobody_liked_and_a_world_of_one_item_do_no_harm() -> None:
    one = csr_matrix(np.ones((9, 1), np.float32))

    factors = LocalFactors(one, 8, 1, 1, 0)
    elfm.fit(factors, one, SMALL, 0)

    assert np.isfinite(elfm.every_score(factors, one)).all()
