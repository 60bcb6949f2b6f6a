"""`python -m tests.bench NAME`: figures with the machine, the versions and the command that made them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console, RenderableType

from streams.demo import SHIPPED
from tests.bench import (
    burst,
    cores,
    flame,
    flood,
    guard,
    intents,
    latency,
    machine,
    overhead,
    pieces,
    plots,
    recovery,
    scale,
    serving,
    soak,
    start,
    tables,
    throughput,
)

app = typer.Typer(no_args_is_help=True, help="Measure ratios in one run on one machine.")
console = Console()


class Broker(StrEnum):
    """Which broker carries the records."""

    embedded = "embedded"
    kafka = "kafka"


Output = Annotated[Path | None, typer.Option("--json", help="Write the figures to this file.")]
On = Annotated[Broker, typer.Option("--broker", help="kafka needs KAFKA_HOME.")]


@app.command("intents")
def _intents(
    output: Output = None,
    data: Annotated[Path, typer.Option(help="Folder of the data set.")] = SHIPPED,
    variants: Annotated[list[str] | None, typer.Option("--variant", help="Only these; may be given again.")] = None,
    seed: Annotated[int, typer.Option()] = 0,
    epochs: Annotated[int, typer.Option(help="At most.")] = 60,
) -> None:
    """Ways to learn the intents of elcrec beside each other, leave one out."""
    names = variants or list(intents.VARIANTS)
    _report(output, tables.intents, lambda: {"variants": list(intents.measure(data, names, seed, epochs, _say))})


def _say(step: str, share: float) -> None:
    console.print(f"{step} {share:.0%}")


@app.command("throughput")
def _throughput(
    output: Output = None,
    broker: On = Broker.embedded,
    users: Annotated[int, typer.Option(help="Events for the worker, each of another user.")] = 40_000,
    idiomatic_users: Annotated[int, typer.Option(help="The same for the idiomatic agent, which is slower.")] = 8_000,
    rounds: Annotated[int, typer.Option(help="Rounds of each, in turn.")] = 3,
    data: Annotated[Path, typer.Option(help="Folder of the data set that is played.")] = SHIPPED,
    events: Annotated[int, typer.Option(help="Of it, from its beginning.")] = 100_000,
) -> None:
    """A saturated worker beside an idiomatic Faust agent and raw aiokafka, and a data set played as fast as it goes."""
    _report(
        output,
        tables.throughput,
        lambda: throughput.measure(broker.value, users, idiomatic_users, rounds, data, events),
    )


@app.command("latency")
def _latency(
    output: Output = None,
    broker: On = Broker.embedded,
    rounds: Annotated[int, typer.Option(help="At each share of saturation, in turn.")] = 3,
    seconds: Annotated[float, typer.Option(help="Of each round.")] = 15.0,
) -> None:
    """From an event to its list, under open-loop load, through a model swap and through a rebalance."""
    _report(output, tables.latency, lambda: latency.measure(broker.value, rounds, seconds, console))


@app.command("pieces")
def _pieces(
    output: Output = None,
    users: Annotated[int, typer.Option(help="With full rows, on disk.")] = 20_000,
    run_events: Annotated[int, typer.Option(help="Events of a run, each of another user.")] = 4_000,
    rounds: Annotated[int, typer.Option(help="Of which the least counts.")] = 5,
    items: Annotated[int, typer.Option(help="Of the model.")] = 4_000,
    model: Annotated[str, typer.Option(help="Folder of a trained model, to be measured instead.")] = "",
) -> None:
    """What each piece of a refreshed list costs, in one process with a broker that answers at once."""
    _report(output, tables.pieces, lambda: pieces.measure(users, run_events, rounds, items, model))


@app.command("metrics-overhead")
def _overhead(
    output: Output = None,
    users: Annotated[int, typer.Option(help="With full rows, on disk.")] = 20_000,
    run_events: Annotated[int, typer.Option(help="Events of a run, each of another user.")] = 2_000,
    pairs: Annotated[int, typer.Option(help="Runs with and without, in turn.")] = 100,
    items: Annotated[int, typer.Option(help="Of the model.")] = 4_000,
) -> None:
    """What it costs a worker to be watched: its loop with all its metrics beside one that counts nothing."""
    _report(output, tables.overhead, lambda: overhead.measure(users, run_events, pairs, items))


@app.command("soak")
def _soak(
    output: Output = None,
    broker: On = Broker.embedded,
    minutes: Annotated[float, typer.Option(help="How long the stream goes on.")] = 30.0,
    events_per_second: Annotated[float, typer.Option(help="Of the stream.")] = 300.0,
    users: Annotated[int, typer.Option(help="They come again and again.")] = 20_000,
    swap_seconds: Annotated[float, typer.Option(help="Pause between two models.")] = 60.0,
    sample_seconds: Annotated[float, typer.Option(help="Pause between two looks at the worker.")] = 10.0,
) -> None:
    """A worker under a steady stream, with swap after swap: does it stay as small as it was?"""
    _report(
        output,
        tables.soak,
        lambda: soak.soak(broker.value, minutes, events_per_second, users, swap_seconds, sample_seconds, console),
    )


@app.command("flood")
def _flood(
    output: Output = None,
    broker: On = Broker.embedded,
    rounds: Annotated[int, typer.Option(help="Of the others alone and beside the hot user, in turn.")] = 4,
    seconds: Annotated[float, typer.Option(help="Of each round.")] = 20.0,
    events: Annotated[
        int, typer.Option(help="Of the one user who sends as fast as the broker takes them.")
    ] = 1_000_000,
) -> None:
    """A hot user, a million events of one user, a hundred thousand new users: what becomes of everybody else?"""
    _report(output, tables.flood, lambda: flood.flood(broker.value, rounds, seconds, events, console))


@app.command("burst")
def _burst(
    output: Output = None,
    broker: On = Broker.embedded,
    users: Annotated[int, typer.Option(help=f"Of {burst.EVENTS_PER_USER} events each in either burst.")] = 100_000,
) -> None:
    """A million events at once, while the worker serves and while it is away: memory, heartbeats, time to catch up."""
    _report(output, tables.burst, lambda: burst.measure(broker.value, users, console))


@app.command("recovery")
def _recovery(
    output: Output = None,
    broker: On = Broker.embedded,
    rows: Annotated[int, typer.Option(help="Full rows in the changelog, each of another user.", min=10_000)] = 200_000,
    rounds: Annotated[int, typer.Option(help="Of each case, in turn.")] = 3,
    session: Annotated[float, typer.Option(help="Session timeout of the group, in seconds.")] = 10.0,
) -> None:
    """Rows restored per second, and how long users wait when their worker is killed."""
    _report(output, tables.recovery, lambda: recovery.measure(broker.value, rows, rounds, session, console))


@app.command("start")
def _start(
    output: Output = None,
    broker: On = Broker.embedded,
    rounds: Annotated[int, typer.Option(help="Of a cold and a warm start, in turn.")] = 3,
) -> None:
    """Seconds to the first list, with compiled kernels and without, what the idle worker holds, and what it needs."""
    _report(output, tables.start, lambda: start.measure(broker.value, rounds, console))


@app.command("cores")
def _cores(
    output: Output = None,
    broker: On = Broker.embedded,
    users: Annotated[int, typer.Option(help="Events of a backlog, each of another user.")] = 40_000,
    rounds: Annotated[int, typer.Option(help="Of one worker and of two, in turn.")] = 3,
) -> None:
    """Lists per second of one worker and of two."""
    _report(output, tables.cores, lambda: cores.measure(broker.value, users, rounds, console))


@app.command("server")
def _server(
    output: Output = None,
    broker: On = Broker.embedded,
    users: Annotated[int, typer.Option(help="Each with a list.")] = 2_000,
    requests: Annotated[int, typer.Option(help="For lists, of a round; a half for single events.")] = 4_000,
    rounds: Annotated[int, typer.Option(help="Of each case, in turn.")] = 3,
) -> None:
    """Requests that the server answers with one core."""
    _report(output, tables.server, lambda: serving.measure(broker.value, users, requests, rounds))


@app.command("scale")
def _scale(
    output: Output = None,
    users_most: Annotated[int, typer.Option(help="Powers of ten of users, up to this.")] = scale.USERS_MOST,
    items_most: Annotated[int, typer.Option(help="The same of items; a million takes 3 GiB of memory.")] = 1_000_000,
    lists: Annotated[int, typer.Option(help="Of a round, each of another user.")] = 8000,
    rounds: Annotated[int, typer.Option(help="At each size, in turn.")] = 5,
) -> None:
    """What a list costs at ten thousand to ten million users, a thousand to a million items, and long histories."""
    _report(output, tables.scale, lambda: scale.measure(users_most, lists, rounds, items_most, console))


@app.command("guard")
def _guard(
    store: Annotated[bool, typer.Option("--store", help="Keep the ratios of several runs as those to hold.")] = False,
) -> None:
    """Whether anything has become slower than the stored ratios say, beyond their noise: if so, the status is 1."""
    if store:
        guard.store(machine.described(), console)
    elif not guard.holds(console):
        raise typer.Exit(1)


@app.command("plots")
def _plots(
    source: Annotated[Path, typer.Option("--from", help="Folder with NAME.json of some benchmarks.")],
    to: Annotated[Path, typer.Option(help="Folder for the PNG files.")] = Path("docs/img"),
) -> None:
    """A picture of each benchmark's figures."""
    plots.draw(source, to, console)


@app.command("flame")
def _flame(
    to: Annotated[Path, typer.Option(help="The SVG file.")],
    broker: On = Broker.embedded,
    seconds: Annotated[float, typer.Option(help="Of recording.")] = 10.0,
) -> None:
    """Where a saturated worker spends its time, as a flame graph."""
    flame.record(broker.value, seconds, to, console)


def _report(
    output: Path | None,
    shown: Callable[[dict[str, Any]], Iterable[RenderableType]],
    measured: Callable[[], dict[str, Any]],
) -> None:
    figures = {**machine.described(), **measured()}
    for each in shown(figures):
        console.print(each)
    if output is not None:
        output.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    app()
