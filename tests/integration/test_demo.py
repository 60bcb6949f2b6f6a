"""The demo as a user runs it: to its end, and broken off."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

DEMO = [sys.executable, "-m", "streams", "demo"]


def children_of(parent: int) -> list[int]:
    """Processes that descend from `parent`, as long as it lives."""
    pairs = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue  # it ended meanwhile
        pairs.append((int(stat.parent.name), int(fields[1])))
    found, queue = [], [parent]
    while queue:
        above = queue.pop()
        below = [pid for pid, ppid in pairs if ppid == above]
        found += below
        queue += below
    return found


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.full
def test_the_demo_plays_real_ratings_to_its_end(tmp_path: Path) -> None:
    written = tmp_path / "demo.json"

    ended = subprocess.run(
        [*DEMO, "--until-done", "--json", str(written)], capture_output=True, text=True, timeout=400, check=False
    )

    assert ended.returncode == 0, ended.stdout + ended.stderr
    figures = json.loads(written.read_text())
    assert (figures["events"], figures["users"], figures["dead_letters"]) == (100_836, 610, 0)
    assert (figures["rows_checked"], figures["rows_different"]) == (610, 0)
    assert figures["lists"] >= 610
    assert figures["models"] >= 2
    assert figures["swaps"] >= 1
    assert figures["with_a_model"]["hit_rate_at_10"] > figures["with_a_model"]["popularity_hit_rate_at_10"]
    assert set(figures["latency_ms"]) == {"p50", "p99"}
    assert "because of" in ended.stdout


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_demo_that_is_broken_off_leaves_no_process(number: signal.Signals, tmp_path: Path) -> None:
    signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored, and inherited so, in a shell's background job
    demo = subprocess.Popen(
        DEMO, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env={**os.environ, "TMPDIR": str(tmp_path)}
    )
    try:
        deadline = time.monotonic() + 60
        while len(below := children_of(demo.pid)) < 3:
            assert demo.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.05)

        demo.send_signal(number)
        demo.wait(30)
    finally:
        demo.kill()

    deadline = time.monotonic() + 30
    while any(map(is_alive, below)):
        assert time.monotonic() < deadline, below
        time.sleep(0.05)
    if number != signal.SIGKILL:  # nobody is left to tidy up after that
        assert list(tmp_path.glob("efficientrec-demo-*")) == []
