"""Every procedure of docs/procedures.md, done on Apache Kafka, and what must be found afterwards."""

from __future__ import annotations

import asyncio
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from efficientrec.profile import HEADER, LAYOUT
from streams.audit import audit
from streams.broker import free_port
from streams.clock import wall_ms
from streams.log import read_log
from streams.records import Interaction, Item, User, encode
from streams.restore import restore
from streams.topics import retention_ms
from tests.integration.harness import WAIT_SECONDS, TrainerProcess, Worker, World
from tests.integration.play import chance, expect_exact_rows, expect_last_lists
from tests.integration.test_cluster import wait_until_served
from tests.integration.test_experiment import tried_for_a_while
from tests.kafka import NativeKafka
from tests.test_profile import on_disk
from tests.toy import DAY, ITEMS, START, toy_model

pytestmark = pytest.mark.full

USERS = 200
TRAINING_SECONDS = 1800.0  # ten seconds of the processor, but a training gives way to all else
ANNAS_PARTITIONS = 7  # so that anna is on the partition of the rows in tests/golden


@contextmanager
def world_on(kafka: NativeKafka, folder: Path, **settings: Any) -> Iterator[World]:
    """An installation with its topics; all of them share one folder of models."""
    world = World(
        kafka.address,
        folder,
        log_dir=folder / "log",
        trainer_metrics_port=free_port(),
        **{"train_first_events": 10_000_000, "models_dir": str(folder), **settings},
    )
    try:
        world.create_topics()
        yield world
    finally:
        world.close()


def expect_sound(world: World) -> None:
    """As `efficientrec audit` says; and by the tests' own reckoning, lists as well."""
    found = asyncio.run(audit(world.settings, wall_ms()))
    assert found.checked > 0
    assert found.different == []
    expect_exact_rows(world, world.rows())
    expect_last_lists(world)


def wait_until_logged(world: World, events: int) -> None:
    world.wait_until(lambda: len(read_log(world.settings.log_dir)) == events, f"{events} interactions are logged")


def distinct(world: World) -> int:
    """How many of the interactions a log has: what came twice under one id counts once."""
    return sum(
        len({event.event_id or f"offset {event.offset}" for event in events}) for events in world.accepted().values()
    )


# Rolling restart.


def test_a_rolling_restart_under_load_loses_and_doubles_nothing(apache_kafka: NativeKafka, tmp_path: Path) -> None:
    with world_on(apache_kafka, tmp_path, partitions=6) as world:
        world.release(toy_model())
        workers = world.start("first", "second", "third")
        wait_until_served(world, workers)
        is_over = threading.Event()
        rounds: list[int] = []

        def load() -> None:
            while not is_over.is_set():
                rounds.append(len(rounds))
                world.interact(*chance(100 + len(rounds), 50, USERS))

        producer = threading.Thread(target=load)
        producer.start()
        try:
            for worker in workers:
                assert worker.stop() == 0, worker.output()
                worker.start()
                wait_until_served(world, workers)  # as Kubernetes waits for /readyz before it goes on
        finally:
            is_over.set()
            producer.join()
        world.wait_until_handled()

        assert len(rounds) > len(workers), "there was no load"
        expect_sound(world)


# Upgrade.


@contextmanager
def world_of_an_earlier_release(kafka: NativeKafka, folder: Path, row: bytes) -> Iterator[World]:
    """One user, with the row that the release of then made of her three events."""
    with world_on(kafka, folder, partitions=ANNAS_PARTITIONS) as world:
        world.release(toy_model())
        world.interact(
            Interaction("like", "anna", "a1", START, "first"),
            Interaction("dislike", "anna", "b1", START + DAY),
            Interaction("view", "anna", "never seen", START + 2 * DAY + 500),
        )
        world.produce(world.topics.changelog, [(b"anna", row)])
        yield world


def test_rows_that_an_earlier_release_left_are_served_and_written_anew(
    apache_kafka: NativeKafka, tmp_path: Path
) -> None:
    with world_of_an_earlier_release(apache_kafka, tmp_path, on_disk(1)) as world:
        world.start("worker")
        world.interact(Interaction("like", "anna", "a3", START + 3 * DAY))
        world.wait_until_handled()

        row = world.rows()[b"anna"]
        assert row[0] == LAYOUT
        assert np.frombuffer(row, HEADER, 1)["events"].tolist() == [4], (
            "what she did before was folded once more, or lost"
        )
        (given,) = world.lists()
        assert {item.item_id for item in given.items}.isdisjoint({"a1", "a3", "b1"}), "she has met these"


def test_rows_of_a_later_release_stop_the_worker_with_words(apache_kafka: NativeKafka, tmp_path: Path) -> None:
    later = bytes([LAYOUT + 1]) + on_disk(LAYOUT)[1:]
    with world_of_an_earlier_release(apache_kafka, tmp_path, later) as world:
        (worker,) = world.start("worker")

        assert worker.process.wait(WAIT_SECONDS) == 1
        assert worker.output().splitlines()[-1].startswith(f"RowUnreadable: a row has layout {LAYOUT + 1}")
        assert world.rows()[b"anna"] == later


# More partitions.


def test_another_number_of_partitions_is_another_installation_that_is_given_the_log(
    apache_kafka: NativeKafka, tmp_path: Path
) -> None:
    with world_on(apache_kafka, tmp_path / "former", partitions=3) as former:
        former.release(toy_model())
        (worker,) = former.start("worker")
        trainer = former.worker("trainer", TrainerProcess)
        trainer.start()
        former.produce(former.topics.items, [(item.encode(), encode(Item(item))) for item in ITEMS])
        former.produce(former.topics.users, [(b"user-1", encode(User("user-1", {"taste": "a"}))), (b"user-2", None)])
        former.wait_until_handled()
        former.interact(*chance(1, 1500, USERS))
        former.wait_until_handled()
        wait_until_logged(former, distinct(former))
        assert worker.stop() == 0, worker.output()
        assert trainer.stop() == 0, trainer.output()
        expect_sound(former)

        with world_on(apache_kafka, tmp_path / "latter", partitions=5, models_dir=former.settings.models_dir) as latter:
            latter.models = former.models
            done = asyncio.run(restore(latter.settings, former.settings.log_dir, former.settings.prefix))
            (worker,) = latter.start("worker")
            latter.notice(latter.topics.users)
            latter.notice(latter.topics.interactions)
            latter.wait_until_handled()

            expect_sound(latter)
            assert done.interactions == sum(map(len, former.accepted().values()))
            assert done.users == 1
            assert newest_lists(latter) == newest_lists(former)


def newest_lists(world: World) -> dict[str, list[tuple[str, float]]]:
    """User → items and scores of the last list; not of who is described, as a description and an event may come in
    either order."""
    return {
        each.user_id: [(item.item_id, item.score) for item in each.items]
        for each in world.lists()
        if each.user_id != "user-1"
    }


def test_from_the_log_alone_an_installation_comes_back(apache_kafka: NativeKafka, tmp_path: Path) -> None:
    with world_on(apache_kafka, tmp_path / "former") as former:
        trainer = former.worker("trainer", TrainerProcess)
        trainer.start()
        former.interact(*chance(1, 800, USERS))
        wait_until_logged(former, distinct(former))
        assert trainer.stop() == 0, trainer.output()

        with world_on(apache_kafka, tmp_path / "latter") as latter:
            asyncio.run(restore(latter.settings, former.settings.log_dir))
            latter.notice(latter.topics.interactions)
            latter.start("worker")
            latter.wait_until_handled()

            found = asyncio.run(audit(latter.settings, wall_ms()))
            assert found.checked == len(former.accepted())
            assert found.different == []


# Experiments.


def test_a_model_is_tried_on_half_of_the_users_of_apache_kafka(apache_kafka: NativeKafka, tmp_path: Path) -> None:
    with world_on(apache_kafka, tmp_path / "world", models_dir=str(tmp_path / "models")) as world:
        tried_for_a_while(world)


# What is lost, and how it comes back.


def test_a_lost_log_is_read_again_from_kafka(apache_kafka: NativeKafka, tmp_path: Path) -> None:
    with world_on(apache_kafka, tmp_path) as world:
        trainer = world.worker("trainer", TrainerProcess)
        trainer.start()
        world.interact(*chance(1, 500, USERS))
        wait_until_logged(world, distinct(world))
        before = read_log(world.settings.log_dir)
        trainer.kill()
        shutil.rmtree(world.settings.log_dir)

        trainer.start()
        wait_until_logged(world, len(before))

        assert_same_log(world, before)


def test_a_log_from_a_backup_goes_on_where_it_ends(apache_kafka: NativeKafka, tmp_path: Path) -> None:
    with world_on(apache_kafka, tmp_path) as world:
        trainer = world.worker("trainer", TrainerProcess)
        trainer.start()
        world.interact(*chance(1, 500, USERS))
        wait_until_logged(world, distinct(world))
        shutil.copytree(world.settings.log_dir, tmp_path / "backup")  # while the trainer writes
        world.interact(*chance(2, 300, USERS))
        wait_until_logged(world, distinct(world))
        before = read_log(world.settings.log_dir)
        trainer.kill()
        shutil.rmtree(world.settings.log_dir)
        shutil.copytree(tmp_path / "backup", world.settings.log_dir)

        trainer.start()
        wait_until_logged(world, len(before))

        assert_same_log(world, before)


def assert_same_log(world: World, before: Any) -> None:
    after = read_log(world.settings.log_dir)
    for column in ("users", "items", "event_types"):
        assert list(getattr(after, column)) == list(getattr(before, column))
    for column in ("user", "item", "at", "weight"):
        assert getattr(after, column).tolist() == getattr(before, column).tolist()


def test_models_from_a_backup_serve_again_and_rows_are_what_they_were(
    apache_kafka: NativeKafka, tmp_path: Path
) -> None:
    with world_on(apache_kafka, tmp_path / "world") as world:
        world.release(toy_model())
        (worker,) = world.start("worker")
        world.interact(*chance(1, 500, USERS))
        world.wait_until_handled()
        folder = world.folder / f"model-{toy_model().version}"
        shutil.copytree(folder, tmp_path / "backup")
        shutil.rmtree(folder)

        world.interact(*chance(2, 100, USERS))  # who has the model in memory goes on serving
        world.wait_until_handled()
        assert swapped_in(worker) == 1
        assert worker.stop() == 0, worker.output()
        shutil.copytree(tmp_path / "backup", folder)
        worker.start()
        world.interact(*chance(3, 200, USERS))
        world.wait_until_handled()

        assert swapped_in(worker) == 1
        expect_sound(world)


def swapped_in(worker: Worker) -> float:
    return worker.metrics().get('efficientrec_model_swaps_total{outcome="installed"}', 0.0)


def test_without_a_backup_a_model_is_learned_anew_from_the_log(apache_kafka: NativeKafka, tmp_path: Path) -> None:
    with world_on(apache_kafka, tmp_path, train_new_events=700) as world:
        world.release(toy_model())
        shutil.rmtree(world.folder / f"model-{toy_model().version}")
        (worker,) = world.start("worker")
        world.wait_until(lambda: "popularity goes on serving" in worker.output(), "the model is missed")

        world.interact(*chance(1, 800, USERS))
        world.worker("trainer", TrainerProcess).start()
        world.wait_until(
            lambda: "took the place of popularity" in worker.output(), "a new model serves", TRAINING_SECONDS
        )
        world.interact(*chance(2, 200, USERS))
        world.wait_until_handled()

        found = asyncio.run(audit(world.settings, wall_ms()))
        assert found.checked > 0
        assert found.different == []


def test_a_lost_disk_is_filled_again_from_the_changelog(apache_kafka: NativeKafka, tmp_path: Path) -> None:
    with world_on(apache_kafka, tmp_path) as world:
        world.release(toy_model())
        (worker,) = world.start("worker")
        world.interact(*chance(1, 500, USERS))
        world.wait_until_handled()
        assert worker.stop() == 0, worker.output()
        before = world.rows_on_disk()
        shutil.rmtree(worker.state_dir)

        worker.start()
        wait_until_served(world, [worker])
        world.interact(*chance(2, 200, USERS))
        world.wait_until_handled()
        assert worker.stop() == 0, worker.output()

        assert before.keys() <= world.rows_on_disk().keys()
        assert world.rows_on_disk() == world.rows()
        expect_sound(world)


def test_a_log_older_than_what_kafka_keeps_is_not_sent_where_it_would_be_deleted(
    apache_kafka: NativeKafka, tmp_path: Path
) -> None:
    with world_on(apache_kafka, tmp_path) as world:
        kept = asyncio.run(retention_ms(world.settings, world.topics.interactions))

        assert kept == 7 * 86_400_000, "Kafka's default, which docs/procedures.md names"
