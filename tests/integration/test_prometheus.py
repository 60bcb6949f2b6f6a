"""What the real Prometheus makes of our rules, our metrics, our faults and our boards."""

from __future__ import annotations

import json
import math
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from deploy.grafana import boards
from tests.integration.faults import FAULTS, JOBS, VARIABLES, Fault, Installation, Seen, play, running
from tests.prometheus import RULES, program

pytestmark = pytest.mark.full
UNIT_TESTS = sorted((RULES / "tests").glob("*.yml"))
QUERIES = [
    pytest.param(name, target["expr"], id=f"{name}: {panel['title']} {target['refId']}")
    for name in boards.BOARDS
    for panel in json.loads((boards.DASHBOARDS / name).read_text())["panels"]
    for target in panel.get("targets", ())
]


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


@dataclass(frozen=True)
class Played:
    """All faults, one after the other, with the Prometheus that saw them still there."""

    here: Installation
    shown: dict[str, str]
    """Job → what its /metrics said before the first fault."""
    calm: set[str]
    seen: dict[str, Seen]
    ended: float


@pytest.fixture(scope="module")
def played(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Played]:
    with running(tmp_path_factory.mktemp("faults")) as here:
        shown = {}
        here.wait_until_well()
        for process, job in ((here.workers[0], "worker"), (here.trainer, "trainer"), (here.server, "server")):
            with urllib.request.urlopen(f"http://127.0.0.1:{process.port}/metrics", timeout=5) as reply:
                shown[job] = reply.read().decode()
        calm, seen = play(here)
        yield Played(here, shown, calm, {each.fault.name: each for each in seen}, time.time())


@pytest.mark.parametrize("job", ["worker", "trainer", "server"])
def test_promtool_finds_nothing_to_mend_in_what_is_shown(played: Played, job: str) -> None:
    promtool("check", "metrics", text=played.shown[job])


def test_nothing_fires_while_nothing_is_broken(played: Played) -> None:
    assert played.calm == set()


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_the_right_alerts_fire_and_no_others(played: Played, fault: Fault) -> None:
    seen = played.seen[fault.name]

    assert fault.fires <= set(seen.after)
    assert not seen.others


@pytest.mark.parametrize(("name", "expression"), QUERIES)
def test_every_query_of_a_board_has_an_answer(played: Played, name: str, expression: str) -> None:
    for variable, value in {**VARIABLES, "$job": JOBS[name]}.items():
        expression = expression.replace(variable, value)

    found = played.here.prometheus.lines(expression, played.here.began, played.ended, 1.0)

    assert any(math.isfinite(value) for points in found.values() for _, value in points), expression


def test_swaps_are_marked_on_the_boards(played: Played) -> None:
    marks = played.here.prometheus.lines(boards.MODEL_SWAPS, played.here.began, played.ended, 1.0)

    assert any("of-long-ago" in series for series in marks)
