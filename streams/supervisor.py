"""Several workers on one machine: started together, started again when one dies, stopped together.

Each is a process of its own and a member of the same group, with a folder of its own. Their metrics and their health
are shown as one (gathering.py). Knows nothing of what a worker does.
"""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from efficientrec.errors import WorkersEnded
from streams.broker import free_port
from streams.children import start_child
from streams.exposition import exposed
from streams.gathering import Processes
from streams.health import Pulse
from streams.settings import PREFIX, Settings

log = logging.getLogger(__name__)

PAUSES = (1.0, 2.0, 5.0, 10.0, 30.0)
"""Seconds before a worker that died is started again; the last one repeats."""
STEADY_SECONDS = 60.0
"""A worker that has run for so long begins again with the first pause."""
FIRST_SECONDS = 10.0
"""A worker that gives up its first life sooner would give up its next ones as well: then all stop."""
STOP_SECONDS = 60.0
LOOK_SECONDS = 0.2


class _Worker:
    """One place among the workers, and the process that holds it now."""

    def __init__(self, number: int, command: Sequence[str], settings: Settings) -> None:
        self.number = number
        self._command, self._settings = command, settings
        self.lives = 0
        self.due_at = 0.0
        self._failures = 0
        self.start()

    def start(self) -> None:
        self.lives += 1
        self._port = free_port() if self._settings.metrics_port else 0
        environ = {**os.environ, **own_settings(self._settings, self.number, self._port)}
        self.process: subprocess.Popen[bytes] | None = start_child(self._command, environ=environ, inherits_output=True)
        self.started_at = time.monotonic()

    @property
    def port(self) -> int | None:
        """Where its metrics are, on loopback; None while it does not run."""
        return None if self.process is None else self._port

    def look(self) -> None:
        """Notices its end, and starts it again when its pause is over. Raises WorkersEnded."""
        now = time.monotonic()
        if self.process is None:
            if now >= self.due_at:
                self.start()
            return
        status = self.process.poll()
        if status is None:
            return
        lived = now - self.started_at
        if self.lives == 1 and lived < FIRST_SECONDS and status > 0:
            raise WorkersEnded(
                f"worker {self.number} ended with status {status} {lived:.1f} s after its first start; its own log "
                "says why"
            )
        failures = 0 if lived >= STEADY_SECONDS else self._failures
        pause, self._failures = PAUSES[min(failures, len(PAUSES) - 1)], failures + 1
        log.error("worker %d ended with status %d after %.0f s; again in %g s", self.number, status, lived, pause)
        self.process, self.due_at = None, now + pause


def supervise(settings: Settings, processes: int, config: Path | None = None) -> None:
    """Runs so many workers until SIGTERM or SIGINT, then stops them all. config: their settings file.

    Raises WorkersEnded when a worker does not survive its first start.
    """
    command = [sys.executable, "-m", "streams", "worker", *([] if config is None else ["--config", str(config)])]
    workers: list[_Worker] = []
    pulse = Pulse(settings.stalled_seconds)
    together = Processes(workers, pulse, settings.metrics_token)
    where = (settings.metrics_host, settings.metrics_port, PREFIX + "METRICS_PORT", settings.metrics_token)
    with _asked_to_stop() as asked, exposed(together.registry(), together, *where):
        try:
            for number in range(processes):
                workers.append(_Worker(number, command, settings))
            while not asked.wait(LOOK_SECONDS):
                pulse.beat()
                for worker in workers:
                    worker.look()
        finally:
            _stop([worker.process for worker in workers if worker.process is not None])


def own_settings(settings: Settings, number: int, port: int) -> dict[str, str]:
    """What one worker has for itself, as variables. port: for its metrics."""
    folder = settings.state_dir / f"worker-{number}"
    return {
        PREFIX + "STATE_DIR": str(folder),
        PREFIX + "METRICS_HOST": "127.0.0.1",
        PREFIX + "METRICS_PORT": str(port),
    }


@contextmanager
def _asked_to_stop() -> Iterator[threading.Event]:
    asked = threading.Event()
    before = {number: signal.signal(number, lambda *_: asked.set()) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _stop(processes: Sequence[subprocess.Popen[bytes]]) -> None:
    """Asks all at once, so that none takes over the partitions of those that stop before it."""
    for process in processes:
        if process.poll() is None:
            process.terminate()
    deadline = time.monotonic() + STOP_SECONDS
    for process in processes:
        try:
            process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            log.error("process %d did not stop within %g s and is killed", process.pid, STOP_SECONDS)
            process.kill()
            process.wait()
