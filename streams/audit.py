"""Does every row say what the log says? An independent check of the whole path.

Reads the interactions and the changelog from their beginnings, recomputes each user's row plainly with the models of
the models folder, one event after the other, and compares bytes. Nothing of what the worker runs is used but the
decoding of records.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass

import fsspec
import numpy as np
from aiokafka import AIOKafkaConsumer
from aiokafka.structs import TopicPartition

from efficientrec import artifact
from efficientrec.errors import InteractionInvalid, RecordInvalid
from efficientrec.features import trait_keys
from efficientrec.interactions import key_of
from efficientrec.model import Model
from efficientrec.profile import HEADER
from efficientrec.recompute import Event, recompute
from streams.features import feature_texts
from streams.follower import Record
from streams.offsets import true_ends
from streams.records import decode_interaction, decode_user, moment_ms
from streams.settings import Settings
from streams.topics import Topics


@dataclass(frozen=True, slots=True)
class Audit:
    """What was found."""

    checked: int
    different: list[str]
    """Users whose row is missing, or is not what the log says."""


async def audit(settings: Settings, now_ms: int) -> Audit:
    """Compares every row with the log. The stream must be at rest: events that are not folded yet count as missing."""
    topics = Topics.of(settings)
    policy = settings.policy
    latest_ms = now_ms + int(1000 * settings.future_tolerance_seconds)
    events: dict[str, list[Event]] = defaultdict(list)
    partitions: dict[str, int] = {}
    traits: dict[str, tuple[int, list[int]]] = {}
    rows: dict[bytes, bytes] = {}
    models = _models(settings.models_dir)

    async for record in _everything(settings, topics.interactions, settings.partitions):
        try:
            event = decode_interaction(record.value, record.key, policy, latest_ms)
        except InteractionInvalid:
            continue
        rule = policy.rules[event.event_type]
        weight = rule.weight
        if rule.needs_value:
            assert event.value is not None
            weight = min(1.0, max(-1.0, (event.value - rule.neutral) / rule.span))
        partitions[event.user_id] = record.partition
        events[event.user_id].append(
            Event(
                record.offset, event.item_id, weight, moment_ms(event.event_time), event.event_id or None, rule.excludes
            )
        )
    async for record in _everything(settings, topics.users, settings.partitions):
        if record.key is None or record.value is None:
            continue
        try:
            user = decode_user(record.value, record.key)
        except RecordInvalid:
            continue
        traits[user.user_id] = (record.offset, trait_keys(feature_texts(user.features)).tolist())
        partitions.setdefault(user.user_id, record.partition)
    async for record in _everything(settings, topics.changelog, settings.partitions):
        if record.value is None:
            rows.pop(record.key, None)
        else:
            rows[record.key] = record.value

    different = []
    for user_id, partition in partitions.items():
        row = rows.get(user_id.encode())
        header = None if row is None else np.frombuffer(row[: HEADER.itemsize], HEADER)[0]
        version = 0 if header is None else int(header["model"])
        offset, keys = traits.get(user_id, (-1, []))
        expected = None
        if header is not None and (version == 0 or version in models):
            expected = recompute(
                events[user_id],
                models.get(version),
                built=int(header["built"]),
                partition=partition,
                traits=keys,
                users_offset=offset,
            )
        if row is None or row != expected:
            different.append(user_id)
    return Audit(len(partitions), different)


def _models(folder: str) -> dict[int, Model]:
    """Every model that the trainer wrote, by the key of its version: a row may be of an earlier one than the newest."""
    filesystem, path = fsspec.url_to_fs(folder)
    models = {}
    for found in filesystem.ls(path, detail=False) if filesystem.exists(path) else ():
        if filesystem.exists(f"{found}/{artifact.MANIFEST}"):
            model, _ = artifact.load(filesystem.unstrip_protocol(found))
            models[key_of(model.version)] = model
    return models


async def _everything(settings: Settings, topic: str, partitions: int) -> AsyncIterator[Record]:
    """Every record that the topic holds now, partition by partition in order."""
    consumer: AIOKafkaConsumer[bytes | None, bytes | None] = AIOKafkaConsumer(
        bootstrap_servers=settings.bootstrap_servers, auto_offset_reset="earliest", enable_auto_commit=False
    )
    await consumer.start()
    try:
        assigned: Sequence[TopicPartition] = [TopicPartition(topic, number) for number in range(partitions)]
        ends = await true_ends(consumer, list(assigned))
        await consumer.seek_to_beginning(*assigned)
        left = {partition for partition in assigned if await consumer.position(partition) < ends[partition]}
        while left:
            for records in (await consumer.getmany(*left, timeout_ms=500)).values():
                for record in records:
                    yield record
            left = {partition for partition in left if await consumer.position(partition) < ends[partition]}
    finally:
        await consumer.stop()
