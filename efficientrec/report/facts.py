"""What a data set is, in numbers."""

from __future__ import annotations

import numpy as np

from efficientrec.datasets import Dataset
from efficientrec.training.data import of_dataset


def of(dataset: Dataset) -> dict[str, str]:
    """The name of each fact and what it is, ready to be shown."""
    data, count = of_dataset(dataset), len(dataset)
    users, items = len(dataset.users), len(dataset.items)
    each = np.bincount(dataset.user, minlength=users)
    pairs = len(np.unique(dataset.user.astype(np.int64) * items + dataset.item))
    ratings = dataset.value[np.isfinite(dataset.value)]
    told = {
        "interactions": f"{count:,}",
        "users": f"{users:,}",
        "items": f"{items:,}",
        "of all pairs": f"{pairs / (users * items):.3%}",
        "repeats": f"{1 - pairs / count:.1%}",
        "per user": f"{np.median(each):,.0f} (median), {np.percentile(each, 90):,.0f} (90th percentile)",
        "feedback": "chosen items only",
        "liked": f"{(data.weight >= 0.5).mean():.1%}",
        "order": {"timestamp": "times", "position": "positions, no times"}.get(dataset.clock, "none"),
        "described items": f"{sum(map(bool, data.tokens)) / max(len(data.items), 1):.0%}",
        "users with demographics": f"{sum(map(bool, data.traits)) / max(users, 1):.0%}",
    }
    if len(ratings):
        told["feedback"] = f"ratings from {ratings.min():g} to {ratings.max():g}"
    if dataset.clock == "timestamp":
        first, last = (np.datetime64(int(at), "ms").astype("datetime64[D]") for at in (dataset.at[0], dataset.at[-1]))
        told["from – to"] = f"{first} – {last}"
    return told
