"""A recorded search for the numbers of a recipe: on validation alone, every trial written down.

1. *Ask.* The recipe's own numbers come first, so that the best is never worse. Then Optuna's TPE proposes. Its seed for
   trial n follows from the search's own and n, so a search that was interrupted and one that was not propose the same.
2. *Try.* Learn from `Split.train`, choose the voices, score on validation. The test is never looked at.
3. *Tell.* The trial is handed to whoever writes it down, before the next begins.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from efficientrec.errors import SettingInvalid, TrainingDiverged, TrainingImpossible
from efficientrec.evaluation import metrics, served
from efficientrec.evaluation.contest import VOICES_USERS
from efficientrec.evaluation.questions import Split
from efficientrec.evaluation.spaces import HALF_LIFE, SPACES, Range, Space, numbers_of, with_numbers, within
from efficientrec.training.learned import Progress
from efficientrec.training.recipe import Recipe

STARTUP = 8
"""Trials that are drawn before TPE has enough to go by."""

Numbers = Mapping[str, float | str]


@dataclass(frozen=True, slots=True)
class Trial:
    """One recipe that was tried."""

    number: int
    parameters: Numbers
    score: float | None
    """By the split's criterion, on validation, marked down as voices are for scoring more items than the recipe allows;
    None where learning diverged."""
    items_scored: float
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Search:
    """A search of one split."""

    split: Split
    recipe: Recipe
    """What is not searched; its encoder is searched for."""
    progress: Progress
    clock: Callable[[], float]

    def run(self, trials: int, done: Sequence[Trial], record: Callable[[Sequence[Trial]], None]) -> list[Trial]:
        """Tries until there are so many; done: what was recorded before. record is given all of them after each.

        Raises TrainingImpossible when nothing can be validated, SettingInvalid for an encoder that has no space and for
        trials of another space.
        """
        if not len(self.split.validation):
            raise TrainingImpossible("the split leaves nobody to validate on: users need more interactions")
        space, every = self.space(), list(done)
        for trial in every:
            if set(trial.parameters) != set(space):
                raise SettingInvalid(f"trial {trial.number} is of another search; write this one to another file")
        while len(every) < trials:
            every.append(self._try(len(every), self._asked(space, every)))
            record(every)
        return every

    def space(self) -> Space:
        """What is searched for this encoder on this split."""
        if self.recipe.encoder not in SPACES:
            raise SettingInvalid(f"model is {self.recipe.encoder!r}; expected one of {', '.join(SPACES)}")
        return {**SPACES[self.recipe.encoder], **(HALF_LIFE if self.split.fading else {})}

    def _asked(self, space: Space, every: Sequence[Trial]) -> Numbers:
        import optuna

        own = numbers_of(self.recipe, space)
        if not every and within(own, space):
            return own
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        sampler = optuna.samplers.TPESampler(
            seed=1000 * self.recipe.seed + len(every), n_startup_trials=STARTUP, multivariate=False
        )
        study = optuna.create_study(direction="maximize", sampler=sampler)
        distributions = {name: _distribution(values) for name, values in space.items()}
        for trial in every:
            study.add_trial(
                optuna.trial.create_trial(
                    params=dict(trial.parameters),
                    distributions=distributions,
                    value=0.0 if trial.score is None else trial.score,
                )
            )
        return dict(study.ask(distributions).params)

    def _try(self, number: int, numbers: Numbers) -> Trial:
        begun = self.clock()
        score: float | None = None
        scored = 0.0
        try:
            score, scored = self._score(with_numbers(self.recipe, numbers), number)
        except TrainingDiverged as error:
            self.progress(f"trial {number} diverged: {error}", 1.0)
        trial = Trial(number, numbers, score, scored, round(self.clock() - begun, 2))
        self.progress(f"trial {number}: {self.split.criterion} {score or 0:.4f}", 1.0)
        return trial

    def _score(self, recipe: Recipe, number: int) -> tuple[float, float]:
        """The criterion on validation, and the items scored for a list."""
        from efficientrec.training.train import fit

        split, recipe = self.split, self.split.suited(recipe)
        choosing = served.choosing(split.validation, split.criterion, VOICES_USERS, recipe.seed)
        model, _ = fit(
            split.train,
            recipe,
            version=f"trial-{number}",
            choosing=choosing,
            progress=lambda step, share: self.progress(f"trial {number}: {step}", min(share, 0.99)),
        )
        size = int(split.criterion.rpartition("@")[2])
        answer = served.answer(model, split.validation, size)
        gain = float(metrics.ndcg(answer.hits, split.validation.wanted.counts(), size).mean())
        scored, limit = float(answer.scored.mean()), max(recipe.scored_min, recipe.scored_share * len(model.items))
        return gain * min(1.0, limit / max(scored, 1.0)), scored


def best(trials: Sequence[Trial]) -> Trial | None:
    """The one with the greatest score; the first of equals."""
    scored = [trial for trial in trials if trial.score is not None]
    return max(scored, key=lambda trial: trial.score or 0.0, default=None)


def as_json(trials: Sequence[Trial]) -> dict[str, Any]:
    """Every trial, and the best."""
    found = best(trials)
    return {"trials": [asdict(trial) for trial in trials], "best": None if found is None else asdict(found)}


def of_json(told: Mapping[str, Any]) -> list[Trial]:
    """The trials that were recorded."""
    return [Trial(**trial) for trial in told["trials"]]


def _distribution(values: Range | Sequence[float | str]) -> Any:
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    if not isinstance(values, Range):
        return CategoricalDistribution(list(values))
    if values.whole:
        return IntDistribution(int(values.low), int(values.high), log=values.log)
    return FloatDistribution(values.low, values.high, log=values.log)
