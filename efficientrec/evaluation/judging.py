"""The test by which a model is let in: predict held-out later events, each from the list its user had just before it.

All models predict the same events, whatever their vocabularies, and so does popularity. None may have seen the events.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from efficientrec.evaluation import histories, metrics
from efficientrec.interactions import LIKED, keys_of
from efficientrec.model import Model
from efficientrec.profile import Rows
from efficientrec.recommend import recommend
from efficientrec.training.data import TrainingData

LIST_SIZE = 20
EXAMPLES_MAX = 2000


@dataclass(frozen=True, slots=True)
class Examples:
    """Events to predict, and the world they happened in."""

    data: TrainingData
    event: NDArray[np.int64]
    """(n,) indices of data's events."""

    def __len__(self) -> int:
        return len(self.event)

    def halves(self, seed: int) -> tuple[Examples, Examples]:
        """The examples of two halves of the users, so that what is chosen on one can be scored on the other."""
        side = (np.random.default_rng(seed).random(self.data.users) < 0.5)[self.data.user[self.event]]
        return Examples(self.data, self.event[side]), Examples(self.data, self.event[~side])


def examples(data: TrainingData, since: int, seed: int, most: int = EXAMPLES_MAX) -> Examples:
    """The liked events from a time (milliseconds) on, of users who did something before, with items new to them; a
    random sample when there are more than `most`."""
    first = np.ones(len(data), np.bool_)
    pair = data.user.astype(np.int64) * len(data.items) + data.item
    order = np.argsort(pair, kind="stable")
    first[order[1:]] = pair[order[1:]] != pair[order[:-1]]
    newcomer = np.zeros(len(data), np.bool_)
    newcomer[np.unique(data.user, return_index=True)[1]] = True
    event = np.flatnonzero(first & ~newcomer & (data.weight >= LIKED) & (data.at >= since))
    if len(event) > most:
        event = np.sort(np.random.default_rng(seed).choice(event, most, replace=False))
    return Examples(data, event)


def judge(model: Model, held_out: Examples) -> dict[str, float]:
    """How well the model's lists predict the examples. Items that it does not know are misses."""
    hits, scored = hits_of_rows(model, histories.before_each(model, held_out.data, held_out.event), held_out)
    mean = float(scored.mean()) if len(held_out) else 0.0
    return {**metrics.summary(hits, np.ones(len(held_out), np.int64)), "items_scored": mean}


def hits_of_rows(model: Model, rows: Rows, held_out: Examples) -> tuple[NDArray[np.bool_], NDArray[np.integer]]:
    """(n, LIST_SIZE) where in the lists the examples stand, and (n,) how many items were scored for each.

    rows: what the model's encoder made of the examples' histories.
    """
    data = held_out.data
    lists = recommend(model, rows, LIST_SIZE)
    wanted = model.items.find(keys_of([data.items[item] for item in data.item[held_out.event].tolist()]))
    hits = (lists.items == wanted[:, None]) & (lists.items >= 0)
    return hits, lists.ranked


def judge_popularity(held_out: Examples, half_life_seconds: float) -> dict[str, float]:
    """The same for decayed popularity, kept up to date with every event before the one to predict."""
    data = held_out.data
    rate = np.log(2) / (1000 * half_life_seconds)
    example, event = histories.met(data, held_out.event, len(data))
    bound = np.searchsorted(example, np.arange(len(held_out) + 1))
    popularity = np.zeros(len(data.items), np.float64)
    rank = np.empty(len(held_out), np.int64)
    done, now = 0, int(data.at[0]) if len(data) else 0
    for index, target in enumerate(held_out.event.tolist()):
        popularity *= np.exp(-rate * (data.at[target] - now))
        now = int(data.at[target])
        fresh = slice(done, target)
        amount = np.maximum(data.weight[fresh], 0) * np.exp(-rate * (now - data.at[fresh]))
        np.add.at(popularity, data.item[fresh], amount)
        done = target
        own = popularity[data.item[target]]
        seen = np.unique(data.item[event[bound[index] : bound[index + 1]]])
        ahead = np.count_nonzero(popularity > own) - np.count_nonzero(popularity[seen] > own)
        ties = np.count_nonzero(popularity == own) - np.count_nonzero(popularity[seen] == own) - 1
        rank[index] = ahead + ties // 2  # neither luck nor its opposite
    hits = rank[:, None] == np.arange(LIST_SIZE)
    return metrics.summary(hits, np.ones(len(held_out), np.int64))
