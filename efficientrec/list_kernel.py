"""What the kernels that write lists share: what is said of a recommendation, in whatever format."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from efficientrec.compiled import compiled

BUILT_ON = "81cd933c65c14d61"  # see compiled.py

SCORE_DIGITS, SCORE_SCALE = 6, 10**6
SHARE_DIGITS, SHARE_SCALE = 4, 10**4
_ROUNDED_MAX = 9e18  # what an int64 holds; a score beyond is written as this


def constant(text: bytes) -> NDArray[np.uint8]:
    """Bytes that a kernel can `put`."""
    return np.frombuffer(text, np.uint8)


def concatenated(texts: Sequence[bytes]) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """The texts one after the other, and where each begins; one more for the end."""
    starts = np.zeros(len(texts) + 1, np.int64)
    np.cumsum([len(text) for text in texts], out=starts[1:])
    return constant(b"".join(texts)), starts


@compiled
def put(out: NDArray[np.uint8], at: int, text: NDArray[np.uint8]) -> int:
    """Copies a text to `at` of out; returns where it ends there."""
    into = out[at : at + len(text)]  # sliced first, so that the loop is a plain copy: no index can be negative
    for place in range(len(text)):
        into[place] = text[place]
    return at + len(text)


@compiled
def room_of(
    items: NDArray[np.int32],
    strongest: NDArray[np.int32],
    id_start: NDArray[np.int64],
    clusters: int,
    item_bytes: int,
    cluster_bytes: int,
) -> int:
    """Most bytes that these lists, of so many clusters each, take beside their heads.

    items (users, N), strongest (users, N, 2): as in `recommend.Recommendations`. id_start (items + 1,): where each id
    begins as it is written. item_bytes, cluster_bytes: most that an item takes beside its ids, and a cluster.
    """
    users, listed = items.shape
    room = users * (item_bytes * (listed + 1) + cluster_bytes * clusters)
    for user in range(users):
        for place in range(listed):
            for item in (items[user, place], strongest[user, place, 1]):
                if item >= 0:
                    room += id_start[item + 1] - id_start[item]
    return int(room)


@compiled
def rounded(value: float, scale: int) -> np.int64:
    """value · scale as a whole number."""
    return np.int64(min(max(np.rint(np.float64(value) * scale), -_ROUNDED_MAX), _ROUNDED_MAX))


@compiled
def reasons_of(
    strongest: NDArray[np.int32], part: NDArray[np.float32]
) -> tuple[int, tuple[tuple[bool, int, float], tuple[bool, int, float]]]:
    """How many reasons an item has, and the two that it can have at most, the greater one first: whether it is a
    cluster (or an anchor), which one, and its share. Where there are none, the item is just popular.

    strongest, part (2,): those of `recommend.Recommendations` for the item.
    """
    whole = part[0] + part[1]
    if whole <= 0:
        whole = np.float32(1.0)
    cluster = (True, strongest[0], part[0] / whole)
    anchor = (False, strongest[1], part[1] / whole)
    if strongest[0] < 0 and strongest[1] < 0:
        return 0, (cluster, anchor)
    if strongest[1] < 0:
        return 1, (cluster, anchor)
    if strongest[0] < 0:
        return 1, (anchor, cluster)
    return 2, (cluster, anchor) if cluster[2] >= anchor[2] else (anchor, cluster)
