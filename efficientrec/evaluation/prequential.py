"""A stream as it happened: recommend first, learn after.

What is asked is the next thing that a user likes, of the list that he had just before. A list knows the events before
it was made: made per event, at the full hour or at midnight (UTC). A model knows the events before it was learned.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from efficientrec.errors import SettingInvalid
from efficientrec.evaluation.pairs import Pairs
from efficientrec.evaluation.protocols import neutral
from efficientrec.evaluation.questions import Question, knowing
from efficientrec.interactions import LIKED
from efficientrec.spans import spread
from efficientrec.training.data import TrainingData

MIDDLE, START = 0.2, 0.3
"""Shares of the stream: parameters are chosen on what is between, figures come from what is after."""
PERIODS_MS = {"hour": 3_600_000, "day": 86_400_000}
REFRESHES = ("event", *PERIODS_MS)


@dataclass(frozen=True, slots=True)
class Stream:
    """Events in the order of time, those of one time in an order that is drawn."""

    data: TrainingData
    """Its items stand in the order in which they become known: those that are described, then each by its first
    event."""
    born: NDArray[np.int64]
    """(items,) ascending: how many events must have happened for an item to be known."""
    order: NDArray[np.int64]
    """The events by user, each one's in time order."""
    key: NDArray[np.int64]
    """Of each in `order`: user · events + event; ascending."""

    @classmethod
    def of(cls, data: TrainingData, seed: int) -> Stream:
        data = neutral(data, seed)
        born = np.full(len(data.items), len(data) + 1, np.int64)
        item, first = np.unique(data.item, return_index=True)
        born[item] = first + 1
        born[np.array([bool(tokens) for tokens in data.tokens], np.bool_)] = 0
        order = np.argsort(born, kind="stable")
        data = data.renumbered(order)
        by_user = np.argsort(data.user, kind="stable")
        return cls(data, born[order], by_user, data.user[by_user].astype(np.int64) * len(data) + by_user)

    def items(self, events: int | NDArray[np.int64]) -> NDArray[np.int64]:
        """How many items are known after so many events."""
        return np.asarray(np.searchsorted(self.born, events, side="right"), np.int64)

    def learned(self, events: int) -> TrainingData:
        """What there is to learn from after so many events."""
        return knowing(self.data.chosen(slice(0, events)), int(self.items(events)))

    def liked(self, first: int, last: int, every: int) -> NDArray[np.int64]:
        """Every n-th of the events from first to last that may be asked for: liked, new to the user, and not the first
        thing he did."""
        data = self.data
        new = np.zeros(len(data), np.bool_)
        new[np.unique(data.user.astype(np.int64) * len(data.items) + data.item, return_index=True)[1]] = True
        new[np.unique(data.user, return_index=True)[1]] = False
        eligible = np.flatnonzero(new & (data.weight >= LIKED))
        return eligible[(eligible >= first) & (eligible < last)][::every]

    def known(self, events: NDArray[np.int64], refresh: str) -> NDArray[np.int64]:
        """How many events had happened when the list was made that a user had before each event."""
        if refresh == "event":
            return events
        period = PERIODS_MS[refresh]
        return np.searchsorted(self.data.at, self.data.at[events] // period * period)

    def question(self, events: NDArray[np.int64], known: NDArray[np.int64]) -> Question:
        """Asks for each event, by what was known when the list was made; what the user has met since is left out of
        it."""
        data, items = self.data, len(self.data.items)
        rows = np.arange(len(events))
        count, past = self._before(data.user[events], known)
        met_count, met = self._before(data.user[events], events)
        target = Pairs.of(rows, data.item[events], len(events), items)
        return Question(
            given=data,
            users=data.user[events],
            start=np.concatenate(([0], np.cumsum(count))).astype(np.int64),
            event=past,
            wanted=target,
            met=Pairs.of(np.repeat(rows, met_count), data.item[met], len(events), items),
            judged=target,
            favoured=target,
            known=known,
        )

    def _before(
        self, user: NDArray[np.int32], events: NDArray[np.int64]
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """How many of the first so many events (rows,) are the user's (rows,), and which these are, row by row."""
        first = user.astype(np.int64) * len(self.data)
        begin = np.searchsorted(self.key, first)
        count = np.searchsorted(self.key, first + events) - begin
        return count, self.order[spread(begin, count)]


def refits(stream: Stream, every: int | str) -> NDArray[np.int64]:
    """After how many events a model is learned anew: at MIDDLE, at START, and from there every so many events, or at
    the beginning of every hour or day."""
    middle, start = bounds(stream)
    if isinstance(every, str):
        at = stream.data.at[start:]
        period = PERIODS_MS[every]
        later = np.searchsorted(stream.data.at, np.unique(at // period)[1:] * period)
    else:
        later = np.arange(start + every, len(stream.data), every)
    return np.unique(np.concatenate(([middle, start], later))).astype(np.int64)


def bounds(stream: Stream) -> tuple[int, int]:
    """The events at which choosing and scoring begin."""
    return int(len(stream.data) * MIDDLE), int(len(stream.data) * START)


def refit_setting(text: str) -> int | str:
    """`hour`, `day` or a number of events.

    >>> refit_setting("50000"), refit_setting("day")
    (50000, 'day')
    """
    if text in PERIODS_MS:
        return text
    if not text.isdecimal() or int(text) < 1:
        raise SettingInvalid(f"refit is {text!r}; expected hour, day or a number of events")
    return int(text)
