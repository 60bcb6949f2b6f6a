"""The network that fails on purpose: what passes, what waits, what is refused."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest
from aiokafka import AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient, NewTopic

from streams.broker import EmbeddedBroker, broker_answers
from tests.simulation.proxy import Network, Proxy


@pytest.fixture
def proxy(embedded_broker: EmbeddedBroker) -> Iterator[Proxy]:
    """A network of one test, well at first."""
    proxy = Proxy([embedded_broker.address])
    proxy.start()
    try:
        yield proxy
    finally:
        proxy.stop()


async def send_through(proxy: Proxy, network: Network | None = None) -> list[bool]:
    """Sends a record and tells whether it was acknowledged soon; with a network, again while it is like that, and again
    when it is well."""
    admin = AIOKafkaAdminClient(bootstrap_servers=proxy.address)
    await admin.start()
    await admin.create_topics([NewTopic("through", 1, 1)])
    await admin.close()
    producer = AIOKafkaProducer(bootstrap_servers=proxy.address)
    await producer.start()
    try:
        soon = []
        for now in [Network.WELL] if network is None else [Network.WELL, network, Network.WELL]:
            await asyncio.to_thread(proxy.become, now)
            sent = await producer.send("through", b"record")
            done, _ = await asyncio.wait([sent], timeout=1.0 if now is not Network.WELL else 20.0)
            soon.append(bool(done) and sent.exception() is None)
        return soon
    finally:
        await producer.stop()


def test_a_client_finds_no_way_past_the_proxy(proxy: Proxy, embedded_broker: EmbeddedBroker) -> None:
    async def brokers() -> set[int]:
        producer = AIOKafkaProducer(bootstrap_servers=proxy.address)
        await producer.start()
        try:
            return {broker.port for broker in producer.client.cluster.brokers()}
        finally:
            await producer.stop()

    known = asyncio.run(brokers())

    assert known == {int(proxy.address.rpartition(":")[2])}
    assert embedded_broker.port not in known


@pytest.mark.parametrize("network", [Network.STALLED, Network.CUT])
def test_nothing_passes_until_the_network_heals(proxy: Proxy, network: Network) -> None:
    assert asyncio.run(send_through(proxy, network)) == [True, False, True]


def test_a_cut_network_refuses_new_connections(proxy: Proxy) -> None:
    assert broker_answers(proxy.address)

    proxy.become(Network.CUT)

    assert not broker_answers(proxy.address)
