"""One interaction by hand: what a producer would send, to the partition where its user lives."""

from __future__ import annotations

from uuid import uuid4

from streams.clock import wall_ms
from streams.connection import Connection
from streams.outbox import Outbox
from streams.placement import partition_of
from streams.records import Interaction, decode_interaction, encode
from streams.rights import check
from streams.settings import Settings
from streams.topics import Topics


async def send(settings: Settings, event_type: str, user_id: str, item_id: str, value: float | None) -> int:
    """The offset that the broker gave it. Raises InteractionInvalid for what the worker would set aside."""
    now_ms = wall_ms()
    key = user_id.encode()
    body = encode(Interaction(event_type, user_id, item_id, now_ms, event_id=str(uuid4()), value=value))
    decode_interaction(body, key, settings.policy, now_ms)
    await check(settings, "send")
    outbox = Outbox(Connection(settings), settings.request_timeout_seconds)
    await outbox.start()
    try:
        partition = partition_of(key, settings.partitions)
        pending = await outbox.send(Topics.of(settings).interactions, partition, [(key, body)], now_ms)
        offset = await pending.acknowledged()
    finally:
        await outbox.stop()
    assert offset is not None
    return offset
