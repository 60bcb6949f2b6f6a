"""What a training sees: interactions as columns in time order, and what is said of items and users.

Knows nothing of files or topics: whoever has a log or a data set makes one of these.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from efficientrec.datasets import Dataset, weight_rules
from efficientrec.features import item_tokens, user_traits
from efficientrec.interactions import WeightPolicy


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingData:
    """Columns have length (events,) and rise in time."""

    user: NDArray[np.int32]
    """Index of the user; users need no names here."""
    item: NDArray[np.int32]
    """Index into `items`."""
    weight: NDArray[np.float32]
    """Signed weight in [-1, 1]."""
    at: NDArray[np.int64]
    """Milliseconds since the epoch."""
    items: Sequence[str]
    """Item ids; may hold items without interactions."""
    tokens: Sequence[Sequence[str]]
    """For each item what its description says (features.item_tokens)."""
    traits: Sequence[Sequence[str]]
    """For each user his demographics (features.user_traits)."""

    def __post_init__(self) -> None:
        assert len(self.items) == len(self.tokens), (len(self.items), len(self.tokens))
        assert len(self) == 0 or (np.diff(self.at) >= 0).all(), "interactions must be in time order"

    def __len__(self) -> int:
        return len(self.user)

    @property
    def users(self) -> int:
        return len(self.traits)

    def chosen(self, events: NDArray[np.bool_] | slice) -> TrainingData:
        """The same world with some of the interactions only."""
        return replace(
            self, user=self.user[events], item=self.item[events], weight=self.weight[events], at=self.at[events]
        )

    def before(self, cut: int) -> TrainingData:
        """The interactions earlier than a time in milliseconds."""
        return self.chosen(slice(0, int(np.searchsorted(self.at, cut))))

    def renumbered(self, order: NDArray[np.integer]) -> TrainingData:
        """The same world with its items in another order. order (items,): the present place of each."""
        place = np.empty(len(order), np.int32)
        place[order] = np.arange(len(order), dtype=np.int32)
        return replace(
            self,
            item=place[self.item],
            items=[self.items[index] for index in order.tolist()],
            tokens=[self.tokens[index] for index in order.tolist()],
        )

    def weighing(self, weight: float) -> TrainingData:
        """The same interactions, all with one weight."""
        return replace(self, weight=np.full(len(self), weight, np.float32))

    def cut(self, share: float) -> int:
        """The time in milliseconds from which on the last `share` of the interactions lies."""
        return int(self.at[min(int(len(self) * (1 - share)), len(self) - 1)])


def of_dataset(dataset: Dataset) -> TrainingData:
    """The training data of a data set, with weights on its own scale. Items that are only described come last."""
    policy = WeightPolicy(weight_rules(dataset))
    known = set(dataset.items)
    items = [*dataset.items, *(item for item in dataset.catalogue if item not in known)]
    described = [dataset.catalogue.get(item) for item in items]
    return TrainingData(
        user=dataset.user,
        item=dataset.item,
        weight=policy.weights([dataset.event_type] * len(dataset), dataset.value),
        at=dataset.at,
        items=items,
        tokens=[[] if item is None else item_tokens(item.title, item.categories, item.features) for item in described],
        traits=[user_traits(dataset.people.get(user, {})) for user in dataset.users],
    )
