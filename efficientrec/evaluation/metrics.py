"""Metrics of ranked lists against what users really chose, over whole arrays.

All take `hits` (users, N): whether the item at each place is a target, and where it matters `targets` (users,): how
many targets there are, in the list or not; and give one value per user. Users without a target must not be passed in.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from efficientrec.evaluation.pairs import Pairs
from efficientrec.evaluation.questions import Question
from efficientrec.evaluation.ranks import Answer

SIZES = (5, 10, 20, 50, 100)
LISTED = 20
"""Places of a list that coverage, novelty and popularity lift look at: what a user sees."""
COMPARED = ("recall@", "ndcg@", "hit_rate@", "mrr@", "precision@", "judged_precision@")
"""Metrics of which more is better."""
JUDGED = 50
"""Places that the judged precision looks at, as published."""


def recall(hits: NDArray[np.bool_], targets: NDArray[np.integer], k: int) -> NDArray[np.float64]:
    """Share of the targets among the first k, of as many as fit there.

    >>> recall(np.array([[True, False, True]]), np.array([4]), 2).tolist()
    [0.5]
    """
    return np.asarray(hits[:, :k].sum(axis=1) / np.minimum(targets, k), np.float64)


def ndcg(hits: NDArray[np.bool_], targets: NDArray[np.integer], k: int) -> NDArray[np.float64]:
    """Discounted gain of the first k, 1 for a list that starts with all the targets.

    >>> ndcg(np.array([[True, False]]), np.array([1]), 2).tolist()
    [1.0]
    """
    discount = 1 / np.log2(np.arange(2, k + 2))
    best = np.concatenate(([0.0], np.cumsum(discount)))
    gained = hits[:, :k] @ discount[: hits[:, :k].shape[1]]
    return np.asarray(gained / best[np.minimum(targets, k)], np.float64)


def hit_rate(hits: NDArray[np.bool_], k: int) -> NDArray[np.float64]:
    """1 where a target is among the first k, else 0."""
    return np.asarray(hits[:, :k].any(axis=1), np.float64)


def reciprocal_rank(hits: NDArray[np.bool_], k: int) -> NDArray[np.float64]:
    """One over the place of the first target among the first k, 0 where there is none; its mean is the MRR.

    >>> reciprocal_rank(np.array([[False, True, True]]), 3).tolist()
    [0.5]
    """
    return np.asarray(hits[:, :k].any(axis=1) / (1.0 + hits[:, :k].argmax(axis=1)), np.float64)


def precision(hits: NDArray[np.bool_], k: int) -> NDArray[np.float64]:
    """Share of the first k places that hold a target; an empty place holds none.

    >>> precision(np.array([[True, False]]), 4).tolist()
    [0.25]
    """
    return np.asarray(hits[:, :k].sum(axis=1) / k, np.float64)


def summary(hits: NDArray[np.bool_], targets: NDArray[np.integer]) -> dict[str, float]:
    """The usual metrics, averaged over users, as far as the lists are long enough."""
    size = hits.shape[1]
    scores: dict[str, NDArray[np.float64]] = {}
    for k in (20, 50):
        if size >= k:
            scores[f"recall@{k}"] = recall(hits, targets, k)
    for k in (20, 100):
        if size >= k:
            scores[f"ndcg@{k}"] = ndcg(hits, targets, k)
    if size >= 10:
        scores["hit_rate@10"] = hit_rate(hits, 10)
    return {name: float(values.mean()) if len(values) else 0.0 for name, values in scores.items()}


@dataclass(frozen=True, slots=True)
class Ratio:
    """A metric as it is resampled: the sum of one value per user over the sum of another."""

    above: NDArray[np.float64]
    below: NDArray[np.float64]

    def mean(self) -> float:
        below = float(self.below.sum())
        return float(self.above.sum()) / below if below else 0.0


def mean(values: NDArray[np.float64]) -> Ratio:
    """The mean of one value per user."""
    return Ratio(values, np.ones(len(values)))


def accuracy(hits: NDArray[np.bool_], targets: NDArray[np.integer]) -> dict[str, Ratio]:
    """Recall, NDCG, hit rate, MRR and precision at each of SIZES."""
    result: dict[str, Ratio] = {}
    for k in SIZES:
        result[f"recall@{k}"] = mean(recall(hits, targets, k))
        result[f"ndcg@{k}"] = mean(ndcg(hits, targets, k))
        result[f"hit_rate@{k}"] = mean(hit_rate(hits, k))
        result[f"mrr@{k}"] = mean(reciprocal_rank(hits, k))
        result[f"precision@{k}"] = mean(precision(hits, k))
    return result


def judged_precision(items: NDArray[np.int32], judged: Pairs, favoured: Pairs) -> Ratio:
    """The published metric of EfficientRec's notebook: of the places whose item the user is known to have rated in what
    is held out, the share that he liked at all. Not a precision of the list: what he did not rate is left out, and a
    list drawn at random reaches the base rate."""
    shown = items[:, :JUDGED]
    return Ratio(favoured.has(shown).sum(axis=1).astype(np.float64), judged.has(shown).sum(axis=1).astype(np.float64))


def base_rate(judged: Pairs, favoured: Pairs) -> float:
    """What `judged_precision` is for a list drawn at random."""
    return len(favoured) / max(len(judged), 1)


def judged_share(items: NDArray[np.int32], judged: Pairs) -> Ratio:
    """Share of the places on which `judged_precision` rests."""
    shown = items[:, :JUDGED]
    return Ratio(judged.has(shown).sum(axis=1).astype(np.float64), (shown >= 0).sum(axis=1).astype(np.float64))


def novelty(items: NDArray[np.int32], owners: NDArray[np.int64], users: int) -> Ratio:
    """Mean self-information of what is listed, in bits: -log2 of the share of users who met the item.

    owners (items,): how many users of those learned from met each item; an item of nobody counts as one of one.
    """
    shown = items[:, :LISTED]
    bits = np.log2(max(users, 1) / np.maximum(owners, 1))
    value = np.where(shown >= 0, bits[np.maximum(shown, 0)], 0.0)
    return Ratio(value.sum(axis=1), (shown >= 0).sum(axis=1).astype(np.float64))


def popularity_lift(items: NDArray[np.int32], met: Pairs, owners: NDArray[np.int64]) -> Ratio:
    """How much more popular what is listed is than what the same users met: 0 for equally, 1 for twice as popular."""
    shown = items[:, :LISTED]
    listed = np.where(shown >= 0, owners[np.maximum(shown, 0)], 0).sum(axis=1) / np.maximum((shown >= 0).sum(axis=1), 1)
    known = met.item < len(owners)
    row = met.row[known]
    count = np.maximum(np.bincount(row, minlength=met.rows), 1)
    own = np.bincount(row, owners[met.item[known]], met.rows) / count
    return Ratio(listed - own, own)


def measures(answer: Answer, question: Question, owners: NDArray[np.int64], users: int) -> dict[str, Ratio]:
    """Everything that is a ratio of sums over users. owners (items,), users: of the training, as in `novelty`."""
    result = accuracy(answer.hits, question.wanted.counts())
    result[f"novelty@{LISTED}"] = novelty(answer.items, owners, users)
    result[f"popularity_lift@{LISTED}"] = popularity_lift(answer.items, question.met, owners)
    result["items_scored"] = mean(answer.scored.astype(np.float64))
    if len(question.favoured) < len(question.judged):  # somebody rated something low
        result[f"judged_precision@{JUDGED}"] = judged_precision(answer.items, question.judged, question.favoured)
        result[f"judged_share@{JUDGED}"] = judged_share(answer.items, question.judged)
    return result
