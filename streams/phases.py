"""Where a worker is between joining the group and serving, and how long each way took.

    joining → recovering → serving → joining → …

Joining lasts from the call to give partitions back (at the start, from the first request for some) to the assignment;
recovering from there until records flow again. A rebalance may cut a recovery short: then it counts as one, from the
first assignment.
"""

from __future__ import annotations

import logging
import time

from streams.health import Clock
from streams.metrics import WorkerMetrics

log = logging.getLogger(__name__)


class Phases:
    """Told by the app, in the order of things."""

    def __init__(self, metrics: WorkerMetrics, clock: Clock = time.monotonic) -> None:
        self.phase = "starting"
        self._metrics = metrics
        self._clock = clock
        self._joining_since = clock()
        self._recovering_since: float | None = None

    def asked(self) -> None:
        """The group deals partitions anew, or is about to."""
        if self.phase != "joining":
            self.phase, self._joining_since = "joining", self._clock()

    def assigned(self, partitions: int) -> None:
        """So many partitions are this worker's to serve, none if there are more workers than partitions."""
        now = self._clock()
        self._metrics.rebalances.inc()
        self._metrics.partitions.set(partitions)
        if self.phase == "joining":
            self._metrics.rebalance_duration.observe(now - self._joining_since)
        self.phase = "recovering"
        self._metrics.recovering.set(1)
        if self._recovering_since is None:
            self._recovering_since = now

    def served(self) -> None:
        """Every partition's rows are complete, and records flow."""
        if self._recovering_since is not None:
            seconds = self._clock() - self._recovering_since
            self._metrics.recovery_duration.observe(seconds)
            log.info("ready: rows are whole after %.1f s", seconds, extra={"seconds": round(seconds, 3)})
        self.phase, self._recovering_since = "serving", None
        self._metrics.recovering.set(0)
