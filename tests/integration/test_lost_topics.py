"""Topics that were deleted and made anew under the workers' feet, on Apache Kafka."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest
from aiokafka.admin import AIOKafkaAdminClient

from streams import topics
from tests.integration.harness import WAIT_SECONDS, World
from tests.integration.play import chance, expect_exact_rows, expect_last_lists
from tests.kafka import NativeKafka
from tests.toy import toy_model

pytestmark = pytest.mark.full


@pytest.fixture
def world(apache_kafka: NativeKafka, tmp_path: Path) -> Iterator[World]:
    """A world whose worker has handled something and has stopped."""
    world = World(apache_kafka.address, tmp_path)
    try:
        world.create_topics()
        world.release(toy_model())
        (worker,) = world.start("only")
        world.interact(*chance(1, 1000, users=100))
        world.wait_until_handled()
        assert worker.stop() == 0, worker.output()
        yield world
    finally:
        world.close()


def make_anew(world: World, topic: str) -> None:
    async def play() -> None:
        admin = AIOKafkaAdminClient(bootstrap_servers=world.address)
        await admin.start()
        await admin.delete_topics([topic])
        async with asyncio.timeout(WAIT_SECONDS):
            while topic in await admin.list_topics():  # noqa: ASYNC110  # the broker tells nobody
                await asyncio.sleep(0.05)
        await admin.close()
        await topics.create(world.settings)

    asyncio.run(play())


def test_a_changelog_made_anew_is_filled_again_from_the_source(world: World) -> None:
    make_anew(world, world.topics.changelog)
    (worker,) = world.start("only")

    world.interact(*chance(2, 200, users=100))
    world.wait_until_handled()

    assert "the topic was truncated or made anew" in worker.output()
    assert "going back there" in worker.output()
    expect_exact_rows(world, world.rows())
    expect_last_lists(world)
    assert list(worker.state_dir.glob("*.aside-*")), "what was on the disk must not be deleted"


def test_a_source_made_anew_stops_the_worker_with_words(world: World) -> None:
    make_anew(world, world.topics.interactions)
    (worker,) = world.start("only")

    status = worker.process.wait(WAIT_SECONDS)

    assert status == 1
    last = worker.output().splitlines()[-1]
    assert last.startswith("SourceTruncated: partition ")
    assert "the topic was made anew or has lost records" in last
    assert "EFFICIENTREC_GROUP" in last
