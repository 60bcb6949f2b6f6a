"""One partition's rows on disk: whose they are, and what happens when the disk fails or lies.

Knows RocksDB and one folder. Knows neither Kafka nor Faust, only that a topic holds everything that is here: so what is
damaged is put aside, never repaired, and what cannot be written is said and not waited for. A server's lists
(server_store.py) are kept in the same way.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from struct import Struct

import msgspec
import rocksdict

from efficientrec.errors import StateCorrupt, StateMismatch, StateUnwritable
from streams.topics import NULLS_KEPT_SECONDS

log = logging.getLogger(__name__)

# User ids are UTF-8, in which the first byte of these never occurs.
OFFSET_KEY = b"\xffoffset"
IDENTITY_KEY = b"\xffidentity"
FORMAT = 1

MANIFEST_BLOCK = 32_768
RECORD_HEAD = Struct("<4xHB")
RECYCLED_LOG_TYPES = range(5, 9)


class Identity(msgspec.Struct, frozen=True, kw_only=True):
    """Whose rows a folder holds; it stands in the folder under IDENTITY_KEY."""

    format: int = FORMAT
    changelog: str
    partition: int
    partitions: int


class Locked(Exception):
    """Another process, or another part of this one, has the folder open."""


class Damaged(Exception):
    """Damage that RocksDB would not report."""


class Disk:
    """The rows of one partition, and the changelog offset that they reach up to."""

    def __init__(self, folder: Path, identity: Identity, options: rocksdict.Options) -> None:
        """Opens the folder. Raises Locked, StateMismatch, StateUnwritable, or StateCorrupt when it has put it aside."""
        self.folder = folder
        self._db: rocksdict.Rdict | None = None
        expected = msgspec.json.encode(identity)
        try:
            with self._explained():
                folder.mkdir(mode=0o700, parents=True, exist_ok=True)  # what users did, or are shown
                _check_manifest(folder)
                self._db = rocksdict.Rdict(str(folder), options)
                unlogged = rocksdict.WriteOptions()
                unlogged.disable_wal = True
                self._db.set_write_options(unlogged)
                found = self._label(expected)
            if found != expected:
                raise StateMismatch(
                    f"{folder} holds {'rows without a label' if found is None else found.decode(errors='replace')}; "
                    f"expected {expected.decode()}. It was left as it is: choose another EFFICIENTREC_STATE_DIR "
                    "(of a server: EFFICIENTREC_SERVER_STATE_DIR), or move the folder away; the topic has everything"
                )
        except Exception:
            self._release()
            raise

    def _label(self, expected: bytes) -> bytes | None:
        """The identity that is found; an empty folder gets the expected one."""
        found: bytes | None = self._open.get(IDENTITY_KEY)
        if found is None and _is_empty(self._open):
            # Before any row, and it goes to disk in that order: what a crash loses is what was written last, so no row
            # is ever there without it.
            self._open.put(IDENTITY_KEY, expected)
            return expected
        return found

    def read(self, keys: Sequence[bytes]) -> list[bytes | None]:
        with self._explained():
            values: list[bytes | None] = self._open.get(list(keys))
        return values

    def write(self, batch: rocksdict.WriteBatch) -> None:
        """All or nothing. It reaches the disk later, after all that was written before it."""
        with self._explained():
            self._open.write(batch)

    def offset(self) -> int | None:
        """The last changelog offset that is in the rows, None while there is none."""
        (offset,) = self.read([OFFSET_KEY])
        return None if offset is None else int(offset)

    def figure(self, name: str) -> int:
        """A number that RocksDB keeps of itself, such as estimate-num-keys."""
        return int(self._open.property_int_value(f"rocksdb.{name}") or 0)

    def close(self) -> None:
        """Never raises: what does not reach the disk now is in the changelog."""
        if self._db is None:
            return
        try:
            self._db.flush()  # without a write-ahead log this is what keeps a clean stop from costing a recovery
        except Exception as error:  # rocksdict raises bare exceptions
            log.error("%s", _unwritable(self.folder, error))
        self._release()

    def put_aside(self, reason: str) -> Path:
        """Closes the folder and renames it; returns where it is now."""
        self._release()
        return _put_aside(self.folder, reason)

    @property
    def _open(self) -> rocksdict.Rdict:
        assert self._db is not None, f"{self.folder} is closed"
        return self._db

    def _release(self) -> None:
        db, self._db = self._db, None
        if db is None:
            return
        try:
            db.close()
        except Exception as error:  # it says once more what failed before, and is closed all the same
            log.debug("%s: closing: %s", self.folder, error)

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """RocksDB's errors as ours: rocksdict raises bare exceptions that differ in their text alone.

        Damage looks like damage or like a missing file; every other error of the operating system is about space,
        permission or the device, even where RocksDB wraps it into "Corruption" or "Invalid argument".
        """
        try:
            yield
        except Exception as error:
            text = str(error)
            is_system = isinstance(error, OSError) or "IO error" in text or "(os error" in text
            if "While lock file" in text or "lock hold by current process" in text:
                raise Locked(text) from error
            elif is_system and "No such file or directory" not in text:
                raise _unwritable(self.folder, error) from error
            elif is_system or isinstance(error, Damaged) or text.startswith("Corruption"):
                aside = self.put_aside(f"damaged ({text})")
                raise StateCorrupt(
                    f"{self.folder} is damaged: {text}. It is now {aside}; start again, and it is rebuilt from the "
                    "topic"
                ) from error
            raise


def open_or_start_empty(folder: Path, identity: Identity, options: rocksdict.Options) -> Disk:
    """The folder as it is; when it is damaged, or too old to trust, an empty one in its place."""
    written_at = max((file.stat().st_mtime for file in folder.glob("*")), default=math.inf)
    if time.time() - written_at > NULLS_KEPT_SECONDS:
        days = NULLS_KEPT_SECONDS / 86_400
        _put_aside(folder, f"last written more than {days:g} days ago: what was erased since may not be known any more")
    try:
        return Disk(folder, identity, options)
    except StateCorrupt:
        return Disk(folder, identity, options)


def _put_aside(folder: Path, reason: str) -> Path:
    """Renames the folder and returns where it is now. Nothing is deleted."""
    name = f"{folder.name}.aside-{datetime.now(UTC):%Y%m%dT%H%M%S}"
    aside, number = folder.with_name(name), 1
    while aside.exists():
        number += 1
        aside = folder.with_name(f"{name}-{number}")
    try:
        folder.rename(aside)
    except OSError as error:
        raise _unwritable(folder, error) from error
    log.warning("%s: %s. It is now %s; the topic rebuilds it", folder, reason, aside)
    return aside


def _is_empty(db: rocksdict.Rdict) -> bool:
    entries = db.iter()
    try:
        entries.seek_to_first()
        entries.status()  # raises: an iterator that met damage looks like one at its end
        return not entries.valid()
    finally:
        del entries  # an error's traceback would keep it, and it the folder open, which is about to be renamed


def _check_manifest(folder: Path) -> None:
    """Raises Damaged at a record type that stands in no manifest, those of logs that are written over again.

    RocksDB 9.8 meets one and never returns, and a single flipped bit makes one. A record is a checksum (4 bytes),
    length (2), type (1), and the rest; none crosses the end of a block. Everything else is RocksDB's to check.
    """
    for path in folder.glob("MANIFEST-*"):
        data, at = path.read_bytes(), 0
        while at + RECORD_HEAD.size <= len(data):
            left = MANIFEST_BLOCK - at % MANIFEST_BLOCK
            if left < RECORD_HEAD.size:
                at += left
                continue
            length, kind = RECORD_HEAD.unpack_from(data, at)
            if kind in RECYCLED_LOG_TYPES:
                raise Damaged(f"{path.name} has a record of type {kind} at byte {at}")
            at += RECORD_HEAD.size + length


def _unwritable(folder: Path, error: Exception) -> StateUnwritable:
    return StateUnwritable(
        f"{folder} cannot be used: {error}. Nothing is lost: free space or choose another "
        "EFFICIENTREC_STATE_DIR (of a server: EFFICIENTREC_SERVER_STATE_DIR), and start again"
    )
