"""A recovery whose last step is slow: nothing that is fetched meanwhile is lost."""

from __future__ import annotations

from pathlib import Path

from streams.broker import EmbeddedBroker
from streams.disk import OFFSET_KEY
from tests.integration.harness import Worker, World
from tests.integration.play import chance, expect_exact_rows, expect_last_lists

ROWS = 20_000


class SlowWorker(Worker):
    command = ("-m", "tests.integration.slow_worker")


def test_what_is_fetched_while_recovery_ends_is_handled(embedded_broker: EmbeddedBroker, tmp_path: Path) -> None:
    world = World(embedded_broker.address, tmp_path, run_events_max=2)  # many runs, of which most have to wait
    world.create_topics()
    world.interact(*chance(1, 3000, 300))
    world.worker("only", SlowWorker)
    world.start("only")
    try:
        world.wait_until_handled()

        expect_exact_rows(world, world.rows())
        expect_last_lists(world)
        assert world.worker("only").metrics()["efficientrec_runs_abandoned_total"] == 0
    finally:
        world.close()


def test_a_copy_that_catches_up_while_recovery_ends_has_every_row(
    embedded_broker: EmbeddedBroker, tmp_path: Path
) -> None:
    world = World(embedded_broker.address, tmp_path, partitions=2, run_events_max=10)
    world.create_topics()
    world.produce(world.topics.changelog, [(b"user-%d" % number, b"%d" % number) for number in range(ROWS)])
    for name in ("first", "second"):
        world.worker(name, SlowWorker)
    workers = world.start("first", "second")
    try:
        world.wait_until(
            lambda: [copied(worker) for worker in workers] == [1, 1], "each worker has a whole copy of the other's part"
        )
        for worker in workers:
            assert worker.stop() == 0, worker.output()
    finally:
        world.close()

    records = world.read(world.topics.changelog)
    for worker in workers:
        for partition, rows in worker.disk().items():
            reached = int(rows[OFFSET_KEY])
            users = {each.key for each in records if each.partition == partition and each.key.startswith(b"user-")}
            assert reached >= len(users)
            assert users == {key for key in rows if key.startswith(b"user-")}


def copied(worker: Worker) -> int:
    """Copies of other workers' partitions that lack nothing."""
    try:
        return worker.whole_copies()
    except OSError:  # it has only just started
        return 0
