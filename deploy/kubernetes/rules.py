"""The rules of deploy/prometheus as a resource of the Prometheus operator, which wants all groups in one.

`python -m deploy.kubernetes.rules` writes it; tests/test_kubernetes.py says when it is not current.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

DEPLOY = Path(__file__).parent.parent
RULES = DEPLOY / "kubernetes" / "components" / "prometheus" / "rules.yaml"
HEAD = "# Made of deploy/prometheus/{rules,alerts}.yml by: python -m deploy.kubernetes.rules\n"


def render() -> str:
    """The resource as YAML: rules that others are made of come first."""
    groups: list[Any] = []
    for name in ("rules.yml", "alerts.yml"):
        groups += yaml.safe_load((DEPLOY / "prometheus" / name).read_text())["groups"]
    resource = {
        "apiVersion": "monitoring.coreos.com/v1",
        "kind": "PrometheusRule",
        "metadata": {
            "name": "efficientrec",
            "namespace": "efficientrec",
            "labels": {"app.kubernetes.io/name": "efficientrec"},
        },
        "spec": {"groups": groups},
    }
    return HEAD + yaml.safe_dump(resource, sort_keys=False, width=120, allow_unicode=True)


if __name__ == "__main__":
    RULES.write_text(render())
