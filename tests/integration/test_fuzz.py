"""Ten thousand records that no producer should send, at a real worker: each is set aside, and the stream goes on."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import msgspec

from streams.broker import EmbeddedBroker
from streams.records import REASONS
from tests.integration.harness import KeyValue, World
from tests.integration.play import like
from tests.toy import START, toy_model

RECORDS = 10_000
LARGE = 30
"""So many have strings of about a MiB, as much as a broker takes."""
GOOD = {"event_type": "like", "user_id": "u", "item_id": "a1", "event_time": START}
ODD_VALUES: list[object] = [
    None, True, False, 0, -1, 1e308, -1e308, 10**40, -(10**400), 2**63, 1e-320, "", "\x00", "NaN", "\ud800", [], {},
    [[]], "9999-12-31T23:59:59Z", "2024-13-01T00:00:00Z", "yesterday", 1e11 + 0.5, 2**53, "x" * 513, ["u"],
    {"a": {"b": []}},
]  # fmt: skip
"""What a field may be given instead of what belongs there."""


def _bytes(rng: random.Random) -> bytes:
    return rng.randbytes(rng.randrange(200))


def _truncated(rng: random.Random) -> bytes:
    whole = msgspec.json.encode(GOOD)
    return whole[: rng.randrange(len(whole))]


def _flipped(rng: random.Random) -> bytes:
    whole = bytearray(msgspec.json.encode(GOOD))
    for _ in range(rng.randrange(1, 6)):
        whole[rng.randrange(len(whole))] = rng.randrange(256)
    return bytes(whole)


def _mistyped(rng: random.Random) -> bytes:
    body: dict[str, object] = {**GOOD, "value": 1, "event_id": "e", "rec_id": "r"}
    for name in rng.sample(sorted(body), rng.randrange(1, 4)):
        body[name] = rng.choice(ODD_VALUES)
    return _json(body).encode("utf-8", "surrogatepass")


def _json(value: object) -> str:
    """JSON, with numbers of any length and halves of surrogate pairs, which a careful encoder would refuse."""
    if isinstance(value, dict):
        return "{" + ",".join(f"{_json(key)}:{_json(part)}" for key, part in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ",".join(map(_json, value)) + "]"
    if isinstance(value, str):
        return '"' + value.replace("\x00", "\\u0000") + '"'
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return str(value)


def _number(rng: random.Random) -> bytes:
    digits = "".join(rng.choices("0123456789", k=rng.randrange(1, 400)))
    number = (
        rng.choice(["", "-"]) + digits.lstrip("0") + rng.choice(["0", ".0", "e999", "E-999", "e", ".", "e+99999999"])
    )
    return msgspec.json.encode({**GOOD, "value": 0})[:-2] + number.encode() + b"}"


def _nested(rng: random.Random) -> bytes:
    depth = rng.randrange(1, 20_000)
    opening, closing = rng.choice([(b"[", b"]"), (b'{"user_id":', b"}")])
    return opening * depth + b"1" + closing * rng.choice([0, depth])


def _not_utf8(rng: random.Random) -> bytes:
    at = rng.choice([b'"u"', b'"a1"', b'"like"', b"user_id"])
    return msgspec.json.encode(GOOD).replace(
        at, at[:-1] + rng.choice([b"\xff", b"\xc3", b"\xed\xa0\x80", b"\xf8"]) + at[-1:]
    )


def _large(rng: random.Random) -> bytes:
    body: dict[str, object] = dict(GOOD)
    body[rng.choice(sorted(body))] = chr(rng.choice([120, 233, 0x1F600])) * 250_000 * rng.choice([1, 4])
    return msgspec.json.encode(body)[: 1_040_000 - rng.randrange(1000)]


KINDS: list[Callable[[random.Random], bytes]] = [_bytes, _truncated, _flipped, _mistyped, _number, _nested, _not_utf8]


def _records(seed: int) -> list[KeyValue]:
    rng = random.Random(seed)
    made: list[KeyValue] = []
    for number in range(RECORDS):
        value: bytes | None = _large(rng) if number % (RECORDS // LARGE) == 7 else rng.choice(KINDS)(rng)
        key: bytes | None = b"fuzz-%d" % number  # never the user that the body names, or any body might be right
        chance = rng.random()
        if chance < 0.01:
            value = None
        elif chance < 0.02:
            key = b"fuzz-%d-" % number + rng.randbytes(rng.randrange(1, 900))
        made.append((key, value))
    return made


def test_ten_thousand_fuzzed_records_are_set_aside_and_the_stream_goes_on(
    embedded_broker: EmbeddedBroker, tmp_path: Path
) -> None:
    world = World(embedded_broker.address, tmp_path)
    try:
        world.create_topics()
        world.release(toy_model())
        (worker,) = world.start("only")
        records = _records(seed=20)

        for first in range(0, RECORDS, 1000):
            world.produce(world.topics.interactions, records[first : first + 1000])
            world.interact(like("good", "a1"))
        world.wait_until_handled()

        letters = world.read(world.topics.dead_letters)
        by_key = {record.key: record for record in letters}
        assert set(by_key) == {key for key, _ in records}
        for key, value in records:
            letter, headers = by_key[key], dict(by_key[key].headers)
            assert headers["dlq.error.class"].decode() in REASONS
            assert headers["dlq.error.message"]
            assert letter.value == value or (
                letter.value is None and b"too large to be set aside" in headers["dlq.error.message"]
            )
        assert worker.process.poll() is None
        assert "Traceback" not in worker.output()
        assert world.list_of("good") is not None
        assert list(world.rows()) == [b"good"]
        assert len(world.accepted("good")["good"]) == RECORDS // 1000
        assert sum(len(value or b"") > 900_000 for _, value in records) >= LARGE // 4
    finally:
        world.close()
