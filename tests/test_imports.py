"""What a worker loads: neither torch nor anything else that only training needs."""

from __future__ import annotations

import subprocess
import sys

import pytest

TRAINING_ALONE = {
    "torch",
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
    ],
    ids=["the command", "the module"],
)
def test_a_worker_loads_nothing_that_only_training_needs(command: list[str]) -> None:
    run = subprocess.run(
        [sys.executable, "-X", "importtime", *command], capture_output=True, text=True, timeout=120, check=True
    )

    loaded = {line.rpartition("|")[2].strip() for line in run.stderr.splitlines() if "|" in line}
    assert "streams" in loaded
    assert loaded.isdisjoint(TRAINING_ALONE)
