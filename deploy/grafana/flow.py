"""What stands on the board of workers and server, in the order in which an event passes: traffic, freshness, state,
models, quality, resources, and who reads the lists."""

from __future__ import annotations

from deploy.grafana.panels import JOB, PARTITION, RECENT, Panels, ago, lines, mean, quantile, rates, rises, stat

LATENCY = "efficientrec_event_to_publish_latency_seconds"
LAG_SECONDS = f"max by (topic, partition) (efficientrec_consumer_lag_seconds{PARTITION})"
LAG_RECORDS = f"max by (topic, partition) (efficientrec_consumer_lag_records{PARTITION})"


def rows() -> dict[str, Panels]:
    """Title of a row → its panels. The first row is the whole flow at a glance, from left to right."""
    return {
        "Now: from the event to the list": _now(),
        "Traffic": _traffic(),
        "Freshness": _freshness(),
        "State": _state(),
        "Models": _models(),
        "Quality": _quality(),
        "Resources": _resources(),
        "Server": _server(),
    }


def _now() -> Panels:
    return [
        stat(
            "Events",
            "Interactions that came in, each second. None while producers send means that no worker is assigned.",
            rates("efficientrec_events_total"),
            "eps",
        ),
        stat(
            "Set aside, last hour",
            "Records that could not be used. Their reasons stand below, the bytes in the dead-letter topic.",
            rises("efficientrec_dlq_records_total", window="[1h]"),
            "short",
            warn=1,
        ),
        stat(
            "From event to list, p99",
            "99 of 100 lists of the last minutes were out within this time of their event's arrival at the broker.",
            quantile(0.99, LATENCY),
            "s",
            warn=1,
        ),
        stat(
            "Waiting",
            "Age of the oldest event that nobody has handled. Growing: add workers, or read the runbook on lag.",
            f"max({LAG_SECONDS})",
            "s",
            warn=60,
        ),
        stat(
            "Rows",
            "Rows of users on disk, as RocksDB estimates them: one that was written anew counts again until its old "
            "value is merged away. A partition counts once, wherever copies of it lie.",
            f"sum(max by (partition) (efficientrec_state_rows{PARTITION}))",
            "short",
        ),
        stat(
            "Model",
            "The version in service. Two for longer than a swap takes: a worker refuses the newer one, and logs why. "
            "What an experiment tries is beside it in the row of models.",
            'count by (model_version) (efficientrec_model_info{job=~"$job", arm="control"})',
            "short",
            legend="{{model_version}}",
        ),
        stat(
            "Hits, 6 h",
            "Of the liked events of sampled users, the share whose item stood in the first 10 of the user's list, made "
            "by the released model.",
            'max(job_by_arm:efficientrec_online_hits:ratio_rate6h{job=~"$job", by="list", arm="control"})',
            "percentunit",
        ),
        stat(
            "Memory, largest",
            "Resident memory of the largest worker.",
            f"max(process_resident_memory_bytes{JOB})",
            "bytes",
        ),
    ]


def _traffic() -> Panels:
    return [
        lines(
            "Events by outcome",
            "applied: folded into a profile. repeated: the producer sent the same event id again. limited: beyond what "
            "a user may send in a second. replayed: delivered again after a restart, and skipped. invalid: set aside.",
            {"{{outcome}}": rates("efficientrec_events_total", "outcome")},
            "eps",
            stacked=True,
        ),
        lines(
            "Events by type",
            "What users did. A type that vanishes is more often a broken producer than a change of habit.",
            {"{{event_type}}": rates("efficientrec_events_total", "event_type")},
            "eps",
            stacked=True,
        ),
        lines(
            "Lists by reason",
            "Lists that the broker has acknowledged, each second, by what they were made for.",
            {"{{reason}}": rates("efficientrec_recommendations_published_total", "reason")},
            "ops",
            stacked=True,
        ),
        lines(
            "Set aside",
            "Records that cannot be used, by reason; key and bytes lie untouched in the dead-letter topic, and its "
            "headers say more. Batches that cannot even be unpacked are told of in the log alone.",
            {
                "{{reason}}": rates("efficientrec_dlq_records_total", "reason"),
                "batches not unpacked": rates("efficientrec_unreadable_batches_total"),
            },
            "rps",
            stacked=True,
        ),
        lines(
            "Misplaced events",
            "Interactions on another partition than murmur2 of their key points to: a producer hashes in a way of its "
            "own, and its users get two profiles unless their events are forwarded.",
            {"misplaced": rates("efficientrec_key_partition_mismatches_total")},
            "eps",
        ),
        lines(
            "Size of a run",
            "How many records are handled as one, and how many users get a list from it. Large runs mean that workers "
            "are catching up.",
            {
                "records, mean": mean("efficientrec_run_events", RECENT),
                "users, mean": mean("efficientrec_run_users", RECENT),
                "records, p99": quantile(0.99, "efficientrec_run_events"),
            },
            "short",
        ),
    ]


def _freshness() -> Panels:
    windows = ("5m", "30m", "1h", "6h")
    return [
        lines(
            "From event to list",
            "From the moment at which the broker got an event to the acknowledged list that takes it in. After an "
            "outage it shows how old the events are that are being caught up with.",
            {name: quantile(share, LATENCY) for name, share in (("p50", 0.5), ("p90", 0.9), ("p99", 0.99))},
            "s",
        ),
        lines(
            "Late lists",
            "Burn rate: the share of lists later than 1 s, divided by the 1% that may be, for each window. 1 spends "
            "the budget of 30 days in 30 days. Pages come at 14.4 (1 h and 5 m) and at 6 (6 h and 30 m).",
            {window: f"max(job:efficientrec_late:ratio_rate{window}{JOB}) / 0.01" for window in windows},
            "short",
        ),
        lines(
            "Time by stage",
            "Seconds a second that workers spend in each step of a run. One worker has one second: near that, add "
            "workers. send waits for the broker, everything else computes or reads and writes the disk.",
            {"{{stage}}": rates("efficientrec_stage_duration_seconds_sum", "stage")},
            "s",
            stacked=True,
        ),
        lines(
            "Waiting, seconds",
            "Age of the oldest record of a partition that nobody has handled, of the partitions that wait longest.",
            {"{{topic}} {{partition}}": f"topk(5, {LAG_SECONDS})"},
            "s",
        ),
        lines(
            "Waiting, records",
            "Records not yet handled, of all partitions of a topic.",
            {"{{topic}}": f"sum by (topic) ({LAG_RECORDS})"},
            "short",
        ),
        lines(
            "Age of the commit",
            "How long a partition has had something to do or to commit without a commit that moved. A sawtooth of a "
            "second is the pause between commits; a line that climbs is a partition that stands still.",
            {
                "{{topic}} {{partition}}": "topk(5, max by (topic, partition) "
                f"(efficientrec_commit_age_seconds{PARTITION}))"
            },
            "s",
        ),
        lines(
            "Age of the newest event",
            "By the event's own time: it rises when nobody does anything, and when nothing is handled.",
            {"age": ago("efficientrec_last_event_timestamp_seconds")},
            "s",
        ),
        lines(
            "Send failures",
            "Attempts to append to a topic that the broker did not take. They are made again, and their partition "
            "waits. The changelog's part of them is an alert.",
            {
                "all": rises("efficientrec_send_failures_total"),
                "changelog": rises("efficientrec_changelog_send_failures_total"),
                "runs left to other workers": rises("efficientrec_runs_abandoned_total"),
            },
            "short",
        ),
    ]


def _state() -> Panels:
    nobody = f"0 * sum by (instance) (efficientrec_partitions_assigned{JOB})"
    return [
        lines(
            "Workers and partitions",
            "Partitions by worker. A worker without any has nothing to do; partitions without a worker wait.",
            {"{{instance}}": f"sum by (instance) (efficientrec_partitions_assigned{JOB})"},
            "short",
            stacked=True,
        ),
        lines(
            "Rebalances",
            "Partitions change hands when workers come and go, and wait meanwhile. Often, without a restart: workers "
            "are too busy to say that they live, or are killed.",
            {
                "rebalances": rises("efficientrec_rebalances_total"),
                "seconds, mean of 10 min": mean("efficientrec_rebalance_duration_seconds", "[10m]"),
            },
            "short",
        ),
        lines(
            "Recovery",
            "Records of the changelog that a worker still has to read before it can serve. It must fall steadily.",
            {
                "{{instance}}": f"sum by (instance) (efficientrec_recovery_remaining_records{PARTITION}) or {nobody}",
                "workers in recovery": f"sum(efficientrec_recovering{JOB})",
            },
            "short",
        ),
        lines(
            "Time of a recovery",
            "From the assignment of partitions until they are served, mean of 10 minutes; 0 where there was none.",
            {"mean": mean("efficientrec_recovery_duration_seconds", "[10m]")},
            "s",
        ),
        lines(
            "Copies behind",
            "Each worker keeps copies of partitions that others serve, to take over at once. How many records of the "
            "changelog they lack: that much must be read before a copy can serve.",
            {"{{instance}}": f"sum by (instance) (efficientrec_standby_lag_records{PARTITION}) or {nobody}"},
            "short",
        ),
        lines(
            "Rows of state",
            "Rows of users, by partition, as RocksDB estimates them: one that was written anew counts again until its "
            "old value is merged away. A partition far above the others: keys are not spread evenly.",
            {"{{partition}}": f"max by (partition) (efficientrec_state_rows{PARTITION})"},
            "short",
            stacked=True,
        ),
        lines(
            "Bytes of state",
            "Table files on disk, by partition.",
            {"{{partition}}": f"max by (partition) (efficientrec_state_bytes{PARTITION})"},
            "bytes",
            stacked=True,
        ),
        lines(
            "Erasures",
            "Users whose row and list were erased for good, in the last hour.",
            {"users": rises("efficientrec_erasures_total", window="[1h]")},
            "short",
        ),
    ]


def _models() -> Panels:
    return [
        lines(
            "Workers by model",
            "How many workers serve each version, or try it (treatment); nothing before the first, while lists come "
            "from popularity.",
            {"{{model_version}} {{arm}}": f"count by (model_version, arm) (efficientrec_model_info{JOB})"},
            "short",
            stacked=True,
        ),
        lines(
            "Age of the model",
            "Since its training began, by worker. A worker far above the others refuses newer models.",
            {"{{instance}}": f"max by (instance) (efficientrec_model_age_seconds{JOB})"},
            "s",
        ),
        lines(
            "Swaps",
            "Models offered to workers. A refused one left the old one serving, and the worker's log says why. A "
            "rollback took the place of a newer model.",
            {
                "{{outcome}}": rises("efficientrec_model_swaps_total", "outcome"),
                "rollbacks": rises("efficientrec_model_rollbacks_total"),
            },
            "short",
        ),
        lines(
            "Time of a swap",
            "From the announcement of a model to its first use: read, check, probe. The old one serves meanwhile.",
            {"mean of 10 min": mean("efficientrec_model_swap_duration_seconds", "[10m]")},
            "s",
        ),
    ]


def _quality() -> Panels:
    judged = f"({rises('efficientrec_online_judged_events_total', 'arm', '[1h]')} > 0)"
    return [
        lines(
            "Hits of lists",
            "Of the liked events of a tenth of the users in the last hour, the share whose item stood in the first 10 "
            "of the list that the user had before; beside it what the most popular items would have hit. Treatment: of "
            "users on whom an experiment tries another model.",
            {
                "{{by}} {{arm}}": f"{rises('efficientrec_online_hits_total', 'by, arm', '[1h]')} "
                f"/ on (arm) group_left () {judged}"
            },
            "percentunit",
        ),
        lines(
            "Judged events",
            "How many events stand behind the shares of hits in the last hour. Below a thousand they are noise.",
            {"{{arm}}": rises("efficientrec_online_judged_events_total", "arm", "[1h]")},
            "short",
        ),
        lines(
            "Experiment",
            "Share of the users who get lists of a model that is tried, by worker, the least of its processes; 0 while "
            "no experiment runs. A worker that differs from the others has refused the model, and logs why.",
            {"{{instance}}": f"min by (instance) (efficientrec_experiment_share_ratio{JOB})"},
            "percentunit",
        ),
        lines(
            "Coverage",
            "Share of the model's items that stood in lists of the last minutes, by worker. Falling: lists become "
            "alike.",
            {"{{instance}}": f"max by (instance) (efficientrec_recommendation_coverage_ratio{JOB})"},
            "percentunit",
        ),
        lines(
            "Use of clusters",
            "How evenly lists used the clusters of the model: 1 all alike, 0 a single one, by worker.",
            {"{{instance}}": f"max by (instance) (efficientrec_cluster_entropy_ratio{JOB})"},
            "percentunit",
        ),
    ]


def _resources() -> Panels:
    return [
        lines(
            "CPU",
            "Cores that each process uses. Folding and recommending hold one; more come from RocksDB and the network.",
            {"{{instance}}": f"sum by (instance) (rate(process_cpu_seconds_total{JOB}{RECENT}))"},
            "short",
        ),
        lines(
            "Memory",
            "Resident memory of each process. It levels off when block cache and memtables are full.",
            {"{{instance}}": f"sum by (instance) (process_resident_memory_bytes{JOB})"},
            "bytes",
        ),
        lines(
            "Memory of RocksDB",
            "Blocks read from disk, bounded by EFFICIENTREC_BLOCK_CACHE_BYTES, and rows that wait to be flushed.",
            {
                "block cache": f"sum(efficientrec_rocksdb_block_cache_bytes{JOB})",
                "memtables": f"sum(efficientrec_rocksdb_memtable_bytes{JOB})",
            },
            "bytes",
            stacked=True,
        ),
        lines(
            "Compaction waiting",
            "Bytes that RocksDB still has to merge. Rising for long: the disk is too slow for what is written.",
            {"{{instance}}": f"sum by (instance) (efficientrec_rocksdb_pending_compaction_bytes{JOB})"},
            "bytes",
        ),
        lines(
            "Disk free",
            "Share of the disk under each folder that is free. An alert comes at 10%, or a day before it is full.",
            {
                "{{instance}} {{folder}}": "min by (instance, folder) "
                f"(efficientrec_disk_free_bytes{JOB} / efficientrec_disk_size_bytes{JOB})"
            },
            "percentunit",
        ),
        lines(
            "Open files",
            "Share of the file descriptors that a process may have. Table files and connections take one each.",
            {"{{instance}}": f"max by (instance) (process_open_fds{JOB} / process_max_fds{JOB})"},
            "percentunit",
        ),
        lines(
            "Garbage collections",
            "Runs of Python's garbage collector each second, by generation; the oldest holds up a run for longest.",
            {"{{generation}}": f"sum by (generation) (rate(python_gc_collections_total{JOB}{RECENT}))"},
            "ops",
        ),
    ]


def _server() -> Panels:
    return [
        lines(
            "Requests by status",
            "Answers each second. 404 is a user without a list; 5xx is an alert from 5% on.",
            {"{{route}} {{status}}": f"sum by (route, status) (rate(efficientrec_server_requests_total{RECENT}))"},
            "reqps",
            stacked=True,
        ),
        lines(
            "Time of an answer",
            "From the request to the answer's last byte, 99 of 100, by route.",
            {
                "{{route}}": "histogram_quantile(0.99, sum by (route, le) "
                f"(rate(efficientrec_server_request_duration_seconds_bucket{RECENT}))) >= 0"
            },
            "s",
        ),
        lines(
            "Server behind",
            "Lists that the workers have published and the server has not read yet.",
            {"{{instance}}": "sum by (instance) (efficientrec_server_lag_records)"},
            "short",
        ),
        lines(
            "Lists held",
            "Users whose list the server can answer with.",
            {"{{instance}}": "sum by (instance) (efficientrec_server_lists)"},
            "short",
        ),
        lines(
            "Events taken",
            "Interactions posted to the server, each second, by what became of them.",
            {"{{outcome}}": f"sum by (outcome) (rate(efficientrec_server_events_total{RECENT}))"},
            "eps",
            stacked=True,
        ),
        lines(
            "Lists left out",
            "Records of the lists topic that are no list of their key's user. Somebody else writes to that topic.",
            {"records": f"sum(rate(efficientrec_server_unusable_records_total{RECENT}))"},
            "rps",
        ),
    ]
