"""Topics are created as the settings want them, and told apart from topics made otherwise."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path

import pytest
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType

from efficientrec.errors import BrokerUnavailable, TopicMismatch
from streams import topics
from streams.broker import EmbeddedBroker, free_port
from streams.settings import Settings
from tests.kafka import NativeKafka


def settings_for(broker: EmbeddedBroker | NativeKafka, name: str, partitions: int = 3) -> Settings:
    return Settings(broker=f"kafka://{broker.address}", prefix=name, group=name, partitions=partitions)


async def make(settings: Settings, *new: NewTopic) -> None:
    admin = AIOKafkaAdminClient(bootstrap_servers=settings.bootstrap_servers)
    await admin.start()
    try:
        await admin.create_topics(list(new))
    finally:
        await admin.close()


def check_life_of_topics(broker: EmbeddedBroker | NativeKafka) -> None:
    settings = settings_for(broker, "life")

    with pytest.raises(TopicMismatch) as before:
        asyncio.run(topics.check(settings))
    first = asyncio.run(topics.create(settings))
    asyncio.run(topics.check(settings))
    second = asyncio.run(topics.create(settings))

    assert str(before.value).count("is missing; run: efficientrec topics create") == 7
    assert sorted(first) == sorted(topic.name for topic in topics.wanted(settings))
    assert second == []


def check_mismatches(broker: EmbeddedBroker | NativeKafka) -> None:
    settings = settings_for(broker, "odd")
    names = topics.Topics.of(settings)
    asyncio.run(
        make(
            settings,
            NewTopic(names.interactions, 2, 1, topic_configs={"cleanup.policy": "delete"}),
            NewTopic(names.lists, 3, 1, topic_configs={"cleanup.policy": "delete"}),
            NewTopic(names.items, 1, 1, topic_configs={"cleanup.policy": "compact,delete"}),
            NewTopic(names.releases, 2, 1, topic_configs={"cleanup.policy": "compact"}),
        )
    )
    asyncio.run(topics.create(settings))

    with pytest.raises(TopicMismatch) as caught:
        asyncio.run(topics.check(settings))

    lines = str(caught.value).splitlines()
    assert lines[0].startswith(f"{names.interactions} has 2 partitions; expected 3: set EFFICIENTREC_PARTITIONS to 2")
    assert lines[1].startswith(f"{names.lists} has cleanup.policy delete; set it to compact")
    assert lines[2].startswith(f"{names.releases} has 2 partitions; expected 1: delete it")
    assert len(lines) == 3


def test_topics_are_missing_then_created_then_left_alone(embedded_broker: EmbeddedBroker) -> None:
    check_life_of_topics(embedded_broker)


def test_every_mismatch_is_named_with_what_to_change(embedded_broker: EmbeddedBroker) -> None:
    check_mismatches(embedded_broker)


@pytest.mark.full
def test_the_same_holds_on_apache_kafka(apache_kafka: NativeKafka) -> None:
    check_life_of_topics(apache_kafka)
    check_mismatches(apache_kafka)


@pytest.mark.full
def test_nulls_outlast_an_absence_and_nothing_else_holds_up_compaction(apache_kafka: NativeKafka) -> None:
    settings = settings_for(apache_kafka, "nulls")
    asyncio.run(topics.create(settings))
    names = topics.Topics.of(settings)

    found = asyncio.run(configs_of(settings, names.users, names.changelog, names.lists))

    week = str(7 * 86_400 * 1000)
    assert found[names.users] == {"delete.retention.ms": week, "min.compaction.lag.ms": week}
    for name in (names.changelog, names.lists):  # recovery reads what compaction leaves
        assert found[name] == {"delete.retention.ms": week, "min.compaction.lag.ms": "0"}


async def configs_of(settings: Settings, *names: str) -> dict[str, dict[str, str]]:
    """How long each topic keeps a null, and how long every record."""
    asked = ["delete.retention.ms", "min.compaction.lag.ms"]
    admin = AIOKafkaAdminClient(bootstrap_servers=settings.bootstrap_servers)
    await admin.start()
    try:
        replies = await admin.describe_configs(
            [ConfigResource(ConfigResourceType.TOPIC, name, dict.fromkeys(asked)) for name in names]
        )
    finally:
        await admin.close()
    return {
        resource[3]: {name: value for name, value, *_ in resource[4] if name in asked}
        for reply in replies
        for resource in reply.resources
    }


def test_a_check_creates_nothing(embedded_broker: EmbeddedBroker) -> None:
    settings = settings_for(embedded_broker, "untouched")

    for _ in range(2):  # the embedded broker creates a topic that it is asked about by name
        with pytest.raises(TopicMismatch, match="is missing"):
            asyncio.run(topics.check(settings))


def test_a_broker_that_does_not_answer_is_named_after_the_wait() -> None:
    settings = Settings(broker=f"kafka://127.0.0.1:{free_port()}", broker_wait_seconds=0.3)

    with pytest.raises(BrokerUnavailable, match=r"127\.0\.0\.1:\d+ within 0\.3 seconds.*EFFICIENTREC_BROKER"):
        asyncio.run(topics.check(settings))


def test_the_changelog_has_the_name_that_faust_gives_it() -> None:
    import faust

    settings = Settings(group="shop")

    table = faust.App("shop", broker=settings.broker).Table(topics.TABLE)

    assert topics.Topics.of(settings).changelog == table._changelog_topic_name()


def test_what_is_keyed_by_user_shares_the_partition_count() -> None:
    names = topics.Topics.of(Settings(partitions=5))

    counts = {topic.name: topic.partitions for topic in topics.wanted(Settings(partitions=5))}

    assert {counts[name] for name in (names.interactions, names.users, names.lists, names.changelog)} == {5}
    assert {counts[name] for name in (names.items, names.releases, names.dead_letters)} == {1}


def test_the_page_of_events_lists_every_topic() -> None:
    page = (Path(__file__).parent.parent / "docs" / "events.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `([\w.-]+)` \|.*\| (N|1) \| (compact|delete) \|$", page, re.MULTILINE)

    wanted = topics.wanted(Settings(partitions=99))

    expected = {(topic.name, "N" if topic.partitions == 99 else "1", topic.cleanup) for topic in wanted}
    assert set(rows) == expected
