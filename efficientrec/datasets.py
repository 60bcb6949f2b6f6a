"""Reading a data set from one file of interactions, or from a folder with a file `interactions` and, where they exist,
`items` and `users`; each CSV or Parquet (tables.py).

  interactions   user_id, item_id; rating, timestamp, position, split where the source has them
  items          item_id; title; genres, categories or attributes joined by `|`; any other column
  users          user_id; any other column

Knows files and columns. Knows nothing of tokens (features.py) or models; of ratings it knows only their scale.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from efficientrec import tables
from efficientrec.errors import DataInvalid
from efficientrec.interactions import RULES, Rule, keys_of
from efficientrec.spans import steps

CATEGORY_COLUMNS = ("genres", "categories", "attributes")
ORDERED_FROM = 946_684_800_000  # 2000-01-01: where a data set without times begins
ORDERED_SPAN = 30 * 86_400_000  # a month for everything that has only positions: order counts, decay hardly does
ROW_STEP = 1000  # a second from row to row where there is not even a position


@dataclass(frozen=True, slots=True)
class Item:
    """What is said of an item."""

    title: str = ""
    categories: tuple[str, ...] = ()
    features: Mapping[str, str] = field(default_factory=dict)
    """Every other column that has a value."""


@dataclass(frozen=True, slots=True)
class Dataset:
    """A data set in memory. The columns of interactions have length (events,) and rise in time."""

    name: str
    users: Sequence[str]
    """Distinct user ids, in order of first appearance in the file."""
    items: Sequence[str]
    """Distinct item ids that somebody interacted with, likewise."""
    user: NDArray[np.int32]
    """Index into `users`."""
    item: NDArray[np.int32]
    """Index into `items`."""
    value: NDArray[np.float64]
    """The rating; NaN where there is none."""
    at: NDArray[np.int64]
    """Milliseconds since the epoch."""
    split: Sequence[str] | None
    """The source's own split of the interactions, where it has one."""
    clock: str
    """Where `at` comes from: `timestamp`, or `position` or `rows` when the times are made up to keep an order."""
    catalogue: Mapping[str, Item]
    """item id → what is said of it; may know items that nobody touched, and lack some that somebody did."""
    people: Mapping[str, Mapping[str, str]]
    """user id → demographics."""

    def __len__(self) -> int:
        return len(self.user)

    @property
    def event_type(self) -> str:
        """The type under which the interactions enter a stream: without ratings, having chosen an item is liking it."""
        return "like" if np.isnan(self.value).all() else "rating"


def read_dataset(path: Path | str) -> Dataset:
    """The data set in a folder or file, sorted by time.

    Equal times are put in an order that depends on the ids alone, by hash: files are often sorted by item, and an order
    that tells something of the items would leak into whatever learns from sequences.
    Raises DataInvalid, which names file, column and line.

    >>> read_dataset("streams/data/ml-latest-small").clock  # doctest: +SKIP
    'timestamp'
    """
    path = Path(path)
    folder = path if path.is_dir() else None
    if folder is None and not path.is_file():
        raise DataInvalid(f"{path} is neither a folder nor a file")
    file = path if folder is None else tables.find(folder, "interactions")
    if file is None:
        raise DataInvalid(f"{folder} has no interactions.csv, interactions.csv.gz or interactions.parquet")
    columns = tables.columns(file, ("user_id", "item_id"), ("rating", "timestamp"))
    users, user = _indexed(columns["user_id"])
    items, item = _indexed(columns["item_id"])
    value = (
        _numbers(file, "rating", columns["rating"], missing=True) if "rating" in columns else np.full(len(user), np.nan)
    )
    at, clock = _times(file, columns, users, user)
    mixed = keys_of(users)[user] * np.uint64(0x9E3779B97F4A7C15) ^ keys_of(items)[item]
    order = np.lexsort((mixed, at))
    split = columns.get("split")
    return Dataset(
        name=path.resolve().name.partition(".")[0],
        users=users,
        items=items,
        user=user[order],
        item=item[order],
        value=value[order],
        at=at[order],
        split=None if split is None else [split[place] for place in order.tolist()],
        clock=clock,
        catalogue={} if folder is None else _catalogue(folder),
        people={} if folder is None else _people(folder),
    )


def weight_rules(dataset: Dataset) -> Mapping[str, Rule]:
    """The usual rules, with a line for ratings that fits the data's own scale: the middle is 0, the best 1.

    Five stars give y = r / 2.5 - 1, ten y = r / 5 - 1. Where the greatest rating is none of the usual scales' it stands
    for the best itself.
    """
    ratings = dataset.value[np.isfinite(dataset.value)]
    greatest = float(ratings.max()) if len(ratings) else 5.0
    best = next((scale for scale in (1.0, 5.0, 10.0, 100.0) if 0.8 * scale <= greatest <= scale), max(greatest, 1e-6))
    return {**RULES, "rating": Rule(neutral=best / 2, span=best / 2)}


def _numbers(path: Path, name: str, texts: list[str], *, missing: bool = False) -> NDArray[np.float64]:
    try:
        values = np.array(texts, np.float64)
        if np.isfinite(values).all():
            return values
    except ValueError:
        pass
    values = np.empty(len(texts), np.float64)
    for index, text in enumerate(texts):  # the slow way, to find the line
        if missing and not text.strip():
            values[index] = np.nan
            continue
        try:
            values[index] = float(text)
        except ValueError:
            values[index] = math.inf
        if not math.isfinite(values[index]):
            raise DataInvalid(f"{path}, line {index + 2}: {name} is {text!r}; expected a number")
    return values


def _indexed(texts: list[str]) -> tuple[list[str], NDArray[np.int32]]:
    """The distinct texts in order of appearance, and the index of each text among them."""
    place = {text: index for index, text in enumerate(dict.fromkeys(texts))}
    return list(place), np.fromiter(map(place.__getitem__, texts), np.int32, len(texts))


def _times(
    path: Path, columns: dict[str, list[str]], users: list[str], user: NDArray[np.int32]
) -> tuple[NDArray[np.int64], str]:
    """When each interaction was, in milliseconds, and which column says so."""
    if "timestamp" in columns:
        return tables.milliseconds(path, "timestamp", columns["timestamp"]), "timestamp"
    if "position" not in columns:
        return ORDERED_FROM + ROW_STEP * np.arange(len(user), dtype=np.int64), "rows"
    # Each user's sequence is spread over the whole span, with a start of its own, so that users interleave as they
    # would in a stream and no two share a rhythm.
    position = _numbers(path, "position", columns["position"])
    order = np.lexsort((position, user))
    count = np.bincount(user, minlength=len(users))
    rank = np.empty(len(user), np.float64)
    rank[order] = steps(count)
    start = (keys_of(users) >> np.uint64(40)).astype(np.float64) / 2**24
    share = (rank + start[user]) / count[user]
    return ORDERED_FROM + np.round(share * ORDERED_SPAN).astype(np.int64), "position"


def _catalogue(folder: Path) -> dict[str, Item]:
    path = tables.find(folder, "items")
    if path is None:
        return {}
    columns = tables.columns(path, ("item_id",))
    nothing = [""] * len(columns["item_id"])
    categories = next((name for name in CATEGORY_COLUMNS if name in columns), "")
    others = [name for name in columns if name not in ("item_id", "title", categories)]
    return {
        item: Item(title, tuple(part for part in joined.split("|") if part), _given(others, values))
        for item, title, joined, values in zip(
            columns["item_id"],
            columns.get("title", nothing),
            columns.get(categories, nothing),
            zip(*(columns[name] for name in others), strict=True) if others else ((),) * len(nothing),
            strict=True,
        )
    }


def _people(folder: Path) -> dict[str, Mapping[str, str]]:
    path = tables.find(folder, "users")
    if path is None:
        return {}
    columns = tables.columns(path, ("user_id",))
    others = [name for name in columns if name != "user_id"]
    rows = zip(*(columns[name] for name in others), strict=True) if others else ((),) * len(columns["user_id"])
    return {user: _given(others, values) for user, values in zip(columns["user_id"], rows, strict=True)}


def _given(names: Sequence[str], values: Sequence[str]) -> dict[str, str]:
    return {name: value for name, value in zip(names, values, strict=True) if value}
