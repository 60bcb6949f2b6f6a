"""What numba compiles to write lists as JSON: bytes from arrays, without an object for each item and reason.

Numbers are written in plain decimals, never with an exponent; they are the nearest ones to the rounded values. Nothing
here checks a bound: who calls answers for the shapes and for the room in `out`.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import msgspec
import numpy as np
from numba import njit
from numpy.typing import NDArray

_compiled = njit(cache=True, nogil=True, error_model="numpy")

SCORE_DIGITS, SCORE_SCALE = 6, 10**6
SHARE_DIGITS, SHARE_SCALE = 4, 10**4
ITEM_BYTES = 160
"""Most that an item and its reasons take beside the ids of items."""
CLUSTER_BYTES = 48
"""Most that a cluster takes."""
_SCALED_MAX = 9e18  # what an int64 holds; a score beyond is written as this


def _text(text: str) -> NDArray[np.uint8]:
    return np.frombuffer(text.encode(), np.uint8)


_CLUSTERS = _text(',"clusters":[')
_ID = _text('{"id":')
_WEIGHT = _text(',"weight":')
_ITEMS = _text('],"items":[')
_ITEM_ID = '"item_id":'
_REASONS = _text(',"reasons":[')
_BY_CLUSTER = _text('{"kind":"cluster","share":')
_CLUSTER = _text(',"cluster":')
_BY_ANCHOR = _text('{"kind":"anchor","share":')
_POPULAR = _text('{"kind":"popular","share":1.0}')
_END = _text("]}")
_COMMA, _OPEN, _CLOSE, _MINUS, _POINT, _ZERO = (ord(each) for each in ",{}-.0")


def id_members(ids: Sequence[str]) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """For each item what says its id in a JSON object, one after the other, and where each begins; one more for the
    end."""
    return _concatenated([_ITEM_ID.encode() + msgspec.json.encode(each) for each in ids])


@cache
def rank_members(most: int) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """The same for what says the ranks from 1 to most, up to the value of the score."""
    return _concatenated([b',"rank":%d,"score":' % rank for rank in range(1, most + 1)])


def _concatenated(texts: Sequence[bytes]) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    starts = np.zeros(len(texts) + 1, np.int64)
    np.cumsum([len(text) for text in texts], out=starts[1:])
    return np.frombuffer(b"".join(texts), np.uint8), starts


@_compiled
def _put(out: NDArray[np.uint8], at: int, text: NDArray[np.uint8]) -> int:
    into = out[at : at + len(text)]  # sliced first, so that the loop is a plain copy: no index can be negative
    for place in range(len(text)):
        into[place] = text[place]
    return at + len(text)


@_compiled
def _put_digits(out: NDArray[np.uint8], at: int, number: int, width: int) -> int:
    """A number that is not negative, in so many digits."""
    into = out[at : at + width]
    rest = np.uint64(number)  # a division that need not look for a sign
    for place in range(width - 1, -1, -1):
        into[place] = np.uint64(_ZERO) + rest % np.uint64(10)
        rest //= np.uint64(10)
    return at + width


@_compiled
def _put_number(out: NDArray[np.uint8], at: int, number: int) -> int:
    """A number that is not negative."""
    width, bound = 1, 10
    while number >= bound and width < 19:
        width += 1
        bound *= 10
    return int(_put_digits(out, at, number, width))


@_compiled
def _put_decimal(out: NDArray[np.uint8], at: int, value: float, digits: int, scale: int) -> int:
    """A number rounded to so many digits after the point; zeros at its end are left out, but for one. scale:
    10^digits."""
    scaled = np.int64(min(max(np.rint(np.float64(value) * scale), -_SCALED_MAX), _SCALED_MAX))
    if scaled < 0:
        out[at] = _MINUS
        at += 1
        scaled = -scaled
    at = _put_number(out, at, scaled // scale)
    out[at] = _POINT
    part = scaled % scale
    while digits > 1 and part % 10 == 0:
        part //= 10
        digits -= 1
    return int(_put_digits(out, at + 1, part, digits))


@_compiled
def room_of(items: NDArray[np.int32], strongest: NDArray[np.int32], clusters: int, id_start: NDArray[np.int64]) -> int:
    """Most bytes that these lists, of so many clusters each, take beside their heads."""
    users, listed = items.shape
    room = users * (ITEM_BYTES * (listed + 1) + CLUSTER_BYTES * clusters)
    for user in range(users):
        for place in range(listed):
            for item in (items[user, place], strongest[user, place, 1]):
                if item >= 0:
                    room += id_start[item + 1] - id_start[item]
    return int(room)


@_compiled
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
        at = _put(out, at, heads[begin : head_end[user] - 1])
        begin = head_end[user]
        at = _put(out, at, _CLUSTERS)
        for column in range(clusters.shape[1]):
            if column > 0:
                out[at] = _COMMA
                at += 1
            at = _put(out, at, _ID)
            at = _put_number(out, at, clusters[user, column])
            at = _put(out, at, _WEIGHT)
            at = _put_decimal(out, at, memberships[user, column], SHARE_DIGITS, SHARE_SCALE)
            out[at] = _CLOSE
            at += 1
        at = _put(out, at, _ITEMS)
        for place in range(items.shape[1]):
            item = items[user, place]
            if item < 0:
                break
            if place > 0:
                out[at] = _COMMA
                at += 1
            out[at] = _OPEN
            at = _put(out, at + 1, ids[id_start[item] : id_start[item + 1]])
            at = _put(out, at, ranks[rank_start[place] : rank_start[place + 1]])
            at = _put_decimal(out, at, scores[user, place], SCORE_DIGITS, SCORE_SCALE)
            at = _put(out, at, _REASONS)
            cluster, anchor = strongest[user, place, 0], strongest[user, place, 1]
            by_cluster, by_anchor = part[user, place, 0], part[user, place, 1]
            whole = by_cluster + by_anchor
            if whole <= 0:
                whole = np.float32(1.0)
            by_cluster, by_anchor = by_cluster / whole, by_anchor / whole
            if cluster < 0 and anchor < 0:
                at = _put(out, at, _POPULAR)
            for turn in range(2):
                if (turn == 0) == (by_cluster >= by_anchor):
                    if cluster >= 0:
                        if turn == 1 and anchor >= 0:
                            out[at] = _COMMA
                            at += 1
                        at = _put(out, at, _BY_CLUSTER)
                        at = _put_decimal(out, at, by_cluster, SHARE_DIGITS, SHARE_SCALE)
                        at = _put(out, at, _CLUSTER)
                        at = _put_number(out, at, cluster)
                        out[at] = _CLOSE
                        at += 1
                elif anchor >= 0:
                    if turn == 1 and cluster >= 0:
                        out[at] = _COMMA
                        at += 1
                    at = _put(out, at, _BY_ANCHOR)
                    at = _put_decimal(out, at, by_anchor, SHARE_DIGITS, SHARE_SCALE)
                    out[at] = _COMMA
                    at = _put(out, at + 1, ids[id_start[anchor] : id_start[anchor + 1]])
                    out[at] = _CLOSE
                    at += 1
            at = _put(out, at, _END)
        at = _put(out, at, _END)
        end[user] = at
