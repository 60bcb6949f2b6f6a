"""What several rounds gave: the median, and how far they lie apart."""

from __future__ import annotations

import statistics
from collections.abc import Iterable


def spread(values: Iterable[float]) -> dict[str, float]:
    """Median, least and most."""
    found = list(values)
    return {"median": statistics.median(found), "least": min(found), "most": max(found)}


def shown(found: dict[str, float], digits: int = 1) -> str:
    """As it stands in a table: the median, with the least and the most in brackets."""
    return f"{found['median']:,.{digits}f} ({found['least']:,.{digits}f} – {found['most']:,.{digits}f})"
