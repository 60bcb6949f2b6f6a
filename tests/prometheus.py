"""Prometheus for tests: where its programs are, and our rules made faster.

Debian's package has it (.ci/packages installs it). Where it is promised, its absence is a failure.
"""

from __future__ import annotations

import copy
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

RULES = Path(__file__).parent.parent / "deploy/prometheus"
UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0}
DURATION = re.compile(r"(\[|offset )(\d+)([smhd])\b")
LIMIT = re.compile(r"(_seconds(?:\{[^}]*\})?\)* [<>]=? )([\d.]+)")
FORECAST = re.compile(r"(predict_linear\([^()]*, )(\d+)\)")


class PrometheusMissing(Exception):
    """Where Prometheus is promised, its absence is a failure and not a reason to skip."""


def program(name: str) -> str:
    """The path of prometheus or promtool."""
    found = shutil.which(name)
    if found is None:
        raise PrometheusMissing(f"{name} is not installed; .ci/packages installs Debian's package prometheus")
    return found


def hastened(rules: Mapping[str, Any], factor: float) -> dict[str, Any]:
    """The same rules for a world that runs `factor` times as fast: windows, offsets, `for`, forecasts, and limits of
    what is measured in seconds are divided by it. Names and all other numbers stay."""
    faster = copy.deepcopy(dict(rules))
    for group in faster["groups"]:
        for rule in group["rules"]:
            expression = DURATION.sub(lambda found: found[1] + _divided(found[2], found[3], factor), rule["expr"])
            expression = LIMIT.sub(lambda found: f"{found[1]}{float(found[2]) / factor:g}", expression)
            rule["expr"] = FORECAST.sub(lambda found: f"{found[1]}{float(found[2]) / factor:g})", expression)
            if "for" in rule:
                rule["for"] = _divided(rule["for"][:-1], rule["for"][-1], factor)
    return faster


def _divided(amount: str, unit: str, factor: float) -> str:
    return f"{float(amount) * UNITS[unit] / factor * 1000:.0f}ms"
