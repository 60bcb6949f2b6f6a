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
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from efficientrec import kernels
from efficientrec.errors import RowUnreadable
from efficientrec.interactions import DEFAULT_ADMISSION, REPEAT_IDS_MAX, Admission, Interactions

if TYPE_CHECKING:
    from efficientrec.encoders import Encoder

LAYOUT = 2
RING_SIZE = 64  # with 160-wide item vectors a full row stays under 4 KiB
SEEN_SIZE = 640  # sixteen bits each: at 640 items one fresh candidate in a hundred is taken for a seen one
RECENT_SIZE = REPEAT_IDS_MAX
TRAITS_MAX = 8
ROW_BYTES_MAX = 4096
AT_MAX = 2**32 * 1000 - 1  # milliseconds: the ring keeps times in 32 bits, which last until 2106
STATE_MAX = (ROW_BYTES_MAX - 88 - 16 * RING_SIZE - 2 * SEEN_SIZE - 12 * RECENT_SIZE - 8 * TRAITS_MAX) // 4

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
        ("in_second", "<u4"),  # events that counted in `second`; it and `second` stay 0 where there is no limit
        ("begun", "<i8"),  # offset of the first interaction that counted, -1 for none or unknown
        ("second", "<u4"),  # latest second, by the broker's clock, in which an event counted
        ("reserved", "<u4"),
    ]
)


class Layout(NamedTuple):
    """What differs between the layouts that this release reads."""

    header_bytes: int
    state_max: int
    recent_size: int


LAYOUTS = {1: Layout(72, 382, 16), LAYOUT: Layout(HEADER.itemsize, STATE_MAX, RECENT_SIZE)}

HISTORY = (
    "offset",
    "at",
    "events",
    "liked",
    "disliked",
    "begun",
    "second",
    "in_second",
    "ring_item",
    "ring_weight",
    "ring_at",
    "seen_count",
    "seen",
    "recent_count",
    "recent",
    "recent_at",
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
    begun: NDArray[np.int64]
    """(users,) offset of the first counted interaction, -1 for none or unknown. What the log has of the user from
    before it was erased with an earlier row."""
    second: NDArray[np.uint32]
    """(users,) latest second since the epoch, by the broker's clock, in which an event counted; 0 without a limit."""
    in_second: NDArray[np.uint32]
    """(users,) events that counted in it."""
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
    """(users, RECENT_SIZE) keys of event ids; 0 where one is not known any more."""
    recent_at: NDArray[np.uint32]
    """(users, RECENT_SIZE) when the broker got each, seconds since the epoch; 0 where that is unknown."""
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
        begun=np.full(users, -1, np.int64),
        second=np.zeros(users, np.uint32),
        in_second=np.zeros(users, np.uint32),
        state=np.zeros((users, width), np.float32),
        ring_item=np.zeros((users, RING_SIZE), np.uint64),
        ring_weight=np.zeros((users, RING_SIZE), np.float32),
        ring_at=np.zeros((users, RING_SIZE), np.uint32),
        seen_count=np.zeros(users, np.uint32),
        seen=np.zeros((users, SEEN_SIZE), np.uint16),
        recent_count=np.zeros(users, np.uint32),
        recent=np.zeros((users, RECENT_SIZE), np.uint64),
        recent_at=np.zeros((users, RECENT_SIZE), np.uint32),
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
    limited: NDArray[np.bool_]
    """(events,) not counted, because as many of the user's as may count in one second had come in that second."""


def fold(rows: Rows, run: Interactions, encoder: Encoder | None, admission: Admission = DEFAULT_ADMISSION) -> Folded:
    """The rows after a run of events of one partition.

    rows: one per distinct user of the run, in the order of `run.users`. encoder: of the model in service, None before
    the first. The arguments stay as they were. Times before 1970 and after 2106 count as the first and last between.

    1. Rows that another model built are built anew from their ring.
    2. Events at or below a row's offset were folded before. Events whose id is among the row's recent ones, and arrived
       not long ago, are repeats; what comes after as many in one second as may count is left out. `admission` says how
       many and how long.
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
        run.arrived,
        run.offset,
        run.event,
        run.excludes,
        admission.repeat_ids,
        float(admission.repeat_seconds),
        admission.events_per_second,
        after.offset,
        after.at,
        after.begun,
        after.second,
        after.in_second,
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
        after.recent_at,
        outcome,
    )
    counted = outcome == 0
    if encoder is not None:
        state = encoder.accumulate(
            after.state, rows.at, run.user[counted], run.item[counted], run.weight[counted], at[counted]
        )
        after = replace(after, state=state)
    return Folded(after, after.offset > rows.offset, counted, outcome == 2, outcome == 3)


def _check_run(rows: Rows, run: Interactions) -> None:
    """The kernels check no bound, one NaN would stay in a row, and an offset that falls would lose its event."""
    columns = (run.user, run.item, run.weight, run.at, run.arrived, run.offset, run.event, run.excludes)
    if len(rows) != len(run.users) or {len(column) for column in columns} != {len(run)}:
        lengths = [len(column) for column in columns]
        raise AssertionError(f"{len(rows)} rows for {len(run.users)} users, columns of {lengths} events")
    if len(run) and not 0 <= run.user.min() <= run.user.max() < len(rows):
        raise AssertionError(f"users from {run.user.min()} to {run.user.max()} in a run of {len(rows)}")
    if not (np.abs(run.weight) <= 1).all():
        raise AssertionError(f"weights from {run.weight.min()} to {run.weight.max()}; expected [-1, 1]")
    order = np.argsort(run.user, kind="stable")
    offset, user = run.offset[order], run.user[order]
    if not ((offset[1:] > offset[:-1]) | (user[1:] != user[:-1])).all():
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
        section(rows.recent_at, header["recent"]),
        section(rows.traits, header["traits"]),
    ]


def pack(rows: Rows, partition: int | NDArray[np.int32]) -> list[bytes]:
    """Each row as bytes of LAYOUT, at most ROW_BYTES_MAX long. A row that no model built has no state to keep.

    partition: of all rows, or of each.
    """
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
        ("begun", rows.begun),
        ("second", rows.second),
        ("in_second", rows.in_second),
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
    whole = out.data
    return [whole[a:b].tobytes() for a, b in zip(start.tolist(), end.tolist(), strict=True)]


def unpack(values: Sequence[bytes | None], width: int, model: int) -> Rows:
    """Rows from bytes, None for a user of whom nothing is kept. Layouts may be mixed.

    width, model: of the encoder in service. The state of rows that another model built is left out: it will be rebuilt.
    Raises RowUnreadable for a row of a newer layout, or one that is damaged.
    """
    present = [index for index, value in enumerate(values) if value is not None]
    if not present:
        return empty(len(values), width)
    stored = [value for value in values if value is not None]
    length = np.fromiter(map(len, stored), np.int64, len(stored))
    if not length.all():
        raise RowUnreadable("a row has 0 bytes")
    source = np.frombuffer(b"".join(stored), np.uint8)
    start = np.cumsum(length) - length
    layout = source[start]
    found = np.unique(layout).tolist()
    if not LAYOUTS.keys() >= set(found):
        raise RowUnreadable(f"rows have layouts {found}; this release reads layouts {sorted(LAYOUTS)}")
    if found == [LAYOUT] and len(stored) == len(values):
        return _read(source, start, length, LAYOUT, width, model)
    rows = empty(len(values), width)
    for each in found:
        chosen = np.flatnonzero(layout == each)
        part = _read(source, start[chosen], length[chosen], each, width, model)
        into = np.array(present)[chosen]
        for field in fields(Rows):
            getattr(rows, field.name)[into] = getattr(part, field.name)
    return rows


def _read(
    source: NDArray[np.uint8], start: NDArray[np.int64], length: NDArray[np.int64], layout: int, width: int, model: int
) -> Rows:
    """The rows of one layout that stand at these places of source."""
    users = len(start)
    shape = LAYOUTS[layout]
    if int(length.min()) < shape.header_bytes:
        raise RowUnreadable(f"a row has {length.min()} bytes; the header alone has {shape.header_bytes}")
    place = start.copy()  # moves on from section to section
    head = np.zeros((users, HEADER.itemsize), np.uint8)
    kernels.gather(source, place, np.full(users, shape.header_bytes, np.int64), head)
    header: NDArray[Any] = head.reshape(-1).view(HEADER)
    if layout == 1:
        header["begun"] = -1
    most = (int(header["state"].max()), int(header["traits"].max()))
    if most[0] > shape.state_max or most[1] > TRAITS_MAX:
        raise RowUnreadable(
            f"a row tells of {most} floats of state and traits; at most {(shape.state_max, TRAITS_MAX)}"
        )

    rows = empty(users, max(width, most[0]))
    if layout == 1:
        rows = replace(
            rows, recent=np.zeros((users, shape.recent_size), np.uint64), recent_at=np.zeros((users, 0), np.uint32)
        )
    sections = _sections(rows, header)
    told = np.sum([count for _, count in sections], axis=0, dtype=np.int64)
    expected: NDArray[np.int64] = np.asarray(told) + shape.header_bytes
    wrong = np.flatnonzero(expected != length)
    if len(wrong):
        raise RowUnreadable(
            f"rows have {length[wrong].tolist()} bytes; their headers tell of {expected[wrong].tolist()}"
        )
    for target, count in sections:
        kernels.gather(source, place, count, target)
    if layout == 1:
        rows = replace(
            rows, recent=_replaced(rows.recent, header["recent"]), recent_at=np.zeros((users, RECENT_SIZE), np.uint32)
        )

    mine = (header["model"] == np.uint64(model)) & (header["state"] == width)
    return replace(
        rows,
        state=rows.state if mine.all() else np.where(mine[:, None], rows.state[:, :width], np.float32(0)),
        model=np.where(mine, header["model"], np.uint64(0)),
        built=np.where(mine, header["built"], np.int64(-1)),
        seen_count=header["seen"].copy(),
        recent_count=header["recent"].copy(),
        traits_count=header["traits"].copy(),
        **{
            name: header[name].copy()
            for name in ("offset", "at", "users_offset", "events", "liked", "disliked", "begun", "second", "in_second")
        },
    )


def _replaced(ring: NDArray[np.uint64], count: NDArray[np.uint32]) -> NDArray[np.uint64]:
    """The entries of a ring (users, size) where they stand in one of RECENT_SIZE; 0 where the smaller one had none."""
    size = ring.shape[1]
    wider = np.zeros((len(ring), RECENT_SIZE), np.uint64)
    entry = count.astype(np.int64)[:, None] - np.arange(1, size + 1)
    user, back = np.nonzero(entry >= 0)
    entry = entry[user, back]
    wider[user, entry % RECENT_SIZE] = ring[user, entry % size]
    return wider
