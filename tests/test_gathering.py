"""What several processes show as one: real servers on loopback, one for each process."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from streams.broker import free_port
from streams.exposition import exposed
from streams.gathering import Processes
from streams.health import Pulse, Standing
from streams.secret import Secret

TOKEN = Secret("sesame")


class Child:
    """One worker."""

    def __init__(self, number: int, events: int) -> None:
        self.number = number
        self.lives = 1
        self.port: int | None = free_port()
        self.health = Standing(60)
        self.health.missing = ""
        self.registry = CollectorRegistry()
        Counter("events", "Events.", ["kind"], registry=self.registry).labels("like").inc(events)
        Gauge("lag", "Records.", registry=self.registry).set(number)
        Histogram("delay_seconds", "Delay.", buckets=(1, 2), registry=self.registry).observe(1.5)

    @contextmanager
    def running(self) -> Iterator[None]:
        with exposed(self.registry, self.health, "127.0.0.1", self.port or 0, "PORT", TOKEN):
            yield


@dataclass
class Fleet:
    children: list[Child]
    pulse: Pulse

    def __post_init__(self) -> None:
        self.together = Processes(self.children, self.pulse, TOKEN)

    def shown(self) -> dict[tuple[str, str], float]:
        """(series, process) → value, as Prometheus reads it."""
        text = generate_latest(self.together.registry()).decode()
        return {
            (sample.name, sample.labels["process"]): sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
        }


@contextmanager
def fleet() -> Iterator[Fleet]:
    children = [Child(0, 5), Child(1, 7)]
    with ExitStack() as stack:
        for child in children:
            stack.enter_context(child.running())
        yield Fleet(children, Pulse(60))


def test_every_series_of_every_process_is_there_once_under_its_number() -> None:
    with fleet() as world:
        shown = world.shown()
        text = generate_latest(world.together.registry()).decode()

    assert (shown["events_total", "0"], shown["events_total", "1"]) == (5, 7)
    assert (shown["lag", "0"], shown["lag", "1"]) == (0, 1)
    assert shown["delay_seconds_sum", "1"] == 1.5
    assert 'delay_seconds_bucket{le="2.0",process="0"} 1.0' in text
    assert shown["efficientrec_process_up", "0"] == shown["efficientrec_process_up", "1"] == 1
    kinds = [line for line in text.splitlines() if line.startswith("# TYPE")]
    assert len(kinds) == len(set(kinds)) == 5


def test_a_process_that_died_shows_nothing_and_what_is_left_stays_as_it_is() -> None:
    with fleet() as world:
        before = world.shown()
        world.children[1].port = None
        world.children[1].lives = 2

        shown = world.shown()

        assert {process for _, process in shown} == {"0", "1"}
        assert {name for name, process in shown if process == "1"} == {
            "efficientrec_process_up",
            "efficientrec_process_starts_total",
        }
        assert (shown["efficientrec_process_up", "1"], shown["efficientrec_process_starts_total", "1"]) == (0, 2)
        assert all(value == before[series] for series, value in shown.items() if series[1] == "0")


def test_the_whole_is_well_when_all_processes_are() -> None:
    with fleet() as world:
        together, (first, second) = world.together, world.children
        assert (together.not_alive(), together.not_ready()) == ("", "")

        second.health.missing = "it is recovering"
        assert (together.not_alive(), together.not_ready()) == ("", "worker 1: it is recovering")
        first.port, second.health.missing = free_port(), ""  # nobody listens there yet
        assert (together.not_alive(), together.not_ready()) == ("", "worker 0: it is starting")
        first.port = None
        assert (together.not_alive(), together.not_ready()) == ("", "worker 0: it is not running")


def test_a_process_that_hangs_is_a_reason_to_start_all_again() -> None:
    clock = [0.0]
    with fleet() as world:
        world.children[1].health = stalled = Standing(30, lambda: clock[0])
    with ExitStack() as stack:
        for child in world.children:
            stack.enter_context(child.running())
        assert world.together.not_alive() == ""
        clock[0] = 31.0

        assert world.together.not_alive() == f"worker 1: {stalled.not_alive()}" != "worker 1: "


def test_a_supervisor_that_hangs_is_told_too() -> None:
    clock = [0.0]
    together = Processes([], Pulse(30, lambda: clock[0]), TOKEN)

    clock[0] = 31.0

    assert together.not_alive() == together.not_ready() == "the event loop has not run for 31 s"
