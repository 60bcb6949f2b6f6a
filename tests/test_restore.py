"""A new installation is given what a former one knew, and nothing twice."""

from __future__ import annotations

import asyncio
from contextlib import closing
from pathlib import Path

import pyarrow as pa
import pytest

from efficientrec.errors import DataInvalid, TopicMismatch
from streams import topics
from streams.broker import EmbeddedBroker
from streams.clock import wall_ms
from streams.connection import Connection
from streams.log import SCHEMA, InteractionLog
from streams.outbox import Outbox
from streams.placement import partition_of
from streams.records import RELEASE_KEY, Item, User, decode_interaction, encode
from streams.restore import Restored, restore
from streams.settings import Settings
from streams.topics import Topics
from tests.test_replay import everything
from tests.toy import START

ARRIVED = wall_ms() - 3_600_000


def settings_for(broker: EmbeddedBroker, name: str, partitions: int) -> Settings:
    return Settings(broker=f"kafka://{broker.address}", prefix=name, group=name, partitions=partitions)


def logged(folder: Path, *events: tuple[int, str, str], event_type: str = "like", value: float | None = None) -> Path:
    """A log of these events: partition, user, item; each a second after the one before it."""
    with closing(InteractionLog(folder)) as log:
        for number, (partition, user, item) in enumerate(events):
            row = {
                **dict.fromkeys(SCHEMA.names),
                "offset": number,
                "at_ms": START + 1000 * number,
                "user_id": user,
                "item_id": item,
                "event_type": event_type,
                "value": value,
                "weight": 1.0,
                "event_id": f"e{number}",
                "arrived_ms": ARRIVED + 1000 * number,
            }
            log.add(partition, number, number, pa.RecordBatch.from_pylist([row], SCHEMA))
        log.flush()
    return folder


def test_interactions_go_in_order_to_where_their_key_points_with_their_ids_and_times(
    embedded_broker: EmbeddedBroker, tmp_path: Path
) -> None:
    settings = settings_for(embedded_broker, "more-partitions", 5)
    events = [(number % 2, f"user {number % 3}", f"item {number}") for number in range(30)]
    log = logged(tmp_path / "log", *sorted(events), event_type="rating", value=4.0)

    async def play() -> Restored:
        await topics.create(settings)
        return await restore(settings, log)

    done = asyncio.run(play())
    records = asyncio.run(everything(settings, Topics.of(settings).interactions, 5))

    assert done == Restored(interactions=30, items=0, users=0, releases=0)
    found: dict[str, list[str]] = {}
    for partition, placed in records.items():
        for record in placed:
            event = decode_interaction(record.value, record.key, settings.policy, ARRIVED)
            number = int((event.event_id or "").removeprefix("e"))
            assert partition == partition_of(event.user_id.encode(), 5)
            assert (event.event_type, event.value) == ("rating", 4.0)
            assert (event.event_time, record.timestamp) == (START + 1000 * number, ARRIVED + 1000 * number)
            found.setdefault(event.user_id, []).append(event.item_id)
    assert found == {
        f"user {user}": [item for _, name, item in sorted(events) if name == f"user {user}"] for user in range(3)
    }


def test_the_last_word_on_items_users_and_models_is_copied_and_erasures_are_not(
    embedded_broker: EmbeddedBroker, tmp_path: Path
) -> None:
    former, settings = settings_for(embedded_broker, "former", 2), settings_for(embedded_broker, "latter", 3)
    log = logged(tmp_path / "log", (0, "u1", "i1"))
    before, after = Topics.of(former), Topics.of(settings)

    async def play() -> Restored:
        outbox = Outbox(Connection(former), 10.0)
        await topics.create(former)
        await topics.create(settings)
        await outbox.start()
        for topic, key, value in (
            (before.items, b"i1", encode(Item("i1", "Once"))),
            (before.items, b"i1", encode(Item("i1", "Heat"))),
            (before.users, b"u1", encode(User("u1", {"age": "25"}))),
            (before.users, b"u2", encode(User("u2", {"age": "35"}))),
            (before.users, b"u2", None),
            (before.releases, RELEASE_KEY, b"{}"),
        ):
            count = 2 if topic == before.users else 1
            await (await outbox.send(topic, partition_of(key, count), [(key, value)], ARRIVED)).acknowledged()
        await outbox.stop()
        return await restore(settings, log, "former")

    done = asyncio.run(play())

    assert done == Restored(interactions=1, items=1, users=1, releases=1)
    ((item,),) = asyncio.run(everything(settings, after.items, 1)).values()
    assert item.value == encode(Item("i1", "Heat"))
    users = asyncio.run(everything(settings, after.users, 3))
    assert {key: [record.key for record in placed] for key, placed in users.items() if placed} == {
        partition_of(b"u1", 3): [b"u1"]
    }
    ((release,),) = asyncio.run(everything(settings, after.releases, 1)).values()
    assert (release.key, release.value) == (RELEASE_KEY, b"{}")


def test_topics_that_hold_something_are_left_alone(embedded_broker: EmbeddedBroker, tmp_path: Path) -> None:
    settings = settings_for(embedded_broker, "twice", 2)
    log = logged(tmp_path / "log", (0, "u1", "i1"))

    async def play() -> None:
        await topics.create(settings)
        await restore(settings, log)
        await restore(settings, log)

    with pytest.raises(TopicMismatch, match="holds 1 records; expected a topic that was just created"):
        asyncio.run(play())


def test_a_folder_without_a_log_is_refused(embedded_broker: EmbeddedBroker, tmp_path: Path) -> None:
    settings = settings_for(embedded_broker, "no-log", 2)

    async def play() -> None:
        await topics.create(settings)
        await restore(settings, tmp_path)

    with pytest.raises(DataInvalid, match="holds no interactions"):
        asyncio.run(play())
