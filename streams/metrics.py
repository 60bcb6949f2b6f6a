"""What can be watched of a worker: own names, base units, no user or item in a label, zero visible from the start."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from shutil import disk_usage
from time import perf_counter, time

import numpy as np
from numpy.typing import NDArray
from prometheus_client import CollectorRegistry, Counter, Gauge, GCCollector, Histogram, ProcessCollector
from prometheus_client.core import HistogramMetricFamily
from prometheus_client.metrics import MetricWrapperBase
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

from streams.arms import ARMS
from streams.records import REASONS
from streams.unpacking import UNREADABLE

LATENCY_BUCKETS = (
    *(0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.25, 0.5, 1, 2.5, 5, 10),
    *(30, 60, 300),  # a rebalance can outlast ten seconds, an outage minutes
)
STAGES = ("decode", "read", "fold", "recommend", "encode", "send", "write")
OUTCOMES = ("applied", "repeated", "limited", "replayed", "invalid")
SWAPS = ("installed", "refused")
JUDGED = ("list", "popularity")
WAIT_BUCKETS = (0.1, 0.3, 1, 3, 10, 30, 60, 120, 300, 900, 3600)
"""Seconds of a rebalance or a recovery: from a restart with its disk at hand to a whole changelog of a large topic."""


class WorkerMetrics:
    """The metrics of one worker, in a registry of their own so that tests can have several workers."""

    def __init__(self, event_types: Iterable[str], clock: Callable[[], float] = time) -> None:
        """clock: seconds since 1970."""
        self._clock = clock
        self.registry = registry = CollectorRegistry()
        self.events = Counter(
            "efficientrec_events",
            "Interactions by what became of them: applied; repeated by the producer under the same event id; "
            "limited, beyond what a user may send in a second; replayed after a restart and skipped; invalid and set "
            "aside.",
            ["event_type", "outcome"],
            registry=registry,
        )
        self.latency = ManyAtOnce(
            "efficientrec_event_to_publish_latency_seconds",
            "From the time at which the broker got an interaction to the acknowledged list that takes it in.",
            LATENCY_BUCKETS,
        )
        registry.register(self.latency)
        self.stage = Histogram(
            "efficientrec_stage_duration_seconds",
            "Time that a run of interactions spends in each step.",
            ["stage"],
            buckets=(0.0001, 0.0003, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1, 3),
            registry=registry,
        )
        self.run_events = Histogram(
            "efficientrec_run_events",
            "Records of a run.",
            buckets=(1, 3, 10, 30, 100, 300, 1000, 3000),
            registry=registry,
        )
        self.run_users = Histogram(
            "efficientrec_run_users",
            "Users of a run who get a list.",
            buckets=(1, 3, 10, 30, 100, 300, 1000, 3000),
            registry=registry,
        )
        self.lists = Counter(
            "efficientrec_recommendations_published",
            "Lists that the broker has acknowledged; arm is control but for the users on whom an experiment tries "
            "another model (treatment).",
            ["reason", "arm"],
            registry=registry,
        )
        self.dead_letters = Counter(
            "efficientrec_dlq_records", "Records set aside, by reason.", ["reason"], registry=registry
        )
        self.send_failures = Counter(
            "efficientrec_send_failures",
            "Attempts to append changelog rows, lists or dead letters that failed, and are made again.",
            registry=registry,
        )
        self.changelog_send_failures = Counter(
            "efficientrec_changelog_send_failures",
            "Attempts to append changelog rows that failed, and are made again: until one succeeds, no run is safe. "
            "They count among efficientrec_send_failures_total, too.",
            registry=registry,
        )
        self.abandoned = Counter(
            "efficientrec_runs_abandoned",
            "Runs left alone because their partition had gone to another worker, or was about to.",
            registry=registry,
        )
        self.misplaced = Counter(
            "efficientrec_key_partition_mismatches",
            "Interactions on another partition than murmur2 of their key points to; warned about or forwarded.",
            registry=registry,
        )
        self.lag = Gauge(
            "efficientrec_consumer_lag_records",
            "Records of a partition that are not yet handled.",
            ["topic", "partition"],
            registry=registry,
        )
        self.lag_seconds = Gauge(
            "efficientrec_consumer_lag_seconds",
            "Age of the oldest record of a partition that is not yet handled; 0 when none waits. It goes on growing "
            "through a recovery, and while the broker is away.",
            ["topic", "partition"],
            registry=registry,
        )
        self.commit_age = Gauge(
            "efficientrec_commit_age_seconds",
            "How long a partition in which something waits or was handled has been without a commit that moved; 0 when "
            "everything is handled and committed.",
            ["topic", "partition"],
            registry=registry,
        )
        self.standby_lag = Gauge(
            "efficientrec_standby_lag_records",
            "Records of the changelog that this worker's copy of a partition lacks, which another worker serves.",
            ["partition"],
            registry=registry,
        )
        self.recovering = Gauge(
            "efficientrec_recovering",
            "1 from the assignment of partitions until they are served, 0 otherwise.",
            registry=registry,
        )
        self.recovery_remaining = Gauge(
            "efficientrec_recovery_remaining_records",
            "Records of the changelog that a partition of this worker lacks before it can be served.",
            ["partition"],
            registry=registry,
        )
        self.recovery_duration = Histogram(
            "efficientrec_recovery_duration_seconds",
            "From the assignment of partitions until they are served.",
            buckets=WAIT_BUCKETS,
            registry=registry,
        )
        self.last_event = Gauge(
            "efficientrec_last_event_timestamp_seconds", "Time of the newest interaction handled.", registry=registry
        )
        self.model = Gauge(
            "efficientrec_model_info",
            "1 for the model in service (control; none before the first), and for one that is tried on a share of the "
            "users (treatment).",
            ["model_version", "sha256_short", "arm"],
            registry=registry,
        )
        self.experiment_share = Gauge(
            "efficientrec_experiment_share_ratio",
            "Share of the users who get lists of the model that is tried; 0 while no experiment runs.",
            registry=registry,
        )
        self.swaps = Counter(
            "efficientrec_model_swaps",
            "Models offered to this worker: installed, or refused while the old one went on serving.",
            ["outcome"],
            registry=registry,
        )
        self.swap_duration = Histogram(
            "efficientrec_model_swap_duration_seconds",
            "From the announcement of a model to its first use: read, check, probe.",
            buckets=(0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60),
            registry=registry,
        )
        self.rebalances = Counter(
            "efficientrec_rebalances", "Assignments of partitions that this worker was given.", registry=registry
        )
        self.rebalance_duration = Histogram(
            "efficientrec_rebalance_duration_seconds",
            "From the call to give partitions back, or the first request for some, to the assignment.",
            buckets=WAIT_BUCKETS,
            registry=registry,
        )
        self.partitions = Gauge(
            "efficientrec_partitions_assigned", "Partitions that this worker serves now.", registry=registry
        )
        self.erasures = Counter(
            "efficientrec_erasures", "Users whose row and list were erased, once for each request.", registry=registry
        )
        self.model_age = Gauge(
            "efficientrec_model_age_seconds",
            "Age of the model in service, since its training began; 0 before the first.",
            registry=registry,
        )
        self.rollbacks = Counter(
            "efficientrec_model_rollbacks",
            "Models installed that are older than the one whose place they took.",
            registry=registry,
        )
        self.judged = Counter(
            "efficientrec_online_judged_events",
            "Liked events, of a tenth of the users, that were looked up in the first 10 items of the list that their "
            "user had before; by the arm for which that list was made.",
            ["arm"],
            registry=registry,
        )
        self.hits = Counter(
            "efficientrec_online_hits",
            "Judged events whose item was among the first 10 of the user's list, or of the most popular ones that were "
            "new to him.",
            ["by", "arm"],
            registry=registry,
        )
        self.coverage = Gauge(
            "efficientrec_recommendation_coverage_ratio",
            "Share of the items of the released model that stood in a list by it of this worker in the last minutes.",
            registry=registry,
        )
        self.entropy = Gauge(
            "efficientrec_cluster_entropy_ratio",
            "How evenly lists of the last minutes used the clusters of the released model: 1 all alike, 0 a single "
            "one, or no list.",
            registry=registry,
        )
        self.state_rows = Gauge(
            "efficientrec_state_rows",
            "Rows of a partition on this worker's disk, as RocksDB estimates them: one that was written anew counts "
            "twice until its old value is merged away.",
            ["partition"],
            registry=registry,
        )
        self.state_bytes = Gauge(
            "efficientrec_state_bytes", "Bytes of a partition's table files on disk.", ["partition"], registry=registry
        )
        self.block_cache_bytes = Gauge(
            "efficientrec_rocksdb_block_cache_bytes",
            "Memory that RocksDB's block cache takes, of EFFICIENTREC_BLOCK_CACHE_BYTES.",
            registry=registry,
        )
        self.memtable_bytes = Gauge(
            "efficientrec_rocksdb_memtable_bytes",
            "Memory of rows that wait to be flushed, of all partitions.",
            registry=registry,
        )
        self.pending_compaction_bytes = Gauge(
            "efficientrec_rocksdb_pending_compaction_bytes",
            "Bytes that RocksDB still has to merge, of all partitions; where it rises for long, the disk is too slow.",
            registry=registry,
        )
        self.disk_free = Gauge(
            "efficientrec_disk_free_bytes",
            "Room left on the disk of a folder.",
            ["folder"],
            registry=registry,
        )
        self.disk_size = Gauge(
            "efficientrec_disk_size_bytes", "Size of the disk of a folder.", ["folder"], registry=registry
        )
        self.unreadable = UNREADABLE
        registry.register(self.unreadable)
        for event_type in event_types:
            for outcome in OUTCOMES[:-1]:
                self.events.labels(event_type, outcome)
        self.events.labels("unknown", "invalid")  # what is refused has no type that could be trusted in a label
        self._stages = {stage: self.stage.labels(stage) for stage in STAGES}
        for arm in ARMS:
            self.lists.labels("event", arm)
            self.judged.labels(arm)
            for by in JUDGED:
                self.hits.labels(by, arm)
        for reason in REASONS:
            self.dead_letters.labels(reason)
        for outcome in SWAPS:
            self.swaps.labels(outcome)
        of_process(registry)

    def serving(self, arm: str, version: str, sha256_short: str) -> None:
        """Says which model is in service for an arm now, without a moment in which there is none."""
        self.model.labels(version, sha256_short, arm).set(1)
        self._remove_models(lambda labels: labels["arm"] == arm and labels["model_version"] != version)

    def serves_no_more(self, arm: str) -> None:
        """No model is in service for this arm."""
        self._remove_models(lambda labels: labels["arm"] == arm)

    def _remove_models(self, is_over: Callable[[Mapping[str, str]], bool]) -> None:
        for metric in self.model.collect():
            for sample in metric.samples:
                if is_over(sample.labels):
                    self.model.remove(*sample.labels.values())

    def made(self, at: float) -> None:
        """When the model in service was made, in seconds since 1970."""
        self.model_age.set_function(lambda: max(0.0, self._clock() - at))

    @contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        """Measures a step of a run."""
        start = perf_counter()
        yield
        self._stages[stage].observe(perf_counter() - start)


class ManyAtOnce(Collector):
    """A histogram that takes the values of a whole run: one by one they cost as much as folding."""

    def __init__(self, name: str, documentation: str, bounds: Sequence[float]) -> None:
        """bounds: of the buckets, rising; each is in its own bucket."""
        self._about = (name, documentation)
        self._bounds = np.array(bounds, np.float64)
        self._counts = np.zeros(len(bounds) + 1, np.int64)
        self._sum = 0.0

    def observe(self, values: NDArray[np.float64]) -> None:
        """values (n,): in the unit of the name."""
        places = np.searchsorted(self._bounds, values)
        self._counts = self._counts + np.bincount(places, minlength=len(self._counts))
        self._sum += float(values.sum())

    def collect(self) -> Iterator[HistogramMetricFamily]:
        """For the registry, which asks in another thread."""
        bounds = [*map(floatToGoString, self._bounds.tolist()), "+Inf"]
        counts = self._counts.cumsum().tolist()
        buckets = list(zip(bounds, counts, strict=True))
        yield HistogramMetricFamily(*self._about, buckets=buckets, sum_value=self._sum)


def of_process(registry: CollectorRegistry) -> None:
    """What any process shows of itself: memory, processor time, open files, garbage collections."""
    ProcessCollector(registry=registry)
    GCCollector(registry=registry)


def show_disks(free: Gauge, size: Gauge, folders: Mapping[str, str | Path]) -> None:
    """The disks that these folders lie on; not of one that is not there yet, or lies in a store of another kind."""
    for name, folder in folders.items():
        with suppress(OSError):
            usage = disk_usage(folder)
            free.labels(name).set(usage.free)
            size.labels(name).set(usage.total)


def show(gauge: Gauge, values: Mapping[tuple[str, ...], float]) -> None:
    """These series and no others: what has gone to another worker is shown by him."""
    for labels, value in values.items():
        gauge.labels(*labels).set(value)
    for family in gauge.collect():
        for sample in family.samples:
            if tuple(sample.labels.values()) not in values:
                gauge.remove(*sample.labels.values())


def table() -> str:
    """All metrics of all processes as Markdown, one table for each process."""
    from streams.gathering import Processes
    from streams.health import Pulse
    from streams.secret import Secret
    from streams.server_metrics import ServerMetrics
    from streams.trainer_metrics import TrainerMetrics

    lines = []
    for title, held in (
        ("Worker", vars(WorkerMetrics(())).values()),
        ("Worker, several processes", Processes((), Pulse(1), Secret()).collect()),
        ("Trainer", vars(TrainerMetrics(CollectorRegistry(), "", 0)).values()),
        ("Server", vars(ServerMetrics((), ())).values()),
    ):
        lines += [f"## {title}", "", "| metric | type | labels | meaning |", "| --- | --- | --- | --- |"]
        lines += [
            f"| `{name}` | {kind} | {', '.join(f'`{label}`' for label in labels)} | {meaning} |"
            for name, kind, labels, meaning in sorted(_described(held))
        ]
        lines.append("")
    return "\n".join(lines)


def _described(held: Iterable[object]) -> Iterator[tuple[str, str, Sequence[str], str]]:
    """(name, type, labels, help) of the metrics among these."""
    for metric in held:
        families: Iterable[Metric] = ()
        if isinstance(metric, MetricWrapperBase):
            families = metric.describe()
        elif isinstance(metric, ManyAtOnce):
            families = metric.collect()
        elif isinstance(metric, Metric):
            families = (metric,)
        for family in families:
            ending = "_total" if family.type == "counter" else ""
            yield family.name + ending, family.type, getattr(metric, "_labelnames", ()), family.documentation


if __name__ == "__main__":
    from streams import metrics  # as which it is known to the others

    print(metrics.table(), end="")
