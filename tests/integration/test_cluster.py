"""Workers and brokers that fail on Apache Kafka: real processes, real signals, and a cluster that keeps copies."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.integration.harness import Worker, World
from tests.integration.play import chance, expect_exact_rows, expect_last_lists
from tests.kafka import NativeKafka, native_cluster, native_kafka
from tests.toy import toy_model

pytestmark = pytest.mark.full

USERS = 200
SESSION_SECONDS = 3.0


@contextmanager
def world_on(address: str, folder: Path, **settings: Any) -> Iterator[World]:
    """A world with the toy model whose workers are missed soon; it starts them itself."""
    world = World(
        address,
        folder,
        **{
            "run_events_max": 2,  # many small runs: a failure falls into one of them
            "session_timeout_seconds": SESSION_SECONDS,
            "heartbeat_interval_seconds": 0.5,
            "request_timeout_seconds": 5.0,
            **settings,
        },
    )
    try:
        world.create_topics()
        world.release(toy_model())
        yield world
    finally:
        world.close()


def serving(worker: Worker) -> int:
    """Partitions that this worker says it serves."""
    try:
        return int(worker.metrics().get("efficientrec_partitions_assigned", 0.0))
    except OSError:  # it has only just started
        return 0


def wait_until_served(world: World, workers: list[Worker]) -> None:
    """Until every partition is served and every worker has its share, for a worker that joins late unsettles all."""

    def is_served() -> bool:
        shares = [serving(worker) for worker in workers]
        return all(shares) and sum(shares) == world.settings.partitions

    world.wait_until(is_served, "all partitions are served, some by each worker")


def expect_nothing_lost_or_doubled(world: World) -> None:
    expect_exact_rows(world, world.rows())
    expect_last_lists(world)


def expect_alive(workers: list[Worker], lives: list[int]) -> None:
    """Each is the process that it was, and still runs."""
    for worker, life in zip(workers, lives, strict=True):
        assert worker.is_running(), f"a worker has ended with {worker.process.returncode}:\n{worker.output()[-8000:]}"
        assert worker.process.pid == life


def test_of_three_workers_one_is_killed_and_comes_back(apache_kafka: NativeKafka, tmp_path: Path) -> None:
    with world_on(apache_kafka.address, tmp_path, partitions=6) as world:
        workers = world.start("first", "second", "third")
        wait_until_served(world, workers)

        world.interact(*chance(1, 1500, USERS))
        workers[0].kill()
        left_behind = world.behind()
        world.interact(*chance(2, 500, USERS))
        world.wait_until_handled()  # by the two that are left
        workers[0].start()
        wait_until_served(world, workers)
        world.interact(*chance(3, 500, USERS))
        world.wait_until_handled()

        assert left_behind > 0, "everything was done before the kill, so it showed nothing"
        expect_nothing_lost_or_doubled(world)


def test_workers_wait_for_a_broker_that_was_killed_and_go_on_by_themselves(tmp_path: Path) -> None:
    with native_kafka(tmp_path) as kafka, world_on(kafka.address, tmp_path / "world") as world:
        workers = world.start("first", "second")
        wait_until_served(world, workers)
        lives = [worker.process.pid for worker in workers]

        world.interact(*chance(2, 100, USERS))
        world.wait_until_handled()  # recovery has ended, so that what comes next is under way when the broker dies
        world.interact(*chance(1, 4000, USERS))
        left_behind = world.behind()
        kafka.kill()
        world.wait_until(
            lambda: any("the broker did not take" in worker.output() for worker in workers),
            "a worker says that the broker takes nothing",
        )
        kafka.start()
        world.interact(*chance(3, 500, USERS))
        world.wait_until_handled()

        assert left_behind > 0, "everything was done before the kill, so it showed nothing"
        expect_alive(workers, lives)
        assert any("the broker has taken" in worker.output() for worker in workers)
        assert all("Traceback" not in worker.output() for worker in workers)
        expect_nothing_lost_or_doubled(world)


def test_of_three_brokers_one_is_killed_in_the_middle_of_production_and_nothing_is_lost(tmp_path: Path) -> None:
    with (
        native_cluster(tmp_path) as cluster,
        world_on(cluster.address, tmp_path / "world", replication_factor=3) as world,
    ):
        workers = world.start("first", "second")
        wait_until_served(world, workers)
        lives = [worker.process.pid for worker in workers]

        world.interact(*chance(1, 1000, USERS))
        killer = threading.Timer(0.05, cluster.nodes[1].kill)  # while the next are being produced
        killer.start()
        world.interact(*chance(2, 2000, USERS))
        killer.join()
        world.interact(*chance(3, 500, USERS))
        world.wait_until_handled()

        expect_nothing_lost_or_doubled(world)
        cluster.nodes[1].start()
        world.interact(*chance(4, 500, USERS))
        world.wait_until_handled()
        expect_nothing_lost_or_doubled(world)
        expect_alive(workers, lives)


def test_a_worker_that_sleeps_through_the_loss_of_its_partitions_breaks_nothing_when_it_wakes(
    apache_kafka: NativeKafka, tmp_path: Path
) -> None:
    with world_on(apache_kafka.address, tmp_path) as world:
        sleeper, other = world.start("sleeper", "other")
        wait_until_served(world, [sleeper, other])

        world.interact(*chance(1, 1500, USERS))
        sleeper.process.send_signal(signal.SIGSTOP)
        left_behind = world.behind()
        time.sleep(1.5 * SESSION_SECONDS)  # this is the fault
        world.interact(*chance(2, 500, USERS))
        world.wait_for_metric(other, "efficientrec_partitions_assigned", world.settings.partitions)
        world.wait_until_handled()
        sleeper.process.send_signal(signal.SIGCONT)
        world.interact(*chance(3, 500, USERS))
        wait_until_served(world, [sleeper, other])
        world.interact(*chance(4, 500, USERS))
        world.wait_until_handled()

        assert left_behind > 0, "everything was done before it fell asleep, so it showed nothing"
        expect_nothing_lost_or_doubled(world)
        assert sleeper.stop() == 0, sleeper.output()
        assert other.stop() == 0, other.output()
        expect_exact_rows(world, world.rows_on_disk())
