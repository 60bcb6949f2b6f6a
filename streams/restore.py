"""Fills the topics of a new installation with what a former one knew: for another number of partitions, or when Kafka
was lost.

1. Items, users and the release, of which each topic has the last word, are copied from the former prefix, if it is
   still there. What was erased is left out: a null would only ask for another erasure.
2. Interactions come from the trainer's log, which has all that were ever accepted, but those of erased users. They go
   to where their key points now, in the order in which they lay, with their ids and the times at which they came.

Knows logs, topics and partitions. Knows nothing of rows: workers make them anew.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.compute as pc
from aiokafka.structs import TopicPartition

from efficientrec.errors import DataInvalid, TopicMismatch
from streams import topics
from streams.audit import everything
from streams.clock import wall_ms
from streams.connection import Connection
from streams.log import read_in_order
from streams.offsets import end_offsets
from streams.outbox import Outbox, Pending
from streams.placement import partitions_of
from streams.records import Interaction, encode, rfc3339
from streams.settings import Settings
from streams.topics import Topics

CHUNK = 5_000  # interactions that are handed over at once; two chunks are on their way at any time
DAY_MS = 86_400_000
_CLEAR_MS = 100_000_000_000  # a smaller number would be taken for seconds

Timed = tuple[bytes, bytes | None, int]


@dataclass(frozen=True, slots=True)
class Restored:
    """How much the broker has acknowledged."""

    interactions: int
    items: int
    users: int
    releases: int


async def restore(settings: Settings, log_dir: Path, prefix: str | None = None) -> Restored:
    """prefix: of the former installation, where its topics are still there. Raises DataInvalid where there is no log,
    TopicMismatch where the topics are not empty or would lose what they are given."""
    names = Topics.of(settings)
    await _check_empty(settings, names.interactions)
    await _check_kept(settings, names.interactions, _oldest_ms(log_dir))
    outbox = Outbox(Connection(settings), settings.request_timeout_seconds)
    await outbox.start()
    try:
        copied = {"items": 0, "users": 0, "releases": 0}
        if prefix is not None:
            former = Topics.of(Settings(prefix=prefix))
            for kind in copied:
                copied[kind] = await _copy(outbox, settings, getattr(former, kind), getattr(names, kind))
        interactions, on_their_way = 0, list[Pending]()
        for chunk in _chunks(log_dir):
            interactions += len(chunk)
            sent = await _send(outbox, names.interactions, settings.partitions, chunk)
            for earlier in on_their_way:
                await earlier.acknowledged()
            on_their_way = sent
        for earlier in on_their_way:
            await earlier.acknowledged()
    finally:
        await outbox.stop()
    return Restored(interactions, **copied)


async def _check_empty(settings: Settings, topic: str) -> None:
    partitions = [TopicPartition(topic, number) for number in range(settings.partitions)]
    held = sum((await end_offsets(Connection(settings), partitions)).values())
    if held:
        raise TopicMismatch(
            f"{topic} holds {held} records; expected a topic that was just created: choose another prefix"
        )


async def _check_kept(settings: Settings, topic: str, oldest_ms: int) -> None:
    kept_ms = await topics.retention_ms(settings, topic)
    age_ms = wall_ms() - oldest_ms
    if kept_ms is not None and 0 <= kept_ms < age_ms:
        raise TopicMismatch(
            f"{topic} keeps records for {kept_ms / DAY_MS:g} days and the log begins {age_ms / DAY_MS:.0f} days ago: "
            "Kafka could delete what no worker has read yet; until all is read, set: kafka-configs --alter --topic "
            f"{topic} --add-config retention.ms=-1"
        )


def _oldest_ms(log_dir: Path) -> int:
    tables = (table for table in read_in_order(log_dir) if table.num_rows)
    oldest = [pc.min(pc.coalesce(table["arrived_ms"], table["at_ms"])).as_py() for table in tables]
    if not oldest:
        raise DataInvalid(f"{log_dir} holds no interactions; expected the folder EFFICIENTREC_LOG_DIR of a trainer")
    return int(min(oldest))


async def _copy(outbox: Outbox, settings: Settings, source: str, target: str) -> int:
    """How many keys there are, each with its last record."""
    last: dict[bytes, Timed] = {}
    async for record in everything(settings, source, await topics.partitions_of(settings, source)):
        if record.key is not None and record.value is not None:
            last[record.key] = (record.key, record.value, record.timestamp)
        elif record.key is not None:
            last.pop(record.key, None)
    count = next(each.partitions for each in topics.wanted(settings) if each.name == target)
    for pending in await _send(outbox, target, count, list(last.values())):
        await pending.acknowledged()
    return len(last)


def _chunks(log_dir: Path) -> Iterator[list[Timed]]:
    for table in read_in_order(log_dir):
        for batch in table.to_batches(max_chunksize=CHUNK):
            yield [_record(row) for row in batch.to_pylist()]


def _record(row: dict[str, Any]) -> Timed:
    user_id, at = row["user_id"], row["at_ms"]
    event = Interaction(
        event_type=row["event_type"],
        user_id=user_id,
        item_id=row["item_id"],
        event_time=at if at > _CLEAR_MS else rfc3339(at),
        event_id=row["event_id"],
        value=row["value"],
    )
    return user_id.encode(), encode(event), at if row["arrived_ms"] is None else row["arrived_ms"]


async def _send(outbox: Outbox, topic: str, partitions: int, records: list[Timed]) -> list[Pending]:
    """Hands the records over, each to the partition of its key, in order."""
    dealt: dict[int, list[Timed]] = {}
    places = partitions_of([key for key, _, _ in records], partitions)
    for partition, record in zip(places.tolist(), records, strict=True):
        dealt.setdefault(partition, []).append(record)
    return [await outbox.send_timed(topic, partition, part) for partition, part in sorted(dealt.items())]
