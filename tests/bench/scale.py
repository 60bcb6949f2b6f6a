"""What a refreshed list costs the worker as users, items or histories grow: the loop and the disk of a real worker in
one process, with a broker that answers at once.

1. Users: rows of full rings on disk, more of them each time, with a block cache of which the most exceed many times.
2. Items: models that know more and more of them. Shortlists stay as long as they are, as in a trained model.
3. Events: users with longer and longer histories.

Each is measured at all its sizes in turn, several rounds: one more event of each of some thousand users, drawn anew. A
cost is processor time of the whole process, RocksDB's threads included, over the lists made; beside it stands the time
on the clock, in which reads from the disk show. The ratio is that of the greatest median to the least.

Rows are made for some users and copied to the others under their names, in the order of these; pages of the files that
fit into memory come from there and not from the disk, whatever the size of the block cache.
"""

from __future__ import annotations

import asyncio
import shutil
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
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
    memory_bytes,
    opened,
    run_of,
    stage_seconds,
    write_progress,
    write_rows,
)
from tests.bench.histories import FULL, name_of, packed
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
ROW_BYTES = 3000
"""On disk a full row takes half of it; the rest is room for RocksDB to merge files in."""
QUIET_SECONDS = 0.5


class Size:
    """A disk with so many users' rows under one model, and the loop over it."""

    def __init__(self, folder: Path, model: Model, users: int, events: int = FULL) -> None:
        self.users = users
        self._items = model.items.ids
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
        """µs of processor time per list, of each round."""
        self.reads: list[float] = []
        """Of these, for reading rows."""
        self.walls: list[float] = []
        """µs on the clock per list."""

    def play(self, lists: int, rng: np.random.Generator, run_events: int = RUN_EVENTS) -> None:
        """One round: one more event of each of so many users."""
        chosen = [name_of(user) for user in rng.choice(self.users, lists, replace=False).tolist()]
        runs = [
            run_of(chosen[first : first + run_events], self._offset + first, self._items)
            for first in range(0, lists, run_events)
        ]
        self._offset += lists
        before, begun, wall = stage_seconds(self._metrics)["read"], time.process_time(), time.perf_counter()
        handle(self._loop, runs)
        self.costs.append(1e6 * (time.process_time() - begun) / lists)
        self.walls.append(1e6 * (time.perf_counter() - wall) / lists)
        self.reads.append(1e6 * (stage_seconds(self._metrics)["read"] - before) / lists)

    def warm(self, lists: int, rng: np.random.Generator) -> None:
        """A round that does not count: kernels, connections, caches."""
        self.play(lists, rng)
        for values in (self.costs, self.reads, self.walls):
            values.clear()

    def memory_bytes(self) -> int:
        return memory_bytes(self._store)

    def close(self) -> None:
        asyncio.run(self._store.on_stop())


def measure(users_most: int, lists: int, rounds: int, items_most: int, console: Console) -> dict[str, Any]:
    """The figures of all three. users_most, items_most: sizes beyond these are left out."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        wanted, free = tens(USERS, users_most), shutil.disk_usage(folder).free
        counts = fitting(wanted, free)
        if counts != wanted:
            console.print(
                f"No room for the rows of {wanted[-1]:,} users: with the others' they need {_gibibytes(sum(wanted))}, "
                f"and {folder.parent} has {free / 2**30:,.1f} GiB free. It goes on with {counts[-1]:,} users; TMPDIR "
                "may name a larger folder"
            )
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
            size.warm(min(lists, size.users), rng)
        for _ in range(rounds):
            for size in sizes.values():
                size.play(min(lists, size.users), rng)
        found: dict[str, dict[str, Any]] = {
            str(count): {
                "microseconds_per_list": spread(size.costs),
                "microseconds_reading": spread(size.reads),
                "wall_microseconds_per_list": spread(size.walls),
                "row_bytes": size.row_bytes,
                "disk_bytes_per_user": size.bytes_per_user,
                "memory_bytes_per_user": size.memory_bytes() / size.users,
            }
            for count, size in sizes.items()
        }
    return {
        "sizes": found,
        "ratio": _ratio(found, "microseconds_per_list"),
        "wall_ratio": _ratio(found, "wall_microseconds_per_list"),
    }


def _ratio(found: Mapping[str, dict[str, Any]], name: str) -> float:
    medians = [each[name]["median"] for each in found.values()]
    return float(max(medians) / min(medians))


def tens(least: int, most: int) -> list[int]:
    """least, ten times that, and so on up to most; least at least.

    >>> tens(10, 5000)
    [10, 100, 1000]
    """
    found = [least]
    while found[-1] * 10 <= most:
        found.append(found[-1] * 10)
    return found


def fitting(counts: Sequence[int], free: int) -> list[int]:
    """Those numbers of users, least first, whose rows have room beside each other on a disk with so many free bytes.

    >>> fitting([10_000, 100_000], free=100_000_000)
    [10000]
    """
    found = list(counts)
    while sum(found) * ROW_BYTES > free:
        if len(found) == 1:
            raise SystemExit(f"the rows of {found[0]:,} users need {_gibibytes(found[0])}; name a larger TMPDIR")
        found.pop()
    return found


def _gibibytes(users: int) -> str:
    return f"{users * ROW_BYTES / 2**30:,.1f} GiB"


def _until_quiet() -> None:
    """Returns when RocksDB has merged what there was to merge."""
    while True:
        before = time.process_time()
        time.sleep(QUIET_SECONDS)
        if time.process_time() - before < QUIET_SECONDS / 20:
            return
