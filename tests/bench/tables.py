"""What the benchmarks' figures look like in a terminal."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from rich.table import Table

from tests.bench import flood as flooding
from tests.bench import recovery as recovering
from tests.bench import start as starting
from tests.bench.spread import shown

MEBIBYTE = 1024 * 1024


def throughput(figures: dict[str, Any]) -> Iterator[Table | str]:
    table = Table("", "lists/s", "lists per core-second", "CPU s per 1,000 lists")
    for name, per_second, per_core in (
        ("worker", "lists_per_second_distinct", "lists_per_core_second"),
        ("idiomatic agent", "idiomatic_per_second", "idiomatic_per_core_second"),
        ("raw aiokafka", "raw_per_second", "raw_per_core_second"),
    ):
        seconds = 1000 / figures[per_core]
        table.add_row(name, f"{figures[per_second]:,.0f}", shown(figures["spread"][per_core], 0), f"{seconds:.3f}")
    table.add_row("worker to agent", f"{figures['ratio']:.1f}", f"{figures['ratio_per_core_second']:.1f}", "")
    yield table
    played = figures["replay"]
    yield (
        f"{played['events']:,} events of {played['data']}: {played['events_per_second']:,.0f} events a second, "
        f"{shown(figures['spread']['replay_events_per_core_second'], 0)} per core-second; {played['lists']:,.0f} lists"
    )
    steps = ", ".join(f"{stage} {spent:.1f}" for stage, spent in figures["microseconds_per_list"].items())
    yield f"The worker's steps, µs per list on its clock: {steps}"


def latency(figures: dict[str, Any]) -> Iterator[Table | str]:
    table = Table("load", "events/s", "p50 ms", "p99", "p99.9", "most", "cores")
    delays = ("p50_ms", "p99_ms", "p99_9_ms", "most_ms")
    for share, part in figures["shares"].items():
        for name, each in ((f"{float(share):.0%}", part), ("     the echo", part["echo"])):
            columns = (f"{each[delay]:,.1f}" for delay in delays)
            table.add_row(name, f"{each['per_second']:,.0f}", *columns, f"{each['cores']:.2f}")
    for name in ("swap", "rebalance"):
        for when in ("apart", "during"):
            columns = (f"{figures[name][when][delay]:,.1f}" for delay in delays)
            table.add_row(f"50%, {name}, {when}", "", *columns, "")
    yield table


def pieces(figures: dict[str, Any]) -> Iterator[Table | str]:
    for title in ("loop", "library"):
        table = Table(title, "CPU µs per list", "share")
        for name, spent in figures[title].items():
            table.add_row(name, f"{spent:.2f}", f"{spent / figures['loop']['in all']:.0%}")
        yield table
    yield f"{figures['encoder']}: {figures['row_bytes']:,.0f} bytes a row, {figures['candidates_ranked']:,.0f} ranked"


def overhead(figures: dict[str, Any]) -> Iterator[Table | str]:
    table = Table("being watched costs", "of throughput")
    loop = figures["loop"]
    table.add_row("in the loop", f"{loop['median']:.2%} ({loop['least']:.2%} – {loop['most']:.2%})")
    table.add_row("of that, judging and counting, timed in place", f"{sum(figures['timed'].values()):.2%}")
    table.add_row("beside it", f"{figures['beside_share']:.2%}")
    table.add_row("in all", f"{figures['in_all']:.2%}")
    yield table
    spent = ", ".join(f"a {name} {1000 * seconds:.2f} ms" for name, seconds in figures["beside"].items())
    yield f"CPU µs per list: {figures['watched']:.2f} with, {figures['unwatched']:.2f} without; {spent}"


def intents(figures: dict[str, Any]) -> Iterator[Table | str]:
    names = ("encoder hr@5", "encoder ndcg@5", "encoder hr@20", "encoder ndcg@20", "intents hr@20", "intents ndcg@20")
    for part in ("validation", "test"):
        table = Table(part, *names, "intents in use", "likeness", "seconds")
        for each in figures["variants"]:
            found = each[part]
            columns = [f"{found[name]:.4f}" for name in names]
            use = (f"{found['intents in use']:.0f}", f"{found['likeness']:.2f}", f"{each['seconds']:.0f}")
            table.add_row(each["variant"], *columns, *use)
        yield table


def soak(figures: dict[str, Any]) -> Iterator[Table | str]:
    table = Table("the worker's", "second tenth", "third tenth", "last tenth", "last to third")
    for name in ("rss", "anonymous", "state_bytes", "descriptors", "table_files"):
        held, unit = figures[name], 1 if name in ("descriptors", "table_files") else MEBIBYTE
        table.add_row(
            name if unit == 1 else f"{name.removesuffix('_bytes')}, MiB",
            *(f"{held[when] / unit:,.1f}" for when in ("second_tenth", "third_tenth", "last_tenth")),
            f"{held['ratio']:.3f}",
        )
    yield table
    yield (
        f"{figures['verdict']}: {figures['sent']:,} events sent, {figures['applied']:,} applied, {figures['lists']:,} "
        f"lists, {figures['swaps']} swaps; {figures['rows_different']} of {figures['rows_expected']:,} rows differ "
        f"from the plain recomputation; load average {shown(figures['load'])}"
    )


def flood(figures: dict[str, Any]) -> Iterator[Table | str]:
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
    yield table
    one, new = figures["one_user"], figures["new_users"]
    yield (
        f"One user: {one['events']:,} events in {one['seconds']:.1f} s, {one['events_per_second']:,.0f} a second; a "
        f"row of {one['row_bytes']:,} bytes; {one['rows_different']} rows differ from the plain recomputation; "
        f"{_mebibytes(one['rss'])}"
    )
    yield (
        f"New users: {new['users']:,} in a minute, {new['behind_at_the_end']:,} behind at its end; p50 "
        f"{new['p50_ms']:,.1f} ms, p99 {new['p99_ms']:,.1f} ms; {new['state_bytes_per_user']:,.0f} bytes of state a "
        f"user; {_mebibytes(new['rss'])}"
    )


def burst(figures: dict[str, Any]) -> Iterator[Table | str]:
    table = Table("the worker", "serves meanwhile", "was away")
    for title, name, digits in (
        ("seconds to produce", "seconds_to_produce", 1),
        ("seconds to catch up", "seconds", 1),
        ("events per second", "events_per_second", 0),
        ("CPU seconds", "cpu_seconds", 1),
        ("lists", "lists", 0),
        ("events a list", "events_per_list", 1),
        ("rebalances", "rebalances", 0),
    ):
        table.add_row(title, *(f"{figures[when][name]:,.{digits}f}" for when in ("serving", "away")))
    for when in ("before", "peak"):
        held = (figures[name]["rss"][when] / MEBIBYTE for name in ("serving", "away"))
        table.add_row(f"RSS in MiB, {when}", *(f"{each:,.0f}" for each in held))
    yield table
    yield (
        f"{figures['rows']:,} rows of {figures['users']:,} users, {figures['rows_miscounted']} of which do not count "
        f"{figures['events_per_user']} events; {figures['applied']:,} of {figures['sent']:,} events applied"
    )


def recovery(figures: dict[str, Any]) -> Iterator[Table | str]:
    table = Table(
        "a worker that was", "rows that came back", "partitions dealt, s", "first list, s", "every partition's"
    )
    for case, part in figures["seconds"].items():
        table.add_row(case, shown(part["rows"], 0), *(shown(part[step]) for step in ("dealt", "first", "all")))
    yield table
    yield (
        f"Rows per second: {shown(figures['rows_per_second'], 0)} on the worker's clock, "
        f"{figures['rows_per_second_from_outside']:,.0f} from outside; the goal is {recovering.GOAL:,}. "
        f"{shown(figures['cpu_microseconds_per_row'])} µs of processor time a row of {figures['row_bytes']:,.0f} bytes."
    )


def start(figures: dict[str, Any]) -> Iterator[Table | str]:
    table = Table("kernels", "answers, s", "partitions, s", "first list, s", "CPU s", "RSS, MiB", "anonymous, MiB")
    for kind in ("cold", "warm"):
        part = figures[kind]
        held = ({name: size / MEBIBYTE for name, size in part[memory].items()} for memory in ("rss", "anonymous"))
        steps = (shown(part[name]) for name in (*starting.STEPS, "cpu_seconds"))
        table.add_row(kind, *steps, *(shown(each, 0) for each in held))
    yield table
    if figures["installed_bytes"] is None:
        yield "What a worker needs could not be installed from here"
    else:
        size = figures["installed_bytes"] / MEBIBYTE
        yield f"What a worker needs, installed into an environment of its own: {size:,.0f} MiB (no image is built here)"


def server(figures: dict[str, Any]) -> Iterator[Table | str]:
    """Requests of each case."""
    table = Table("request", "per core-second", "per second")
    for case, per_core in figures["per_core_second"].items():
        table.add_row(case, shown(per_core), shown(figures["per_second"][case]))
    yield table
    yield f"{figures['users']:,} lists of {figures['list_bytes']:,} bytes; the server holds {figures['rss'] >> 20} MiB"


def cores(figures: dict[str, Any]) -> Iterator[Table | str]:
    table = Table("workers", "lists/s", "lists per core-second", "cores busy")
    for workers, part in figures["workers"].items():
        table.add_row(
            workers,
            shown(part["lists_per_second"], 0),
            shown(part["lists_per_core_second"], 0),
            shown(part["cores_busy"], 2),
        )
    table.add_row("ratio", f"{figures['scaling']:.2f}", f"{figures['scaling_per_core_second']:.2f}", "")
    yield table
    if figures["shares_cores_with_the_broker"]:
        yield "The broker shares the cores with the workers here."


def scale(figures: dict[str, Any]) -> Iterator[Table | str]:
    for title in ("users", "items", "events"):
        table = Table(title, "CPU µs per list", "reading", "wall", "bytes of a row", "a user on disk", "in memory")
        for size, part in figures[title]["sizes"].items():
            table.add_row(
                f"{int(size):,}",
                shown(part["microseconds_per_list"]),
                *(f"{part[name]['median']:,.1f}" for name in ("microseconds_reading", "wall_microseconds_per_list")),
                *(f"{part[name]:,.0f}" for name in ("row_bytes", "disk_bytes_per_user", "memory_bytes_per_user")),
            )
        table.add_row("ratio", f"{figures[title]['ratio']:.2f}", "", f"{figures[title]['wall_ratio']:.2f}")
        yield table


def _mebibytes(held: dict[str, int]) -> str:
    return "RSS in MiB " + ", ".join(f"{name} {held[name] / MEBIBYTE:,.0f}" for name in held)
