"""The report: complete, safe to open, resumable."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from efficientrec.errors import DataInvalid, SettingInvalid, TrainingImpossible
from efficientrec.report import runs
from efficientrec.report.markup import VOID, element
from efficientrec.report.page import page
from efficientrec.report.runs import PORTRAIT, Run
from efficientrec.report.summary import over_seeds, summary
from streams.report import report
from tests.test_training import written

NASTY = '<script>alert("1")</script> & Söhne'
METRICS = ("recall@20", "recall@50", "ndcg@100", "items_scored", "coverage@20")


def contest(seed: int = 0, shift: float = 0.0, data: str = "films", protocol: str = "strong") -> dict[str, Any]:
    """An evaluation of one model and two baselines, each figure unlike any other."""

    def metrics(base: float, **compared: Any) -> dict[str, Any]:
        return {
            name: {
                "mean": base + place / 1000 + shift,
                "low": base + place / 1000 - 0.0401,
                "high": base + place / 1000 + 0.0403,
                **compared,
            }
            for place, name in enumerate(METRICS)
        }

    def entry(baseline: bool, seconds: float, figures: dict[str, Any]) -> dict[str, Any]:
        return {
            "baseline": baseline,
            "parameters": {"ridge": 77.25},
            "training_seconds": seconds,
            "metrics": figures,
        }

    return {
        "data": data,
        "protocol": protocol,
        "seed": seed,
        "criterion": "ndcg@100",
        "judged_base_rate": None,
        "sizes": {"users": 4321, "test_users": 432},
        "models": {
            "efficientrec": entry(False, 12.5, metrics(0.4111, p_value=0.002, against="ease")),
            "ease": entry(True, 3.5, metrics(0.3222)),
            "popularity": entry(True, 0.5, metrics(0.1333, p_value=0.002, against="ease")),
            "als": {"skipped": "the package implicit is missing"},
        },
        "command": ["efficientrec", "evaluate", "--data", "data/my films", "--seed", str(seed)],
        "machine": {"processor": "Difference engine", "versions": {"numpy": "2.4"}},
    }


def portrait() -> dict[str, Any]:
    def figures(base: float) -> dict[str, Any]:
        return {
            name: {"mean": base, "low": base - 0.01, "high": base + 0.01}
            for name in ("recall@20", "ndcg@20", "ndcg@100", "hit_rate@10")
        }

    return {
        "data": "films",
        "protocol": PORTRAIT,
        "model": "efficientrec",
        "seed": 0,
        "criterion": "ndcg@100",
        "training_seconds": 1.0,
        "sizes": {"items": 500, "test_users": 60, "clusters": 2},
        "cold_users": [
            {"events": events, "events_mean": 1.5, "users": 60, "models": {"efficientrec": figures(0.2 + place / 100)}}
            for place, events in enumerate((0, 1, 2, 3, 5, 10, None))
        ],
        "cold_items": {
            "items": 25,
            "users": 50,
            "targets": 70,
            "models": {"by features": figures(0.617), "random": figures(0.1)},
        },
        "tradeoff": [
            {
                "knob": "clusters kept",
                "value": value,
                "items_scored": 50.5 * value,
                "metrics": figures(0.3 + value / 100),
            }
            for value in (1, 2, 4)
        ],
        "clusters": [
            {"cluster": 7, "x": -1.0, "y": 0.5, "members": 40.0, "top": [NASTY, "Heat"]},
            {"cluster": 3, "x": 1.0, "y": -0.5, "members": 20.0, "top": [NASTY]},
        ],
        "command": ["efficientrec", "report", "--protocol", "portrait"],
    }


def fresh() -> dict[str, Any]:
    told = contest(protocol="prequential")
    own = told["models"]["efficientrec"]
    own["metrics"] = {"hit_rate@10": {"mean": 0.2543, "low": 0.2, "high": 0.3}}
    for refresh, mean in (("hour", 0.2212), ("day", 0.1717)):
        told["models"][f"efficientrec, lists per {refresh}"] = {
            **own,
            "metrics": {"hit_rate@10": {"mean": mean, "low": mean - 0.05, "high": mean + 0.05}},
        }
    return {**told, "criterion": "hit_rate@10"}


def facts() -> dict[str, Any]:
    return {"data": "films", "protocol": "facts", "seed": 0, "facts": {"users": "6,040", "described items": "98%"}}


EVERYTHING = [facts(), contest(), portrait(), fresh()]


class Balanced(HTMLParser):
    """Every element that is opened is closed, in order; ids are unique, and what is referred to is there."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.ids: list[str] = []
        self.referred: set[str] = set()
        self.tags: set[str] = set()
        self.text: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        if tag not in VOID:
            self.open.append(tag)
        for name, value in attrs:
            value = value or ""
            assert not name.startswith("on"), (tag, name)
            if name == "id":
                self.ids.append(value)
            if name in ("href", "src", "xlink:href"):
                assert value.startswith("#"), f"{tag} refers to {value}"
                self.referred.add(value[1:])
            self.referred.update(re.findall(r"url\(#([^)]+)\)", value))
            if name in ("aria-labelledby", "aria-describedby"):
                self.referred.update(value.split())

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag, tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def parsed(html: str) -> Balanced:
    reader = Balanced()
    reader.feed(html)
    reader.close()
    assert reader.open == []
    return reader


@pytest.fixture(scope="module")
def html() -> str:
    return page(EVERYTHING, "All of it", "Made by hand.")


def test_the_page_is_whole_and_refers_to_nothing_outside(html: str) -> None:
    read = parsed(html)

    assert len(read.ids) == len(set(read.ids))
    assert read.referred <= set(read.ids)
    assert not read.tags & {"script", "link", "img", "iframe", "object", "embed"}
    assert not re.search(r"https?:|@import|//[a-z]", html)
    assert {"caption", "th", "svg", "figcaption", "nav"} <= read.tags
    assert html.startswith("<!DOCTYPE html>")


def test_every_figure_is_on_the_page(html: str) -> None:
    text = " ".join(parsed(html).text)

    for model in ("efficientrec", "ease", "popularity"):
        for metric in METRICS:
            value = contest()["models"][model]["metrics"][metric]
            for part in ("mean", "low", "high"):
                digits = f"{value[part]:,.0f}" if metric == "items_scored" else f"{value[part]:.4f}".removeprefix("0")
                assert digits in text, (model, metric, part)
    for told in (".6170", "12.5 s", "101.0", ".2543", ".2212", ".1717", "6,040", "98%", "4,321", "ridge = 77.25"):
        assert told in text
    assert "the package implicit is missing" in text
    assert "efficientrec evaluate --data 'data/my films' --seed 0" in text
    assert "Difference engine" in text
    assert "numpy 2.4" in text


def test_what_is_best_and_what_is_significant_is_told_by_signs_and_words(html: str) -> None:
    assert html.count("★ </span><span") > 3
    assert 'title="significantly better than the best baseline"' in html
    assert 'title="significantly worse than the best baseline"' in html


def test_titles_are_escaped_wherever_they_stand(html: str) -> None:
    assert "<script" not in html
    assert "&lt;script&gt;alert" in html
    assert NASTY in " ".join(parsed(html).text)


def test_names_of_data_and_models_are_escaped_as_well() -> None:
    told = contest(data='<img src="x">')
    told["models"]["<b>"] = told["models"]["ease"]

    assert not parsed(page([told], "<i>", "<u>")).tags & {"img", "b ", "i", "u"}


def test_the_same_results_make_the_same_page(html: str) -> None:
    assert page(EVERYTHING, "All of it", "Made by hand.") == html


def test_attributes_and_texts_are_escaped() -> None:
    assert element("a", '"<&', title='"<&') == '<a title="&quot;&lt;&amp;">"&lt;&amp;</a>'


def test_several_seeds_are_one_mean_with_a_students_interval() -> None:
    value = over_seeds([{"mean": mean, "low": 0, "high": 1} for mean in (0.1, 0.2, 0.3)])

    assert value.mean == pytest.approx(0.2)
    assert value.high - value.mean == pytest.approx(4.3027 * 0.1 / 3**0.5, rel=1e-4)
    assert over_seeds([{"mean": 0.5, "low": 0.4, "high": 0.7}]).high == 0.7


def test_only_what_every_seed_agrees_on_is_significant() -> None:
    sure, unsure = contest(0), contest(1)
    for figures in unsure["models"]["efficientrec"]["metrics"].values():
        figures["p_value"] = 0.2

    def verdict(*told: dict[str, Any]) -> str:
        return next(row for row in summary(told).rows if row.name == "efficientrec").figures["recall@20"].verdict

    assert verdict(sure) == "better"
    assert verdict(sure, unsure) == "even"
    assert summary([sure, unsure]).seeds == [0, 1]


def test_rows_that_do_not_differ_are_best_together() -> None:
    told = contest()
    told["models"]["ease"]["metrics"]["recall@20"]["mean"] = told["models"]["efficientrec"]["metrics"]["recall@20"][
        "mean"
    ]

    assert {row.name for row in summary([told]).best("recall@20")} == {"efficientrec", "ease"}
    assert {row.name for row in summary([told]).best("items_scored")} == {"popularity"}


def planned(
    folder: Path, protocols: Sequence[str] = ("strong", "temporal"), models: Sequence[str] = ("ease",)
) -> list[Run]:
    return runs.wanted([folder], protocols, models, ["efficientrec"], [0, 1])


def test_what_is_done_is_not_run_again(tmp_path: Path) -> None:
    data, results = written(tmp_path), tmp_path / "results"
    ran: list[str] = []

    def runner(run: Run) -> dict[str, Any]:
        ran.append(run.file(results).name)
        if len(ran) == 3:
            raise KeyboardInterrupt
        return contest(run.seed)

    with pytest.raises(KeyboardInterrupt):
        runs.complete(planned(data), results, runner, lambda *_: None)
    done = set(ran[:2])
    assert runs.complete(planned(data), results, runner, lambda *_: None) == 2
    assert runs.complete(planned(data), results, runner, lambda *_: None) == 0

    assert not done & set(ran[3:])
    assert len(runs.everything(results)) == 5
    assert not list(results.glob("*.part"))


def test_a_run_that_lacks_a_model_is_run_again(tmp_path: Path) -> None:
    data, results = written(tmp_path), tmp_path / "results"
    runs.complete(planned(data), results, lambda run: contest(run.seed), lambda *_: None)

    assert (
        runs.complete(planned(data, models=("ease", "sr")), results, lambda run: contest(run.seed), lambda *_: None)
        == 4
    )


def test_a_portrait_is_of_each_encoder_and_one_seed(tmp_path: Path) -> None:
    several = planned(tmp_path, (PORTRAIT,), ("efficientrec", "ease"))

    assert [(run.models, run.seed) for run in several] == [(("efficientrec",), 0)]


def test_a_protocol_that_does_not_suit_the_data_is_told_and_the_others_go_on(tmp_path: Path) -> None:
    def runner(run: Run) -> dict[str, Any]:
        if run.protocol == "temporal":
            raise TrainingImpossible("users need more interactions")
        return contest(run.seed)

    data, results = written(tmp_path), tmp_path / "results"
    runs.complete(planned(data), results, runner, lambda *_: None)

    told = runs.everything(results)
    assert sum("skipped" in run for run in told) == 2
    assert "users need more interactions" in page(told, "", "")


def test_two_data_sets_of_one_name_are_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingInvalid, match="two data sets are called films"):
        runs.wanted([tmp_path / "a" / "films", tmp_path / "b" / "films"], ["strong"], [], [], [0])


@pytest.mark.parametrize("content", ["", "[1]", '{"no": "result"}'])
def test_a_file_that_is_no_result_is_named(tmp_path: Path, content: str) -> None:
    (tmp_path / "odd.json").write_text(content)

    with pytest.raises(DataInvalid, match=r"odd\.json"):
        runs.everything(tmp_path)


def test_an_empty_folder_is_no_report(tmp_path: Path) -> None:
    with pytest.raises(DataInvalid, match="name data sets to evaluate"):
        runs.everything(tmp_path)


def test_the_command_evaluates_and_writes_the_page(tmp_path: Path) -> None:
    data, results, out = written(tmp_path), tmp_path / "results", tmp_path / "report.html"

    def run(seeds: Sequence[int]) -> str:
        report(
            [data],
            ["strong", "temporal"],
            ["popularity", "ease"],
            seeds,
            every=5,
            refit="day",
            results=results,
            out=out,
            console=Console(quiet=True),
        )
        return out.read_text(encoding="utf-8")

    first = run([0])
    files = {file: file.stat().st_mtime_ns for file in results.glob("*.json")}
    run([0, 1])

    told = json.loads(next(file for file in files if ".strong.0" in file.name).read_text())
    assert told["command"][:2] == ["efficientrec", "evaluate"]
    assert told["machine"]
    assert f"{told['models']['ease']['metrics']['ndcg@100']['mean']:.4f}".removeprefix("0") in first
    assert {file: file.stat().st_mtime_ns for file in files} == files
    assert len(list(results.glob("*.json"))) == 5
    parsed(out.read_text(encoding="utf-8"))


def test_an_unknown_protocol_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingInvalid, match="crystal ball"):
        report(
            [tmp_path],
            ["crystal ball"],
            [],
            [0],
            every=1,
            refit="day",
            results=tmp_path,
            out=tmp_path / "x",
            console=Console(),
        )
