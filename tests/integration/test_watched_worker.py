"""A real worker, watched from outside: what it shows while it works, and while its broker does not answer."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from zlib import crc32

from streams.broker import EmbeddedBroker
from streams.records import encode
from tests.integration.harness import Worker, World
from tests.integration.play import chance, like
from tests.toy import toy_model

STALLED_SECONDS = 8.0
SAMPLED = next(name for number in range(100) if crc32((name := f"user-{number}").encode()) % 10 == 0)


def total(metrics: dict[str, float], name: str) -> float:
    """Of all series of a name."""
    return sum(value for series, value in metrics.items() if series.partition("{")[0] == name)


def expect_the_truth(world: World, worker: Worker) -> None:
    """What a worker that has nothing left to do shows."""
    world.wait_until(lambda: total(worker.metrics(), "efficientrec_state_rows") > 0, "RocksDB was looked at")
    found = worker.metrics()
    for name in ("consumer_lag_records", "consumer_lag_seconds", "commit_age_seconds", "recovery_remaining_records"):
        assert total(found, f"efficientrec_{name}") == 0, name
    assert found["efficientrec_partitions_assigned"] == 4
    assert total(found, "efficientrec_erasures_total") == 1
    assert found["efficientrec_recovery_duration_seconds_count"] == 1
    assert found["efficientrec_rebalance_duration_seconds_count"] == 1
    assert found["efficientrec_model_age_seconds"] > 0
    assert found['efficientrec_online_judged_events_total{arm="control"}'] > 0
    assert found['efficientrec_online_hits_total{arm="control",by="list"}'] > 0
    assert 0 < found["efficientrec_recommendation_coverage_ratio"] <= 1
    assert 0 < found["efficientrec_cluster_entropy_ratio"] <= 1
    assert found['efficientrec_disk_free_bytes{folder="state"}'] > 0
    assert found["efficientrec_rocksdb_memtable_bytes"] > 0
    assert found["process_resident_memory_bytes"] > 0


def test_a_worker_shows_what_it_does_and_waits_for_a_broker_that_stopped(tmp_path: Path) -> None:
    with EmbeddedBroker(log=tmp_path / "broker.log") as broker:
        world = World(broker.address, tmp_path, stalled_seconds=STALLED_SECONDS)
        world.create_topics()
        world.release(toy_model())
        (worker,) = world.start("one")
        try:
            world.wait_until(lambda: worker.answer("/livez")[0] == 200, "it is alive before it serves")
            world.wait_until(lambda: worker.answer("/readyz") == (200, "ok"), "it is ready")
            world.interact(*chance(5, 200, 40))
            for number in range(1, 6):
                world.interact(like(SAMPLED, f"a{number}"))
                world.wait_until_handled()
            world.produce(world.topics.users, [(b"user-1", None)])
            world.wait_until_handled()
            expect_the_truth(world, worker)

            os.kill(broker.pid or 0, signal.SIGSTOP)
            world.wait_until(lambda: worker.answer("/readyz")[0] == 503, "it says that it is not ready")
            assert "has not heard from this worker" in worker.answer("/readyz")[1]
            until = time.monotonic() + 2 * STALLED_SECONDS
            while time.monotonic() < until:
                assert worker.answer("/livez") == (200, "ok"), "to start it again would not help"
                worker.metrics()
            os.kill(broker.pid or 0, signal.SIGCONT)
            world.wait_until(lambda: worker.answer("/readyz") == (200, "ok"), "it is ready again")
            world.interact(*chance(6, 100, 40))
            world.wait_until_handled()
        finally:
            os.kill(broker.pid or 0, signal.SIGCONT)
            world.close()


def test_a_poison_event_and_a_load_show_in_figures_that_prometheus_can_read(
    embedded_broker: EmbeddedBroker, tmp_path: Path
) -> None:
    world = World(embedded_broker.address, tmp_path)
    world.create_topics()
    (worker,) = world.start("one")
    try:
        world.produce(
            world.topics.interactions,
            [(b"anna", b"poison"), *((e.user_id.encode(), encode(e)) for e in chance(7, 300, 50))],
        )
        world.wait_until_handled()
        found = worker.metrics()
    finally:
        world.close()

    assert found['efficientrec_dlq_records_total{reason="undecodable"}'] == 1
    assert total(found, "efficientrec_run_events_sum") == total(found, "efficientrec_events_total")
    assert found["efficientrec_model_age_seconds"] == 0, "popularity has no age"
