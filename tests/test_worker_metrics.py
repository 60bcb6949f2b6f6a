"""What a worker shows of itself."""

from __future__ import annotations

import numpy as np
from prometheus_client import CollectorRegistry, Gauge, Histogram, generate_latest

from streams.metrics import ManyAtOnce, show


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
