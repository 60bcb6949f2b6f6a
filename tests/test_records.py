"""The wire contract: its examples, what a run of interactions becomes, and what is refused with which reason."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from efficientrec.errors import InteractionInvalid, RecordInvalid
from efficientrec.interactions import RULES, WeightPolicy, key_of
from streams import records

EVENTS_PAGE = (Path(__file__).parent.parent / "docs" / "events.md").read_text(encoding="utf-8")
EXAMPLES = re.findall(r"```json (\w+)\n(.*?)```", EVENTS_PAGE, re.DOTALL)
NOW = 1_714_600_000_000
DAY = 86_400_000
POLICY = WeightPolicy()
GOOD: dict[str, Any] = {"event_type": "like", "user_id": "u", "item_id": "i", "event_time": 1_714_566_600}


def decode(
    *records_: tuple[bytes | None, bytes | None],
    timestamps: Sequence[int] | None = None,
    origins: Sequence[str | None] | None = None,
) -> records.Decoded:
    """The run of these (value, key), at offsets 100, 101, …; at the broker at NOW unless told otherwise."""
    values = [value for value, _ in records_]
    keys = [key for _, key in records_]
    offsets = range(100, 100 + len(records_))
    arrived = [NOW] * len(records_) if timestamps is None else timestamps
    return records.decode_interactions(values, keys, offsets, arrived, NOW, POLICY, DAY, origins)


def good(**changes: Any) -> tuple[bytes, bytes]:
    body = {**GOOD, **changes}
    return json.dumps(body).encode(), str(body["user_id"]).encode()


# The page


@pytest.mark.parametrize(("name", "text"), EXAMPLES, ids=[name for name, _ in EXAMPLES])
def test_each_example_of_the_page_survives_a_round_trip(name: str, text: str) -> None:
    record = msgspec.json.decode(text, type=getattr(records, name), strict=True)

    again = records.encode(record)

    assert json.loads(again) == json.loads(text)


def test_the_page_has_an_example_of_every_record() -> None:
    assert {name for name, _ in EXAMPLES} == {
        "Interaction",
        "Item",
        "User",
        "RecommendationList",
        "Release",
        "Experiment",
    }


def test_the_examples_are_accepted_with_their_keys() -> None:
    bodies = {name: text.encode() for name, text in EXAMPLES}

    assert records.decode_item(bodies["Item"], b"m-1197").title == "The Princess Bride (1987)"
    assert records.decode_user(bodies["User"], b"u-42").features["country"] == "SE"
    assert records.decode_list(bodies["RecommendationList"]).items[1].reasons[0].kind == "popular"
    assert records.decode_release(bodies["Release"]).address.startswith("s3://")
    assert records.decode_experiment(bodies["Experiment"]).share == 0.1
    runs = [decode((text.encode(), b"u-42")) for name, text in EXAMPLES if name == "Interaction"]
    assert [run.rejected for run in runs] == [[], []]


def test_the_page_lists_every_reason_and_every_event_type() -> None:
    reasons = re.findall(r"^\| `(\w+)` \| [A-Z]", EVENTS_PAGE.split("## Dead letters")[1], re.MULTILINE)
    types = dict(
        re.findall(r"^\| `(\w+)` \| ([^|]+) \|", EVENTS_PAGE.split("### Event types")[1].split("###")[0], re.M)
    )

    assert tuple(reasons) == records.REASONS
    assert list(types) == list(RULES)
    assert all(float(types[name]) == rule.weight for name, rule in RULES.items() if not rule.needs_value)


# A run


def test_a_run_becomes_columns_in_offset_order() -> None:
    run = decode(
        good(user_id="ada", item_id="x", event_id="e1", rec_id="r1"),
        good(user_id="bob", item_id="y", event_type="rating", value=5),
        good(user_id="ada", item_id="y", event_type="view"),
    )

    columns = run.interactions
    assert columns.users == ["ada", "bob"]
    assert columns.user.tolist() == [0, 1, 0]
    assert columns.item.tolist() == [key_of("x"), key_of("y"), key_of("y")]
    assert columns.weight.tolist() == pytest.approx([1.0, 1.0, 0.1])
    assert columns.at.tolist() == [1_714_566_600_000] * 3
    assert columns.offset.tolist() == [100, 101, 102]
    assert columns.event.tolist() == [key_of("e1"), 0, 0]
    assert columns.excludes.tolist() == [True, True, False]
    assert run.event_ids == ["e1", None, None]
    assert run.rec_ids == ["r1", None, None]
    assert run.item_ids == ["x", "y", "y"]
    assert run.event_types == ["like", "rating", "view"]
    assert run.rejected == []


def test_a_bad_record_leaves_its_neighbours_where_they_are() -> None:
    run = decode(good(item_id="x"), (b"{", b"u"), good(item_id="y"))

    assert run.item_ids == ["x", "y"]
    assert run.index.tolist() == [0, 2]
    assert run.interactions.offset.tolist() == [100, 102]
    assert [(each.index, each.reason) for each in run.rejected] == [(1, "undecodable")]


def test_each_event_has_the_time_at_which_the_broker_got_it() -> None:
    run = decode(good(), (b"{", b"u"), good(), good(), timestamps=[NOW, 1, NOW + 5, -1])

    assert run.interactions.arrived.tolist() == [NOW, NOW + 5, 0]  # a negative one says that the broker does not know
    assert run.interactions.arrived.dtype == np.int64


def test_an_origin_stands_for_the_id_of_an_event_that_has_none() -> None:
    run = decode(
        (b"{", b"u"),
        good(event_id="e1"),
        good(),
        good(event_id=""),
        good(),
        origins=["o0", "o1", "o2", "o3", None],
    )

    assert run.interactions.event.tolist() == [key_of("e1"), key_of("o2"), key_of("o3"), 0]
    assert run.event_ids == ["e1", None, None, None]


def test_an_empty_run_has_empty_columns() -> None:
    run = decode(origins=[])

    assert len(run.interactions) == 0
    assert len(run.interactions.arrived) == 0
    assert run.interactions.at.dtype == np.int64
    assert run.rejected == []


@pytest.mark.parametrize(
    ("time", "expected"),
    [
        (1_714_566_600, 1_714_566_600_000),
        (1_714_566_600.25, 1_714_566_600_250),
        (1_714_566_600_250, 1_714_566_600_250),
        ("2024-05-01T12:30:00Z", 1_714_566_600_000),
        ("2024-05-01t12:30:00.250z", 1_714_566_600_250),
        ("2024-05-01T14:30:00.2501+02:00", 1_714_566_600_250),
        (0, 0),
    ],
)
def test_each_spelling_of_a_time_is_understood(time: records.Time, expected: int) -> None:
    run = decode(good(event_time=time))

    assert run.interactions.at.tolist() == [expected]
    assert records.moment_ms(time) == expected


def test_spellings_of_time_may_be_mixed_in_a_run() -> None:
    run = decode(good(event_time="2024-05-01T12:30:00Z"), good(event_time=1_714_566_600), good(event_time=1e12))

    assert run.interactions.at.tolist() == [1_714_566_600_000, 1_714_566_600_000, 1_000_000_000_000]


def raw(**changes: str) -> tuple[bytes, bytes]:
    """A good record with the JSON of some fields replaced, so that it can be what no encoder writes."""
    body = {key: json.dumps(value) for key, value in GOOD.items()} | changes
    return ("{" + ",".join(f'"{key}":{text}' for key, text in body.items()) + "}").encode(), b"u"


BAD = {
    "no value": ((None, b"u"), "undecodable", "no value"),
    "empty": ((b"", b"u"), "undecodable", "expected a JSON object"),
    "not JSON": ((b"like", b"u"), "undecodable", "malformed"),
    "an array": ((b"[1]", b"u"), "undecodable", "array"),
    "two objects": ((b"%b,%b" % (good()[0], good()[0]), b"u"), "undecodable", "malformed"),
    "half an object": ((good()[0][:-1], b"u"), "undecodable", "truncated"),
    "not UTF-8": ((b'{"user_id":"\xff"}', b"u"), "undecodable", "utf-8"),
    "half a character": (raw(item_id='"\\ud800"'), "undecodable", "expected a JSON object"),
    "deep nesting": ((b'{"x":' + b"[" * 100_000, b"u"), "undecodable", "recursion"),
    "number as id": (good(item_id=7), "undecodable", r"\$.item_id"),
    "null as id": (good(item_id=None), "undecodable", r"\$.item_id"),
    "number as key": (raw(event_id="7"), "undecodable", r"\$.event_id"),
    "missing user": ((b'{"event_type":"like","item_id":"i","event_time":1}', b"u"), "incomplete", "user_id"),
    "missing time": ((b'{"event_type":"like","item_id":"i","user_id":"u"}', b"u"), "incomplete", "event_time"),
    "empty user": (good(user_id=""), "incomplete", "user_id is empty"),
    "empty item": (good(item_id=""), "incomplete", "item_id is empty"),
    "empty type": (good(event_type=""), "incomplete", "event_type is empty"),
    "rating without value": (good(event_type="rating"), "incomplete", "a rating has no value"),
    "long user": (good(user_id="é" * 257), "too_long", "user_id has 514 bytes; expected at most 512"),
    "long item": (good(item_id="i" * 513), "too_long", "item_id has 513 bytes"),
    "long event id": (good(event_id="e" * 513), "too_long", "event_id has 513 bytes"),
    "no key": ((good()[0], None), "key_mismatch", "no key"),
    "other key": ((good()[0], b"v"), "key_mismatch", "b'v'; expected the user_id 'u'"),
    "key not UTF-8": ((good()[0], b"\xff"), "key_mismatch", "the key is"),
    "unknown type": (good(event_type="sneeze"), "unknown_type", "'sneeze'; expected one of view, click"),
    "infinite value": (raw(value="1e999"), "bad_value", r"\$.value"),
    "text as value": (raw(value='"5"'), "bad_value", r"\$.value"),
    "null as time": (good(event_time=None), "bad_time", r"\$.event_time"),
    "time in words": (good(event_time="yesterday"), "bad_time", "'yesterday'; expected RFC 3339"),
    "time without offset": (good(event_time="2024-05-01T12:30:00"), "bad_time", "expected RFC 3339 with an offset"),
    "time before 1970": (good(event_time=-1), "bad_time", "expected 1970 or later"),
    "time text before 1970": (good(event_time="1969-12-31T23:59:59Z"), "bad_time", "expected 1970 or later"),
    "endless time": (raw(event_time="1" * 400), "bad_time", "expected RFC 3339"),
    "infinite time": (raw(event_time="1e999"), "bad_time", r"\$.event_time"),
    "time in microseconds": (good(event_time=NOW * 1000), "far_future", "the latest accepted"),
    "time in two days": (good(event_time=NOW + 2 * DAY), "far_future", "2024-05-02T21:46:40.000Z"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_is_refused_gets_its_reason(name: str) -> None:
    (value, key), reason, message = BAD[name]

    run = decode(good(), (value, key), good())

    (rejected,) = run.rejected
    assert (rejected.index, rejected.reason) == (1, reason)
    assert re.search(message, rejected.message)
    assert len(run.interactions) == 2
    assert reason in records.REASONS


def test_every_reason_has_a_case() -> None:
    assert {reason for _, reason, _ in BAD.values()} == set(records.REASONS)


def test_the_longest_id_and_the_last_moment_are_accepted() -> None:
    run = decode(good(user_id="é" * 256), good(event_time=NOW + DAY), good(value=1e308), good(unknown={"deep": [1]}))

    assert run.rejected == []


# Whatever the bytes

WORDS = st.sampled_from(
    ["u", "v", "", "é", "x" * 200, "x" * 513, "like", "rating", "view", "sneeze", "\x00", "}", "{,"]
)
TIMES = st.one_of(
    st.integers(-10, 2 * NOW),
    st.floats(allow_nan=False, allow_infinity=False),
    st.integers(10**300, 10**320),
    st.datetimes().map(lambda time: time.isoformat() + "Z"),
    st.sampled_from(["", "now", "2024-05-01T12:30:00", "2024-05-01T12:30:00+25:00", "1970-01-01T00:00:00+00:01"]),
)
BODIES = st.fixed_dictionaries(
    {
        "event_type": st.sampled_from(["like", "rating", "view", "like"]),
        "event_time": TIMES | st.just(GOOD["event_time"]),
    },
    optional={
        "user_id": WORDS | st.just("u"),
        "item_id": WORDS | st.just("i"),
        "value": st.none() | st.integers() | st.floats(allow_nan=False, allow_infinity=False),
        "event_id": st.none() | WORDS,
        "rec_id": WORDS,
        "other": st.recursive(
            st.none() | WORDS, lambda inner: st.lists(inner) | st.dictionaries(WORDS, inner), max_leaves=5
        ),
    },
)
FRAGMENTS = st.sampled_from(
    [
        b'{"other":[',
        b"]}",
        b'{"other":"',
        b'"}',
        b"{},{}",
        b"1,2",
        b",",
        b"",
        b"[",
        b"]",
        b" ",
        b"null",
        b"\xff",
        good()[0],
    ]
)
VALUES = st.one_of(BODIES.map(lambda body: json.dumps(body).encode()), FRAGMENTS, st.binary(max_size=20), st.none())
KEYS = st.sampled_from([b"u", b"u", b"u", b"v", b"", None, b"\xff", "é".encode()])
RUNS = st.lists(st.tuples(VALUES, KEYS), max_size=6)
GOOD_RUNS = st.lists(
    BODIES.map(lambda body: {**GOOD, "event_time": body["event_time"], "value": body.get("value") or 1.0}).map(
        lambda body: (json.dumps(body).encode(), b"u")
    ),
    max_size=6,
)


def one_by_one(run: list[tuple[bytes | None, bytes | None]]) -> list[records.Interaction | tuple[str, str]]:
    """What each record alone is: an interaction, or why it is none."""
    answers: list[records.Interaction | tuple[str, str]] = []
    for value, key in run:
        try:
            answers.append(records.decode_interaction(value, key, POLICY, NOW + DAY))
        except InteractionInvalid as error:
            answers.append((error.reason, str(error)))
    return answers


@settings(max_examples=400, deadline=None)
@given(RUNS | GOOD_RUNS)
def test_a_run_says_what_each_of_its_records_says_alone(run: list[tuple[bytes | None, bytes | None]]) -> None:
    alone = one_by_one(run)

    decoded = decode(*run)

    kept = [(place, event) for place, event in enumerate(alone) if isinstance(event, records.Interaction)]
    events = [event for _, event in kept]
    assert decoded.index.tolist() == [place for place, _ in kept]
    assert [(each.index, (each.reason, each.message)) for each in decoded.rejected] == [
        (place, answer) for place, answer in enumerate(alone) if isinstance(answer, tuple)
    ]
    columns = decoded.interactions
    assert [columns.users[place] for place in columns.user] == [event.user_id for event in events]
    assert columns.at.tolist() == [records.moment_ms(event.event_time) for event in events]
    assert columns.offset.tolist() == [100 + place for place, _ in kept]
    assert columns.item.tolist() == [key_of(event.item_id) for event in events]
    assert columns.event.tolist() == [key_of(event.event_id) if event.event_id else 0 for event in events]
    assert decoded.event_types == [event.event_type for event in events]
    assert np.isfinite(columns.weight).all()


def test_thousands_of_junk_records_lose_nothing_good() -> None:
    source = random.Random(7)
    sound = good()[0]
    run: list[tuple[bytes | None, bytes | None]] = []
    for place in range(3000):
        run.append(good(event_id=f"good-{place}"))
        spot = source.randrange(len(sound))
        mutant = sound[:spot] + source.randbytes(source.randrange(3)) + sound[spot + source.randrange(1, 4) :]
        run.append((source.choice([mutant, source.randbytes(source.randrange(40)), None]), source.choice([b"u", None])))

    decoded = decode(*run)

    assert {f"good-{place}" for place in range(3000)} <= set(decoded.event_ids)
    assert len(decoded.interactions) + len(decoded.rejected) == 6000
    assert len(decoded.rejected) > 2900


# The other records

ODD_MAPS = [b"\x80", b"\x81\xa1x" * 100_000, b"\x81\xa5items\xdd\xff\xff\xff\xff", b"\x89\xa7user_id\xa2\xff\xfe"]
"""MessagePack: nothing in it, too deep, much shorter than it says, not UTF-8."""


@given(st.binary(max_size=60) | st.sampled_from([b"{}", b"null", b'{"item_id":""}', b"[" * 100_000, *ODD_MAPS]))
def test_other_records_are_refused_with_one_error(value: bytes) -> None:
    for decoder in (records.decode_list, records.decode_release):
        with pytest.raises(RecordInvalid):
            decoder(value)
    with pytest.raises(RecordInvalid):
        records.decode_item(value, b"i")
    with pytest.raises(RecordInvalid):
        records.decode_user(value, b"u")


def test_a_list_of_a_newer_release_or_cut_short_is_refused_in_either_format() -> None:
    published = json.loads(dict(EXAMPLES)["RecommendationList"])

    for encode in (msgspec.json.encode, msgspec.msgpack.encode):
        body = encode(published)
        assert msgspec.to_builtins(records.decode_list(body)) == published
        with pytest.raises(RecordInvalid, match=r"schema_version 2; this release reads 1"):
            records.decode_list(encode({**published, "schema_version": 2}))
        for length in range(len(body)):
            with pytest.raises(RecordInvalid):
                records.decode_list(body[:length])


def test_a_wrong_field_is_named() -> None:
    release = {name: json.loads(text) for name, text in EXAMPLES}["Release"]

    with pytest.raises(RecordInvalid, match=r"the key is b'j'; expected the item_id 'i'"):
        records.decode_item(b'{"item_id":"i"}', b"j")
    with pytest.raises(RecordInvalid, match=r"expires_at of item 'i' is 'soon'; expected RFC 3339"):
        records.decode_item(b'{"item_id":"i","expires_at":"soon"}', b"i")
    with pytest.raises(RecordInvalid, match=r"features"):
        records.decode_user(b'{"user_id":"u","features":{"x":{}}}', b"u")
    with pytest.raises(RecordInvalid, match=r"sha256 of release .* expected 64 hex digits"):
        records.decode_release(json.dumps({**release, "sha256": "0"}).encode())
    with pytest.raises(RecordInvalid, match=r"expected one short line of printable text"):
        records.decode_release(json.dumps({**release, "version": "v\nCRITICAL forged"}).encode())
    with pytest.raises(RecordInvalid, match=r"schema_version 2; this release reads 1"):
        records.decode_release(json.dumps({**release, "schema_version": 2}).encode())
    with pytest.raises(RecordInvalid, match=r"released_at of release .* is 'soon'; expected RFC 3339"):
        records.decode_release(json.dumps({**release, "released_at": "soon"}).encode())
    experiment = {name: json.loads(text) for name, text in EXAMPLES}["Experiment"]
    for share in (0, 1, -0.1, 1.5):
        with pytest.raises(RecordInvalid, match=r"share of experiment .* expected one between 0 and 1"):
            records.decode_experiment(json.dumps({**experiment, "share": share}).encode())
    for salt in ("", "x\ny", "x" * 3000):
        with pytest.raises(RecordInvalid, match=r"salt of experiment .* expected one line of printable text"):
            records.decode_experiment(json.dumps({**experiment, "salt": salt}).encode())


def test_what_may_be_left_out_is_left_out() -> None:
    assert records.encode(records.Item("i")) == b'{"item_id":"i"}'
    assert records.encode(records.Reason("popular", 1.0)) == b'{"kind":"popular","share":1.0}'


def test_a_repeated_list_has_the_same_id_and_another_list_has_another() -> None:
    arguments: list[tuple[str, int, int, str, str | None]] = [
        ("t", 1, 2, "u", "m"),
        ("t", 12, 0, "u", "m"),
        ("t", 1, 20, "u", "m"),
        ("t", 1, 2, "v", "m"),
        ("t", 1, 2, "u", "n"),
        ("t", 1, 2, "u", None),
        ("t", 1, 2, "m\0u", None),
    ]

    ids = [records.rec_id_of(*each) for each in arguments]

    assert ids == [records.rec_id_of(*each) for each in arguments]
    assert len(set(ids)) == len(ids)


def test_times_go_out_in_utc_with_milliseconds() -> None:
    assert records.rfc3339(0) == "1970-01-01T00:00:00.000Z"
    assert records.rfc3339_column(np.array([NOW, NOW + 1])) == ["2024-05-01T21:46:40.000Z", "2024-05-01T21:46:40.001Z"]


def test_a_dead_letter_says_whence_and_why() -> None:
    headers = dict(records.dead_letter_headers("t", 3, 17, NOW, "bad_time", "event_time is 'é'; expected …"))

    assert headers == {
        "dlq.original.topic": b"t",
        "dlq.original.partition": b"3",
        "dlq.original.offset": b"17",
        "dlq.original.timestamp": b"1714600000000",
        "dlq.error.class": b"bad_time",
        "dlq.error.message": "event_time is 'é'; expected …".encode(),
    }
    assert set(headers) == set(re.findall(r"`(dlq\.[a-z.]+)`", EVENTS_PAGE))
