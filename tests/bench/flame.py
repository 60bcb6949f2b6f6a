"""Where a saturated worker spends its time: py-spy looks at it from outside, some hundred times a second.

1. A backlog of events, each of another user, waits in the broker, more of them than the worker handles meanwhile.
2. py-spy records what the thread does that holds Python's lock. What is done without it is not in the picture, such as
   RocksDB's reads and writes: which of the other threads work and which wait cannot be told from outside everywhere.
3. Afterwards there must still be a backlog, or the worker was not saturated.
4. Paths of this machine are cut off in the picture: they say nothing.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from rich.console import Console

from streams.clock import wall_ms
from tests.bench import machine
from tests.bench.traffic import outcomes, poured, until_handled
from tests.bench.watched import LIMIT_SECONDS, event_of, serving, world_of
from tests.integration.harness import KeyValue

EVENTS_PER_SECOND = 40_000
"""More than a worker handles."""
WARM_EVENTS = 5000
"""Handled before the recording begins."""
SAMPLES_PER_SECOND = 200
ROOT = Path(__file__).parents[2]
PY_SPY = Path(sys.executable).with_name("py-spy")


def record(broker: str, seconds: float, to: Path, console: Console) -> None:
    """Writes the flame graph."""
    with tempfile.TemporaryDirectory() as name, machine.running_broker(broker, Path(name) / "broker") as (address, pid):
        worker_core, other_core = machine.two_cores()
        machine.pin(pid, other_core)
        machine.pin(os.getpid(), other_core)
        with serving(world_of(broker, address, Path(name) / "world")) as (world, worker):
            machine.pin(worker.process.pid, worker_core)
            events = int(EVENTS_PER_SECOND * seconds)
            asyncio.run(poured(world, world.topics.interactions, _events(events)))
            before = outcomes(asyncio.run(until_handled(worker, WARM_EVENTS, LIMIT_SECONDS))).handled
            picture = _recorded(worker.process.pid, seconds, Path(name))
            after = outcomes(worker.metrics()).handled
    assert before < after < events, f"of {events} events {before} were handled at the beginning, {after} at the end"
    to.parent.mkdir(parents=True, exist_ok=True)
    to.write_text(without_paths(picture, [PY_SPY.parent, ROOT, *map(Path, filter(None, sys.path))]))
    console.print(f"{to}: {seconds:g} s in which the worker handled {after - before:,} of {events:,} events")


def _recorded(pid: int, seconds: float, folder: Path) -> str:
    seconds_and_rate = ["--duration", f"{seconds:.0f}", "--rate", str(SAMPLES_PER_SECOND)]
    done = subprocess.run(
        [PY_SPY, "record", "--pid", str(pid), *seconds_and_rate, "--function", "--gil", "--output", "worker.svg"],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise SystemExit(
            f"py-spy could not look at the worker: {done.stderr.strip()}\nIt reads another process's memory: run as "
            "root, give the container SYS_PTRACE, or set kernel.yama.ptrace_scope to 0"
        )
    return (folder / "worker.svg").read_text()


def without_paths(picture: str, folders: list[Path]) -> str:
    """The picture with paths relative to these folders where they lie in one of them.

    >>> without_paths("fold (/somewhere/lib/numpy/core.py)", [Path("/somewhere/lib")])
    'fold (numpy/core.py)'
    """
    for folder in sorted(map(str, folders), key=len, reverse=True):
        picture = picture.replace(f"{folder}/", "")
    return picture


def _events(events: int) -> Iterator[KeyValue]:
    at = wall_ms()
    for number in range(events):
        user = f"user-{number}"
        yield user.encode(), event_of(user, number, at)
