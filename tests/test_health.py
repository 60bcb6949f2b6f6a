"""When a process is said to be alive and ready, by a clock that is wound by hand."""

from __future__ import annotations

from streams.health import PAUSE_SECONDS, Pulse, Standing, Watchdog
from streams.metrics import WorkerMetrics
from streams.phases import Phases


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Watched:
    """A watchdog that looks every second."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.dog = Watchdog(60, self.clock)

    def looks(
        self, seconds: int, *, waiting: str = "3 records wait", moves: bool = False, excused: bool = False
    ) -> str:
        for _ in range(seconds):
            self.clock.now += 1
            self.dog.saw(waiting, self.clock.now if moves else "the same", is_excused=excused)
        return self.dog.not_alive()


def test_work_that_waits_and_does_not_move_is_a_reason_to_start_again() -> None:
    watched = Watched()

    assert watched.looks(60) == ""
    assert watched.looks(1) == "3 records wait, and nothing has moved for 60 s"


def test_who_has_nothing_to_do_is_alive() -> None:
    watched = Watched()

    assert watched.looks(600, waiting="") == ""
    assert watched.looks(59) == "", "the time counts from when there was something"


def test_a_long_recovery_that_gets_on_is_alive_and_one_that_stands_is_not() -> None:
    watched = Watched()

    assert watched.looks(3600, waiting="partitions are being recovered", moves=True) == ""
    assert watched.looks(61, waiting="partitions are being recovered") != ""


def test_a_broker_that_is_away_is_no_reason_and_its_return_gives_the_whole_time_again() -> None:
    watched = Watched()
    watched.looks(50)

    assert watched.looks(3600, excused=True) == ""
    assert watched.dog.stands(3600), "it stands all the same"
    assert watched.looks(59) == ""
    assert watched.looks(2) != ""


def test_a_process_that_was_stopped_for_a_while_gets_its_time_again() -> None:
    watched = Watched()
    watched.looks(5)

    watched.clock.now += PAUSE_SECONDS + 100

    assert watched.looks(1) == ""


def test_a_pulse_that_stops_is_told_by_whoever_asks() -> None:
    clock = Clock()
    pulse = Pulse(30, clock)

    clock.now += 29
    assert pulse.not_alive() == ""
    clock.now += 1
    assert pulse.not_alive() == "the event loop has not run for 30 s"
    pulse.beat()
    assert pulse.not_alive() == ""


def test_who_stands_still_is_not_ready_either() -> None:
    clock = Clock()
    standing = Standing(30, clock)
    assert standing.not_ready() == "the process is starting"

    standing.missing = ""
    assert standing.not_ready() == ""
    clock.now += 60
    assert standing.not_ready() == standing.not_alive() != ""


class Phased:
    """Phases by a clock, and what they are counted as."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.metrics = WorkerMetrics(())
        self.phases = Phases(self.metrics, self.clock)

    def counted(self, name: str) -> tuple[float, float]:
        """How many there were, and their seconds."""
        value = self.metrics.registry.get_sample_value
        return value(f"{name}_count") or 0.0, value(f"{name}_sum") or 0.0

    def value(self, name: str) -> float:
        return self.metrics.registry.get_sample_value(name) or 0.0


def test_a_rebalance_lasts_to_the_assignment_and_a_recovery_until_records_flow() -> None:
    world = Phased()

    world.phases.asked()
    world.clock.now += 3
    world.phases.assigned(4)
    assert (world.value("efficientrec_recovering"), world.value("efficientrec_partitions_assigned")) == (1, 4)
    world.clock.now += 20
    world.phases.served()

    assert world.counted("efficientrec_rebalance_duration_seconds") == (1, 3)
    assert world.counted("efficientrec_recovery_duration_seconds") == (1, 20)
    assert world.value("efficientrec_recovering") == 0


def test_a_recovery_that_a_rebalance_cuts_short_is_one() -> None:
    world = Phased()
    world.phases.asked()
    world.phases.assigned(4)
    world.clock.now += 10
    world.phases.asked()
    world.phases.asked()  # the consumer says so for its own part, and the app for its
    world.clock.now += 2
    world.phases.assigned(2)
    world.clock.now += 5
    world.phases.served()

    assert world.counted("efficientrec_rebalance_duration_seconds") == (2, 2)
    assert world.counted("efficientrec_recovery_duration_seconds") == (1, 17)
    assert world.value("efficientrec_rebalances_total") == 2
