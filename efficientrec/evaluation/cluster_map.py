"""Clusters on a plane: near each other as far as they have members in common.

A cluster is the column of its memberships over the users, at unit length; the first two principal components of these
columns are its place.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

from efficientrec.model import Model
from efficientrec.profile import Rows

TOP = 5
"""Items that a cluster is described by."""


@dataclass(frozen=True, slots=True)
class Placed:
    """One cluster on the map."""

    cluster: int
    x: float
    y: float
    members: float
    """Memberships added up."""
    top: Sequence[int]
    """Places of the items that its shortlist has and others have not, best first."""


def places(model: Model, rows: Rows) -> list[Placed]:
    """The clusters that have members among the rows, the largest first."""
    chosen, memberships = model.clusters.assign(model.encoder.vector(rows))
    count, kept = len(model.clusters), model.clusters.kept
    table = csr_matrix(
        (memberships.ravel().astype(np.float64), chosen.ravel(), np.arange(0, len(rows) * kept + 1, kept)),
        (len(rows), count),
    )
    members = np.asarray(table.sum(axis=0)).ravel()
    length = np.sqrt(np.asarray(table.multiply(table).sum(axis=0)).ravel())
    used = np.flatnonzero(length > 0)
    columns = csr_matrix(table.tocsc()[:, used].multiply(1 / length[used]))
    at = _components((columns.T @ columns).toarray())
    order = np.argsort(-members[used], kind="stable").tolist()
    told = distinctive(model)
    return [
        Placed(int(used[n]), float(at[n, 0]), float(at[n, 1]), float(members[used[n]]), told[int(used[n])])
        for n in order
    ]


def distinctive(model: Model) -> list[list[int]]:
    """Of each cluster the TOP items of its shortlist that exceed the mean over all clusters by most."""
    lists = model.cluster_shortlists
    held = lists.items >= 0
    mean = np.bincount(lists.items[held], lists.scores[held], len(model.items)) / max(len(lists), 1)
    above = np.where(held, lists.scores - mean[lists.items], -np.inf)
    best = np.argsort(-above, axis=1, kind="stable")[:, :TOP]
    return [
        [int(items[place]) for place in row.tolist() if items[place] >= 0]
        for items, row in zip(lists.items, best, strict=True)
    ]


def _components(gram: NDArray[np.float64]) -> NDArray[np.float64]:
    """(n, 2) places of n points by the products between them; the sign of each axis is that of its largest value."""
    centred = gram - gram.mean(axis=0) - gram.mean(axis=1)[:, None] + gram.mean()
    values, vectors = np.linalg.eigh(centred)
    at = np.zeros((len(gram), 2))
    for axis in range(min(2, len(gram))):
        column = vectors[:, -1 - axis] * np.sqrt(max(values[-1 - axis], 0.0))
        at[:, axis] = column * np.sign(column[np.abs(column).argmax()] or 1.0)
    return at
