"""Requests to a real broker: batches that are ready together travel together, and each has an answer of its own."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, TypeVar

import pytest
from aiokafka.errors import KafkaConnectionError, KafkaError
from aiokafka.protocol.produce import ProduceRequest
from aiokafka.structs import TopicPartition

from streams import topics
from streams.connection import Connection
from streams.offsets import end_offsets
from streams.settings import Settings
from streams.topics import Topics
from streams.wire import UNFENCED, KafkaWire, ProducerId

T = TypeVar("T")
NOW = 1_700_000_000_000
BROKERS = pytest.mark.parametrize("broker", ["embedded_broker", pytest.param("apache_kafka", marks=pytest.mark.full)])


async def appended(
    wire: KafkaWire, topic: str, partition: int, records: int, producer: ProducerId = UNFENCED, sequence: int = 0
) -> int:
    return await wire.append(topic, partition, producer, sequence, [(b"key", b"row")] * records, NOW)


async def patiently(attempt: Callable[[], Awaitable[T]]) -> T:
    """What the attempt returns, once a broker that has just been asked for something new is ready for it."""
    while True:
        try:
            return await attempt()
        except KafkaError as error:
            if not error.retriable:
                raise
            await asyncio.sleep(0.05)


async def leaders_known(wire: KafkaWire, *places: tuple[str, int]) -> None:
    """Returns when the partitions of topics that have just been made take records, of which each gets one."""
    for place in places:
        await patiently(partial(appended, wire, *place, 1))


def count_requests(wire: KafkaWire) -> list[Any]:
    """Produce requests from now on, as they are sent."""
    sent: list[Any] = []
    send = wire._client.send

    async def noted(node: int, request: Any, **how: Any) -> Any:
        if isinstance(request, ProduceRequest):
            sent.append(request)
        return await send(node, request, **how)

    wire._client.send = noted
    return sent


@BROKERS
def test_batches_of_several_partitions_travel_in_one_request(broker: str, request: pytest.FixtureRequest) -> None:
    server = request.getfixturevalue(broker).address
    settings = Settings(broker=f"kafka://{server}", prefix="wire", group="wire", partitions=3)
    names = Topics.of(settings)

    async def play() -> None:
        await topics.create(settings)
        wire = KafkaWire(Connection(settings), 10.0, [names.changelog, names.lists])
        await wire.start()
        try:
            places = [(names.changelog, 0), (names.changelog, 2), (names.lists, 0), (names.changelog, 0)]
            await leaders_known(wire, *places[:3])
            sent = count_requests(wire)
            firsts = await asyncio.gather(*(appended(wire, *place, 2) for place in places))
            assert sorted(firsts) == [1, 1, 1, 3]
            assert len(sent) == 2, "a request holds one batch of a partition; the second of 0 goes in the next"
            assert await appended(wire, names.changelog, 2, 1) == 3
            assert len(sent) == 3
        finally:
            await wire.stop()
        ends = await end_offsets(Connection(settings), [TopicPartition(names.changelog, number) for number in range(3)])
        assert {place.partition: end for place, end in ends.items()} == {0: 5, 1: 0, 2: 4}

    asyncio.run(play())


@pytest.mark.full
def test_one_batch_that_is_refused_takes_no_other_with_it(apache_kafka: Any) -> None:
    settings = Settings(broker=f"kafka://{apache_kafka.address}", prefix="refused", group="refused", partitions=2)
    changelog = Topics.of(settings).changelog

    async def play() -> None:
        await topics.create(settings)
        wire = KafkaWire(Connection(settings), 10.0, [changelog])
        await wire.start()
        try:
            await leaders_known(wire, (changelog, 0), (changelog, 1))
            producer = await patiently(lambda: wire.claim("refused-0"))
            assert await appended(wire, changelog, 0, 1, producer) == 1
            out_of_order, fine = await asyncio.gather(
                appended(wire, changelog, 0, 1, producer, sequence=7),
                appended(wire, changelog, 1, 1, producer),
                return_exceptions=True,
            )
        finally:
            await wire.stop()
        assert isinstance(out_of_order, KafkaError)
        assert fine == 1

    asyncio.run(play())


def test_when_the_broker_does_not_answer_every_batch_hears_of_it(embedded_broker: Any) -> None:
    settings = Settings(broker=f"kafka://{embedded_broker.address}", prefix="silent", group="silent", partitions=2)
    changelog = Topics.of(settings).changelog

    async def play() -> None:
        await topics.create(settings)
        wire = KafkaWire(Connection(settings), 10.0, [changelog])
        await wire.start()

        async def cut(*_: Any, **__: Any) -> Any:
            raise KafkaConnectionError("cut")

        send, wire._client.send = wire._client.send, cut
        try:
            attempts = (appended(wire, changelog, number, 1) for number in range(2))
            found = await asyncio.gather(*attempts, return_exceptions=True)
            wire._client.send = send
            assert await appended(wire, changelog, 0, 1) == 0
        finally:
            await wire.stop()
        assert [type(each) for each in found] == [KafkaConnectionError, KafkaConnectionError]

    asyncio.run(play())
