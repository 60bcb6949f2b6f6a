"""`python -m tests.bench NAME`: figures with the machine, the versions and the command that made them."""

from __future__ import annotations

import json
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from streams.demo import SHIPPED
from tests.bench import cores as spreading
from tests.bench import flood as flooding
from tests.bench import latency as waiting
from tests.bench import machine
from tests.bench import pieces as splitting
from tests.bench import recovery as recovering
from tests.bench import scale as growing
from tests.bench import soak as soaking
from tests.bench import start as starting
from tests.bench.spread import shown
from tests.bench.throughput import measure

app = typer.Typer(no_args_is_help=True, help="Measure ratios in one run on one machine.")
console = Console()
MEBIBYTE = 1024 * 1024


class Broker(StrEnum):
    """Which broker carries the records."""

    embedded = "embedded"
    kafka = "kafka"


Output = Annotated[Path | None, typer.Option("--json", help="Write the figures to this file.")]
On = Annotated[Broker, typer.Option("--broker", help="kafka needs KAFKA_HOME.")]


@app.callback()
def bench() -> None:
    """Measure ratios in one run on one machine."""


@app.command()
def throughput(
    output: Output = None,
    broker: On = Broker.embedded,
    users: Annotated[int, typer.Option(help="Events for the worker, each of another user.")] = 40_000,
    idiomatic_users: Annotated[int, typer.Option(help="The same for the idiomatic agent, which is slower.")] = 8_000,
    rounds: Annotated[int, typer.Option(help="Rounds of each, in turn.")] = 3,
    data: Annotated[Path, typer.Option(help="Folder of the data set that is played.")] = SHIPPED,
    events: Annotated[int, typer.Option(help="Of it, from its beginning.")] = 100_000,
) -> None:
    """A saturated worker beside an idiomatic Faust agent and raw aiokafka, and a data set played as fast as it goes."""
    figures = {**machine.described(), **measure(broker.value, users, idiomatic_users, rounds, data, events)}

    table = Table("", "lists/s", "lists per core-second", "CPU s per 1,000 lists")
    for name, prefix in (("worker", ""), ("idiomatic agent", "idiomatic_")):
        table.add_row(
            name,
            f"{figures['idiomatic_per_second' if prefix else 'lists_per_second_distinct']:,.0f}",
            f"{figures['idiomatic_per_core_second' if prefix else 'lists_per_core_second']:,.0f}",
            f"{figures[prefix + 'cpu_seconds_per_1000_lists']:.3f}",
        )
    table.add_row("ratio", f"{figures['ratio']:.1f}", f"{figures['ratio_per_core_second']:.1f}", "")
    ceiling = figures["raw_per_core_second"]
    table.add_row("raw aiokafka", f"{figures['raw_per_second']:,.0f}", f"{ceiling:,.0f}", f"{1000 / ceiling:.3f}")
    console.print(table)
    played = figures["replay"]
    console.print(
        f"{played['events']:,} events of {played['data']}: {played['events_per_second']:,.0f} events a second, "
        f"{played['events_per_core_second']:,.0f} per core-second; {played['lists']:,.0f} lists"
    )
    steps = ", ".join(f"{stage} {spent:.1f}" for stage, spent in figures["microseconds_per_list"].items())
    console.print(f"The worker's steps, µs per list on its clock: {steps}")
    _write(figures, output)


@app.command()
def latency(
    output: Output = None,
    broker: On = Broker.embedded,
    rounds: Annotated[int, typer.Option(help="At each share of saturation, in turn.")] = 3,
    seconds: Annotated[float, typer.Option(help="Of each round.")] = 15.0,
) -> None:
    """From an event to its list, under open-loop load, through a model swap and through a rebalance."""
    figures = {**machine.described(), **waiting.measure(broker.value, rounds, seconds, console)}
    table = Table("load", "events/s", "p50 ms", "p99", "p99.9", "most", "cores")
    for share, part in figures["shares"].items():
        columns = (part[name] for name in ("per_second", "p50_ms", "p99_ms", "p99_9_ms", "most_ms"))
        table.add_row(f"{float(share):.0%}", *(f"{each:,.1f}" for each in columns), f"{part['cores']:.2f}")
    for name in ("swap", "rebalance"):
        for when in ("apart", "during"):
            columns = (figures[name][when][each] for each in ("p50_ms", "p99_ms", "p99_9_ms", "most_ms"))
            table.add_row(f"50%, {name}, {when}", "", *(f"{each:,.1f}" for each in columns), "")
    console.print(table)
    _write(figures, output)


@app.command()
def pieces(
    output: Output = None,
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
    _write(figures, output)


@app.command()
def soak(
    output: Output = None,
    broker: On = Broker.embedded,
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
    _write(figures, output)


@app.command()
def flood(
    output: Output = None,
    broker: On = Broker.embedded,
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
    _write(figures, output)


@app.command()
def recovery(
    output: Output = None,
    broker: On = Broker.embedded,
    rows: Annotated[int, typer.Option(help="Full rows in the changelog, each of another user.", min=10_000)] = 200_000,
    rounds: Annotated[int, typer.Option(help="Of each case, in turn.")] = 3,
    session: Annotated[float, typer.Option(help="Session timeout of the group, in seconds.")] = 10.0,
) -> None:
    """Rows restored per second, and how long users wait when their worker is killed."""
    figures = {**machine.described(), **recovering.measure(broker.value, rows, rounds, session, console)}
    table = Table(
        "a worker that was", "rows that came back", "partitions dealt, s", "first list, s", "every partition's"
    )
    for case, part in figures["seconds"].items():
        table.add_row(case, shown(part["rows"], 0), *(shown(part[step]) for step in ("dealt", "first", "all")))
    console.print(table)
    console.print(
        f"Rows per second: {shown(figures['rows_per_second'], 0)} on the worker's clock, "
        f"{figures['rows_per_second_from_outside']:,.0f} from outside; the goal is {recovering.GOAL:,}. "
        f"{shown(figures['cpu_microseconds_per_row'])} µs of processor time a row of {figures['row_bytes']:,.0f} bytes."
    )
    _write(figures, output)


@app.command()
def start(
    output: Output = None,
    broker: On = Broker.embedded,
    rounds: Annotated[int, typer.Option(help="Of a cold and a warm start, in turn.")] = 3,
) -> None:
    """Seconds to the first list, with compiled kernels and without, and what the idle worker holds."""
    figures = {**machine.described(), **starting.measure(broker.value, rounds, console)}
    table = Table("kernels", "answers, s", "partitions, s", "first list, s", "CPU s", "RSS, MiB", "anonymous, MiB")
    for kind in ("cold", "warm"):
        part = figures[kind]
        held = ({name: size / MEBIBYTE for name, size in part[memory].items()} for memory in ("rss", "anonymous"))
        steps = (shown(part[name]) for name in (*starting.STEPS, "cpu_seconds"))
        table.add_row(kind, *steps, *(shown(each, 0) for each in held))
    console.print(table)
    if figures["installed_bytes"] is not None:
        console.print(f"The packages that a worker needs: {figures['installed_bytes'] / MEBIBYTE:,.0f} MiB on disk")
    _write(figures, output)


@app.command()
def cores(
    output: Output = None,
    broker: On = Broker.embedded,
    users: Annotated[int, typer.Option(help="Events of a backlog, each of another user.")] = 40_000,
    rounds: Annotated[int, typer.Option(help="Of one worker and of two, in turn.")] = 3,
) -> None:
    """Lists per second of one worker and of two."""
    figures = {**machine.described(), **spreading.measure(broker.value, users, rounds, console)}
    table = Table("workers", "lists/s", "lists per core-second", "cores busy")
    for workers, part in figures["workers"].items():
        table.add_row(
            workers,
            shown(part["lists_per_second"], 0),
            shown(part["lists_per_core_second"], 0),
            shown(part["cores_busy"], 2),
        )
    table.add_row("ratio", f"{figures['scaling']:.2f}", f"{figures['scaling_per_core_second']:.2f}", "")
    console.print(table)
    if figures["shares_cores_with_the_broker"]:
        console.print("The broker shares the cores with the workers here.")
    _write(figures, output)


@app.command()
def scale(
    output: Output = None,
    users_most: Annotated[int, typer.Option(help="Powers of ten of users, up to this.")] = growing.USERS_MOST,
    items_most: Annotated[int, typer.Option(help="The same of items; a million takes 3 GiB of memory.")] = 1_000_000,
    lists: Annotated[int, typer.Option(help="Of a round, each of another user.")] = 8000,
    rounds: Annotated[int, typer.Option(help="At each size, in turn.")] = 5,
) -> None:
    """What a list costs at ten thousand and a million users, a thousand and a million items, and long histories."""
    figures = {**machine.described(), **growing.measure(users_most, lists, rounds, items_most, console)}
    for title in ("users", "items", "events"):
        table = Table(title, "CPU µs per list", "of these reading rows", "bytes of a row", "on disk")
        for size, part in figures[title]["sizes"].items():
            table.add_row(
                f"{int(size):,}",
                shown(part["microseconds_per_list"]),
                shown(part["microseconds_reading"]),
                f"{part['row_bytes']:,.0f}",
                f"{part['disk_bytes_per_user']:,.0f}",
            )
        table.add_row("greatest to least", f"{figures[title]['ratio']:.2f}", "", "", "")
        console.print(table)
    _write(figures, output)


def _write(figures: dict[str, Any], output: Path | None) -> None:
    if output is not None:
        output.write_text(json.dumps(figures, indent=2) + "\n")


def _mebibytes(held: dict[str, int]) -> str:
    return "RSS in MiB " + ", ".join(f"{name} {held[name] / MEBIBYTE:,.0f}" for name in held)


if __name__ == "__main__":
    app()
