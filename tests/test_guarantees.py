"""Each promise of docs/guarantees.md names tests that are there."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "guarantees.md").read_text(encoding="utf-8")


def test_every_test_that_the_page_names_is_there() -> None:
    cited = re.findall(r"`(tests/[\w/]+\.py)::(test_\w+)`", PAGE)
    cited += [("tests/test_table.py", name) for name in re.findall(r"\| `(test_\w+)` \|", PAGE)]

    missing = [
        f"{file}::{name}" for file, name in cited if f"def {name}(" not in (ROOT / file).read_text(encoding="utf-8")
    ]

    assert len(cited) >= 30
    assert missing == []


def test_every_promise_names_a_test() -> None:
    promises = re.split(r"\n(?=\*\*|## |\| )", PAGE[: PAGE.index("## Not promised")])
    bare = [each.splitlines()[0] for each in promises if each.startswith("**") and "::test_" not in each]

    assert bare == []
