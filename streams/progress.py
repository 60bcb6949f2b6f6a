"""How far a partition's profiles have got: kept beside them, in the changelog and on disk.

The group's committed offset says what need not be delivered again. This says what the rows have taken in, and moves
with them: a changelog that lost its end is seen by it, and so is a topic that was made anew (transport.py). What lies
below it is not folded into a profile that is not there, so an erased user does not come back with a run that is
delivered again.
"""

from __future__ import annotations

import msgspec

PROGRESS_KEY = b"\xffprogress"  # user ids are UTF-8, in which this byte never occurs


class Progress(msgspec.Struct, frozen=True):
    """Offsets after the last record of each source that the partition's rows have taken in."""

    interactions: int = 0
    users: int = 0

    @classmethod
    def from_bytes(cls, stored: bytes | None) -> Progress:
        """None for a partition in which nothing has happened yet."""
        return cls() if stored is None else msgspec.json.decode(stored, type=cls)

    def to_bytes(self) -> bytes:
        return msgspec.json.encode(self)
