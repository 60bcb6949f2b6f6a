"""Record batches that cannot be unpacked are passed over, by every consumer of this process.

A broker takes batches whose records it does not look at closely: with a header whose name is not UTF-8, of a codec that
there is no library for, of a few kilobytes that become gigabytes. aiokafka raises, or fills the memory, at the same
place whenever it reads on, so whoever may write to a topic could stop all its readers. Here what a batch unpacks to is
bounded, and what cannot be read of one is told, counted and left behind. A batch whose checksum is wrong is no such:
it may come right when it is fetched again.

Rows of the changelog are none of this (changelog.py): without one of its batches a profile would be wrong.
"""

from __future__ import annotations

import functools
import logging
import struct
import sys
import zlib
from collections.abc import Callable, Iterator
from typing import Any, Final

import cramjam
from aiokafka.codec import _detect_xerial_stream
from aiokafka.consumer import fetcher
from aiokafka.record.default_records import DefaultRecordBatch
from aiokafka.record.legacy_records import LegacyRecordBatch
from prometheus_client import Counter

log = logging.getLogger(__name__)

UNPACKED_BYTES_MAX: Final = 64 * 1024 * 1024
"""Of one batch. A broker takes 1 MiB packed, unless told otherwise, and events pack to a tenth."""
RECORDS_MAX: Final = 250_000
"""Of one batch: each takes hundreds of bytes when it is made, and few in the batch. 1 MiB holds 150,000 unpacked."""
_LIKELY_RATIO: Final = 16
_XERIAL_HEADER_BYTES: Final = 16
_TOLD_MAX: Final = 1024

UNREADABLE = Counter(
    "efficientrec_unreadable_batches",
    "Record batches that this process passed over since they cannot be unpacked; its log says which, and why.",
    registry=None,  # of the process: whatever it shows, shows this
)


class Unpacked(fetcher.PartitionRecords):  # type: ignore[misc]  # untyped there
    """What aiokafka has fetched of one partition, without what cannot be read of it."""

    _records: Any

    def _unpack_records(self) -> Iterator[Any]:
        self._records = _Batches(self._records, self._tp)
        yield from super()._unpack_records()


class _Batches:
    def __init__(self, records: Any, place: Any) -> None:
        self.has_next: Callable[[], bool] = records.has_next
        self._next: Callable[[], Any] = records.next_batch
        self._place = place

    def next_batch(self) -> _Batch:
        return _Batch(self._next(), self._place)


class _Batch:
    """A batch whose records end where they cannot be read on; aiokafka then goes on behind it."""

    def __init__(self, batch: Any, place: Any) -> None:
        self._batch = batch
        self._place = place

    def __getattr__(self, name: str) -> Any:
        return getattr(self._batch, name)

    def __next__(self) -> Any:  # aiokafka asks so for the marker of a transaction
        return next(self._batch)

    def __iter__(self) -> Iterator[Any]:
        try:
            for number, record in enumerate(self._batch):
                if number == RECORDS_MAX:
                    raise ValueError(f"more than {RECORDS_MAX} records")
                yield record
        except MemoryError:  # there may be more next time
            raise
        except Exception as error:  # whatever it is, the broker would send the same bytes again
            _tell(self._place.topic, self._place.partition, self._batch.next_offset - 1, repr(error))


@functools.lru_cache(_TOLD_MAX)  # who asks for the end of a partition reads its last batch each time
def _tell(topic: str, partition: int, last: int, why: str) -> None:
    UNREADABLE.inc()
    log.error(
        "the batch of %s[%d] that ends at offset %d cannot be unpacked, and is passed over: %s",
        *(topic, partition, last, why),
        extra={"topic": topic, "partition": partition, "offset": last},
    )


def install() -> None:
    """Has aiokafka make `Unpacked`, and unpack by the functions below."""
    fetcher.PartitionRecords = Unpacked
    for batch in (DefaultRecordBatch, LegacyRecordBatch):
        module = sys.modules[batch.__module__]  # that in C, if it is in use
        for name, decode in _CODECS.items():
            if hasattr(module, name):
                setattr(module, name, decode)


def _bounded(decompress_into: Callable[[Any, bytearray], int]) -> Callable[[Any], bytearray]:
    """Into as much room as it will likely take, since room has to be cleared; and if that fails, into all there is."""

    def decode(payload: Any) -> bytearray:
        likely = min(_LIKELY_RATIO * len(payload), UNPACKED_BYTES_MAX)
        try:
            return into(likely, payload)
        except cramjam.DecompressionError:
            return into(UNPACKED_BYTES_MAX, payload)

    def into(room: int, payload: Any) -> bytearray:
        unpacked = bytearray(room)
        del unpacked[decompress_into(payload, unpacked) :]
        return unpacked

    return decode


def _gzip_decode(payload: Any) -> bytes:
    unpacked = b""
    while payload:  # may hold several files in a row
        decoder = zlib.decompressobj(wbits=zlib.MAX_WBITS + 16)
        unpacked += decoder.decompress(payload, UNPACKED_BYTES_MAX + 1 - len(unpacked))
        if len(unpacked) > UNPACKED_BYTES_MAX:
            raise ValueError(f"more than {UNPACKED_BYTES_MAX} bytes")
        if not decoder.eof:
            raise ValueError("it ends too early")
        payload = decoder.unused_data
    return unpacked


def _snappy_decode(payload: bytes) -> bytes:
    blocks = list(_xerial_blocks(payload)) if _detect_xerial_stream(payload) else [payload]
    if sum(map(cramjam.snappy.decompress_raw_len, blocks)) > UNPACKED_BYTES_MAX:
        raise ValueError(f"more than {UNPACKED_BYTES_MAX} bytes")
    return b"".join(bytes(cramjam.snappy.decompress_raw(block)) for block in blocks)


def _xerial_blocks(payload: bytes) -> Iterator[bytes]:
    """The blocks of what snappy for Java has packed: each behind its length."""
    at = _XERIAL_HEADER_BYTES
    while at < len(payload):
        (size,) = struct.unpack_from("!I", payload, at)
        yield payload[at + 4 : at + 4 + size]
        at += 4 + size


_CODECS: Final[dict[str, Callable[[Any], bytes | bytearray]]] = {
    "gzip_decode": _gzip_decode,
    "snappy_decode": _snappy_decode,
    "lz4_decode": _bounded(cramjam.lz4.decompress_into),
    "zstd_decode": _bounded(cramjam.zstd.decompress_into),
}
