"""What is compiled before a worker serves."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
AFTER_WARMING = """
from efficientrec.warm import warm
from streams.lists import KERNELS
from streams.slot import probe
from tests.toy import toy_model

for list_format, kernel in KERNELS.items():
    warm(kernel)
    before = list(kernel.write_lists.signatures)
    probe(toy_model(), 5, list_format)
    print(list_format, len(before), kernel.write_lists.signatures == before)
"""


def test_a_warm_worker_compiles_nothing_more_for_its_lists_whatever_their_format() -> None:
    run = subprocess.run(
        [sys.executable, "-c", AFTER_WARMING], cwd=ROOT, capture_output=True, text=True, timeout=300, check=True
    )

    assert run.stdout.splitlines() == ["json 1 True", "msgpack 1 True"]
