"""What a refreshed list costs the worker as users, items or histories grow: the loop and the disk of a real worker in
one process, with a broker that answers at once.

1. Users: rows of full rings on disk, more of them each time, with a block cache of which the most exceed many times.
2. Items: models that know more and more of them. Shortlists stay as long as they are, as in a trained model.
3. Events: users with longer and longer histories.

Each is measured at all its sizes in turn, several rounds: one more event of each of some thousand users, drawn anew. A
cost is processor time of the whole process, RocksDB's threads included, over the lists made. The ratio is that of the
greatest median to the least.

Rows are made for some users and copied to the others under their names; pages of the files that fit into memory come
from there and not from the disk, whatever the size of the block cache.
"""

from __future__ import annotations

import asyncio
import shutil
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from efficientrec.model import Model
from tests.bench import machine
from tests.bench.alone import (
    BLOCK_CACHE_BYTES,
    handle,
    loop_of,
    opened,
    run_of,
    stage_seconds,
    write_progress,
    write_rows,
)
from tests.bench.histories import FULL, packed
from tests.bench.spread import spread
from tests.bench.synthetic import synthetic_model

USERS = 10_000
"""Where it is not the users that grow, and the fewest where it is."""
USERS_MOST = 1_000_000
"""Unless more are asked for."""
ITEM_COUNTS = (1_000, 10_000, 100_000, 1_000_000)
EVENT_COUNTS = (10, 1_000, 100_000)
RUN_EVENTS = 2000
"""As many as a worker takes at once unless told otherwise."""
EVENTS_MADE = 1_600_000
"""Most events that are folded into rows before these are copied: some seconds' worth."""
ROWS_MADE = 2000
ROW_BYTES = 4096
"""The most that a row can have, and room for it while RocksDB merges its files."""
QUIET_SECONDS = 0.5


class Size:
    """A disk with so many users' rows under one model, and the loop over it."""

    def __init__(self, folder: Path, model: Model, users: int, events: int = FULL) -> None:
        self.users = users
        self._items = len(model.items)
        made = min(users, ROWS_MADE, max(1, EVENTS_MADE // events))
        rows = packed(model, made, events=events)
        self._offset = made * events
        store = opened(folder)
        for first in range(0, users, made):
            write_rows(store, first, rows[: users - first])
        write_progress(store, self._offset)
        asyncio.run(store.on_stop())  # which writes everything out
        self.bytes_per_user = machine.folder_bytes(folder) / users
        self.row_bytes = sum(map(len, rows)) / made
        self._store = opened(folder)
        _until_quiet()
        self._loop, self._metrics = loop_of(self._store, model)
        self.costs: list[float] = []
        """µs per list, of each round."""
        self.reads: list[float] = []
        """Of these, µs on the loop's clock for reading rows."""

    def play(self, lists: int, rng: np.random.Generator) -> None:
        """One round: one more event of each of so many users."""
        chosen = [f"user-{user}" for user in rng.choice(self.users, lists, replace=False).tolist()]
        runs = [
            run_of(chosen[first : first + RUN_EVENTS], self._offset + first, self._items)
            for first in range(0, lists, RUN_EVENTS)
        ]
        self._offset += lists
        before, begun = stage_seconds(self._metrics)["read"], time.process_time()
        handle(self._loop, runs)
        self.costs.append(1e6 * (time.process_time() - begun) / lists)
        self.reads.append(1e6 * (stage_seconds(self._metrics)["read"] - before) / lists)

    def close(self) -> None:
        asyncio.run(self._store.on_stop())


def measure(users_most: int, lists: int, rounds: int, items_most: int, console: Console) -> dict[str, Any]:
    """The figures of all three. users_most, items_most: sizes beyond these are left out."""
    counts = _tens(USERS, users_most)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        _check_room(folder, sum(counts))
        model = synthetic_model()
        figures = {
            "users": _grown(counts, lambda users, at: Size(at, model, users), folder / "users", lists, rounds, console),
            "items": _grown(
                [count for count in ITEM_COUNTS if count <= items_most],
                lambda items, at: Size(at, synthetic_model(items=items), USERS),
                folder / "items",
                lists,
                rounds,
                console,
            ),
            "events": _grown(
                EVENT_COUNTS,
                lambda events, at: Size(at, model, USERS, events),
                folder / "events",
                lists,
                rounds,
                console,
            ),
        }
    return {
        "lists_per_round": lists,
        "run_events": RUN_EVENTS,
        "block_cache_bytes": BLOCK_CACHE_BYTES,
        "users_where_others_grow": USERS,
        "events_where_others_grow": FULL,
        "load": machine.load(),
        **figures,
    }


def _grown(
    counts: Sequence[int],
    made: Callable[[int, Path], Size],
    folder: Path,
    lists: int,
    rounds: int,
    console: Console,
) -> dict[str, Any]:
    """The cost at each size, in turn."""
    rng = np.random.default_rng(0)
    with ExitStack() as stack:
        stack.callback(shutil.rmtree, folder)
        sizes: dict[int, Size] = {}
        for count in counts:
            begun = time.perf_counter()
            sizes[count] = made(count, folder / str(count))
            stack.callback(sizes[count].close)
            console.print(f"{folder.name}: {count:,} after {time.perf_counter() - begun:.1f} s")
        for size in sizes.values():
            size.play(min(lists, size.users), rng)  # not counted: kernels, connections, caches
            size.costs.clear()
            size.reads.clear()
        for _ in range(rounds):
            for size in sizes.values():
                size.play(min(lists, size.users), rng)
        found: dict[str, dict[str, Any]] = {
            str(count): {
                "microseconds_per_list": spread(size.costs),
                "microseconds_reading": spread(size.reads),
                "row_bytes": size.row_bytes,
                "disk_bytes_per_user": size.bytes_per_user,
            }
            for count, size in sizes.items()
        }
    medians = [each["microseconds_per_list"]["median"] for each in found.values()]
    return {"sizes": found, "ratio": max(medians) / min(medians)}


def _tens(least: int, most: int) -> list[int]:
    """least, ten times that, and so on up to most; least at least."""
    found = [least]
    while found[-1] * 10 <= most:
        found.append(found[-1] * 10)
    return found


def _check_room(folder: Path, users: int) -> None:
    needed, free = users * ROW_BYTES, shutil.disk_usage(folder).free
    if needed > free:
        raise SystemExit(
            f"the rows of {users:,} users need up to {needed / 2**30:,.1f} GiB; {folder} has {free / 2**30:,.1f} GiB "
            "free. Name a larger folder in TMPDIR, or fewer users"
        )


def _until_quiet() -> None:
    """Returns when RocksDB has merged what there was to merge."""
    while True:
        before = time.process_time()
        time.sleep(QUIET_SECONDS)
        if time.process_time() - before < QUIET_SECONDS / 20:
            return
