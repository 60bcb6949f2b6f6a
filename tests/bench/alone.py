"""The real loop and the real disk in one process, with a broker that answers at once."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import faust
import msgspec
import rocksdict
from aiokafka.structs import ConsumerRecord
from faust.types import TP

from efficientrec.model import Model
from streams.catalogue import Catalogue
from streams.experiments import Models
from streams.metrics import STAGES, WorkerMetrics
from streams.outbox import KeyValue
from streams.progress import PROGRESS_KEY, Progress
from streams.records import Interaction
from streams.settings import Settings
from streams.table import ProfileTable, RowStore
from streams.topics import TABLE, Topics
from streams.transport import Run
from streams.wire import ProducerId, record_batch
from streams.worker import Loop
from streams.writer import Writers
from tests.bench.histories import names
from tests.toy import START

SETTINGS = Settings(partitions=1)
TOPICS = Topics.of(SETTINGS)
GENERATION = 1
BLOCK_CACHE_BYTES = 64 * 1024 * 1024


class QuickBroker:
    """Builds the record batches that a broker would get, and has them at once."""

    def __init__(self) -> None:
        self._end = 0

    async def claim(self, name: str) -> ProducerId:
        return ProducerId(1, 1)

    async def append(
        self,
        topic: str,
        partition: int,
        producer: ProducerId,
        sequence: int,
        records: Sequence[KeyValue],
        timestamp_ms: int,
    ) -> int:
        record_batch(producer, sequence, records, timestamp_ms)
        first = self._end
        self._end += len(records)
        return first

    async def send_one(self, *_: Any, **__: Any) -> Any:
        raise AssertionError("nothing is set aside here")


class Metrics(WorkerMetrics):
    """The worker's, but for the clock: processor time of the whole process, as in the totals beside the stages."""

    @contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        start = time.process_time()
        yield
        self.stage.labels(stage).observe(time.process_time() - start)


def opened(folder: Path) -> RowStore:
    """The store of one partition, with what the folder holds."""
    app = faust.App("alone", broker="kafka://127.0.0.1:1", store="memory://", autodiscover=False)

    async def claim(partition: int) -> int:
        return 10**12

    table = ProfileTable(app, name=TABLE, partitions=1, directory=folder, cache_bytes=BLOCK_CACHE_BYTES, claim=claim)
    places = {TP(table.changelog_topic.get_topic_name(), 0)}
    asyncio.run(table.store.on_rebalance(places, set(), places))
    return table.store


def write_rows(store: RowStore, first: int, rows: Sequence[bytes]) -> None:
    """The rows of as many users, from this one on.

    Without the changelog's offset, whose key lies behind all users: with it in every batch all of RocksDB's files would
    overlap and have to be merged, which takes longer than writing.
    """
    batch = rocksdict.WriteBatch(raw_mode=True)
    for name, row in zip(names(first, first + len(rows)), rows, strict=True):
        batch.put(name.encode(), row)
    store._disk(0).write(batch)


def memory_bytes(store: RowStore) -> int:
    """What RocksDB holds for the rows: blocks, tables of what is where, what has not gone to disk yet."""
    kinds = ("block-cache-usage", "estimate-table-readers-mem", "cur-size-all-mem-tables")
    return sum(int(store._disk(0)._open.property_value(f"rocksdb.{kind}")) for kind in kinds)


def write_progress(store: RowStore, offset: int) -> None:
    """What the rows have taken in of the interactions lies below this offset."""
    store.write(0, [(PROGRESS_KEY, Progress(offset, 0).to_bytes())], offset)


def loop_of(store: RowStore, model: Model, metrics: WorkerMetrics | None = None) -> tuple[Loop, WorkerMetrics]:
    """The loop over this store, with the model in service, and what it measures: by default the processor time of each
    stage."""
    metrics = metrics or Metrics(SETTINGS.policy.rules)
    models = Models(SETTINGS.models_dir, SETTINGS.list_size, metrics)
    models.released.current = model
    broker: Any = QuickBroker()
    writers = Writers(
        broker, "alone", TOPICS.changelog, fences=True, alive=lambda: True, clock=lambda: START, sleep=asyncio.sleep
    )
    loop = Loop(SETTINGS, store, writers, broker, models, Catalogue(), metrics, lambda: START)
    asyncio.run(writers.claim(0, GENERATION))
    return loop, metrics


def run_of(users: Sequence[str], first: int, items: Sequence[str]) -> Run:
    """One event of each user, with one of these items, at offsets from `first` on."""
    records = [
        _record(user, first + place, items[(first + place) * 37 % len(items)]) for place, user in enumerate(users)
    ]
    return Run(TOPICS.interactions, 0, records, GENERATION)


def handle(loop: Loop, runs: Sequence[Run]) -> None:
    """Returns when all are handled."""

    async def handled() -> None:
        for run in runs:
            await asyncio.gather(*loop.handle([run]))
            assert run.handled

    asyncio.run(handled())


def stage_seconds(metrics: WorkerMetrics) -> dict[str, float]:
    """Processor time that each stage has taken so far."""
    name = "efficientrec_stage_duration_seconds_sum"
    return {stage: metrics.registry.get_sample_value(name, {"stage": stage}) or 0.0 for stage in STAGES}


def _record(user: str, offset: int, item: str) -> ConsumerRecord[bytes | None, bytes | None]:
    event = Interaction("like", user, item, START + offset % 1000, f"event-{offset}")
    key, value = user.encode(), msgspec.json.encode(event)
    return ConsumerRecord(TOPICS.interactions, 0, offset, START, 0, key, value, None, len(key), len(value), ())
