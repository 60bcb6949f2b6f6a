"""What of a run does not become a row: dead letters, and records that lie on the wrong partition.

Both go out through one shared producer, since any worker may send them, and may go out twice when a run is delivered
again: a dead letter says where it came from, and so does a forwarded record.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple, Protocol

import numpy as np
from aiokafka.errors import MessageSizeTooLargeError
from numpy.typing import NDArray

from streams.follower import Record, place_of
from streams.outbox import Headers
from streams.placement import partitions_of
from streams.records import ID_BYTES_MAX, dead_letter_headers
from streams.settings import Settings
from streams.topics import Topics

log = logging.getLogger(__name__)

ORIGIN = "efficientrec.origin"
"""Header of a forwarded record: topic, partition and offset where its producer had put it."""
WARN_SECONDS = 60.0


class Acknowledgement(Protocol):
    async def acknowledged(self) -> int | None: ...


class Post(Protocol):
    """Sends one record, to the partition that its key points to."""

    async def send_one(
        self, topic: str, key: bytes | None, value: bytes | None, headers: Headers, timestamp_ms: int | None = None
    ) -> Acknowledgement: ...


class DeadLetter(NamedTuple):
    """A record that cannot be used."""

    record: Record
    reason: str
    message: str


class Aside:
    """Where a worker puts what it does not fold."""

    def __init__(self, settings: Settings, post: Post) -> None:
        self._topics = Topics.of(settings)
        self._partitions = settings.partitions
        self._forwards = settings.wrong_partition == "forward"
        self._post = post
        self._warned_at = -WARN_SECONDS

    def strays(self, records: Sequence[Record]) -> NDArray[np.bool_]:
        """Which records (records,) have keys that point to another partition."""
        places = partitions_of([record.key or b"" for record in records], self._partitions)
        found: NDArray[np.bool_] = places != [record.partition for record in records]
        return found

    def split(self, records: Sequence[Record], strays: NDArray[np.bool_]) -> tuple[list[Record], list[Record], int]:
        """(records to handle here, records to forward, how many are misplaced), of one partition and as the settings
        say. What has no key is no event, and what was forwarded once is where it is."""
        misplaced = [
            stray and record.key is not None and origin_of(record) is None
            for stray, record in zip(strays.tolist(), records, strict=True)
        ]
        if not any(misplaced):
            return list(records), [], 0
        if (now := time.monotonic()) >= self._warned_at + WARN_SECONDS:
            self._warned_at = now
            place = int(np.argmax(misplaced))
            log.warning(
                "partition %d holds records whose keys point elsewhere, such as the one at offset %d: their producer "
                "does not place keys by murmur2 (docs/events.md); %s",
                *(records[0].partition, records[place].offset),
                "they are forwarded" if self._forwards else "they start a second profile of their user here",
                extra=place_of(records[place]),
            )
        if not self._forwards:
            return list(records), [], sum(misplaced)
        paired = list(zip(records, misplaced, strict=True))
        elsewhere = [record for record, wrong in paired if wrong]
        return [record for record, wrong in paired if not wrong], elsewhere, len(elsewhere)

    async def forward(self, records: Sequence[Record]) -> None:
        """Returns when the broker has the records on the partitions that their keys point to. Raises KafkaError."""
        sent = []
        for record in records:
            origin = f"{record.topic}/{record.partition}/{record.offset}"
            headers = [*record.headers, (ORIGIN, origin.encode())]
            sent.append(
                await self._post.send_one(record.topic, record.key, record.value, headers, max(0, record.timestamp))
            )
        for pending in sent:
            await pending.acknowledged()

    async def set_aside(self, letters: Sequence[DeadLetter]) -> None:
        """Returns when the broker has them; a record that is too large with its headers goes without key and value.
        Raises KafkaError."""
        sent = [await self._dead_letter(letter) for letter in letters]
        for letter, pending in zip(letters, sent, strict=True):
            try:
                await pending.acknowledged()
            except MessageSizeTooLargeError:
                record = letter.record
                key, size = record.key or b"", len(record.value or b"")
                bare = DeadLetter(
                    replace(record, key=key if len(key) <= ID_BYTES_MAX else None, value=None),
                    letter.reason,
                    f"{letter.message} (its key of {len(key)} and value of {size} bytes are too large to be set aside)",
                )
                await (await self._dead_letter(bare)).acknowledged()

    async def _dead_letter(self, letter: DeadLetter) -> Acknowledgement:
        record = letter.record
        headers = dead_letter_headers(
            record.topic, record.partition, record.offset, record.timestamp, letter.reason, letter.message
        )
        return await self._post.send_one(self._topics.dead_letters, record.key, record.value, headers)


def origin_of(record: Record) -> str | None:
    """Where a forwarded record's producer had put it; None for a record that was not forwarded."""
    for name, value in record.headers:
        if name == ORIGIN and value is not None:  # Kafka lets a header have no value
            return bytes(value).decode(errors="replace")
    return None
