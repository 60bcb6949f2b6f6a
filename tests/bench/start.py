"""How long a worker takes from its start to its first list, with kernels that are compiled already and without.

1. For each start a world of its own: topics, model, and a group that nobody was in. An event of a new user waits in the
   broker. There are no rows, so nothing comes back from the changelog.
2. A worker starts with an empty folder for compiled kernels (NUMBA_CACHE_DIR): cold. It answers on /metrics once they
   are compiled, is given its partitions, and counts a list once the broker has it.
3. Another one starts with the folder as the cold one has left it: warm.

Of the seconds before the partitions are dealt some are the group's: the embedded broker waits half of a session timeout
before a group forms, Kafka does not, as it is set here.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
import tomllib
import venv
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec
from rich.console import Console

from streams.clock import wall_ms
from tests.bench import machine
from tests.bench.spread import spread
from tests.bench.synthetic import synthetic_model
from tests.bench.watched import LIMIT_SECONDS, PARTITIONS, event_of, world_of
from tests.integration.harness import Worker, World

LOOK_SECONDS = 0.05
"""Between two looks at /metrics, which cost the worker a millisecond or two each."""
IDLE_SECONDS = 2.0
"""After the first list, before the worker's memory is looked at."""
STEPS = ("answers", "assigned", "listed")
ROOT = Path(__file__).parents[2]


class CachingWorker(Worker):
    """A worker that keeps compiled kernels beside the folder of its world."""

    def environ(self) -> dict[str, str]:
        return {"NUMBA_CACHE_DIR": str(_kernels(self.folder.parent))}


def _kernels(world: Path) -> Path:
    return world.with_name("kernels")


class Start(msgspec.Struct):
    """Seconds from the start of the process to each step, and what it holds afterwards, idle."""

    answers: float
    """/metrics answers: everything is imported, and the kernels are there."""
    assigned: float
    """The group has dealt the partitions."""
    listed: float
    """The broker has the first list."""
    cpu_seconds: float
    """Of the process until it answered."""
    rss: int
    anonymous: int
    load: float


def measure(broker: str, rounds: int, console: Console) -> dict[str, Any]:
    """The figures of all rounds."""
    starts: dict[str, list[Start]] = {"cold": [], "warm": []}
    with tempfile.TemporaryDirectory() as name, machine.running_broker(broker, Path(name) / "broker") as (address, pid):
        _, other_core = machine.two_cores()
        machine.pin(pid, other_core)
        machine.pin(os.getpid(), other_core)
        folder = Path(name)
        for number in range(rounds):
            shutil.rmtree(_kernels(folder / "world"), ignore_errors=True)
            for kind, found in starts.items():
                world = world_of(broker, address, folder / f"{kind}-{number}")
                try:
                    found.append(_start(world))
                finally:
                    world.close()
                console.print(kind, found[-1])
    return {
        "broker": broker,
        "session_timeout_seconds": world.settings.session_timeout_seconds,
        **{kind: _told(found) for kind, found in starts.items()},
        "installed_bytes": installed_bytes(),
        "rounds": {kind: [msgspec.to_builtins(each) for each in found] for kind, found in starts.items()},
    }


def _start(world: World) -> Start:
    """One worker from its start to its first list, and idle after that."""
    world.create_topics()
    world.release(synthetic_model())
    world.produce(world.topics.interactions, [(b"first", event_of("first", 0, wall_ms()))])
    worker = world.worker("only", CachingWorker)
    begun = time.perf_counter()
    worker.start()
    pid = worker.process.pid
    machine.pin(pid, machine.two_cores()[0])
    reached: dict[str, float] = {}
    cpu = 0.0
    while len(reached) < len(STEPS):
        if not reached:
            cpu = machine.cpu_seconds(pid)
        for step in _steps(worker):
            reached.setdefault(step, time.perf_counter() - begun)
        if not worker.is_running() or time.perf_counter() - begun > LIMIT_SECONDS:
            raise AssertionError(f"only {sorted(reached)} of {STEPS} is reached\n{worker.output()[-2000:]}")
        time.sleep(LOOK_SECONDS)
    time.sleep(IDLE_SECONDS)
    held = machine.footprint(pid)
    return Start(**reached, cpu_seconds=cpu, rss=held.rss, anonymous=held.anonymous, load=machine.load())


def _steps(worker: Worker) -> list[str]:
    """Which of STEPS lie behind it."""
    with suppress(OSError):
        metrics = worker.metrics()
        lists = metrics['efficientrec_recommendations_published_total{arm="control",reason="event"}']
        done = (True, metrics["efficientrec_partitions_assigned"] == PARTITIONS, lists >= 1)
        return [step for step, is_done in zip(STEPS, done, strict=True) if is_done]
    return []


def _told(starts: list[Start]) -> dict[str, Any]:
    return {
        name: spread(getattr(each, name) for each in starts) for name in (*STEPS, "cpu_seconds", "rss", "anonymous")
    }


def installed_bytes() -> int | None:
    """Files of a fresh environment with the packages that a worker needs, without Python and the project itself; None
    where they cannot be had. There is no container engine here that could make an image: this is what would grow it."""
    wanted = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    with tempfile.TemporaryDirectory() as name:
        venv.create(name, with_pip=False, symlinks=True)
        pip = [sys.executable, "-m", "pip", "--python", name, "install", "--quiet", "-c", str(ROOT / "constraints.txt")]
        if subprocess.run([*pip, *wanted], check=False).returncode:
            return None
        return machine.folder_bytes(Path(name) / "lib")
