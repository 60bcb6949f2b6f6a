"""Child processes that never outlive their parent.

Knows how to start a command in a session of its own, to stop it, and to have the kernel end it when the parent dies.
Knows nothing of what the command does.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

# Runs in the child before the command takes its place: ask the kernel for SIGKILL at the parent's death, and leave at
# once if the parent died before it could be asked. The request survives exec. Done here and not in subprocess's
# preexec_fn, which may deadlock in a parent that has threads.
_BIND = """
import ctypes, os, sys
ctypes.CDLL(None).prctl(1, 9, 0, 0, 0)
if os.getppid() != int(sys.argv[1]):
    sys.exit(1)
os.execvp(sys.argv[2], sys.argv[2:])
"""


def start_child(
    command: Sequence[str],
    *,
    log: Path | None = None,
    environ: Mapping[str, str] | None = None,
    inherits_output: bool = False,
) -> subprocess.Popen[bytes]:
    """Start `command` so that it ends with this process, whatever ends this process.

    The child gets a session of its own: Ctrl-C in the terminal reaches the parent alone, which then stops its children
    in the order it wants. Its output goes to the end of `log`, to where this process's goes, or nowhere. On Linux the
    kernel kills the child when the thread that started it ends, so start children from a thread that outlives them
    (the main one); elsewhere only `stop_child` does.
    """
    words = list(command)
    if sys.platform == "linux":
        words = [sys.executable, "-I", "-S", "-c", _BIND, str(os.getpid()), *words]
    if log is not None:
        log.parent.mkdir(parents=True, exist_ok=True)
    with Path(log or os.devnull).open("ab") as output:
        return subprocess.Popen(  # noqa: S603  # the command is ours, and no shell reads it
            words,
            stdin=subprocess.DEVNULL,
            stdout=None if inherits_output else output,
            stderr=None if inherits_output else output,
            start_new_session=True,
            env=environ,
        )


def stop_child(process: subprocess.Popen[bytes], *, grace_seconds: float = 10.0) -> int:
    """Ask the child and all in its session to end, insist after `grace_seconds`, and return its exit status."""
    if process.poll() is None:
        _signal_session(process, signal.SIGTERM)
        try:
            process.wait(grace_seconds)
        except subprocess.TimeoutExpired:
            _signal_session(process, signal.SIGKILL)
    return process.wait()


def _signal_session(process: subprocess.Popen[bytes], number: signal.Signals) -> None:
    try:
        os.killpg(process.pid, number)
    except ProcessLookupError:  # it ended between the look and the signal
        return
