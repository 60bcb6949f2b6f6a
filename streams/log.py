"""The interaction log: what the trainer learns from, on disk as Parquet files that partition and offsets name.

  log_dir/partition=3/00000000000000001000-00000000000000002047.parquet    first and last offset that the file covers

A file is whole or absent: it is written under another name, forced to disk, and renamed. The names alone say up to
which offset the log reaches, so a trainer that starts again goes on at the next one and nothing is lost or repeated.

Users can be erased. An erasure is a user and a moment: it takes the user's interactions that arrived up to then, those
of the same millisecond included, and leaves later ones, so it may be repeated at any time. A file is written anew
without them under its old name, which says that its offsets are not to be read again, even when it is left empty.

Knows files and columns. Knows nothing of Kafka beyond partitions and offsets, nor of what is learnt.
"""

from __future__ import annotations

import fcntl
import logging
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from efficientrec.errors import DataInvalid, SettingInvalid
from streams.records import Decoded

log = logging.getLogger(__name__)

INTERACTIONS_MAX = 20_000_000
"""Most interactions that are read for a training, the newest first: 20 million take about 2 GB while they are read, and
tastes older than that many interactions say little."""
MERGE_FILES = 32  # a training opens every file; one every few seconds would be 17,000 a day and partition
MERGED_ROWS = 250_000  # larger files are left alone: a few MB each, so that merging takes tenths of a second

SCHEMA = pa.schema(
    [
        ("offset", pa.int64()),
        ("at_ms", pa.int64()),  # event time, milliseconds since 1970
        ("user_id", pa.string()),
        ("item_id", pa.string()),
        ("event_type", pa.string()),
        ("value", pa.float64()),  # null where the event had none
        ("weight", pa.float32()),  # signed, by the policy in force when the event was logged
        ("excludes", pa.bool_()),
        ("event_id", pa.string()),  # null where the producer gave none
        ("event_key", pa.uint64()),  # key_of the event's id; 0 where there is none
        ("arrived_ms", pa.int64()),  # when the broker got it, milliseconds since 1970; null in files of older releases
    ]
)
_READ = ("at_ms", "user_id", "item_id", "event_type", "value", "weight", "excludes", "event_key")
_NAME = re.compile(r"(\d{20})-(\d{20})\.parquet")
_FOLDER = re.compile(r"partition=(\d+)")
_PARTIAL = ".partial"

NOBODY: Mapping[str, int] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Logged:
    """Interactions from the log, each once, in the order of their times. Columns have length (events,)."""

    users: Sequence[str]
    """The distinct users, each once."""
    items: Sequence[str]
    """The distinct items, each once."""
    event_types: Sequence[str]
    """The distinct event types, each once."""
    user: NDArray[np.int32]
    """Index into `users`."""
    item: NDArray[np.int32]
    """Index into `items`."""
    event_type: NDArray[np.int32]
    """Index into `event_types`."""
    value: NDArray[np.float64]
    """NaN where the event had none."""
    weight: NDArray[np.float32]
    """Signed weight in [-1, 1]."""
    excludes: NDArray[np.bool_]
    at: NDArray[np.int64]
    """Milliseconds since the epoch; never falls."""
    offsets: Mapping[int, int]
    """partition → offset after the last one that was read."""

    def __len__(self) -> int:
        return len(self.user)


@dataclass(frozen=True, slots=True)
class Segment:
    """One file: the offsets from `first` to `last` of a partition, refused records among them left out."""

    path: Path
    partition: int
    first: int
    last: int


class InteractionLog:
    """The log while it is being written: by one process at a time, which holds it from `__init__` to `close`.

    `add` collects, `flush` makes durable, `erase` takes users out of everything. Not for use from two threads at once.
    """

    def __init__(self, folder: Path) -> None:
        """Opens the log and clears up what a crash left; SettingInvalid when another process holds it, DataInvalid when
        its files contradict each other."""
        self.folder = folder
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)  # what users did
        self._lock = _locked(folder)
        self._pending: dict[int, _Pending] = {}
        self._segments: dict[int, list[tuple[Segment, int]]] = {}
        try:
            self._take_stock()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Lets go of the log; what was not flushed is gone, and will be read from Kafka again."""
        self._lock.close()

    @property
    def rows(self) -> int:
        """Interactions that are durable."""
        return sum(rows for segments in self._segments.values() for _, rows in segments)

    @property
    def waiting(self) -> int:
        """Interactions that the next flush will make durable."""
        return sum(pending.rows for pending in self._pending.values())

    @property
    def offsets(self) -> dict[int, int]:
        """partition → offset after the last durable one: where a restart goes on."""
        return {partition: segments[-1][0].last + 1 for partition, segments in self._segments.items() if segments}

    @property
    def read_up_to(self) -> dict[int, int]:
        """partition → offset after the last one taken up, durable or not."""
        return self.offsets | {partition: pending.last + 1 for partition, pending in self._pending.items()}

    def add(self, partition: int, first: int, last: int, rows: pa.RecordBatch) -> None:
        """Takes up the records from offset `first` to `last` of a partition: the good ones among them, as columns."""
        if first < self.read_up_to.get(partition, 0):
            raise AssertionError(f"offset {first} of partition {partition} after {self.read_up_to[partition] - 1}")
        pending = self._pending.setdefault(partition, _Pending(first, last, []))
        pending.last = last
        if rows.num_rows:
            pending.batches.append(rows)

    def flush(self, erased: Mapping[str, int] = NOBODY) -> None:
        """Makes everything durable but what `erased` (user → moment) takes of it.

        A stretch of nothing but refused records waits for the next good one: read again after a crash, it changes
        nothing, and so nobody writes empty files. Not so while users are being erased: that is done when these offsets
        are not read again."""
        for partition, pending in list(self._pending.items()):
            if not pending.batches and not erased:
                continue
            table = _without(pa.Table.from_batches(pending.batches, SCHEMA), erased)
            segment = self._write(partition, pending.first, pending.last, table)
            del self._pending[partition]
            self._segments.setdefault(partition, []).append((segment, table.num_rows))
            self._merge(partition)

    def erase(self, erased: Mapping[str, int]) -> None:
        """Does what `flush` does, and takes them out of every file, too; files without them are not touched.

        Files change one by one. After a crash some are without the users and some not, and nothing else is missing:
        it is done when it has returned.
        """
        self.flush(erased)
        self._take_stock()
        users = pa.array(erased, pa.string())
        for partition, segments in self._segments.items():
            for place, (segment, _) in enumerate(segments):
                if not pc.any(pc.is_in(_read(segment.path, ["user_id"])["user_id"], value_set=users)).as_py():
                    continue
                before = _read(segment.path, SCHEMA.names)
                after = _without(before, erased)
                if after.num_rows < before.num_rows:
                    segments[place] = (self._write(partition, segment.first, segment.last, after), after.num_rows)

    def _take_stock(self) -> None:
        """Which files there are; what a crash or a full disk left beside them is removed."""
        for path in self.folder.glob(f"partition=*/*{_PARTIAL}"):
            path.unlink()
        segments, leftovers = _segments(self.folder)
        for leftover in leftovers:  # merged into a larger file, but not removed before the crash
            leftover.path.unlink()
        self._segments = {}
        for segment in segments:
            self._segments.setdefault(segment.partition, []).append((segment, _rows(segment.path)))

    def _write(self, partition: int, first: int, last: int, table: pa.Table) -> Segment:
        """One file. After a crash before the rename it is not there, after it it is whole."""
        folder = self.folder / f"partition={partition}"
        if not folder.exists():
            folder.mkdir()
            _sync(self.folder)
        path = folder / f"{first:020d}-{last:020d}.parquet"
        partial = path.with_suffix(_PARTIAL)
        with partial.open("wb") as file:
            pq.write_table(table, file, compression="zstd")
            file.flush()
            os.fsync(file.fileno())
        partial.rename(path)
        _sync(folder)
        return Segment(path, partition, first, last)

    def _merge(self, partition: int) -> None:
        """Many small files at the end of a partition become one. It is complete before its parts go; after a crash
        between the two the parts lie within it, and are removed by the next start."""
        segments = self._segments[partition]
        small = len(segments)
        while small and segments[small - 1][1] < MERGED_ROWS:
            small -= 1
        parts = segments[small:]
        if len(parts) < MERGE_FILES:
            return
        table = pa.concat_tables([_read(segment.path, SCHEMA.names) for segment, _ in parts])
        merged = self._write(partition, parts[0][0].first, parts[-1][0].last, table)
        segments[small:] = [(merged, table.num_rows)]
        for segment, _ in parts:
            segment.path.unlink()


class _Value(msgspec.Struct):
    value: float | None = None


_decode_value = msgspec.json.Decoder(_Value).decode


def rows_of(decoded: Decoded, values: Sequence[bytes | None]) -> pa.RecordBatch:
    """The good events of a run as the log's columns. values: the records' bytes, as they were decoded."""
    run = decoded.interactions
    numbers = [_decode_value(values[place] or b"").value for place in decoded.index.tolist()]
    return pa.record_batch(
        [
            pa.array(run.offset),
            pa.array(run.at),
            pa.array([run.users[place] for place in run.user.tolist()], pa.string()),
            pa.array(decoded.item_ids, pa.string()),
            pa.array(decoded.event_types, pa.string()),
            pa.array(numbers, pa.float64()),
            pa.array(run.weight),
            pa.array(run.excludes),
            pa.array(decoded.event_ids, pa.string()),
            pa.array(run.event),
            pa.array(run.arrived),
        ],
        schema=SCHEMA,
    )


def read_log(folder: Path, most: int = INTERACTIONS_MAX) -> Logged:
    """The newest `most` interactions of the log, in the order of their times; equal times in the order of the log.

    A user's events that bear the same id are one event that its producer sent again, and count once, as they do in the
    profile. To keep memory bounded whole files are left out, those that end earliest first. May be called while another
    process writes.

    >>> read_log(Path("log")).users  # doctest: +SKIP
    ['u1', 'u2']
    """
    for attempt in range(10):
        segments, _ = _segments(folder)
        try:
            return _logged(segments, most)
        except FileNotFoundError:  # its writer merged files after we listed them
            if attempt == 9:
                raise
    raise AssertionError


def read_in_order(folder: Path) -> Iterator[pa.Table]:
    """The whole log, file by file: of each partition in the order of its offsets. Nobody may write meanwhile."""
    for segment in _segments(folder)[0]:
        yield _read(segment.path, SCHEMA.names)


def _logged(segments: Sequence[Segment], most: int) -> Logged:
    chosen = _newest(segments, most)
    tables = [_read(segment.path, _READ) for segment in chosen]
    table = pa.concat_tables(tables) if tables else pa.schema([SCHEMA.field(name) for name in _READ]).empty_table()
    del tables
    users, user = _coded(table["user_id"])
    items, item = _coded(table["item_id"])
    types, event_type = _coded(table["event_type"])
    at = table["at_ms"].to_numpy()
    order = np.argsort(at, kind="stable")  # files come by partition and offset
    first = _first_of_each(user, table["event_key"].to_numpy())
    order = order[first[order]][-most:]
    return Logged(
        users=users,
        items=items,
        event_types=types,
        user=user[order],
        item=item[order],
        event_type=event_type[order],
        value=table["value"].to_numpy()[order],
        weight=table["weight"].to_numpy()[order],
        excludes=table["excludes"].to_numpy()[order],
        at=at[order],
        offsets={segment.partition: segment.last + 1 for segment in segments},
    )


def _newest(segments: Sequence[Segment], most: int) -> list[Segment]:
    """As many files as it takes for `most` rows, those with the latest events; in the order they came."""
    if not segments:
        return []
    rows, latest = np.array([_extent(segment.path) for segment in segments], np.int64).T
    order = np.argsort(-latest, kind="stable")
    needed = int(np.searchsorted(np.cumsum(rows[order]), most)) + 1
    return [segments[place] for place in sorted(order[:needed].tolist())]


def _first_of_each(user: NDArray[np.int32], event: NDArray[np.uint64]) -> NDArray[np.bool_]:
    """Whether each event is the first with its user and id; those without an id all are."""
    first = np.ones(len(user), np.bool_)
    named = np.flatnonzero(event)
    order = named[np.lexsort((named, event[named], user[named]))]
    first[order[1:]] = (user[order[1:]] != user[order[:-1]]) | (event[order[1:]] != event[order[:-1]])
    return first


def _coded(column: pa.ChunkedArray) -> tuple[list[str], NDArray[np.int32]]:
    """The distinct texts, and the index of each text among them."""
    if not len(column):
        return [], np.empty(0, np.int32)
    coded = pc.dictionary_encode(column).combine_chunks()
    if isinstance(coded, pa.ChunkedArray):
        coded = coded.unify_dictionaries().chunk(0)
    texts: list[str] = coded.dictionary.to_pylist()
    return texts, coded.indices.to_numpy().astype(np.int32, copy=False)


def _segments(folder: Path) -> tuple[list[Segment], list[Segment]]:
    """The files by partition and offset, and those whose offsets another file has all of; DataInvalid when two files
    share some but not all: no crash leaves that behind, so somebody mixed two logs."""
    found = []
    for path in folder.glob("partition=*/*.parquet"):
        inside, name = _FOLDER.fullmatch(path.parent.name), _NAME.fullmatch(path.name)
        if inside and name:
            found.append(Segment(path, int(inside[1]), int(name[1]), int(name[2])))
    segments: list[Segment] = []
    leftovers: list[Segment] = []
    for segment in sorted(found, key=lambda each: (each.partition, each.first, -each.last)):
        before = segments[-1] if segments and segments[-1].partition == segment.partition else None
        if before is None or segment.first > before.last:
            segments.append(segment)
        elif segment.last <= before.last:
            leftovers.append(segment)
        else:
            raise DataInvalid(
                f"{segment.path} and {before.path.name} both hold offset {segment.first}; expected files that do not "
                "overlap: move the one that was copied here away"
            )
    return segments, leftovers


def _without(rows: pa.Table, erased: Mapping[str, int]) -> pa.Table:
    """The rows that `erased` (user → moment) leaves; those that do not say when they arrived came before any moment."""
    if not erased:
        return rows
    place = pc.index_in(rows["user_id"], value_set=pa.array(erased, pa.string()))
    until = pc.take(pa.array(erased.values(), pa.int64()), place)  # null for everyone else
    gone = pc.less_equal(pc.fill_null(rows["arrived_ms"], -1), until)
    return rows.filter(pc.invert(pc.fill_null(gone, False)))


def _read(path: Path, columns: Sequence[str]) -> pa.Table:
    try:
        return pq.read_table(path, columns=list(columns), schema=SCHEMA, partitioning=None)
    except (pa.ArrowException, OSError) as error:
        raise _unreadable(path, error) from error


def _rows(path: Path) -> int:
    return _extent(path)[0]


def _extent(path: Path) -> tuple[int, int]:
    """How many rows a file has, and its latest event time."""
    try:
        metadata: Any = pq.read_metadata(path)
    except (pa.ArrowException, OSError) as error:
        raise _unreadable(path, error) from error
    place = metadata.schema.names.index("at_ms")
    groups = [metadata.row_group(number).column(place).statistics for number in range(metadata.num_row_groups)]
    return metadata.num_rows, max((group.max for group in groups if group is not None), default=0)


def _unreadable(path: Path, error: Exception) -> Exception:
    """Parquet's own errors are OSErrors, too; a file that is gone is told apart from one that is damaged."""
    if isinstance(error, FileNotFoundError):
        return error
    return DataInvalid(f"{path} cannot be read: {error}; restore it from a copy, or remove it to train without it")


def _locked(folder: Path) -> Any:
    """The open lock file, locked as long as it is open: the kernel lets go of it when the process ends."""
    file = (folder / ".lock").open("w")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        file.close()
        raise SettingInvalid(
            f"EFFICIENTREC_LOG_DIR is {str(folder)!r}, where another trainer is writing; expected a folder of its own"
        ) from error
    return file


def _sync(folder: Path) -> None:
    """A rename is durable when its folder is."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@dataclass(slots=True)
class _Pending:
    first: int
    last: int
    batches: list[pa.RecordBatch]

    @property
    def rows(self) -> int:
        return sum(batch.num_rows for batch in self.batches)
