"""What numba compiles of the local factor models: one interaction folded into each co-cluster's attention.

As in kernels.py, each row is computed by the same instructions in the same order however many rows come with it, and
nothing checks a bound.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from efficientrec.compiled import compiled

BUILT_ON = "81cd933c65c14d61"  # see compiled.py


@compiled
def accumulate(
    user: NDArray[np.int32],
    item: NDArray[np.int32],
    weight: NDArray[np.float32],
    at: NDArray[np.int64],
    rate: float,
    vectors: NDArray[np.float32],
    heads: NDArray[np.float32],
    readers: NDArray[np.float32],
    state: NDArray[np.float32],
    state_at: NDArray[np.int64],
) -> None:
    """Takes in likes, one after another; everything else only passes time.

    item (events,): index into vectors (items, d), -1 for an item that the model does not know. rate: per millisecond.
    heads, readers (d, N): of encoders/elfm.py. state (users, 2N + 1): M, G and n of each, changed in place.

    With x, y the interaction's attention and reading, M ← log((n e^M + w e^x) / (n + w)), then G ← G + (y - G) s where
    s = w e^x / ((n + w) e^M), and n ← n + w. Only e to the power of what is not positive is ever taken, so nothing
    overflows. Decay is n's alone: what fades together keeps its means.
    """
    width, count = heads.shape
    attention = np.empty(count, np.float32)
    reading = np.empty(count, np.float32)
    for index in range(len(user)):
        row = state[user[index]]
        amount = np.float64(weight[index])
        if at[index] > state_at[user[index]]:
            row[2 * count] *= np.float32(math.exp(-rate * (at[index] - state_at[user[index]])))
            state_at[user[index]] = at[index]
        else:
            amount *= math.exp(-rate * (state_at[user[index]] - at[index]))
        known = item[index]
        if known < 0 or not np.float32(amount) > 0:
            continue
        attention[:] = 0
        reading[:] = 0
        for column in range(width):
            for cluster in range(count):
                attention[cluster] += vectors[known, column] * heads[column, cluster]
                reading[cluster] += vectors[known, column] * readers[column, cluster]
        before = np.float64(row[2 * count])
        new, old = amount / (before + amount), before / (before + amount)
        for cluster in range(count):
            x = np.float64(attention[cluster])
            mean = np.float64(row[cluster])
            if before == 0:
                row[cluster] = attention[cluster]
                row[count + cluster] = reading[cluster]
                continue
            if x > mean:
                total = old * math.exp(mean - x) + new
                share = new / total
                row[cluster] = np.float32(x + math.log(total))
            else:
                part = new * math.exp(x - mean)
                total = old + part
                share = part / total
                row[cluster] = np.float32(mean + math.log(total))
            read = np.float64(row[count + cluster])
            row[count + cluster] = np.float32(read + (np.float64(reading[cluster]) - read) * share)
        row[2 * count] = np.float32(before + amount)


@compiled
def memberships(state: NDArray[np.float32], columns: int) -> NDArray[np.float32]:
    """(users, columns) max(G, 0) of each row of state (users, 2N + 1), nothing for who has no weight; columns behind
    the N-th are zero."""
    count = state.shape[1] // 2
    result = np.zeros((len(state), columns), np.float32)
    for row in range(len(state)):
        if state[row, 2 * count] > 0:
            for cluster in range(count):
                result[row, cluster] = max(state[row, count + cluster], np.float32(0))
    return result
