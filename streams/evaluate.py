"""What `efficientrec evaluate` does: reads data, runs a protocol, shows how far it is, tells what came out."""

from __future__ import annotations

import json
import os
import platform
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from efficientrec.datasets import read_dataset
from efficientrec.errors import SettingInvalid
from efficientrec.evaluation import prequential, protocols
from efficientrec.evaluation.contest import Contest, checked
from efficientrec.evaluation.prequential import Stream
from efficientrec.evaluation.replay import Replay
from efficientrec.evaluation.results import COVERAGE, Result
from efficientrec.training.data import of_dataset
from efficientrec.training.recipe import Recipe

COLUMNS = {
    "strong": ("recall@20", "recall@50", "ndcg@100"),
    "leave-one-out": ("hit_rate@5", "ndcg@5", "hit_rate@20", "ndcg@20"),
    "temporal": ("recall@20", "hit_rate@20", "ndcg@100"),
    "prequential": ("hit_rate@10", "ndcg@10", "mrr@10"),
}
"""The metrics that are shown; all are in the JSON."""
WIDTH = 120  # a table in a file or a narrow window keeps its figures whole
PACKAGES = ("efficientrec", "numpy", "scipy", "numba", "torch", "implicit")


def evaluate(
    path: Path,
    protocol: str,
    models: Sequence[str],
    *,
    seed: int,
    signed: bool,
    every: int,
    refit: str,
    refreshes: Sequence[str],
    output: Path | None,
    console: Console,
) -> Result:
    """Runs one protocol and tells its figures; writes them all to `output` where one is given."""
    if protocol not in protocols.PROTOCOLS:
        raise SettingInvalid(f"protocol is {protocol!r}; expected one of {', '.join(protocols.PROTOCOLS)}")
    names, cadence = checked(models), prequential.refit_setting(refit)
    for refresh in refreshes:
        if refresh not in prequential.REFRESHES:
            raise SettingInvalid(f"refresh is {refresh!r}; expected one of {', '.join(prequential.REFRESHES)}")
    dataset = read_dataset(path)
    data = of_dataset(dataset)
    recipe = Recipe(seed=seed)
    with telling(console) as progress:
        if protocol == "prequential":
            protocols.require_times(protocol, dataset.clock)
            result = Replay(
                data=dataset.name,
                stream=Stream.of(data, seed),
                models=names,
                recipe=recipe,
                every=every,
                refit=cadence,
                refreshes=tuple(dict.fromkeys(refreshes)) or prequential.REFRESHES,
                progress=progress,
                clock=time.perf_counter,
            ).run()
        else:
            result = Contest(
                data=dataset.name,
                protocol=protocol,
                split=protocols.split(protocol, data, dataset.clock, seed, only_liked=not signed),
                models=names,
                recipe=recipe,
                progress=progress,
                clock=time.perf_counter,
            ).run()
    wide = console if console.width >= WIDTH else Console(width=WIDTH, file=console.file, quiet=console.quiet)
    wide.print(table(result))
    for entry in result.entries:
        if entry.skipped:
            console.print(f"{entry.name} was left out: {entry.skipped}", markup=False, highlight=False)
    if output is not None:
        told = {"command": ["efficientrec", *sys.argv[1:]], **result.as_json(), "machine": machine()}
        output.write_text(json.dumps(told, indent=2) + "\n")
    return result


def table(result: Result) -> Table:
    """The metrics that matter for the protocol, each with its interval, and how sure a difference from the best
    baseline is."""
    shown = COLUMNS[result.protocol]
    deciding = shown[-1]
    best = result.best_baseline(deciding)
    columns = (*shown, "coverage", "scored", "seconds", "p")
    caption = "below each figure its 95% interval; scored: items for a list; seconds: of learning and tuning"
    if best is not None:
        caption += f"; p: of {deciding} against {best.name}, the best baseline"
    grid = Table(title=f"{result.data}, {result.protocol}, seed {result.seed}", caption=caption)
    for column in ("", *columns):
        grid.add_column(column, no_wrap=True)
    for entry in result.entries:
        intervals = entry.intervals()
        if not intervals:
            continue
        cells = [f"{value.mean:.4f}\n{value.low:.3f}–{value.high:.3f}" for value in map(intervals.__getitem__, shown)]
        p_value = ""
        if best is not None and best is not entry and entry.resampled is not None and best.resampled is not None:
            p_value = f"{entry.resampled.p_value(best.resampled, deciding):.3f}"
        grid.add_row(
            escape(entry.name),
            *cells,
            f"{intervals[COVERAGE].mean:.3f}",
            f"{intervals['items_scored'].mean:.0f}",
            f"{entry.seconds:.1f}",
            p_value,
        )
    return grid


def machine() -> dict[str, object]:
    """Where the figures are from."""
    return {
        "processor": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "system": platform.platform(),
        "python": platform.python_version(),
        "versions": dict(_versions()),
    }


def _versions() -> Iterator[tuple[str, str]]:
    for package in PACKAGES:
        try:
            yield package, metadata.version(package)
        except metadata.PackageNotFoundError:
            continue


@contextmanager
def telling(console: Console) -> Iterator[Callable[[str, float], None]]:
    """A bar for the step that runs; what was scored on the test stays as a line."""
    bar = Progress(TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn(), console=console, transient=True)
    with bar:
        task = bar.add_task("", total=1.0)

        def progress(step: str, share: float) -> None:
            bar.update(task, description=escape(step), completed=share)
            if step.endswith("on the test"):
                console.print(step, markup=False, highlight=False)

        yield progress
