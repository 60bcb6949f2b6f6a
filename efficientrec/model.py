"""Everything that one version needs to serve: one immutable value, replaced whole by the next version."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from efficientrec.clusters import Clusters
from efficientrec.encoders.efficientrec import EfficientRecEncoder
from efficientrec.errors import ArtifactMismatch
from efficientrec.profile import RING_SIZE, STATE_MAX
from efficientrec.shortlists import Shortlists
from efficientrec.vocabulary import Vocabulary


@dataclass(frozen=True, slots=True, kw_only=True)
class Blend:
    """How the voices are weighed against each other; chosen on validation data."""

    cluster_weight: float
    """λ of the clusters' votes."""
    anchor_weight: float
    """λ of the anchors' votes."""
    anchors: int
    """How many of the last interactions are anchors; at most profile.RING_SIZE."""
    anchor_decay: float
    """What an anchor's vote counts, compared with the one after it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """One version. Item arrays are in the order of `items`."""

    version: str
    items: Vocabulary
    encoder: EfficientRecEncoder
    clusters: Clusters
    cluster_shortlists: Shortlists
    """(clusters, L) s(c, i), shrunk weighted means."""
    anchor_shortlists: Shortlists
    """(items, L') what tends to follow each item."""
    popular: NDArray[np.int32]
    """(p,) for users of whom too little is known, best first."""
    ranking_vectors: NDArray[np.float32]
    """(items, d) h_i, to be multiplied with the encoder's taste."""
    item_bias: NDArray[np.float32]
    """(items,)"""
    blend: Blend

    def check(self) -> None:
        """Raises ArtifactMismatch when the parts do not fit each other or the kernels; says which.

        The kernels check no bound and expect arrays in one piece, so nothing may serve that has not passed here.
        """
        encoder, clusters = self.encoder, self.clusters
        for name, array, dimensions, kind in (
            ("item_vectors", encoder.item_vectors, 2, np.float32),
            ("trait_keys", encoder.trait_keys, 1, np.uint64),
            ("trait_vectors", encoder.trait_vectors, 2, np.float32),
            ("hidden_weights", encoder.hidden_weights, 2, np.float32),
            ("hidden_bias", encoder.hidden_bias, 1, np.float32),
            ("vector_weights", encoder.vector_weights, 2, np.float32),
            ("vector_bias", encoder.vector_bias, 1, np.float32),
            ("cluster_weights", clusters.weights, 2, np.float32),
            ("cluster_bias", clusters.bias, 1, np.float32),
            ("cluster_items", self.cluster_shortlists.items, 2, np.int32),
            ("cluster_scores", self.cluster_shortlists.scores, 2, np.float32),
            ("anchor_items", self.anchor_shortlists.items, 2, np.int32),
            ("anchor_scores", self.anchor_shortlists.scores, 2, np.float32),
            ("popular", self.popular, 1, np.int32),
            ("ranking_vectors", self.ranking_vectors, 2, np.float32),
            ("item_bias", self.item_bias, 1, np.float32),
        ):
            self._expect(array.ndim == dimensions, f"{name} has {array.ndim} dimensions", str(dimensions))
            self._expect(array.dtype == kind, f"{name} is of {array.dtype}", np.dtype(kind).name)
            self._expect(array.flags.c_contiguous, f"{name} lies in pieces", "C order")
            self._expect(array.dtype.kind != "f" or bool(np.isfinite(array).all()), f"{name} is not finite", "numbers")

        items, owners = len(self.items), len(clusters)
        middle, hidden = len(encoder.hidden_bias), len(encoder.vector_bias)
        for name, shape, wanted in (
            ("item_vectors", encoder.item_vectors.shape, (items, encoder.dim)),
            ("ranking_vectors", self.ranking_vectors.shape, (items, encoder.dim)),
            ("item_bias", self.item_bias.shape, (items,)),
            ("trait_vectors", encoder.trait_vectors.shape[:1], encoder.trait_keys.shape),
            ("hidden_weights", encoder.hidden_weights.shape, (encoder.width + encoder.trait_vectors.shape[1], middle)),
            ("vector_weights", encoder.vector_weights.shape, (middle, hidden)),
            ("cluster_weights", clusters.weights.shape, (hidden, owners)),
            ("cluster_items", self.cluster_shortlists.items.shape[:1], (owners,)),
            ("cluster_scores", self.cluster_shortlists.scores.shape, self.cluster_shortlists.items.shape),
            ("anchor_items", self.anchor_shortlists.items.shape[:1], (items,)),
            ("anchor_scores", self.anchor_shortlists.scores.shape, self.anchor_shortlists.items.shape),
        ):
            self._expect(shape == wanted, f"{name} has shape {shape}", str(wanted))

        for name, places, least in (
            ("cluster_items", self.cluster_shortlists.items, -1),
            ("anchor_items", self.anchor_shortlists.items, -1),
            ("popular", self.popular, 0),
        ):
            within = not places.size or (places.min() >= least and places.max() < items)
            self._expect(within, f"{name} names items outside the vocabulary", f"{least} to {items - 1}")
        self._expect(
            bool((encoder.trait_keys[1:] > encoder.trait_keys[:-1]).all()),
            "trait_keys are not sorted",
            "ascending keys",
        )
        self._expect(encoder.width <= STATE_MAX, f"the state has {encoder.width} floats", f"at most {STATE_MAX}")
        self._expect(0 < clusters.kept <= owners, f"{clusters.kept} clusters are kept", f"1 to {owners}")
        self._expect(
            0 <= self.blend.anchors <= RING_SIZE, f"blend.anchors is {self.blend.anchors}", f"0 to {RING_SIZE}"
        )
        half_life = encoder.half_life_seconds
        self._expect(0.001 <= half_life < math.inf, f"half_life_seconds is {half_life}", "a millisecond or more")
        decay = self.blend.anchor_decay
        self._expect(0 <= decay <= 1, f"blend.anchor_decay is {decay}", "0 to 1")
        for name, value in (
            ("dislike", encoder.dislike),
            ("blend.cluster_weight", self.blend.cluster_weight),
            ("blend.anchor_weight", self.blend.anchor_weight),
        ):
            self._expect(0 <= value < math.inf, f"{name} is {value}", "a number that is not negative")

    def _expect(self, holds: bool, found: str, wanted: str) -> None:
        if not holds:
            raise ArtifactMismatch(f"in {self.version} {found}; expected {wanted}")
