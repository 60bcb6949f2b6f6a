"""Models and baselines on one split: tuned on validation, learned, asked, scored, and watched for leaks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace

from efficientrec.encoders.registry import ENCODERS
from efficientrec.errors import SettingInvalid, TrainingImpossible
from efficientrec.evaluation import leaks, metrics, ranks, results, served
from efficientrec.evaluation.baselines.baseline import Parameters, Unfit
from efficientrec.evaluation.baselines.bench import BASELINES, Bench
from efficientrec.evaluation.questions import Split
from efficientrec.evaluation.ranks import Answer
from efficientrec.evaluation.results import Entry, Result
from efficientrec.training.learned import Progress
from efficientrec.training.recipe import Recipe

LIST_SIZE = max(metrics.SIZES)
VOICES_USERS = 6000
"""Validation users at most on whom voices are chosen."""
VOTES = " by votes"
"""Ends the name of a model whose candidates are ranked by their votes alone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Contest:
    """One evaluation by a split."""

    data: str
    protocol: str
    split: Split
    models: Sequence[str]
    recipe: Recipe
    progress: Progress
    clock: Callable[[], float]
    """Seconds, for the time that learning takes."""

    def run(self) -> Result:
        """Raises EvaluationLeaks when the split or a list gives away what is asked for."""
        split, seed = self.split, self.recipe.seed
        leaks.refuse(leaks.of_split(split), f"the split of {self.protocol}")
        if not len(split.test):
            raise TrainingImpossible(f"{self.protocol} leaves nobody to ask: users need more interactions")
        bench = Bench(split, seed, self.progress)
        entries: list[Entry] = []
        for name in self.models:
            begun = self.clock()
            try:
                entries += self._served(name, begun) if name in ENCODERS else self._baseline(bench, name, begun)
            except (Unfit, TrainingImpossible) as error:
                entries.append(Entry(name=name, baseline=name in BASELINES, skipped=str(error)))
        judged, favoured = split.test.judged, split.test.favoured
        return Result(
            data=self.data,
            protocol=self.protocol,
            seed=seed,
            sizes={
                "users": split.train.users,
                "items": len(split.final.items),
                "learned_events": len(split.final),
                "validation_users": len(split.validation),
                "test_users": len(split.test),
                "test_targets": len(split.test.wanted),
            },
            criterion=split.criterion,
            base_rate=metrics.base_rate(judged, favoured) if len(favoured) < len(judged) else None,
            entries=entries,
        )

    def _baseline(self, bench: Bench, name: str, begun: float) -> list[Entry]:
        chosen = bench.chosen(name)
        seconds = self.clock() - begun
        answer = ranks.answer(chosen.final, self.split.test, LIST_SIZE, self.recipe.seed)
        return [self._entry(name, answer, chosen.parameters, seconds)]

    def _served(self, name: str, begun: float) -> list[Entry]:
        from efficientrec.training.train import fit, refit

        split, recipe = self.split, self.split.suited(replace(self.recipe, encoder=name))

        def progress(step: str, share: float) -> None:
            self.progress(f"{name}: {step}", share)

        choosing = served.choosing(split.validation, split.criterion, VOICES_USERS, recipe.seed)
        version = f"{name}-{self.protocol}-{recipe.seed}"
        model, voices = fit(split.train, recipe, version=version, choosing=choosing, progress=progress)
        if split.final is not split.train:
            model = refit(split.final, recipe, version=version, voices=voices, progress=progress)
        seconds = self.clock() - begun
        return [
            self._entry(label, served.answer(model, split.test, LIST_SIZE, exact), asdict(voices), seconds)
            for label, exact in ((name, True), (name + VOTES, False))
        ]

    def _entry(self, name: str, answer: Answer, parameters: Parameters, seconds: float) -> Entry:
        known = len(self.split.final.items)
        forgets = name not in BASELINES
        leaks.refuse(leaks.of_lists(answer.items, self.split.test, known, forgets), f"the lists of {name}")
        entry = results.scored(
            name,
            answer,
            self.split.test,
            self.split.final,
            self.recipe.seed,
            baseline=name in BASELINES,
            parameters=parameters,
            seconds=seconds,
        )
        assert entry.resampled is not None
        self.progress(
            f"{name}: {self.split.criterion} {entry.resampled.mean[self.split.criterion]:.4f} on the test", 1.0
        )
        return entry


def checked(models: Sequence[str]) -> list[str]:
    """The names of models to run, each once; by default the first encoder and all baselines."""
    known = [*ENCODERS, *BASELINES]
    for name in models:
        if name not in known:
            raise SettingInvalid(f"model is {name!r}; expected one of {', '.join(known)}")
    return list(dict.fromkeys(models)) or [next(iter(ENCODERS)), *BASELINES]
