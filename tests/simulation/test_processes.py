"""A few seeds of the simulation with real processes; `python -m tests.simulation` plays hundreds."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.simulation.lanes import Lane
from tests.simulation.processes import ON_EMBEDDED, ON_KAFKA
from tests.simulation.schedule import schedule


def test_a_schedule_follows_from_its_seed_alone() -> None:
    assert schedule(7, ON_KAFKA) == schedule(7, ON_KAFKA)
    assert schedule(7, ON_KAFKA) != schedule(8, ON_KAFKA)


def test_a_hundred_seeds_deal_every_fault() -> None:
    for faults in (ON_EMBEDDED, ON_KAFKA):
        assert {each.hit.fault for seed in range(100) for each in schedule(seed, faults).rounds} == set(faults)


def expect_right(name: str, seed: int, folder: Path) -> None:
    with Lane(name, folder / "lane") as lane:
        outcome = lane.play(seed, folder / "seeds")

    assert not outcome.problems, "\n".join([*outcome.problems, f"again: {outcome.replay}; logs: {outcome.folder}"])
    assert outcome.struck
    assert outcome.compared["rows in the changelog"]
    assert outcome.compared["rows on disk"] == outcome.compared["rows in the changelog"]


def test_a_seed_on_the_embedded_broker_ends_with_every_row_right(tmp_path: Path) -> None:
    expect_right("embedded", 8, tmp_path)


@pytest.mark.full
@pytest.mark.parametrize("seed", [70, 84])
def test_a_seed_on_apache_kafka_ends_with_every_row_right(seed: int, tmp_path: Path) -> None:
    expect_right("kafka", seed, tmp_path)
