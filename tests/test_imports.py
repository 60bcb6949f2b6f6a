"""What a worker or a server loads: neither torch nor anything else that serving does not need."""

from __future__ import annotations

import subprocess
import sys

import pytest

NOT_FOR_SERVING = {
    "torch",
    "opentelemetry",
    "pyarrow",
    "matplotlib",
    "optuna",
    "scipy.sparse",
    "scipy.linalg",
}  # numba looks at scipy's version, and at no more


@pytest.mark.parametrize(
    "command",
    [
        ["-m", "streams", "worker", "--help"],
        ["-c", "import streams.app"],
        ["-c", "import streams.server"],
    ],
    ids=["the command", "the module", "the server"],
)
def test_a_worker_loads_nothing_that_only_training_needs(command: list[str]) -> None:
    run = subprocess.run(
        [sys.executable, "-X", "importtime", *command], capture_output=True, text=True, timeout=120, check=True
    )

    loaded = {line.rpartition("|")[2].strip() for line in run.stderr.splitlines() if "|" in line}
    assert "streams" in loaded
    assert loaded.isdisjoint(NOT_FOR_SERVING)
