"""The boards as files: current, explained, and asking only for what is measured. Whether every query has an answer is
shown on a real Prometheus, in tests/integration/test_prometheus.py."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from deploy.grafana import boards
from tests.measured import asked, derived, measured, unknown_labels

ROOT = Path(__file__).parent.parent
DEPLOY = ROOT / "deploy"


def loaded(path: Path) -> Any:
    return yaml.safe_load(path.read_text())


def panels(name: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads((boards.DASHBOARDS / name).read_text())["panels"]
    return [panel for panel in found if panel["type"] != "row"]


ALL = [panel for name in boards.BOARDS for panel in panels(name)]
EXPRESSIONS = [target["expr"] for panel in ALL for target in panel["targets"]]


def test_grafana_finds_prometheus_and_the_boards() -> None:
    (source,) = loaded(DEPLOY / "grafana/provisioning/datasources/prometheus.yml")["datasources"]
    (provider,) = loaded(DEPLOY / "grafana/provisioning/dashboards/efficientrec.yml")["providers"]
    interval = loaded(DEPLOY / "prometheus/prometheus.yml")["global"]["scrape_interval"]
    compose = loaded(ROOT / "docker-compose.yml")["services"]["grafana"]["volumes"]
    mounts = {target: source for source, target, *_ in (mount.split(":") for mount in compose)}

    assert (source["type"], source["url"]) == ("prometheus", "http://prometheus:9090")
    assert source["jsonData"]["timeInterval"] == interval
    assert (ROOT / mounts[provider["options"]["path"]]).samefile(boards.DASHBOARDS)
    assert (ROOT / mounts["/etc/grafana/provisioning"]).samefile(DEPLOY / "grafana/provisioning")


def test_the_boards_are_those_of_their_code() -> None:
    assert {path.name for path in boards.DASHBOARDS.iterdir()} == set(boards.BOARDS)
    for name, board in boards.BOARDS.items():
        current = (boards.DASHBOARDS / name).read_text() == boards.render(board())
        assert current, f"{name} is not current; run: python -m deploy.grafana.boards"


@pytest.mark.parametrize("name", boards.BOARDS)
def test_source_job_and_partition_can_be_chosen_and_swaps_are_marked(name: str) -> None:
    board = json.loads((boards.DASHBOARDS / name).read_text())

    assert [variable["name"] for variable in board["templating"]["list"]] == ["datasource", "job", "partition"]
    (swaps,) = board["annotations"]["list"]
    assert "efficientrec_model_info" in swaps["expr"]
    text = json.dumps([panel["targets"] for panel in panels(name)])
    assert "$job" in text
    assert "$partition" in text


@pytest.mark.parametrize("panel", ALL, ids=lambda panel: panel["title"])
def test_a_panel_explains_itself_and_asks_the_chosen_prometheus(panel: dict[str, Any]) -> None:
    assert len(panel["description"]) > 20
    assert panel["targets"]
    assert {target["datasource"]["uid"] for target in panel["targets"]} == {"${datasource}"}


@pytest.mark.parametrize("name", boards.BOARDS)
def test_panels_stand_beside_and_below_each_other_and_no_two_have_a_title(name: str) -> None:
    taken: set[tuple[int, int]] = set()
    for panel in json.loads((boards.DASHBOARDS / name).read_text())["panels"]:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert place["x"] + place["w"] <= boards.WIDTH
        assert not cells & taken, panel["title"]
        taken |= cells

    titles = [panel["title"] for panel in panels(name)]
    assert len(set(titles)) == len(titles)


def test_every_series_and_label_on_the_boards_exists() -> None:
    known = measured() | derived()

    for expression in [*EXPRESSIONS, boards.MODEL_SWAPS]:
        assert asked(expression) <= set(known), expression
        assert not unknown_labels(expression, known), expression


def test_all_that_is_measured_is_on_a_board() -> None:
    shown = {re.sub(r"_(total|bucket|sum|count)$", "", name) for text in EXPRESSIONS for name in asked(text)}

    assert {re.sub(r"_(total|bucket|sum|count)$", "", name) for name in measured()} <= shown


def test_one_process_of_several_that_tries_no_model_is_not_hidden_by_the_others() -> None:
    (experiment,) = (panel for panel in ALL if panel["title"] == "Experiment")

    (target,) = experiment["targets"]
    assert target["expr"].startswith("min by (instance)")


def test_the_runbook_names_panels_that_exist() -> None:
    named = set(re.findall(r"(?<!\*)\*([A-Z][^*\n]+)\*(?!\*)", (ROOT / "docs/runbook.md").read_text()))
    boards_named = {"EfficientRec", "EfficientRec trainer"}

    assert named >= boards_named
    assert named - boards_named <= {panel["title"] for panel in ALL}
