"""How good the lists are, seen from outside: latency, and hits of the list that each user had *before* the event.

Predict first, learn after: an event is looked up in the newest list of its user that does not know it yet. Beside it,
the same question is put to decayed popularity, without what the user has met. Knows records; opens no connection.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np

from efficientrec.interactions import LIKED, WeightPolicy
from streams.records import Interaction, RecommendationList, moment_ms

TOP = 10
POPULAR_RANKED = 3000  # deeper than any user has met items, or nearly
POPULAR_REFRESH_EVENTS = 100


@dataclass(slots=True)
class Waiting:
    """An event whose list has not come yet."""

    offset: int
    item: str
    is_liked: bool
    is_popular: bool
    arrived_ms: int


@dataclass(slots=True)
class Given:
    """The newest list of a user."""

    items: frozenset[str]
    version: str | None


@dataclass(slots=True)
class Hits:
    """Events that were looked up, in the lists and in what is popular."""

    judged: int = 0
    hits: int = 0
    popularity_hits: int = 0

    def add(self, is_hit: bool, is_popular: bool) -> None:
        self.judged += 1
        self.hits += is_hit
        self.popularity_hits += is_popular

    @property
    def rate(self) -> float:
        return self.hits / self.judged if self.judged else float("nan")

    @property
    def popularity_rate(self) -> float:
        return self.popularity_hits / self.judged if self.judged else float("nan")


@dataclass(slots=True)
class Score:
    """What can be said so far."""

    events: int = 0
    lists: int = 0
    all: Hits = field(default_factory=Hits)
    """Liked events of users who had a list."""
    personal: Hits = field(default_factory=Hits)
    """Those among them whose list a model had made."""
    known: int = 0
    """Liked events that the list's model had been trained on, and which are not judged."""
    latencies_ms: list[float] = field(default_factory=list)
    listed: set[str] = field(default_factory=set)
    """Users with a list."""
    versions: dict[str, int] = field(default_factory=dict)
    """Lists of each model version; those made before the first model are not among them."""

    def latency_ms(self, percent: float, newest: int | None = None) -> float:
        """Percentile of event-to-list latency, of all lists or the newest ones; NaN before the first."""
        chosen = self.latencies_ms if newest is None else self.latencies_ms[-newest:]
        return float(np.percentile(chosen, percent)) if chosen else float("nan")


class Scoreboard:
    """Takes the records of both topics, in the order of their partitions, and keeps the score.

    trained_up_to: for a model version, the offset in each partition after the last event that it was trained on.
    """

    def __init__(
        self,
        policy: WeightPolicy,
        popularity_half_life_seconds: float,
        trained_up_to: Callable[[str], Mapping[int, int]],
    ) -> None:
        self.score = Score()
        self._policy = policy
        self._popular = PopularNow(popularity_half_life_seconds)
        self._trained_up_to = trained_up_to
        self._read: dict[int, int] = defaultdict(int)
        self._met: dict[str, set[str]] = defaultdict(set)
        self._waiting: dict[str, deque[Waiting]] = defaultdict(deque)
        self._given: dict[str, Given] = {}
        self._early: dict[int, deque[tuple[RecommendationList, float]]] = defaultdict(deque)

    def event(self, partition: int, offset: int, arrived_ms: int, event: Interaction) -> None:
        """An accepted interaction, when the topic has it."""
        values = np.array([np.nan if event.value is None else event.value])
        weight = float(self._policy.weights([event.event_type], values)[0])
        met = self._met[event.user_id]
        self._waiting[event.user_id].append(
            Waiting(
                offset,
                event.item_id,
                weight >= LIKED and event.item_id not in met,
                weight >= LIKED and self._popular.has(event.item_id, met),
                arrived_ms,
            )
        )
        met.add(event.item_id)
        self._popular.add(event.item_id, max(weight, 0.0), moment_ms(event.event_time))
        self._read[partition] = offset + 1
        self.score.events += 1
        early = self._early[partition]
        while early and early[0][0].trigger.offset <= offset:
            self._judge(*early.popleft())

    def published(self, published: RecommendationList, received_ms: float) -> None:
        """A list, when a consumer gets it. One that overtakes its event in the reading waits for it."""
        partition = published.trigger.partition
        if published.trigger.offset >= self._read[partition] or self._early[partition]:
            self._early[partition].append((published, received_ms))
        else:
            self._judge(published, received_ms)

    def _judge(self, published: RecommendationList, received_ms: float) -> None:
        score, user, trigger = self.score, published.user_id, published.trigger
        given = self._given.get(user)
        waiting = self._waiting[user]
        while waiting and waiting[0].offset <= trigger.offset:
            event = waiting.popleft()
            if event.offset == trigger.offset:
                score.latencies_ms.append(max(0.0, received_ms - event.arrived_ms))
            if not event.is_liked or given is None or not given.items:
                continue
            if given.version and event.offset < self._trained_up_to(given.version).get(trigger.partition, 0):
                score.known += 1
                continue
            for hits in (score.all, score.personal) if given.version else (score.all,):
                hits.add(event.item in given.items, event.is_popular)
        score.lists += 1
        score.listed.add(user)
        if published.model_version:
            score.versions[published.model_version] = score.versions.get(published.model_version, 0) + 1
        self._given[user] = Given(frozenset(item.item_id for item in published.items[:TOP]), published.model_version)


class PopularNow:
    """Decayed popularity of every item, ranked anew every few events."""

    def __init__(self, half_life_seconds: float) -> None:
        self._half_life_ms = 1000 * half_life_seconds
        self._place: dict[str, int] = {}
        self._items: list[str] = []
        self._scores = np.zeros(1024)
        self._since_ms: int | None = None
        self._ranked: list[str] = []
        self._age = 0

    def add(self, item: str, weight: float, at_ms: int) -> None:
        """Scores grow with time instead of shrinking with age, which ranks alike; now and then they are scaled back."""
        if self._since_ms is None:
            self._since_ms = at_ms
        if at_ms - self._since_ms > 500 * self._half_life_ms:
            self._scores *= 2.0 ** (-(at_ms - self._since_ms) / self._half_life_ms)
            self._since_ms = at_ms
        place = self._place.setdefault(item, len(self._items))
        if place == len(self._items):
            self._items.append(item)
            if place == len(self._scores):
                self._scores = np.concatenate((self._scores, np.zeros(place)))
        self._scores[place] += weight * 2.0 ** ((at_ms - self._since_ms) / self._half_life_ms)
        self._age += 1

    def has(self, item: str, met: set[str]) -> bool:
        """Whether the item is among the TOP of a user who has met these."""
        if not self._ranked or self._age >= POPULAR_REFRESH_EVENTS:
            scores = self._scores[: len(self._items)]
            self._ranked = [self._items[place] for place in np.argsort(-scores, kind="stable")[:POPULAR_RANKED]]
            self._age = 0
        listed = 0
        for popular in self._ranked:
            if popular in met:
                continue
            if popular == item:
                return True
            listed += 1
            if listed == TOP:
                return False
        return False
