"""The features of an item or a user as texts, of which efficientrec.features makes tokens.

Worker and trainer both go through here, so that what was learned of `18` is found again when `18.0` arrives.
"""

from __future__ import annotations

from collections.abc import Mapping

from streams.records import Item

Feature = str | float | int | bool | list[str]


def feature_texts(features: Mapping[str, Feature]) -> dict[str, str]:
    """Each feature as text; a list becomes its parts with `|` between them.

    >>> feature_texts({"age": 18.0, "is_member": True, "likes": ["jazz", "rock"]})
    {'age': '18', 'is_member': 'true', 'likes': 'jazz|rock'}
    """
    return {name: _text(value) for name, value in features.items()}


def _text(value: Feature) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return "|".join(value) if isinstance(value, list) else str(value)


def described(item: Item) -> tuple[str, list[str], dict[str, str]]:
    """Title, categories and features of a record: what `efficientrec.features.item_tokens` takes."""
    return item.title or "", item.categories, feature_texts(item.features)
