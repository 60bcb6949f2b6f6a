"""How a model is tested: what it may learn from, what it is asked, what counts.

Every protocol ranks through the code that serves: rows folded by profile.py, lists made by recommend.py.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from efficientrec import profile
from efficientrec.evaluation import histories, metrics
from efficientrec.evaluation.judging import LIKED
from efficientrec.model import Model
from efficientrec.profile import Rows
from efficientrec.recommend import recommend
from efficientrec.training.data import TrainingData

LIST_SIZE = 100


@dataclass(frozen=True, slots=True)
class Question:
    """Users to recommend for. All items are places in the data's list."""

    train: TrainingData
    """What a model may learn from."""
    given: TrainingData
    """What the asked users did, to be folded."""
    users: NDArray[np.int32]
    """Those asked: each has a target."""
    wanted: NDArray[np.bool_]
    """(users, items) the targets: liked, and not among what was given."""
    met: NDArray[np.bool_]
    """(users, items) what was given, which no list may hold."""

    def sample(self, most: int, seed: int) -> Question:
        """The same with at most so many users, drawn at random."""
        if len(self.users) <= most:
            return self
        kept = np.sort(np.random.default_rng(seed).choice(len(self.users), most, replace=False))
        return replace(self, users=self.users[kept], wanted=self.wanted[kept], met=self.met[kept])


def temporal(data: TrainingData, share: float = 0.1) -> Question:
    """Global split in time: learn from what was before, and predict what each user of then liked later."""
    cut = data.cut(share)
    before = data.before(cut)
    return _question(data, before, before, data.chosen(data.at >= cut))


def strong(data: TrainingData, seed: int, part: str = "test", items_min: int = 5, only_liked: bool = True) -> Question:
    """Strong generalisation: 80/10/10 of the users learn, validate and test; of the liked items of an asked user a
    random fifth are targets. With only_liked the others are all that is learned and given, each with weight 1, as
    published figures have it; without it everything else stands beside them with its sign."""
    liked = data.weight >= LIKED
    count = np.bincount(data.user[liked], minlength=data.users)
    generator = np.random.default_rng(seed)
    users = generator.permutation(np.flatnonzero(count >= items_min))
    first, second = int(0.8 * len(users)), int(0.9 * len(users))
    asked = users[first:second] if part == "validation" else users[second:]
    learning, testing = np.zeros(data.users, np.bool_), np.zeros(data.users, np.bool_)
    learning[users[:first]] = True
    testing[asked] = True
    draw = generator.random(len(data))
    mine = np.flatnonzero(liked & testing[data.user])
    mine = mine[np.lexsort((draw[mine], data.user[mine]))]
    of = data.user[mine]
    rank = np.arange(len(of)) - np.searchsorted(of, of)
    target = np.zeros(len(data), np.bool_)
    target[mine[rank < np.maximum(1, np.round(0.2 * count[of]))]] = True
    usable = liked if only_liked else np.ones(len(data), np.bool_)
    train = data.chosen(learning[data.user] & usable)
    given = data.chosen(testing[data.user] & usable & ~target)
    if only_liked:
        train, given = train.weighing(1.0), given.weighing(1.0)
    return _question(data, train, given, data.chosen(target))


def answer(model: Model, question: Question, size: int = LIST_SIZE) -> dict[str, float]:
    """The metrics of a model, and how many items it scored for a list."""
    return answer_rows(model, profile.take(histories.all_of(model, question.given), question.users), question, size)


def answer_rows(model: Model, rows: Rows, question: Question, size: int = LIST_SIZE) -> dict[str, float]:
    """`answer` with the rows of the asked users, as the model's encoder made them."""
    lists = recommend(model, rows, size)
    return {**_metrics(question, lists.items), "items_scored": float(lists.ranked.mean()) if len(rows) else 0.0}


def answer_scores(scores: NDArray[np.floating], question: Question, size: int = LIST_SIZE) -> dict[str, float]:
    """The metrics of a baseline that scores every item (users, items) for every asked user."""
    left = np.where(question.met, -np.inf, scores)
    items = np.argsort(-left, axis=1, kind="stable")[:, :size]
    items = np.where(np.take_along_axis(left, items, axis=1) > -np.inf, items, -1)
    return {**_metrics(question, items.astype(np.int32)), "items_scored": float(scores.shape[1])}


def _metrics(question: Question, items: NDArray[np.int32]) -> dict[str, float]:
    return metrics.summary(metrics.hits_of(items, question.wanted), question.wanted.sum(axis=1).astype(np.int64))


def _question(data: TrainingData, train: TrainingData, given: TrainingData, later: TrainingData) -> Question:
    items = len(data.items)
    liked = later.weight >= LIKED
    known = np.unique(given.user.astype(np.int64) * items + given.item)
    new = np.setdiff1d(later.user[liked].astype(np.int64) * items + later.item[liked], known)
    users = np.intersect1d(new // items, given.user).astype(np.int32)
    place = np.full(data.users, -1, np.int64)
    place[users] = np.arange(len(users))

    def table(pairs: NDArray[np.int64]) -> NDArray[np.bool_]:
        row = place[pairs // items]
        marked = np.zeros((len(users), items), np.bool_)
        marked[row[row >= 0], (pairs % items)[row >= 0]] = True
        return marked

    return Question(train, given, users, table(new), table(known))
