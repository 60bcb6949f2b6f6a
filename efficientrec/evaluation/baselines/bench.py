"""The baselines of one run: tuned on validation, learned, each once, whoever asks for it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from efficientrec.evaluation import metrics, ranks
from efficientrec.evaluation.baselines import als, ease, itemknn, popular, rules
from efficientrec.evaluation.baselines.baseline import Baseline, Fit, Judge, Parameters
from efficientrec.evaluation.baselines.blend import BETAS, Blended
from efficientrec.evaluation.questions import Question, Split
from efficientrec.evaluation.ranks import Scorer
from efficientrec.training.learned import Progress

BLENDS = {"sr+ease": ("sr", "ease-recency")}
BASELINES = (
    "popularity",
    "recency-popularity",
    "itemknn",
    "ease",
    "ease-recency",
    "sr",
    "sr+ease",
    "als",
    "mult-dae",
    "sasrec",
)
VALIDATION_SCORES = 300_000_000
"""Scores that one set of parameters may take on validation: so many users are asked. All of Beauty's; of 10,000 of them
another blend came out first."""


@dataclass(frozen=True, slots=True)
class Chosen:
    """A baseline with the parameters that validation preferred."""

    parameters: Parameters
    score: float
    """By the split's criterion, on validation."""
    tuned: Scorer
    """Learned from `Split.train`."""
    final: Scorer
    """Learned from `Split.final`."""


@dataclass(slots=True)
class Bench:
    """Baselines of one split."""

    split: Split
    seed: int
    progress: Progress
    _asked: Question = field(init=False)
    inverses: ease.Inverses = field(init=False, default_factory=ease.Inverses)
    _done: dict[str, Chosen] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        self._asked = self.split.validation.sample(VALIDATION_SCORES // len(self.split.train.items), self.seed)

    def chosen(self, name: str) -> Chosen:
        """Raises Unfit where the data do not suit it."""
        if name not in self._done:
            self._done[name] = self._blend(name) if name in BLENDS else self._single(name)
        return self._done[name]

    def _single(self, name: str) -> Chosen:
        method, split = baseline(name, self.inverses), self.split
        judge = validating(split, self._asked)
        best: tuple[float, Fit] | None = None
        grid = method.grid(split.train)
        for place, parameters in enumerate(grid):
            fit = method.fit(split.train, parameters, self.seed, judge)
            score = judge(fit.scorer)
            self.progress(f"{name} {told(fit.parameters)}: {split.criterion} {score:.4f}", (place + 1) / len(grid))
            if best is None or score > best[0]:
                best = score, fit
        assert best is not None, f"{name} has an empty grid"
        score, fit = best
        final = fit.scorer
        if split.final is not split.train:
            final = method.fit(split.final, fit.parameters, self.seed, None).scorer
        return Chosen(fit.parameters, score, fit.scorer, final)

    def _blend(self, name: str) -> Chosen:
        first, second = (self.chosen(part) for part in BLENDS[name])
        judge = validating(self.split, self._asked)
        scores = {beta: judge(Blended(first.tuned, second.tuned, beta)) for beta in BETAS}
        beta = max(scores, key=scores.__getitem__)
        self.progress(f"{name} beta={beta:g}: {self.split.criterion} {scores[beta]:.4f}", 1.0)
        return Chosen(
            {
                **prefixed(BLENDS[name][0], first.parameters),
                **prefixed(BLENDS[name][1], second.parameters),
                "beta": beta,
            },
            scores[beta],
            Blended(first.tuned, second.tuned, beta),
            Blended(first.final, second.final, beta),
        )


def baseline(name: str, inverses: ease.Inverses) -> Baseline:
    """A method that is no blend, by its name. inverses: shared by those that need any."""
    makers: Mapping[str, Callable[[], Baseline]] = {
        "popularity": popular.Popularity,
        "recency-popularity": lambda: popular.RECENCY,
        "itemknn": itemknn.ItemKNN,
        "ease": lambda: ease.Ease(inverses),
        "ease-recency": lambda: ease.recent(inverses),
        "sr": rules.Rules,
        "als": als.ImplicitALS,
        "mult-dae": _mult_dae,
        "sasrec": _sasrec,
    }
    return makers[name]()


def validating(split: Split, asked: Question) -> Judge:
    """How a scorer does by the split's criterion, an NDCG, on the asked users of its validation."""
    size = int(split.criterion.rpartition("@")[2])
    targets = asked.wanted.counts()

    def judge(scorer: Scorer) -> float:
        hits = ranks.hits(scorer, asked, size)
        return float(metrics.ndcg(hits, targets, size).mean()) if len(asked) else 0.0

    return judge


def told(parameters: Parameters) -> str:
    """The parameters as a reader takes them in."""
    return " ".join(f"{name}={value:g}" for name, value in parameters.items())


def prefixed(part: str, parameters: Parameters) -> Parameters:
    """The parameters of a part of a blend, by names that tell whose they are."""
    return {f"{part}_{name}": value for name, value in parameters.items()}


def _mult_dae() -> Baseline:
    from efficientrec.training.autoencoder import MultDAE  # torch

    return MultDAE()


def _sasrec() -> Baseline:
    from efficientrec.training.sasrec import SASRec  # torch

    return SASRec()
