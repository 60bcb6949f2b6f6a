"""CloudEvents 1.0 in Kafka's binary mode: the body stays what it is, and headers say whose, when and which it is.

On the way in, headers fill in what the body leaves out. On the way out, lists get them where the settings say so. A
`traceparent` (W3C trace context) goes on from an event to the list that it makes, whether anybody asks for it or not.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Final

import msgspec

from streams.outbox import Headers
from streams.records import rec_id_of

if TYPE_CHECKING:
    from streams.lists import Cause

TRACEPARENT: Final = "traceparent"
LIST_TYPE: Final = "efficientrec.recommendations.list.v1"
CONTENT_TYPES: Final = {"json": b"application/json", "msgpack": b"application/msgpack"}
_FILLS: Final = {"ce_id": "event_id", "ce_time": "event_time", "ce_subject": "user_id"}
_TRACE: Final = re.compile(rb"(?!ff)[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")

_decode_fields = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode


def completed(value: bytes | None, headers: Iterable[tuple[str, bytes | None]]) -> bytes | None:
    """An interaction's body, with event_id, event_time and user_id from its headers where it has none of its own.

    >>> completed(b'{"item_id":"i"}', [("ce_id", b"7f0c"), ("ce_time", b"2024-05-01T12:30:00Z")])
    b'{"item_id":"i","event_id":"7f0c","event_time":"2024-05-01T12:30:00Z"}'
    """
    given = {_FILLS[name]: text for name, text in headers if name in _FILLS and text is not None}
    if not given or value is None:
        return value
    try:
        body: dict[str, Any] = _decode_fields(value)
        more = {field: text.decode() for field, text in given.items() if field not in body}
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return value  # whoever decodes it will say what is wrong
    return msgspec.json.encode(body | more) if more else value


def trace_of(headers: Iterable[tuple[str, bytes | None]]) -> bytes | None:
    """The trace context among the headers, if there is one that is well formed."""
    for name, value in headers:
        if name == TRACEPARENT and value is not None and _TRACE.fullmatch(value):
            return bytes(value)
    return None


def list_headers(
    cause: Cause, version: str | None, generated_at: str, source: str, list_format: str, arm: str | None = None
) -> Headers:
    """What a list bears as a CloudEvent: its rec_id, its user and its arm stand there, too."""
    place = cause.trigger
    rec_id = rec_id_of(place.topic, place.partition, place.offset, cause.user, version)
    headers = [
        ("ce_specversion", b"1.0"),
        ("ce_id", rec_id.encode()),
        ("ce_source", source.encode()),
        ("ce_type", LIST_TYPE.encode()),
        ("ce_time", generated_at.encode()),
        ("ce_subject", cause.user.encode()),
        ("content-type", CONTENT_TYPES[list_format]),
    ]
    return headers if arm is None else [*headers, ("ce_arm", arm.encode())]
