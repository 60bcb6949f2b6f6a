"""`efficientrec worker --processes N`: real processes, of which one is killed."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from efficientrec.errors import WorkersEnded
from streams.broker import EmbeddedBroker, free_port
from streams.settings import Settings
from streams.supervisor import own_settings, supervise
from tests.integration.harness import Worker, World
from tests.integration.play import chance, expect_exact_rows


class Workers(Worker):
    """The supervisor, which shows what its workers show."""

    command = ("-m", "streams", "worker", "--processes", "2")

    def lives(self) -> list[int]:
        """The processes of its workers."""
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        return [int(pid) for pid in children.read_text().split()]


def shown(workers: Worker, name: str) -> list[float]:
    """A figure of each worker that shows it."""
    try:
        found = workers.metrics()
    except OSError:  # it is not up yet
        return []
    return [value for series, value in sorted(found.items()) if series.startswith(f"{name}{{process=")]


def test_two_workers_share_the_partitions_and_one_that_is_killed_comes_back(
    embedded_broker: EmbeddedBroker, tmp_path: Path
) -> None:
    world = World(embedded_broker.address, tmp_path)
    world.create_topics()
    workers = world.worker("both", Workers)
    assert isinstance(workers, Workers)
    workers.start()
    try:
        partitions = "efficientrec_partitions_assigned"
        world.wait_until(lambda: shown(workers, partitions) == [2, 2], "each of two workers serves two partitions")
        world.wait_until(lambda: workers.answer("/readyz") == (200, "ok"), "all are ready")
        world.interact(*chance(1, 300, 50))
        before = workers.lives()
        os.kill(before[1], signal.SIGKILL)
        world.wait_until(lambda: len(shown(workers, partitions)) == 1, "who is dead shows nothing")
        assert workers.answer("/livez") == (200, "ok"), "whoever died is started again from here"
        assert "worker 1: it is" in workers.answer("/readyz")[1]
        world.interact(*chance(2, 300, 50))
        world.wait_until(lambda: len(set(workers.lives()) - set(before)) == 1, "the second is started again")
        world.wait_until(lambda: shown(workers, partitions) == [2, 2], "it serves again")
        assert shown(workers, "efficientrec_process_starts_total") == [1, 2]
        world.interact(*chance(3, 300, 50))
        world.wait_until_handled()

        assert before[0] in workers.lives()
        assert "worker 1 ended with status -9" in workers.output()
        expect_exact_rows(world, world.rows())
        now = workers.lives()
        assert workers.stop() == 0, workers.output()
        assert not [pid for pid in now if Path(f"/proc/{pid}").exists()]
        assert {path.name for path in workers.state_dir.iterdir()} == {"worker-0", "worker-1"}
    finally:
        world.close()


def test_workers_that_cannot_start_end_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nobody = f"kafka://127.0.0.1:{free_port()}"
    monkeypatch.setenv("EFFICIENTREC_BROKER", nobody)
    monkeypatch.setenv("EFFICIENTREC_BROKER_WAIT_SECONDS", "0.1")

    with pytest.raises(WorkersEnded, match=r"worker \d ended with status 1 .* after its first start"):
        supervise(Settings(broker=nobody, state_dir=tmp_path), 2)


def test_each_worker_has_a_folder_and_a_port_of_its_own() -> None:
    assert own_settings(Settings(state_dir=Path("state"), metrics_host="0.0.0.0"), 3, 40_001) == {
        "EFFICIENTREC_STATE_DIR": "state/worker-3",
        "EFFICIENTREC_METRICS_HOST": "127.0.0.1",
        "EFFICIENTREC_METRICS_PORT": "40001",
    }
