"""`efficientrec worker` that kills itself after a step of its work when it is told to: `python -m
tests.simulation.chaos_worker`.

CHAOS_FILE names a file. While it holds `STEP|COUNT`, the worker counts how often the step is reached; when it has been
as often as that, the worker writes `struck` beside it and is gone, without a chance to finish anything.
"""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path

from efficientrec.errors import EfficientRecError
from streams import logs
from streams.app import run
from streams.settings import Settings

VARIABLE = "CHAOS_FILE"
STRUCK = ".struck"


class Chaos:
    """Called after every step."""

    def __init__(self, armed: Path) -> None:
        self._armed = armed
        self._order = ""
        self._seen = 0

    def __call__(self, step: str) -> None:
        try:
            order = self._armed.read_text()
        except FileNotFoundError:
            return
        if order != self._order:
            self._order, self._seen = order, 0
        wanted, _, count = order.rpartition("|")
        self._seen += step == wanted
        if step == wanted and self._seen >= int(count):
            with self._armed.with_suffix(STRUCK).open("w") as told:
                told.write(order)
                told.flush()
                os.fsync(told.fileno())
            os.kill(os.getpid(), signal.SIGKILL)


def log_through_a_pipe() -> None:
    """Another process writes the log, so that this one can still say why it stops when its own files are full."""
    scribe = subprocess.Popen(["cat"], stdin=subprocess.PIPE, start_new_session=True)
    assert scribe.stdin is not None
    os.dup2(scribe.stdin.fileno(), sys.stdout.fileno())
    os.dup2(scribe.stdin.fileno(), sys.stderr.fileno())
    scribe.stdin.close()
    scribe.returncode = 0  # it ends when this process has: nobody waits for it


def main() -> None:
    log_through_a_pipe()
    settings = Settings.load(os.environ)
    logs.configure(settings.log_level)
    try:
        asyncio.run(run(settings, reached=Chaos(Path(os.environ[VARIABLE]))))
    except EfficientRecError as error:
        sys.exit(f"{type(error).__name__}: {error}")


if __name__ == "__main__":
    main()
