"""What the real Prometheus makes of our rules, our metrics and our faults."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.prometheus import RULES, program

pytestmark = pytest.mark.full
UNIT_TESTS = sorted((RULES / "tests").glob("*.yml"))


def promtool(*words: str | Path, text: str | None = None) -> None:
    """Runs promtool; a failure shows what it said."""
    command = [program("promtool"), *map(str, words)]
    done = subprocess.run(command, input=text, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr


def test_promtool_takes_the_configuration_and_its_rules() -> None:
    promtool("check", "config", RULES / "prometheus.yml")
    promtool("check", "rules", RULES / "rules.yml", RULES / "alerts.yml")


@pytest.mark.parametrize("path", UNIT_TESTS, ids=lambda path: path.stem)
def test_alerts_fire_and_are_silent_as_their_unit_tests_say(path: Path) -> None:
    promtool("test", "rules", path)
