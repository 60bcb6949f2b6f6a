"""CloudEvents in Kafka's binary mode: headers fill in what a body leaves out, and lists bear them on request; a trace
goes on from an event to its list."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from aiokafka.record.memory_records import MemoryRecords

from streams.broker import EmbeddedBroker
from streams.cloudevents import LIST_TYPE, completed, list_headers, trace_of
from streams.lists import Cause
from streams.outbox import BATCH_BYTES, Headers, WithHeaders
from streams.records import Trigger, decode_list
from streams.wire import UNFENCED, record_batch
from streams.writer import _batches
from tests.integration.harness import World
from tests.integration.play import expect_exact_rows, expect_last_lists
from tests.toy import START, toy_model

TRACE = b"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
MOMENT = "2023-11-15T22:13:20Z"
BODY = {"event_type": "like", "user_id": "ann", "item_id": "a1", "event_time": MOMENT, "event_id": "own"}


def body(*left_out: str) -> bytes:
    return json.dumps({field: value for field, value in BODY.items() if field not in left_out}).encode()


HEADERS = [
    ("ce_specversion", b"1.0"),
    ("ce_id", b"from-header"),
    ("ce_time", b"2020-01-01T00:00:00Z"),
    ("ce_subject", b"ben"),
    ("ce_type", b"com.example.like"),
    ("content-type", b"application/json"),
]


def test_headers_fill_in_only_what_the_body_leaves_out() -> None:
    assert completed(body(), HEADERS) == body()

    filled = json.loads(completed(body("event_id", "event_time", "user_id"), HEADERS) or b"")

    assert filled == {
        **BODY,
        "event_id": "from-header",
        "event_time": "2020-01-01T00:00:00Z",
        "user_id": "ben",
    }


@pytest.mark.parametrize(
    ("value", "headers"),
    [
        (None, HEADERS),
        (b"", HEADERS),
        (b"{", HEADERS),
        (b"[1]", HEADERS),
        (b"\xff", HEADERS),
        (b'{"x":' + b"[" * 100_000, HEADERS),
        (body("event_id"), [("ce_id", b"\xff")]),
        (body("event_id"), [("ce_id", None)]),
        (body("event_id"), [("id", b"x"), ("efficientrec.origin", b"t/0/1")]),
    ],
)
def test_what_cannot_be_filled_in_stays_as_it_is(value: bytes | None, headers: Any) -> None:
    assert completed(value, headers) == value


@pytest.mark.parametrize(
    ("given", "is_one"),
    [
        (TRACE, True),
        (TRACE + b"0", False),
        (TRACE.upper(), False),
        (b"ff" + TRACE[2:], False),
        (b"00-" + b"0" * 32 + TRACE[35:], False),
        (None, False),
        (b"", False),
    ],
)
def test_only_a_trace_context_is_taken_for_one(given: bytes | None, is_one: bool) -> None:
    assert trace_of([("other", b"x"), ("traceparent", given)]) == (given if is_one else None)
    assert trace_of([]) is None


def test_headers_are_in_the_batch_and_count_for_its_size() -> None:
    plain, headed = b"value", WithHeaders.of(b"value", [("a", b"1"), ("b", b"\xff")])

    batch = MemoryRecords(record_batch(UNFENCED, 0, [(b"k", plain), (b"k", headed), (b"k", None)], START)).next_batch()

    found = [(record.value, [tuple(each) for each in record.headers]) for record in batch]
    assert found == [(b"value", []), (b"value", [("a", b"1"), ("b", b"\xff")]), (None, [])]
    large = WithHeaders.of(b"", [("h", b"x" * (BATCH_BYTES // 3))])
    assert [len(each) for each in _batches([(b"k", large)] * 5)] == [2, 2, 1]


@pytest.mark.parametrize("arm", [None, "treatment"])
def test_a_list_of_an_experiment_bears_its_arm_as_an_extension(arm: str | None) -> None:
    cause = Cause("ann", Trigger("t", 0, 1, None, MOMENT), START)

    headers = dict(list_headers(cause, "v1", MOMENT, "reco/reco", "json", arm))

    assert headers.get("ce_arm") == (arm if arm is None else arm.encode())


def test_events_as_cloudevents_become_lists_as_cloudevents(embedded_broker: EmbeddedBroker, tmp_path: Path) -> None:
    world = World(embedded_broker.address, tmp_path, cloudevents="on")
    try:
        world.create_topics()
        (worker,) = world.start("only")
        moment = b"2023-11-15T22:13:20Z"
        headed = [("ce_id", b"e1"), ("ce_time", moment), ("ce_subject", b"ann"), ("traceparent", TRACE)]
        produce(world, b"ann", body("event_id", "event_time", "user_id"), headed)
        produce(world, b"ann", body("event_id", "event_time", "user_id"), headed)  # the same again: it counts once
        produce(world, b"ben", body("user_id"), [("ce_subject", b"ben")])
        world.wait_until_handled()
        cold = {record.key: dict(record.headers) for record in world.read(world.topics.lists)}
        world.release(toy_model())
        world.wait_for_metric(worker, 'efficientrec_model_swaps_total{outcome="installed"}', 1)
        produce(world, b"ann", body("event_id", "user_id"), [("ce_id", b"e2"), ("ce_subject", b"ann")])
        world.wait_until_handled()

        last = world.last(world.topics.lists)
        expect_exact_rows(world, world.rows())
        expect_last_lists(world)
        assert len(world.accepted()["ann"]) == 3
    finally:
        world.close()

    headers = dict(last[b"ann"].headers)
    published = decode_list(last[b"ann"].value or b"")
    assert published.trigger.event_id == "e2"
    assert headers == {
        "ce_specversion": b"1.0",
        "ce_id": published.rec_id.encode(),
        "ce_source": world.settings.installation.encode(),
        "ce_type": LIST_TYPE.encode(),
        "ce_time": published.generated_at.encode(),
        "ce_subject": b"ann",
        "content-type": b"application/json",
    }
    assert cold[b"ann"]["traceparent"] == TRACE
    assert "traceparent" not in cold[b"ben"]


def test_a_trace_goes_on_to_the_list_also_without_cloudevents(embedded_broker: EmbeddedBroker, tmp_path: Path) -> None:
    world = World(embedded_broker.address, tmp_path)
    try:
        world.create_topics()
        world.release(toy_model())
        world.start("only")
        other = TRACE[:-2] + b"00"
        for user, trace in ((b"ann", other), (b"ben", None), (b"cleo", b"nonsense"), (b"ann", TRACE)):
            text = body("user_id", "event_id")[:-1] + b', "user_id": "' + user + b'"}'
            produce(world, user, text, [] if trace is None else [("traceparent", trace)])
        world.wait_until_handled()

        last = {record.key: list(record.headers) for record in world.last(world.topics.lists).values()}
    finally:
        world.close()

    assert last == {b"ann": [("traceparent", TRACE)], b"ben": [], b"cleo": []}


def produce(world: World, key: bytes, value: bytes, headers: Headers) -> None:
    world.produce(world.topics.interactions, [(key, value)], headers)
