"""What numba compiles to write lists as MessagePack: the twin of `json_kernel`, name by name.

Scores, shares and weights are float64, the ones that a reader of the JSON gets: a float32 would be another number than
the decimal there. Whole numbers and lengths take as few bytes as they can. Nothing here checks a bound: who calls
answers for the shapes and for the room in `out`.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import msgspec
import numpy as np
from numpy.typing import NDArray

from efficientrec.compiled import compiled
from efficientrec.list_kernel import SCORE_SCALE, SHARE_SCALE, concatenated, constant, put, reasons_of, rounded

BUILT_ON = "a771c0327f170971"  # see compiled.py

ITEM_BYTES = 112
"""Most that an item and its reasons take beside the ids of items."""
CLUSTER_BYTES = 32
"""Most that a cluster takes."""

_packed = msgspec.msgpack.encode
_MAP, _ARRAY, _ARRAY_16 = 0x80, 0x90, 0xDC
_UINT_8, _UINT_16, _UINT_32, _FLOAT_64 = 0xCC, 0xCD, 0xCE, 0xCB


def _map_of(fields: int) -> bytes:
    """How a map of so many fields begins, 15 at the most."""
    return bytes([_MAP + fields])


_FIELDS = 2  # those that a list has beside its head's
_CLUSTERS = constant(_packed("clusters"))
_ID = constant(_map_of(2) + _packed("id"))
_WEIGHT = constant(_packed("weight"))
_ITEMS = constant(_packed("items"))
_ITEM_ID = _packed("item_id")
_REASONS = constant(_packed("reasons"))
_BY_CLUSTER = constant(_map_of(3) + _packed("kind") + _packed("cluster") + _packed("share"))
_CLUSTER = constant(_packed("cluster"))
_BY_ANCHOR = constant(_map_of(3) + _packed("kind") + _packed("anchor") + _packed("share"))
_POPULAR = constant(_packed({"kind": "popular", "share": 1.0}))
_OPEN = _MAP + 4  # of an item


def id_members(ids: Sequence[str]) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """For each item what says its id in a map, one after the other, and where each begins; one more for the end."""
    return concatenated([_ITEM_ID + _packed(each) for each in ids])


@cache
def rank_members(most: int) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """The same for what says the ranks from 1 to most, up to the value of the score."""
    return concatenated([_packed("rank") + _packed(rank) + _packed("score") for rank in range(1, most + 1)])


@compiled
def _put_bytes(out: NDArray[np.uint8], at: int, number: int, width: int) -> int:
    """The lowest bytes of a number, so many, the highest of them first."""
    for place in range(width):
        out[at + place] = (number >> (8 * (width - 1 - place))) & 0xFF
    return at + width


@compiled
def _put_number(out: NDArray[np.uint8], at: int, number: int) -> int:
    """A number that is not negative and fits into 32 bits."""
    if number < 0x80:
        return int(_put_bytes(out, at, number, 1))
    if number < 1 << 8:
        out[at] = _UINT_8
        return int(_put_bytes(out, at + 1, number, 1))
    if number < 1 << 16:
        out[at] = _UINT_16
        return int(_put_bytes(out, at + 1, number, 2))
    out[at] = _UINT_32
    return int(_put_bytes(out, at + 1, number, 4))


@compiled
def _put_length(out: NDArray[np.uint8], at: int, length: int) -> int:
    """How an array of so many begins, 65,535 at the most."""
    if length < 16:
        return int(_put_bytes(out, at, _ARRAY + length, 1))
    out[at] = _ARRAY_16
    return int(_put_bytes(out, at + 1, length, 2))


@compiled
def _put_decimal(out: NDArray[np.uint8], at: int, value: float, scale: int) -> int:
    """A number rounded to so many digits after the point, as JSON has it: the float64 nearest to the decimal. scale:
    10^digits."""
    out[at] = _FLOAT_64
    number = np.float64(rounded(value, scale) / scale)  # both are whole in a float64, so their quotient is the nearest
    return int(_put_bytes(out, at + 1, number.view(np.int64), 8))


@compiled
def write_lists(
    heads: NDArray[np.uint8],
    head_end: NDArray[np.int64],
    clusters: NDArray[np.int32],
    memberships: NDArray[np.float32],
    items: NDArray[np.int32],
    scores: NDArray[np.float32],
    strongest: NDArray[np.int32],
    part: NDArray[np.float32],
    ids: NDArray[np.uint8],
    id_start: NDArray[np.int64],
    ranks: NDArray[np.uint8],
    rank_start: NDArray[np.int64],
    out: NDArray[np.uint8],
    end: NDArray[np.int64],
) -> None:
    """The lists of a batch of users, one map after the other.

    heads: for each user a map of 13 fields at the most with everything but clusters and items. All else is as in
    `json_kernel.write_lists`.
    """
    at, begin = 0, 0
    for user in range(len(head_end)):
        first = at
        at = put(out, at, heads[begin : head_end[user]])
        out[first] += _FIELDS
        begin = head_end[user]
        at = put(out, at, _CLUSTERS)
        at = _put_length(out, at, clusters.shape[1])
        for column in range(clusters.shape[1]):
            at = put(out, at, _ID)
            at = _put_number(out, at, clusters[user, column])
            at = put(out, at, _WEIGHT)
            at = _put_decimal(out, at, memberships[user, column], SHARE_SCALE)
        at = put(out, at, _ITEMS)
        listed = 0
        while listed < items.shape[1] and items[user, listed] >= 0:
            listed += 1
        at = _put_length(out, at, listed)
        for place in range(listed):
            item = items[user, place]
            out[at] = _OPEN
            at = put(out, at + 1, ids[id_start[item] : id_start[item + 1]])
            at = put(out, at, ranks[rank_start[place] : rank_start[place + 1]])
            at = _put_decimal(out, at, scores[user, place], SCORE_SCALE)
            at = put(out, at, _REASONS)
            count, reasons = reasons_of(strongest[user, place], part[user, place])
            at = _put_length(out, at, max(count, 1))
            if count == 0:
                at = put(out, at, _POPULAR)
            for turn in range(count):
                is_cluster, number, share = reasons[turn]
                at = put(out, at, _BY_CLUSTER if is_cluster else _BY_ANCHOR)
                at = _put_decimal(out, at, share, SHARE_SCALE)
                if is_cluster:
                    at = put(out, at, _CLUSTER)
                    at = _put_number(out, at, number)
                else:
                    at = put(out, at, ids[id_start[number] : id_start[number + 1]])
        end[user] = at
