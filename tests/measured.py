"""Every series that boards and alerts may ask for: what the code measures, and what the rules derive from it."""

from __future__ import annotations

import re
from typing import Any

import yaml
from prometheus_client import CollectorRegistry
from prometheus_client.metrics import MetricWrapperBase

from streams.gathering import LABEL, Processes
from streams.health import Pulse
from streams.metrics import ManyAtOnce, WorkerMetrics
from streams.secret import Secret
from streams.server_metrics import ServerMetrics
from streams.settings import Settings
from streams.trainer_metrics import TrainerMetrics
from tests.prometheus import RULES

OF_EVERY_TARGET = {"le", "job", "instance", "process", "generation"}
"""Labels of histograms, of Prometheus, of several workers behind one port, and of Python's garbage collector."""
ENDINGS = {"counter": ("_total",), "histogram": ("_bucket", "_sum", "_count"), "gauge": ("",)}


def measured() -> dict[str, set[str]]:
    """Series → its labels. Metrics without a value so far have none to collect, so their owners are asked."""
    owners: tuple[object, ...] = (
        WorkerMetrics(Settings().policy.rules),
        TrainerMetrics(CollectorRegistry(), "interactions", 1),
        ServerMetrics((), ()),
    )
    metrics = [
        each for owner in owners for each in vars(owner).values() if isinstance(each, MetricWrapperBase | ManyAtOnce)
    ]
    return {
        family.name + ending: set(getattr(metric, "_labelnames", ()))
        for metric in metrics
        for family in (metric.describe() if isinstance(metric, MetricWrapperBase) else metric.collect())
        for ending in ENDINGS[family.type]
    }


def of_several() -> dict[str, set[str]]:
    """The same of several processes behind one port, where there are any."""
    families = Processes((), Pulse(1), Secret()).collect()
    return {family.name + ending: {LABEL} for family in families for ending in ENDINGS[family.type]}


def derived() -> dict[str, set[str]]:
    """Record → its labels, which its name begins with."""
    groups: list[dict[str, Any]] = yaml.safe_load((RULES / "rules.yml").read_text())["groups"]
    records = [rule["record"] for group in groups for rule in group["rules"]]
    return {record: set(record.partition(":")[0].split("_")) for record in records}


def asked(expression: str) -> set[str]:
    """The series of ours that an expression asks for."""
    return set(re.findall(r"\b[a-z_]+:efficientrec_\w+:\w+|(?<![\w:])efficientrec_\w+", expression))


def unknown_labels(expression: str, known: dict[str, set[str]]) -> set[str]:
    """Labels by which it chooses, groups or matches, and which none of its series has."""
    has = OF_EVERY_TARGET.union(*(known.get(name, set()) for name in asked(expression)))
    grouped = {
        label for group in re.findall(r"\b(?:by|on) \(([^)]*)\)", expression) for label in group.split(", ") if label
    }
    chosen = set(re.findall(r"[{,]\s*(\w+)\s*[=!]", expression))
    return (grouped | chosen) - has
