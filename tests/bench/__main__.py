"""`python -m tests.bench NAME`: figures with the machine, the versions and the command that made them."""

from __future__ import annotations

import json
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from tests.bench import flood as flooding
from tests.bench import machine
from tests.bench import pieces as splitting
from tests.bench import soak as soaking
from tests.bench.throughput import measure

app = typer.Typer(no_args_is_help=True, help="Measure ratios in one run on one machine.")
console = Console()
MEBIBYTE = 1024 * 1024


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


@app.command()
def pieces(
    output: Annotated[Path | None, typer.Option("--json", help="Write the figures to this file.")] = None,
    users: Annotated[int, typer.Option(help="With full rows, on disk.")] = 20_000,
    run_events: Annotated[int, typer.Option(help="Events of a run, each of another user.")] = 4_000,
    rounds: Annotated[int, typer.Option(help="Of which the least counts.")] = 5,
    items: Annotated[int, typer.Option(help="Of the model.")] = 4_000,
) -> None:
    """What each piece of a refreshed list costs, in one process with a broker that answers at once."""
    figures = {**machine.described(), **splitting.measure(users, run_events, rounds, items)}
    for title in ("loop", "library"):
        table = Table(title, "µs per list", "share")
        for name, spent in figures[title].items():
            table.add_row(name, f"{spent:.2f}", f"{spent / figures['loop']['in all']:.0%}")
        console.print(table)
    if output is not None:
        output.write_text(json.dumps(figures, indent=2) + "\n")


@app.command()
def soak(
    output: Annotated[Path | None, typer.Option("--json", help="Write the figures to this file.")] = None,
    broker: Annotated[Broker, typer.Option(help="kafka needs KAFKA_HOME.")] = Broker.embedded,
    minutes: Annotated[float, typer.Option(help="How long the stream goes on.")] = 30.0,
    events_per_second: Annotated[float, typer.Option(help="Of the stream.")] = 300.0,
    users: Annotated[int, typer.Option(help="They come again and again.")] = 20_000,
    swap_seconds: Annotated[float, typer.Option(help="Pause between two models.")] = 60.0,
    sample_seconds: Annotated[float, typer.Option(help="Pause between two looks at the worker.")] = 10.0,
) -> None:
    """A worker under a steady stream, with swap after swap: does it stay as small as it was?"""
    figures = {
        **machine.described(),
        **soaking.soak(broker.value, minutes, events_per_second, users, swap_seconds, sample_seconds, console),
    }
    table = Table("the worker's", "second tenth", "third tenth", "last tenth", "last to third")
    for name in ("rss", "anonymous", "state_bytes", "descriptors", "table_files"):
        held, unit = figures[name], 1 if name in ("descriptors", "table_files") else MEBIBYTE
        table.add_row(
            name if unit == 1 else f"{name.removesuffix('_bytes')}, MiB",
            *(f"{held[when] / unit:,.1f}" for when in ("second_tenth", "third_tenth", "last_tenth")),
            f"{held['ratio']:.3f}",
        )
    console.print(table)
    console.print(
        f"{figures['verdict']}: {figures['sent']:,} events sent, {figures['applied']:,} applied, {figures['lists']:,} "
        f"lists, {figures['swaps']} swaps; {figures['rows_different']} of {figures['rows_expected']:,} rows differ "
        f"from the plain recomputation; load average {figures['load'][0]:.1f} to {figures['load'][1]:.1f}"
    )
    if output is not None:
        output.write_text(json.dumps(figures, indent=2) + "\n")


@app.command()
def flood(
    output: Annotated[Path | None, typer.Option("--json", help="Write the figures to this file.")] = None,
    broker: Annotated[Broker, typer.Option(help="kafka needs KAFKA_HOME.")] = Broker.embedded,
    rounds: Annotated[int, typer.Option(help="Of the others alone and beside the hot user, in turn.")] = 4,
    seconds: Annotated[float, typer.Option(help="Of each round.")] = 20.0,
    events: Annotated[
        int, typer.Option(help="Of the one user who sends as fast as the broker takes them.")
    ] = 1_000_000,
) -> None:
    """A hot user, a million events of one user, a hundred thousand new users: what becomes of everybody else?"""
    figures = {**machine.described(), **flooding.flood(broker.value, rounds, seconds, events, console)}
    table = Table("", "alone: p50 ms", "p99", "beside: p50 ms", "p99", "ratio: p50", "p99", "limited")
    for name in ("hot_user", "limited"):
        part = figures[name]
        table.add_row(
            "no limit" if name == "hot_user" else f"{flooding.LIMIT} a second",
            *(f"{part[who][which]:,.1f}" for who in ("alone", "beside") for which in ("p50_ms", "p99_ms")),
            f"{part['ratio_p50']:.2f}",
            f"{part['ratio_p99']:.2f}",
            f"{part['limited']:,} of {part['hot_events']:,}",
        )
    console.print(table)
    one, new = figures["one_user"], figures["new_users"]
    console.print(
        f"One user: {one['events']:,} events in {one['seconds']:.1f} s, {one['events_per_second']:,.0f} a second; a "
        f"row of {one['row_bytes']:,} bytes; {one['rows_different']} rows differ from the plain recomputation; "
        f"{_mebibytes(one['rss'])}"
    )
    console.print(
        f"New users: {new['users']:,} in a minute, {new['behind_at_the_end']:,} behind at its end; p50 "
        f"{new['p50_ms']:,.1f} ms, p99 {new['p99_ms']:,.1f} ms; {new['state_bytes_per_user']:,.0f} bytes of state a "
        f"user; {_mebibytes(new['rss'])}"
    )
    if output is not None:
        output.write_text(json.dumps(figures, indent=2) + "\n")


def _mebibytes(held: dict[str, int]) -> str:
    return "RSS in MiB " + ", ".join(f"{name} {held[name] / MEBIBYTE:,.0f}" for name in held)


if __name__ == "__main__":
    app()
