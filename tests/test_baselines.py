"""Baselines against values worked out by hand, and in a world whose answer is known."""

from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from efficientrec.evaluation import metrics, protocols, ranks
from efficientrec.evaluation.baselines import ease, itemknn, rules
from efficientrec.evaluation.baselines.baseline import Unfit, matrix
from efficientrec.evaluation.baselines.bench import BASELINES, Bench
from efficientrec.evaluation.baselines.blend import relative
from efficientrec.evaluation.baselines.popular import Counted
from efficientrec.evaluation.questions import Question
from tests.test_protocols import world
from tests.test_training import WORLD


class Given:
    """Scores that a test made up."""

    def __init__(self, scores: list[list[float]]) -> None:
        self.rows = np.array(scores, np.float32)

    @property
    def items(self) -> int:
        return len(self.rows[0])

    def scores(self, question: Question) -> NDArray[np.float32]:
        return self.rows[question.users].copy()


def asked(wanted: str, given: str = "aA") -> Question:
    """One user, a, who met what is given and wants what is asked, of the items A to F."""
    split = protocols.leave_one_out(world(f"{given} {wanted} bA bB bC bD bE bF cG"), 0)
    return split.test


def place_of(scores: list[float], target: str) -> int:
    """The place of a target, from 0, in a list of everything that user a has not met."""
    question = asked(f"a{target}").take(np.array([0]))
    return int(ranks.hits(Given([scores]), question, 6)[0].argmax())


def test_a_target_stands_behind_what_scores_more() -> None:
    assert place_of([9, 5, 4, 3, 2], "B") == 0
    assert place_of([9, 5, 4, 3, 2], "D") == 2


def test_a_target_stands_in_the_middle_of_its_equals_wherever_its_number_is() -> None:
    assert [place_of([9, 1, 1, 1, 1], item) for item in "BCDG"] == [1, 1, 1, 1]
    assert [place_of([9, 5, 1, 1, 1], item) for item in "CDG"] == [2, 2, 2]


def test_lists_take_equals_in_a_drawn_order_and_leave_out_what_was_met() -> None:
    question = asked("aB").take(np.array([0]))
    firsts = {int(ranks.answer(Given([[9, 1, 1, 1, 1]]), question, 2, seed).items[0, 0]) for seed in range(40)}

    assert firsts == {1, 2, 3, 4}
    full = ranks.answer(Given([[9, 4, 1, 3, 2]]), question, 6, 0)
    assert full.items.tolist() == [[1, 3, 4, 2, -1, -1]]
    assert full.scored.tolist() == [5]


def test_rules_count_what_follows_by_distance() -> None:
    data = world("aP aQ aR bP bR")
    place = {item: index for index, item in enumerate(data.items)}
    weights = rules.followers(data).toarray()

    # Q follows P at distance 1, R at 2, and R at 1 for the other user; P occurs twice, Q once.
    assert weights[place["P"], place["Q"]] == pytest.approx(1 / np.sqrt(2))
    assert weights[place["P"], place["R"]] == pytest.approx(1.5 / np.sqrt(2))
    assert weights[place["Q"], place["R"]] == pytest.approx(1.0)
    assert weights[place["R"]].tolist() == [0, 0, 0]


def test_neighbours_are_those_with_users_in_common() -> None:
    data = world("aP aQ bP bQ cP cR")
    place = {item: index for index, item in enumerate(data.items)}
    weights = itemknn.neighbours(matrix(data), 1.0).toarray()

    assert weights[place["P"], place["Q"]] == pytest.approx(2 / (np.sqrt(3 * 2) + 1))
    assert weights[place["P"], place["R"]] == pytest.approx(1 / (np.sqrt(3) + 1))
    assert weights.diagonal().tolist() == [0, 0, 0]


def test_ease_is_the_ridge_regression_of_each_item_on_the_others() -> None:
    liked = matrix(WORLD)
    weights = ease.weights_of(liked, 3.0)
    dense = liked.toarray().astype(np.float64)

    for item in (0, 5, 12):
        others = np.delete(np.arange(dense.shape[1]), item)
        x, y = dense[:, others], dense[:, item]
        solved = np.linalg.solve(x.T @ x + 3.0 * np.eye(len(others)), x.T @ y)
        np.testing.assert_allclose(weights[others, item], solved, atol=1e-4)
    assert (weights.diagonal() == 0).all()


def test_ease_is_left_out_where_its_inverse_would_take_too_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ease, "ITEMS_MAX", 5)
    bench = Bench(protocols.strong(WORLD, 0), 0, lambda step, share: None)

    with pytest.raises(Unfit, match="22 items; the inverse is for at most 5"):
        bench.chosen("ease")


def test_a_blend_weighs_scores_by_the_best_of_each_user() -> None:
    assert relative(np.array([[2, 1], [0, -1]], np.float32)).tolist() == [[1, 0.5], [0, -1]]


@pytest.fixture(scope="module")
def bench() -> Bench:
    return Bench(protocols.strong(WORLD, 0), 0, lambda step, share: None)


@pytest.mark.parametrize("name", BASELINES)
def test_a_baseline_finds_the_taste_where_it_can(bench: Bench, name: str) -> None:
    split, chosen = bench.split, bench.chosen(name)
    answer = ranks.answer(chosen.final, split.test, 10, 0)
    score = float(metrics.ndcg(answer.hits, split.test.wanted.counts(), 10).mean())
    chance = Counted(np.zeros(len(split.train.items), np.float32))
    blind = float(metrics.ndcg(ranks.hits(chance, split.test, 10), split.test.wanted.counts(), 10).mean())

    assert np.isfinite(chosen.final.scores(split.test)).all()
    assert not split.test.met.has(answer.items).any()
    if "popularity" not in name:
        assert score > blind + 0.1


@pytest.mark.parametrize("name", ["als", "mult-dae", "sasrec", "itemknn"])
def test_the_same_seed_gives_the_same_baseline(bench: Bench, name: str) -> None:
    again = Bench(bench.split, 0, lambda step, share: None).chosen(name)

    np.testing.assert_array_equal(
        again.final.scores(bench.split.test), bench.chosen(name).final.scores(bench.split.test)
    )


def test_parameters_are_chosen_on_validation_alone(bench: Bench) -> None:
    spoiled = replace(bench.split, test=bench.split.test.take(np.arange(2)))

    assert Bench(spoiled, 0, lambda step, share: None).chosen("itemknn").parameters == (
        bench.chosen("itemknn").parameters
    )
