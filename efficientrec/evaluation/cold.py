"""Cold start: users of whom almost nothing is known, and items that nobody has met.

Users: those of a split's test, as they were after their first few likes; what is asked for stays the same. Of items
that they met later nothing is known, so these may stand in a list, and count as no hit.

Items: some of those that are described are taken out of all interactions before anything is learned. A list may hold
these alone, and is right where it holds what the user liked of them.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

from efficientrec.errors import TrainingImpossible
from efficientrec.evaluation import served
from efficientrec.evaluation.pairs import Pairs
from efficientrec.evaluation.questions import Question, Split
from efficientrec.evaluation.ranks import Answer, Scorer
from efficientrec.model import Model
from efficientrec.recommend import recommend
from efficientrec.training.data import TrainingData
from efficientrec.training.descriptions import token_matrix

NEW_SHARE = 0.05
"""Of the items that are described and were met, taken out as new."""
TOKENS = (3, 3000)
"""A token must be shared by so many items to say anything; at most so many are told apart."""


@dataclass(frozen=True, slots=True)
class NewItems:
    """A world in which some items have not been met yet."""

    split: Split
    """Nothing in it knows of them but their descriptions; its test asks for nothing else than them."""
    new: NDArray[np.bool_]
    """(items of split.train,)"""

    @classmethod
    def of(cls, split: Split, seed: int, share: float = NEW_SHARE) -> NewItems:
        """Raises TrainingImpossible when no item is described, or nobody of the test liked one of those drawn."""
        data = split.train
        described = np.array([bool(tokens) for tokens in data.tokens], np.bool_)
        eligible = np.flatnonzero(described & (np.bincount(data.item, minlength=len(data.items)) > 0))
        count = round(share * len(eligible))
        if count < 1:
            raise TrainingImpossible(
                f"{len(eligible)} items are both described and met: too few to take some out as new"
            )
        new = np.zeros(len(data.items), np.bool_)
        new[np.random.default_rng(seed).choice(eligible, count, replace=False)] = True
        learned = data.chosen(~new[data.item])
        test = _asking_for(split.test, new)
        if not len(test):
            raise TrainingImpossible(f"nobody of the test liked one of the {count} items taken out as new")
        return cls(
            replace(split, train=learned, final=learned, validation=_without(split.validation, new), test=test), new
        )


def _without(question: Question, new: NDArray[np.bool_]) -> Question:
    """The question as it is while the items are unknown."""
    unknown = _everywhere(question, new)
    return _answerable(replace(_forgetting(question, unknown), wanted=_only(question.wanted, ~unknown)))


def _asking_for(question: Question, new: NDArray[np.bool_]) -> Question:
    """The question for what the users liked of the new items, whether that was given or asked for."""
    unknown = _everywhere(question, new)
    item, weight = question.given.item[question.event], question.given.weight[question.event]
    liked = Pairs.of(question.owner()[weight > 0], item[weight > 0], len(question), question.wanted.items)
    key = np.union1d(liked.key, question.wanted.key)
    wanted = _only(Pairs(len(question), question.wanted.items, key), unknown)
    return _answerable(replace(_forgetting(question, unknown), wanted=wanted, judged=wanted, favoured=wanted))


def _everywhere(question: Question, new: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """(all items of the question,) which are new; items that could not be known to begin with are not."""
    return np.append(new, np.zeros(question.wanted.items - len(new), np.bool_))


def _forgetting(question: Question, unknown: NDArray[np.bool_]) -> Question:
    """With nothing given of the unknown items."""
    kept = question.keeping(~unknown[question.given.item[question.event]])
    known = ~unknown[question.given.item]
    return replace(kept, given=question.given.chosen(known), event=(np.cumsum(known) - 1)[kept.event])


def _only(pairs: Pairs, items: NDArray[np.bool_]) -> Pairs:
    return replace(pairs, key=pairs.key[items[pairs.item]])


def _answerable(question: Question) -> Question:
    """Of those who are given something, and have something to be asked for."""
    return question.take(np.flatnonzero((question.wanted.counts() > 0) & (np.diff(question.start) > 0)))


@dataclass(frozen=True, slots=True)
class Among:
    """A scorer that may list some of the items only."""

    scorer: Scorer
    listed: NDArray[np.bool_]

    @property
    def items(self) -> int:
        return len(self.listed)

    def scores(self, question: Question) -> NDArray[np.float32]:
        scores = self.scorer.scores(question)
        scores[:, ~self.listed] = -np.inf
        return scores


@dataclass(frozen=True, slots=True)
class Exactly:
    """A model's exact score of some items, of which its shortlists would let it see a few only; the others get none."""

    model: Model
    listed: NDArray[np.bool_]

    @property
    def items(self) -> int:
        return len(self.model.items)

    def scores(self, question: Question) -> NDArray[np.float32]:
        model, listed = self.model, np.flatnonzero(self.listed)
        rows = served.rows_of(model, question)
        taste = model.encoder.taste(rows)
        vectors, places = model.ranking_vectors[listed], model.ranking_places[listed]
        exact = np.outer(model.blend.liking(rows.events), model.item_bias[listed])
        if not places.shape[1]:
            exact += taste @ vectors.T
        for column in range(places.shape[1]):
            held = places[:, column] >= 0
            exact[:, held] += np.minimum(taste[:, places[held, column]], vectors[held, column])
        scores = np.full((len(question), self.items), -np.inf, np.float32)
        scores[:, listed] = exact
        return scores


@dataclass(frozen=True, slots=True)
class Chance:
    """Another order for every user, drawn."""

    items: int
    generator: np.random.Generator

    def scores(self, question: Question) -> NDArray[np.float32]:
        return self.generator.random((len(question), self.items), np.float32)


@dataclass(frozen=True, slots=True)
class CategoryPopularity:
    """The same for everybody: how much is liked what shares an item's description."""

    learned: TrainingData
    _score: NDArray[np.float32] = field(init=False)

    def __post_init__(self) -> None:
        data = self.learned
        tokens = token_matrix(data.tokens, *TOKENS)
        met = np.bincount(data.item, minlength=len(data.items)) > 0
        likes = np.bincount(data.item, np.maximum(data.weight, 0), len(data.items))
        # What an item of a token is liked on average; an item is worth what its tokens are on average.
        each = (tokens[met].T @ likes[met]) / np.maximum(np.asarray(tokens[met].sum(axis=0)).ravel(), 1e-9)
        score = (tokens @ each) / np.maximum(np.asarray(tokens.sum(axis=1)).ravel(), 1e-9)
        object.__setattr__(self, "_score", score.astype(np.float32))

    @property
    def items(self) -> int:
        return len(self._score)

    def scores(self, question: Question) -> NDArray[np.float32]:
        return np.tile(self._score, (len(question), 1))


@dataclass(frozen=True, slots=True)
class LikeDescribed:
    """Items described like those that a user liked: cosine of tokens."""

    learned: TrainingData
    _tokens: csr_matrix = field(init=False)

    def __post_init__(self) -> None:
        tokens = token_matrix(self.learned.tokens, *TOKENS)
        length = np.sqrt(np.asarray(tokens.multiply(tokens).sum(axis=1)).ravel())
        object.__setattr__(self, "_tokens", csr_matrix(tokens.multiply(1 / np.maximum(length, 1e-9)[:, None])))

    @property
    def items(self) -> int:
        return int(self._tokens.shape[0])

    def scores(self, question: Question) -> NDArray[np.float32]:
        taste = question.history(self.items) @ self._tokens
        return np.asarray((taste @ self._tokens.T).toarray(), np.float32)


def listed_among(model: Model, question: Question, new: NDArray[np.bool_], size: int) -> Answer:
    """The lists that a worker would send if nothing but the new items were allowed: what its shortlists reach."""
    lists = recommend(model, served.rows_of(model, question), size, blocked=~new)
    return Answer(lists.items, question.wanted.has(lists.items), lists.ranked.astype(np.int64))
