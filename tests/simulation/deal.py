"""What a seed deals to the simulation in memory: settings, records of the sources, and which faults can strike."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from functools import cache

from aiokafka.errors import OutOfOrderSequenceNumber

from efficientrec.errors import StateUnwritable
from efficientrec.interactions import REPEAT_IDS_MAX
from efficientrec.model import Model
from streams.outbox import BATCH_BYTES
from streams.placement import partitions_of
from streams.records import Interaction, User, encode
from streams.settings import Settings
from streams.worker import COLD_EVENTS_MAX
from tests.simulation.fakes import LETTER_BYTES_MAX
from tests.toy import DAY, ITEMS, START, toy_model

USERS = tuple(f"u{number}" for number in range(1, 9))
UNKNOWN = ("unknown", "ünknown")
KINDS = ("view", "click", "like", "like", "dislike", "rating", "purchase", "hide")
MODELS = ("toy-1", "toy-2", "toy-3")
FAULTS = (
    "kill",
    "stop",
    "pause",
    "slow",
    "broker",
    "disk lost",
    "disk full",
    "runs lost",
    "truncate",
    "swap",
)
"""Beside requests that fail, and rebalances, of which every schedule has some."""


@cache
def model_of(version: str) -> Model:
    """Models of one family; the first knows fewer items."""
    return toy_model(version, ITEMS[:10] if version == MODELS[0] else ITEMS)


@dataclass(frozen=True)
class Sent:
    """A record as a producer sends it, to the partition where he puts it."""

    topic: str
    partition: int
    key: bytes | None
    value: bytes | None
    pause_ms: int
    """How much later than the one before."""


@dataclass
class Deal:
    """Everything that the seed decides in advance."""

    seed: int
    settings: Settings
    workers: int
    is_cold: bool
    """Whether it begins without a model."""
    models: int
    """How many models are released in all, at most."""
    batch_bytes: int
    cold_events_max: int
    reclaim_seconds: float
    faults: frozenset[str]
    failing: float
    """How often a request fails."""
    steps: int
    gaps: float
    records: list[Sent] = field(default_factory=list)

    @property
    def fences(self) -> bool:
        return self.settings.fencing == "on"

    @property
    def expected(self) -> tuple[type[Exception], ...]:
        """What a worker may die of."""
        deaths: list[type[Exception]] = []
        if "disk full" in self.faults:
            deaths.append(StateUnwritable)
        if "truncate" in self.faults:
            deaths.append(OutOfOrderSequenceNumber)  # the broker has forgotten what the writer remembers
        return tuple(deaths)


def deal(seed: int) -> Deal:
    rng = random.Random(f"deal {seed}")
    fences = rng.random() < 0.8
    is_cold = rng.random() < 0.45
    settings = Settings(
        partitions=rng.randint(1, 3),
        list_size=5,
        wrong_partition=rng.choice(("warn", "forward")),
        fencing="on" if fences else "off",
        repeat_ids=rng.choice((0, 1, 3, REPEAT_IDS_MAX, REPEAT_IDS_MAX)),
        repeat_seconds=rng.choice((0.0, 1.0, 5.0, 86_400.0, 86_400.0)),
        user_events_per_second=rng.choice((0, 0, 1, 2)),
    )
    dealt = Deal(
        seed=seed,
        settings=settings,
        workers=rng.choice((1, 2, 2, 3)),
        is_cold=is_cold,
        models=rng.choice((0, 0, 1, 2)) if is_cold else rng.choice((1, 1, 2, 3)),
        # A cold part must fit into one batch, which the real constants see to; so only where nothing is ever cold.
        batch_bytes=BATCH_BYTES if is_cold else rng.choice((1, 400, 1_000, BATCH_BYTES)),
        cold_events_max=rng.choice((1, 2, 5, COLD_EVENTS_MAX)),
        reclaim_seconds=rng.choice((20.0, 86_400.0, 86_400.0, 86_400.0)),
        faults=frozenset(rng.sample(FAULTS, rng.randint(1, 5))),
        failing=rng.choice((0.0, 0.03, 0.1, 0.25)),
        steps=rng.choice((80, 150, 250)),
        gaps=rng.choice((0.0, 0.2)),
    )
    producer = _Producer(dealt.settings, rng)
    for _ in range(rng.randint(8, 40)):
        dealt.records += producer.some()
    return dealt


class _Producer:
    """Thinks up records of a few users: retries, odd times, junk, demographics, erasures."""

    def __init__(self, settings: Settings, rng: random.Random) -> None:
        self._rng = rng
        self._partitions = settings.partitions
        self._users = rng.sample(USERS, rng.randint(2, 5))
        self._misplaces = rng.choice((0.0, 0.0, 0.15))
        self._identified = rng.choice((0.2, 0.8))
        self._described = rng.choice((0.0, 0.1, 0.25))
        self._made = 0
        self._known: list[Sent] = []

    def some(self) -> list[Sent]:
        rng, chance = self._rng, self._rng.random()
        if chance < self._described:
            return [self._about_user()]
        if chance > 0.95:
            return [self._poison()]
        if chance > 0.85 and self._known:
            return [rng.choice(self._known[-rng.choice((2, 40)) :])]
        sent = self._interaction()
        self._known.append(sent)
        return [sent] * rng.choice((1, 1, 1, 1, 2))

    def _interaction(self) -> Sent:
        rng = self._rng
        self._made += 1
        kind = rng.choice(KINDS)
        at = START + self._made * 60_000
        if rng.random() < 0.2:
            at += rng.randint(-90, 2) * DAY // 4
        event = Interaction(
            event_type=kind,
            user_id=rng.choice(self._users),
            item_id=rng.choice(UNKNOWN) if rng.random() < 0.1 else rng.choice(ITEMS),
            event_time=at,
            event_id=f"e{self._made}" if rng.random() < self._identified else None,
            value=float(rng.randint(0, 5)) if kind == "rating" else None,
        )
        return self._sent("interactions", event.user_id.encode(), encode(event))

    def _about_user(self) -> Sent:
        rng = self._rng
        user = rng.choice(self._users)
        if rng.random() < 0.6:
            return self._sent("users", user.encode(), None)
        return self._sent("users", user.encode(), encode(User(user, {"taste": rng.choice("ab")})))

    def _poison(self) -> Sent:
        rng = self._rng
        self._made += 1
        key = rng.choice(self._users).encode()
        good = encode(Interaction("like", key.decode(), "a1", START))
        bodies: list[tuple[bytes | None, bytes | None]] = [
            (key, b"\xff\xfejunk"),
            (key, b""),
            (key, good[:-1]),
            (key, good.replace(b"like", b"liek")),
            (key, good.replace(str(START).encode(), b"9999999999999")),  # the year 2286
            (key, encode(Interaction("like", "somebody else", "a1", START))),
            (key, b"x" * (LETTER_BYTES_MAX + 1)),
            (None, good),
            (key, None),
        ]
        if rng.random() < 0.25:
            return self._sent("users", key, rng.choice((b"junk", good)))
        return self._sent("interactions", *rng.choice(bodies))

    def _sent(self, topic: str, key: bytes | None, value: bytes | None) -> Sent:
        rng = self._rng
        partition = int(partitions_of([key or b""], self._partitions)[0])
        if rng.random() < self._misplaces:
            partition = rng.randrange(self._partitions)
        return Sent(topic, partition, key, value, rng.choice((0, 10, 400, 1_500, 20_000)))
