"""What each piece of a refreshed list costs, in one process: the real loop and disk, and a broker that answers at once.

1. Users whose rows are full (a ring of 64 interactions) are written to a disk of their own.
2. One more event of each goes through the loop, in runs as large as a saturated worker's. What no stage has taken is
   the loop's own.
3. The pieces of the arithmetic, alone, on the same rows.

All is processor time, of the loop in its least round and of each function in its own: what else the machine does can
only add to it.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

from efficientrec import artifact, profile
from efficientrec.model import Model
from efficientrec.recommend import recommend
from streams.lists import Cause, personal_lists
from streams.records import Trigger, decode_interactions, rfc3339
from streams.table import RowStore
from streams.wire import ProducerId, record_batch
from tests.bench.alone import (
    SETTINGS,
    TOPICS,
    handle,
    loop_of,
    opened,
    run_of,
    stage_seconds,
    write_progress,
    write_rows,
)
from tests.bench.histories import FULL, names, packed
from tests.bench.synthetic import synthetic_model
from tests.toy import START

FILLED_AT_ONCE = 2000


def measure(users: int, run_events: int, rounds: int, items: int, address: str = "") -> dict[str, Any]:
    """µs per list: of the loop by stage and in all, and of the library's functions alone. address: of a model's
    artifact; a synthetic model of so many items without."""
    model = artifact.load(address)[0] if address else synthetic_model(items=items)
    folder = Path(mkdtemp())
    try:
        store = opened(folder)
        row_bytes = fill(store, model, users)
        return {
            "users": users,
            "run_events": run_events,
            "encoder": model.encoder.NAME,
            "items": len(model.items),
            "row_bytes": row_bytes,
            "loop": _loop(store, model, users, run_events, rounds),
            **_library(store, model, min(users, run_events), rounds),
        }
    finally:
        shutil.rmtree(folder)


def fill(store: RowStore, model: Model, users: int) -> float:
    """Writes the rows of users with a full ring; bytes per row."""
    total = 0
    for first in range(0, users, FILLED_AT_ONCE):
        rows = packed(model, min(FILLED_AT_ONCE, users - first), first)
        total += sum(map(len, rows))
        write_rows(store, first, rows)
    write_progress(store, users * FULL)
    return total / users


def _loop(store: RowStore, model: Model, users: int, run_events: int, rounds: int) -> dict[str, float]:
    loop, metrics = loop_of(store, model)
    best: dict[str, float] = {}
    for number in range(rounds):
        offset = users * FULL * (number + 1)
        runs = [
            run_of(names(first, min(first + run_events, users)), offset + first, model.items.ids)
            for first in range(0, users, run_events)
        ]
        before = stage_seconds(metrics)
        begun = time.process_time()
        handle(loop, runs)
        whole = time.process_time() - begun
        spent = {stage: seconds - before[stage] for stage, seconds in stage_seconds(metrics).items()}
        spent["the loop itself"] = whole - sum(spent.values())
        spent["in all"] = whole
        if not best or whole < best["in all"]:
            best = spent
    return {name: 1e6 * seconds / users for name, seconds in best.items()}


def _library(store: RowStore, model: Model, users: int, rounds: int) -> dict[str, Any]:
    """The functions that the stages consist of, for one run, and how many candidates were ranked for a user."""
    run = run_of(names(0, users), 10**9, model.items.ids)
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
    return {"library": spent, "candidates_ranked": float(found.ranked.mean())}
