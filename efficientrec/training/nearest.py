"""The weights of neighbours.py for catalogues whose inverse takes too long: each item is regressed on the few items
that it is most often liked together with, and on no other (a sparse Markov field, in the spirit of EASE).

Its cost grows with the items, not with their square. What numba compiles for it stands here too, since nothing that
serves needs it.
"""

from __future__ import annotations

import numpy as np
import scipy.sparse
from numpy.typing import NDArray

from efficientrec.compiled import compiled

Floats = NDArray[np.float32]

PAIRS_MAX = 100_000_000
"""Pairs of items, over all users, that are counted: of longer histories than that allows a sample counts."""
TOKEN_ITEMS_MAX = 100  # what more items share says little of each pair, and makes many pairs


def fit(
    counted: scipy.sparse.csr_matrix, described: scipy.sparse.csr_matrix, penalty: Floats, size: int, seed: int
) -> scipy.sparse.csr_matrix:
    """B (items, items) with at most `size` weights in each column, and nothing on its diagonal.

    counted (users, items), described (tokens, items): the rows of the regression. penalty (items,): the diagonal of Λ.
    """
    telling = described[np.diff(described.indptr) <= TOKEN_ITEMS_MAX]
    rows = scipy.sparse.csr_matrix(scipy.sparse.vstack([_sampled(counted, seed), telling]), dtype=np.float32)
    gram = scipy.sparse.csr_matrix(rows.T @ rows)
    items = gram.shape[0]
    size = min(size, items - 1)
    place = np.full((items, size), -1, np.int32)
    weight = np.zeros((items, size), np.float32)
    own = np.asarray(gram.diagonal() + penalty, np.float32)
    _regress(gram.indptr, gram.indices, gram.data, own, place, weight)
    known = place >= 0
    column = np.broadcast_to(np.arange(items)[:, None], place.shape)
    return scipy.sparse.csr_matrix((weight[known], (place[known], column[known])), (items, items))


def _sampled(counted: scipy.sparse.csr_matrix, seed: int) -> scipy.sparse.csr_matrix:
    """The rows, those too long for PAIRS_MAX cut to a sample that weighs as much."""
    length = np.diff(counted.indptr).astype(np.int64)
    shortest, longest = 1, max(int(length.max(initial=1)), 1)
    while shortest < longest:
        middle = (shortest + longest + 1) // 2
        fits = int(np.square(np.minimum(length, middle)).sum()) <= PAIRS_MAX
        shortest, longest = (middle, longest) if fits else (shortest, middle - 1)
    row = np.repeat(np.arange(len(length)), length)
    order = np.lexsort((np.random.default_rng(seed).random(counted.nnz), row))
    kept = order[np.arange(counted.nnz) - counted.indptr[row] < shortest]
    grown = np.sqrt(length / np.minimum(np.maximum(length, 1), shortest)).astype(np.float32)
    return scipy.sparse.csr_matrix(
        (counted.data[kept] * grown[row[kept]], (row[kept], counted.indices[kept])), counted.shape
    )


@compiled
def _regress(
    start: NDArray[np.int32],
    other: NDArray[np.int32],
    together: Floats,
    own: Floats,
    place: NDArray[np.int32],
    weight: Floats,
) -> None:
    """For each item the ridge regression on the items nearest to it: place, weight (items, size) are filled.

    start, other, together: the Gram matrix. own (items,): its diagonal and the penalty.
    """
    size = place.shape[1]
    among = np.full(len(own), -1, np.int64)  # where an item stands among those chosen
    system = np.empty((size, size))
    for item in range(len(own)):
        first, last = start[item], start[item + 1]
        likeness = np.empty(last - first)
        for entry in range(first, last):
            near = other[entry]
            likeness[entry - first] = -1.0 if near == item else together[entry] / np.sqrt(own[near])
        order = np.argsort(-likeness, kind="mergesort")[:size]
        count = 0
        wanted = np.empty(len(order))
        for entry in order:
            if likeness[entry] <= 0:
                break
            place[item, count] = other[first + entry]
            among[other[first + entry]] = count
            wanted[count] = together[first + entry]
            count += 1
        for row in range(count):
            near = place[item, row]
            system[row, :count] = 0
            for entry in range(start[near], start[near + 1]):
                if among[other[entry]] >= 0:
                    system[row, among[other[entry]]] = together[entry]
            system[row, row] = own[near]
        if count:
            solved = np.linalg.solve(system[:count, :count].copy(), wanted[:count])
            for row in range(count):
                weight[item, row] = solved[row]
                among[place[item, row]] = -1
