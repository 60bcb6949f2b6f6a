"""What it costs a worker to be watched: the loop with all its metrics beside one that counts nothing.

1. Runs of one event of each of many users, with full rows on disk, go in turn through two loops on the same disk: one
   as in a worker, one whose metrics, stages and judging of lists are calls of nothing. Chance says which goes first,
   and for which users. Of each block of pairs the faster half of each loop's runs is compared, since what else the
   machine does can only add to them.
2. In further runs of the first loop its judging of lists and its counting are timed where they happen: less than all
   of it, since the clocks of its stages are not in there, but free of what the machine does between two runs.
3. What happens beside the loop however much there is to do: a look every second, a measurement every ten, and a scrape
   of all series as often as deploy/prometheus asks for one. Their processor time is a share of every second.

Processor time is that of the loop's thread: RocksDB's own threads do the same for both.
"""

from __future__ import annotations

import asyncio
import itertools
import shutil
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from tempfile import mkdtemp
from types import SimpleNamespace
from typing import Any

import numpy as np
from faust.types import TP
from prometheus_client import generate_latest

from streams.metrics import WorkerMetrics
from streams.observer import LOOK_SECONDS, MEASURE_SECONDS, Observer
from streams.quality import Quality
from streams.table import RowStore
from streams.transport import Run
from streams.worker import Loop
from tests.bench.alone import SETTINGS, TOPICS, handle, loop_of, opened, run_of
from tests.bench.histories import FULL, names
from tests.bench.pieces import fill
from tests.bench.spread import spread
from tests.bench.synthetic import synthetic_model
from tests.toy import START

SCRAPE_SECONDS = 5.0
PARTITIONS = 8
BESIDE_ROUNDS = 200
BLOCK_PAIRS = 20


class Nothing:
    """Stands for a metric, a stage or a judge: takes whatever it is told."""

    def __getattr__(self, name: str) -> Nothing:
        return self

    def __call__(self, *_: object, **__: object) -> Nothing:
        return self

    def __enter__(self) -> None: ...

    def __exit__(self, *_: object) -> None: ...


def measure(users: int, run_events: int, pairs: int, items: int) -> dict[str, Any]:
    """µs per list of both, their ratio pair by pair, and the share of a core that goes beside the loop."""
    model = synthetic_model(items=items)
    folder = Path(mkdtemp())
    try:
        store = opened(folder)
        fill(store, model, users)
        watched, metrics = loop_of(store, model, WorkerMetrics(SETTINGS.policy.rules))
        nothing: Any = Nothing()
        unwatched, _ = loop_of(store, model, nothing)
        unwatched.quality = unwatched._refresh._quality = nothing
        runs = _runs(users, run_events, model.items.ids)
        spent = _in_turn(watched, unwatched, runs, pairs)
        timed = _timed(watched, runs, pairs)
        beside = _beside(metrics, watched.quality, store)
    finally:
        shutil.rmtree(folder)
    blocks = [spent[first : first + BLOCK_PAIRS] for first in range(0, len(spent), BLOCK_PAIRS)]
    loop = spread(_quick([pair[0] for pair in block]) / _quick([pair[1] for pair in block]) - 1 for block in blocks)
    every = {"look": LOOK_SECONDS, "measure": MEASURE_SECONDS, "scrape": SCRAPE_SECONDS}
    share = sum(seconds / every[name] for name, seconds in beside.items())
    return {
        "users": users,
        "run_events": run_events,
        "pairs": pairs,
        "items": items,
        "watched": 1e6 * _quick([with_all for with_all, _ in spent]) / run_events,
        "unwatched": 1e6 * _quick([without for _, without in spent]) / run_events,
        "loop": loop,
        "timed": timed,
        "beside": beside,
        "beside_share": share,
        "in_all": loop["median"] + share,
    }


def _quick(seconds: Sequence[float]) -> float:
    """Mean of the faster half."""
    return statistics.mean(sorted(seconds)[: (len(seconds) + 1) // 2])


def _runs(users: int, run_events: int, items: list[str]) -> Iterator[Run]:
    """Without end, of users who are drawn."""
    chance = np.random.default_rng(0)
    for offset in itertools.count(users * FULL * 2, users):
        first = int(chance.integers(users - run_events + 1))
        yield run_of(names(first, first + run_events), offset, items)


def _in_turn(watched: Loop, unwatched: Loop, runs: Iterator[Run], pairs: int) -> list[tuple[float, float]]:
    """Seconds of processor time of a run with and without, pair by pair, after a pair that does not count."""
    chance = np.random.default_rng(1)
    spent = []
    for _ in range(pairs + 1):
        took = {}
        for loop in (watched, unwatched) if chance.random() < 0.5 else (unwatched, watched):
            took[loop] = _handled(loop, next(runs))
        spent.append((took[watched], took[unwatched]))
    return spent[1:]


def _timed(watched: Loop, runs: Iterator[Run], count: int) -> dict[str, float]:
    """What share of the loop's processor time its parts take that count and judge."""
    spent = dict.fromkeys(("sample", "judge", "gave", "_count"), 0.0)
    for name in spent:
        owner = watched if name == "_count" else watched.quality
        setattr(owner, name, _clocked(getattr(owner, name), name, spent))
    whole = sum(_handled(watched, next(runs)) for _ in range(count))
    return {name: seconds / whole for name, seconds in spent.items()}


def _clocked(act: Callable[..., Any], name: str, spent: dict[str, float]) -> Callable[..., Any]:
    def acting(*args: Any) -> Any:
        begun = time.thread_time()
        done = act(*args)
        spent[name] += time.thread_time() - begun
        return done

    return acting


def _handled(loop: Loop, run: Run) -> float:
    begun = time.thread_time()
    handle(loop, [run])
    return time.thread_time() - begun


def _beside(metrics: WorkerMetrics, quality: Quality, store: RowStore) -> dict[str, float]:
    """Seconds of processor time of a look, a measurement and a scrape, of a worker with several partitions."""
    sources = (TOPICS.interactions, TOPICS.users)
    places = {TP(topic, partition) for topic in sources for partition in range(PARTITIONS)}
    copies = dict.fromkeys(range(PARTITIONS), 0)
    app: Any = SimpleNamespace(
        sources=sources,
        consumer=SimpleNamespace(
            assignment=lambda: places,
            first_undone=lambda tp: (1000, START),
            highwater=lambda tp: 2000,
            committed=lambda tp: 900,
        ),
        consumer_generation_id=1,
        is_alive=lambda: True,
        tables=SimpleNamespace(recovery=SimpleNamespace(lacking=lambda: copies, standby_lag=lambda: copies)),
        table=SimpleNamespace(store=store),
    )
    services: Any = SimpleNamespace(metrics=metrics, slot=SimpleNamespace(unserved=""), failures=0)
    observer = Observer(app, SETTINGS, services, quality, lambda: START + 5_000)
    return {
        "look": _seconds(lambda: asyncio.run(_each(observer.look))),
        "measure": _seconds(lambda: asyncio.run(_each(observer.measure))),
        "scrape": _seconds(lambda: [generate_latest(metrics.registry) for _ in range(BESIDE_ROUNDS)]),
    }


async def _each(act: Callable[[], Any]) -> None:
    for _ in range(BESIDE_ROUNDS):
        await act()


def _seconds(work: Callable[[], Any]) -> float:
    """Of one of BESIDE_ROUNDS."""
    begun = time.thread_time()
    work()
    return (time.thread_time() - begun) / BESIDE_ROUNDS
