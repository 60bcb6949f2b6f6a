"""Which evaluations a report needs, which of them are done, and what they gave: one JSON file a run, in one folder.

A run that is done is not run again, so a report that was interrupted goes on where it stopped.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from efficientrec.datasets import read_dataset
from efficientrec.errors import DataInvalid, SettingInvalid, TrainingImpossible
from efficientrec.report import facts

PORTRAIT = "portrait"
"""Beside the protocols: a closer look at one model."""
FACTS = "facts"

Told = Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One evaluation."""

    data: Path
    protocol: str
    seed: int
    models: tuple[str, ...]
    """Those asked for; of a portrait its one model."""

    def file(self, results: Path) -> Path:
        what = f"{PORTRAIT}-{self.models[0]}" if self.protocol == PORTRAIT else self.protocol
        return results / f"{name_of(self.data)}.{what}.{self.seed}.json"

    def done(self, results: Path) -> bool:
        """Whether its file is there and has every model that is asked for."""
        file = self.file(results)
        if not file.is_file():
            return False
        told = read(file)
        return "skipped" in told or self.protocol == PORTRAIT or set(self.models) <= set(told["models"])


Runner = Callable[[Run], Told]
"""Runs one evaluation. Raises TrainingImpossible or SettingInvalid where the data do not suit the protocol."""


def name_of(data: Path) -> str:
    """What a data set is called, as datasets.read_dataset calls it."""
    return data.resolve().name.partition(".")[0]


def wanted(
    data: Sequence[Path], protocols: Sequence[str], models: Sequence[str], encoders: Sequence[str], seeds: Sequence[int]
) -> list[Run]:
    """Every run, those of one data set together; a portrait is drawn of each encoder among the models, by the first
    seed alone."""
    names = [name_of(each) for each in data]
    for name in names:
        if names.count(name) > 1:
            raise SettingInvalid(f"two data sets are called {name}; their results would overwrite each other")
    runs = []
    for each in data:
        for protocol in protocols:
            if protocol == PORTRAIT:
                runs += [
                    Run(data=each, protocol=protocol, seed=seeds[0], models=(name,))
                    for name in encoders
                    if name in models
                ]
            else:
                runs += [Run(data=each, protocol=protocol, seed=seed, models=tuple(models)) for seed in seeds]
    return runs


def complete(runs: Sequence[Run], results: Path, runner: Runner, progress: Callable[[str, float], None]) -> int:
    """Runs what is not done yet and writes each as it ends. Returns how many were run. What the data are too few for,
    or lack, is noted in its file, and the others go on."""
    results.mkdir(parents=True, exist_ok=True)
    for folder in dict.fromkeys(run.data for run in runs):
        file = results / f"{name_of(folder)}.{FACTS}.json"
        if not file.is_file():
            dataset = read_dataset(folder)
            write(file, {"data": dataset.name, "protocol": FACTS, "seed": 0, "facts": facts.of(dataset)})
    left = [run for run in runs if not run.done(results)]
    for place, run in enumerate(left):
        progress(f"{run.file(results).name}, run {place + 1} of {len(left)}", place / len(left))
        told: dict[str, Any] = {"data": name_of(run.data), "protocol": run.protocol, "seed": run.seed}
        if run.protocol == PORTRAIT:
            told["model"] = run.models[0]
        try:
            told |= runner(run)
        except (TrainingImpossible, SettingInvalid) as error:
            told["skipped"] = str(error)
        write(run.file(results), told)
    return len(left)


def everything(results: Path) -> list[Told]:
    """What all files of the folder tell, in the order of their names. Raises DataInvalid where there are none."""
    told = list(_all(results))
    if not told:
        raise DataInvalid(f"{results} holds no results; name data sets to evaluate")
    return told


def _all(results: Path) -> Iterator[Told]:
    for file in sorted(results.glob("*.json")):
        told = read(file)
        if not {"data", "protocol", "seed"} <= told.keys():
            raise DataInvalid(f"{file} is no result of an evaluation")
        yield told


def read(file: Path) -> Told:
    """A result. Raises DataInvalid where it is none."""
    try:
        told = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataInvalid(f"{file} cannot be read: {error}; remove it to run it again") from error
    if not isinstance(told, dict):
        raise DataInvalid(f"{file} is no result of an evaluation")
    return told


def write(file: Path, told: Told) -> None:
    """Whole or not at all."""
    beside = file.with_suffix(".part")
    beside.write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")
    beside.replace(file)
