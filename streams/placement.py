"""On which partition a key lies, as Kafka's own clients compute it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from aiokafka.partitioner import murmur2
from numpy.typing import NDArray

from efficientrec import kernels


def partitions_of(keys: Sequence[bytes], partitions: int) -> NDArray[np.int32]:
    """The partition (keys,) of each key: murmur2 without its sign, modulo the number of partitions.

    >>> partitions_of([b"21", b"foobar"], 8).tolist()
    [4, 6]
    """
    length = np.fromiter(map(len, keys), np.int64, len(keys))
    hashed = np.empty(len(keys), np.uint32)
    kernels.murmur2(np.frombuffer(b"".join(keys), np.uint8), np.cumsum(length) - length, length, hashed)
    return ((hashed & np.uint32(0x7FFFFFFF)) % np.uint32(partitions)).astype(np.int32)


def partition_of(key: bytes, partitions: int) -> int:
    """Of one key, without a compiler to wait for: the partition that a user's records and row belong to.

    >>> partition_of(b"21", 8)
    4
    """
    partition: int = (murmur2(key) & 0x7FFFFFFF) % partitions
    return partition
