"""Everything that one version needs to serve: one immutable value, replaced whole by the next version."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from efficientrec.clusters import Assignment, Clusters
from efficientrec.encoders import Encoder
from efficientrec.errors import ArtifactMismatch
from efficientrec.profile import RING_SIZE, STATE_MAX
from efficientrec.shortlists import Shortlists
from efficientrec.vocabulary import Vocabulary

VOICES = ("cluster", "anchor", "neighbour")


@dataclass(frozen=True, slots=True, kw_only=True)
class Blend:
    """How the voices are weighed against each other; chosen on validation data."""

    cluster_weight: float
    """λ of the clusters' votes."""
    anchor_weight: float
    """λ of the votes for what tends to follow."""
    anchors: int
    """How many of the last interactions vote so; at most profile.RING_SIZE."""
    anchor_decay: float
    """What such a vote counts, compared with that of the interaction after it."""
    neighbour_weight: float = 0.0
    """λ of the votes for what resembles, which are divided by √(1 + events) as a taste is."""
    neighbours: int = 0
    """How many of the last interactions vote so; at most profile.RING_SIZE."""
    neighbour_decay: float = 1.0
    neighbour_nominees: int = 1000
    """How many of the items that one resembles become candidates; the others only add to the votes of candidates."""
    popularity: float = 1.0
    """What the items' bias counts."""
    newcomer_popularity: float = 0.0
    """What it counts beyond that for who has done nothing yet. It falls to nothing along a straight line, ..."""
    newcomer_events: int = 0
    """... until he has done so much. Till then what is popular is always among the candidates."""

    def liking(self, events: NDArray[np.integer]) -> NDArray[np.float32]:
        """(users,) what the items' bias counts for users who have done so much."""
        newness = np.maximum(0, 1 - events / max(self.newcomer_events, 1))
        return (self.popularity + self.newcomer_popularity * newness).astype(np.float32)


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """One version. Item arrays are in the order of `items`."""

    version: str
    items: Vocabulary
    encoder: Encoder
    clusters: Assignment
    cluster_shortlists: Shortlists
    """(clusters, L) s(c, i): shrunk weighted means, or the items' own affinities."""
    anchor_shortlists: Shortlists
    """(items, L') what tends to follow each item."""
    neighbour_shortlists: Shortlists
    """(items, M) what resembles each item: weights between items."""
    popular: NDArray[np.int32]
    """(p,) for users of whom too little is known, best first."""
    ranking_vectors: NDArray[np.float32]
    """(items, d) h_i, to be multiplied with the encoder's taste, or (items, K) affinities to compare it with."""
    ranking_places: NDArray[np.int32]
    """(items, 0) where h_i is multiplied; (items, K) the clusters that the affinities are those of, -1 behind the
    last, where the score is Σ_c min(taste_c, h_ic) (ELFM, eq. 6). Then votes are min(p, s) too."""
    item_bias: NDArray[np.float32]
    """(items,)"""
    blend: Blend
    votes: Blend | None = None
    """How the voices are weighed where votes alone rank; None: the same."""

    def check(self) -> None:
        """Raises ArtifactMismatch when the parts do not fit each other or the kernels; says which.

        The kernels check no bound and expect arrays in one piece, so nothing may serve that has not passed here.
        """
        encoder = self.encoder
        arrays = {name: (getattr(encoder, name), *kind) for name, kind in encoder.ARRAYS.items()}
        if isinstance(self.clusters, Clusters):
            arrays["cluster_weights"] = (self.clusters.weights, 2, np.float32)
            arrays["cluster_bias"] = (self.clusters.bias, 1, np.float32)
        for voice, lists in self.shortlists.items():
            arrays[f"{voice}_items"] = (lists.items, 2, np.int32)
            arrays[f"{voice}_scores"] = (lists.scores, 2, np.float32)
        arrays["popular"] = (self.popular, 1, np.int32)
        arrays["ranking_vectors"] = (self.ranking_vectors, 2, np.float32)
        arrays["ranking_places"] = (self.ranking_places, 2, np.int32)
        arrays["item_bias"] = (self.item_bias, 1, np.float32)
        for name, (array, dimensions, kind) in arrays.items():
            self._expect(array.ndim == dimensions, f"{name} has {array.ndim} dimensions", str(dimensions))
            self._expect(array.dtype == kind, f"{name} is of {array.dtype}", np.dtype(kind).name)
            self._expect(array.flags.c_contiguous, f"{name} lies in pieces", "C order")
            self._expect(array.dtype.kind != "f" or bool(np.isfinite(array).all()), f"{name} is not finite", "numbers")

        encoder.check(self._expect)
        items, owners = len(self.items), len(self.clusters)
        vector, taste = encoder.shapes()
        self._expect(encoder.items is self.items, "the encoder knows other items", "those of the model")
        if isinstance(self.clusters, Clusters):
            found, wanted = self.clusters.weights.shape, (vector, owners)
            self._expect(found == wanted, f"cluster_weights has shape {found}", str(wanted))
        else:
            self._expect(vector == owners, f"there are {owners} co-clusters", f"{vector}, as in the encoder's vector")
        places = self.ranking_places.shape[1]
        for name, shape, wanted in (
            ("ranking_vectors", self.ranking_vectors.shape, (items, places or taste)),
            ("ranking_places", self.ranking_places.shape[:1], (items,)),
            ("item_bias", self.item_bias.shape, (items,)),
            ("cluster_items", self.cluster_shortlists.items.shape[:1], (owners,)),
            ("anchor_items", self.anchor_shortlists.items.shape[:1], (items,)),
            ("neighbour_items", self.neighbour_shortlists.items.shape[:1], (items,)),
            *((f"{voice}_scores", lists.scores.shape, lists.items.shape) for voice, lists in self.shortlists.items()),
        ):
            self._expect(shape == wanted, f"{name} has shape {shape}", str(wanted))

        for name, chosen, least, most in (
            *((f"{voice}_items", lists.items, -1, items) for voice, lists in self.shortlists.items()),
            ("popular", self.popular, 0, items),
            ("ranking_places", self.ranking_places, -1, taste),
        ):
            within = not chosen.size or (chosen.min() >= least and chosen.max() < most)
            self._expect(within, f"{name} names what does not exist", f"{least} to {most - 1}")
        self._expect(encoder.width <= STATE_MAX, f"the state has {encoder.width} floats", f"at most {STATE_MAX}")
        kept = self.clusters.kept
        self._expect(0 < kept <= owners, f"{kept} clusters are kept", f"1 to {owners}")
        for name, blend in (("blend", self.blend), ("votes", self.votes or self.blend)):
            for field, count in (("anchors", blend.anchors), ("neighbours", blend.neighbours)):
                self._expect(0 <= count <= RING_SIZE, f"{name}.{field} is {count}", f"0 to {RING_SIZE}")
            nominees = blend.neighbour_nominees
            self._expect(nominees >= 0, f"{name}.neighbour_nominees is {nominees}", "0 or more")
            for field, decay in (("anchor_decay", blend.anchor_decay), ("neighbour_decay", blend.neighbour_decay)):
                self._expect(0 <= decay <= 1, f"{name}.{field} is {decay}", "0 to 1")
            for field in (
                *(f"{voice}_weight" for voice in VOICES),
                "popularity",
                "newcomer_popularity",
                "newcomer_events",
            ):
                weight = getattr(blend, field)
                self._expect(0 <= weight < math.inf, f"{name}.{field} is {weight}", "a number that is not negative")

    @property
    def shortlists(self) -> dict[str, Shortlists]:
        """Those of each voice."""
        return {voice: getattr(self, f"{voice}_shortlists") for voice in VOICES}

    def _expect(self, holds: bool, found: str, wanted: str) -> None:
        if not holds:
            raise ArtifactMismatch(f"in {self.version} {found}; expected {wanted}")
