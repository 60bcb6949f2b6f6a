"""What can be watched of a trainer: own names, base units, few labels; zero is visible from the start."""

from __future__ import annotations

from collections.abc import Mapping

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from streams.lag import Lateness
from streams.metrics import of_process
from streams.unpacking import UNREADABLE

OUTCOMES = ("published", "refused", "impossible", "failed", "outdated", "abandoned")
MODELS = ("candidate", "serving", "popularity")
METRICS = ("ndcg@20", "recall@20", "hit_rate@10")
DURATION_BUCKETS = (1, 3, 10, 30, 60, 120, 300, 600, 1800, 3600, 7200)  # seconds of a demo to hours of a catalogue


class TrainerMetrics:
    """The metrics of one trainer, in the registry that is handed in."""

    def __init__(self, registry: CollectorRegistry, topic: str, partitions: int) -> None:
        self.registry = registry
        self._topic = topic
        self.runs = Counter(
            "efficientrec_trainer_runs",
            "Trainings by what came of them: published; refused by the judge; impossible for lack of interactions; "
            "failed; outdated by another release meanwhile; abandoned at a stop.",
            ["outcome"],
            registry=registry,
        )
        self.duration = Histogram(
            "efficientrec_trainer_duration_seconds",
            "Time of a training, from the start of its process to its verdict.",
            buckets=DURATION_BUCKETS,
            registry=registry,
        )
        self.scores = Gauge(
            "efficientrec_eval_metric",
            "Scores of the last training on its held-out later events.",
            ["metric", "split", "model"],
            registry=registry,
        )
        self.examples = Gauge(
            "efficientrec_eval_examples", "Held-out events behind the last scores.", registry=registry
        )
        self.rows = Gauge(
            "efficientrec_trainer_log_rows", "Interactions in the log that are safe on disk.", registry=registry
        )
        self.rejected = Counter(
            "efficientrec_trainer_rejected_records",
            "Records that are not logged since they cannot be used; the worker sets them aside.",
            registry=registry,
        )
        self.erasures = Counter(
            "efficientrec_trainer_erasures",
            "Users erased from the log for good, whether it held any of their interactions or none.",
            registry=registry,
        )
        self.lag = Gauge(
            "efficientrec_consumer_lag_records",
            "Records of a partition that are not yet safe in the log.",
            ["topic", "partition"],
            registry=registry,
        )
        self.lag_seconds = Gauge(
            "efficientrec_consumer_lag_seconds",
            "Age of the oldest record of a partition that is not yet safe in the log; 0 when none waits.",
            ["topic", "partition"],
            registry=registry,
        )
        self.running = Gauge("efficientrec_trainer_running", "1 while a training is under way.", registry=registry)
        self.ran_at = Gauge(
            "efficientrec_trainer_last_run_timestamp_seconds",
            "When a training last ended, whatever came of it; 0 for not yet.",
            registry=registry,
        )
        self.disk_free = Gauge(
            "efficientrec_disk_free_bytes", "Room left on the disk of a folder.", ["folder"], registry=registry
        )
        self.disk_size = Gauge(
            "efficientrec_disk_size_bytes", "Size of the disk of a folder.", ["folder"], registry=registry
        )
        self.published_at = Gauge(
            "efficientrec_trainer_last_published_timestamp_seconds",
            "When this trainer last published a model; 0 for not yet.",
            registry=registry,
        )
        self.unreadable = UNREADABLE
        registry.register(self.unreadable)
        for outcome in OUTCOMES:
            self.runs.labels(outcome)
        for metric in METRICS:
            for model in MODELS:
                self.scores.labels(metric, "held_out", model)
        for partition in range(partitions):
            self.lag.labels(topic, partition)
            self.lag_seconds.labels(topic, partition)
        of_process(registry)

    def judged(self, scores: Mapping[str, Mapping[str, float]]) -> None:
        """The scores of a training, model by model; what was not judged this time shows 0."""
        for model in MODELS:
            for metric in METRICS:
                self.scores.labels(metric, "held_out", model).set(scores.get(model, {}).get(metric, 0.0))

    def late(self, partition: int, lateness: Lateness) -> None:
        """How far the log of a partition is behind."""
        self.lag.labels(self._topic, partition).set(lateness.records)
        self.lag_seconds.labels(self._topic, partition).set(lateness.seconds)

    def stands(self, partition: int, seconds: float) -> None:
        """Nothing of a partition has become safe in the log for so long."""
        self.lag_seconds.labels(self._topic, partition).set(seconds)
