"""What numba compiles for a causal transformer that reads a few items: one user at a time, for the last position only.

Positions are counted from the end, as a bias of attention by distance, so what an item asks, answers and says in the
first layer depends on the item alone and is looked up. The last layer needs its query and its dense layers for the last
position only; with one layer a user costs a few thousand products, whatever the items.

As in kernels.py a user gets the same bits alone and in a batch, and nothing here checks a bound.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit
from numpy.typing import NDArray

from efficientrec.compiled import compiled
from efficientrec.kernels import dense

BUILT_ON = "e60636cc2e5e8e4b"  # see compiled.py
Floats = NDArray[np.float32]
EPSILON = np.float32(1e-5)  # torch's, of the variance of a norm


@njit(cache=True, nogil=True, error_model="numpy", fastmath={"reassoc", "contract", "nsz"})
def _dot(left: Floats, rows: Floats, row: int, first: int, end: int) -> np.float32:
    """Of a part of left and of a row; slices would cost more than the products."""
    total = np.float32(0.0)
    for index in range(first, end):
        total += left[index] * rows[row, index]
    return total


@compiled
def normed(inputs: Floats, scale: Floats, shift: Floats) -> Floats:
    """Each row at mean 0 and variance 1, then scaled and shifted."""
    rows, width = inputs.shape
    result = np.empty((rows, width), np.float32)
    for row in range(rows):
        mean = np.float32(0.0)
        for column in range(width):
            mean += inputs[row, column]
        mean /= np.float32(width)
        variance = np.float32(0.0)
        for column in range(width):
            away = inputs[row, column] - mean
            variance += away * away
        spread = np.float32(1.0) / np.float32(math.sqrt(variance / np.float32(width) + EPSILON))
        for column in range(width):
            result[row, column] = (inputs[row, column] - mean) * spread * scale[column] + shift[column]
    return result


@compiled
def _read(query: Floats, keys: Floats, values: Floats, nearness: Floats, share: Floats, read: Floats) -> None:
    """What the query of the last of these positions takes from them: read (d,), filled.

    keys, values (positions, d); nearness (heads, T): bias by distance; share: room to work in.
    """
    positions = len(keys)
    heads = len(nearness)
    width = len(query) // heads
    shrink = np.float32(1.0 / math.sqrt(width))
    read[:] = 0
    for head in range(heads):
        first, end = head * width, (head + 1) * width
        most = np.float32(-np.inf)
        for position in range(positions):
            asked = _dot(query, keys, position, first, end) * shrink
            share[position] = asked + nearness[head, positions - 1 - position]
            most = max(most, share[position])
        total = np.float32(0.0)
        for position in range(positions):
            share[position] = math.exp(share[position] - most)
            total += share[position]
        for position in range(positions):
            part = share[position] / total
            for column in range(first, end):
                read[column] += part * values[position, column]


@compiled
def _add(state: Floats, gained: Floats) -> None:
    for row in range(len(state)):
        for column in range(state.shape[1]):
            state[row, column] += gained[row, column]


@compiled
def _dense_layers(state: Floats, norm: Floats, up: Floats, up_bias: Floats, down: Floats, down_bias: Floats) -> None:
    """state (positions, d), changed in place: each row gains two dense layers of its norm."""
    wide = dense(normed(state, norm[0], norm[1]), up, up_bias, True)
    _add(state, dense(wide, down, down_bias, False))


@compiled
def directions(
    items: NDArray[np.int32],
    lengths: NDArray[np.int32],
    item_vectors: Floats,
    first: Floats,
    nearness: Floats,
    norms: Floats,
    attention: Floats,
    attention_bias: Floats,
    up: Floats,
    up_bias: Floats,
    down: Floats,
    down_bias: Floats,
) -> Floats:
    """(users, d) the state of the last position after all layers, less its mean, at length 1; zeros for a user without
    items.

    items (users, T), lengths (users,): the items of each user, oldest first. item_vectors (items, d).
    first (items, 3, d): queries, keys and values of each item in the first layer.
    By layer: nearness (layers, heads, T); norms (layers, 2, 2, d): scale and shift before attention, then before the
    dense layers; attention (layers, 4, d, d) and its bias (layers, 4, d): queries, keys, values, and what is made of
    what was read; up (layers, d, wide), down (layers, wide, d).
    """
    layers, dim = len(nearness), item_vectors.shape[1]
    last = layers - 1
    states = np.zeros((len(items), dim), np.float32)
    reads = np.zeros((len(items), dim), np.float32)
    share = np.empty(items.shape[1], np.float32)
    for user in range(len(items)):
        length = lengths[user]
        if length == 0:
            continue
        state = np.empty((length, dim), np.float32)
        asked = np.empty((3, length, dim), np.float32)
        for position in range(length):
            item = items[user, position]
            for column in range(dim):
                state[position, column] = item_vectors[item, column]
                for kind in range(3):
                    asked[kind, position, column] = first[item, kind, column]
        for layer in range(last):
            read = np.empty((length, dim), np.float32)
            for position in range(length):
                before = position + 1
                _read(asked[0, position], asked[1, :before], asked[2, :before], nearness[layer], share, read[position])
            _add(state, dense(read, attention[layer, 3], attention_bias[layer, 3], False))
            _dense_layers(state, norms[layer, 1], up[layer], up_bias[layer], down[layer], down_bias[layer])
            told = normed(state, norms[layer + 1, 0, 0], norms[layer + 1, 0, 1])
            for kind in range(3):
                asked[kind] = dense(told, attention[layer + 1, kind], attention_bias[layer + 1, kind], False)
        states[user] = state[length - 1]
        _read(asked[0, length - 1], asked[1], asked[2], nearness[last], share, reads[user])
    # What is left concerns one position of each user, so all users go through it together.
    _add(states, dense(reads, attention[last, 3], attention_bias[last, 3], False))
    _dense_layers(states, norms[last, 1], up[last], up_bias[last], down[last], down_bias[last])
    for user in range(len(items)):
        mean = np.float32(0.0)
        for column in range(dim):
            mean += states[user, column]
        mean /= np.float32(dim)
        square = np.float32(0.0)
        for column in range(dim):
            states[user, column] -= mean
            square += states[user, column] * states[user, column]
        known = lengths[user] > 0 and square > 0
        factor = np.float32(1.0 / math.sqrt(square)) if known else np.float32(0.0)
        for column in range(dim):
            states[user, column] *= factor
    return states


@compiled
def recent(
    places: NDArray[np.int32],
    weights: Floats,
    events: NDArray[np.uint32],
    items: NDArray[np.int32],
    lengths: NDArray[np.int32],
) -> None:
    """The last known items of each user that were not disliked, oldest first; items (users, T), lengths, filled.

    places (users, ring): index of each item of the ring, -1 for an unknown one; entry k of the history at k modulo the
    size. weights (users, ring), events (users,).
    """
    ring, most = places.shape[1], items.shape[1]
    for user in range(len(places)):
        count = np.int64(events[user])
        found = 0
        for back in range(min(count, ring)):
            slot = (count - 1 - back) % ring
            if places[user, slot] >= 0 and weights[user, slot] >= 0 and found < most:
                items[user, found] = places[user, slot]
                found += 1
        for index in range(found // 2):
            items[user, index], items[user, found - 1 - index] = items[user, found - 1 - index], items[user, index]
        lengths[user] = found
