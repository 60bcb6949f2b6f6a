"""One user's row, recomputed from the log: for audits and tests.

Deliberately plain: one event after the other, Python numbers and small arrays, nothing of the code that serves. What
profile.py and the kernels keep must be equal to this, byte for byte. A row says in its header which model built its
state and at which offset (`built`), so the log and that model are enough to tell what every byte of it should be.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import NamedTuple, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from efficientrec.encoders import Encoder
from efficientrec.encoders.efficientrec import EfficientRecEncoder
from efficientrec.encoders.elfm import ElfmEncoder
from efficientrec.encoders.elfm_plain import PlainElfm
from efficientrec.interactions import DEFAULT_ADMISSION, Admission, key_of
from efficientrec.model import Model
from efficientrec.vocabulary import Vocabulary

# The layout is told a second time here, so that a change of profile.py alone is seen.
LAYOUT = 2
RING = 64
SEEN = 640
RECENT = 24
TRAITS = 8
SECONDS_MAX = 2**32 - 1
COUNTS = 2**32


class Event(NamedTuple):
    """One interaction of the user, as the log has it."""

    offset: int
    item_id: str
    weight: float
    """Signed, in [-1, 1]; counts as the nearest float32."""
    at_ms: int
    event_id: str | None = None
    excludes: bool = True
    arrived_ms: int = 0
    """When the broker got it."""


class Touch(NamedTuple):
    """What the ring keeps of an event."""

    item: int
    weight: np.float32
    seconds: int


class Noted(NamedTuple):
    """What a row keeps of an event's own id."""

    key: int
    seconds: int
    """When the broker got the event; never 0, which would mean unknown."""


class Sums(Protocol):
    """An encoder's state, made anew."""

    state: NDArray[np.float32]

    def add(self, item: int, weight: np.float32, at: int) -> None:
        """Takes in one interaction: key, signed weight, milliseconds."""


class SignedSums:
    """A⁺, A⁻, n⁺, n⁻ of encoders/efficientrec.py, and the time to which they are decayed."""

    def __init__(self, encoder: EfficientRecEncoder, at: int) -> None:
        self.vectors = encoder.item_vectors
        self.place = _places(encoder.items)
        self.rate = math.log(2) / (1000 * encoder.half_life_seconds)
        self.at = at
        self.dim = self.vectors.shape[1]
        self.state: NDArray[np.float32] = np.zeros(2 * self.dim + 2, np.float32)

    def add(self, item: int, weight: np.float32, at: int) -> None:
        share = np.float32(1)
        if at > self.at:
            self.state *= np.float32(math.exp(-self.rate * (at - self.at)))
            self.at = at
        else:
            share = np.float32(math.exp(-self.rate * (self.at - at)))
        place = self.place.get(item)
        if place is None or weight == 0:
            return
        amount = share * np.abs(weight)
        first = 0 if weight > 0 else self.dim
        self.state[first : first + self.dim] += amount * self.vectors[place]
        self.state[2 * self.dim + (0 if weight > 0 else 1)] += amount


def recompute(
    events: Iterable[Event],
    model: Model | None,
    *,
    built: int = -1,
    partition: int = 0,
    traits: Sequence[int] = (),
    users_offset: int = -1,
    begun: int = -1,
    admission: Admission = DEFAULT_ADMISSION,
) -> bytes:
    """The bytes of a user's row (profile.py) after these events, in offset order.

    model: that the row names; None for a row that no model has built. built: what the row says of itself; the state is
    made from the ring as it was after that offset, and later events are folded into it. traits, users_offset: what the
    last record of the users topic said. begun: what the row says of itself; events before it were erased and do not
    count, -1 when there are none. admission: as it was for all of the events. An offset that comes again was folded
    before and is skipped.

    >>> len(recompute([Event(offset=0, item_id="a", weight=1.0, at_ms=0)], model=None))
    106
    """
    encoder = model.encoder if model else None
    sums = _nothing(encoder, 0) if encoder and built < 0 else None
    offset, at = -1, 0
    ring: list[Touch] = []
    first = -1
    counted = liked = disliked = 0
    seen = _Ring(SEEN)
    noted: list[Noted] = []
    second = in_second = 0

    for event in events:
        if event.offset <= offset or event.offset < begun:
            continue
        if encoder and sums is None and event.offset > built:
            sums = _from_ring(encoder, ring, at)
        offset = event.offset
        arrival = min(max(event.arrived_ms // 1000, 0), SECONDS_MAX)
        event_key = key_of(event.event_id) if event.event_id else None
        if event_key is not None and _is_repeat(event_key, max(arrival, 1), noted, admission):
            continue
        if admission.events_per_second:
            if arrival > second:
                second, in_second = arrival, 0
            if in_second >= admission.events_per_second:
                continue
            in_second += 1
        if event_key is not None:
            noted.append(Noted(event_key, max(arrival, 1)))
        if not counted:
            first = offset
        item, weight = key_of(event.item_id), np.float32(event.weight)
        when = min(max(event.at_ms, 0), SECONDS_MAX * 1000 + 999)
        ring.append(Touch(item, weight, when // 1000))
        counted += 1
        liked += bool(weight > 0)
        disliked += bool(weight < 0)
        if event.excludes and item % 2**16 not in seen.held:
            seen.add(item % 2**16)
        at = max(at, when)
        if sums is not None:
            sums.add(item, weight, when)
    if encoder and sums is None:
        sums = _from_ring(encoder, ring, at)

    touches = _in_place(ring, RING)
    recent = _in_place(noted, RECENT)
    state = np.zeros(0, np.float32) if sums is None else sums.state
    traits = list(traits)[:TRAITS]
    header = struct.pack(
        "<BBHiQqqqqIIIIIIqII",
        LAYOUT,
        len(traits),
        len(state),
        partition,
        0 if model is None else key_of(model.version),
        -1 if model is None else built,
        offset,
        at,
        users_offset,
        counted % COUNTS,
        liked % COUNTS,
        disliked % COUNTS,
        seen.count,
        len(noted),
        in_second,
        first,
        second,
        0,
    )
    return b"".join(
        (
            header,
            state.astype("<f4").tobytes(),
            struct.pack(f"<{len(touches)}Q", *(touch.item for touch in touches)),
            struct.pack(f"<{len(touches)}f", *(touch.weight for touch in touches)),
            struct.pack(f"<{len(touches)}I", *(touch.seconds for touch in touches)),
            struct.pack(f"<{len(seen.values)}H", *seen.values),
            struct.pack(f"<{len(recent)}Q", *(each.key for each in recent)),
            struct.pack(f"<{len(recent)}I", *(each.seconds for each in recent)),
            struct.pack(f"<{len(traits)}Q", *traits),
        )
    )


class _Ring:
    """The last `size` values, each written where the one before the last `size` stood."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.count = 0
        self.values: list[int] = []
        self.held: set[int] = set()

    def add(self, value: int) -> None:
        if len(self.values) < self.size:
            self.values.append(value)
        else:
            place = self.count % self.size
            self.held.discard(self.values[place])
            self.values[place] = value
        self.held.add(value)
        self.count += 1


def _is_repeat(key: int, seconds: int, noted: list[Noted], admission: Admission) -> bool:
    """Whether the newest of the same id, among as many as are looked at, came not long ago."""
    looked_at = noted[: -admission.repeat_ids - 1 : -1]
    same = [each for each in looked_at if each.key == key]
    return bool(same) and abs(same[0].seconds - seconds) <= admission.repeat_seconds


class NoSums:
    """The state of an encoder that reads the ring alone."""

    def __init__(self) -> None:
        self.state: NDArray[np.float32] = np.zeros(0, np.float32)

    def add(self, item: int, weight: np.float32, at: int) -> None:
        """The ring has it."""


def _nothing(encoder: Encoder, at: int) -> Sums:
    """The state of a user who has done nothing, decayed to a time."""
    if encoder.width == 0:
        return NoSums()
    if isinstance(encoder, EfficientRecEncoder):
        return SignedSums(encoder, at)
    if isinstance(encoder, ElfmEncoder):
        return PlainElfm(encoder, at)
    raise AssertionError(f"no plain form of the encoder {encoder.NAME!r}")


def _from_ring(encoder: Encoder, ring: list[Touch], at: int) -> Sums:
    sums = _nothing(encoder, at)
    for touch in ring[-RING:]:
        sums.add(touch.item, touch.weight, touch.seconds * 1000)
    return sums


_Entry = TypeVar("_Entry")


def _in_place(history: list[_Entry], size: int) -> list[_Entry]:
    """The last `size` entries, entry k at k modulo size."""
    kept = history[-size:]
    turn = (len(history) - len(kept)) % size
    return kept[len(kept) - turn :] + kept[: len(kept) - turn]


@lru_cache(maxsize=4)
def _places(items: Vocabulary) -> dict[int, int]:
    return {key_of(text): place for place, text in enumerate(items.ids)}
