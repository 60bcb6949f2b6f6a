"""What is asked of a model: users to recommend for, what they did, and what their lists should hold.

Nothing here is as large as users × items.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

from efficientrec.evaluation.pairs import Pairs
from efficientrec.training.data import TrainingData
from efficientrec.training.recipe import Recipe

FOREVER_SECONDS = 1e12


@dataclass(frozen=True, slots=True)
class Question:
    """Users to recommend for. Items are places in `given.items`, those that may be recommended first."""

    given: TrainingData
    """What users did before they were asked."""
    users: NDArray[np.int32]
    """(asked,) each has a target. Ascending, unless they are asked in the order of time."""
    start: NDArray[np.int64]
    """(asked + 1,) where the events of each begin in `event`."""
    event: NDArray[np.int64]
    """Indices of the events of `given` that the asked users did, each one's in time order."""
    wanted: Pairs
    """The targets: not among what was met."""
    met: Pairs
    """What was given, which no list may hold."""
    judged: Pairs
    """Everything that is held out of the asked users, whether they liked it or not."""
    favoured: Pairs
    """What of that they liked at all (a positive weight)."""
    known: NDArray[np.int64] | None = None
    """(asked,) ascending: how many events of `given` had happened when each list was made; None for all."""

    def __len__(self) -> int:
        return len(self.users)

    def keeping(self, kept: NDArray[np.bool_]) -> Question:
        """The same of users who did only some of what they did. kept: (events,) of `event`."""
        event, owner = self.event[kept], self.owner()[kept]
        count = np.bincount(owner, minlength=len(self))
        return replace(
            self,
            event=event,
            start=np.concatenate(([0], np.cumsum(count))).astype(np.int64),
            met=Pairs.of(owner, self.given.item[event], len(self), self.met.items),
        )

    def owner(self) -> NDArray[np.int64]:
        """Which of the asked users did each of `event`."""
        return np.repeat(np.arange(len(self)), np.diff(self.start))

    def likes(self) -> NDArray[np.int64]:
        """(asked,) how many of a user's events have a positive weight."""
        return np.bincount(self.owner(), self.given.weight[self.event] > 0, len(self)).astype(np.int64)

    def after(self, likes: int | NDArray[np.int64]) -> Question:
        """The same of users who have liked no more than their first few items, each so many, and done nothing else."""
        liked = self.given.weight[self.event] > 0
        before: NDArray[np.int64] = np.cumsum(liked) - liked
        rank = before - np.concatenate((before, [0]))[self.start[:-1]][self.owner()]
        return self.keeping(liked & (rank < np.broadcast_to(likes, len(self))[self.owner()]))

    def take(self, rows: NDArray[np.integer]) -> Question:
        """The same, asked of some of the users only. rows: places in `users`, ascending."""
        count = self.start[rows + 1] - self.start[rows]
        end = np.cumsum(count)
        step = np.arange(int(count.sum())) - np.repeat(end - count, count)
        return Question(
            given=self.given,
            users=self.users[rows],
            start=np.concatenate(([0], end)).astype(np.int64),
            event=self.event[np.repeat(self.start[rows], count) + step],
            wanted=self.wanted.take(rows),
            met=self.met.take(rows),
            judged=self.judged.take(rows),
            favoured=self.favoured.take(rows),
            known=None if self.known is None else self.known[rows],
        )

    def sample(self, most: int, seed: int) -> Question:
        """The same with at most so many users, drawn at random."""
        if len(self) <= most:
            return self
        return self.take(np.sort(np.random.default_rng(seed).choice(len(self), most, replace=False)))

    def part(self, first: int, most: int) -> Question:
        """The next `most` users from a place on."""
        return self.take(np.arange(first, min(first + most, len(self))))

    def history(self, items: int, decay: float = 1.0) -> csr_matrix:
        """(asked, items) what each user liked: its weight, times decay for every event of his that came after it. Of
        an item met twice the later time counts. items: how many of the first items are known."""
        owner = self.owner()
        age = self.start[owner + 1] - 1 - np.arange(len(self.event))
        item, weight = self.given.item[self.event], self.given.weight[self.event]
        kept = (weight > 0) & (item < items)
        value = weight[kept] * np.float32(decay) ** age[kept]
        key = owner[kept] * np.int64(max(items, 1)) + item[kept]
        _, last = np.unique(key[::-1], return_index=True)
        last = len(key) - 1 - last
        return csr_matrix((value[last].astype(np.float32), (owner[kept][last], item[kept][last])), (len(self), items))


def asking(given: TrainingData, held_out: TrainingData, liked: NDArray[np.bool_]) -> Question:
    """The question that follows from what was given and what was held out; only users with something of both, and a
    target, are asked.

    liked (events of held_out,): which of these should be in a list. What a user had met before is no target.
    """
    items = len(given.items)
    known = np.unique(given.user.astype(np.int64) * items + given.item)
    key = held_out.user.astype(np.int64) * items + held_out.item
    new = ~np.isin(key, known)
    users = np.intersect1d(held_out.user[new & liked], given.user).astype(np.int32)
    place = np.full(given.users, -1, np.int64)
    place[users] = np.arange(len(users))

    def pairs(user: NDArray[np.int32], item: NDArray[np.int32]) -> Pairs:
        mine = place[user] >= 0
        return Pairs.of(place[user[mine]], item[mine], len(users), items)

    order = np.argsort(place[given.user], kind="stable")  # who is not asked comes first
    order = order[int((place[given.user] < 0).sum()) :]
    count = np.bincount(place[given.user[order]], minlength=len(users))
    return Question(
        given=given,
        users=users,
        start=np.concatenate(([0], np.cumsum(count))).astype(np.int64),
        event=order.astype(np.int64),
        wanted=pairs(held_out.user[new & liked], held_out.item[new & liked]),
        met=pairs(given.user, given.item),
        judged=pairs(held_out.user[new], held_out.item[new]),
        favoured=pairs(held_out.user[new & (held_out.weight > 0)], held_out.item[new & (held_out.weight > 0)]),
    )


@dataclass(frozen=True, slots=True)
class Split:
    """How a data set is divided: what is learned from, what choices are made on, what is reported."""

    train: TrainingData
    validation: Question
    """For every choice: hyperparameters, when to stop, how loud the voices speak."""
    test: Question
    """For nothing but the figures."""
    final: TrainingData
    """What a model is trained on once everything is chosen: `train`, or more where the protocol moves on in time."""
    criterion: str
    """The metric that choices are made by."""
    cut: int | None = None
    """Milliseconds since the epoch, from which on nothing may be learned; None where time does not divide."""
    fading: bool = True
    """Whether what was long ago tells less of the targets; not where they are drawn from all of a user's time."""

    def suited(self, recipe: Recipe) -> Recipe:
        """The recipe with which to learn for the split."""
        if self.fading:
            return recipe
        return replace(recipe, half_life_seconds=FOREVER_SECONDS, popularity_half_life_seconds=FOREVER_SECONDS)


def known_first(data: TrainingData, learned: NDArray[np.bool_]) -> tuple[TrainingData, int]:
    """The data with the items that may be known in front, and how many these are: items of the learned events
    (events,), and those that are described. Of the rest a model must not even learn that they exist."""
    known = np.array([bool(tokens) for tokens in data.tokens], np.bool_)
    known[data.item[learned]] = True
    return data.renumbered(np.argsort(~known, kind="stable")), int(known.sum())


def knowing(data: TrainingData, items: int) -> TrainingData:
    """The data of the first items alone, as something to learn from."""
    kept = data.chosen(data.item < items)
    return replace(kept, items=kept.items[:items], tokens=kept.tokens[:items])
