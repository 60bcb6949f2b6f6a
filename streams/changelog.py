"""The changelog as recovery reads it: record batches, of which rows are made only where they go to disk.

aiokafka makes an object of eleven fields for each record, of which recovery needs two: that took longer than all else
that happens to a row on its way to the disk. It also makes them before it asks the broker for more, so one waited for
the other.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

from aiokafka.consumer.fetcher import FetchResult, PartitionRecords
from aiokafka.errors import CorruptRecordException


class Batch(NamedTuple):
    """A record batch as the broker sent it, its checksum verified."""

    first: int
    """Where the consumer stood: records before it are in the batch, but were not asked for."""
    records: Iterable[Any]
    """With offset, key and value; to be gone through once."""


@dataclass(slots=True, eq=False)
class Stretch:
    """What some records in a row say of one partition."""

    partition: int
    rows: dict[bytes, bytes | None]
    """Key → its last value, None where it was deleted."""
    first: int
    """Offset at which it begins."""
    last: int
    """Offset of its last record."""


def stretches(partition: int, batches: Iterable[Batch], most: int) -> Iterator[Stretch]:
    """The records of these batches in order, at least one and, but for the end of a batch, at most `most` at a time."""
    found: Stretch | None = None
    count = 0
    for first, records in batches:
        found = found or Stretch(partition, {}, first, first - 1)
        rows = found.rows
        for record in records:
            offset = record.offset
            if offset < first:
                continue
            key = record.key
            if key is not None:  # a fence has none
                rows[key] = record.value
            found.last = offset
            count += 1
        if count >= most:
            yield found
            found, count = None, 0
    if count:
        assert found is not None
        yield found


class FetchedBatches(PartitionRecords):  # type: ignore[misc]  # untyped there
    """What aiokafka has fetched of one partition, by the batch."""

    next_fetch_offset: int

    def _unpack_records(self) -> Iterator[Batch]:
        while self._records.has_next():
            batch = self._records.next_batch()
            if not batch.validate_crc():
                raise CorruptRecordException(f"Invalid CRC - {self._tp}")
            first: int = self.next_fetch_offset
            self.next_fetch_offset = batch.next_offset
            if not batch.is_control_batch:
                yield Batch(first, batch)


def keep_batches(fetcher: Any, topic: str) -> None:
    """Has aiokafka's fetcher return batches of this topic in place of records."""
    handle = fetcher._proc_fetch_request

    async def handled(assignment: Any, node: int, request: Any) -> bool:
        try:
            has_new_data: bool = await handle(assignment, node, request)
        except asyncio.CancelledError:
            # aiokafka says so, too, but not in its pause after a failed fetch; whoever closes it then takes the end of
            # this task for his own, and the worker never ends.
            return False
        for tp, found in fetcher._records.items():
            if tp.topic == topic and isinstance(found, FetchResult):
                found._partition_records = _by_batch(found._partition_records)
        return has_new_data

    fetcher._proc_fetch_request = handled


def _by_batch(records: PartitionRecords | None) -> PartitionRecords | None:
    """The same, of which nothing has been consumed, by the batch."""
    if records is None or isinstance(records, FetchedBatches):
        return records
    return FetchedBatches(
        records._tp,
        records._records,
        records._aborted_transactions,
        records.next_fetch_offset,
        records._key_deserializer,
        records._value_deserializer,
        records._check_crcs,
        records._isolation_level,
    )
