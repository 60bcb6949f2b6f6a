"""What numba compiles to write lists as JSON: bytes from arrays, without an object for each item and reason.

Numbers are written in plain decimals, never with an exponent; they are the nearest ones to the rounded values. Nothing
here checks a bound: who calls answers for the shapes and for the room in `out`.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import msgspec
import numpy as np
from numpy.typing import NDArray

from efficientrec.compiled import compiled
from efficientrec.list_kernel import (
    SCORE_DIGITS,
    SCORE_SCALE,
    SHARE_DIGITS,
    SHARE_SCALE,
    concatenated,
    constant,
    put,
    reasons_of,
    rounded,
)

BUILT_ON = "a771c0327f170971"  # see compiled.py

ITEM_BYTES = 160
"""Most that an item and its reasons take beside the ids of items."""
CLUSTER_BYTES = 48
"""Most that a cluster takes."""

_CLUSTERS = constant(b',"clusters":[')
_ID = constant(b'{"id":')
_WEIGHT = constant(b',"weight":')
_ITEMS = constant(b'],"items":[')
_ITEM_ID = b'"item_id":'
_REASONS = constant(b',"reasons":[')
_BY_CLUSTER = constant(b'{"kind":"cluster","share":')
_CLUSTER = constant(b',"cluster":')
_BY_ANCHOR = constant(b'{"kind":"anchor","share":')
_POPULAR = constant(b'{"kind":"popular","share":1.0}')
_END = constant(b"]}")
_COMMA, _OPEN, _CLOSE, _MINUS, _POINT, _ZERO = (ord(each) for each in ",{}-.0")


def id_members(ids: Sequence[str]) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """For each item what says its id in a JSON object, one after the other, and where each begins; one more for the
    end."""
    return concatenated([_ITEM_ID + msgspec.json.encode(each) for each in ids])


@cache
def rank_members(most: int) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """The same for what says the ranks from 1 to most, up to the value of the score."""
    return concatenated([b',"rank":%d,"score":' % rank for rank in range(1, most + 1)])


@compiled
def _put_digits(out: NDArray[np.uint8], at: int, number: int, width: int) -> int:
    """A number that is not negative, in so many digits."""
    into = out[at : at + width]
    rest = np.uint64(number)  # a division that need not look for a sign
    for place in range(width - 1, -1, -1):
        into[place] = np.uint64(_ZERO) + rest % np.uint64(10)
        rest //= np.uint64(10)
    return at + width


@compiled
def _put_number(out: NDArray[np.uint8], at: int, number: int) -> int:
    """A number that is not negative."""
    width, bound = 1, 10
    while number >= bound and width < 19:
        width += 1
        bound *= 10
    return int(_put_digits(out, at, number, width))


@compiled
def _put_decimal(out: NDArray[np.uint8], at: int, value: float, digits: int, scale: int) -> int:
    """A number rounded to so many digits after the point; zeros at its end are left out, but for one. scale:
    10^digits."""
    number = rounded(value, scale)
    if number < 0:
        out[at] = _MINUS
        at += 1
        number = -number
    at = _put_number(out, at, number // scale)
    out[at] = _POINT
    part = number % scale
    while digits > 1 and part % 10 == 0:
        part //= 10
        digits -= 1
    return int(_put_digits(out, at + 1, part, digits))


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
    """The lists of a batch of users, one JSON object after the other.

    heads: for each user a JSON object with everything but clusters and items; it ends at `head_end[u]` of heads. ids,
    ranks: what `id_members` and `rank_members` give. The other arrays are those of `recommend.Recommendations`. out,
    end (users,): filled; the list of user u ends at `end[u]` of out.
    """
    at, begin = 0, 0
    for user in range(len(head_end)):
        at = put(out, at, heads[begin : head_end[user] - 1])
        begin = head_end[user]
        at = put(out, at, _CLUSTERS)
        for column in range(clusters.shape[1]):
            if column > 0:
                out[at] = _COMMA
                at += 1
            at = put(out, at, _ID)
            at = _put_number(out, at, clusters[user, column])
            at = put(out, at, _WEIGHT)
            at = _put_decimal(out, at, memberships[user, column], SHARE_DIGITS, SHARE_SCALE)
            out[at] = _CLOSE
            at += 1
        at = put(out, at, _ITEMS)
        for place in range(items.shape[1]):
            item = items[user, place]
            if item < 0:
                break
            if place > 0:
                out[at] = _COMMA
                at += 1
            out[at] = _OPEN
            at = put(out, at + 1, ids[id_start[item] : id_start[item + 1]])
            at = put(out, at, ranks[rank_start[place] : rank_start[place + 1]])
            at = _put_decimal(out, at, scores[user, place], SCORE_DIGITS, SCORE_SCALE)
            at = put(out, at, _REASONS)
            count, reasons = reasons_of(strongest[user, place], part[user, place])
            if count == 0:
                at = put(out, at, _POPULAR)
            for turn in range(count):
                is_cluster, number, share = reasons[turn]
                if turn > 0:
                    out[at] = _COMMA
                    at += 1
                at = put(out, at, _BY_CLUSTER if is_cluster else _BY_ANCHOR)
                at = _put_decimal(out, at, share, SHARE_DIGITS, SHARE_SCALE)
                if is_cluster:
                    at = put(out, at, _CLUSTER)
                    at = _put_number(out, at, number)
                else:
                    out[at] = _COMMA
                    at = put(out, at + 1, ids[id_start[number] : id_start[number + 1]])
                out[at] = _CLOSE
                at += 1
            at = put(out, at, _END)
        at = put(out, at, _END)
        end[user] = at
