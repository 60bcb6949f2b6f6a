"""Erases a user by hand: sends the null that a producer would send, and looks on until it is done everywhere.

Knows where something of a user is kept, and by what one sees that it is gone. Removes nothing itself: profile and list
are the worker's, the interaction log is the trainer's (worker.py, trainer.py).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NamedTuple, TypeAlias

from aiokafka import AIOKafkaConsumer
from aiokafka.errors import KafkaError
from aiokafka.structs import TopicPartition

from efficientrec.errors import BrokerUnavailable, ErasureUnfinished
from streams.clock import wall_ms
from streams.connection import Connection
from streams.offsets import end_offsets
from streams.outbox import Outbox
from streams.placement import partition_of
from streams.records import check_user_key
from streams.rights import check
from streams.settings import Settings
from streams.show import last_record, reader
from streams.topics import Topics

if TYPE_CHECKING:
    Consumer: TypeAlias = AIOKafkaConsumer[bytes | None, bytes | None]

LOOK_SECONDS: Final = 0.5


class Seen(NamedTuple):
    """How far the erasure has come in one place."""

    is_done: bool
    said: str
    """What was seen, and while it is not done, what to look at."""


@dataclass(frozen=True, slots=True)
class Erasure:
    """A null on the users topic, and what else it takes to follow it."""

    settings: Settings
    key: bytes
    partition: int
    """Of all topics that are keyed by user."""
    offset: int
    ends: Mapping[str, int]
    """Changelog and lists topic → offset at which the partition ended before the null was sent."""
    reader: Consumer
    workers: Consumer
    """It reads what the workers' group has committed."""
    trainer: Consumer
    """It reads what the trainer's group has committed."""

    async def profile(self) -> Seen:
        """The row is gone when its last record in the changelog is a null."""
        return await self._gone(Topics.of(self.settings).changelog)

    async def list(self) -> Seen:
        """The list is gone when its last record is a null."""
        return await self._gone(Topics.of(self.settings).lists)

    async def log(self) -> Seen:
        """The trainer commits an erasure when the user has left its files for good."""
        users = Topics.of(self.settings).users
        committed = await self.trainer.committed(TopicPartition(users, self.partition))
        if committed is not None:
            waits = "no trainer has carried it out; is one running (efficientrec trainer)?"
            return Seen(True, "erased") if committed > self.offset else Seen(False, waits)
        places = [TopicPartition(users, number) for number in range(self.settings.partitions)]
        if all(other is None for other in await asyncio.gather(*map(self.trainer.committed, places))):
            return Seen(True, "no trainer has run yet for this group; one that starts will carry it out first")
        return Seen(False, f"the trainer has not read partition {self.partition} of {users}; is one running?")

    async def _gone(self, topic: str) -> Seen:
        """Whether the workers have handled the null, and the topic shows it: its last record of the user is a null, or
        is newer than the null on the users topic, as the user has come back."""
        users = TopicPartition(Topics.of(self.settings).users, self.partition)
        if (await self.workers.committed(users) or 0) <= self.offset:
            return Seen(False, f"no worker of group {self.settings.group} has handled it; is one running?")
        place = TopicPartition(topic, self.partition)
        last = await last_record(self.reader, place, self.key, self.settings.request_timeout_seconds)
        if last is None or last.value is None:
            return Seen(True, "erased")
        if last.offset >= self.ends[topic]:
            return Seen(True, "erased; what is there now comes from after the erasure")
        return Seen(False, f"a worker has passed it, but offset {last.offset} of {topic} stands; see the worker's log")


async def erase(settings: Settings, user_id: str, timeout_seconds: float, tell: Callable[[str], None]) -> None:
    """Returns when the user is erased in every place, and tells of each.

    Raises RecordInvalid for what cannot be a user's id, and ErasureUnfinished when some place has not come to it in
    time: it is in the topic then, and will be carried out.
    """
    key = user_id.encode(errors="surrogateescape")  # as the shell gave it; what is no UTF-8 is refused next
    check_user_key(key)
    await check(settings, "erase")
    topics, partition = Topics.of(settings), partition_of(key, settings.partitions)
    ends = await _ends(settings, [TopicPartition(topic, partition) for topic in (topics.changelog, topics.lists)])
    offset = await _send(settings, partition, key)
    tell(f"Sent, at offset {offset} of partition {partition} of {topics.users}.")
    async with (
        reader(settings) as topics_reader,
        reader(settings, settings.group) as workers,
        reader(settings, f"{settings.group}-trainer") as trainer,
    ):
        erasure = Erasure(settings, key, partition, offset, ends, topics_reader, workers, trainer)
        unfinished = await _follow(erasure, timeout_seconds, tell)
    tell(
        f"Not covered: {topics.interactions} and {topics.dead_letters} keep records of the user until their retention "
        "ends them, and so does what consumers have copied."
    )
    if unfinished:
        places = "\n".join(f"{name}: {said}" for name, said in unfinished.items())
        raise ErasureUnfinished(
            f"not everywhere within {timeout_seconds:g} seconds; as it is in the topic, it will be carried out when "
            f"those run who have to do it\n{places}"
        )


async def _follow(erasure: Erasure, timeout_seconds: float, tell: Callable[[str], None]) -> dict[str, str]:
    """Looks until everything is done or the time is over; returns place → what was seen last, where it is not done."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + timeout_seconds
    looks = {"profile": erasure.profile, "list": erasure.list, "log": erasure.log}
    unfinished = dict.fromkeys(looks, "nothing was seen, as the broker does not answer")
    with suppress(TimeoutError):
        async with asyncio.timeout_at(deadline + erasure.settings.request_timeout_seconds):
            while True:
                for name in list(unfinished):
                    unfinished[name] = (seen := await looks[name]()).said
                    if seen.is_done:
                        tell(f"{name}: {unfinished.pop(name)}")
                if not unfinished or loop.time() > deadline:
                    break
                await asyncio.sleep(LOOK_SECONDS)
    return unfinished


async def _ends(settings: Settings, partitions: Iterable[TopicPartition]) -> dict[str, int]:
    try:
        ends = await end_offsets(Connection(settings), partitions)
    except (KafkaError, OSError) as error:
        raise _unavailable(settings, error) from error
    return {partition.topic: end for partition, end in ends.items()}


async def _send(settings: Settings, partition: int, key: bytes) -> int:
    """Sends the null; returns the offset that the broker gave it."""
    outbox = Outbox(Connection(settings), settings.request_timeout_seconds)
    try:
        await outbox.start()
        now_ms = wall_ms()
        pending = await outbox.send(Topics.of(settings).users, partition, [(key, None)], now_ms)
        offset = await pending.acknowledged()
    except (KafkaError, OSError) as error:
        raise _unavailable(settings, error) from error
    finally:
        await outbox.stop()
    assert offset is not None
    return offset


def _unavailable(settings: Settings, error: Exception) -> BrokerUnavailable:
    return BrokerUnavailable(f"no answer from the broker at {','.join(settings.bootstrap_servers)}: {error!r}")
