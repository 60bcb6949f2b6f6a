"""What numba compiles to read and write rows: between their bytes on disk (profile.py) and records in memory.

Fields are told apart by the record's type; what is not the same in every layout is written here. Nothing checks a bound
but `read_rows`, which meets bytes that may be damaged.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from efficientrec.compiled import compiled

BUILT_ON = "81cd933c65c14d61"  # see compiled.py

HEADER_BYTES = 88
OLD_HEADER_BYTES = 72  # of layout 1, which ends before `begun`
OLD_STATE_MAX = 382
OLD_RECENT_SIZE = 16


@compiled
def _copy(target: NDArray[np.uint8], source: NDArray[np.uint8]) -> None:
    for place in range(len(source)):
        target[place] = source[place]


@compiled
def _read(section: NDArray[np.uint8], size: int, source: NDArray[np.uint8], at: int) -> int:
    """Fills a section with `size` bytes from a place of source, and zeros. Returns the place after them."""
    _copy(section, source[at : at + size])
    section[size:] = 0
    return at + size


@compiled
def _write(section: NDArray[np.uint8], size: int, out: NDArray[np.uint8], at: int) -> int:
    _copy(out[at : at + size], section[:size])
    return at + size


@compiled
def _held(count: int, ring: Any) -> int:
    return min(count, len(ring))


@compiled
def read_rows(
    source: NDArray[np.uint8],
    length: NDArray[np.int64],
    layout: int,
    state_max: int,
    model: np.uint64,
    sections: NDArray[np.int64],
    nothing: NDArray[np.void],
    kept: NDArray[np.void],
    kept_bytes: NDArray[np.uint8],
    state: NDArray[np.float32],
) -> int:
    """Rows that stand one after the other in source. Returns the first that cannot be read, -1 where all can be.

    length (users,): bytes of each row, negative for a user without one, who gets `nothing`, one record.
    layout, state_max: of rows as they are written now. kept (users,) and state (users, width): filled; the state only
    where this model built it, else it is zeros, built by none. kept_bytes: the bytes of kept, in which each section
    begins and ends as sections (7, 2) says.
    """
    width = state.shape[1]
    end = 0
    for user in range(len(length)):
        if length[user] < 0:
            kept[user] = nothing[0]
            state[user] = 0
            continue
        at = end
        end += length[user]
        if end == at or (source[at] != layout and source[at] != 1):
            return user
        is_old = source[at] == 1
        header_bytes = OLD_HEADER_BYTES if is_old else HEADER_BYTES
        if end - at < header_bytes:
            return user
        _copy(kept_bytes[user], source[at : at + header_bytes])
        row = kept[user]
        if is_old:
            row.begun, row.second, row.in_second, row.reserved = -1, 0, 0, 0
        states, traits = row.state_count, row.traits_count
        rings = _held(row.events, row.ring_item)
        seen = _held(row.seen_count, row.seen)
        recent = min(row.recent_count, OLD_RECENT_SIZE if is_old else len(row.recent))
        told = header_bytes + 4 * states + 16 * rings + 2 * seen + (8 if is_old else 12) * recent + 8 * traits
        if states > (OLD_STATE_MAX if is_old else state_max) or traits > len(row.traits) or told != end - at:
            return user
        at += header_bytes
        if row.model == model and states == width:
            _read(state[user].view(np.uint8), 4 * states, source, at)
        else:
            state[user] = 0
            row.model, row.built = 0, -1
        at += 4 * states
        ids = 0 if is_old else recent
        held = (8 * rings, 4 * rings, 4 * rings, 2 * seen, 8 * ids, 4 * ids)
        for place in range(len(held)):
            at = _read(kept_bytes[user, sections[place, 0] : sections[place, 1]], held[place], source, at)
        if is_old:  # its ring of ids is smaller, so each moves to its place in the greater one
            moved = row.recent.view(np.uint8)
            count = np.int64(row.recent_count)
            for entry in range(count - recent, count):
                into, out_of = 8 * (entry % len(row.recent)), at + 8 * (entry % OLD_RECENT_SIZE)
                moved[into : into + 8] = source[out_of : out_of + 8]
            at += 8 * recent
        _read(kept_bytes[user, sections[-1, 0] : sections[-1, 1]], 8 * np.int64(traits), source, at)
        row.layout, row.state_count, row.partition = 0, 0, 0
    return -1


@compiled
def write_rows(
    sections: NDArray[np.int64],
    kept: NDArray[np.void],
    kept_bytes: NDArray[np.uint8],
    state: NDArray[np.float32],
    layout: int,
    partition: NDArray[np.int32],
    out: NDArray[np.uint8],
    end: NDArray[np.int64],
) -> None:
    """The rows, one after the other, as bytes in out; that of user u ends at `end[u]`. sections, kept_bytes: as above.

    partition (users,): the partition of each. A row that no model built has no state to keep.
    """
    at = 0
    head = np.empty(1, kept.dtype)
    head_bytes = head.view(np.uint8)
    for user in range(len(kept)):
        row = kept[user]
        states = state.shape[1] if row.model != 0 else 0
        rings = _held(row.events, row.ring_item)
        recent = _held(row.recent_count, row.recent)
        _copy(head_bytes, kept_bytes[user, :HEADER_BYTES])
        head[0].layout, head[0].state_count, head[0].partition = layout, states, partition[user]
        at = _write(head_bytes, HEADER_BYTES, out, at)
        at = _write(state[user].view(np.uint8), 4 * states, out, at)
        seen, traits = _held(row.seen_count, row.seen), _held(row.traits_count, row.traits)
        held = (8 * rings, 4 * rings, 4 * rings, 2 * seen, 8 * recent, 4 * recent, 8 * traits)
        for place in range(len(held)):
            at = _write(kept_bytes[user, sections[place, 0] : sections[place, 1]], held[place], out, at)
        end[user] = at
