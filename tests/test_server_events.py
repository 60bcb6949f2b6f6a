"""What comes by POST is what the worker would accept, and a refusal says which event and why."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from efficientrec.errors import InteractionInvalid
from efficientrec.interactions import WeightPolicy
from streams.records import decode_interaction
from streams.server_events import (
    EVENT_BYTES_MAX,
    EVENTS_MAX,
    FAULTS_SHOWN,
    JSON,
    NDJSON,
    BodyUnreadable,
    EventsInvalid,
    TooMany,
    records_in,
)
from tests.toy import DAY, START

POLICY = WeightPolicy()
LATEST = START + DAY


def event(**changes: Any) -> dict[str, Any]:
    return {"event_type": "like", "user_id": "u", "item_id": "i", "event_time": START // 1000, **changes}


def taken(body: object, kind: str = JSON) -> list[tuple[bytes, bytes | None]]:
    return records_in(body if isinstance(body, bytes) else json.dumps(body).encode(), kind, POLICY, LATEST)


def faults(body: object, kind: str = JSON) -> list[tuple[int, str]]:
    with pytest.raises(EventsInvalid) as caught:
        taken(body, kind)
    return [(fault.index, fault.reason) for fault in caught.value.faults]


def test_one_event_goes_on_as_it_came_under_its_users_key() -> None:
    body = b' {"user_id":"\\u00fc", "extra":[1, 2],"event_type":"like","item_id":"i","event_time":1700000000} '

    assert taken(body) == [("ü".encode(), body.strip())]


def test_an_array_and_lines_hold_several_in_their_order() -> None:
    events = [event(user_id="a"), event(user_id="b", event_type="rating", value=4), event(user_id="a", item_id="j")]
    lines = b"\r\n".join(json.dumps(each).encode() for each in events) + b"\n\n"

    assert [key for key, _ in taken(events)] == [b"a", b"b", b"a"]
    assert [json.loads(value or b"") for _, value in taken(events)] == events
    assert [json.loads(value or b"") for _, value in taken(lines, NDJSON)] == events


def test_each_fault_is_named_with_its_place_and_nothing_is_taken() -> None:
    body = [event(), event(event_type="sneeze"), event(user_id=7), event(item_id=""), event(event_time="noon"), 5]

    assert faults(body) == [
        (1, "unknown_type"),
        (2, "undecodable"),
        (3, "incomplete"),
        (4, "bad_time"),
        (5, "undecodable"),
    ]
    assert faults({"item_id": "i"}) == [(0, "incomplete")]
    assert faults(b'{"user_id":"u"}\n\n{', NDJSON) == [(0, "incomplete"), (1, "undecodable")]
    assert faults(event(user_id="x" * 513)) == [(0, "too_long")]
    assert faults(event(other="x" * EVENT_BYTES_MAX)) == [(0, "too_long")]
    assert faults(event(event_time=START + 2 * DAY)) == [(0, "far_future")]


def test_an_answer_names_the_first_faults_only() -> None:
    with pytest.raises(EventsInvalid, match=r"^1000 of 1000 events") as caught:
        taken([{}] * EVENTS_MAX)

    assert [fault.index for fault in caught.value.faults] == list(range(FAULTS_SHOWN))


@pytest.mark.parametrize(
    "body", [b"", b"  ", b"{", b"[", b"[{},]", b"{}{}", b"like", b"[" * 100_000, b"\xff", b'["\xff"]']
)
def test_what_is_not_json_is_told_as_such(body: bytes) -> None:
    with pytest.raises((BodyUnreadable, EventsInvalid)):
        taken(body)


@pytest.mark.parametrize(("body", "kind"), [(b"[]", JSON), (b" [ ] ", JSON), (b"", NDJSON), (b"\n \n", NDJSON)])
def test_no_event_is_no_body(body: bytes, kind: str) -> None:
    with pytest.raises(BodyUnreadable, match="no event"):
        taken(body, kind)


def test_more_events_than_one_request_may_bring_are_refused() -> None:
    assert len(taken([event()] * EVENTS_MAX)) == EVENTS_MAX
    with pytest.raises(TooMany, match="at most 1000"):
        taken([event()] * (EVENTS_MAX + 1))


JUNK = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text("a{é"),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from("ab"), inner, max_size=2),
    max_leaves=3,
)
BODIES = st.fixed_dictionaries(
    {},
    optional={
        "event_type": st.sampled_from(["like", "rating", "sneeze", ""]) | JUNK,
        "user_id": st.sampled_from(["u", "", "x" * 513, "ü"]) | JUNK,
        "item_id": st.sampled_from(["i", ""]) | JUNK,
        "event_time": st.sampled_from([START, START // 1000, "2023-11-14T22:13:20Z", "noon", -1]) | JUNK,
        "value": JUNK,
        "event_id": JUNK,
    },
)


@given(st.lists(BODIES | BODIES.map(lambda body: {**event(), **body}), min_size=1, max_size=4))
def test_it_takes_and_refuses_what_the_worker_does(bodies: list[dict[str, Any]]) -> None:
    expected = []
    for index, body in enumerate(bodies):
        try:
            user = body.get("user_id")
            decode_interaction(json.dumps(body).encode(), str(user).encode(errors="replace"), POLICY, LATEST)
        except InteractionInvalid as error:
            expected.append((index, error.reason))

    if expected:
        assert faults(bodies) == expected
    else:
        assert len(taken(bodies)) == len(bodies)
