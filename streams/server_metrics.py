"""What can be watched of a server: own names, base units, few labels; zero is visible from the start."""

from __future__ import annotations

from collections.abc import Iterable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from streams.metrics import of_process
from streams.unpacking import UNREADABLE

DURATION_BUCKETS = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1, 3)


class ServerMetrics:
    """The metrics of one server, in a registry of their own so that tests can have several servers."""

    def __init__(self, routes: Iterable[str], outcomes: Iterable[str]) -> None:
        """routes: patterns such as /v1/users/{user_id}/list. outcomes: what may become of a posted event."""
        self.registry = registry = CollectorRegistry()
        self.requests = Counter(
            "efficientrec_server_requests",
            "Requests by the pattern of their path and the status of their answer.",
            ["route", "status"],
            registry=registry,
        )
        self.duration = Histogram(
            "efficientrec_server_request_duration_seconds",
            "From the head of a request to the end of its answer.",
            ["route"],
            buckets=DURATION_BUCKETS,
            registry=registry,
        )
        self.lag = Gauge(
            "efficientrec_server_lag_records",
            "Records of the lists topic that this server has not taken in yet.",
            ["topic", "partition"],
            registry=registry,
        )
        self.lists = Gauge("efficientrec_server_lists", "Users whose list this server holds.", registry=registry)
        self.unusable = Counter(
            "efficientrec_server_unusable_records",
            "Records of the lists topic that are no list of their key's user, and are left out.",
            registry=registry,
        )
        self.events = Counter(
            "efficientrec_server_events", "Events posted, by what became of them.", ["outcome"], registry=registry
        )
        self.unreadable = UNREADABLE
        registry.register(self.unreadable)
        for route in routes:
            self.requests.labels(route, "200")
            self.duration.labels(route)
        for outcome in outcomes:
            self.events.labels(outcome)
        of_process(registry)
