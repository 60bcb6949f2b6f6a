"""Where and with what a benchmark ran, and how its processes are kept apart."""

from __future__ import annotations

import os
import platform
import shlex
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

PACKAGES = ("aiokafka", "faust-streaming", "msgspec", "numba", "numpy", "rocksdict")
TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")


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


def _commit() -> str:
    found = subprocess.run(["git", "describe", "--always", "--dirty"], capture_output=True, text=True, check=False)
    return found.stdout.strip() or "unknown"


def _cpu() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor() or "unknown"
