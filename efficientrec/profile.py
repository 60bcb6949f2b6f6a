"""What is kept about a user: one row, its layout in bytes, and how a run of interactions changes it.

Knows order, time and repetition. Knows nothing of Kafka, RocksDB or clusters; what an encoder adds up is the encoder's.

A row on disk (layout 2, little-endian; every count in the header bounds what follows, so a new user's row is small):

  header, 88 bytes        `HEADER` below
  state                   float32 each: the encoder's sums
  ring                    uint64 item keys, then float32 weights, then uint32 seconds: the last RING_SIZE interactions
  seen                    uint16 each: low bits of the keys of the last SEEN_SIZE items that left the user's lists
  recent                  uint64 each: keys of the last RECENT_SIZE event ids, so that a producer's retry counts once
  recent_at               uint32 each: the second in which the broker got each of these, 0 where that is unknown
  traits                  uint64 each: keys of the user's demographics

A ring is written where it stands: entry k of the user's history is at k modulo the size.

Rows of layout 1 are read as well, and become layout 2 when they are next written. There the header ends before `begun`
with four bytes of nothing for `in_second`, `recent` holds 16 ids, and there is no `recent_at`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from efficientrec import kernels
from efficientrec.errors import RowUnreadable
from efficientrec.interactions import DEFAULT_ADMISSION, REPEAT_IDS_MAX, Admission, Interactions
from efficientrec.row_kernel import HEADER_BYTES, OLD_HEADER_BYTES, OLD_STATE_MAX, read_rows, write_rows
from efficientrec.spans import spread

if TYPE_CHECKING:
    from efficientrec.encoders import Encoder

LAYOUT = 2
RING_SIZE = 64
SEEN_SIZE = 640  # sixteen bits each: at 640 items one fresh candidate in a hundred is taken for a seen one
RECENT_SIZE = REPEAT_IDS_MAX
TRAITS_MAX = 8
ROWS_AT_A_TIME = 128  # packed, these stay in the processor's cache until they are copied out
AT_MAX = 2**32 * 1000 - 1  # milliseconds: the ring keeps times in 32 bits, which last until 2106
STATELESS_BYTES_MAX = HEADER_BYTES + 16 * RING_SIZE + 2 * SEEN_SIZE + 12 * RECENT_SIZE + 8 * TRAITS_MAX
STATE_MAX = 4100  # two sums for each of 2,048 co-clusters; with the 322 of the usual encoder a row stays under 4 KiB

HEADER = np.dtype(
    [
        ("layout", "u1"),
        ("traits_count", "u1"),
        ("state_count", "<u2"),  # float32 values that follow
        ("partition", "<i4"),
        ("model", "<u8"),  # key of the version that the state was built with; 0 for none
        ("built", "<i8"),  # offset up to which the state was made from the ring, -1 for none: later events were folded
        ("offset", "<i8"),  # last folded
        ("at", "<i8"),  # latest event time, milliseconds; the state is decayed to it
        ("users_offset", "<i8"),  # last record of the users topic that was applied
        ("events", "<u4"),
        ("liked", "<u4"),
        ("disliked", "<u4"),
        ("seen_count", "<u4"),
        ("recent_count", "<u4"),
        ("in_second", "<u4"),  # events that counted in `second`; it and `second` stay 0 where there is no limit
        ("begun", "<i8"),  # offset of the first interaction that counted, -1 for none or unknown
        ("second", "<u4"),  # latest second, by the broker's clock, in which an event counted
        ("reserved", "<u4"),
    ]
)

KEPT = np.dtype(
    [
        *[(name, HEADER[name]) for name in HEADER.names or ()],
        ("ring_item", "<u8", (RING_SIZE,)),
        ("ring_weight", "<f4", (RING_SIZE,)),
        ("ring_at", "<u4", (RING_SIZE,)),
        ("seen", "<u2", (SEEN_SIZE,)),
        ("recent", "<u8", (RECENT_SIZE,)),
        ("recent_at", "<u4", (RECENT_SIZE,)),
        ("traits", "<u8", (TRAITS_MAX,)),
    ],
    align=True,
)
"""A row in memory: its header, and every section but the state at its full size, zeros where there is nothing. What
only the disk needs of the header (layout, state_count, partition) is 0."""
_SECTION_NAMES = ("ring_item", "ring_weight", "ring_at", "seen", "recent", "recent_at", "traits")
_ENDS = np.cumsum([HEADER_BYTES, *(KEPT[name].itemsize for name in _SECTION_NAMES)])
_SECTIONS = np.stack((_ENDS[:-1], _ENDS[1:]), axis=1)
"""(sections, 2) where each section of a record begins and ends, in bytes."""
_WHOLE = np.dtype((np.void, KEPT.itemsize))  # numpy copies a record field by field, and these bytes at once

Kind = TypeVar("Kind", bound=np.generic)


class _Column(Generic[Kind]):
    """A field of `Rows.kept`, as an array over the users; what is written to it is written to the rows."""

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    def __get__(self, rows: Rows, owner: type) -> NDArray[Kind]:
        column: NDArray[Kind] = rows.kept[self._name]
        return column


@dataclass(frozen=True, slots=True)
class Rows:
    """The rows of a batch of users, the users first. Counts may exceed the sizes of their rings."""

    kept: NDArray[np.void]
    """(users,) KEPT: all but the state. A record for each user, so that what is needed together lies together."""
    state: NDArray[np.float32]
    """(users, width) the encoder's sums, decayed to `at`."""

    model = _Column[np.uint64]()
    """(users,) key of the version that `state` was built with; 0 for none."""
    built = _Column[np.int64]()
    """(users,) offset up to which `state` was made from the ring, -1 for none. With the log and the model this tells
    the whole row (`recompute.py`)."""
    offset = _Column[np.int64]()
    """(users,) offset of the last folded event, -1 for none."""
    at = _Column[np.int64]()
    """(users,) latest event time in milliseconds."""
    users_offset = _Column[np.int64]()
    """(users,) offset of the last applied record of the users topic, -1 for none."""
    events = _Column[np.uint32]()
    """(users,) interactions counted."""
    liked = _Column[np.uint32]()
    disliked = _Column[np.uint32]()
    begun = _Column[np.int64]()
    """(users,) offset of the first counted interaction, -1 for none or unknown. What the log has of the user from
    before it was erased with an earlier row."""
    second = _Column[np.uint32]()
    """(users,) latest second since the epoch, by the broker's clock, in which an event counted; 0 without a limit."""
    in_second = _Column[np.uint32]()
    """(users,) events that counted in it."""
    ring_item = _Column[np.uint64]()
    """(users, RING_SIZE)"""
    ring_weight = _Column[np.float32]()
    ring_at = _Column[np.uint32]()
    """(users, RING_SIZE) seconds since the epoch."""
    seen_count = _Column[np.uint32]()
    seen = _Column[np.uint16]()
    """(users, SEEN_SIZE)"""
    recent_count = _Column[np.uint32]()
    recent = _Column[np.uint64]()
    """(users, RECENT_SIZE) keys of event ids; 0 where one is not known any more."""
    recent_at = _Column[np.uint32]()
    """(users, RECENT_SIZE) when the broker got each, seconds since the epoch; 0 where that is unknown."""
    traits_count = _Column[np.uint8]()
    traits = _Column[np.uint64]()
    """(users, TRAITS_MAX) keys of demographics such as `gender=F`."""

    def __len__(self) -> int:
        return len(self.kept)


def empty(users: int, width: int = 0) -> Rows:
    """Rows of users of whom nothing is known. width: floats of state."""
    return Rows(np.full(users, _NOTHING.view(_WHOLE)).view(KEPT), np.zeros((users, width), np.float32))


def _nothing() -> NDArray[np.void]:
    kept = np.zeros(1, KEPT)
    for name in ("built", "offset", "users_offset", "begun"):
        kept[name] = -1
    return kept


_NOTHING = _nothing()


@dataclass(frozen=True, slots=True)
class Folded:
    """What a run did: the rows after it, and what became of each event."""

    rows: Rows
    changed: NDArray[np.bool_]
    """(users,) whether the row moved on and must be written. A run that is delivered again changes nothing."""
    counted: NDArray[np.bool_]
    """(events,) folded now, for the first time."""
    repeated: NDArray[np.bool_]
    """(events,) sent twice by the producer, under the same event id."""
    limited: NDArray[np.bool_]
    """(events,) not counted, because as many of the user's as may count in one second had come in that second."""


def fold(rows: Rows, run: Interactions, encoder: Encoder | None, admission: Admission = DEFAULT_ADMISSION) -> Folded:
    """The rows after a run of events, those of each user in offset order and of one partition.

    rows: one per distinct user of the run, in the order of `run.users`. encoder: of the model in service, None before
    the first. The arguments stay as they were. Times before 1970 and after 2106 count as the first and last between.

    1. Rows that another model built are built anew from their ring.
    2. Events at or below a row's offset were folded before. Events whose id is among the row's recent ones, and arrived
       not long ago, are repeats; what comes after as many in one second as may count is left out. `admission` says how
       many and how long.
    3. The rest enter ring, counts and the set of seen items, in offset order.
    4. The encoder adds their contributions to the state, each with the weight that it has by its time.
    """
    columns = (run.user, run.item, run.weight, run.at, run.arrived, run.offset, run.event, run.excludes)
    lengths = [len(column) for column in columns]
    if len(rows) != len(run.users) or lengths.count(len(run)) != len(lengths):
        raise AssertionError(f"{len(rows)} rows for {len(run.users)} users, columns of {lengths} events")
    before = rebuilt(rows, encoder)
    kept = _copied(rows.kept) if before is rows else before.kept
    at = np.minimum(np.maximum(run.at, 0), AT_MAX)
    outcome = np.empty(len(run), np.uint8)
    changed = np.empty(len(rows), np.bool_)
    spoiling = kernels.fold_history(
        run.user,
        run.item,
        run.weight,
        at,
        run.arrived,
        run.offset,
        run.event,
        run.excludes,
        admission.repeat_ids,
        float(admission.repeat_seconds),
        admission.events_per_second,
        kept,
        outcome,
        changed,
    )
    if spoiling >= 0:
        raise AssertionError(_spoils(run, spoiling))
    counted = outcome == 0
    state = before.state
    if encoder is not None:
        events = (run.user, run.item, run.weight, at)
        if not counted.all():
            events = (run.user[counted], run.item[counted], run.weight[counted], at[counted])
        state = encoder.accumulate(state, rows.at, *events)
    return Folded(Rows(kept, state), changed, counted, outcome == 2, outcome == 3)


def _spoils(run: Interactions, place: int) -> str:
    """What is wrong with an event that the kernel refused."""
    user, weight, offset = int(run.user[place]), float(run.weight[place]), int(run.offset[place])
    if not 0 <= user < len(run.users):
        return f"event {place} is of user {user}, of {len(run.users)} users"
    if not abs(weight) <= 1:
        return f"event {place} has weight {weight}; expected one in [-1, 1]"
    return f"offsets of user {user} fall within a run, to {offset} at event {place}"


def rebuilt(rows: Rows, encoder: Encoder | None) -> Rows:
    """Rows whose state is the given encoder's: what another model built is made anew from the ring.

    The ring is read from its oldest entry on. The arguments stay as they were. None: rows without a state.
    """
    key, width = (0, 0) if encoder is None else (encoder.key, encoder.width)
    stale = np.flatnonzero(rows.model != np.uint64(key))
    if rows.state.shape[1] == width and not len(stale):
        return rows
    after = Rows(_copied(rows.kept), np.zeros((len(rows), width), np.float32))
    after.model[stale] = key
    if encoder is None:
        after.built[stale] = -1
        return after
    if rows.state.shape[1] == width:
        kept = rows.model == np.uint64(key)
        after.state[kept] = rows.state[kept]
    after.built[stale] = rows.offset[stale]
    events = rows.events[stale].astype(np.int64)
    count = np.minimum(events, RING_SIZE)
    user = np.repeat(stale.astype(np.int32), count)
    place = spread(events - count, count) % RING_SIZE
    state = encoder.accumulate(
        after.state,
        rows.at,
        user,
        rows.ring_item[user, place],
        rows.ring_weight[user, place],
        rows.ring_at[user, place].astype(np.int64) * 1000,
    )
    return Rows(after.kept, state)


def take(rows: Rows, index: NDArray[np.integer]) -> Rows:
    """Some of the rows, in the order of index; where these are all of them in their order, the rows as they are."""
    if len(index) == len(rows) and (index == np.arange(len(rows))).all():
        return rows
    return Rows(rows.kept.view(_WHOLE).take(index).view(KEPT), rows.state.take(index, axis=0))


def with_traits(rows: Rows, traits: Sequence[NDArray[np.uint64]], offsets: NDArray[np.int64]) -> Rows:
    """The rows with other demographics, from records of the users topic at these offsets; at most TRAITS_MAX are kept.

    traits, offsets: one per row. A record at or below the row's `users_offset` was applied before and changes nothing.
    """
    after = Rows(_copied(rows.kept), rows.state)
    for row, keys in enumerate(traits):
        if offsets[row] <= rows.users_offset[row]:
            continue
        count = min(len(keys), TRAITS_MAX)
        after.traits[row] = 0
        after.traits[row, :count] = keys[:count]
        after.traits_count[row] = count
        after.users_offset[row] = offsets[row]
    return after


def pack(rows: Rows, partition: int | NDArray[np.integer]) -> list[bytes]:
    """Each row as bytes of LAYOUT. A row that no model built has no state to keep.

    partition: of all rows, or of each (users,).
    """
    users = len(rows)
    partitions = np.full(users, partition, np.int32)
    heads = _bytes_of(rows.kept)
    out = np.empty(min(users, ROWS_AT_A_TIME) * (STATELESS_BYTES_MAX + 4 * rows.state.shape[1]), np.uint8)
    packed: list[bytes] = []
    for first in range(0, users, ROWS_AT_A_TIME):
        some = slice(first, first + ROWS_AT_A_TIME)
        end = np.empty(len(partitions[some]), np.int64)
        write_rows(_SECTIONS, rows.kept[some], heads[some], rows.state[some], LAYOUT, partitions[some], out, end)
        ends = end.tolist()
        whole = out[: ends[-1]].tobytes()
        packed += [whole[a:b] for a, b in zip([0, *ends], ends, strict=False)]
    return packed


def unpack(values: Sequence[bytes | None], width: int, model: int) -> Rows:
    """Rows from bytes, None for a user of whom nothing is kept. Layouts may be mixed.

    width, model: of the encoder in service. The state of rows that another model built is left out: it will be rebuilt.
    Raises RowUnreadable for a row of a newer layout, or one that is damaged.
    """
    rows = Rows(np.empty(len(values), KEPT), np.empty((len(values), width), np.float32))
    source = np.frombuffer(b"".join(filter(None, values)), np.uint8)
    length = np.array([-1 if value is None else len(value) for value in values], np.int64)
    bad = read_rows(
        source,
        length,
        LAYOUT,
        STATE_MAX,
        np.uint64(model),
        _SECTIONS,
        _NOTHING,
        rows.kept,
        _bytes_of(rows.kept),
        rows.state,
    )
    if bad >= 0:
        raise RowUnreadable(_damage(values[bad] or b""))
    return rows


def _damage(row: bytes) -> str:
    """What is wrong with a row that the kernel refused."""
    if not row:
        return "a row has 0 bytes"
    if row[0] not in (1, LAYOUT):
        return f"a row has layout {row[0]}; this release reads layouts {[1, LAYOUT]}"
    header_bytes, state_max = (HEADER.itemsize, STATE_MAX) if row[0] == LAYOUT else (OLD_HEADER_BYTES, OLD_STATE_MAX)
    if len(row) < header_bytes:
        return f"a row has {len(row)} bytes; the header alone has {header_bytes}"
    header = np.frombuffer(row[:header_bytes].ljust(HEADER.itemsize, b"\0"), HEADER)[0]
    told, most = (int(header["state_count"]), int(header["traits_count"])), (state_max, TRAITS_MAX)
    if told[0] > most[0] or told[1] > most[1]:
        return f"a row tells of {told} floats of state and traits; at most {most}"
    return f"a row has {len(row)} bytes, which is not what its header tells of: {header}"


def _copied(kept: NDArray[np.void]) -> NDArray[np.void]:
    return kept.view(_WHOLE).copy().view(KEPT)


def _bytes_of(kept: NDArray[np.void]) -> NDArray[np.uint8]:
    return kept.view(np.uint8).reshape(len(kept), KEPT.itemsize)
