"""What several test files share: the brokers, each started once for all the tests that need it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from streams.broker import EmbeddedBroker
from tests.kafka import NativeKafka, native_kafka


@pytest.fixture(scope="session")
def embedded_broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedBroker]:
    """The embedded broker; give each test a prefix and a group of its own, since topics outlive the test."""
    with EmbeddedBroker(log=tmp_path_factory.mktemp("broker") / "broker.log") as broker:
        yield broker


@pytest.fixture(scope="session")
def apache_kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NativeKafka]:
    """Apache Kafka, for tests marked `full`; give each test a prefix and a group of its own."""
    with native_kafka(tmp_path_factory.mktemp("kafka")) as kafka:
        yield kafka
