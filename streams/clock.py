"""The clock by which records are stamped and judged."""

from __future__ import annotations

import time


def wall_ms() -> int:
    """Milliseconds since 1970, as in Kafka's records and our events."""
    return time.time_ns() // 1_000_000
