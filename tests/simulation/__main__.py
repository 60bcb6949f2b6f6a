"""`python -m tests.simulation`: failures dealt from seeds, and what they came to."""

from __future__ import annotations

import json
import logging
import shlex
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields
from enum import StrEnum
from pathlib import Path
from queue import Empty, Queue
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from tests.bench import machine
from tests.simulation.outcome import Outcome

console = Console()


class BrokerName(StrEnum):
    """Which broker carries the records."""

    embedded = "embedded"
    kafka = "kafka"
    memory = "memory"


def main(
    seeds: Annotated[int, typer.Option(help="How many.")] = 100,
    first_seed: Annotated[int, typer.Option(help="The first of them.")] = 0,
    broker: Annotated[
        BrokerName, typer.Option(help="embedded, kafka: real processes; kafka needs KAFKA_HOME. memory: one process.")
    ] = BrokerName.embedded,
    lanes: Annotated[
        int, typer.Option(help="Seeds that are played at a time, each lane with a broker of its own.")
    ] = 2,
    output: Annotated[Path | None, typer.Option("--json", help="Write the outcomes to this file.")] = None,
) -> None:
    """Deal failures from seeds and compare what is left with the truth; exit status 1 if anything is wrong."""
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)  # that brokers fail is what happens here
    begun = time.monotonic()
    outcomes = []
    for outcome in _outcomes(range(first_seed, first_seed + seeds), broker, lanes):
        outcomes.append(outcome)
        _print_outcome(outcome)
    outcomes.sort(key=lambda each: each.seed)
    _print_totals(outcomes, time.monotonic() - begun)
    if output is not None:
        output.write_text(json.dumps(_figures(outcomes, broker, first_seed, time.monotonic() - begun), indent=2) + "\n")
    sys.exit(any(each.problems for each in outcomes))


def _outcomes(seeds: range, broker: BrokerName, lanes: int) -> Iterator[Outcome]:
    if broker is BrokerName.memory:
        from tests.simulation.memory import run

        yield from run(seeds)
        return
    from tests.kafka import kafka_home
    from tests.simulation.lanes import Lane

    folder = Path(tempfile.mkdtemp(prefix="simulation-"))
    console.print(f"logs of seeds that fail: {folder}", highlight=False, soft_wrap=True)
    waiting: Queue[int] = Queue()
    done: Queue[Outcome | None] = Queue()
    for seed in seeds:
        waiting.put(seed)

    def work(number: int) -> None:
        try:
            with Lane(broker.value, folder / f"lane-{number}") as lane:
                while True:
                    done.put(lane.play(waiting.get_nowait(), folder))
        except Empty:
            return
        finally:
            done.put(None)

    if broker is BrokerName.kafka:
        kafka_home()  # raises where it is missing
    with ThreadPoolExecutor(lanes) as pool:
        working = [pool.submit(work, number) for number in range(lanes)]
        left = lanes
        while left:
            outcome = done.get()
            if outcome is None:
                left -= 1
            else:
                yield outcome
        for each in working:
            each.result()


def _print_outcome(outcome: Outcome) -> None:
    faults = ", ".join(outcome.struck) + "".join(f", not reached: {name}" for name in outcome.missed)
    verdict = "[bold red]wrong[/]" if outcome.problems else "right"
    console.print(
        f"seed {outcome.seed} {verdict} in {outcome.seconds:.0f} s, {outcome.events} events: {faults}",
        highlight=False,
        soft_wrap=True,
    )
    for problem in outcome.problems:
        console.print(f"  {problem}", highlight=False, markup=False, soft_wrap=True)
    if outcome.problems:
        console.print(
            f"  again: {outcome.replay}   logs: {outcome.folder}", highlight=False, markup=False, soft_wrap=True
        )


def _totals(outcomes: Sequence[Outcome]) -> dict[str, int]:
    return {
        "seeds": len(outcomes),
        "seeds_wrong": sum(bool(each.problems) for each in outcomes),
        "events": sum(each.events for each in outcomes),
        "faults": sum(sum(each.struck.values()) for each in outcomes),
        "workers_ended_by_themselves": sum(each.ended for each in outcomes),
        "rows_lost": sum(each.lost for each in outcomes),
        "rows_doubled": sum(each.doubled for each in outcomes),
        "rows_different": sum(each.different for each in outcomes),
    }


def _tallies(outcomes: Sequence[Outcome]) -> tuple[Counter[str], Counter[str], Counter[str]]:
    struck, missed, compared = Counter[str](), Counter[str](), Counter[str]()
    for each in outcomes:
        struck += each.struck
        missed += each.missed
        compared += each.compared
    return struck, missed, compared


def _print_totals(outcomes: Sequence[Outcome], seconds: float) -> None:
    struck, missed, compared = _tallies(outcomes)
    faults = Table("fault", "struck", "not reached")
    for name in sorted(struck.keys() | missed.keys()):
        faults.add_row(name, f"{struck[name]:,}", f"{missed[name]:,}")
    checks = Table("compared", "")
    for name, number in sorted(compared.items()):
        checks.add_row(name, f"{number:,}")
    totals = Table("total", "")
    for name, number in _totals(outcomes).items():
        totals.add_row(name.replace("_", " "), f"{number:,}")
    totals.add_row("minutes", f"{seconds / 60:.1f}")
    for table in (faults, checks, totals):
        console.print(table)


def _figures(outcomes: Sequence[Outcome], broker: BrokerName, first_seed: int, seconds: float) -> dict[str, object]:
    struck, missed, compared = _tallies(outcomes)
    return {
        **machine.described(),
        "command": shlex.join(["python", "-m", "tests.simulation", *sys.argv[1:]]),
        "broker": broker.value,
        "first_seed": first_seed,
        "seconds": round(seconds, 1),
        "totals": _totals(outcomes),
        "struck": dict(sorted(struck.items())),
        "not_reached": dict(sorted(missed.items())),
        "compared": dict(sorted(compared.items())),
        "outcomes": [_plain(each) for each in outcomes],
    }


def _plain(outcome: Outcome) -> dict[str, object]:
    told = {each.name: getattr(outcome, each.name) for each in fields(Outcome)}
    return {name: dict(value) if isinstance(value, Counter) else value for name, value in told.items()}


if __name__ == "__main__":
    app = typer.Typer(pretty_exceptions_enable=False)
    app.command()(main)
    app()
