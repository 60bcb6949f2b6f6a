"""What a body of POST /v1/events holds: records for the interactions topic, or what is wrong with them and where.

All or nothing: an event that the worker would set aside is refused here, by the worker's own decoder, together with
all that came with it. Knows neither HTTP nor Kafka.
"""

from __future__ import annotations

from typing import Final

import msgspec

from efficientrec.errors import InteractionInvalid
from efficientrec.interactions import WeightPolicy
from streams.outbox import KeyValue
from streams.records import decode_interaction

EVENTS_MAX: Final = 1000
EVENT_BYTES_MAX: Final = 64 * 1024
"""Of one event, with fields that nobody reads. All its ids at their longest take a few kilobytes."""
FAULTS_SHOWN: Final = 20
"""Faults that one answer names."""

JSON: Final = "application/json"
NDJSON: Final = "application/x-ndjson"

_WHITESPACE: Final = b" \t\r\n"


class Fault(msgspec.Struct):
    """What is wrong with one event."""

    index: int
    """Its place in the body, counted from 0; of newline-delimited JSON, without empty lines."""
    reason: str
    """One of the reasons of docs/events.md."""
    detail: str


class BodyUnreadable(Exception):
    """The body as a whole is not what its content type says."""


class TooMany(Exception):
    """More events than one request may bring."""


class EventsInvalid(Exception):
    """Some events cannot be used; no event of the body is taken."""

    def __init__(self, faults: list[Fault], events: int) -> None:
        super().__init__(f"{len(faults)} of {events} events cannot be used, and so none was taken")
        self.faults = faults[:FAULTS_SHOWN]
        self.events = events


class _Whose(msgspec.Struct):
    user_id: str


_decode_whose = msgspec.json.Decoder(_Whose).decode
_decode_one = msgspec.json.Decoder(msgspec.Raw).decode
_decode_array = msgspec.json.Decoder(list[msgspec.Raw]).decode


def records_in(body: bytes, content_type: str, policy: WeightPolicy, latest_ms: int) -> list[KeyValue]:
    """The records (key, value) of a body, in its order; at least one. Raises BodyUnreadable, TooMany, EventsInvalid.

    The bytes of an event go on as they came, with what else its producer wrote into it.

    >>> records_in(b'{"event_type":"like","user_id":"u","item_id":"i","event_time":1}', JSON, WeightPolicy(), 10_000)
    [(b'u', b'{"event_type":"like","user_id":"u","item_id":"i","event_time":1}')]
    """
    values = _events(body, content_type)
    if not values:
        raise BodyUnreadable("the body holds no event; expected one at least")
    if len(values) > EVENTS_MAX:
        raise TooMany(f"the body holds {len(values)} events; expected at most {EVENTS_MAX}")
    faults = []
    records: list[KeyValue] = []
    for index, value in enumerate(values):
        try:
            if len(value) > EVENT_BYTES_MAX:
                message = f"the event has {len(value)} bytes; expected at most {EVENT_BYTES_MAX}"
                raise InteractionInvalid("too_long", message)
            key = _key_of(value)
            decode_interaction(value, key, policy, latest_ms)
            records.append((key, value))
        except InteractionInvalid as error:
            faults.append(Fault(index, error.reason, str(error)))
    if faults:
        raise EventsInvalid(faults, len(values))
    return records


def _events(body: bytes, content_type: str) -> list[bytes]:
    if content_type == NDJSON:
        return [line for line in map(bytes.strip, body.splitlines()) if line]
    try:
        if body.lstrip(_WHITESPACE)[:1] == b"[":
            return [bytes(each) for each in _decode_array(body)]
        return [bytes(_decode_one(body))]
    except (msgspec.DecodeError, RecursionError) as error:
        raise BodyUnreadable(f"{error}; expected a JSON object, or an array of them") from error


def _key_of(value: bytes) -> bytes:
    """The user's id; empty where there is none, which the decoder refuses for a better reason than a wrong key."""
    try:
        return _decode_whose(value).user_id.encode()
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return b""
