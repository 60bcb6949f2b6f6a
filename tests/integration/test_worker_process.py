"""The worker as a process: real broker, real disk, real signals.

Each test runs on the embedded broker and, marked `full`, on Apache Kafka.
"""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from efficientrec.features import trait_keys
from efficientrec.interactions import key_of
from efficientrec.profile import HEADER, unpack
from streams.records import RELEASE_KEY, Item, User, encode
from streams.show import last_list
from streams.unpacking import UNPACKED_BYTES_MAX
from tests.batches import bomb, misnamed
from tests.integration.harness import WAIT_SECONDS, World, listeners
from tests.integration.play import chance, expect_exact_rows, expect_last_lists, like
from tests.toy import ITEMS, START, toy_model

BROKERS = ["embedded_broker", pytest.param("apache_kafka", marks=pytest.mark.full)]
LOOPBACK = {"0100007F", "00000000000000000000000001000000"}  # 127.0.0.1 and ::1, as Linux writes them


@pytest.fixture(params=BROKERS, scope="module")
def address(request: pytest.FixtureRequest) -> str:
    """Where the broker of this round listens."""
    found: str = request.getfixturevalue(request.param).address
    return found


@pytest.fixture
def world(address: str, tmp_path: Path) -> Iterator[World]:
    """A world of one test; it starts its workers itself."""
    world = World(address, tmp_path)
    try:
        yield world
    finally:
        world.close()


@pytest.fixture(scope="module")
def served(address: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """A world with one worker and the toy model, shared by tests that use users of their own."""
    world = World(address, tmp_path_factory.mktemp("served"))
    world.create_topics()
    world.release(toy_model())
    world.start("only")
    try:
        yield world
    finally:
        world.close()


def test_a_killed_worker_loses_and_doubles_nothing_and_an_empty_disk_recovers_everything(
    address: str, tmp_path: Path
) -> None:
    world = World(address, tmp_path, run_events_max=40)  # many small runs: the kill falls into one of them
    try:
        world.create_topics()
        world.release(toy_model())
        first, second = world.start("first", "second")
        for worker in (first, second):
            world.wait_for_metric(worker, "efficientrec_partitions_assigned", 2)
        world.interact(*chance(1, 3000, users=300))
        world.wait_until(lambda: len(world.read(world.topics.lists)) > 0, "a first list is out")

        first.kill()
        left_behind = world.behind()
        world.interact(*chance(2, 1500, users=300))
        first.start()
        world.interact(*chance(3, 1500, users=300))
        world.wait_until_handled()

        assert left_behind > 0, "everything was done before the kill, so it showed nothing"
        expect_exact_rows(world, world.rows())
        expect_last_lists(world)
        assert first.stop() == 0, first.output()
        # The embedded broker's group hangs when its last member leaves while it still deals with the first's leaving.
        world.wait_for_metric(second, "efficientrec_partitions_assigned", 4)
        assert second.stop() == 0, second.output()
        expect_exact_rows(world, world.rows_on_disk())

        (third,) = world.start("third")  # a disk of its own, with nothing on it
        world.interact(*chance(4, 500, users=300))
        world.wait_until_handled()

        assert third.stop() == 0, third.output()
        expect_exact_rows(world, world.rows())
        expect_last_lists(world)
        assert {key: row for content in third.disk().values() for key, row in content.items()}.items() >= (
            world.rows().items()
        )
    finally:
        world.close()


def test_every_good_record_counts_and_every_junk_record_is_set_aside_untouched(served: World) -> None:
    junk = [
        (f"junk-{number}".encode(), body)
        for number, body in zip(
            range(1000),
            (b"\xff\xfe", b"", b"{", b'{"user_id": 1}', b"null", b"[" * 2000, b'{"event_type":"like"}') * 143,
            strict=False,
        )
    ]
    good = [like(f"good-{number % 50}", ITEMS[number % 16], START + number) for number in range(500)]
    records: list[tuple[bytes | None, bytes | None]] = []
    for number, pair in enumerate(junk):
        records.append(pair)
        if number % 2:
            records.append((good[number // 2].user_id.encode(), encode(good[number // 2])))

    served.produce(served.topics.interactions, records)
    served.wait_until_handled()

    expect_exact_rows(served, served.rows(), "good-")
    letters = [record for record in served.read(served.topics.dead_letters) if (record.key or b"").startswith(b"junk-")]
    assert {(record.key, record.value) for record in letters} == set(junk)
    assert len(letters) == 1000
    for record in letters:
        headers = dict(record.headers)
        assert headers["dlq.error.class"] in (b"undecodable", b"incomplete", b"key_mismatch")
        assert headers["dlq.error.message"]
        assert headers["dlq.original.topic"] == served.topics.interactions.encode()
        assert headers["dlq.original.offset"].isdigit()


def test_junk_as_large_as_a_record_may_be_does_not_hold_up_the_stream(served: World) -> None:
    huge = b"x" * 1_048_400  # with the headers of a dead letter it is larger than Kafka takes

    served.produce(served.topics.interactions, [(b"huge", huge), (b"after-huge", encode(like("after-huge", "a1")))])
    served.wait_until_handled()

    (letter,) = [record for record in served.read(served.topics.dead_letters) if record.key == b"huge"]
    assert letter.value in (huge, None)
    assert dict(letter.headers)["dlq.error.class"] == b"undecodable"
    assert served.list_of("after-huge") is not None


def test_batches_that_cannot_be_unpacked_hold_up_nobody_and_are_committed_past(served: World) -> None:
    topics, worker = served.topics, served.worker("only")

    def lag() -> float:
        shown = worker.metrics()
        return sum(value for name, value in shown.items() if name.startswith("efficientrec_consumer_lag_records"))

    for partition in range(served.settings.partitions):
        served.append(topics.interactions, partition, misnamed(0, [(b"misnamed", b"{}")]))
        served.append(topics.interactions, partition, bomb(0, UNPACKED_BYTES_MAX))
    served.append(topics.users, 0, misnamed(0, [(b"misnamed", b"{}")]))
    served.append(topics.items, 0, misnamed(0, [(b"misnamed", b"{}")]))
    served.append(topics.releases, 0, misnamed(0, [(RELEASE_KEY, b"{}")]))
    served.wait_for_metric(worker, "efficientrec_unreadable_batches_total", 2 * served.settings.partitions + 3)
    served.wait_until(lambda: lag() == 0, "nothing waits")
    served.interact(*(like(f"after-{number}", "a1") for number in range(40)))
    served.produce(topics.users, [(b"after-1", encode(User("after-1", {"gender": "F"})))])
    served.wait_until_handled()

    expect_exact_rows(served, served.rows(), "after-")
    assert all(served.list_of(f"after-{number}") is not None for number in range(40))
    assert worker.answer("/readyz") == (200, "ok")


def test_what_a_worker_keeps_is_for_its_user_alone(served: World) -> None:
    kept = served.worker("only").state_dir

    served.interact(like("somebody", "a1"))
    served.wait_until_handled()

    assert {path.stat().st_mode & 0o777 for path in (kept, *kept.glob("partition-*"))} == {0o700}


def test_demographics_reach_the_row_and_a_null_erases_row_and_list(served: World) -> None:
    served.interact(like("anna", "a1"), like("bert", "b1"))
    served.wait_until_handled()
    described = User("anna", {"gender": "F", "age": 27})
    served.produce(served.topics.users, [(b"anna", encode(described))])
    served.wait_until_handled()
    row = unpack([served.rows()[b"anna"]], 0, 0)
    assert row.traits[0, : row.traits_count[0]].tolist() == trait_keys({"gender": "F", "age": "27"}).tolist()

    served.produce(served.topics.users, [(b"anna", None)])
    served.wait_until_handled()

    assert b"anna" not in served.rows()
    assert served.list_of("anna") is None
    assert served.last(served.topics.lists)[b"anna"].value is None
    assert served.list_of("bert") is not None

    served.interact(like("anna", "b2"))  # a later event starts a fresh profile
    served.wait_until_handled()
    row = unpack([served.rows()[b"anna"]], 0, 0)
    assert (int(row.events[0]), int(row.ring_item[0, 0])) == (1, key_of("b2"))


def test_a_hidden_item_leaves_the_lists(served: World) -> None:
    served.interact(like("carl", "a1"))
    served.wait_until_handled()
    before = served.list_of("carl")
    assert before is not None
    assert "a2" in [item.item_id for item in before.items]

    served.produce(served.topics.items, [(b"a2", encode(Item("a2", is_hidden=True)))])

    def hidden() -> bool:
        served.interact(like("carl", "a1"))
        served.wait_until_handled()
        after = served.list_of("carl")
        return after is not None and "a2" not in [item.item_id for item in after.items]

    served.wait_until(hidden, "a2 has left the lists")


def test_a_swap_is_seen_in_the_lists_and_a_corrupt_artifact_leaves_the_old_model_serving(served: World) -> None:
    served.interact(like("dora", "a1"))
    served.wait_until_handled()
    versions = [version_of_list(served, "dora")]

    served.release(toy_model("toy-2"))
    while versions[-1] != "toy-2":  # events flow while the model changes
        served.interact(*(like(f"dora-{number}", "a1") for number in range(20)), like("dora", "a3"))
        served.wait_until_handled()
        versions.append(version_of_list(served, "dora"))
        assert len(versions) < 200, served.worker("only").output()
    served.release(toy_model("toy-3"), damaged=True)
    served.wait_for_metric(served.worker("only"), 'efficientrec_model_swaps_total{outcome="refused"}', 1)
    served.interact(like("dora", "a5"))
    served.wait_until_handled()
    versions.append(version_of_list(served, "dora"))

    assert set(versions) == {"toy-1", "toy-2"}
    assert versions == sorted(versions)
    rows = served.rows()
    assert int(np.frombuffer(rows[b"dora"], HEADER, 1)["model"][0]) == key_of("toy-2")
    expect_exact_rows(served, rows, "dora")


def test_a_worker_listens_on_loopback_alone(served: World) -> None:
    worker = served.worker("only")
    served.wait_for_metric(worker, "efficientrec_partitions_assigned", 4)

    open_here = listeners(worker.process.pid)

    assert [listener.port for listener in open_here] == [worker.port]
    assert {listener.host for listener in open_here} <= LOOPBACK


def test_before_the_first_model_popularity_serves_and_survives_restarts(world: World) -> None:
    world.create_topics()
    (worker,) = world.start("only")
    # 30 users like b7, a few of them a1 as well; all users of one key's partition share its popularity.
    world.interact(*(like(f"fan-{number}", "b7") for number in range(60)))
    world.interact(*(like(f"fan-{number}", "a1") for number in range(0, 60, 2)), like("new", "a8"))
    world.wait_until_handled()
    first = world.list_of("new")
    begun = time.monotonic()
    assert worker.stop(signal.SIGINT) == 0, worker.output()
    assert time.monotonic() - begun < 10
    assert world.behind() == 0

    worker.start()
    world.interact(like("new", "b8"))
    world.wait_until_handled()
    second = world.list_of("new")

    for each in (first, second):
        assert each is not None
        assert each.model_version is None
        assert [item.item_id for item in each.items][:2] == ["b7", "a1"]
        assert each.items[0].reasons[0].kind == "popular"
    begun = time.monotonic()
    assert worker.stop(signal.SIGTERM) == 0, worker.output()
    assert time.monotonic() - begun < 10
    assert "Traceback" not in worker.output()
    expect_exact_rows(world, world.rows())


def test_after_an_outage_the_waiting_events_of_a_user_give_one_list_and_each_counts(world: World) -> None:
    world.create_topics()
    world.release(toy_model())
    (worker,) = world.start("only")
    users = [f"user-{number}" for number in range(8)]
    world.interact(*(like(user, "a1", START) for user in users))
    world.wait_until_handled()
    assert worker.stop() == 0, worker.output()
    before = len(world.lists())

    for number in range(1, 21):  # produced in rounds, so that no user's events are neighbours
        world.interact(*(like(user, ITEMS[number % 16], START + number) for user in users))
    worker.start()
    world.wait_until_handled()

    again = world.lists()[before:]
    assert len(again) == len(users), [(each.user_id, each.trigger.offset) for each in again]
    rows = world.rows()
    assert {int(np.frombuffer(rows[user.encode()], HEADER, 1)["events"][0]) for user in users} == {21}
    expect_exact_rows(world, rows)
    expect_last_lists(world)


def test_lists_can_be_messagepack_and_after_a_change_of_the_setting_the_topic_holds_both(world: World) -> None:
    world.create_topics()
    packing = world.worker("packing", list_format="msgpack")
    packing.start()
    world.interact(like("anna", "a1"), like("bert", "b1"))
    world.wait_until_handled()  # without a model: what is popular
    world.release(toy_model())
    world.wait_for_metric(packing, 'efficientrec_model_swaps_total{outcome="installed"}', 1)
    world.interact(like("anna", "a2"), like("carl", "a1"))
    world.wait_until_handled()
    world.produce(world.topics.users, [(b"carl", None)])
    world.wait_until_handled()
    packed = world.read(world.topics.lists)
    assert packing.stop() == 0, packing.output()

    world.start("with the default")
    world.interact(like("bert", "b2"))
    world.wait_until_handled()

    both = world.last(world.topics.lists)
    assert {(record.value or b"null")[:1] for record in packed} == {b"\x89", b"n"}
    assert [(key, (both[key].value or b"null")[:1]) for key in (b"anna", b"bert", b"carl")] == [
        (b"anna", b"\x89"),
        (b"bert", b"{"),
        (b"carl", b"n"),
    ]
    assert {each.model_version for each in world.lists() if each.user_id == "anna"} == {None, "toy-1"}
    for user, best in (("anna", "a3"), ("bert", "b3")):
        published = asyncio.run(last_list(world.settings, user)).published
        assert published is not None
        assert published == world.list_of(user)
        assert (published.items[0].item_id, published.model_version) == (best, "toy-1")


def test_a_worker_without_its_topics_or_with_other_partitions_says_so_and_ends(address: str, tmp_path: Path) -> None:
    lacking = World(address, tmp_path / "lacking")
    differing = World(address, tmp_path / "differing", partitions=3)
    differing.settings, right = replace(differing.settings, partitions=5), differing.settings
    differing.create_topics()
    differing.settings = right
    try:
        workers = [*lacking.start("only"), *differing.start("only")]
        statuses = [worker.process.wait(WAIT_SECONDS) for worker in workers]

        assert statuses == [1, 1]
        outputs = [worker.output() for worker in workers]
        assert f"{lacking.topics.interactions} is missing; run: efficientrec topics create" in outputs[0]
        assert f"{differing.topics.interactions} has 5 partitions; expected 3" in outputs[1]
        assert "Traceback" not in "".join(outputs)
    finally:
        lacking.close()
        differing.close()


def version_of_list(world: World, user: str) -> str:
    """The model that made the user's last list."""
    found = world.list_of(user)
    assert found is not None, f"{user} has no list"
    return found.model_version or "none"
