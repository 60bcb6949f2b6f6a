"""Does every row say what the log says? An independent check of the whole path.

Reads the interactions and the changelog from their beginnings, recomputes each user's row plainly with the models of
the models folder, one event after the other, and compares bytes. Nothing of what the worker runs is used but the
decoding of records. Where a profile begins (an erasure may have come before it) and up to where its sums were made from
its ring is taken from the row's header. Rows that an earlier release began are passed over: those did not say so.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import fsspec
import numpy as np
from aiokafka import AIOKafkaConsumer
from aiokafka.structs import TopicPartition

from efficientrec import artifact
from efficientrec.errors import InteractionInvalid, RecordInvalid
from efficientrec.features import trait_keys
from efficientrec.interactions import key_of
from efficientrec.model import Model
from efficientrec.profile import HEADER, LAYOUT
from efficientrec.recompute import Event, recompute
from streams.aside import origin_of
from streams.cloudevents import completed
from streams.connection import Connection
from streams.features import feature_texts
from streams.follower import Record
from streams.offsets import true_ends
from streams.placement import partition_of
from streams.records import decode_interaction, decode_user, moment_ms
from streams.settings import Settings
from streams.topics import Topics

Place: TypeAlias = tuple[int, bytes]
"""Partition and key: a user whose producers place keys differently has a row on each partition."""


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
    events: dict[Place, list[Event]] = defaultdict(list)
    traits: dict[Place, tuple[int, list[int]]] = {}
    erased: set[Place] = set()
    rows: dict[Place, bytes] = {}
    models = _models(settings.models_dir)

    async for record in everything(settings, topics.interactions, settings.partitions):
        try:
            event = decode_interaction(completed(record.value, record.headers), record.key, policy, latest_ms)
        except InteractionInvalid:
            continue
        origin = origin_of(record)
        key = event.user_id.encode()
        is_misplaced = partition_of(key, settings.partitions) != record.partition
        if settings.wrong_partition == "forward" and origin is None and is_misplaced:
            continue  # it lies once more where it belongs
        rule = policy.rules[event.event_type]
        weight = rule.weight
        if rule.needs_value:
            assert event.value is not None
            weight = min(1.0, max(-1.0, (event.value - rule.neutral) / rule.span))
        events[record.partition, key].append(
            Event(
                record.offset,
                event.item_id,
                weight,
                moment_ms(event.event_time),
                event.event_id or origin,
                rule.excludes,
                max(0, record.timestamp),
            )
        )
    async for record in everything(settings, topics.users, settings.partitions):
        if record.key is None:
            continue
        place = (record.partition, record.key)
        if record.value is None:
            erased.add(place)
            traits.pop(place, None)
            continue
        try:
            user = decode_user(record.value, record.key)
        except RecordInvalid:
            continue
        traits[place] = (record.offset, trait_keys(feature_texts(user.features)).tolist())
    async for record in everything(settings, topics.changelog, settings.partitions):
        if record.key is None or record.key.startswith(b"\xff"):
            continue
        place = (record.partition, record.key)
        if record.value is None:
            rows.pop(place, None)
        else:
            rows[place] = record.value

    different = []
    checked = 0
    for place in dict.fromkeys((*events, *traits)):
        row = rows.get(place)
        expected = None
        if row is not None:
            if row[0] != LAYOUT:
                continue
            header = np.frombuffer(row[: HEADER.itemsize], HEADER)[0]
            if header["events"] and header["begun"] < 0:
                continue
            version = int(header["model"])
            offset, keys = traits.get(place, (-1, []))
            is_fresh = place in erased and not header["events"]  # described again, and nothing done since
            if version == 0 or version in models:
                expected = recompute(
                    [] if is_fresh else events[place],
                    models.get(version),
                    built=int(header["built"]),
                    begun=int(header["begun"]),
                    partition=place[0],
                    traits=keys,
                    users_offset=offset,
                    admission=settings.admission,
                )
        checked += 1
        if row != expected or (row is None and place not in erased):
            different.append(place[1].decode())
    return Audit(checked, different)


def _models(folder: str) -> dict[int, Model]:
    """Every model that the trainer wrote, by the key of its version: a row may be of an earlier one than the newest."""
    filesystem, path = fsspec.url_to_fs(folder)
    models = {}
    for found in filesystem.ls(path, detail=False) if filesystem.exists(path) else ():
        if filesystem.exists(f"{found}/{artifact.MANIFEST}"):
            model, _ = artifact.load(filesystem.unstrip_protocol(found))
            models[key_of(model.version)] = model
    return models


async def everything(settings: Settings, topic: str, partitions: int) -> AsyncIterator[Record]:
    """Every record that the topic holds now, partition by partition in order."""
    consumer: AIOKafkaConsumer[bytes | None, bytes | None] = AIOKafkaConsumer(
        auto_offset_reset="earliest", enable_auto_commit=False, **Connection(settings).options()
    )
    try:
        await consumer.start()
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
