"""Rows in RocksDB and their changelog, in bulk.

A Faust table whose store is read and written a run at a time: one multi-get, one WriteBatch. The changelog topic is
the truth; the disk is a copy that knows up to which changelog offset it is one, because the offset is in the same
WriteBatch as the rows. So there is no write-ahead log: after a crash the disk falls back to an earlier whole state, and
recovery reads on from there.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import faust
import rocksdict
from faust.stores.base import Store
from faust.types import TP, AppT, EventT

from efficientrec.errors import StateUnwritable
from streams.changelog import Stretch
from streams.disk import OFFSET_KEY, Disk, Identity, Locked, open_or_start_empty

log = logging.getLogger(__name__)

NEW_FILES = 16
"""Table files of a partition that wait to be merged with the older ones. Many a restore is over before that."""
LOCK_RETRIES = 60
LOCK_RETRY_SECONDS = 0.5  # another worker of this machine may still be closing the partition


class RowStore(Store[bytes, bytes]):
    """One RocksDB per partition: user id → row."""

    def __init__(
        self, table: ProfileTable, directory: Path, cache_bytes: int, claim: Callable[[int], Awaitable[int | None]]
    ) -> None:
        """claim: makes this worker the only writer of the partition's changelog, and returns the offset of the fence
        record that it has just appended there; None where it keeps a mere copy, for the case that the writer dies."""
        super().__init__("rocksdb://", table.app, table, table_name=table.name)
        self.directory = directory
        self.ends: dict[int, int] = {}
        """Partition → offset after its fence, up to which the changelog has to be read: nobody else appends to it."""
        self._claim = claim
        self._changelog: str = table.changelog_topic.get_topic_name()
        self._partitions: int = table.partitions
        self._cache = rocksdict.Cache(cache_bytes)
        self._open: dict[int, Disk] = {}

    def read(self, partition: int, keys: Sequence[bytes]) -> list[bytes | None]:
        """The values of these keys in one multi-get, None where there is none."""
        return self._disk(partition).read(keys)

    def write(self, partition: int, rows: Iterable[tuple[bytes, bytes | None]], changelog_offset: int) -> None:
        """Rows (None deletes) and the changelog offset that they reach up to, all or nothing."""
        batch = rocksdict.WriteBatch(raw_mode=True)
        for key, value in rows:
            if value is None:
                batch.delete(key)
            else:
                batch.put(key, value)
        batch.put(OFFSET_KEY, str(changelog_offset).encode())
        self._disk(partition).write(batch)

    def figures(self, name: str) -> dict[int, int]:
        """What RocksDB says of each partition that is open here, copies for other workers included."""
        return {partition: disk.figure(name) for partition, disk in self._open.items()}

    def cache_used_bytes(self) -> int:
        """Memory that the blocks of all partitions take."""
        return int(self._cache.get_usage())

    def reset_state(self) -> None:
        raise NotImplementedError("nothing here deletes rows: move the folder away; the changelog has everything")

    async def backup_partition(self, tp: TP | int, flush: bool = True, purge: bool = False, keep: int = 1) -> None:
        raise NotImplementedError("the changelog topic is the backup")

    def restore_backup(self, tp: TP | int, latest: bool = True, backup_id: int = 0) -> None:
        raise NotImplementedError("the changelog topic is the backup")

    def persisted_offset(self, tp: TP) -> int:
        """-1 for an empty disk: for None, Faust would go on from where the one that was put aside had been."""
        offset = self._disk(tp.partition).offset()
        return -1 if offset is None else offset

    def apply_changelog_batch(
        self, batch: Iterable[EventT], to_key: Callable[[Any], Any], to_value: Callable[[Any], Any]
    ) -> None:
        """Faust empties its buffers into the store; nothing is ever put into them (recovery.py)."""
        assert not list(batch), "the changelog comes by restore()"

    def restore(self, run: Stretch) -> None:
        """A stretch of the changelog: into one WriteBatch."""
        self.write(run.partition, run.rows.items(), run.last)

    async def on_rebalance(
        self, assigned: set[TP], revoked: set[TP], newly_assigned: set[TP], generation_id: int = 0
    ) -> None:
        """Claims what is assigned, opens it, and starts empty where the disk is not a copy of the changelog.

        Claimed is also what was here before: another worker may have held it between two generations.
        """
        for partition in self._partitions_of(revoked):
            self._close(partition)
        mine = self._partitions_of(assigned)
        fences = await asyncio.gather(*(self._claim(partition) for partition in mine))
        self.ends = {partition: fence + 1 for partition, fence in zip(mine, fences, strict=True) if fence is not None}
        for partition, fence in zip(mine, fences, strict=True):
            if partition not in self._open:
                self._open[partition] = await self._opened_when_free(partition)
            offset = self._open[partition].offset()
            if offset is not None and fence is not None and offset >= fence:
                disk = self._open.pop(partition)
                disk.put_aside(
                    f"at offset {offset} of a changelog that ends with {fence}: the topic was truncated or made anew"
                )
                self._open[partition] = await self._opened_when_free(partition)

    def _partitions_of(self, tps: set[TP]) -> list[int]:
        return sorted(tp.partition for tp in tps if tp.topic == self._changelog)

    async def _opened_when_free(self, partition: int) -> Disk:
        folder = self.directory / f"partition-{partition}"
        identity = Identity(changelog=self._changelog, partition=partition, partitions=self._partitions)
        for _ in range(LOCK_RETRIES):
            try:
                return open_or_start_empty(folder, identity, self._options())
            except Locked:
                log.info("%s is still open elsewhere", folder)
                await asyncio.sleep(LOCK_RETRY_SECONDS)
        raise StateUnwritable(
            f"{folder} has been open in another process for {LOCK_RETRIES * LOCK_RETRY_SECONDS:g} s: give each worker "
            "an EFFICIENTREC_STATE_DIR of its own"
        )

    def _disk(self, partition: int) -> Disk:
        disk = self._open.get(partition)
        assert disk is not None, f"partition {partition} is not open here; open are {sorted(self._open)}"
        return disk

    def _options(self) -> rocksdict.Options:
        """Small explicit limits: RocksDB's defaults take gigabytes a partition."""
        blocks = rocksdict.BlockBasedOptions()
        blocks.set_block_cache(self._cache)
        blocks.set_bloom_filter(10, False)
        # Indexes and filters lie in the cache, too, and so have a bound. In small pieces: that of a whole table file,
        # which one row drives out and the next needs again, took as long as all else that it takes to read from disk.
        blocks.set_cache_index_and_filter_blocks(True)
        blocks.set_index_type(rocksdict.BlockBasedIndexType.two_level_index_search())
        blocks.set_partition_filters(True)
        blocks.set_pin_top_level_index_and_filter(True)
        options = rocksdict.Options(raw_mode=True)
        options.create_if_missing(True)
        options.set_paranoid_checks(True)  # at opening every file is there in its full size; blocks have checksums
        options.set_block_based_table_factory(blocks)
        options.set_write_buffer_size(16 * 1024 * 1024)
        options.set_max_write_buffer_number(2)
        options.set_allow_concurrent_memtable_write(False)  # one at a time writes a partition, for less without locks
        # Each merge of new files writes the older rows once more. With RocksDB's own 4, and as many rows as fill twenty
        # write buffers, that took more processor time per list than to read and write its row.
        options.set_level_zero_file_num_compaction_trigger(NEW_FILES)
        options.set_level_zero_slowdown_writes_trigger(2 * NEW_FILES)
        options.set_level_zero_stop_writes_trigger(3 * NEW_FILES)
        options.set_max_open_files(256)
        options.set_max_log_file_size(1024 * 1024)  # its own diary, which has no end otherwise
        options.set_keep_log_file_num(2)
        options.set_compression_type(rocksdict.DBCompressionType.lz4())
        options.set_env(_background())
        return options

    def _close(self, partition: int) -> None:
        disk = self._open.pop(partition, None)
        if disk is not None:
            disk.close()

    async def on_stop(self) -> None:
        for partition in list(self._open):
            self._close(partition)


def _background() -> rocksdict.Env:
    """Flushes and merges give way: the write buffers of all partitions are full at about the same time, and where cores
    are few lists waited behind them. What is written faster than it can be flushed waits in `write`."""
    threads = rocksdict.Env()
    threads.lower_high_priority_thread_pool_cpu_priority()
    threads.lower_thread_pool_cpu_priority()
    return threads


class ProfileTable(faust.Table[bytes, bytes]):
    """The table of profiles: Faust restores it from its changelog, the worker reads and writes it through `store`."""

    def __init__(
        self,
        app: AppT,
        *,
        name: str,
        partitions: int,
        directory: Path,
        cache_bytes: int,
        claim: Callable[[int], Awaitable[int | None]],
    ) -> None:
        self._claim = claim
        self._directory, self._cache_bytes = directory, cache_bytes
        changelog = app.topic(
            f"{app.conf.id}-{name}-changelog",
            key_type=bytes,
            key_serializer="raw",
            value_type=bytes,
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
        )
        self._store_of_rows: RowStore | None = None

    @property
    def store(self) -> RowStore:
        if self._store_of_rows is None:
            self._store_of_rows = RowStore(self, self._directory, self._cache_bytes, self._claim)
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
            "claim": self._claim,
        }
