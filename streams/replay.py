"""Plays a data set into the topics: what is said of items and users first, then the interactions in time order.

The event times stay those of the data; only the pace is chosen. An interaction's id follows from its row, so a replay
that is broken off and begun again sends the same events, and those that went out twice count once.
"""

from __future__ import annotations

import asyncio
import math
import re
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import xxhash

from efficientrec.datasets import Dataset
from efficientrec.errors import SettingInvalid
from streams.clock import wall_ms
from streams.connection import Connection
from streams.outbox import KeyValue, Outbox, Pending
from streams.placement import partition_of
from streams.records import Interaction, Item, User, encode
from streams.settings import Settings
from streams.topics import Topics

CHUNK: Final = 5000  # interactions that are handed over at once; two chunks are on their way at any time
TICK_SECONDS: Final = 0.02  # a list is published some 10 ms after its event: finer steps would not be seen


@dataclass(frozen=True, slots=True)
class Speed:
    """How fast: so many events per second of the clock, or so many seconds of the data per second, or neither, which is
    as fast as the broker takes them."""

    events_per_second: float = math.inf
    times_real: float = math.inf

    @classmethod
    def parse(cls, text: str) -> Speed:
        """`1000/s` (events per second), `60x` (an hour of the data takes a minute) or `max`; else SettingInvalid.

        >>> Speed.parse("60x").times_real
        60.0
        """
        if text == "max":
            return cls()
        found = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)(/s|x)", text.strip())
        if not found or not 0 < float(found[1]) < math.inf:
            raise SettingInvalid(f"speed is {text!r}; expected such as 1000/s (events per second), 60x, or max")
        number = float(found[1])
        return cls(events_per_second=number) if found[2] == "/s" else cls(times_real=number)


@dataclass(frozen=True, slots=True)
class Replayed:
    """How much the broker has acknowledged."""

    items: int
    users: int
    interactions: int
    seconds: float
    """Of the clock, since the first interaction."""


class Pause:
    """A switch that holds a replay; while it holds, the replay's own time stands still."""

    def __init__(self) -> None:
        self._running = asyncio.Event()
        self._running.set()

    def hold(self) -> None:
        self._running.clear()

    def go_on(self) -> None:
        self._running.set()

    async def over(self) -> None:
        """Returns at once unless it holds."""
        await self._running.wait()


async def replay(
    dataset: Dataset,
    settings: Settings,
    speed: Speed = Speed(),
    *,
    start: int = 0,
    limit: int | None = None,
    progress: Callable[[Replayed], Awaitable[None] | None] | None = None,
    pause: Pause | None = None,
) -> Replayed:
    """Sends items, users, and `limit` interactions from the `start`-th on, at most that fast; the topics must exist.

    progress is called after each chunk that the broker has acknowledged, and may be awaited, which holds the replay as
    `pause` does. Raises KafkaError when the broker does not take a record.
    """
    outbox = Outbox(Connection(settings), settings.request_timeout_seconds)
    await outbox.start()
    try:
        return await _replay(outbox, dataset, settings, speed, start, limit, progress, pause or Pause())
    finally:
        await outbox.stop()


async def _replay(
    outbox: Outbox,
    dataset: Dataset,
    settings: Settings,
    speed: Speed,
    start: int,
    limit: int | None,
    progress: Callable[[Replayed], Awaitable[None] | None] | None,
    pause: Pause,
) -> Replayed:
    topics = Topics.of(settings)
    items, users = _items(dataset), _users(dataset)
    for earlier in (
        *await _send(outbox, topics.items, 1, items),
        *await _send(outbox, topics.users, settings.partitions, users),
    ):
        await earlier.acknowledged()

    end = len(dataset) if limit is None else min(len(dataset), start + limit)
    event_ids = event_ids_of(dataset)
    loop = asyncio.get_running_loop()
    began = origin = loop.time()
    sent = acknowledged = start
    on_their_way: list[Pending] = []
    while True:
        before = loop.time()
        await pause.over()
        origin += loop.time() - before
        due = min(_due(dataset, speed, start, end, loop.time() - origin), sent + CHUNK)
        chunk = range(sent, due)
        records = _interactions(dataset, event_ids, chunk)
        pending = await _send(outbox, topics.interactions, settings.partitions, records)
        for earlier in on_their_way:
            await earlier.acknowledged()
        has_moved = sent > acknowledged
        acknowledged, sent, on_their_way = sent, due, pending
        done = Replayed(len(items), len(users), acknowledged - start, loop.time() - began)
        if progress is not None and has_moved:
            before = loop.time()
            answer = progress(done)
            if answer is not None:
                await answer
            origin += loop.time() - before
        if acknowledged == end:
            return done
        if not chunk and sent < end:
            await asyncio.sleep(TICK_SECONDS)


def _due(dataset: Dataset, speed: Speed, start: int, end: int, elapsed: float) -> int:
    """The interaction before which all should be out by now."""
    due: float = end
    if math.isfinite(speed.events_per_second):
        due = start + 1 + elapsed * speed.events_per_second
    elif math.isfinite(speed.times_real) and start < end:
        now = float(dataset.at[start]) + 1000 * elapsed * speed.times_real
        due = float(np.searchsorted(dataset.at, now, side="right"))
    return int(min(due, end))


def event_ids_of(dataset: Dataset) -> list[str]:
    """An id for each interaction, which follows from its user, item and time; rows that agree in all three are
    numbered, since each of them is an event of its own.

    >>> event_ids_of(dataset)[0]  # doctest: +SKIP
    '5c3a0f8d12b04e77-1'
    """
    order = np.lexsort((np.arange(len(dataset)), dataset.at, dataset.item, dataset.user))
    columns = [column[order] for column in (dataset.user, dataset.item, dataset.at)]
    fresh = np.ones(len(dataset), np.bool_)
    fresh[1:] = np.any([column[1:] != column[:-1] for column in columns], axis=0)
    place = np.arange(len(dataset))
    number = np.empty(len(dataset), np.int64)
    number[order] = place - np.maximum.accumulate(np.where(fresh, place, 0)) + 1
    rows = zip(dataset.user.tolist(), dataset.item.tolist(), dataset.at.tolist(), number.tolist(), strict=True)
    return [
        f"{xxhash.xxh3_64_hexdigest(_text_of(dataset.users[user], dataset.items[item], at))}-{which}"
        for user, item, at, which in rows
    ]


def _text_of(user_id: str, item_id: str, at: int) -> bytes:
    return f"{user_id}\0{item_id}\0{at}".encode()


def _items(dataset: Dataset) -> list[KeyValue]:
    return [
        (
            item_id.encode(),
            encode(Item(item_id, item.title or None, list(item.categories), dict(item.features))),
        )
        for item_id, item in dataset.catalogue.items()
    ]


def _users(dataset: Dataset) -> list[KeyValue]:
    return [(user_id.encode(), encode(User(user_id, dict(about)))) for user_id, about in dataset.people.items()]


def _interactions(dataset: Dataset, event_ids: Sequence[str], rows: range) -> Iterable[KeyValue]:
    """The records of these rows. Without a rating, having chosen an item is liking it."""
    part = slice(rows.start, rows.stop)
    for place, user, item, value, at in zip(
        rows,
        dataset.user[part].tolist(),
        dataset.item[part].tolist(),
        dataset.value[part].tolist(),
        dataset.at[part].tolist(),
        strict=True,
    ):
        user_id, rated = dataset.users[user], not math.isnan(value)
        yield (
            user_id.encode(),
            encode(
                Interaction(
                    event_type="rating" if rated else "like",
                    user_id=user_id,
                    item_id=dataset.items[item],
                    event_time=at,
                    event_id=event_ids[place],
                    value=value if rated else None,
                )
            ),
        )


async def _send(outbox: Outbox, topic: str, partitions: int, records: Iterable[KeyValue]) -> list[Pending]:
    """Hands the records over, each to the partition of its key, in order."""
    dealt: dict[int, list[KeyValue]] = {}
    for record in records:
        dealt.setdefault(partition_of(record[0], partitions), []).append(record)
    now_ms = wall_ms()
    return [await outbox.send(topic, partition, part, now_ms) for partition, part in sorted(dealt.items())]
