"""What an item's description and a user's demographics say, as short tokens such as `category=Comedy` or `gender=F`.

Trainer and worker make tokens by the same functions, so a trait that was learned is recognised when it arrives.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from efficientrec.interactions import keys_of
from efficientrec.profile import TRAITS_MAX

TITLE_YEAR = re.compile(r"\((\d{4})\)\s*$")
WORD = re.compile(r"[^\W_]+")
STOP_WORDS = frozenset(
    {
        "a",
        "an",
        "and",
        "at",
        "by",
        "de",
        "der",
        "die",
        "for",
        "from",
        "in",
        "la",
        "le",
        "les",
        "of",
        "on",
        "or",
        "the",
        "to",
    }
)
VALUE_LENGTH_MAX = 60  # longer is prose, which no two items share
AGE_BANDS = (1, 18, 25, 35, 45, 50, 56)  # lower bounds, those of MovieLens 1M, so that its codes stay what they are
FIRST_TRAITS = ("gender", "sex", "age", "occupation", "country", "state")  # the most telling first: a row holds few


def item_tokens(title: str, categories: Sequence[str], features: Mapping[str, str]) -> list[str]:
    """The tokens of an item's description, each once.

    Categories; year and decade, from a column `year` or from `(1995)` at the end of the title; the words of the title;
    every other column as it stands.

    >>> item_tokens("Heat (1995)", ["Crime"], {"studio": "WB"})
    ['category=Crime', 'year=1995', 'decade=1990', 'title=heat', 'studio=WB']
    """
    found = TITLE_YEAR.search(title)
    year = features.get("year", "").strip() or (found.group(1) if found else "")
    tokens = [f"category={category.strip()}" for category in categories]
    if len(year) == 4 and year.isdigit():
        tokens += [f"year={year}", f"decade={year[:3]}0"]
    tokens += [
        f"title={word}"
        for word in WORD.findall(TITLE_YEAR.sub("", title).lower())
        if len(word) > 1 and word not in STOP_WORDS
    ]
    tokens += [
        f"{name}={value.strip()}"
        for name, value in features.items()
        if name != "year" and 0 < len(value.strip()) <= VALUE_LENGTH_MAX
    ]
    return list(dict.fromkeys(tokens))


def user_traits(features: Mapping[str, str]) -> list[str]:
    """The tokens of a user's demographics, the most telling first and at most TRAITS_MAX.

    Ages fall into bands. Of a postal code the first digit stays (a region, and of little use to find a person by); what
    is longer than a word or two is left out.

    >>> user_traits({"age": "27", "gender": "F", "zip_code": "48067"})
    ['gender=F', 'age=25', 'zip_code=4']
    """
    names = sorted(features, key=lambda name: FIRST_TRAITS.index(name) if name in FIRST_TRAITS else len(FIRST_TRAITS))
    traits = [f"{name}={value}" for name in names if (value := _trait(name, features[name].strip()))]
    return traits[:TRAITS_MAX]


def trait_keys(features: Mapping[str, str]) -> NDArray[np.uint64]:
    """The keys of `user_traits`, as rows hold them."""
    return keys_of(user_traits(features))


def _trait(name: str, value: str) -> str:
    if name == "age":
        try:
            age = float(value)
        except ValueError:
            return value[:VALUE_LENGTH_MAX]
        return str(max((band for band in AGE_BANDS if band <= age), default=AGE_BANDS[0])) if 0 < age < 120 else ""
    if name.startswith(("zip", "postal")):
        return value[:1]
    return value if len(value) <= VALUE_LENGTH_MAX else ""
