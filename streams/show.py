"""The last list of a user, for people: ranks, titles and reasons in words.

Reads the lists topic backwards from its end, so that a recent list is found at once however long the topic is.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeAlias

from aiokafka import AIOKafkaConsumer
from aiokafka.errors import KafkaError
from aiokafka.structs import TopicPartition
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from efficientrec.errors import BrokerUnavailable, RecordInvalid
from streams.connection import Connection
from streams.follower import Record
from streams.offsets import true_ends
from streams.placement import partition_of
from streams.records import Reason, RecommendationList, decode_item, decode_list
from streams.settings import Settings
from streams.topics import Topics

if TYPE_CHECKING:
    Consumer: TypeAlias = AIOKafkaConsumer[bytes | None, bytes | None]

FIRST_LOOK = 2000  # records from the end of the partition; each further look goes back twice as far


@dataclass(frozen=True, slots=True)
class Shown:
    """What the topics say of a user's recommendations."""

    user_id: str
    published: RecommendationList | None
    """None where there is no list."""
    is_erased: bool = False
    """The user had a list, and was erased."""
    titles: Mapping[str, str] = field(default_factory=dict)
    """item id → title, for the items of the list and of its reasons that have one."""

    def title(self, item_id: str) -> str:
        """The item's title, or else its id."""
        title = self.titles.get(item_id) or item_id
        return "".join(letter for letter in title if letter.isprintable())  # no escape sequence reaches the terminal


async def last_list(settings: Settings, user_id: str) -> Shown:
    """The newest list of a user and the titles that it takes; the topics must exist.

    Raises BrokerUnavailable when the broker does not answer, RecordInvalid when the list is of a newer release.
    """
    topics = Topics.of(settings)
    async with reader(settings) as consumer:
        partition = TopicPartition(topics.lists, partition_of(user_id.encode(), settings.partitions))
        record = await last_record(consumer, partition, user_id.encode(), settings.request_timeout_seconds)
        if record is None or record.value is None:
            return Shown(user_id, None, is_erased=record is not None)
        published = decode_list(record.value)
        wanted = {item.item_id for item in published.items}
        wanted |= {reason.item_id for item in published.items for reason in item.reasons if reason.item_id}
        catalogue = TopicPartition(topics.items, 0)
        return Shown(
            user_id,
            published,
            titles=await _titles(consumer, catalogue, wanted, settings.request_timeout_seconds),
        )


def render(shown: Shown) -> RenderableType:
    """A table for a terminal, or a sentence where there is no list.

    >>> str(render(Shown("u1", None)))
    'No list for user u1 yet: lists follow interactions, and this user has had none that counted.'
    """
    published = shown.published
    if published is None:
        if shown.is_erased:
            return Text(f"User {shown.user_id} was erased; there is no list.")
        return Text(
            f"No list for user {shown.user_id} yet: lists follow interactions, and this user has had none that counted."
        )
    head = Text.assemble(
        ("User ", "dim"),
        (shown.user_id, "bold"),
        ("  model ", "dim"),
        published.model_version or "none yet (what is popular)",
        *(() if published.arm is None else (("  arm ", "dim"), published.arm)),
        ("  generated ", "dim"),
        published.generated_at,
    )
    clusters = ", ".join(f"{cluster.id} ({cluster.weight:.0%})" for cluster in published.clusters)
    belongs = Text(f"belongs to clusters {clusters}" if clusters else "belongs to no cluster yet", style="dim")
    table = Table(box=None, pad_edge=False, header_style="dim")
    table.add_column("#", justify="right")
    table.add_column("title", style="bold", overflow="ellipsis")
    table.add_column("score", justify="right")
    table.add_column("why", overflow="fold")
    for item in published.items:
        table.add_row(
            str(item.rank),
            Text(shown.title(item.item_id)),  # a title is no markup, whatever brackets it has
            f"{item.score:.3f}",
            Text(in_words(item.reasons, shown)),
        )
    return Group(head, belongs, table)


def in_words(reasons: Sequence[Reason], shown: Shown) -> str:
    """Who voted for an item, the loudest first.

    >>> in_words([Reason("cluster", 0.7, cluster=17), Reason("popular", 0.3)], Shown("u1", None))
    'cluster 17, popular'
    """
    return ", ".join(_in_words(reason, shown) for reason in sorted(reasons, key=lambda reason: -reason.share))


def _in_words(reason: Reason, shown: Shown) -> str:
    if reason.kind == "cluster":
        return f"cluster {reason.cluster}"
    if reason.kind == "anchor":
        return f"because of {shown.title(reason.item_id or '?')}"
    return "popular"


async def last_record(consumer: Consumer, partition: TopicPartition, key: bytes, seconds: float) -> Record | None:
    """The newest record of a key."""
    end = (await true_ends(consumer, [partition]))[partition]
    first = (await consumer.beginning_offsets([partition]))[partition]
    look = FIRST_LOOK
    while end > first:
        start = max(first, end - look)
        found = None
        async for record in _between(consumer, partition, start, end, seconds):
            if record.key == key:
                found = record
        if found is not None:
            return found
        end, look = start, 2 * look
    return None


async def _titles(
    consumer: Consumer, partition: TopicPartition, wanted: Iterable[str], seconds: float
) -> dict[str, str]:
    """The titles that these items have now."""
    end = (await true_ends(consumer, [partition]))[partition]
    first = (await consumer.beginning_offsets([partition]))[partition]
    keys = {item_id.encode(): item_id for item_id in wanted}
    titles: dict[str, str] = {}
    async for record in _between(consumer, partition, first, end, seconds):
        item_id = keys.get(record.key or b"")
        if item_id is None:
            continue
        titles.pop(item_id, None)
        if record.value is not None:
            try:
                titles[item_id] = decode_item(record.value, record.key).title or ""
            except RecordInvalid:
                continue  # workers ignore it, too
    return titles


async def _between(
    consumer: Consumer, partition: TopicPartition, start: int, end: int, seconds: float
) -> AsyncIterator[Record]:
    """The records of the assigned partition from offset `start` up to `end`; compaction may have left few."""
    consumer.seek(partition, start)
    deadline = asyncio.get_running_loop().time() + seconds
    while await consumer.position(partition) < end:
        batches = await consumer.getmany(partition, timeout_ms=200)
        for record in batches.get(partition, []):
            if record.offset < end:
                yield record
        now = asyncio.get_running_loop().time()
        if batches:
            deadline = now + seconds
        elif now > deadline:
            raise BrokerUnavailable(f"{partition.topic} cannot be read to its end: silence for {seconds:g} seconds")


@asynccontextmanager
async def reader(settings: Settings, group: str | None = None) -> AsyncIterator[Consumer]:
    """A consumer that can ask what a group has committed, but subscribes to nothing and so never joins it;
    BrokerUnavailable when there is no broker."""
    connection = Connection(settings)
    consumer: Consumer = AIOKafkaConsumer(
        group_id=group,
        auto_offset_reset="earliest",
        enable_auto_commit=False,
        request_timeout_ms=int(1000 * settings.request_timeout_seconds),
        **connection.options(),
    )
    try:
        await consumer.start()
        yield consumer
    except (KafkaError, OSError, TimeoutError) as error:
        raise BrokerUnavailable(f"no answer from the Kafka broker at {connection.address}: {error!r}") from error
    finally:
        await consumer.stop()
