"""What the demo sees: both topics from outside, as any consumer could, and the picture of it in the terminal."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from contextlib import suppress
from functools import cache

import fsspec
import msgspec
from aiokafka import AIOKafkaConsumer
from aiokafka.structs import TopicPartition
from rich.console import RenderableType
from rich.panel import Panel
from rich.table import Table

from efficientrec.artifact import MANIFEST, Manifest
from efficientrec.errors import InteractionInvalid
from streams import topics
from streams.connection import Connection
from streams.follower import Record
from streams.records import RecommendationList, decode_interaction, decode_list
from streams.scoreboard import Scoreboard
from streams.settings import Settings
from streams.topics import Topics


class Watch:
    """Reads interactions and lists as any consumer could, and keeps the score."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._topics = Topics.of(settings)
        self.board = Scoreboard(settings.policy, settings.popularity_half_life_seconds, cache(self._trained_up_to))
        self.dead_letters = 0
        self.newest: dict[str, int] = {}
        """User → offset of the newest interaction that was accepted."""
        self.answered: dict[str, int] = {}
        """User → offset of the newest interaction that a list has taken in."""
        self.lists: dict[str, RecommendationList] = {}
        """The newest list of each user."""

    @property
    def is_at_rest(self) -> bool:
        """Every accepted interaction is in its user's list."""
        return all(self.answered.get(user, -1) >= offset for user, offset in self.newest.items())

    async def run(self) -> None:
        names = self._topics
        consumer: AIOKafkaConsumer[bytes | None, bytes | None] = AIOKafkaConsumer(
            auto_offset_reset="earliest",
            enable_auto_commit=False,
            fetch_max_wait_ms=int(1000 * self._settings.fetch_wait_seconds),
            **Connection(self._settings).options(),
        )
        try:
            await consumer.start()
            consumer.assign(
                [
                    TopicPartition(topic.name, number)
                    for topic in topics.wanted(self._settings)
                    if topic.name in (names.interactions, names.lists, names.dead_letters)
                    for number in range(topic.partitions)
                ]
            )
            while True:
                batches = await consumer.getmany(timeout_ms=100)
                received_ms = time.time() * 1000
                for partition, records in batches.items():
                    self._take(partition.topic, records, received_ms)
                    await asyncio.sleep(0)
        finally:
            await consumer.stop()

    def _take(self, topic: str, records: list[Record], received_ms: float) -> None:
        if topic == self._topics.dead_letters:
            self.dead_letters += len(records)
        for record in records:
            if topic == self._topics.interactions:
                with suppress(InteractionInvalid):
                    event = decode_interaction(record.value, record.key, self._settings.policy, 2**52)
                    self.newest[event.user_id] = record.offset
                    self.board.event(record.partition, record.offset, record.timestamp, event)
            elif topic == self._topics.lists and record.value is not None:
                published = decode_list(record.value)
                self.answered[published.user_id] = published.trigger.offset
                self.lists[published.user_id] = published
                self.board.published(published, received_ms)

    def _trained_up_to(self, version: str) -> Mapping[int, int]:
        with fsspec.open(f"{self._settings.models_dir}/{version}/{MANIFEST}", "rb") as file:
            manifest = msgspec.json.decode(file.read(), type=Manifest)
        return manifest.window.partitions()


class Progress:
    """What the terminal shows while the replay runs."""

    def __init__(self, total: int) -> None:
        self.total = total
        self.sent = 0
        self.holding = ""
        self._began = time.monotonic()
        self._before = (self._began, 0, 0)
        self._rates = (0.0, 0.0)

    def render(self, watch: Watch) -> RenderableType:
        score, now = watch.board.score, time.monotonic()
        elapsed = now - self._before[0]
        if elapsed >= 1:
            self._rates = ((score.events - self._before[1]) / elapsed, (score.lists - self._before[2]) / elapsed)
            self._before = (now, score.events, score.lists)
        version = next(reversed(score.versions), None)
        table = Table.grid(padding=(0, 3))
        table.add_row(
            "replayed", f"{score.events:,} of {self.total:,}", f"{self._rates[0]:,.0f} events/s", self.holding
        )
        table.add_row("lists", f"{score.lists:,} for {len(score.listed):,} users", f"{self._rates[1]:,.0f} lists/s")
        table.add_row(
            "event to list",
            f"p50 {score.latency_ms(50, 5000):.0f} ms",
            f"p99 {score.latency_ms(99, 5000):.0f} ms",
            "[dim]of the last 5,000 lists[/]",
        )
        table.add_row("model", version or "none yet: what is popular", f"{len(score.versions)} so far")
        table.add_row(
            "hit rate at 10",
            f"[bold green]{score.all.rate:.3f}[/]",
            f"popularity {score.all.popularity_rate:.3f}",
            f"[dim]{score.all.judged:,} liked events, each looked up in the list that its user had before[/]",
        )
        table.add_row(
            "with a model",
            f"[bold green]{score.personal.rate:.3f}[/]",
            f"popularity {score.personal.popularity_rate:.3f}",
            f"[dim]{score.personal.judged:,} of them[/]",
        )
        return Panel(table, title=f"{now - self._began:.0f} s", title_align="right", expand=False)
