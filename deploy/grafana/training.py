"""What stands on the trainer's board: the log of interactions, the trainings, what the judge said, resources."""

from __future__ import annotations

from deploy.grafana.panels import JOB, PARTITION, RECENT, Panels, ago, lines, mean, rates, rises, stat


def rows() -> dict[str, Panels]:
    """Title of a row → its panels."""
    return {
        "Now: from the log to the model": _now(),
        "Log": _log(),
        "Trainings": _trainings(),
        "Scores of the last training": _scores(),
        "Resources": _resources(),
    }


def _now() -> Panels:
    return [
        stat(
            "Interactions logged",
            "Safe on the trainer's disk. What is not there, no model learns from.",
            f"sum(efficientrec_trainer_log_rows{JOB})",
            "short",
        ),
        stat(
            "Not yet logged",
            "Age of the oldest interaction that is not in the log.",
            f"max(efficientrec_consumer_lag_seconds{PARTITION})",
            "s",
            warn=1800,
        ),
        stat("Training now", "1 while a training is under way.", f"sum(efficientrec_trainer_running{JOB})", "short"),
        stat(
            "Last training ended",
            "How long ago, whatever came of it; 0 for not yet.",
            ago("efficientrec_trainer_last_run_timestamp_seconds"),
            "s",
        ),
        stat(
            "Last published",
            "How long ago this trainer released a model; 0 for not yet.",
            ago("efficientrec_trainer_last_published_timestamp_seconds"),
            "s",
        ),
        stat(
            "Failed, last hour",
            "Trainings that failed, otherwise than by the judge or for lack of interactions.",
            'sum(increase(efficientrec_trainer_runs_total{job=~"$job", outcome="failed"}[1h]))',
            "short",
            warn=1,
        ),
    ]


def _log() -> Panels:
    return [
        lines(
            "Interaction log",
            "Interactions that are safe on the trainer's disk.",
            {"rows": f"sum(efficientrec_trainer_log_rows{JOB})"},
            "short",
        ),
        lines(
            "Waiting to be logged",
            "Interactions that the broker has and the log has not, and the age of the oldest of them.",
            {
                "records": f"sum(efficientrec_consumer_lag_records{PARTITION})",
                "seconds": f"max(efficientrec_consumer_lag_seconds{PARTITION})",
            },
            "short",
        ),
        lines(
            "Left out and erased",
            "Records that cannot be used, which the worker sets aside, and users who were erased from the log.",
            {
                "left out": rates("efficientrec_trainer_rejected_records_total"),
                "erased": rates("efficientrec_trainer_erasures_total"),
            },
            "ops",
        ),
    ]


def _trainings() -> Panels:
    return [
        lines(
            "Trainings",
            "Of the last hour, by what came of them. refused: scored worse than the serving model, as it should happen "
            "now and then. failed: the trainer's log says why.",
            {"{{outcome}}": rises("efficientrec_trainer_runs_total", "outcome", "[1h]")},
            "short",
        ),
        lines(
            "Time of a training",
            "From the start of its process to its verdict, mean of the last hour.",
            {"mean": mean("efficientrec_trainer_duration_seconds", "[1h]")},
            "s",
        ),
        lines(
            "Under way",
            "1 while a training is under way. Always 1: trainings take longer than the pause between them.",
            {"running": f"sum(efficientrec_trainer_running{JOB})"},
            "short",
        ),
    ]


def _scores() -> Panels:
    metrics = (("NDCG", "ndcg@20"), ("Recall", "recall@20"), ("Hit rate", "hit_rate@10"))
    return [
        *(
            lines(
                title,
                f"{metric} on later events that were held out: of the new model, of the one that served, and of "
                "decayed popularity. More is better; 0 stands for not judged.",
                {"{{model}}": f'max by (model) (efficientrec_eval_metric{{job=~"$job", metric="{metric}"}})'},
                "short",
            )
            for title, metric in metrics
        ),
        lines(
            "Held-out events",
            "How many events stand behind the scores. Below a few hundred they are noise.",
            {"events": f"max(efficientrec_eval_examples{JOB})"},
            "short",
        ),
    ]


def _resources() -> Panels:
    return [
        lines(
            "CPU",
            "Cores that the trainer uses. A training is a process of its own and not in here.",
            {"{{instance}}": f"sum by (instance) (rate(process_cpu_seconds_total{JOB}{RECENT}))"},
            "short",
        ),
        lines(
            "Memory",
            "Resident memory of the trainer, without that of a training.",
            {"{{instance}}": f"sum by (instance) (process_resident_memory_bytes{JOB})"},
            "bytes",
        ),
        lines(
            "Disk free",
            "Share of the disk under the log and under the models that is free.",
            {"{{folder}}": f"min by (folder) (efficientrec_disk_free_bytes{JOB} / efficientrec_disk_size_bytes{JOB})"},
            "percentunit",
        ),
    ]
