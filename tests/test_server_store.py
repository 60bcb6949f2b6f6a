"""The server's lists on disk: the newest of each user, no more memory for more users, and a restart that goes on."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from aiokafka.structs import ConsumerRecord

from efficientrec.errors import StateMismatch, StateUnwritable
from streams.follower import Record
from streams.records import (
    LIST_ENCODERS,
    SCHEMA_VERSION,
    ClusterWeight,
    RankedItem,
    Reason,
    RecommendationList,
    Trigger,
    rfc3339,
)
from streams.server_store import ListStore
from tests.toy import START

TOPIC = "reco.recommendations.lists.v1"


def a_list(user: str, offset: int = 1, at: int = START, rec_id: str = "r", partition: int = 0) -> RecommendationList:
    trigger = Trigger("reco.interactions.events.v1", partition, offset, None, rfc3339(START))
    return RecommendationList(
        SCHEMA_VERSION,
        rec_id,
        user,
        "toy-1",
        rfc3339(at),
        trigger,
        "event",
        clusters=[ClusterWeight(1, 0.5)],
        items=[RankedItem("i1", 1, 0.1, [Reason("popular", 1.0)])],
    )


def record(
    offset: int,
    key: str | bytes | None,
    value: RecommendationList | bytes | None,
    partition: int = 0,
    form: str = "json",
) -> Record:
    key = key.encode() if isinstance(key, str) else key
    body = LIST_ENCODERS[form](value) if isinstance(value, RecommendationList) else value
    return ConsumerRecord(TOPIC, partition, offset, START, 0, key, body, None, 0, 0, ())


@pytest.fixture
def store(tmp_path: Path) -> Iterator[ListStore]:
    store = ListStore(tmp_path / "lists", TOPIC, 2)
    yield store
    store.close()


def rec_id(store: ListStore, user: str) -> str | None:
    held = store.read(user)
    return None if held is None else json.loads(held.json)["rec_id"]


def test_the_newest_list_of_a_user_is_given_out_as_it_stood_on_the_topic(store: ListStore) -> None:
    newer = a_list("u1", 2, START + 1500, "new")

    store.write([record(0, "u1", a_list("u1", 1, rec_id="old")), record(1, "u2", a_list("u2")), record(2, "u1", newer)])

    held = store.read("u1")
    assert held is not None
    assert held.json == LIST_ENCODERS["json"](newer)
    assert held.generated_ms == START + 1500
    assert store.read("u3") is None
    assert store.count == 2


def test_an_older_list_that_comes_again_replaces_nothing(store: ListStore) -> None:
    store.write([record(0, "u1", a_list("u1", 20, START + 5, "newer")), record(1, "u1", a_list("u1", 10, START + 9))])
    store.write([record(2, "u1", a_list("u1", 20, START + 4, "same event, earlier"))])
    assert rec_id(store, "u1") == "newer"

    store.write([record(3, "u1", a_list("u1", 20, START + 6, "same event, later"))])
    assert rec_id(store, "u1") == "same event, later"

    store.write([record(4, "u1", a_list("u1", 3, START, "another partition", partition=1))])
    assert rec_id(store, "u1") == "another partition"  # offsets of two partitions say nothing about each other


def test_an_erased_user_has_no_list_and_may_come_back(store: ListStore) -> None:
    store.write([record(0, "u1", a_list("u1", 20)), record(1, "u2", a_list("u2")), record(2, "u1", None)])
    assert store.read("u1") is None
    assert store.count == 1

    store.write([record(3, "u1", None), record(4, "u1", a_list("u1", 3, rec_id="fresh")), record(5, "u9", None)])
    assert rec_id(store, "u1") == "fresh"
    assert store.count == 2


def test_msgpack_becomes_json_with_fields_of_a_newer_release(store: ListStore) -> None:
    published = a_list("ü", rec_id="packed")
    newer = {**msgspec.to_builtins(published), "diversity": 0.25}

    store.write(
        [record(0, "ü", published, form="msgpack"), record(1, "u2", msgspec.msgpack.encode({**newer, "user_id": "u2"}))]
    )

    first, second = store.read("ü"), store.read("u2")
    assert first is not None
    assert second is not None
    assert json.loads(first.json) == json.loads(LIST_ENCODERS["json"](published))
    assert json.loads(second.json)["diversity"] == 0.25


def test_a_list_that_differs_has_another_tag(store: ListStore) -> None:
    store.write([record(0, "u1", a_list("u1", rec_id="a")), record(1, "u2", a_list("u2", rec_id="a"))])
    before = store.read("u1")
    store.write([record(2, "u1", a_list("u1", rec_id="b"))])
    after = store.read("u1")

    assert before is not None
    assert after is not None
    assert before.tag != after.tag
    assert store.read("u1") == after


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("u1", b"{"),
        ("u1", b""),
        ("u1", b"\xff\xff"),
        ("u1", b"[]"),
        (None, b"{}"),
        ("u2", LIST_ENCODERS["json"](a_list("u1"))),
        ("u1", LIST_ENCODERS["json"](a_list("u1", offset=2**70))),
        ("u1", LIST_ENCODERS["json"](a_list("u1", partition=2**40))),
        ("u1", msgspec.json.encode({**msgspec.to_builtins(a_list("u1")), "generated_at": "yesterday"})),
        ("u1", msgspec.json.encode({**msgspec.to_builtins(a_list("u1")), "schema_version": 2})),
        (b"\xffcount", None),
        (b"\xffoffset-0", None),
    ],
)
def test_what_is_no_list_of_its_user_is_counted_and_left_out(
    store: ListStore, key: str | bytes | None, value: bytes | None
) -> None:
    store.write([record(0, "u1", a_list("u1", rec_id="good"))])

    unusable = store.write([record(1, key, value), record(2, "u3", a_list("u3"))])

    assert unusable == 1
    assert rec_id(store, "u1") == "good"
    assert store.count == 2
    assert store.offsets() == {0: 3}


def test_a_restart_goes_on_where_each_partition_was(tmp_path: Path) -> None:
    store = ListStore(tmp_path, TOPIC, 3)
    store.write([record(7, "u1", a_list("u1"), partition=2)])
    store.write([record(0, "u2", a_list("u2"), partition=0), record(4, "u2", b"junk", partition=0)])
    store.close()

    again = ListStore(tmp_path, TOPIC, 3)

    assert again.offsets() == {0: 5, 2: 8}
    assert again.count == 2
    assert rec_id(again, "u1") == "r"
    again.close()


def test_the_lists_of_another_topic_are_refused_and_left_as_they_are(tmp_path: Path) -> None:
    ListStore(tmp_path, TOPIC, 2).close()

    with pytest.raises(StateMismatch, match="EFFICIENTREC_SERVER_STATE_DIR"):
        ListStore(tmp_path, "other.recommendations.lists.v1", 2)


def test_two_servers_do_not_share_a_folder(tmp_path: Path, store: ListStore) -> None:
    with pytest.raises(StateUnwritable, match="EFFICIENTREC_SERVER_STATE_DIR"):
        ListStore(tmp_path / "lists", TOPIC, 2)


def test_to_start_anew_keeps_nothing(store: ListStore, tmp_path: Path) -> None:
    store.write([record(7, "u1", a_list("u1"))])

    store.start_anew("the topic was made anew")

    assert store.read("u1") is None
    assert store.offsets() == {}
    assert store.count == 0
    assert len(list(tmp_path.glob("lists.aside-*"))) == 1


@pytest.mark.parametrize("user", ["\udcff", "\udcffcount", "", "x" * 10_000, "\x00"])
def test_an_id_that_nobody_can_have_has_no_list(store: ListStore, user: str) -> None:
    store.write([record(0, "u1", a_list("u1"))])

    assert store.read(user) is None
