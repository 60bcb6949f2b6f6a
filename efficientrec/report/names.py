"""What things are called on the page."""

from __future__ import annotations

SIGNED = "strong-signed"
PROTOCOLS = {
    "strong": "Strong generalisation: users whom nobody has learned from",
    SIGNED: "The same, learned from all ratings with their sign",
    "leave-one-out": "Leave one out: the last item of every user",
    "temporal": "Global split in time: what is liked later",
    "prequential": "Prequential replay: recommend first, learn after",
}
HEADLINES = {
    "strong": ("recall@20", "recall@50", "ndcg@100"),
    SIGNED: ("recall@20", "recall@50", "ndcg@100"),
    "leave-one-out": ("hit_rate@5", "ndcg@5", "hit_rate@20", "ndcg@20"),
    "temporal": ("recall@20", "ndcg@20", "ndcg@100", "hit_rate@10"),
    "prequential": ("hit_rate@10", "ndcg@10", "mrr@10", "hit_rate@20"),
}
"""Metrics of the first table of each protocol."""
_METRICS = {
    "recall": "Recall",
    "ndcg": "NDCG",
    "hit_rate": "HR",
    "mrr": "MRR",
    "precision": "Precision",
    "coverage": "Coverage",
    "novelty": "Novelty (bits)",
    "popularity_lift": "Popularity lift",
    "items_scored": "Items scored",
    "judged_precision": "judged_precision",
    "judged_share": "judged_share",
}


def metric_name(metric: str) -> str:
    """As papers write it.

    >>> metric_name("hit_rate@10")
    'HR@10'
    """
    name, at, size = metric.partition("@")
    return f"{_METRICS.get(name, name)}{at}{size}"


def number(metric: str, value: float) -> str:
    """With as many digits as mean something."""
    if metric == "items_scored":
        return f"{value:,.0f}"
    if metric.startswith(("novelty", "popularity_lift")):
        return f"{value:.2f}"
    return f"{value:.4f}".removeprefix("0") if 0 <= value < 1 else f"{value:.4f}"


def seconds(value: float) -> str:
    """A duration as people say it.

    >>> seconds(0.4), seconds(75), seconds(5400)
    ('0.4 s', '1 min 15 s', '1 h 30 min')
    """
    if value < 60:
        return f"{value:.1f} s"
    whole = round(value)
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"
