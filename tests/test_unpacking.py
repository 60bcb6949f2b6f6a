"""Batches that cannot be unpacked: what is read of a partition that has some, and what bombs may take."""

from __future__ import annotations

import functools
import gzip
import struct
from collections.abc import Callable, Iterator
from typing import Any

import cramjam
import pytest
from aiokafka import codec
from aiokafka.consumer import fetcher
from aiokafka.errors import CorruptRecordException
from aiokafka.record.memory_records import MemoryRecords
from aiokafka.structs import TopicPartition

from streams import connection, unpacking
from tests.batches import GZIP, HEADER_BYTES, LZ4, SNAPPY, ZSTD, batch, misnamed

BOMB = bytes(unpacking.UNPACKED_BYTES_MAX + 1)
PACKERS: dict[int, Callable[[bytes], bytes]] = {
    GZIP: lambda content: gzip.compress(content, 1),
    SNAPPY: lambda content: bytes(cramjam.snappy.compress_raw(content)),
    LZ4: lambda content: bytes(cramjam.lz4.compress(content)),
    ZSTD: lambda content: bytes(cramjam.zstd.compress(content)),
}
GOOD, AFTER = [(b"anna", b"1"), (b"bert", None)], [(b"carl", b"3")]

assert connection  # which installs it


@pytest.fixture
def place(request: pytest.FixtureRequest) -> TopicPartition:
    """A partition of the test's own: what is told of one is told once."""
    return TopicPartition(request.node.name, 0)


def fetched(place: TopicPartition, *batches: bytes, at: int = 0) -> Any:
    """What a consumer makes of an answer with these batches."""
    return fetcher.PartitionRecords(place, MemoryRecords(b"".join(batches)), [], at, None, None, True, 0)


def keys(records: Iterator[Any]) -> list[bytes]:
    return [record.key for record in records]


@functools.cache  # bombs take their time
def bad_ones() -> dict[str, bytes]:
    """Name → a batch of three records, from offset 2, that cannot be read."""
    content = batch(2, GOOD * 2)[HEADER_BYTES:]
    return {
        "a header's name is not UTF-8": misnamed(2, [*GOOD, (b"dora", b"")]),
        "no such codec": batch(2, GOOD, codec=5, last_offset_delta=2),
        "cut short": batch(2, GOOD, codec=GZIP, packed=PACKERS[GZIP](content)[:-4], last_offset_delta=2),
        "fewer records than it says": batch(2, GOOD, count=3, last_offset_delta=2),
        "more records than it says": batch(2, GOOD, count=1, last_offset_delta=2),
        "blocks that run backwards": batch(
            2, GOOD, codec=SNAPPY, packed=codec.snappy_encode(b"")[:16] + struct.pack("!i", -4), last_offset_delta=2
        ),
    } | {
        f"a bomb of codec {number}": batch(2, GOOD, codec=number, packed=pack(BOMB), last_offset_delta=2)
        for number, pack in PACKERS.items()
    }


@pytest.mark.parametrize("name", bad_ones())
def test_what_cannot_be_unpacked_is_told_counted_and_passed_over(
    name: str, place: TopicPartition, caplog: pytest.LogCaptureFixture
) -> None:
    counted = unpacking.UNREADABLE._value.get()

    records = fetched(place, batch(0, GOOD), bad_ones()[name], batch(5, AFTER))
    found = keys(records)

    assert found[:2] == [b"anna", b"bert"]
    assert found[-1:] == [b"carl"]
    assert records.next_fetch_offset == 6
    assert unpacking.UNREADABLE._value.get() == counted + 1
    (line,) = caplog.messages
    assert line.startswith(f"the batch of {place.topic}[0] that ends at offset 4 cannot be unpacked")


def test_a_partition_that_ends_with_such_a_batch_is_read_to_its_end_and_told_of_once(
    place: TopicPartition, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(2):  # as who asks for the end of a partition reads it
        records = fetched(place, misnamed(0, GOOD))

        assert keys(records) == []
        assert records.next_fetch_offset == 2
    assert len(caplog.messages) == 1


def test_a_batch_with_a_wrong_checksum_is_to_be_fetched_again(place: TopicPartition) -> None:
    damaged = bytearray(batch(0, GOOD))
    damaged[-1] ^= 1

    with pytest.raises(CorruptRecordException, match="CRC"):
        keys(fetched(place, bytes(damaged), batch(2, AFTER)))


@pytest.mark.parametrize("size", [1, 100_000])  # packs to more than a sixteenth, and to less
@pytest.mark.parametrize("pack", [*PACKERS.values(), codec.snappy_encode], ids=[*PACKERS, "xerial"])
def test_a_batch_of_any_codec_is_read(pack: Callable[[bytes], bytes], size: int, place: TopicPartition) -> None:
    wanted = [(b"anna", b"x" * size)]
    number = next((number for number, each in PACKERS.items() if each is pack), SNAPPY)

    (record,) = fetched(place, batch(0, wanted, codec=number, packed=pack(batch(0, wanted)[HEADER_BYTES:])))

    assert (record.key, record.value) == wanted[0]


def test_no_more_records_are_made_of_a_batch_than_fit_in_memory(place: TopicPartition) -> None:
    many = [(b"", None)] * (unpacking.RECORDS_MAX + 1)

    records = fetched(place, batch(0, many), batch(len(many), AFTER))

    assert keys(records)[unpacking.RECORDS_MAX :] == [b"carl"]
