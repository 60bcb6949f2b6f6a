"""Where a partition ends is found whatever it ends with."""

from __future__ import annotations

import asyncio

import pytest
from aiokafka import AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.structs import TopicPartition

from streams.offsets import end_offsets
from tests.kafka import NativeKafka


@pytest.mark.full
def test_a_partition_that_ends_with_the_marker_of_a_transaction_has_an_end(apache_kafka: NativeKafka) -> None:
    async def ends() -> dict[TopicPartition, int]:
        server = apache_kafka.address
        admin = AIOKafkaAdminClient(bootstrap_servers=server)
        await admin.start()
        await admin.create_topics([NewTopic("transacted", 1, 1)])
        await admin.close()
        producer = AIOKafkaProducer(bootstrap_servers=server, transactional_id="transacted")
        await producer.start()
        async with producer.transaction():
            await producer.send_and_wait("transacted", b"record", partition=0)
        await producer.stop()
        async with asyncio.timeout(15):
            return await end_offsets([server], [TopicPartition("transacted", 0)])

    assert asyncio.run(ends()) == {TopicPartition("transacted", 0): 2}
