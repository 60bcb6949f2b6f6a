"""What happens in a simulation of processes: a pure function of the seed. Only the timing is the machine's.

A schedule is a number of rounds. In each, records are produced, a fault hits while they are being handled, and more
records come before it is mended. Knows what is sent and what breaks; knows nothing of processes and brokers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple

import numpy as np

from streams.records import Interaction, User, encode
from streams.worker import STEPS
from tests.toy import DAY, ITEMS, START

USERS = 30
MORTAL_EVERY = 5
"""One in so many users is erased now and then. Their producers never retry: after an erasure a retry counts anew, and
then nobody could say how often an item was liked."""
WORKERS = ("anna", "bert", "carl")
UNKNOWN_ITEMS = ("unknown-1", "ünknown-2")
TYPES = ("view", "click", "like", "dislike", "rating", "purchase", "hide")
NEWCOMER_ITEMS = 12
"""Items that the first models know."""


class Fault(StrEnum):
    """What breaks."""

    CRASH = "crash after a step"
    KILL = "SIGKILL at any moment"
    FREEZE = "SIGSTOP beyond the session timeout"
    NAP = "SIGSTOP within the session timeout"
    JOIN = "a worker joins"
    LEAVE = "a worker leaves"
    DISK_LOST = "SIGKILL and disk lost"
    DISK_FULL = "disk full"
    CUT = "network cut, healed within the session timeout"
    CUT_LONG = "network cut beyond the session timeout"
    STALL = "network stalled, healed within the session timeout"
    STALL_LONG = "network stalled beyond the session timeout"
    BROKER = "broker SIGKILL and restart"
    RELEASE = "model released"
    DAMAGED = "damaged artifact released"


AWAY = frozenset({Fault.FREEZE, Fault.CUT_LONG, Fault.STALL_LONG})
"""After these a worker has lost its partitions and does not know it."""

BROKEN_LINES = frozenset({Fault.BROKER, Fault.CUT, Fault.CUT_LONG, Fault.STALL, Fault.STALL_LONG})
"""While these last, a worker does not reach the broker."""


class Sent(NamedTuple):
    """A record as a producer sends it."""

    topic: str
    """`interactions` or `users`."""
    key: bytes | None
    value: bytes | None
    is_poison: bool = False


@dataclass(frozen=True)
class Hit:
    """A fault as it is dealt."""

    fault: Fault
    worker: str = ""
    """Whom it hits; empty where it hits all."""
    step: str = ""
    """CRASH: after which step."""
    count: int = 1
    """CRASH: at the how-manieth time that the step is reached."""
    pause: float = 0.0
    """Seconds: how long a worker or broker is gone, or how far into its work a kill falls."""
    version: str = ""
    """RELEASE, DAMAGED: of the model."""
    items: int = 0
    """RELEASE, DAMAGED: how many items the model knows."""

    @property
    def name(self) -> str:
        """In the tally."""
        return f"crash after: {self.step}" if self.fault is Fault.CRASH else str(self.fault)


@dataclass(frozen=True)
class Round:
    """One fault among records."""

    before: Sequence[Sent]
    hit: Hit
    during: Sequence[Sent]
    is_calm: bool
    """Whether everything has been handled before the next round begins."""


@dataclass(frozen=True)
class Schedule:
    """All that happens under a seed."""

    seed: int
    has_model: bool
    """Whether there is a model from the beginning."""
    rounds: Sequence[Round]
    after: Sequence[Sent]


def schedule(seed: int, faults: Sequence[Fault]) -> Schedule:
    """The rounds of a seed, with faults of these kinds."""
    rng = np.random.default_rng(seed)
    producer = _Producer(seed, rng)
    has_model = bool(rng.random() < 0.5)
    up = list(WORKERS[:2])
    rounds: list[Round] = []
    for number in range(int(rng.integers(3, 6))):
        hit = _dealt(rng, faults, up, [each.hit.fault for each in rounds], number)
        rounds.append(Round(producer.burst(), hit, producer.burst(), is_calm=bool(rng.random() < 0.5)))
    return Schedule(seed, has_model, rounds, producer.burst())


def _dealt(rng: np.random.Generator, faults: Sequence[Fault], up: list[str], dealt: list[Fault], number: int) -> Hit:
    """The next fault; `up`, the workers that serve, changes with it. Each kind comes once in a seed, but crashes, of
    which there is one for every step, come as often as they are dealt, and are dealt more often."""
    possible = [
        fault
        for fault in (*faults, Fault.CRASH, Fault.CRASH)
        if (fault not in dealt or fault is Fault.CRASH)
        and (fault is not Fault.JOIN or len(up) < len(WORKERS))
        and (fault is not Fault.LEAVE or len(up) > 1)
    ]
    fault = possible[rng.integers(len(possible))]
    worker = up[rng.integers(len(up))]
    pause = float(rng.random())
    match fault:
        case Fault.JOIN:
            worker = next(name for name in WORKERS if name not in up)
            up.append(worker)
        case Fault.LEAVE:
            up.remove(worker)
        case Fault.CRASH:
            step = STEPS[rng.integers(len(STEPS))]
            return Hit(fault, worker, step=step, count=int(rng.integers(1, 9)), pause=pause)
        case Fault.RELEASE | Fault.DAMAGED:
            items = len(ITEMS) if rng.random() < 0.5 else NEWCOMER_ITEMS
            return Hit(fault, version=f"toy-{number + 2}", items=items)
        case Fault.BROKER:
            return Hit(fault, pause=pause)
    return Hit(fault, worker, pause=pause)


class _Producer:
    """Thinks up records: bursts of several users, retries, late and early times, junk, demographics, erasures."""

    def __init__(self, seed: int, rng: np.random.Generator) -> None:
        self._seed = seed
        self._rng = rng
        self._made = 0
        self._repeatable: list[Sent] = []

    def burst(self) -> list[Sent]:
        """About a hundred records: some tenths of a second of work."""
        records: list[Sent] = []
        favourite = int(self._rng.integers(USERS))
        for _ in range(int(self._rng.integers(60, 160))):
            records += self._some(favourite)
        if self._rng.random() < 0.5:
            user = f"user-{MORTAL_EVERY * int(self._rng.integers(USERS // MORTAL_EVERY))}"
            records.insert(int(self._rng.integers(len(records))), Sent("users", user.encode(), None))
        return records

    def _some(self, favourite: int) -> list[Sent]:
        rng, chance = self._rng, self._rng.random()
        if chance < 0.05:
            return [self._poison()]
        if chance < 0.10:
            return [self._described()]
        if chance < 0.18 and self._repeatable:
            return [self._repeatable[-1 - int(rng.integers(min(40, len(self._repeatable))))]]
        number = favourite if rng.random() < 0.2 else int(rng.integers(USERS))
        event = self._event(number)
        if event.event_id is None:
            return [_sent(event)]
        self._repeatable.append(_sent(event))
        return [_sent(event)] * (1 + int(rng.random() < 0.05))

    def _event(self, number: int) -> Interaction:
        rng = self._rng
        self._made += 1
        kind = TYPES[rng.integers(len(TYPES))]
        at = START + self._made * 60_000
        if rng.random() < 0.2:  # late, or from a clock that runs ahead
            at += int(rng.integers(-40, 40)) * DAY // 4
        named = number % MORTAL_EVERY != 0 and rng.random() < 0.8
        known = rng.random() < 0.9
        return Interaction(
            event_type=kind,
            user_id=f"user-{number}",
            item_id=ITEMS[rng.integers(len(ITEMS))] if known else UNKNOWN_ITEMS[rng.integers(len(UNKNOWN_ITEMS))],
            event_time=at if rng.random() < 0.7 else at / 1000,
            event_id=f"event-{self._seed}-{self._made}" if named else None,
            value=float(rng.integers(0, 6)) if kind == "rating" else None,
        )

    def _described(self) -> Sent:
        rng = self._rng
        user = f"user-{rng.integers(USERS)}"
        features: dict[str, str | float | int | bool | list[str]] = {"taste": "ab"[rng.integers(2)]}
        if rng.random() < 0.5:
            features["age"] = int(rng.integers(10, 80))
        return Sent("users", user.encode(), encode(User(user, features)))

    def _poison(self) -> Sent:
        rng = self._rng
        key = f"poison-{self._seed}-{self._made}-{rng.integers(2**32)}".encode()
        good = encode(Interaction("like", key.decode(), "a1", START))
        bodies: list[bytes | None] = [
            b"\xff\xfe" + key,
            b"",
            b"null",
            b"[" * 2000,
            good[:-1],
            good.replace(b"like", b"liek"),
            good.replace(str(START).encode(), b"9999999999999"),  # the year 2286
            good.replace(b"user_id", b"user"),
            encode(Interaction("like", "user-1", "a1", START)),  # under another's key
            encode(Interaction("rating", key.decode(), "a1", START)),
            None,
        ]
        if rng.random() < 0.2:
            return Sent("users", key, bodies[rng.integers(5)], is_poison=True)
        return Sent("interactions", key, bodies[rng.integers(len(bodies))], is_poison=True)


def _sent(event: Interaction) -> Sent:
    return Sent("interactions", event.user_id.encode(), encode(event))
