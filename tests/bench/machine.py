"""Where and with what a benchmark ran, and how its processes are kept apart."""

from __future__ import annotations

import asyncio
import os
import platform
import shlex
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from importlib.metadata import version
from pathlib import Path

import msgspec

from streams.broker import EmbeddedBroker
from tests.kafka import native_kafka

PACKAGES = ("aiokafka", "faust-streaming", "msgspec", "numba", "numpy", "rocksdict")
TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")
LOOK_SECONDS = 0.2
"""Between two looks at a process's memory."""


def described() -> dict[str, object]:
    """What stands beside every figure."""
    return {
        "command": shlex.join(["python", "-m", "tests.bench", *sys.argv[1:]]),
        "commit": _commit(),
        "cpu": _cpu(),
        "cores": len(os.sched_getaffinity(0)),
        "system": platform.platform(),
        "python": platform.python_version(),
        "versions": {name: version(name) for name in PACKAGES},
    }


def pin(pid: int, core: int | None) -> None:
    """Keep a process with all its threads on one core; None leaves it free."""
    if core is not None:
        for thread in Path(f"/proc/{pid}/task").iterdir():
            os.sched_setaffinity(int(thread.name), {core})


def two_cores() -> tuple[int | None, int | None]:
    """A core for the worker, and one for everything else; None where there is only one."""
    cores = sorted(os.sched_getaffinity(0))
    return (cores[0], cores[1]) if len(cores) > 1 else (None, None)


def cpu_seconds(pid: int) -> float:
    """Processor time of a process and all its threads so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS_PER_SECOND  # utime and stime


class Footprint(msgspec.Struct):
    """What a process holds."""

    rss: int
    """Bytes in memory, files that it has mapped among them."""
    anonymous: int
    """Of these, bytes that no file stands behind: what the process itself has asked for."""
    descriptors: int
    table_files: int
    """Of the descriptors, those of RocksDB's table files, which come and go as it merges them."""
    threads: int


def footprint(pid: int) -> Footprint:
    """What a process holds now (Linux)."""
    folder = Path(f"/proc/{pid}")
    kilobytes = {}
    for line in (folder / "smaps_rollup").read_text().splitlines()[1:]:
        name, _, amount = line.partition(":")
        kilobytes[name] = int(amount.split()[0])
    targets = [_target(link) for link in (folder / "fd").iterdir()]
    return Footprint(
        rss=1024 * kilobytes["Rss"],
        anonymous=1024 * kilobytes["Anonymous"],
        descriptors=len(targets),
        table_files=sum(target.endswith(".sst") for target in targets),
        threads=sum(1 for _ in (folder / "task").iterdir()),
    )


@asynccontextmanager
async def peak_rss(pid: int) -> AsyncIterator[Callable[[], int]]:
    """The most bytes in memory that a process was seen to hold since the block began."""
    peak = footprint(pid).rss

    async def watch() -> None:
        nonlocal peak
        while True:
            peak = max(peak, footprint(pid).rss)
            await asyncio.sleep(LOOK_SECONDS)

    watching = asyncio.create_task(watch())
    try:
        yield lambda: peak
    finally:
        watching.cancel()
        with suppress(asyncio.CancelledError):
            await watching


def _target(link: Path) -> str:
    """What a descriptor stands for; it may be closed while it is looked at."""
    try:
        return str(link.readlink())
    except FileNotFoundError:
        return ""


def folder_bytes(folder: Path) -> int:
    """Bytes of all files in a folder; a file may go while it is looked at."""
    total = 0
    for path in folder.rglob("*"):
        try:
            total += path.stat().st_size if path.is_file() else 0
        except FileNotFoundError:
            continue
    return total


def load() -> float:
    """Processes that ran or waited for a core, on average over the last minute."""
    return os.getloadavg()[0]


@contextmanager
def running_broker(kind: str, folder: Path) -> Iterator[tuple[str, int]]:
    """Address and process of a broker, "kafka" or "embedded", until the block ends."""
    if kind == "kafka":
        with native_kafka(folder) as kafka:
            yield kafka.address, kafka.pid
    else:
        with EmbeddedBroker() as embedded:
            assert embedded.pid is not None
            yield embedded.address, embedded.pid


def _commit() -> str:
    found = subprocess.run(["git", "describe", "--always", "--dirty"], capture_output=True, text=True, check=False)
    return found.stdout.strip() or "unknown"


def _cpu() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor() or "unknown"
