"""What can be watched of a server: own names, base units, no user in a label; zero is visible from the start."""

from __future__ import annotations

from collections.abc import Iterable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

STATUSES = ("200", "202", "304", "400", "401", "404", "422", "503")
"""Answers that are expected, and so are shown before the first."""
OUTCOMES = ("accepted", "invalid", "unavailable")
DURATION_BUCKETS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)


class ServerMetrics:
    """The metrics of one server, in the registry that is handed in."""

    def __init__(self, registry: CollectorRegistry, routes: Iterable[str], topic: str, partitions: int) -> None:
        self.registry = registry
        self._topic = topic
        self.requests = Counter(
            "efficientrec_server_requests",
            "Requests by route and status of the answer; `other` is what is no route.",
            ["route", "status"],
            registry=registry,
        )
        self.duration = Histogram(
            "efficientrec_server_request_duration_seconds",
            "From a request's head to its answer, the reading of its body among it.",
            ["route"],
            buckets=DURATION_BUCKETS,
            registry=registry,
        )
        self.lag = Gauge(
            "efficientrec_server_lag_records",
            "Records of a partition of the lists topic that are not yet in the server's lists.",
            ["topic", "partition"],
            registry=registry,
        )
        self.lists = Gauge("efficientrec_server_lists", "Users whose list the server holds.", registry=registry)
        self.unusable = Counter(
            "efficientrec_server_unusable_records",
            "Records of the lists topic that are no list of their key's user, and are left out.",
            registry=registry,
        )
        self.events = Counter(
            "efficientrec_server_events",
            "Events by what became of them: accepted and acknowledged by the broker; invalid, or sent along with one "
            "that was; unavailable, as the broker did not acknowledge them in time.",
            ["outcome"],
            registry=registry,
        )
        for route in routes:
            self.duration.labels(route)
            for status in STATUSES:
                self.requests.labels(route, status)
        for outcome in OUTCOMES:
            self.events.labels(outcome)
        for partition in range(partitions):
            self.lag.labels(topic, partition)

    def lags(self, partition: int, records: int) -> None:
        """How far the lists of a partition are behind."""
        self.lag.labels(self._topic, partition).set(records)
