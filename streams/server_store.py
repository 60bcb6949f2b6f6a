"""The newest list of every user, on the server's own disk, and how far into the lists topic they reach.

Lists and offsets go to disk in one batch, so a restart goes on where the disk is; what a crash takes is read again.
Memory does not grow with users: RocksDB holds a fixed cache and small write buffers. Knows which of two lists is newer.
Knows nothing of Kafka's clients or of HTTP.
"""

from __future__ import annotations

import logging
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple

import msgspec
import rocksdict
import xxhash

from efficientrec.errors import RecordInvalid, StateUnwritable
from streams.disk import Disk, Identity, Locked, open_or_start_empty
from streams.follower import Record, place_of
from streams.records import decode_list_head, moment_ms

log = logging.getLogger(__name__)

ALL_PARTITIONS: Final = -1
"""Stands for the partition in the label of a folder that holds every one."""
# User ids are UTF-8, in which the first byte of these never occurs.
COUNT_KEY: Final = b"\xffcount"
OFFSET_KEY: Final = b"\xffoffset-"
CACHE_BYTES: Final = 32 * 1024 * 1024
WRITE_BUFFER_BYTES: Final = 8 * 1024 * 1024
MANIFEST_BYTES: Final = 4 * 1024 * 1024  # read whole at every start

_PREFIX: Final = struct.Struct(">iqq")


class Place(NamedTuple):
    """By which one of two lists of a user is the newer one (docs/events.md); it stands before the list on disk."""

    partition: int
    """Of the trigger. Offsets compare within it alone."""
    offset: int
    """Of the trigger."""
    generated_ms: int

    def is_older_than(self, other: Place) -> bool:
        """Whether a list from here must not replace one from there."""
        return self.partition == other.partition and self < other


@dataclass(frozen=True, slots=True)
class Held:
    """A list as the server gives it out."""

    json: bytes
    generated_ms: int
    tag: str
    """Differs where the bytes on the topic differ."""


class ListStore:
    """One RocksDB for all partitions: user id → place and list as it stood on the topic."""

    def __init__(self, folder: Path, topic: str, partitions: int) -> None:
        """Opens the folder, which begins empty where it is damaged or too old to know of every erasure."""
        self._folder = folder
        self._identity = Identity(changelog=topic, partition=ALL_PARTITIONS, partitions=partitions)
        self._partitions = partitions
        self._disk = self._opened()

    def _opened(self) -> Disk:
        try:
            return open_or_start_empty(self._folder, self._identity, _options())
        except Locked as error:
            raise StateUnwritable(
                f"{self._folder} is open in another process; give each server an EFFICIENTREC_SERVER_STATE_DIR of its "
                "own"
            ) from error

    @property
    def count(self) -> int:
        """How many users have a list."""
        (count,) = self._disk.read([COUNT_KEY])
        return int(count or 0)

    def offsets(self) -> dict[int, int]:
        """Partition → offset after the last record that is in the lists; without those of which nothing was read."""
        stored = self._disk.read([_offset_key(number) for number in range(self._partitions)])
        return {number: int(offset) for number, offset in enumerate(stored) if offset is not None}

    def start_anew(self, reason: str) -> None:
        """Puts the folder aside and begins with an empty one."""
        self._disk.put_aside(reason)
        self._disk = self._opened()

    def read(self, user_id: str) -> Held | None:
        """The newest list of a user; None where there is none, or the user was erased."""
        try:
            (stored,) = self._disk.read([user_id.encode()])
        except UnicodeEncodeError:  # half a character: nobody's id
            return None
        if stored is None:
            return None
        place, published = Place(*_PREFIX.unpack_from(stored)), stored[_PREFIX.size :]
        # By value, and not through the struct: fields of a newer release go through.
        json = published if published[:1] == b"{" else msgspec.json.encode(msgspec.msgpack.decode(published))
        return Held(json, place.generated_ms, xxhash.xxh3_64_hexdigest(published))

    def write(self, records: Sequence[Record]) -> int:
        """Takes records of one partition in their order; returns how many cannot be used. A null deletes."""
        keys = list({record.key: None for record in records if record.key})
        before: dict[bytes, bytes | None] = dict(zip(keys, self._disk.read(keys), strict=True))
        after: dict[bytes, bytes | None] = {}
        unusable = 0
        for record in records:
            key = record.key
            try:
                if not key or key.startswith(b"\xff"):
                    raise RecordInvalid("the record has no key; expected the user_id")
                fresh = None if record.value is None else _with_place(record.value, key)
            except RecordInvalid as error:
                unusable += 1
                log.warning(
                    "list at offset %d of partition %d ignored: %s",
                    *(record.offset, record.partition, error),
                    extra=place_of(record),
                )
                continue
            held = after[key] if key in after else before[key]
            if fresh is None or held is None or not _place(fresh).is_older_than(_place(held)):
                after[key] = fresh
        self._put(records[-1].partition, records[-1].offset + 1, before, after)
        return unusable

    def _put(
        self, partition: int, offset: int, before: Mapping[bytes, bytes | None], after: Mapping[bytes, bytes | None]
    ) -> None:
        batch = rocksdict.WriteBatch(raw_mode=True)
        more = 0
        for key, value in after.items():
            more += (value is not None) - (before[key] is not None)
            if value is None:
                batch.delete(key)
            else:
                batch.put(key, value)
        batch.put(COUNT_KEY, str(self.count + more).encode())
        batch.put(_offset_key(partition), str(offset).encode())
        self._disk.write(batch)

    def close(self) -> None:
        self._disk.close()


def _offset_key(partition: int) -> bytes:
    return OFFSET_KEY + str(partition).encode()


def _with_place(published: bytes, key: bytes) -> bytes:
    """What goes to disk. RecordInvalid for what is not a list of the key's user."""
    head = decode_list_head(published)
    if head.user_id.encode() != key:
        raise RecordInvalid("the key is another than the list's user_id in UTF-8")
    try:
        place = Place(head.trigger.partition, head.trigger.offset, moment_ms(head.generated_at))
        return _PREFIX.pack(*place) + published
    except (ValueError, struct.error) as error:
        raise RecordInvalid(f"trigger or generated_at of a list: {error}") from error


def _place(stored: bytes) -> Place:
    return Place(*_PREFIX.unpack_from(stored))


def _options() -> rocksdict.Options:
    """Small explicit limits: RocksDB's defaults take gigabytes."""
    blocks = rocksdict.BlockBasedOptions()
    blocks.set_block_cache(rocksdict.Cache(CACHE_BYTES))
    blocks.set_bloom_filter(10, False)
    blocks.set_cache_index_and_filter_blocks(True)  # they lie in the cache, too, and so have a bound
    blocks.set_index_type(rocksdict.BlockBasedIndexType.two_level_index_search())
    blocks.set_partition_filters(True)
    blocks.set_pin_top_level_index_and_filter(True)
    options = rocksdict.Options(raw_mode=True)
    options.create_if_missing(True)
    options.set_paranoid_checks(True)
    options.set_block_based_table_factory(blocks)
    options.set_write_buffer_size(WRITE_BUFFER_BYTES)
    options.set_max_write_buffer_number(2)
    options.set_max_open_files(256)
    options.set_max_manifest_file_size(MANIFEST_BYTES)
    options.set_max_log_file_size(1024 * 1024)  # its own diary, which has no end otherwise
    options.set_keep_log_file_num(2)
    options.set_compression_type(rocksdict.DBCompressionType.lz4())
    return options
