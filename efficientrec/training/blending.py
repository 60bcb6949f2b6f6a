"""How loud each voice speaks: chosen on held-out later events, through the code that serves."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from efficientrec.encoders.efficientrec import EfficientRecEncoder
from efficientrec.evaluation import histories
from efficientrec.model import Blend, Model
from efficientrec.recommend import recommend
from efficientrec.shortlists import Shortlists
from efficientrec.training.data import TrainingData
from efficientrec.training.recipe import Recipe
from efficientrec.training.trials import Gains, Judged, Jury

UNIT_USERS = 300
UNIT_ITEMS = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class Voices:
    """What is chosen after the model's arrays are learned. Weights are in units of what tells the better from the best
    among a user's items, so that the same ones suit every encoder."""

    cluster_weight: float = 0.05
    anchor_weight: float = 0.3
    anchors: int = 8
    anchor_decay: float = 0.8
    neighbour_weight: float = 0.5
    neighbours: int = 8
    neighbour_decay: float = 0.9
    neighbour_nominees: int = 4
    popularity: float = 0.1
    """What the most popular item of the moment gains over one that nobody touches."""
    newcomer_popularity: float = 0.0
    """What it gains beyond that for who has done nothing yet, falling to nothing ..."""
    newcomer_events: int = 0
    """... until he has done so much."""
    dislike: float = 0.0
    """γ: how much a dislike takes from the taste that a like gives."""
    alone: Voices | None = None
    """The voices where votes alone rank; None: as ALONE has them."""


ALONE = Voices(
    cluster_weight=0.4, anchor_weight=0.1, neighbour_weight=1.0, neighbours=64, neighbour_decay=1.0, popularity=0.0
)
"""What votes weigh where they alone rank."""
Grid = Mapping[str, tuple[float, ...]]
LOUDNESS = "loudness"
"""Of all that the last interactions say, against what a user has always liked: not a voice, but their common factor."""
STARTS = (Voices(), Voices(neighbour_weight=10.0, neighbours=64, neighbour_decay=1.0, neighbour_nominees=0))
"""Where the search for voices begins. The second: all of the last interactions bring their neighbours, the oldest as
much as the newest, and loudly. Single changes, none of which helps alone, would not lead there from the first."""
GRID: Grid = {
    LOUDNESS: (0.1, 0.3, 3.0, 10.0, 30.0),
    "anchor_decay": (0.3, 0.5, 0.7, 0.9, 1.0),
    "anchor_weight": (0.0, 0.1, 0.3, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0),
    "neighbour_weight": (0.0, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0),
    "cluster_weight": (0.01, 0.05, 0.2, 1.0),  # never 0: a cluster that nominates an item is also its reason
    "popularity": (0.0, 0.1, 0.3, 1.0, 3.0, 10.0),
    "neighbour_nominees": (0, 1, 4, 16, 50, 100),
    "neighbour_decay": (0.5, 0.7, 0.9, 1.0),
    "neighbours": (2, 8, 16, 32, 64),
    "anchors": (1, 4, 8, 16),
    "dislike": (0.0, 0.25, 0.5, 1.0),
}
GRID_ALONE: Grid = {
    "cluster_weight": (0.02, 0.05, 0.1, 0.2, 0.4, 0.8, 1.6),
    "anchor_weight": (0.0, 0.03, 0.1, 0.3, 1.0),
    "neighbour_nominees": (0, 1, 4, 16, 100),
    "neighbour_decay": (0.5, 0.7, 0.9, 1.0),
    "anchor_decay": (0.3, 0.5, 0.7, 0.9, 1.0),
}
NEWCOMER_POPULARITIES = (0.3, 1.0, 3.0, 10.0, 30.0)
NEWCOMER_EVENTS = (3, 5, 10, 20)
SWEEPS = 2
WORTH = 0.002  # relative gain below which a change is not worth its while
SURE = 0.25  # standard errors by which a change must gain: of few questions many gains are luck
DOUBT = 2.0  # standard errors that may be missing to a gain while not all questions are asked


@dataclass(frozen=True, slots=True)
class Unvoiced:
    """A model whose voices are yet to be chosen."""

    model: Model
    popularity: NDArray[np.float64]
    """(items,) in [0, 1]."""
    unit: float
    """What tells the better from the best among a user's items: the deviation of his UNIT_ITEMS best exact scores."""

    def speaking(self, voices: Voices) -> Model:
        """The model with these voices."""
        encoder = self.model.encoder
        return replace(
            self.model,
            encoder=replace(encoder, dislike=voices.dislike) if isinstance(encoder, EfficientRecEncoder) else encoder,
            item_bias=self._bias(),
            blend=_blend(voices, self.unit),
            votes=_blend(voices.alone or ALONE, self.unit),
        )

    def silent(self, alone: Voices) -> Model:
        """The model with these votes and nothing else."""
        model = self.model
        zeros = np.zeros_like(model.ranking_vectors)
        return replace(model, blend=_blend(alone, self.unit), ranking_vectors=zeros, item_bias=self._bias())

    def _bias(self) -> NDArray[np.float32]:
        return (self.unit * self.popularity).astype(np.float32)


def _blend(voices: Voices, unit: float) -> Blend:
    return Blend(
        cluster_weight=voices.cluster_weight * unit,
        anchor_weight=voices.anchor_weight * unit,
        anchors=int(voices.anchors),
        anchor_decay=voices.anchor_decay,
        neighbour_weight=voices.neighbour_weight * unit,
        neighbours=int(voices.neighbours),
        neighbour_decay=voices.neighbour_decay,
        neighbour_nominees=int(voices.neighbour_nominees),
        popularity=voices.popularity,
        newcomer_popularity=voices.newcomer_popularity,
        newcomer_events=int(voices.newcomer_events),
    )


def unvoiced(model: Model, popularity: NDArray[np.float64], data: TrainingData, seed: int) -> Unvoiced:
    """The model with votes that hardly count; data: that it was learned from."""
    present = np.unique(data.user)
    chosen = np.sort(np.random.default_rng(seed).choice(present, min(UNIT_USERS, len(present)), replace=False))
    event = np.flatnonzero(np.isin(data.user, chosen))
    user = np.searchsorted(chosen, data.user[event]).astype(np.int32)
    rows = histories.folded(model, data, user, event.astype(np.int64), len(chosen), chosen.astype(np.int32))
    quiet = Unvoiced(model, popularity, 1e-6)
    scores = recommend(quiet.speaking(Voices()), rows, UNIT_ITEMS).scores
    return replace(quiet, unit=max(float(np.median(scores.std(axis=1))), 1e-6))


def leveled(lists: Shortlists) -> Shortlists:
    """The shortlists with scores on a scale on which the first of a list, on average, has 1."""
    first = lists.scores[:, 0][lists.scores[:, 0] > 0] if lists.scores.size else lists.scores.ravel()
    return Shortlists(lists.items, lists.scores / np.float32(first.mean() if len(first) else 1))


def choose(model: Unvoiced, jury: Jury, recipe: Recipe) -> Voices:
    """The voices with the best NDCG beside exact scores, and alone; then what newcomers hear beyond that.

    What scores more items for a list than the recipe allows is marked down by as much.
    """
    limit = max(recipe.scored_min, recipe.scored_share * len(model.model.items))
    grid = GRID if recipe.dislikes else {**GRID, "dislike": ()}

    def chosen(starts: Sequence[Voices], grid: Grid, speaking: Callable[[Voices], Model]) -> Voices:
        users = _Contest(jury.users, speaking, limit)
        newcomers = _Contest(jury.newcomers, speaking, limit + recipe.popular)
        best = max((_spared(start, grid, users) for start in starts), key=lambda voices: users.worth(voices).mean())
        return _greeting(best, users, newcomers)

    return replace(chosen(STARTS, grid, model.speaking), alone=chosen([ALONE], GRID_ALONE, model.silent))


class _Contest:
    """Voices against each other, on no more questions than it takes."""

    def __init__(self, judged: Judged, speaking: Callable[[Voices], Model], limit: float) -> None:
        """limit: items that may be scored for a list, on average."""
        self._judged = judged
        self._speaking = speaking
        self._limit = limit
        self._heard: dict[Voices, list[Gains]] = {}

    def worth(self, voices: Voices, parts: int | None = None) -> NDArray[np.float64]:
        """(questions,) of the first so many parts of the questions, or of all."""
        asked = self._judged[:parts]
        heard = self._heard.setdefault(voices, [])
        if len(heard) < len(asked):
            model = self._speaking(voices)
            heard += [part(model) for part in asked[len(heard) :]]
        heard = heard[: len(asked)]
        scored = float(np.concatenate([gains.scored for gains in heard]).mean())
        return np.concatenate([gains.each for gains in heard]) * min(1.0, self._limit / max(scored, 1.0))

    def wins(self, one: Voices, other: Voices) -> bool:
        """Whether one is so much better than the other that it is worth its while and hardly luck."""
        for parts in range(1, len(self._judged) + 1):
            before = self.worth(other, parts)
            gain = self.worth(one, parts) - before
            mean, error = float(gain.mean()), float(gain.std() / np.sqrt(len(gain)))
            wanted = WORTH * float(before.mean())
            if mean + DOUBT * error <= wanted:
                return False
        return mean > max(wanted, SURE * error)


def _spared(start: Voices, grid: Grid, contest: _Contest) -> Voices:
    """The best voices that can be found, without those that add nothing: they would still cost their time."""
    voices = _climbed(start, grid, contest)
    for name in ("neighbours", "anchors"):
        quieter = _changed(voices, name, 0)
        if contest.worth(quieter).mean() >= contest.worth(voices).mean() * (1 - WORTH):
            voices = quieter
    return voices


def _greeting(voices: Voices, users: _Contest, newcomers: _Contest) -> Voices:
    """The voices with the best greeting for newcomers among those that cost the users as they are next to nothing."""
    best = voices
    least = users.worth(best).mean() * (1 - WORTH)
    for popularity, events in product(NEWCOMER_POPULARITIES, NEWCOMER_EVENTS):
        candidate = replace(voices, newcomer_popularity=popularity, newcomer_events=events)
        if newcomers.wins(candidate, best) and users.worth(candidate).mean() >= least:
            best = candidate
    return best


def _climbed(voices: Voices, grid: Grid, contest: _Contest) -> Voices:
    """The best voices that can be reached by changing one after another, for SWEEPS rounds."""
    for _ in range(SWEEPS):
        before = voices
        for name, values in grid.items():
            for value in values:
                candidate = _changed(voices, name, value)
                if candidate != voices and contest.wins(candidate, voices):
                    voices = candidate
        if voices == before:
            break
    return voices


def _changed(voices: Voices, name: str, value: float) -> Voices:
    if name == LOUDNESS:
        weights = voices.anchor_weight * value, voices.neighbour_weight * value
        return replace(voices, anchor_weight=weights[0], neighbour_weight=weights[1])
    changes: dict[str, Any] = {name: value}
    return replace(voices, **changes)
