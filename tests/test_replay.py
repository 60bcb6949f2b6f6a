"""A replay sends a data set whole, in time order, at the pace that was asked for."""

from __future__ import annotations

import asyncio
from dataclasses import replace as changed

import numpy as np
import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.structs import TopicPartition

from efficientrec.datasets import Dataset, Item
from efficientrec.errors import SettingInvalid
from streams import topics
from streams.broker import EmbeddedBroker
from streams.follower import Record
from streams.offsets import true_ends
from streams.placement import partition_of
from streams.records import decode_interactions, decode_item, decode_user
from streams.replay import Pause, Replayed, Speed, event_ids_of, replay
from streams.settings import Settings
from streams.topics import Topics

START = 1_700_000_000_000


def small_dataset(events: int = 60) -> Dataset:
    """Ten users in turn, a rating a minute; every fourth without a value."""
    place = np.arange(events)
    return Dataset(
        name="small",
        users=[f"user {number}" for number in range(10)],
        items=[f"item {number}" for number in range(7)],
        user=(place % 10).astype(np.int32),
        item=(place % 7).astype(np.int32),
        value=np.where(place % 4 == 3, np.nan, 1.0 + place % 5),
        at=START + 60_000 * place,
        split=None,
        clock="timestamp",
        catalogue={"item 0": Item("Heat (1995)", ("Crime",), {"studio": "WB"}), "item 9": Item()},
        people={"user 3": {"age": "25"}},
    )


def settings_for(broker: EmbeddedBroker, name: str) -> Settings:
    return Settings(broker=f"kafka://{broker.address}", prefix=name, group=name, partitions=4)


async def everything(settings: Settings, topic: str, partitions: int) -> dict[int, list[Record]]:
    """All records of a topic by partition."""
    consumer: AIOKafkaConsumer[bytes | None, bytes | None] = AIOKafkaConsumer(
        bootstrap_servers=settings.bootstrap_servers, enable_auto_commit=False
    )
    await consumer.start()
    found: dict[int, list[Record]] = {}
    try:
        for number in range(partitions):
            partition = TopicPartition(topic, number)
            end = (await true_ends(consumer, [partition]))[partition]
            consumer.seek(partition, 0)
            found[number] = []
            while len(found[number]) < end:
                found[number] += (await consumer.getmany(timeout_ms=200)).get(partition, [])
    finally:
        await consumer.stop()
    return found


def test_everything_arrives_in_time_order_where_its_key_belongs(embedded_broker: EmbeddedBroker) -> None:
    settings, dataset = settings_for(embedded_broker, "whole"), small_dataset()
    names = Topics.of(settings)

    async def play() -> tuple[Replayed, dict[int, list[Record]], list[Record], list[Record]]:
        await topics.create(settings)
        counts = await replay(dataset, settings)
        users = await everything(settings, names.users, 4)
        return (
            counts,
            await everything(settings, names.interactions, 4),
            (await everything(settings, names.items, 1))[0],
            [record for records in users.values() for record in records],
        )

    counts, interactions, items, users = asyncio.run(play())

    assert (counts.items, counts.users, counts.interactions) == (2, 1, 60)
    ids = []
    for partition, records in interactions.items():
        decoded = decode_interactions(
            [record.value for record in records],
            [record.key for record in records],
            [record.offset for record in records],
            [record.timestamp for record in records],
            START + 10**9,
            settings.policy,
            0,
        )
        assert not decoded.rejected
        assert (np.diff(decoded.interactions.at) > 0).all()
        assert all(partition_of(user.encode(), 4) == partition for user in decoded.interactions.users)
        assert set(decoded.event_types) <= {"rating", "like"}
        ids += decoded.event_ids
    assert sorted(ids, key=str) == sorted(event_ids_of(dataset))
    item = decode_item(items[0].value or b"", items[0].key)
    assert (item.title, item.categories, item.features) == ("Heat (1995)", ["Crime"], {"studio": "WB"})
    assert decode_item(items[1].value or b"", items[1].key).title is None
    assert decode_user(users[0].value or b"", users[0].key).features == {"age": "25"}


def test_keys_go_where_kafkas_own_clients_put_them(embedded_broker: EmbeddedBroker) -> None:
    settings = settings_for(embedded_broker, "murmur")

    async def play() -> list[int]:
        await topics.create(settings)
        producer = AIOKafkaProducer(bootstrap_servers=settings.bootstrap_servers)
        await producer.start()
        try:
            topic = Topics.of(settings).interactions
            return [(await producer.send_and_wait(topic, b"", key=str(n).encode())).partition for n in range(50)]
        finally:
            await producer.stop()

    assert asyncio.run(play()) == [partition_of(str(n).encode(), 4) for n in range(50)]


@pytest.mark.parametrize(("key", "murmur2"), [(b"21", -973932308), (b"foobar", -790332482)])
def test_the_hash_is_that_of_kafka_itself(key: bytes, murmur2: int) -> None:
    assert partition_of(key, 1009) == (murmur2 & 0x7FFFFFFF) % 1009  # from the tests of Apache Kafka


def test_a_part_can_be_sent_and_then_the_rest(embedded_broker: EmbeddedBroker) -> None:
    settings, dataset = settings_for(embedded_broker, "parts"), small_dataset()

    async def play() -> tuple[int, int, int]:
        await topics.create(settings)
        first = await replay(dataset, settings, limit=25)
        rest = await replay(dataset, settings, start=25)
        found = await everything(settings, Topics.of(settings).interactions, 4)
        return first.interactions, rest.interactions, sum(map(len, found.values()))

    assert asyncio.run(play()) == (25, 35, 60)


def test_the_pace_is_kept_and_a_pause_stops_it(embedded_broker: EmbeddedBroker) -> None:
    settings, dataset = settings_for(embedded_broker, "pace"), small_dataset()
    seen: list[Replayed] = []

    async def play() -> tuple[int, int, Replayed]:
        await topics.create(settings)
        pause = Pause()
        task = asyncio.create_task(replay(dataset, settings, Speed.parse("60/s"), progress=seen.append, pause=pause))
        await asyncio.sleep(0.5)
        pause.hold()
        await asyncio.sleep(0.3)
        held = seen[-1].interactions
        await asyncio.sleep(0.5)
        still = seen[-1].interactions
        pause.go_on()
        return held, still, await task

    held, still, counts = asyncio.run(play())

    assert held == still < 40
    assert counts.interactions == seen[-1].interactions == 60
    assert counts.seconds >= 59 / 60 + 0.7  # sixty events at sixty a second, and the pause


def test_time_can_be_sped_up(embedded_broker: EmbeddedBroker) -> None:
    settings, dataset = settings_for(embedded_broker, "times"), small_dataset(31)

    async def play() -> Replayed:
        await topics.create(settings)
        return await replay(dataset, settings, Speed.parse("3600x"))

    assert 0.5 <= asyncio.run(play()).seconds < 5  # half an hour in half a second


def test_event_ids_follow_from_the_rows_and_differ() -> None:
    dataset = small_dataset()
    twice = changed(
        dataset, item=np.zeros(60, np.int32), at=np.full(60, START), user=np.repeat([4, 5], 30).astype(np.int32)
    )

    assert event_ids_of(dataset) == event_ids_of(small_dataset(90))[:60]
    assert len(set(event_ids_of(twice))) == 60
    assert [each.rpartition("-")[2] for each in event_ids_of(twice)[28:32]] == ["29", "30", "1", "2"]


@pytest.mark.parametrize("text", ["", "fast", "0/s", "-1x", "10", "x", "inf/s"])
def test_a_speed_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(SettingInvalid, match="expected such as 1000/s"):
        Speed.parse(text)
