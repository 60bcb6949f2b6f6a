"""A recorded search: the same by its seed, continued where it stopped, and blind to the test."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from efficientrec.encoders.registry import ENCODERS
from efficientrec.errors import DataInvalid, SettingInvalid, TrainingDiverged, TrainingImpossible
from efficientrec.evaluation import protocols, search, spaces
from efficientrec.evaluation.questions import Question, Split
from efficientrec.evaluation.search import Search, Trial
from efficientrec.training import train
from efficientrec.training.recipe import Recipe
from streams.tune import tune
from tests.test_training import QUICK, WORLD, written

SPLIT = protocols.strong(WORLD, 0)


class Blind(Split):
    """A split whose test nobody may look at."""

    def __getattribute__(self, name: str) -> Any:
        if name in ("test", "final"):
            raise AssertionError(f"a search looked at {name}")
        return super().__getattribute__(name)


def blind() -> Split:
    nothing: Question = SPLIT.test
    return Blind(SPLIT.train, SPLIT.validation, nothing, SPLIT.final, SPLIT.criterion, None, False)


def searched(trials: int, done: Sequence[Trial] = (), seed: int = 0, split: Split | None = None) -> list[Trial]:
    """Times are left out, for they are never the same."""
    of = Search(split=split or blind(), recipe=replace(QUICK, seed=seed), progress=lambda *_: None, clock=lambda: 0.0)
    return of.run(trials, done, lambda so_far: None)


@pytest.fixture(scope="module")
def three() -> list[Trial]:
    return searched(3)


def test_a_search_tries_different_numbers_and_never_looks_at_the_test(three: list[Trial]) -> None:
    assert [trial.number for trial in three] == [0, 1, 2]
    assert len({json.dumps(trial.parameters) for trial in three}) == 3
    assert all(trial.score is not None and 0 < trial.score <= 1 for trial in three)


def test_a_look_at_the_test_would_be_noticed() -> None:
    with pytest.raises(AssertionError, match="looked at test"):
        len(blind().test)


def test_the_same_seed_tries_the_same_and_another_seed_something_else(three: list[Trial]) -> None:
    assert searched(2) == three[:2]
    assert searched(1, seed=1)[0].parameters != three[0].parameters


def test_a_search_that_was_interrupted_goes_on_as_if_it_had_not_been(three: list[Trial]) -> None:
    recorded = search.of_json(json.loads(json.dumps(search.as_json(three[:2]))))

    assert searched(3, recorded) == three


def test_every_trial_is_recorded_before_the_next_begins() -> None:
    seen: list[int] = []
    of = Search(split=blind(), recipe=QUICK, progress=lambda *_: None, clock=lambda: 0.0)

    of.run(2, (), lambda so_far: seen.append(len(so_far)))

    assert seen == [1, 2]


def test_the_best_is_the_one_with_the_greatest_score() -> None:
    trials = [Trial(number, {}, score, 10, 1) for number, score in enumerate((0.1, None, 0.3, 0.3))]

    assert search.best(trials) is trials[2]
    assert search.best(trials[1:2]) is None


def test_a_recipe_that_diverges_is_a_trial_without_a_score(monkeypatch: pytest.MonkeyPatch) -> None:
    def diverging(*args: object, **kwargs: object) -> None:
        raise TrainingDiverged("a loss is not finite")

    monkeypatch.setattr(train, "fit", diverging)

    assert [trial.score for trial in searched(2)] == [None, None]


def test_too_few_data_to_validate_on_are_refused() -> None:
    nobody = replace(SPLIT, validation=SPLIT.validation.take(np.zeros(0, np.int64)))

    with pytest.raises(TrainingImpossible, match="nobody to validate on"):
        searched(1, split=nobody)


def test_trials_of_another_space_are_refused() -> None:
    with pytest.raises(SettingInvalid, match="trial 0 is of another search"):
        searched(2, [Trial(0, {"ridge": 1.0}, 0.5, 10, 1)])


def test_every_encoder_can_be_searched_for_numbers_that_its_recipe_has() -> None:
    assert list(spaces.SPACES) == list(ENCODERS)
    for space in (*spaces.SPACES.values(), spaces.HALF_LIFE):
        for name, values in space.items():
            value = values.high if isinstance(values, spaces.Range) else values[-1]
            assert _number(spaces.with_numbers(Recipe(), {name: value}), name) == value


def _number(recipe: Recipe, name: str) -> Any:
    part: Any = recipe
    for step in name.split("."):
        part = getattr(part, step)
    return part


def test_the_command_writes_every_trial_and_goes_on_from_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(spaces.SPACES, "efficientrec", {"prior": spaces.Range(0.5, 8.0, log=True)})
    file, console = tmp_path / "search.json", Console(quiet=True)
    data = written(tmp_path)

    def run(trials: int, seed: int = 0) -> dict[str, Any]:
        tune(data, "strong", "efficientrec", trials=trials, seed=seed, signed=False, output=file, console=console)
        told: dict[str, Any] = json.loads(file.read_text())
        return told

    first = run(1)
    second = run(2)

    assert second["trials"][0] == first["trials"][0]
    assert len(second["trials"]) == 2
    assert second["best"] == max(second["trials"], key=lambda trial: trial["score"])
    assert {"data", "protocol", "model", "seed", "criterion", "command", "machine"} <= second.keys()
    with pytest.raises(DataInvalid, match="of another search"):
        run(3, seed=5)


@pytest.mark.parametrize("encoder", ENCODERS)
def test_the_recipe_as_it_is_comes_first_so_the_best_is_never_worse(
    encoder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried: list[Recipe] = []

    def score(self: Search, recipe: Recipe, number: int) -> tuple[float, float]:
        tried.append(recipe)
        return 0.5, 1.0

    monkeypatch.setattr(Search, "_score", score)
    recipe = Recipe(encoder=encoder)

    Search(split=blind(), recipe=recipe, progress=lambda *_: None, clock=float).run(2, (), lambda so_far: None)

    assert tried[0] == recipe
    assert tried[1] != recipe
