"""Models and baselines on a stream: tuned on its beginning, then asked before every event and learned anew on the way.

1. *Tune.* Learned from the events before MIDDLE, chosen on those before START.
2. *Learn anew* at START and whenever it is time. What learns from every event needs none of this.
3. *Ask.* Each question goes to the latest model that was learned from no more than the list may know.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from efficientrec.encoders.registry import ENCODERS
from efficientrec.errors import TrainingImpossible
from efficientrec.evaluation import leaks, prequential, ranks, results, served
from efficientrec.evaluation.baselines.baseline import Parameters, Unfit, product
from efficientrec.evaluation.baselines.bench import BASELINES, BLENDS, Bench, baseline, prefixed, told, validating
from efficientrec.evaluation.baselines.blend import BETAS, Blended
from efficientrec.evaluation.baselines.fallback import OrPopular
from efficientrec.evaluation.baselines.linear import DECAYS
from efficientrec.evaluation.baselines.popular import HALF_LIVES_DAYS
from efficientrec.evaluation.baselines.streamed import ITEMS_MAX, StreamedPopularity, StreamedRules
from efficientrec.evaluation.contest import LIST_SIZE, VOICES_USERS, VOTES
from efficientrec.evaluation.prequential import Stream
from efficientrec.evaluation.questions import Question, Split
from efficientrec.evaluation.ranks import Answer, Scorer
from efficientrec.evaluation.results import Entry, Result
from efficientrec.training.learned import Progress
from efficientrec.training.popularity import decayed
from efficientrec.training.recipe import Recipe

CRITERION = "ndcg@10"
ASKED_AT_A_TIME = 4000

Asker = Callable[[Question], Answer]
"""Asked in the order of time."""
Scorers = Callable[[int, str], Scorer]
"""What ranks after learning from so many events, for lists made at a refresh: of each refresh only ever asked on in
the order of time."""


@dataclass(frozen=True, slots=True)
class Tuned:
    """A model or baseline whose parameters are chosen."""

    parameters: Parameters
    learned: Callable[[int, str], Mapping[str, Asker]]
    """What is asked after learning from so many events, for lists made at a refresh, under each name by which it is
    told."""
    anew: bool
    """Whether it must be learned anew on the way."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Replay:
    """One evaluation by a stream."""

    data: str
    stream: Stream
    models: Sequence[str]
    recipe: Recipe
    every: int
    """Every n-th event that could be asked for is."""
    refit: int | str
    """Events after which models are learned anew, or `hour` or `day`."""
    refreshes: Sequence[str]
    """When lists are made: of prequential.REFRESHES."""
    progress: Progress
    clock: Callable[[], float]
    _scorers: dict[str, tuple[Parameters, Scorers]] = field(init=False, default_factory=dict)

    def run(self) -> Result:
        """Raises EvaluationLeaks when a list gives away what is asked for."""
        stream = self.stream
        middle, start = prequential.bounds(stream)
        events = stream.liked(start, len(stream.data), self.every)
        choosing = stream.liked(middle, start, self.every)
        if not len(events) or not len(choosing):
            raise TrainingImpossible("prequential leaves nothing to ask: users need more interactions")
        question = stream.question(choosing, choosing)
        learned = stream.learned(middle)
        tuning = Split(learned, question, question, final=learned, criterion=CRITERION)
        bench = Bench(tuning, self.recipe.seed, self.progress)
        entries: list[Entry] = []
        for name in self.models:
            begun = self.clock()
            try:
                tuned = self._served(name, tuning) if name in ENCODERS else self._baseline(name, bench)
                entries += self._asked(name, tuned, events, begun)
            except (Unfit, TrainingImpossible) as error:
                entries.append(Entry(name=name, baseline=name in BASELINES, skipped=str(error)))
        return Result(
            data=self.data,
            protocol="prequential",
            seed=self.recipe.seed,
            sizes={
                "users": stream.data.users,
                "items": len(stream.data.items),
                "events": len(stream.data),
                "validation_events": len(choosing),
                "test_events": len(events),
                "test_users": len(np.unique(stream.data.user[events])),
                "refits": len(prequential.refits(stream, self.refit)) - 1,
            },
            criterion=CRITERION,
            base_rate=None,
            entries=entries,
        )

    def _asked(self, name: str, tuned: Tuned, events: NDArray[np.int64], begun: float) -> list[Entry]:
        """The figures for every refresh; a model is learned once for all of them."""
        stream = self.stream
        points = prequential.refits(stream, self.refit) if tuned.anew else np.zeros(1, np.int64)
        known = {refresh: stream.known(events, refresh) for refresh in self.refreshes}
        latest = {refresh: np.searchsorted(points, known[refresh], side="right") - 1 for refresh in self.refreshes}
        answers: dict[tuple[str, str], Answer] = {}
        seconds = self.clock() - begun
        for place, point in enumerate(points.tolist()):
            for refresh in self.refreshes:
                rows = np.flatnonzero(latest[refresh] == place)
                if not len(rows):
                    continue
                begun = self.clock()
                asked = tuned.learned(point, refresh)
                seconds += self.clock() - begun
                for label, ask in asked.items():
                    whole = answers.setdefault((label, refresh), _nothing(len(events)))
                    for some in _chunks(rows):
                        question = stream.question(events[some], known[refresh][some])
                        answer = ask(question)
                        _into(whole, some, answer if refresh == "event" else _unmet(answer, question))
                        found = self._leaks(question, events[some], whole.items[some], name)
                        leaks.refuse(found, f"the lists of {label}")
            self.progress(f"{name}: asked", (place + 1) / len(points))
        order = sorted(answers, key=lambda pair: self.refreshes.index(pair[1]))
        return [
            self._entry(label, refresh, answers[label, refresh], events, tuned, seconds) for label, refresh in order
        ]

    def _leaks(self, question: Question, events: NDArray[np.int64], items: NDArray[np.int32], name: str) -> list[str]:
        assert question.known is not None
        found = leaks.of_lists(items, question, int(self.stream.items(int(question.known[-1]))), name not in BASELINES)
        if (question.event >= np.repeat(events, np.diff(question.start))).any():
            found.append("what is given is later than what is asked for")
        return found

    def _entry(
        self, name: str, refresh: str, answer: Answer, events: NDArray[np.int64], tuned: Tuned, seconds: float
    ) -> Entry:
        stream = self.stream
        _, unit = np.unique(stream.data.user[events], return_inverse=True)
        entry = results.scored(
            name if refresh == "event" else f"{name}, lists per {refresh}",
            answer,
            stream.question(events, stream.known(events, refresh)),
            stream.data,
            self.recipe.seed,
            baseline=name in BASELINES,
            parameters=tuned.parameters,
            seconds=seconds,
            unit=unit,
        )
        assert entry.resampled is not None
        self.progress(f"{entry.name}: hit_rate@10 {entry.resampled.mean['hit_rate@10']:.4f} on the test", 1.0)
        return entry

    def _baseline(self, name: str, bench: Bench) -> Tuned:
        parameters, scorer = self._scorer(name, bench)

        def learned(point: int, refresh: str) -> Mapping[str, Asker]:
            fresh = scorer(point, refresh)
            return {name: lambda question: ranks.answer(fresh, question, LIST_SIZE, self.recipe.seed)}

        return Tuned(parameters, learned, anew=name not in STREAMED)

    def _scorer(self, name: str, bench: Bench) -> tuple[Parameters, Scorers]:
        """The parameters chosen, and what ranks after learning from so many events."""
        if name not in self._scorers:
            self._scorers[name] = self._tuned(name, bench)
        return self._scorers[name]

    def _tuned(self, name: str, bench: Bench) -> tuple[Parameters, Scorers]:
        judge = validating(bench.split, bench.split.validation)
        if name in STREAMED:
            if name == "sr" and len(self.stream.data.items) > ITEMS_MAX:
                raise Unfit(f"{len(self.stream.data.items)} items; counts of every pair are for at most {ITEMS_MAX}")
            make = STREAMED[name]
            tried = [(judge(make(self.stream, values)), values) for values in STREAMED_GRIDS[name]]
            score, best = max(tried, key=lambda pair: pair[0])
            self.progress(f"{name} {told(best)}: {CRITERION} {score:.4f}", 1.0)
            return best, lambda _, __: make(self.stream, best)
        if name in BLENDS:
            first, second = BLENDS[name]
            (values, ranked), (other_values, other) = self._scorer(first, bench), self._scorer(second, bench)
            middle, _ = prequential.bounds(self.stream)
            scores = {}
            for beta in BETAS:
                scores[beta] = judge(Blended(ranked(middle, ""), other(middle, ""), beta))
            beta = max(scores, key=scores.__getitem__)
            self.progress(f"{name} beta={beta:g}: {CRITERION} {scores[beta]:.4f}", 1.0)
            steady = {refresh: ranked(middle, refresh) for refresh in self.refreshes}  # goes on from point to point
            parameters = {**prefixed(first, values), **prefixed(second, other_values), "beta": beta}
            return parameters, lambda point, refresh: Blended(steady[refresh], other(point, refresh), beta)
        chosen = bench.chosen(name).parameters

        @lru_cache(maxsize=1)
        def fitted(point: int) -> Scorer:
            learned = self.stream.learned(point)
            scorer = baseline(name, bench.inverses).fit(learned, chosen, self.recipe.seed, None).scorer
            return OrPopular(scorer, decayed(learned, math.inf).astype(np.float32))

        return chosen, lambda point, _: fitted(point)

    def _served(self, name: str, tuning: Split) -> Tuned:
        from efficientrec.training.train import fit, refit

        recipe = replace(self.recipe, encoder=name)

        def progress(step: str, share: float) -> None:
            self.progress(f"{name}: {step}", share)

        middle, _ = prequential.bounds(self.stream)
        choosing = served.choosing(tuning.validation, CRITERION, VOICES_USERS, recipe.seed)
        first, voices = fit(tuning.train, recipe, version=f"{name}-{middle}", choosing=choosing, progress=progress)

        @lru_cache(maxsize=1)
        def learned(point: int) -> Mapping[str, Asker]:
            model = first
            if point != middle:
                model = refit(
                    self.stream.learned(point), recipe, version=f"{name}-{point}", voices=voices, progress=progress
                )
            return {
                name: lambda question: served.answer(model, question, LIST_SIZE),
                name + VOTES: lambda question: served.answer(model, question, LIST_SIZE, exact=False),
            }

        return Tuned(asdict(voices), lambda point, _: learned(point), anew=True)


STREAMED: Mapping[str, Callable[[Stream, Parameters], Scorer]] = {
    "popularity": lambda stream, values: StreamedPopularity(stream),
    "recency-popularity": lambda stream, values: StreamedPopularity(stream, values["half_life_days"]),
    "sr": lambda stream, values: StreamedRules(stream, values["decay"]),
}
STREAMED_GRIDS: Mapping[str, Sequence[Parameters]] = {
    "popularity": [{}],
    "recency-popularity": product({"half_life_days": HALF_LIVES_DAYS}),
    "sr": product({"decay": DECAYS}),
}


def _nothing(rows: int) -> Answer:
    return Answer(
        np.full((rows, LIST_SIZE), -1, np.int32), np.zeros((rows, LIST_SIZE), np.bool_), np.zeros(rows, np.int64)
    )


def _unmet(answer: Answer, question: Question) -> Answer:
    """The lists without what their users met after they were made."""
    order = np.argsort(question.met.has(answer.items), axis=1, kind="stable")
    items = np.take_along_axis(answer.items, order, axis=1)
    items[question.met.has(items)] = -1
    return Answer(items, question.wanted.has(items), answer.scored)


def _into(whole: Answer, rows: NDArray[np.int64], part: Answer) -> None:
    whole.items[rows], whole.hits[rows], whole.scored[rows] = part.items, part.hits, part.scored


def _chunks(rows: NDArray[np.int64]) -> Iterator[NDArray[np.int64]]:
    for first in range(0, len(rows), ASKED_AT_A_TIME):
        yield rows[first : first + ASKED_AT_A_TIME]
