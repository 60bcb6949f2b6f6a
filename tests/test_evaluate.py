"""`efficientrec evaluate`: from files to a table and a JSON that tells all."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from rich.console import Console

from efficientrec.errors import DataInvalid, SettingInvalid
from efficientrec.evaluation import protocols
from efficientrec.evaluation.results import Result
from streams.evaluate import evaluate
from tests.test_training import WORLD, written


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return written(tmp_path)


def run(path: Path, protocol: str, models: list[str], **changes: Any) -> tuple[Result, dict[str, Any]]:
    """What comes back, and what stands in the JSON."""
    output = path.parent / "scores.json"
    arguments: dict[str, Any] = {"seed": 0, "signed": False, "every": 2, "refit": "300", "refreshes": ["event"]}
    result = evaluate(
        path, protocol, models, **{**arguments, **changes}, output=output, console=Console(quiet=True, width=200)
    )
    return result, json.loads(output.read_text())


@pytest.mark.parametrize("protocol", protocols.PROTOCOLS)
def test_every_protocol_tells_each_metric_with_its_interval(folder: Path, protocol: str) -> None:
    _, told = run(folder, protocol, ["sr", "popularity"])

    assert (told["data"], told["protocol"], told["seed"]) == (folder.name.partition(".")[0], protocol, 0)
    assert told["command"][0] == "efficientrec"
    assert {"numpy", "scipy"} <= told["machine"]["versions"].keys()
    assert told["models"]["sr"]["parameters"]["decay"] > 0
    for metric in ("recall", "ndcg", "hit_rate", "mrr", "precision"):
        for k in (5, 10, 20, 50, 100):
            value = told["models"]["sr"]["metrics"][f"{metric}@{k}"]
            assert -1e-9 <= value["low"] <= value["mean"] + 1e-9 <= value["high"] + 2e-9 <= 1 + 3e-9
    assert {"coverage@20", "novelty@20", "popularity_lift@20", "items_scored"} <= told["models"]["sr"]["metrics"].keys()
    assert told["models"]["popularity"]["metrics"]["ndcg@10"]["against"] == "sr"
    assert told["models"]["popularity"]["metrics"]["ndcg@10"]["p_value"] < 0.05
    assert "p_value" not in told["models"]["sr"]["metrics"]["ndcg@10"]


def test_a_model_is_scored_beside_its_votes_and_beats_popularity(folder: Path) -> None:
    result, told = run(folder, "leave-one-out", ["efficientrec", "popularity"])

    scores = {entry.name: entry.intervals()["ndcg@10"].mean for entry in result.entries}
    assert list(scores) == ["efficientrec", "efficientrec by votes", "popularity"]
    assert scores["efficientrec"] > scores["popularity"] + 0.1
    assert told["models"]["efficientrec"]["parameters"].keys() >= {"anchor_weight", "cluster_weight"}


def test_low_ratings_give_the_judged_precision_its_base_rate(folder: Path) -> None:
    _, told = run(folder, "strong", ["popularity"])
    metrics = told["models"]["popularity"]["metrics"]

    # Of each asked user one of seven likes and one of two dislikes is held out.
    assert told["judged_base_rate"] == 0.5
    assert {"judged_precision@50", "judged_share@50"} <= metrics.keys()


def test_one_run_is_as_another_but_for_its_seconds(folder: Path) -> None:
    def plain(told: dict[str, Any]) -> dict[str, Any]:
        for model in told["models"].values():
            del model["training_seconds"]
        return told

    assert plain(run(folder, "strong", ["sr", "als"])[1]) == plain(run(folder, "strong", ["sr", "als"])[1])


def test_a_file_alone_is_enough_whatever_its_columns_are_called(tmp_path: Path) -> None:
    path = tmp_path / "clicks.parquet"
    table = pa.table(
        {
            "userId": pa.array([f"u{user}" for user in WORLD.user]),
            "movieId": pa.array([WORLD.items[item] for item in WORLD.item]),
            "ts": pa.array(WORLD.at // 1000),
        }
    )
    pq.write_table(table, path)

    result, told = run(path, "temporal", ["itemknn"])

    assert told["data"] == "clicks"
    assert result.entries[0].intervals()["recall@20"].mean > 0


def test_without_times_the_rows_need_only_users_and_items(tmp_path: Path) -> None:
    path = tmp_path / "pairs.csv"
    rows = [f"u{user},{WORLD.items[item]}" for user, item in zip(WORLD.user, WORLD.item, strict=True)]
    path.write_text("\n".join(["user,item", *rows]))

    for protocol in ("strong", "leave-one-out"):
        result, _ = run(path, protocol, ["itemknn"])
        assert result.entries[0].intervals()["recall@20"].mean > 0.3
    with pytest.raises(SettingInvalid, match="'prequential', and the data have no times"):
        run(path, "prequential", ["sr"])


def test_what_does_not_suit_the_data_is_left_out_with_its_reason(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("efficientrec.evaluation.baselines.ease.ITEMS_MAX", 3)

    _, told = run(folder, "strong", ["ease", "sr+ease", "sr"])

    assert told["models"]["ease"] == {"skipped": "22 items; the inverse is for at most 3"}
    assert told["models"]["sr+ease"] == told["models"]["ease"]
    assert "metrics" in told["models"]["sr"]


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"protocol": "crystal ball"}, "expected one of strong, leave-one-out, temporal, prequential"),
        ({"models": ["oracle"]}, "model is 'oracle'; expected one of efficientrec,.* popularity, recency-popularity"),
        ({"refreshes": ["weekly"]}, "expected one of event, hour, day"),
        ({"refit": "0"}, "expected hour, day or a number of events"),
    ],
)
def test_unknown_names_are_refused(folder: Path, changes: dict[str, Any], expected: str) -> None:
    with pytest.raises(SettingInvalid, match=expected):
        run(folder, **{"protocol": "strong", "models": ["sr"], **changes})


def test_no_data_is_said(tmp_path: Path) -> None:
    with pytest.raises(DataInvalid, match="neither a folder nor a file"):
        run(tmp_path / "nowhere.csv", "strong", ["sr"])
