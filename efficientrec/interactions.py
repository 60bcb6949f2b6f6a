"""What users did to items: the columns of a run of events, and the policies that say which count and how much.

Knows ids, event types, values and times. Knows nothing of what is kept about a user (profile.py) or of models.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
import xxhash
from numpy.typing import NDArray

from efficientrec.errors import SettingInvalid

LIKED = 0.5
"""Weight from which an interaction counts as something that a list should have held."""


def key_of(text: str) -> int:
    """The 64-bit key of an item, an event or a feature: XXH3 of its id, never 0.

    A key means the same in every model version and on every machine, so rows can name items that no model knows yet.

    >>> key_of("movie-1") == key_of("movie-1")
    True
    """
    return xxhash.xxh3_64_intdigest(text.encode()) or 1


def keys_of(texts: Sequence[str]) -> NDArray[np.uint64]:
    """`key_of` for each text."""
    return np.fromiter((key_of(text) for text in texts), np.uint64, len(texts))


@dataclass(frozen=True, slots=True)
class Interactions:
    """The columns of a run of interactions, those of each user in offset order. All arrays have length (events,)."""

    users: Sequence[str]
    """The distinct users of the run, each once."""
    user: NDArray[np.int32]
    """Index into `users`."""
    item: NDArray[np.uint64]
    """Key of the item (`key_of`)."""
    weight: NDArray[np.float32]
    """Signed weight in [-1, 1]."""
    at: NDArray[np.int64]
    """Event time, milliseconds since the epoch."""
    arrived: NDArray[np.int64]
    """When the broker got the event, milliseconds since the epoch; 0 where that is unknown."""
    offset: NDArray[np.int64]
    """Place in the user's partition; rises strictly for each user."""
    event: NDArray[np.uint64]
    """Key of the event's own id; 0 where the producer gave none."""
    excludes: NDArray[np.bool_]
    """Whether the item leaves the user's lists from now on."""

    def __len__(self) -> int:
        return len(self.user)


REPEAT_IDS_MAX = 24
"""Event ids that a row remembers."""


@dataclass(frozen=True, slots=True)
class Admission:
    """Which of a user's events count: a producer's retries once, and a flood only so far.

    >>> Admission(events_per_second=-1)
    Traceback (most recent call last):
    efficientrec.errors.SettingInvalid: events_per_second is -1; expected 0 (no limit) or more
    """

    repeat_ids: int = REPEAT_IDS_MAX
    """How many of the user's newest event ids an event's own is looked for among; 0 for none."""
    repeat_seconds: float = 86_400.0
    """How far apart, by the broker's clock, two events of one id may arrive and count once. One day: long enough for
    a producer that was cut off, and after it an id may come again."""
    events_per_second: int = 0
    """Most events of one user that count of those that arrive within the same second; 0 for no limit."""

    def __post_init__(self) -> None:
        if not 0 <= self.repeat_ids <= REPEAT_IDS_MAX:
            raise SettingInvalid(f"repeat_ids is {self.repeat_ids}; expected 0 to {REPEAT_IDS_MAX}")
        if not self.repeat_seconds >= 0:  # NaN is refused as well
            raise SettingInvalid(f"repeat_seconds is {self.repeat_seconds}; expected 0 or more")
        if self.events_per_second < 0:
            raise SettingInvalid(f"events_per_second is {self.events_per_second}; expected 0 (no limit) or more")


DEFAULT_ADMISSION = Admission()


@dataclass(frozen=True, slots=True)
class Rule:
    """How one event type becomes a weight: a constant, or the line that is 0 at `neutral` and 1 at `neutral + span`."""

    weight: float = 0.0
    neutral: float = 0.0
    span: float = 0.0
    excludes: bool = True
    """Whether the item leaves the user's lists: who looked at a thing may still want it, who judged it does not."""

    @property
    def needs_value(self) -> bool:
        return self.span != 0.0


RULES: Mapping[str, Rule] = MappingProxyType(
    {
        "view": Rule(0.1, excludes=False),
        "click": Rule(0.3, excludes=False),
        "like": Rule(1.0),
        "dislike": Rule(-1.0),
        "rating": Rule(neutral=2.5, span=2.5),  # the published rule y = r / 2.5 - 1 for five stars (arXiv 2401.09693)
        "add_to_cart": Rule(0.6, excludes=False),
        "purchase": Rule(1.0),
        "hide": Rule(-1.0),
    }
)


class WeightPolicy:
    """The feedback policy: data, not code.

    >>> policy = WeightPolicy()
    >>> policy.weights(["like", "rating"], np.array([np.nan, 5.0])).tolist()
    [1.0, 1.0]
    """

    def __init__(self, rules: Mapping[str, Rule] = RULES) -> None:
        for name, rule in rules.items():
            numbers = (rule.weight, rule.neutral, rule.span)
            if not all(np.isfinite(numbers)) or abs(rule.weight) > 1:
                raise SettingInvalid(f"weights.{name} is {numbers}; expected a weight in [-1, 1], or a finite line")
        self.rules = dict(rules)
        self._index = {name: index for index, name in enumerate(self.rules)}
        table = np.array([(rule.weight, rule.neutral, rule.span) for rule in self.rules.values()], np.float64)
        self._weight, self._neutral, self._span = table.reshape(-1, 3).T
        self._excludes = np.array([rule.excludes for rule in self.rules.values()], np.bool_)

    def indices(self, types: Sequence[str]) -> NDArray[np.intp]:
        """Which rule (events,) each event type has. Types must be known."""
        return np.fromiter(map(self._index.__getitem__, types), np.intp, len(types))

    def excludes(self, types: Sequence[str]) -> NDArray[np.bool_]:
        """Whether each event (events,) takes its item off the user's lists. Types must be known."""
        return self._excludes[self.indices(types)]

    def weights(self, types: Sequence[str], values: NDArray[np.float64]) -> NDArray[np.float32]:
        """The signed weights (events,) of events with these types and values (NaN: none). Types must be known."""
        index = self.indices(types)
        span = self._span[index]
        line = (values - self._neutral[index]) / np.where(span == 0.0, 1.0, span)
        return np.where(span == 0.0, self._weight[index], np.minimum(np.maximum(line, -1.0), 1.0)).astype(np.float32)
