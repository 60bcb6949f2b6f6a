from __future__ import annotations

import json
from pathlib import Path

import pytest
from rich.console import Console

from streams.broker import EmbeddedBroker
from tests.bench import guard, plots, tables
from tests.bench.flame import without_paths
from tests.bench.latency import PERCENTILES, SHARES, echoing
from tests.bench.ratios import RATIOS
from tests.bench.scale import ROW_BYTES, fitting
from tests.bench.watched import world_of

FIRST, SECOND, THIRD = {"a": 10.0, "b": 2.0}, {"a": 10.2, "b": 2.8}, {"a": 9.0, "b": 2.0}
"""Three runs of a suite with two ratios: a hardly changes, b is noisy."""


def test_the_guard_names_what_is_slower_than_its_noise_and_nothing_else() -> None:
    stored = guard.held([FIRST, SECOND, THIRD])

    quiet, noisy = guard.compared(stored, {"a": 11.4, "b": 3.5})
    slow, fast = guard.compared(stored, {"a": 11.7, "b": 1.0})

    assert (quiet.is_beyond, noisy.is_beyond) == (False, False)
    assert (slow.is_beyond, fast.is_beyond) == (True, False)
    assert (slow.name, round(slow.slower, 2)) == ("a", 0.17)
    assert guard.compared(stored, {"a": 10.0, "b": 3.7})[1].is_beyond


def test_the_margin_is_twice_the_noise_and_no_less_than_the_least() -> None:
    stored = guard.held([FIRST, SECOND, THIRD])

    assert stored["a"] == {"median": 10.0, "least": 9.0, "most": 10.2, "margin": guard.MARGIN_LEAST}
    assert stored["b"]["margin"] == pytest.approx(0.8)


def test_the_guard_ends_with_words_when_other_ratios_are_stored_than_measured() -> None:
    with pytest.raises(SystemExit, match="guard --store"):
        guard.compared(guard.held([FIRST]), {"a": 10.0})


def test_what_is_stored_can_be_compared_with_what_is_measured() -> None:
    stored = json.loads(guard.FILE.read_text())

    assert stored["ratios"].keys() == RATIOS.keys()
    assert {"commit", "cpu", "cores", "versions", "command"} <= stored.keys()


def test_users_that_do_not_fit_on_the_disk_are_left_out() -> None:
    assert fitting([10, 100, 1000], 1110 * ROW_BYTES) == [10, 100, 1000]
    assert fitting([10, 100, 1000], 1110 * ROW_BYTES - 1) == [10, 100]
    with pytest.raises(SystemExit, match="TMPDIR"):
        fitting([10], 9 * ROW_BYTES)


def test_a_flame_graph_shows_no_folder_of_this_machine() -> None:
    picture = (
        "<title>fold (/home/somebody/project/streams/worker.py:1)</title> /home/somebody/project/lib/numpy/core.py"
    )

    shown = without_paths(picture, [Path("/home/somebody/project"), Path("/home/somebody/project/lib")])

    assert shown == "<title>fold (streams/worker.py:1)</title> numpy/core.py"


def test_a_picture_is_made_of_each_file_that_is_there_and_the_others_are_named(tmp_path: Path) -> None:
    figures = {
        **{"cpu": "a processor", "cores": 2, "python": "3.11", "commit": "abc", "broker": "embedded"},
        "workers": {
            each: {
                "lists_per_second": {"median": 10.0, "least": 9.0, "most": 12.0},
                "lists_per_core_second": {"median": 10.0, "least": 9.0, "most": 12.0},
            }
            for each in ("1", "2")
        },
    }
    (tmp_path / "cores.json").write_text(json.dumps(figures))
    console = Console(record=True, width=1000)

    plots.draw(tmp_path, tmp_path / "img", console)

    assert [file.name for file in (tmp_path / "img").iterdir()] == ["cores.png"]
    assert (tmp_path / "img" / "cores.png").read_bytes().startswith(b"\x89PNG")
    told = console.export_text()
    assert all(f"{name}.json is missing" in told for name in plots.PICTURES if name != "cores")


def test_the_echo_writes_a_row_and_a_list_under_the_key_of_every_event(
    embedded_broker: EmbeddedBroker, tmp_path: Path
) -> None:
    world = world_of("embedded", embedded_broker.address, tmp_path / "echo")
    keys = [f"user-{number}".encode() for number in range(1000)]

    with echoing(world):
        world.produce(world.topics.interactions, [(key, b"whatever") for key in keys])
        world.wait_until(lambda: len(world.read(world.topics.lists)) >= len(keys), "there is a list for each event")

    for topic in (world.topics.changelog, world.topics.lists):
        records = world.read(topic)
        assert sorted(record.key or b"" for record in records) == sorted(keys)
        assert {len(record.value or b"") > 100 for record in records} == {True}


def test_the_worker_and_the_echo_stand_side_by_side() -> None:
    delays = dict.fromkeys(PERCENTILES, 25.0)
    figures = {
        "saturated_per_second": 1000.0,
        "shares": {
            str(share): {
                **delays,
                **{"per_second": 1000 * share, "cores": 0.5},
                "echo": {**dict.fromkeys(PERCENTILES, 10.0), "per_second": 1000 * share, "cores": 0.1},
            }
            for share in SHARES
        },
        "swap": {"apart": delays, "during": delays},
        "rebalance": {"apart": delays, "during": delays},
    }
    console = Console(record=True, width=80)

    console.print(*tables.latency(figures))
    (axes,) = plots.latency(figures).axes

    told = console.export_text()
    assert told.count("the echo") == len(SHARES)
    assert told.count(" 10.0 ") == len(SHARES) * len(PERCENTILES)
    assert [line.get_label() for line in axes.lines if line.get_linestyle() == "--"] == [
        "p99.9, echo",
        "p99, echo",
        "p50, echo",
    ]
