"""The outbox can be stopped whatever became of its start."""

from __future__ import annotations

import asyncio

from streams.connection import Connection
from streams.outbox import Outbox
from streams.settings import Settings


def test_stopping_what_was_never_started_is_harmless() -> None:
    asyncio.run(Outbox(Connection(Settings(broker="kafka://127.0.0.1:9")), 1.0).stop())
