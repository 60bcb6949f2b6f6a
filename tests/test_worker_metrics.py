"""What a worker shows of itself."""

from __future__ import annotations

from pathlib import Path
from shutil import disk_usage

import numpy as np
from prometheus_client import CollectorRegistry, Gauge, Histogram, generate_latest

from streams.metrics import ManyAtOnce, WorkerMetrics, show, show_disks, table

ROOT = Path(__file__).parent.parent


def test_many_values_at_once_are_shown_as_a_histogram_shows_them_one_by_one() -> None:
    values = [0.0, 0.25, 0.375, 0.5, 1.0, 7.0, 1000.0]
    one_by_one, at_once = CollectorRegistry(), CollectorRegistry()
    histogram = Histogram("delay_seconds", "How long it took.", buckets=(0.25, 0.5, 1, 10), registry=one_by_one)
    many = ManyAtOnce("delay_seconds", "How long it took.", (0.25, 0.5, 1, 10))
    at_once.register(many)

    for value in values:
        histogram.observe(value)
    many.observe(np.array(values[:3]))
    many.observe(np.array(values[3:]))
    many.observe(np.zeros(0))

    shown = generate_latest(one_by_one).decode().splitlines()
    assert generate_latest(at_once).decode().splitlines() == [line for line in shown if "_created" not in line]


def test_a_gauge_shows_the_series_that_are_there_and_no_others() -> None:
    registry = CollectorRegistry()
    gauge = Gauge("lag", "Records.", ["topic", "partition"], registry=registry)
    show(gauge, {("a", "0"): 3.0, ("a", "1"): 4.0})

    show(gauge, {("a", "1"): 5.0, ("b", "1"): 6.0})

    shown = {tuple(sample.labels.values()): sample.value for family in gauge.collect() for sample in family.samples}
    assert shown == {("a", "1"): 5.0, ("b", "1"): 6.0}


def test_the_page_of_metrics_is_what_the_registries_hold() -> None:
    page = (ROOT / "docs" / "metrics.md").read_text(encoding="utf-8")

    _, _, written = page.partition("<!-- metrics -->\n")

    assert written.strip() == table().strip(), "put there what `python -m streams.metrics` prints"


def test_zero_is_visible_from_the_start() -> None:
    shown = generate_latest(WorkerMetrics(("like",)).registry).decode()

    for series in (
        'efficientrec_online_hits_total{arm="control",by="list"}',
        'efficientrec_online_hits_total{arm="treatment",by="popularity"}',
        'efficientrec_online_judged_events_total{arm="treatment"}',
        'efficientrec_recommendations_published_total{arm="treatment",reason="event"}',
        "efficientrec_model_age_seconds",
        "efficientrec_model_rollbacks_total",
        "efficientrec_erasures_total",
        "efficientrec_changelog_send_failures_total",
        "efficientrec_recovering",
    ):
        assert f"{series} 0.0" in shown.splitlines()
    assert "process_resident_memory_bytes" in shown
    assert "python_gc_collections_total" in shown


def test_disks_are_shown_as_far_as_their_folders_lie_here(tmp_path: Path) -> None:
    metrics = WorkerMetrics(())

    folders: dict[str, str | Path] = {"state": tmp_path, "models": "s3://bucket/models", "log": tmp_path / "not-yet"}
    show_disks(metrics.disk_free, metrics.disk_size, folders)

    value = metrics.registry.get_sample_value
    size = value("efficientrec_disk_size_bytes", {"folder": "state"})
    assert size == disk_usage(tmp_path).total
    assert 0 < (value("efficientrec_disk_free_bytes", {"folder": "state"}) or 0) <= size
    assert value("efficientrec_disk_free_bytes", {"folder": "models"}) is None
    assert value("efficientrec_disk_free_bytes", {"folder": "log"}) is None
