"""The whole library in a notebook: fit, fold, recommend, with no Kafka in sight.

What a worker does for a stream, for one user at a time: the same rows, the same lists to the last bit.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import numpy as np

from efficientrec import artifact, profile
from efficientrec.datasets import Dataset, weight_rules
from efficientrec.errors import InteractionInvalid
from efficientrec.features import trait_keys
from efficientrec.interactions import RULES, Interactions, Rule, WeightPolicy, keys_of
from efficientrec.model import Model
from efficientrec.profile import Rows
from efficientrec.recommend import recommend

if TYPE_CHECKING:
    from collections.abc import Callable

WEIGHTS = "weights"
"""Where an artifact's settings hold what event types count."""


@dataclass(frozen=True, slots=True)
class User:
    """What is known of one user: a value, which folding replaces by another."""

    row: Rows
    folded: int = 0
    """Interactions so far."""


@dataclass(frozen=True, slots=True)
class Recommended:
    """One item of a list."""

    item_id: str
    score: float
    because: str | None
    """The item the user met that spoke loudest for this one, if any did."""
    cluster: int | None
    """The cluster that spoke loudest for it."""


class Recommender:
    """A model, and what an interaction counts in it.

    >>> from efficientrec import Recommender, read_dataset
    >>> recommender = Recommender.fit(read_dataset("streams/data/ml-latest-small"))  # doctest: +SKIP
    >>> user = recommender.fold([("318", 5.0), ("296", 4.5)])  # doctest: +SKIP
    >>> [each.item_id for each in recommender.recommend(user, 3)]  # doctest: +SKIP
    ['593', '50', '2571']
    """

    def __init__(self, model: Model, rules: Mapping[str, Rule] = RULES) -> None:
        self.model = model
        self.policy = WeightPolicy(rules)

    @classmethod
    def fit(
        cls,
        data: Dataset,
        *,
        encoder: str = "efficientrec",
        seed: int = 0,
        progress: Callable[[str, float], None] | None = None,
    ) -> Recommender:
        """Learns from a data set; needs the extra `train`. progress is told the step and the share of it that is done.

        Raises TrainingImpossible when there is too little to learn from, SettingInvalid for an unknown encoder.
        """
        from efficientrec.training.data import of_dataset
        from efficientrec.training.recipe import Recipe
        from efficientrec.training.train import train

        recipe = Recipe(seed=seed, encoder=encoder)
        trained = train(of_dataset(data), recipe, version=f"{data.name}-{encoder}-{seed}", progress=progress)
        return cls(trained.model, weight_rules(data))

    @classmethod
    def load(cls, address: str) -> Recommender:
        """Reads what `save` or a training wrote; raises ArtifactError."""
        model, manifest = artifact.load(address)
        described = manifest.settings.get(WEIGHTS)
        return cls(model, RULES if described is None else {name: Rule(**rule) for name, rule in described.items()})

    def save(self, address: str, *, created_at: str = "") -> str:
        """Writes the model to a folder that does not exist yet; returns the digest of its manifest. created_at: what
        the manifest says of when, RFC 3339."""
        return artifact.save(
            self.model,
            address,
            created_at=created_at,
            window=artifact.Window(interactions=0, first_at=0, last_at=0),
            settings={WEIGHTS: told(self.policy.rules)},
            scores={},
        )

    def fold(
        self,
        interactions: Iterable[str | tuple[str, float]],
        user: User | None = None,
        *,
        traits: Mapping[str, str] | None = None,
        at: float | None = None,
    ) -> User:
        """The user after these interactions, in order: an item id for a like, or an id and a rating.

        user: as he was before, unchanged; None for somebody new. traits: his demographics, such as {"gender": "F"}.
        at: seconds since the epoch, of all of them; None lets no time pass. Items that the model does not know are
        remembered.
        Raises InteractionInvalid for a rating that is not a number.
        """
        known = user or User(profile.rebuilt(profile.empty(1), self.model.encoder))
        acts = [act if isinstance(act, tuple) else (act, np.nan) for act in interactions]
        for item, value in acts:
            if np.isinf(value) or not item:
                raise InteractionInvalid("value", f"{item!r} was rated {value}; expected an id and a finite number")
        events = len(acts)
        types = ["like" if np.isnan(value) else "rating" for _, value in acts]
        run = Interactions(
            users=[""],
            user=np.zeros(events, np.int32),
            item=keys_of([item for item, _ in acts]),
            weight=self.policy.weights(types, np.array([value for _, value in acts], np.float64)),
            at=np.full(events, int(known.row.at[0]) if at is None else int(1000 * at), np.int64),
            arrived=np.zeros(events, np.int64),
            offset=known.folded + np.arange(events, dtype=np.int64),
            event=np.zeros(events, np.uint64),
            excludes=np.ones(events, np.bool_),
        )
        row = known.row
        if traits is not None:
            row = profile.with_traits(row, [trait_keys(traits)], row.users_offset + 1)
        return User(profile.fold(row, run, self.model.encoder).rows, known.folded + events)

    def recommend(self, user: User | None = None, size: int = 20) -> list[Recommended]:
        """The user's list, best first; for nobody in particular what is popular."""
        row = profile.rebuilt(profile.empty(1) if user is None else user.row, self.model.encoder)
        lists = recommend(self.model, row, size)
        ids = self.model.items.ids
        return [
            Recommended(
                ids[item],
                float(lists.scores[0, rank]),
                None if lists.strongest[0, rank, 1] < 0 else ids[lists.strongest[0, rank, 1]],
                None if lists.strongest[0, rank, 0] < 0 else int(lists.strongest[0, rank, 0]),
            )
            for rank, item in enumerate(lists.items[0].tolist())
            if item >= 0
        ]


def told(rules: Mapping[str, Rule]) -> dict[str, dict[str, float]]:
    """What event types count, as an artifact's settings hold it."""
    return {name: asdict(rule) for name, rule in rules.items()}
