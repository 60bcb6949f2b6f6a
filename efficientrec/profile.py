"""What is kept about a user: one row, its layout in bytes, and how a run of interactions changes it.

Knows order, time and repetition. Knows nothing of Kafka, RocksDB or clusters; what an encoder adds up is the encoder's.

A row on disk (layout 1, little-endian; every count in the header bounds what follows, so a new user's row is small):

  header, 72 bytes        `HEADER` below
  state                   float32 each: the encoder's sums
  ring                    uint64 item keys, then float32 weights, then uint32 seconds: the last RING_SIZE interactions
  seen                    uint16 each: low bits of the keys of the last SEEN_SIZE items that left the user's lists
  recent                  uint64 each: keys of the last RECENT_SIZE event ids, so that a producer's retry counts once
  traits                  uint64 each: keys of the user's demographics

A ring is written where it stands: entry k of the user's history is at k modulo the size.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from efficientrec import kernels
from efficientrec.errors import RowUnreadable
from efficientrec.interactions import Interactions

if TYPE_CHECKING:
    from efficientrec.encoders import Encoder

LAYOUT = 1
RING_SIZE = 64  # with 160-wide item vectors a full row stays under 4 KiB
SEEN_SIZE = 640  # sixteen bits each: at 640 items one fresh candidate in a hundred is taken for a seen one
RECENT_SIZE = 16
TRAITS_MAX = 8
ROW_BYTES_MAX = 4096
AT_MAX = 2**32 * 1000 - 1  # milliseconds: the ring keeps times in 32 bits, which last until 2106
STATE_MAX = (ROW_BYTES_MAX - 72 - 16 * RING_SIZE - 2 * SEEN_SIZE - 8 * RECENT_SIZE - 8 * TRAITS_MAX) // 4

HEADER = np.dtype(
    [
        ("layout", "u1"),
        ("traits", "u1"),
        ("state", "<u2"),  # float32 values that follow
        ("partition", "<i4"),
        ("model", "<u8"),  # key of the version that the state was built with; 0 for none
        ("built", "<i8"),  # offset up to which the state was made from the ring, -1 for none: later events were folded
        ("offset", "<i8"),  # last folded
        ("at", "<i8"),  # latest event time, milliseconds; the state is decayed to it
        ("users_offset", "<i8"),  # last record of the users topic that was applied
        ("events", "<u4"),
        ("liked", "<u4"),
        ("disliked", "<u4"),
        ("seen", "<u4"),
        ("recent", "<u4"),
        ("reserved", "<u4"),
    ]
)


HISTORY = (
    "offset",
    "at",
    "events",
    "liked",
    "disliked",
    "ring_item",
    "ring_weight",
    "ring_at",
    "seen_count",
    "seen",
    "recent_count",
    "recent",
)
"""What `fold` changes in a row beside the encoder's state."""


@dataclass(frozen=True, slots=True)
class Rows:
    """The rows of a batch of users, as arrays with the users first. Counts may exceed the sizes of their rings."""

    model: NDArray[np.uint64]
    """(users,) key of the version that `state` was built with; 0 for none."""
    built: NDArray[np.int64]
    """(users,) offset up to which `state` was made from the ring, -1 for none. With the log and the model this tells
    the whole row (`recompute.py`)."""
    offset: NDArray[np.int64]
    """(users,) offset of the last folded event, -1 for none."""
    at: NDArray[np.int64]
    """(users,) latest event time in milliseconds."""
    users_offset: NDArray[np.int64]
    """(users,) offset of the last applied record of the users topic, -1 for none."""
    events: NDArray[np.uint32]
    """(users,) interactions counted."""
    liked: NDArray[np.uint32]
    disliked: NDArray[np.uint32]
    state: NDArray[np.float32]
    """(users, width) the encoder's sums, decayed to `at`."""
    ring_item: NDArray[np.uint64]
    """(users, RING_SIZE)"""
    ring_weight: NDArray[np.float32]
    ring_at: NDArray[np.uint32]
    """(users, RING_SIZE) seconds since the epoch."""
    seen_count: NDArray[np.uint32]
    seen: NDArray[np.uint16]
    """(users, SEEN_SIZE)"""
    recent_count: NDArray[np.uint32]
    recent: NDArray[np.uint64]
    """(users, RECENT_SIZE)"""
    traits_count: NDArray[np.uint8]
    traits: NDArray[np.uint64]
    """(users, TRAITS_MAX) keys of demographics such as `gender=F`."""

    def __len__(self) -> int:
        return len(self.offset)

    def latest(self, count: int) -> tuple[NDArray[np.uint64], NDArray[np.float32]]:
        """Keys and weights (users, count) of each user's last interactions, newest first; key 0 where there is none."""
        back = np.arange(1, count + 1, dtype=np.int64)
        place = self.events.astype(np.int64)[:, None] - back
        rows = np.arange(len(self))[:, None]
        exists = (place >= 0) & (back <= RING_SIZE)
        return (
            np.where(exists, self.ring_item[rows, place % RING_SIZE], np.uint64(0)),
            np.where(exists, self.ring_weight[rows, place % RING_SIZE], np.float32(0)),
        )


def empty(users: int, width: int = 0) -> Rows:
    """Rows of users of whom nothing is known. width: floats of state."""
    return Rows(
        model=np.zeros(users, np.uint64),
        built=np.full(users, -1, np.int64),
        offset=np.full(users, -1, np.int64),
        at=np.zeros(users, np.int64),
        users_offset=np.full(users, -1, np.int64),
        events=np.zeros(users, np.uint32),
        liked=np.zeros(users, np.uint32),
        disliked=np.zeros(users, np.uint32),
        state=np.zeros((users, width), np.float32),
        ring_item=np.zeros((users, RING_SIZE), np.uint64),
        ring_weight=np.zeros((users, RING_SIZE), np.float32),
        ring_at=np.zeros((users, RING_SIZE), np.uint32),
        seen_count=np.zeros(users, np.uint32),
        seen=np.zeros((users, SEEN_SIZE), np.uint16),
        recent_count=np.zeros(users, np.uint32),
        recent=np.zeros((users, RECENT_SIZE), np.uint64),
        traits_count=np.zeros(users, np.uint8),
        traits=np.zeros((users, TRAITS_MAX), np.uint64),
    )


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


def fold(rows: Rows, run: Interactions, encoder: Encoder | None) -> Folded:
    """The rows after a run of events of one partition.

    rows: one per distinct user of the run, in the order of `run.users`. encoder: of the model in service, None before
    the first. The arguments stay as they were. Times before 1970 and after 2106 count as the first and last between.

    1. Rows that another model built are built anew from their ring.
    2. Events at or below a row's offset were folded before; events whose id is among the row's recent ones are repeats.
    3. The rest enter ring, counts and the set of seen items, in offset order.
    4. The encoder adds their contributions to the state, each with the weight that it has by its time.
    """
    _check_run(rows, run)
    at = np.clip(run.at, 0, AT_MAX)
    after = rebuilt(rows, encoder)
    after = replace(after, **{name: getattr(after, name).copy() for name in HISTORY})
    outcome = np.empty(len(run), np.uint8)
    kernels.fold_history(
        run.user,
        run.item,
        run.weight,
        at,
        run.offset,
        run.event,
        run.excludes,
        after.offset,
        after.at,
        after.events,
        after.liked,
        after.disliked,
        after.ring_item,
        after.ring_weight,
        after.ring_at,
        after.seen_count,
        after.seen,
        after.recent_count,
        after.recent,
        outcome,
    )
    counted = outcome == 0
    if encoder is not None:
        state = encoder.accumulate(
            after.state, rows.at, run.user[counted], run.item[counted], run.weight[counted], at[counted]
        )
        after = replace(after, state=state)
    return Folded(after, after.offset > rows.offset, counted, outcome == 2)


def _check_run(rows: Rows, run: Interactions) -> None:
    """The kernels check no bound, one NaN would stay in a row, and an offset that falls would lose its event."""
    columns = (run.user, run.item, run.weight, run.at, run.offset, run.event, run.excludes)
    if len(rows) != len(run.users) or {len(column) for column in columns} != {len(run)}:
        lengths = [len(column) for column in columns]
        raise AssertionError(f"{len(rows)} rows for {len(run.users)} users, columns of {lengths} events")
    if len(run) and not 0 <= run.user.min() <= run.user.max() < len(rows):
        raise AssertionError(f"users from {run.user.min()} to {run.user.max()} in a run of {len(rows)}")
    if not (np.abs(run.weight) <= 1).all():
        raise AssertionError(f"weights from {run.weight.min()} to {run.weight.max()}; expected [-1, 1]")
    if not (run.offset[1:] > run.offset[:-1]).all():
        raise AssertionError(f"offsets fall within a run from {run.offset[0]} to {run.offset[-1]}")


def rebuilt(rows: Rows, encoder: Encoder | None) -> Rows:
    """Rows whose state is the given encoder's: what another model built is made anew from the ring.

    The ring is read from its oldest entry on. The arguments stay as they were. None: rows without a state.
    """
    if encoder is None:
        return replace(
            rows,
            state=np.zeros((len(rows), 0), np.float32),
            model=np.zeros(len(rows), np.uint64),
            built=np.full(len(rows), -1, np.int64),
        )
    stale = np.flatnonzero(rows.model != np.uint64(encoder.key))
    if rows.state.shape[1] == encoder.width and not len(stale):
        return rows
    state = np.zeros((len(rows), encoder.width), np.float32)
    if rows.state.shape[1] == encoder.width:
        kept = rows.model == np.uint64(encoder.key)
        state[kept] = rows.state[kept]
    events = rows.events[stale].astype(np.int64)
    count = np.minimum(events, RING_SIZE)
    user = np.repeat(stale.astype(np.int32), count)
    step = np.arange(len(user)) - np.repeat(np.cumsum(count) - count, count)
    place = (np.repeat(events - count, count) + step) % RING_SIZE
    state = encoder.accumulate(
        state,
        rows.at,
        user,
        rows.ring_item[user, place],
        rows.ring_weight[user, place],
        rows.ring_at[user, place].astype(np.int64) * 1000,
    )
    model, built = rows.model.copy(), rows.built.copy()
    model[stale] = encoder.key
    built[stale] = rows.offset[stale]
    return replace(rows, state=state, model=model, built=built)


def take(rows: Rows, index: NDArray[np.integer]) -> Rows:
    """Some of the rows, in the order of index."""
    return Rows(**{each.name: getattr(rows, each.name)[index] for each in fields(Rows)})


def with_traits(rows: Rows, traits: Sequence[NDArray[np.uint64]], offsets: NDArray[np.int64]) -> Rows:
    """The rows with other demographics, from records of the users topic at these offsets; at most TRAITS_MAX are kept.

    traits, offsets: one per row. A record at or below the row's `users_offset` was applied before and changes nothing.
    """
    kept = rows.traits.copy()
    count = rows.traits_count.copy()
    for row, keys in enumerate(traits):
        if offsets[row] <= rows.users_offset[row]:
            continue
        kept[row] = 0
        count[row] = min(len(keys), TRAITS_MAX)
        kept[row, : count[row]] = keys[: count[row]]
    return replace(rows, traits=kept, traits_count=count, users_offset=np.maximum(rows.users_offset, offsets))


def _sections(rows: Rows, header: NDArray[Any]) -> list[tuple[NDArray[np.uint8], NDArray[np.int64]]]:
    """What follows the header: for each section its arrays as bytes (users, most) and how many bytes each user has."""

    def section(values: NDArray[Any], count: NDArray[Any]) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
        held = np.minimum(count.astype(np.int64), values.shape[1])
        return values.view(np.uint8), held * values.itemsize

    return [
        section(rows.state, header["state"]),
        section(rows.ring_item, header["events"]),
        section(rows.ring_weight, header["events"]),
        section(rows.ring_at, header["events"]),
        section(rows.seen, header["seen"]),
        section(rows.recent, header["recent"]),
        section(rows.traits, header["traits"]),
    ]


def pack(rows: Rows, partition: int) -> list[bytes]:
    """Each row as bytes, at most ROW_BYTES_MAX long. A row that no model built has no state to keep."""
    users = len(rows)
    header = np.zeros(users, HEADER)
    header["layout"] = LAYOUT
    header["partition"] = partition
    header["state"] = np.where(rows.model != 0, rows.state.shape[1], 0)
    for name, values in (
        ("traits", rows.traits_count),
        ("model", rows.model),
        ("built", rows.built),
        ("offset", rows.offset),
        ("at", rows.at),
        ("users_offset", rows.users_offset),
        ("events", rows.events),
        ("liked", rows.liked),
        ("disliked", rows.disliked),
        ("seen", rows.seen_count),
        ("recent", rows.recent_count),
    ):
        header[name] = values
    head = (header.view(np.uint8).reshape(users, HEADER.itemsize), np.full(users, HEADER.itemsize, np.int64))
    sections = [head, *_sections(rows, header)]
    length = np.sum([count for _, count in sections], axis=0, dtype=np.int64)
    end = np.cumsum(length)
    start = end - length
    out = np.empty(int(end[-1]) if users else 0, np.uint8)
    begin = start.copy()
    for values, count in sections:
        kernels.scatter(values, count, out, begin)
    whole = out.tobytes()
    return [whole[a:b] for a, b in zip(start.tolist(), end.tolist(), strict=True)]


def unpack(values: Sequence[bytes | None], width: int, model: int) -> Rows:
    """Rows from bytes, None for a user of whom nothing is kept.

    width, model: of the encoder in service. The state of rows that another model built is left out: it will be rebuilt.
    Raises RowUnreadable for a row of a newer layout, or one that is damaged.
    """
    present = [index for index, value in enumerate(values) if value is not None]
    rows = empty(len(values), width)
    if not present:
        return rows
    stored = [value for value in values if value is not None]
    length = np.fromiter(map(len, stored), np.int64, len(stored))
    _check(stored, length)
    source = np.frombuffer(b"".join(stored), np.uint8)
    start = np.cumsum(length) - length
    head = np.empty((len(stored), HEADER.itemsize), np.uint8)
    kernels.gather(source, start, np.full(len(stored), HEADER.itemsize, np.int64), head)
    header: NDArray[Any] = head.reshape(-1).view(HEADER)
    most = (int(header["state"].max()), int(header["traits"].max()))
    if most[0] > STATE_MAX or most[1] > TRAITS_MAX:
        raise RowUnreadable(f"a row tells of {most} floats of state and traits; at most {(STATE_MAX, TRAITS_MAX)}")

    mine = (header["model"] == np.uint64(model)) & (header["state"] == width)
    part = empty(len(stored), max(width, int(header["state"].max())))
    sections = _sections(part, header)
    told = np.sum([count for _, count in sections], axis=0, dtype=np.int64)
    expected: NDArray[np.int64] = np.asarray(told) + HEADER.itemsize
    wrong = np.flatnonzero(expected != length)
    if len(wrong):
        raise RowUnreadable(
            f"rows have {length[wrong].tolist()} bytes; their headers tell of {expected[wrong].tolist()}"
        )
    for target, count in sections:
        kernels.gather(source, start, count, target)

    into = np.array(present)
    rows.state[into] = np.where(mine[:, None], part.state[:, :width], np.float32(0))
    rows.model[into] = np.where(mine, header["model"], np.uint64(0))
    rows.built[into] = np.where(mine, header["built"], np.int64(-1))
    for name in ("offset", "at", "users_offset", "events", "liked", "disliked"):
        getattr(rows, name)[into] = header[name]
    rows.seen_count[into] = header["seen"]
    rows.recent_count[into] = header["recent"]
    rows.traits_count[into] = header["traits"]
    for name in ("ring_item", "ring_weight", "ring_at", "seen", "recent", "traits"):
        getattr(rows, name)[into] = getattr(part, name)
    return rows


def _check(stored: Sequence[bytes], length: NDArray[np.int64]) -> None:
    if int(length.min()) < HEADER.itemsize:
        raise RowUnreadable(f"a row has {length.min()} bytes; the header alone has {HEADER.itemsize}")
    layouts = {value[0] for value in stored}
    if layouts != {LAYOUT}:
        raise RowUnreadable(f"rows have layouts {sorted(layouts)}; this release reads layout {LAYOUT}")
