"""A closer look at one trained model than its figures give: cold start, what accuracy costs, and its clusters.

All of it by the strong split: users whom nobody has learned from. Plain numbers and texts come out, ready for JSON.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from efficientrec.errors import TrainingImpossible
from efficientrec.evaluation import bootstrap, cluster_map, cold, leaks, metrics, ranks, served, tradeoff
from efficientrec.evaluation.baselines.baseline import Unfit
from efficientrec.evaluation.baselines.bench import Bench
from efficientrec.evaluation.contest import LIST_SIZE, VOICES_USERS, VOTES
from efficientrec.evaluation.pairs import Pairs
from efficientrec.evaluation.questions import Question, Split
from efficientrec.evaluation.ranks import Answer, Scorer
from efficientrec.model import Model
from efficientrec.training.data import TrainingData
from efficientrec.training.learned import Progress
from efficientrec.training.recipe import Recipe
from efficientrec.training.trials import ASKED_AFTER

TOLD = ("recall@20", "recall@50", "ndcg@20", "ndcg@100", "hit_rate@10", "hit_rate@20")
"""Metrics that are told of each answer."""
BESIDE = ("popularity", "itemknn", "ease")
"""Baselines that cold users are shown beside."""
EASE_ITEMS_MAX = 6000
"""Items up to which EASE is quick enough to stand beside."""
MAP_USERS = 20_000
"""Users at most whose memberships make the map."""
NEW_LIST = 20
"""Places of lists of new items."""

Figures = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Portrait:
    """One model of one data set."""

    data: str
    split: Split
    recipe: Recipe
    """Whose encoder is looked at."""
    title: Callable[[str], str]
    """What an item is called."""
    progress: Progress
    clock: Callable[[], float]

    def draw(self) -> Figures:
        """Raises TrainingImpossible when the data are too few for the split, EvaluationLeaks when it is not honest."""
        split, name = self.split, self.recipe.encoder
        leaks.refuse(leaks.of_split(split), "the strong split")
        if not len(split.test):
            raise TrainingImpossible("the strong split leaves nobody to ask: users need more interactions")
        begun = self.clock()
        model = self._learned(split)
        seconds = self.clock() - begun
        return {
            "data": self.data,
            "protocol": "portrait",
            "model": name,
            "seed": self.recipe.seed,
            "criterion": split.criterion,
            "training_seconds": round(seconds, 2),
            "sizes": {"items": len(model.items), "test_users": len(split.test), "clusters": len(model.clusters)},
            "cold_users": list(self._cold_users(model)),
            "cold_items": self._cold_items(),
            "tradeoff": list(self._tradeoff(model)),
            "clusters": list(self._clusters(model)),
        }

    def _learned(self, split: Split) -> Model:
        from efficientrec.training.train import fit

        def progress(step: str, share: float) -> None:
            self.progress(f"{self.recipe.encoder}: {step}", share)

        recipe = split.suited(self.recipe)
        choosing = served.choosing(split.validation, split.criterion, VOICES_USERS, recipe.seed)
        version = f"{recipe.encoder}-portrait-{recipe.seed}"
        return fit(split.train, recipe, version=version, choosing=choosing, progress=progress)[0]

    def _cold_users(self, model: Model) -> Iterator[Figures]:
        """By likes that are known, ascending; the last is everything."""
        whole, traits = self.split.test, any(self.split.test.given.traits)
        likes = whole.likes()
        bench = Bench(self.split, self.recipe.seed, self.progress)
        beside = {name: scorer for name in BESIDE if (scorer := self._baseline(bench, name)) is not None}
        for events in (*ASKED_AFTER, None):
            if events == 0 and not traits:
                continue
            question = whole if events is None else whole.after(events)
            # With nothing to go by, only popularity has anything to say beside the demographics.
            asked = {name: scorer for name, scorer in beside.items() if events != 0 or name == "popularity"}
            name = self.recipe.encoder
            answers = {
                label: served.answer(model, question, LIST_SIZE, exact)
                for label, exact in ((name, True), (name + VOTES, False))
            }
            answers |= {
                name: ranks.answer(scorer, question, LIST_SIZE, self.recipe.seed) for name, scorer in asked.items()
            }
            known = likes if events is None else np.minimum(likes, events)
            self.progress("cold users", 1.0 if events is None else events / 11)
            yield {
                "events": events,
                "events_mean": float(known.mean()),
                "users": len(question),
                "models": {name: self._figures(answer, question) for name, answer in answers.items()},
            }

    def _baseline(self, bench: Bench, name: str) -> Scorer | None:
        if name == "ease" and len(self.split.train.items) > EASE_ITEMS_MAX:
            return None
        try:
            return bench.chosen(name).final
        except Unfit:
            return None

    def _cold_items(self) -> Figures:
        try:
            world = cold.NewItems.of(self.split, self.recipe.seed)
        except TrainingImpossible as error:
            return {"skipped": str(error)}
        leaks.refuse(leaks.of_split(world.split), "the split of new items")
        question, data, new = world.split.test, world.split.train, world.new
        model, name, seed = self._learned(world.split), self.recipe.encoder, self.recipe.seed
        scorers: Mapping[str, Scorer] = {
            f"{name}, by features alone": cold.Exactly(model, new),
            "described alike": cold.LikeDescribed(data),
            "popularity of category": cold.CategoryPopularity(data),
            "random": cold.Chance(len(new), np.random.default_rng(seed)),
        }
        answers = {
            label: ranks.answer(cold.Among(scorer, new), question, NEW_LIST, seed) for label, scorer in scorers.items()
        }
        answers[f"{name}, through shortlists"] = cold.listed_among(model, question, new, NEW_LIST)
        answers[f"{name}, among all items"] = served.answer(model, question, NEW_LIST)
        self.progress("new items", 1.0)
        return {
            "items": int(new.sum()),
            "users": len(question),
            "targets": len(question.wanted),
            "models": {label: self._figures(answer, question) for label, answer in answers.items()},
        }

    def _tradeoff(self, model: Model) -> Iterator[Figures]:
        for variant in tradeoff.variants(model):
            answer = served.answer(variant.model, self.split.test, LIST_SIZE)
            self.progress(f"{variant.knob} {variant.value:g}", 1.0)
            yield {
                "knob": variant.knob,
                "value": variant.value,
                "items_scored": float(answer.scored.mean()),
                "metrics": self._figures(answer, self.split.test),
            }

    def _clusters(self, model: Model) -> Iterator[Figures]:
        rows = served.rows_of(model, everybody(self.split.train, MAP_USERS, self.recipe.seed))
        for placed in cluster_map.places(model, rows):
            yield {
                "cluster": placed.cluster,
                "x": placed.x,
                "y": placed.y,
                "members": placed.members,
                "top": [self.title(model.items.ids[item]) for item in placed.top],
            }

    def _figures(self, answer: Answer, question: Question) -> Figures:
        """Each of TOLD with its interval, as far as the lists are long enough."""
        measures = metrics.accuracy(answer.hits, question.wanted.counts())
        size = answer.items.shape[1]
        told = {name: measures[name] for name in TOLD if int(name.rpartition("@")[2]) <= size}
        drawn = bootstrap.resample(told, np.arange(len(question)), self.recipe.seed)
        intervals = {name: drawn.interval(name) for name in told}
        return {name: {"mean": each.mean, "low": each.low, "high": each.high} for name, each in intervals.items()}


def everybody(data: TrainingData, most: int, seed: int) -> Question:
    """The users who were learned from, or so many of them, with all that they did, as if they were asked."""
    users = np.unique(data.user).astype(np.int32)
    nothing = Pairs(len(users), len(data.items), np.zeros(0, np.int64))
    order: NDArray[np.int64] = np.argsort(data.user, kind="stable").astype(np.int64)
    start = np.append(np.searchsorted(data.user[order], users), len(data)).astype(np.int64)
    whole = Question(data, users, start, order, nothing, nothing, nothing, nothing)
    return whole.sample(most, seed)
