"""What one would write in Faust by the book: an agent with a table, one get, one set and one send per event.

It calls the same library as the worker, for one event at a time. No dead letters, no locks, nothing awaited beyond what
Faust asks for, so everything that the worker does beside is the worker's own cost.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import Any

import faust
import msgspec
import numpy as np
from yarl import URL

from efficientrec import profile
from efficientrec.artifact import load
from efficientrec.recommend import recommend
from streams.clock import wall_ms
from streams.lists import Cause, personal_lists
from streams.records import Trigger, decode_interactions, rfc3339
from streams.settings import Settings
from streams.slot import probe
from streams.topics import TABLE, Topics


class Task(msgspec.Struct):
    """What the process is told, as JSON on its command line."""

    broker: str
    group: str
    prefix: str
    partitions: int
    folder: str
    model: str
    session_timeout_seconds: float


def create_idiomatic(task: Task) -> faust.App:
    """The app, ready to start."""
    settings = Settings(broker=task.broker, prefix=task.prefix, group=task.group, partitions=task.partitions)
    topics = Topics.of(settings)
    model, _ = load(task.model)
    probe(model, settings.list_size)  # compiles the kernels, as the worker's model slot does
    app = faust.App(
        task.group,
        broker=URL(task.broker),
        datadir=Path(task.folder),
        store="rocksdb://",
        web_enabled=False,
        topic_allow_declare=False,
        topic_disable_leader=True,
        topic_partitions=task.partitions,
        broker_session_timeout=task.session_timeout_seconds,
        broker_heartbeat_interval=1.0,
        broker_commit_interval=1.0,
        consumer_auto_offset_reset="earliest",
        stream_recovery_delay=0.0,
        key_serializer="raw",
        value_serializer="raw",
        worker_redirect_stdouts=False,
    )
    rows = app.Table(
        TABLE,
        partitions=task.partitions,
        key_type=bytes,
        value_type=bytes,
        options={
            "driver": "rocksdict",
            "block_cache_size": 64 * 1024 * 1024,
            "write_buffer_size": 16 * 1024 * 1024,
            "max_write_buffer_number": 2,
            "max_open_files": 256,
            "bloom_filter_size": 10,
        },
    )
    lists = app.topic(topics.lists, key_type=bytes, value_type=bytes)

    async def refresh(stream: Any) -> None:
        async for event in stream.events():
            message = event.message
            now = wall_ms()
            decoded = decode_interactions(
                [event.value], [event.key], [message.offset], [now], now, settings.policy, 86_400_000
            )
            before = profile.unpack([rows.get(event.key)], model.encoder.width, model.encoder.key)
            folded = profile.fold(before, decoded.interactions, model.encoder)
            (row,) = profile.pack(folded.rows, message.partition)
            rows[event.key] = row
            found = recommend(model, folded.rows, settings.list_size, np.zeros(len(model.items), np.bool_))
            user = decoded.interactions.users[0]
            at = rfc3339(int(decoded.interactions.at[0]))
            trigger = Trigger(message.topic, message.partition, message.offset, decoded.event_ids[0], at)
            (body,) = personal_lists(model, found, [Cause(user, trigger, now)], rfc3339(now), "event")
            await lists.send(key=event.key, value=body)

    app.agent(app.topic(topics.interactions, key_type=bytes, value_type=bytes), name="refresh")(refresh)
    return app


async def _run(task: Task) -> None:
    app = create_idiomatic(task)
    await app.start()
    await app.wait_until_stopped()


if __name__ == "__main__":
    asyncio.run(_run(msgspec.json.decode(sys.argv[1], type=Task)))
