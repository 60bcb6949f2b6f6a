"""`python -m tests.bench NAME`: figures with the machine, the versions and the command that made them."""

from __future__ import annotations

import json
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from tests.bench import machine
from tests.bench.throughput import measure

app = typer.Typer(no_args_is_help=True, help="Measure ratios in one run on one machine.")
console = Console()


class Broker(StrEnum):
    """Which broker carries the records."""

    embedded = "embedded"
    kafka = "kafka"


@app.callback()
def bench() -> None:
    """Measure ratios in one run on one machine."""


@app.command()
def throughput(
    output: Annotated[Path | None, typer.Option("--json", help="Write the figures to this file.")] = None,
    broker: Annotated[Broker, typer.Option(help="kafka needs KAFKA_HOME.")] = Broker.embedded,
    users: Annotated[int, typer.Option(help="Events for the worker, each of another user.")] = 40_000,
    idiomatic_users: Annotated[int, typer.Option(help="The same for the idiomatic agent, which is slower.")] = 8_000,
    rounds: Annotated[int, typer.Option(help="Rounds of each, in turn.")] = 3,
) -> None:
    """A saturated worker beside an idiomatic Faust agent."""
    figures = {**machine.described(), **measure(broker.value, users, idiomatic_users, rounds)}

    table = Table("", "lists/s", "lists per core-second", "CPU s per 1,000 lists")
    for name, prefix in (("worker", ""), ("idiomatic agent", "idiomatic_")):
        table.add_row(
            name,
            f"{figures['idiomatic_per_second' if prefix else 'lists_per_second_distinct']:,.0f}",
            f"{figures['idiomatic_per_core_second' if prefix else 'lists_per_core_second']:,.0f}",
            f"{figures[prefix + 'cpu_seconds_per_1000_lists']:.3f}",
        )
    table.add_row("ratio", f"{figures['ratio']:.1f}", f"{figures['ratio_per_core_second']:.1f}", "")
    console.print(table)
    steps = ", ".join(f"{stage} {spent:.1f}" for stage, spent in figures["microseconds_per_list"].items())
    console.print(f"The worker's steps, µs per list on its clock: {steps}")
    if output is not None:
        output.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    app()
