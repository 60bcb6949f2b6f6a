"""An erasure by hand reaches every place, and the command says which it has not reached."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from aiokafka import AIOKafkaConsumer
from aiokafka.structs import OffsetAndMetadata, TopicPartition

from efficientrec.errors import ErasureUnfinished, RecordInvalid, TopicMismatch
from streams import topics
from streams.broker import EmbeddedBroker
from streams.children import start_child, stop_child
from streams.connection import Connection
from streams.erase import erase
from streams.log import read_log
from streams.outbox import KeyValue, Outbox
from streams.placement import partition_of
from streams.records import Interaction, User, encode
from streams.settings import Settings
from streams.topics import Topics
from tests.environment import environment
from tests.integration.harness import World
from tests.toy import DAY, START

USER = "u1"


class Others:
    """Plays the part of workers and trainer by hand: what they would send, and what their groups would commit."""

    def __init__(self, broker: EmbeddedBroker, name: str) -> None:
        self.settings = Settings(broker=f"kafka://{broker.address}", prefix=name, group=name, partitions=3)
        self.topics = Topics.of(self.settings)
        self.partition = partition_of(USER.encode(), 3)
        self.told: list[str] = []
        asyncio.run(topics.create(self.settings))

    def erase(self, seconds: float = 2.0) -> None:
        asyncio.run(erase(self.settings, USER, seconds, self.told.append))

    def send(self, topic: str, *values: bytes | None) -> int:
        """Records under the user's key; returns the offset of the last one."""
        return asyncio.run(self._send(topic, [(USER.encode(), value) for value in values]))

    async def _send(self, topic: str, records: list[KeyValue]) -> int:
        outbox = Outbox(Connection(self.settings), 10.0)
        await outbox.start()
        try:
            offset = await (await outbox.send(topic, self.partition, records, START)).acknowledged()
        finally:
            await outbox.stop()
        assert offset is not None
        return offset

    def commit(self, suffix: str, offset: int, partition: int | None = None) -> None:
        """A group's position in the users topic."""
        asyncio.run(self._commit(suffix, offset, self.partition if partition is None else partition))

    async def _commit(self, suffix: str, offset: int, partition: int) -> None:
        place = TopicPartition(self.topics.users, partition)
        consumer: AIOKafkaConsumer[bytes, bytes] = AIOKafkaConsumer(
            bootstrap_servers=self.settings.bootstrap_servers, group_id=self.settings.group + suffix
        )
        await consumer.start()
        try:
            consumer.assign([place])
            await consumer.commit({place: OffsetAndMetadata(offset, "")})
        finally:
            await consumer.stop()


def test_what_can_be_no_users_id_is_refused(embedded_broker: EmbeddedBroker) -> None:
    settings = Settings(broker=f"kafka://{embedded_broker.address}", prefix="nowhere", group="nowhere")

    with pytest.raises(RecordInvalid, match="expected 1 to 512 bytes"):
        asyncio.run(erase(settings, "", 1, print))
    with pytest.raises(RecordInvalid, match="expected 1 to 512 bytes"):
        asyncio.run(erase(settings, "é" * 257, 1, print))
    with pytest.raises(RecordInvalid, match="UTF-8"):
        asyncio.run(erase(settings, "\udcff", 1, print))
    with pytest.raises(TopicMismatch, match=r"nowhere\.users\.changes\.v1 is missing"):
        asyncio.run(erase(settings, "u1", 1, print))


def test_places_that_nobody_erases_from_are_named_with_what_to_look_at(embedded_broker: EmbeddedBroker) -> None:
    others = Others(embedded_broker, "erase-nobody")
    others.send(others.topics.users, encode(User(USER)))
    others.commit("", 1)  # a worker was here before the null, which gets offset 1

    with pytest.raises(ErasureUnfinished) as raised:
        others.erase()

    sent, log, not_covered = others.told
    assert sent.startswith(f"Sent, at offset 1 of partition {others.partition} of erase-nobody.users.changes.v1")
    assert log.startswith("log: no trainer has run yet")
    assert "erase-nobody.interactions.events.v1 and erase-nobody.interactions.dlq.v1" in not_covered
    _, profile, its_list = str(raised.value).splitlines()
    assert profile == "profile: no worker of group erase-nobody has handled it; is one running?"
    assert its_list == "list: no worker of group erase-nobody has handled it; is one running?"
    assert others.send(others.topics.users, None) == 2  # the null is in the topic


def test_a_place_is_done_only_when_the_topic_shows_it(embedded_broker: EmbeddedBroker) -> None:
    others = Others(embedded_broker, "erase-shown")
    others.send(others.topics.changelog, b"a row")
    others.send(others.topics.lists, b"a list", None)
    others.commit("", 1)  # as if a worker had handled offset 0, which the null will get
    others.commit("-trainer", 1)

    with pytest.raises(ErasureUnfinished) as raised:
        others.erase()

    assert others.told[1:-1] == ["list: erased", "log: erased"]
    assert str(raised.value).splitlines()[1:] == [
        "profile: a worker has passed it, but offset 0 of erase-shown-profiles-changelog stands; see the worker's log"
    ]


def test_a_user_of_whom_nothing_is_known_is_erased_all_the_same(embedded_broker: EmbeddedBroker) -> None:
    others = Others(embedded_broker, "erase-unknown")
    others.commit("", 1)

    others.erase(10)

    assert others.told[1:3] == ["profile: erased", "list: erased"]


def test_a_user_who_is_back_already_has_been_erased_all_the_same(embedded_broker: EmbeddedBroker) -> None:
    others = Others(embedded_broker, "erase-back")
    others.send(others.topics.changelog, b"a row")
    others.send(others.topics.lists, b"a list")

    async def play() -> None:
        sent = asyncio.Event()

        def tell(line: str) -> None:
            others.told.append(line)
            sent.set()

        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(erase(others.settings, USER, 20, tell))
            await sent.wait()
            for topic in (others.topics.changelog, others.topics.lists):
                await others._send(topic, [(USER.encode(), None), (USER.encode(), b"new")])
            await others._commit("", 1, others.partition)

    asyncio.run(play())

    assert "profile: erased; what is there now comes from after the erasure" in others.told
    assert "list: erased; what is there now comes from after the erasure" in others.told


def test_a_trainer_of_which_something_is_known_is_waited_for(embedded_broker: EmbeddedBroker) -> None:
    others = Others(embedded_broker, "erase-trainer")
    others.commit("", 9)
    others.commit("-trainer", 0, (others.partition + 1) % 3)

    with pytest.raises(ErasureUnfinished, match=f"log: the trainer has not read partition {others.partition}"):
        others.erase()
    others.commit("-trainer", 1)  # it has carried out the erasure at offset 0; the next one gets offset 1
    with pytest.raises(ErasureUnfinished, match="log: no trainer has carried it out"):
        others.erase()


@pytest.mark.parametrize("broker", ["embedded_broker", pytest.param("apache_kafka", marks=pytest.mark.full)])
def test_a_user_is_erased_from_profile_list_and_log(
    broker: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    address = request.getfixturevalue(broker).address
    world = World(address, tmp_path, log_dir=tmp_path / "log", train_first_events=10**9, trainer_metrics_port=0)
    world.create_topics()
    world.start("only")
    try:
        with trainer(world.settings):
            for user in ("stays", "goes"):
                world.produce(world.topics.users, [(user.encode(), encode(User(user, {"country": "SE"})))])
            world.interact(*(like(user, f"i{number}") for number in range(5) for user in ("stays", "goes")))
            world.wait_until_handled()
            world.wait_until(lambda: len(read_log(world.settings.log_dir)) == 10, "all interactions are logged")
            assert b"goes" in world.rows()
            assert world.list_of("goes") is not None

            done = command(world.settings, "erase", "goes")

            assert done.returncode == 0, done.stderr
            lines = done.stdout.splitlines()
            assert sorted(lines[1:4]) == ["list: erased", "log: erased", "profile: erased"]
            assert lines[4].startswith("Not covered: ")
            assert list(world.rows()) == [b"stays"]
            assert world.list_of("goes") is None
            assert world.list_of("stays") is not None
            assert read_log(world.settings.log_dir).users == ["stays"]

            world.interact(like("goes", "i9"))
            world.wait_until_handled()
            world.wait_until(lambda: len(read_log(world.settings.log_dir)) == 6, "who comes back is logged again")
            assert world.list_of("goes") is not None
    finally:
        world.close()

    world.settings = replace(world.settings, broker_wait_seconds=1.0)
    late = command(world.settings, "erase", "stays", "--timeout", "1")

    assert late.returncode == 1
    assert "ErasureUnfinished" in late.stderr
    assert "log: no trainer has carried it out" in late.stderr


def like(user: str, item: str) -> Interaction:
    return Interaction("like", user, item, START + DAY)


@contextmanager
def trainer(settings: Settings) -> Iterator[None]:
    process = start_child([sys.executable, "-m", "streams", "trainer"], environ=environment(settings))
    try:
        yield
    finally:
        stop_child(process)


def command(settings: Settings, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "streams", *words],
        env=environment(settings),
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
