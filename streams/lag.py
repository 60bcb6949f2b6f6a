"""How late a partition is: in records, in seconds, and in commits. Looked at about once a second.

Seconds are the age of the oldest record that is not yet handled, by the broker's time of it, and not an estimate from
the rate: they go on growing while nothing is handled. Where nobody has read that record yet, they count from the look
that first found something waiting there.

Knows numbers alone: neither Kafka nor a clock.
"""

from __future__ import annotations

from typing import NamedTuple

Place = tuple[str, int]
"""Topic and partition."""


class Look(NamedTuple):
    """What is known of a partition now."""

    end: int
    """Offset after the last record that the broker is known to have."""
    done: int
    """Offset after the last record that is handled, all before it being handled as well."""
    committed: int = 0
    oldest_ms: int | None = None
    """The broker's time of the record at `done`; None where it is unknown."""


class Lateness(NamedTuple):
    """How late a partition is; 0 in all when nothing waits."""

    records: int
    seconds: float
    commit_seconds: float
    """How long a commit that should move has not."""


class Lag:
    """Remembers, for each partition, since when it has been as it is."""

    def __init__(self) -> None:
        self._waiting: dict[Place, tuple[int, int]] = {}
        """Place → the offset at which something waits, and the time at which that was first seen."""
        self._uncommitted: dict[Place, tuple[int, int]] = {}
        """Place → the offset that is committed, and the time since which it has been too low."""

    def of(self, place: Place, look: Look, now_ms: int) -> Lateness:
        """now_ms: of a clock that goes as the broker's does."""
        records = max(0, look.end - look.done)
        since_ms = _since(self._waiting, place, look.done, bool(records), now_ms)
        oldest_ms = since_ms if look.oldest_ms is None or look.oldest_ms < 0 else look.oldest_ms
        is_behind = bool(records) or look.committed < look.done
        uncommitted_ms = _since(self._uncommitted, place, look.committed, is_behind, now_ms)
        return Lateness(
            records, max(0, now_ms - oldest_ms) / 1000 if records else 0.0, max(0, now_ms - uncommitted_ms) / 1000
        )

    def keep(self, places: set[Place]) -> None:
        """Forgets all others: they are somebody else's now."""
        for known in (self._waiting, self._uncommitted):
            for place in known.keys() - places:
                del known[place]


def _since(known: dict[Place, tuple[int, int]], place: Place, offset: int, is_open: bool, now_ms: int) -> int:
    """Since when the place has been open at this offset: now, where it is not."""
    if not is_open:
        known.pop(place, None)
        return now_ms
    if known.get(place, (None,))[0] != offset:
        known[place] = (offset, now_ms)
    return known[place][1]
