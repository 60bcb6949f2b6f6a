"""Rows in RocksDB and their changelog, in bulk.

A Faust table whose store is read and written a run at a time: one multi-get, one WriteBatch. The changelog topic is
the truth; the disk is a copy that knows up to which changelog offset it is one, because the offset is in the same
WriteBatch as the rows. So there is no write-ahead log: after a crash the disk falls back to an earlier whole state, and
recovery reads on from there.
"""

from __future__ import annotations

import asyncio
import logging
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import faust
import rocksdict
from faust.stores.base import Store
from faust.types import TP, AppT, EventT

from streams.transport import Run

log = logging.getLogger(__name__)

OFFSET_KEY = b"\xffoffset"  # user ids are UTF-8, in which this byte never occurs
LOCK_RETRIES = 60
LOCK_RETRY_SECONDS = 0.5  # another worker of this machine may still be closing the partition


class RowStore(Store[bytes, bytes]):
    """One RocksDB per partition: user id → row."""

    def __init__(self, table: ProfileTable, directory: Path, cache_bytes: int) -> None:
        super().__init__("rocksdb://", table.app, table, table_name=table.name)
        self.directory = directory
        self._cache = rocksdict.Cache(cache_bytes)
        self._open: dict[int, rocksdict.Rdict] = {}

    def read(self, partition: int, keys: Sequence[bytes]) -> list[bytes | None]:
        """The values of these keys in one multi-get, None where there is none."""
        values: list[bytes | None] = self._db(partition).get(list(keys))
        return values

    def write(self, partition: int, rows: Iterable[tuple[bytes, bytes | None]], changelog_offset: int) -> None:
        """Rows (None deletes) and the changelog offset that they reach up to, all or nothing."""
        batch = rocksdict.WriteBatch(raw_mode=True)
        for key, value in rows:
            if value is None:
                batch.delete(key)
            else:
                batch.put(key, value)
        batch.put(OFFSET_KEY, str(changelog_offset).encode())
        self._db(partition).write(batch)

    def reset_state(self) -> None:
        """Forgets the disk; the changelog has everything."""
        for partition in list(self._open):
            self._close(partition)
        shutil.rmtree(self.directory, ignore_errors=True)

    async def backup_partition(self, tp: TP | int, flush: bool = True, purge: bool = False, keep: int = 1) -> None:
        raise NotImplementedError("the changelog topic is the backup")

    def restore_backup(self, tp: TP | int, latest: bool = True, backup_id: int = 0) -> None:
        raise NotImplementedError("the changelog topic is the backup")

    def persisted_offset(self, tp: TP) -> int | None:
        offset = self._db(tp.partition).get(OFFSET_KEY)
        return None if offset is None else int(offset)

    def apply_changelog_batch(
        self, batch: Iterable[EventT], to_key: Callable[[Any], Any], to_value: Callable[[Any], Any]
    ) -> None:
        """Recovery: runs of changelog records, each into one WriteBatch."""
        for event in batch:
            run: Run = event.message.value
            rows = {record.key: record.value for record in run.records if record.key is not None}
            self.write(run.partition, rows.items(), run.records[-1].offset)

    async def on_rebalance(
        self, assigned: set[TP], revoked: set[TP], newly_assigned: set[TP], generation_id: int = 0
    ) -> None:
        changelog = self.table.changelog_topic.get_topic_name()
        for tp in revoked:
            if tp.topic == changelog:
                self._close(tp.partition)
        for tp in newly_assigned:
            if tp.topic == changelog:
                await self._open_when_free(tp.partition)

    async def _open_when_free(self, partition: int) -> None:
        for attempt in range(LOCK_RETRIES):
            try:
                self._open[partition] = self._opened(partition)
                return
            except Exception as error:  # rocksdict raises bare exceptions
                if "lock" not in str(error).lower() or attempt + 1 == LOCK_RETRIES:
                    raise
                log.info("partition is still open elsewhere", extra={"partition": partition})
                await asyncio.sleep(LOCK_RETRY_SECONDS)

    def _db(self, partition: int) -> rocksdict.Rdict:
        db = self._open.get(partition)
        assert db is not None, f"partition {partition} is not open here; open are {sorted(self._open)}"
        return db

    def _opened(self, partition: int) -> rocksdict.Rdict:
        path = self.directory / f"partition-{partition}"
        path.parent.mkdir(parents=True, exist_ok=True)
        db = rocksdict.Rdict(str(path), self._options())
        unlogged = rocksdict.WriteOptions()
        unlogged.disable_wal = True
        db.set_write_options(unlogged)
        return db

    def _options(self) -> rocksdict.Options:
        """Small explicit limits: RocksDB's defaults take gigabytes a partition."""
        blocks = rocksdict.BlockBasedOptions()
        blocks.set_block_cache(self._cache)
        blocks.set_bloom_filter(10, False)
        blocks.set_cache_index_and_filter_blocks(True)
        options = rocksdict.Options(raw_mode=True)
        options.create_if_missing(True)
        options.set_block_based_table_factory(blocks)
        options.set_write_buffer_size(16 * 1024 * 1024)
        options.set_max_write_buffer_number(2)
        options.set_max_open_files(256)
        options.set_compression_type(rocksdict.DBCompressionType.lz4())
        return options

    def _close(self, partition: int) -> None:
        db = self._open.pop(partition, None)
        if db is not None:
            db.flush()  # without a write-ahead log this is what keeps a clean stop from costing a recovery
            db.close()

    async def on_stop(self) -> None:
        for partition in list(self._open):
            self._close(partition)


class ProfileTable(faust.Table[bytes, bytes]):
    """The table of profiles: Faust restores it from its changelog, the worker reads and writes it through `store`."""

    def __init__(self, app: AppT, *, name: str, partitions: int, directory: Path, cache_bytes: int) -> None:
        self._directory, self._cache_bytes = directory, cache_bytes
        changelog = app.topic(
            f"{app.conf.id}-{name}-changelog",
            key_type=bytes,
            key_serializer="raw",
            value_type=Run,
            value_serializer="raw",
            partitions=partitions,
            compacting=True,
            acks=False,
            internal=True,
            allow_empty=True,
        )
        super().__init__(
            app,
            name=name,
            partitions=partitions,
            key_type=bytes,
            value_type=bytes,
            changelog_topic=changelog,
            recovery_buffer_size=2,  # in runs of records; 1 means something else to Faust
        )
        self._store_of_rows: RowStore | None = None

    @property
    def store(self) -> RowStore:
        if self._store_of_rows is None:
            self._store_of_rows = RowStore(self, self._directory, self._cache_bytes)
        return self._store_of_rows

    @property
    def data(self) -> RowStore:
        return self.store

    def info(self) -> Mapping[str, Any]:
        return {
            "app": self.app,
            "name": self.name,
            "partitions": self.partitions,
            "directory": self._directory,
            "cache_bytes": self._cache_bytes,
        }
