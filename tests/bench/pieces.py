"""What each piece of a refreshed list costs, in one process: the real loop and disk, and a broker that answers at once.

1. Users whose rows are full (a ring of 64 interactions) are written to a disk of their own.
2. One more event of each goes through the loop, in runs as large as a saturated worker's. The loop's own clock says
   what each stage takes; what is left of the processor time is the loop's own.
3. The pieces of the arithmetic, alone, on the same rows.

Least of several rounds each: what else the machine does can only add to it.
"""

from __future__ import annotations

import asyncio
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import faust
import msgspec
import numpy as np
from aiokafka.structs import ConsumerRecord
from faust.types import TP

from efficientrec import profile
from efficientrec.interactions import Interactions, keys_of
from efficientrec.model import Model
from efficientrec.recommend import recommend
from streams.catalogue import Catalogue
from streams.lists import Cause, personal_lists
from streams.metrics import STAGES, WorkerMetrics
from streams.outbox import KeyValue
from streams.progress import PROGRESS_KEY, Progress
from streams.records import Interaction, Trigger, decode_interactions, rfc3339
from streams.settings import Settings
from streams.slot import ModelSlot
from streams.table import ProfileTable, RowStore
from streams.topics import TABLE, Topics
from streams.transport import Run
from streams.wire import ProducerId, record_batch
from streams.worker import Loop
from streams.writer import Writers
from tests.bench.synthetic import synthetic_model
from tests.toy import START

SETTINGS = Settings(partitions=1)
TOPICS = Topics.of(SETTINGS)
RING = profile.RING_SIZE
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


def measure(users: int, run_events: int, rounds: int, items: int) -> dict[str, Any]:
    """µs per list: of the loop by stage and in all, and of the library's functions alone."""
    model = synthetic_model(items=items)
    folder = Path(mkdtemp())
    try:
        store = _store(folder)
        row_bytes = _fill(store, model, users)
        return {
            "users": users,
            "run_events": run_events,
            "items": items,
            "row_bytes": row_bytes,
            "loop": _loop(store, model, users, run_events, rounds),
            "library": _library(store, model, min(users, run_events), rounds),
        }
    finally:
        shutil.rmtree(folder)


def _store(folder: Path) -> RowStore:
    app = faust.App("pieces", broker="kafka://127.0.0.1:1", store="memory://", autodiscover=False)

    async def claim(partition: int) -> int:
        return 10**12

    table = ProfileTable(app, name=TABLE, partitions=1, directory=folder, cache_bytes=BLOCK_CACHE_BYTES, claim=claim)
    places = {TP(table.changelog_topic.get_topic_name(), 0)}
    asyncio.run(table.store.on_rebalance(places, set(), places))
    return table.store


def _fill(store: RowStore, model: Model, users: int) -> float:
    """Writes the rows of users with a full ring; bytes per row."""
    total, names = 0, [f"user-{number}" for number in range(users)]
    for first in range(0, users, 2000):
        some = names[first : first + 2000]
        run = _history(model, some, first)
        rows = profile.fold(
            profile.unpack([None] * len(some), model.encoder.width, model.encoder.key), run, model.encoder
        )
        packed = list(profile.pack(rows.rows, 0))
        total += sum(map(len, packed))
        store.write(0, [(name.encode(), row) for name, row in zip(some, packed, strict=True)], first)
    progress = Progress(users * RING, 0)
    store.write(0, [(PROGRESS_KEY, progress.to_bytes())], users)
    return total / users


def _history(model: Model, names: Sequence[str], first: int) -> Interactions:
    events = len(names) * RING
    who = np.repeat(np.arange(len(names), dtype=np.int32), RING)
    rng = np.random.default_rng(first)
    return Interactions(
        users=list(names),
        user=who,
        item=model.items.keys[rng.integers(len(model.items), size=events)],
        weight=np.ones(events, np.float32),
        at=np.full(events, START - 1000, np.int64),
        arrived=np.full(events, START - 1000, np.int64),
        offset=np.arange(first * RING, first * RING + events, dtype=np.int64),
        event=keys_of([f"old-{first * RING + number}" for number in range(events)]),
        excludes=np.ones(events, np.bool_),
    )


def _loop(store: RowStore, model: Model, users: int, run_events: int, rounds: int) -> dict[str, float]:
    metrics = WorkerMetrics(SETTINGS.policy.rules)
    slot = ModelSlot(SETTINGS.models_dir, SETTINGS.list_size, metrics)
    slot.current = model
    broker: Any = QuickBroker()
    writers = Writers(
        broker, "pieces", TOPICS.changelog, fences=True, alive=lambda: True, clock=lambda: START, sleep=asyncio.sleep
    )
    loop = Loop(SETTINGS, store, writers, broker, slot, Catalogue(), metrics, lambda: START)
    asyncio.run(writers.claim(0, GENERATION))
    best: dict[str, float] = {}
    for number in range(rounds):
        offset = users * RING * (number + 1)
        runs = [
            _run([f"user-{user}" for user in range(first, min(first + run_events, users))], offset + first)
            for first in range(0, users, run_events)
        ]
        before = _stages(metrics)
        begun = time.process_time()
        asyncio.run(_handled(loop, runs))
        whole = time.process_time() - begun
        spent = {stage: seconds - before[stage] for stage, seconds in _stages(metrics).items()}
        spent["the loop itself"] = whole - sum(spent.values())
        spent["in all"] = whole
        for name, seconds in spent.items():
            best[name] = min(best.get(name, 1e9), 1e6 * seconds / users)
    return best


async def _handled(loop: Loop, runs: Sequence[Run]) -> None:
    for run in runs:
        await loop.interactions(run)
        assert run.handled


def _stages(metrics: WorkerMetrics) -> dict[str, float]:
    name = "efficientrec_stage_duration_seconds_sum"
    return {stage: metrics.registry.get_sample_value(name, {"stage": stage}) or 0.0 for stage in STAGES}


def _run(names: Sequence[str], first: int) -> Run:
    return Run(TOPICS.interactions, 0, [_record(name, first + place) for place, name in enumerate(names)], GENERATION)


def _record(user: str, offset: int) -> ConsumerRecord[bytes | None, bytes | None]:
    event = Interaction("like", user, f"item-{offset * 37 % 4000}", START + offset % 1000, f"event-{offset}")
    key, value = user.encode(), msgspec.json.encode(event)
    return ConsumerRecord(TOPICS.interactions, 0, offset, START, 0, key, value, None, len(key), len(value), ())


def _library(store: RowStore, model: Model, users: int, rounds: int) -> dict[str, float]:
    """The functions that the stages consist of, for one run."""
    run = _run([f"user-{number}" for number in range(users)], 10**9)
    keys = [record.key or b"" for record in run.records]
    values = [record.value for record in run.records]
    offsets, times = [record.offset for record in run.records], [START] * users
    encoder = model.encoder
    spent: dict[str, float] = {}

    def timed(name: str, work: Callable[[], Any]) -> Any:
        for _ in range(rounds):
            begun = time.process_time()
            result = work()
            took = 1e6 * (time.process_time() - begun) / users
            spent[name] = min(spent.get(name, took), took)
        return result

    decoded = timed(
        "decode", lambda: decode_interactions(values, keys, offsets, times, START, SETTINGS.policy, 86_400_000)
    )
    stored = timed("multi-get", lambda: store.read(0, keys))
    rows = timed("unpack", lambda: profile.unpack(stored, encoder.width, encoder.key))
    folded = timed("fold", lambda: profile.fold(rows, decoded.interactions, encoder)).rows
    timed("pack", lambda: list(profile.pack(folded, 0)))
    vector = timed("read (vector)", lambda: encoder.vector(folded))
    timed("assign", lambda: model.clusters.assign(vector))
    found = timed("read, assign, vote, rank", lambda: recommend(model, folded, SETTINGS.list_size))
    timed("read, assign, vote", lambda: recommend(model, folded, SETTINGS.list_size, exact=False))
    causes = [
        Cause(user, Trigger(TOPICS.interactions, 0, offset, f"event-{offset}", rfc3339(START)), START)
        for user, offset in zip(decoded.interactions.users, offsets, strict=True)
    ]
    bodies = timed("encode lists", lambda: personal_lists(model, found, causes, rfc3339(START), "event"))
    pairs = list(zip(keys, bodies, strict=True))
    timed(
        "record batches of lists",
        lambda: [
            record_batch(ProducerId(1, 1), 0, pairs[first : first + 200], START) for first in range(0, users, 200)
        ],
    )
    return {**spent, "candidates ranked": float(replace(found).ranked.mean())}
