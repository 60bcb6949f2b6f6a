"""Record batches as bytes, good ones and such as no client of ours would send."""

from __future__ import annotations

import gzip
import struct
from collections.abc import Sequence

from aiokafka.record.util import calc_crc32c

from streams.outbox import KeyValue, WithHeaders
from streams.wire import UNFENCED, record_batch

GZIP, SNAPPY, LZ4, ZSTD = 1, 2, 3, 4
HEADER_BYTES = 61


def batch(
    first: int,
    records: Sequence[KeyValue],
    *,
    codec: int = 0,
    packed: bytes | None = None,
    count: int | None = None,
    last_offset_delta: int | None = None,
) -> bytes:
    """A batch as a broker sends it. first: offset of its first record. codec, packed, count, last_offset_delta: said or
    sent in place of what is true."""
    whole = record_batch(UNFENCED, -1, records, 1)
    head, body = bytearray(whole[:HEADER_BYTES]), whole[HEADER_BYTES:] if packed is None else packed
    struct.pack_into(">q", head, 0, first)
    struct.pack_into(">i", head, 8, HEADER_BYTES - 12 + len(body))
    struct.pack_into(">h", head, 21, codec)
    if last_offset_delta is not None:
        struct.pack_into(">i", head, 23, last_offset_delta)
    if count is not None:
        struct.pack_into(">i", head, 57, count)
    struct.pack_into(">I", head, 17, calc_crc32c(bytes(head[21:]) + body))
    return bytes(head) + body


def misnamed(first: int, records: Sequence[KeyValue]) -> bytes:
    """A batch with a header whose name is not UTF-8, as any client can send it."""
    named = [(key, WithHeaders.of(value or b"", [("name", b"")])) for key, value in records]
    body = record_batch(UNFENCED, -1, named, 1)[HEADER_BYTES:].replace(b"name", b"\xff\xfe\xfd\xfc")
    return batch(first, named, packed=body)


def bomb(first: int, size: int) -> bytes:
    """A batch of one record with a value of so many bytes, and packed a thousandth of them."""
    packed = gzip.compress(batch(0, [(b"bomb", bytes(size))])[HEADER_BYTES:])
    return batch(first, [(b"bomb", b"")], codec=GZIP, packed=packed)
