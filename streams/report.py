"""What `efficientrec report` does: runs the evaluations that are missing, and makes a page of all of them."""

from __future__ import annotations

import shlex
import sys
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.console import Console

from efficientrec.datasets import Dataset, read_dataset
from efficientrec.encoders.registry import ENCODERS
from efficientrec.errors import SettingInvalid
from efficientrec.evaluation import protocols
from efficientrec.evaluation.contest import checked
from efficientrec.evaluation.portrait import Portrait
from efficientrec.report import runs
from efficientrec.report.names import SIGNED
from efficientrec.report.page import page
from efficientrec.report.runs import PORTRAIT, Run
from efficientrec.training.data import of_dataset
from efficientrec.training.recipe import Recipe
from streams.evaluate import evaluate, machine, telling

KINDS = (*protocols.PROTOCOLS, SIGNED, PORTRAIT)
TITLE = "EfficientRec: what was measured"


def report(
    data: Sequence[Path],
    kinds: Sequence[str],
    models: Sequence[str],
    seeds: Sequence[int],
    *,
    every: int,
    refit: str,
    results: Path,
    out: Path,
    console: Console,
) -> None:
    """Everything of the results folder goes into the page; what is asked for and not there is run before."""
    for kind in kinds:
        if kind not in KINDS:
            raise SettingInvalid(f"protocol is {kind!r}; expected one of {', '.join(KINDS)}")
    names = checked(models)
    wanted = runs.wanted(data, list(dict.fromkeys(kinds)) or KINDS, names, list(ENCODERS), list(dict.fromkeys(seeds)))

    def runner(run: Run) -> dict[str, Any]:
        if run.protocol == PORTRAIT:
            told, command = _portrait(run, console), _portrait_command(run, results, out)
        else:
            told, command = _contest(run, every, refit, console), _command(run, every, refit, run.file(results))
        return {**told, "protocol": run.protocol, "command": command, "machine": machine()}

    runs.complete(wanted, results, runner, lambda what, _: console.print(what, markup=False, highlight=False))
    made = f"Made at {datetime.now(UTC):%Y-%m-%d %H:%M} UTC by {shlex.join(['efficientrec', *sys.argv[1:]])}"
    out.write_text(page(runs.everything(results), TITLE, made), encoding="utf-8")
    console.print(f"{out} shows what is in {results}", markup=False, highlight=False, soft_wrap=True)


def _contest(run: Run, every: int, refit: str, console: Console) -> dict[str, Any]:
    return evaluate(
        run.data,
        run.protocol.removesuffix("-signed"),
        run.models,
        seed=run.seed,
        signed=run.protocol == SIGNED,
        every=every,
        refit=refit,
        refreshes=(),
        output=None,
        console=console,
    ).as_json()


def _portrait(run: Run, console: Console) -> dict[str, Any]:
    dataset = read_dataset(run.data)
    split = protocols.split("strong", of_dataset(dataset), dataset.clock, run.seed)
    with telling(console) as progress:
        return Portrait(
            data=dataset.name,
            split=split,
            recipe=Recipe(seed=run.seed, encoder=run.models[0]),
            title=lambda item: _title(dataset, item),
            progress=progress,
            clock=time.perf_counter,
        ).draw()


def _title(dataset: Dataset, item: str) -> str:
    told = dataset.catalogue.get(item)
    return told.title if told is not None and told.title else item


def _command(run: Run, every: int, refit: str, file: Path) -> list[str]:
    """What makes the figures of a run again by itself."""
    command = ["efficientrec", "evaluate", "--data", str(run.data), "--protocol", run.protocol.removesuffix("-signed")]
    command += ["--signed"] if run.protocol == SIGNED else []
    command += ["--every", str(every), "--refit", refit] if run.protocol == "prequential" else []
    for name in run.models:
        command += ["--model", name]
    return [*command, "--seed", str(run.seed), "--json", str(file)]


def _portrait_command(run: Run, results: Path, out: Path) -> list[str]:
    command = ["efficientrec", "report", "--data", str(run.data), "--protocol", PORTRAIT, "--model", run.models[0]]
    return [*command, "--seed", str(run.seed), "--results", str(results), "--out", str(out)]
