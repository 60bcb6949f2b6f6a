"""Where keys lie, against the hash of the client that the workers use."""

from __future__ import annotations

import random

import pytest
from aiokafka.partitioner import murmur2

from streams.placement import partitions_of


@pytest.mark.parametrize("partitions", [1, 8, 1009, 2**31 - 1])
def test_keys_of_every_length_lie_where_the_client_puts_them(partitions: int) -> None:
    source = random.Random(partitions)
    keys = [source.randbytes(length) for length in range(41) for _ in range(20)]
    keys += [text.encode() for text in ("é", "пользователь", "用户-17", "🙂")]
    source.shuffle(keys)

    places = partitions_of(keys, partitions)

    assert places.tolist() == [(murmur2(key) & 0x7FFFFFFF) % partitions for key in keys]


def test_no_keys_lie_nowhere() -> None:
    assert partitions_of([], 8).tolist() == []
