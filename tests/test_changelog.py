"""The changelog by the batch: the same rows as by the record, and nothing that aiokafka would not have let through."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest
from aiokafka.consumer.fetcher import FetchError, FetchResult, PartitionRecords
from aiokafka.errors import CorruptRecordException
from aiokafka.record.default_records import DefaultRecordBatchBuilder
from aiokafka.record.memory_records import MemoryRecords
from aiokafka.record.util import calc_crc32c
from aiokafka.structs import TopicPartition

from streams.changelog import FetchedBatches, Stretch, keep_batches, stretches

LOG, SOURCE = TopicPartition("changelog", 3), TopicPartition("interactions", 3)
Pair = tuple[bytes | None, bytes | None]


def sent(first: int, *pairs: Pair) -> bytearray:
    """A batch of the broker that begins at an offset."""
    builder = DefaultRecordBatchBuilder(2, 0, 0, -1, -1, -1, 1 << 20)
    for place, (key, value) in enumerate(pairs):
        builder.append(place, 0, key, value, [])
    batch: bytearray = builder.build()
    batch[:8] = first.to_bytes(8, "big")
    return batch


def fetched(kind: type[PartitionRecords], position: int, *batches: bytearray) -> Any:
    return kind(LOG, MemoryRecords(b"".join(batches)), [], position, None, None, True, 0)


def found(position: int, *batches: bytearray, most: int = 100) -> list[Stretch]:
    return list(stretches(3, fetched(FetchedBatches, position, *batches), most))


def told(stretch: Stretch) -> tuple[int, int, dict[bytes, bytes | None]]:
    return stretch.first, stretch.last, stretch.rows


A, B = sent(10, (b"a", b"1"), (b"b", b"1"), (b"a", b"2")), sent(13, (b"b", None), (None, b"fence"))
FAR = sent(90, (b"c", b"1"))


def test_a_key_has_its_last_value_a_null_deletes_and_a_fence_counts_as_a_record() -> None:
    (one,) = found(10, A, B)

    assert told(one) == (10, 14, {b"a": b"2", b"b": None})
    assert one.partition == 3


def test_batches_make_stretches_that_are_not_much_longer_than_asked_for() -> None:
    assert [told(each)[:2] for each in found(10, A, B, FAR, most=2)] == [(10, 12), (13, 14), (15, 90)]
    assert [told(each)[:2] for each in found(10, A, B, FAR, most=4)] == [(10, 14), (15, 90)]


def test_records_before_the_position_are_left_out() -> None:
    (one,) = found(12, A, B)

    assert told(one) == (12, 14, {b"a": b"2", b"b": None})
    assert found(15, B) == []


@pytest.mark.parametrize("position", [10, 11, 13, 14, 15])
def test_rows_and_next_position_are_those_of_aiokafkas_records(position: int) -> None:
    records, batches = (fetched(kind, position, A, B, FAR) for kind in (PartitionRecords, FetchedBatches))

    one_by_one = list(records)
    (stretch,) = stretches(3, batches, 100)

    assert stretch.rows == {each.key: each.value for each in one_by_one if each.key is not None}
    assert stretch.last == one_by_one[-1].offset
    assert batches.next_fetch_offset == records.next_fetch_offset == 91


def test_a_marker_of_a_transaction_is_passed_over() -> None:
    marker = sent(15, (b"\0\0\0\1", b""))
    marker[22] |= 0x20  # among the attributes
    marker[17:21] = calc_crc32c(marker[21:]).to_bytes(4, "big")
    batches = fetched(FetchedBatches, 13, B, marker)

    (one,) = stretches(3, batches, 100)

    assert told(one) == (13, 14, {b"b": None})
    assert batches.next_fetch_offset == 16


def test_a_batch_that_was_damaged_on_its_way_raises() -> None:
    damaged = bytearray(B)
    damaged[-1] ^= 1

    with pytest.raises(CorruptRecordException, match="Invalid CRC"):
        found(10, A, damaged)


class Fetcher:
    """What is kept of aiokafka's: what has been fetched, and where a fetch puts it."""

    def __init__(self, answers: Sequence[dict[TopicPartition, Any]]) -> None:
        self._records: dict[TopicPartition, Any] = {}
        self._answers = iter(answers)

    async def _proc_fetch_request(self, assignment: Any, node: int, request: Any) -> bool:
        self._records.update(next(self._answers))
        return True


def result(place: TopicPartition) -> FetchResult:
    records = fetched(PartitionRecords, 10, A, B)
    return FetchResult(place, assignment=Assignment(), partition_records=records, backoff=0)


class Assignment:
    """Of partitions whose position is 10 until something has been consumed."""

    active = True

    def state_value(self, place: TopicPartition) -> Any:
        return SimpleNamespace(paused=False, position=10, consumed_to=lambda offset: None)


def test_a_fetcher_gives_batches_of_the_changelog_and_records_of_everything_else() -> None:
    error = FetchError(error=CorruptRecordException(), backoff=0)
    fetcher = Fetcher([{LOG: result(LOG), SOURCE: result(SOURCE)}, {TopicPartition("changelog", 4): error}])
    keep_batches(fetcher, LOG.topic)

    async def fetch_twice() -> None:
        assert await fetcher._proc_fetch_request(None, 1, None)
        assert await fetcher._proc_fetch_request(None, 1, None)

    asyncio.run(fetch_twice())

    (one,) = stretches(3, fetcher._records[LOG].getall(), 100)
    assert told(one) == (10, 14, {b"a": b"2", b"b": None})
    assert [each.offset for each in fetcher._records[SOURCE].getall()] == [10, 11, 12, 13, 14]
    assert fetcher._records[TopicPartition("changelog", 4)] is error


def test_a_fetch_that_is_cancelled_in_its_pause_ends_like_one_that_is_cancelled_on_its_way() -> None:
    class Failing(Fetcher):
        async def _proc_fetch_request(self, assignment: Any, node: int, request: Any) -> bool:
            await asyncio.sleep(60)  # as aiokafka pauses after a failed fetch
            return True

    async def close() -> bool:
        """As aiokafka closes its fetcher."""
        fetcher = Failing([])
        keep_batches(fetcher, LOG.topic)
        task = asyncio.create_task(fetcher._proc_fetch_request(None, 1, None))
        await asyncio.sleep(0)
        task.cancel()
        return await task

    assert asyncio.run(close()) is False
