"""The outbox can be stopped whatever became of its start."""

from __future__ import annotations

import asyncio

from streams.outbox import Outbox


def test_stopping_what_was_never_started_is_harmless() -> None:
    asyncio.run(Outbox(["127.0.0.1:9"], 1.0).stop())
