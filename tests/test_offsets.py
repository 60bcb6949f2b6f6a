"""Where a partition ends is found whatever it ends with."""

from __future__ import annotations

import asyncio

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.structs import TopicPartition

from streams import topics
from streams.connection import Connection
from streams.lag import Look
from streams.offsets import end_offsets, looks, position
from streams.settings import Settings
from streams.topics import Topics
from streams.wire import KafkaWire
from streams.writer import Writers
from tests.kafka import NativeKafka


@pytest.mark.parametrize("broker", ["embedded_broker", pytest.param("apache_kafka", marks=pytest.mark.full)])
def test_a_partition_ends_after_its_last_record_also_where_the_broker_tells_of_the_last_batch(
    broker: str, request: pytest.FixtureRequest
) -> None:
    server = request.getfixturevalue(broker).address
    settings = Settings(broker=f"kafka://{server}", prefix="ends", group="ends", partitions=1)
    changelog = Topics.of(settings).changelog

    async def ends() -> dict[TopicPartition, int]:
        await topics.create(settings)
        wire = KafkaWire(Connection(settings), 10.0, [changelog])
        await wire.start()
        writers = Writers(wire, changelog, changelog, fences=False, alive=lambda: True, clock=int)
        await writers.claim(0, 1)
        for size in (3, 5):  # the embedded broker tells of 5, where the last batch begins, and one more
            await writers.of(0, 1).append(changelog, [(b"key", b"row")] * size, 1_700_000_000_000)
        await wire.stop()
        return await end_offsets(Connection(settings), [TopicPartition(changelog, 0)])

    assert asyncio.run(ends()) == {TopicPartition(changelog, 0): 9}


@pytest.mark.parametrize("broker", ["embedded_broker", pytest.param("apache_kafka", marks=pytest.mark.full)])
def test_from_outside_one_sees_how_far_a_group_is_and_how_old_what_it_lacks(
    broker: str, request: pytest.FixtureRequest
) -> None:
    server = request.getfixturevalue(broker).address
    settings = Settings(broker=f"kafka://{server}", prefix="seen", group="seen", partitions=3)
    behind, done, empty = (TopicPartition(Topics.of(settings).interactions, number) for number in range(3))

    async def seen() -> dict[TopicPartition, Look]:
        await topics.create(settings)
        producer = AIOKafkaProducer(bootstrap_servers=server)
        await producer.start()
        for number in range(6):
            for place in (behind, done):
                at = 1_700_000_000_000 + number
                await producer.send_and_wait(place.topic, b"event", partition=place.partition, timestamp_ms=at)
        await producer.stop()
        group: AIOKafkaConsumer[bytes | None, bytes | None] = AIOKafkaConsumer(
            bootstrap_servers=server, group_id="seen", enable_auto_commit=False
        )
        await group.start()
        group.assign([behind, done])
        await group.commit({behind: 4, done: 6})
        await group.stop()
        return await looks(Connection(settings), "seen", [behind, done, empty], 15.0)

    found = asyncio.run(seen())

    assert found[behind][:3] == (6, 4, 4)
    # The broker's own time where it keeps one, the producer's where not.
    assert (found[behind].oldest_ms or 0) >= 1_700_000_000_004
    assert found[done] == Look(6, 6, 6)
    assert found[empty] == Look(0, 0, 0)


@pytest.mark.full
def test_a_partition_that_ends_with_the_marker_of_a_transaction_has_an_end(apache_kafka: NativeKafka) -> None:
    partition = TopicPartition("transacted", 0)

    async def ends() -> dict[TopicPartition, int]:
        server = apache_kafka.address
        admin = AIOKafkaAdminClient(bootstrap_servers=server)
        await admin.start()
        await admin.create_topics([NewTopic(partition.topic, 1, 1)])
        await admin.close()
        producer = AIOKafkaProducer(bootstrap_servers=server, transactional_id="transacted")
        await producer.start()
        async with producer.transaction():
            await producer.send_and_wait(partition.topic, b"record", partition=0)
        await producer.stop()
        async with asyncio.timeout(60):
            consumer: AIOKafkaConsumer[bytes | None, bytes | None] = AIOKafkaConsumer(bootstrap_servers=server)
            await consumer.start()
            while True:
                if (await consumer.end_offsets([partition]))[partition] == 2:  # Kafka writes the marker a little later
                    break
                await asyncio.sleep(0.05)
            await consumer.stop()
            return await end_offsets(Connection(Settings(broker=f"kafka://{server}")), [partition])

    assert asyncio.run(ends()) == {partition: 2}


def test_of_a_partition_that_has_gone_to_another_worker_no_position_is_known() -> None:
    """It is asked for while another thread joins the group, so at any moment of that."""
    here, gone = TopicPartition("events", 0), TopicPartition("events", 1)

    async def positions() -> list[int | None]:
        consumer: AIOKafkaConsumer[bytes | None, bytes | None] = AIOKafkaConsumer()
        found = [position(consumer, here)]
        consumer.subscribe(["events"])
        found.append(position(consumer, here))
        subscription = consumer._subscription
        subscription.assign_from_subscribed([here])
        found.append(position(consumer, here))
        subscription.seek(here, 7)
        found += [position(consumer, here), position(consumer, gone)]
        await consumer.stop()
        return found

    assert asyncio.run(positions()) == [None, None, None, 7, None]
