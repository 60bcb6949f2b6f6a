"""What `efficientrec tune` does: a search for a recipe, written to a file trial by trial, and continued from there."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.markup import escape

from efficientrec.datasets import read_dataset
from efficientrec.encoders.registry import ENCODERS
from efficientrec.errors import DataInvalid, SettingInvalid
from efficientrec.evaluation import protocols
from efficientrec.evaluation.search import Search, Trial, as_json, best, of_json
from efficientrec.report.runs import read, write
from efficientrec.training.data import of_dataset
from efficientrec.training.recipe import Recipe
from streams.evaluate import machine, telling

PROTOCOLS = ("strong", "leave-one-out", "temporal")
KEPT = ("data", "protocol", "model", "seed", "signed")
"""What must be the same where a search goes on."""


def tune(
    path: Path, protocol: str, model: str, *, trials: int, seed: int, signed: bool, output: Path, console: Console
) -> None:
    """Searches until there are so many trials in the file, and tells the best."""
    if protocol not in PROTOCOLS:
        raise SettingInvalid(f"protocol is {protocol!r}; expected one of {', '.join(PROTOCOLS)}")
    if model not in ENCODERS:
        raise SettingInvalid(f"model is {model!r}; expected one of {', '.join(ENCODERS)}")
    dataset = read_dataset(path)
    asked = {"data": dataset.name, "protocol": protocol, "model": model, "seed": seed, "signed": signed}
    done = []
    if output.is_file():
        told = read(output)
        if {name: told.get(name) for name in KEPT} != asked:
            raise DataInvalid(f"{output} is of another search; choose another file")
        done = of_json(told)
    split = protocols.split(protocol, of_dataset(dataset), dataset.clock, seed, only_liked=not signed)
    with telling(console) as progress:
        search = Search(
            split=split, recipe=Recipe(seed=seed, encoder=model), progress=progress, clock=time.perf_counter
        )
        head = {**asked, "criterion": split.criterion, "command": ["efficientrec", *sys.argv[1:]], "machine": machine()}

        def record(so_far: Sequence[Trial]) -> None:
            write(output, {**head, **as_json(so_far)})
            last = so_far[-1]
            score = "diverged" if last.score is None else f"{split.criterion} {last.score:.4f}"
            console.print(f"trial {last.number}: {score}, {last.seconds:.0f} s", highlight=False)

        every = search.run(trials, done, record)
    found = best(every)
    if found is None:
        console.print("No trial could be scored.")
        return
    console.print(f"Best of {len(every)}: trial {found.number}, {split.criterion} {found.score:.4f} on validation")
    console.print(escape(json.dumps(found.parameters)), soft_wrap=True)
