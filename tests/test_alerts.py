"""The alerts as files: each is explained, tried out and asks only for what is measured. What Prometheus makes of them
is in tests/integration/test_prometheus.py."""

from __future__ import annotations

import re
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.integration.faults import FAULTS
from tests.measured import asked, derived, measured, of_several, unknown_labels
from tests.prometheus import hastened

ROOT = Path(__file__).parent.parent
FOLDER = ROOT / "deploy/prometheus"
RUNBOOK = (ROOT / "docs/runbook.md").read_text()
ALERTS: list[dict[str, Any]] = [
    rule for group in yaml.safe_load((FOLDER / "alerts.yml").read_text())["groups"] for rule in group["rules"]
]
NAMES = [alert["alert"] for alert in ALERTS]


def sections() -> dict[str, str]:
    """Heading → text, of the runbook."""
    parts = re.split(r"^## (.+)$", RUNBOOK, flags=re.MULTILINE)[1:]
    return dict(zip(parts[::2], parts[1::2], strict=True))


def test_every_alert_has_a_section_in_the_runbook_and_every_section_an_alert() -> None:
    assert len(set(NAMES)) == len(NAMES)
    assert [name for name in sections() if name.startswith("Efficientrec")] == NAMES


@pytest.mark.parametrize("alert", ALERTS, ids=NAMES)
def test_an_alert_says_how_urgent_it_is_and_where_to_read_on(alert: dict[str, Any]) -> None:
    severity = alert["labels"]["severity"]

    assert severity in ("page", "ticket")
    assert alert["annotations"].keys() == {"summary", "description", "runbook_url"}
    assert alert["annotations"]["runbook_url"] == f"docs/runbook.md#{alert['alert'].lower()}"
    assert f"**Means** ({severity})" in sections()[alert["alert"]]


@pytest.mark.parametrize("name", NAMES)
def test_a_section_says_what_it_means_where_to_look_what_to_do_and_when_it_is_over(name: str) -> None:
    bold = re.findall(r"^\*\*(\w+)\*\*", sections()[name], re.MULTILINE)

    assert bold == ["Means", "Look", "Do", "Over"]


def test_links_within_the_runbook_lead_somewhere() -> None:
    anchors = {re.sub(r"[^\w -]", "", heading).strip().lower().replace(" ", "-") for heading in sections()}

    assert set(re.findall(r"\]\(#([^)]+)\)", RUNBOOK)) <= anchors


def test_every_alert_is_tried_out_firing_and_silent() -> None:
    tried: defaultdict[str, set[bool]] = defaultdict(set)
    for path in (FOLDER / "tests").glob("*.yml"):
        for test in yaml.safe_load(path.read_text())["tests"]:
            for case in test.get("alert_rule_test", ()):
                tried[case["alertname"]].add(bool(case["exp_alerts"]))

    assert tried == {name: {True, False} for name in NAMES}


def test_hastened_rules_differ_by_their_durations_and_nothing_else() -> None:
    rules = {
        "groups": [
            {
                "name": "example",
                "rules": [
                    {
                        "record": "job:late:ratio_rate5m",
                        "expr": 'rate(late_bucket{le="1.0"}[5m]) / rate(late_count[5m])',
                    },
                    {
                        "alert": "Slow",
                        "expr": "max by (a) (lag_seconds{a='5'}) > 60 and predict_linear(free[6h], 86400) < 0 "
                        "or hits:rate6h < 0.7 * avg_over_time(hits:rate6h[1d] offset 6h) and events >= 100",
                        "for": "10m",
                    },
                ],
            }
        ]
    }

    record, alert = hastened(rules, 60)["groups"][0]["rules"]

    assert record == {
        "record": "job:late:ratio_rate5m",
        "expr": 'rate(late_bucket{le="1.0"}[5000ms]) / rate(late_count[5000ms])',
    }
    assert alert == {
        "alert": "Slow",
        "expr": "max by (a) (lag_seconds{a='5'}) > 1 and predict_linear(free[360000ms], 1440) < 0 "
        "or hits:rate6h < 0.7 * avg_over_time(hits:rate6h[1440000ms] offset 360000ms) and events >= 100",
        "for": "10000ms",
    }


def test_every_limit_in_seconds_of_an_alert_is_one_that_hastening_finds() -> None:
    """Else the test on a real Prometheus would wait for the full time."""
    for alert in ALERTS:
        for limit in re.findall(r"_seconds(?:\{[^}]*\})?\)* [<>]=? ([\d.]+)", alert["expr"]):
            (rule,) = hastened({"groups": [{"rules": [alert]}]}, 60)["groups"][0]["rules"]
            assert f" {float(limit) / 60:g}" in rule["expr"]


def test_the_table_of_faults_has_every_fault_and_what_it_fires() -> None:
    rows = {
        tuple(cell.strip() for cell in line.split("|")[1:3]) for line in RUNBOOK.splitlines() if line.startswith("|")
    }

    assert rows >= {(fault.name, alert) for fault in FAULTS for alert in fault.fires}


def test_alerts_and_rules_ask_only_for_what_is_measured() -> None:
    known = measured() | of_several() | derived()
    groups = [
        group for name in ("rules.yml", "alerts.yml") for group in yaml.safe_load((FOLDER / name).read_text())["groups"]
    ]
    expressions = [rule["expr"] for group in groups for rule in group["rules"]]

    for expression in expressions:
        assert asked(expression) <= set(known), expression
        assert not unknown_labels(expression, known), expression
