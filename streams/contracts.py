"""The contract with everything around, for machines: JSON Schemas of the records, AsyncAPI of the topics, OpenAPI.

`python -m streams.contracts` writes them to docs/contracts/, where a test compares them with the code. Shapes come from
the structs of records.py, and what its decoders ask beyond a shape is said here; docs/events.md tells people.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import msgspec

from streams import server_openapi
from streams.cloudevents import LIST_TYPE
from streams.records import (
    EXPERIMENT_KEY,
    ID_BYTES_MAX,
    REASONS,
    RELEASE_KEY,
    SCHEMA_VERSION,
    Experiment,
    Interaction,
    Item,
    RecommendationList,
    Release,
    User,
)
from streams.settings import Settings
from streams.topics import Topics, wanted

FOLDER: Final = Path("docs/contracts")
RECORDS: Final[Mapping[str, type[msgspec.Struct]]] = {
    "interactions": Interaction,
    "items": Item,
    "users": User,
    "lists": RecommendationList,
    "releases": Release,
}
"""Field of Topics → what its records are."""
BESIDE: Final[Mapping[str, type[msgspec.Struct]]] = {"releases": Experiment}
"""What else lies there, under keys of its own."""

_ID: Final = {
    "minLength": 1,
    "maxLength": ID_BYTES_MAX,
    "description": f"1 to {ID_BYTES_MAX} bytes in UTF-8, so fewer letters where they are not ASCII.",
}
_LATER_ID: Final = {"maxLength": ID_BYTES_MAX}
_DATE: Final = r"-(0[1-9]|1[0-2])-(0[1-9]|[12]\d|3[01])"
_CLOCK: Final = r"([01]\d|2[0-3]):[0-5]\d:[0-5]\d(\.\d+)?"
_OFFSET: Final = r"([Zz]|[+-]([01]\d|2[0-3]):?[0-5]\d)"
_TIME: Final = {
    "pattern": rf"^(?!0000)\d{{4}}{_DATE}[Tt ]{_CLOCK}{_OFFSET}$",
    "description": "RFC 3339 with an offset, or seconds (up to 1e11) or milliseconds since 1970.",
}
_SINCE_1970: Final = {
    **_TIME,
    "pattern": rf"^(19[7-9]\d|[2-9]\d{{3}}){_DATE}[Tt ]{_CLOCK}{_OFFSET}$",
    "minimum": 0,
}
_MOMENT: Final = {"exclusiveMinimum": -(2**53), "exclusiveMaximum": 2**53}
_VERSION: Final = {"const": SCHEMA_VERSION}
_RELEASE: Final[Mapping[str, Mapping[str, Any]]] = {
    "schema_version": _VERSION,
    "version": {"minLength": 1},
    "address": {"minLength": 1},
    "sha256": {"pattern": "^[0-9a-f]{64}$"},
    "released_at": {"pattern": _TIME["pattern"]},
}
_BEYOND_SHAPE: Final[Mapping[str, Mapping[str, Mapping[str, Any]]]] = {
    "Interaction": {
        "user_id": _ID,
        "item_id": _ID,
        "event_type": {"minLength": 1, "description": "One of the types that the settings know."},
        "event_id": _LATER_ID,
        "rec_id": _LATER_ID,
        "event_time": {**_MOMENT, **_SINCE_1970},
    },
    "Item": {"item_id": _ID, "expires_at": {**_MOMENT, **_TIME}},
    "User": {"user_id": _ID},
    "RecommendationList": {"schema_version": _VERSION},
    "Release": _RELEASE,
    "Experiment": {
        **_RELEASE,
        "share": {"exclusiveMinimum": 0, "exclusiveMaximum": 1},
        "salt": {"minLength": 1},
    },
}
"""Struct → field → what its decoder asks for beyond the type."""
_RATING: Final = {
    "if": {"properties": {"event_type": {"const": "rating"}}, "required": ["event_type"]},
    "then": {"properties": {"value": {"type": "number"}}, "required": ["value"]},
}


def json_schema(kind: type[msgspec.Struct]) -> dict[str, Any]:
    """The JSON Schema of a record, on its own."""
    schema = {"$schema": "https://json-schema.org/draft/2020-12/schema", **msgspec.json.schema(kind)}
    schema["$defs"] = _amended(schema["$defs"])
    return schema


def asyncapi() -> dict[str, Any]:
    """AsyncAPI 3.0 of the topics, under the names that the default settings give them."""
    settings = Settings()
    names, topics = Topics.of(settings), {topic.name: topic for topic in wanted(settings)}
    kinds = (*RECORDS.values(), *BESIDE.values())
    _, schemas = msgspec.json.schema_components(kinds, ref_template="#/components/schemas/{name}")
    titles = {field: kind.__name__ for field, kind in RECORDS.items()} | {"dead_letters": "DeadLetter"}
    channels = {}
    beside = {field: kind.__name__ for field, kind in BESIDE.items()}
    for field, title in titles.items():
        topic = topics[getattr(names, field)]
        channels[field] = {
            "address": topic.name,
            "description": "The first part of the name is the setting EFFICIENTREC_PREFIX.",
            "messages": {
                each: {"$ref": f"#/components/messages/{each}"}
                for each in (title, *((beside[field],) if field in beside else ()))
            },
            "bindings": {
                "kafka": {
                    "topic": topic.name,
                    "partitions": topic.partitions,
                    "topicConfiguration": {"cleanup.policy": [topic.cleanup]},
                    "bindingVersion": "0.5.0",
                }
            },
        }
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "EfficientRec",
            "version": "1.0.0",
            "description": "Interactions in, refreshed lists out. docs/events.md tells the same to people.",
            "license": {"name": "Apache-2.0"},
        },
        "servers": {"kafka": {"host": settings.bootstrap_servers[0], "protocol": "kafka"}},
        "defaultContentType": "application/json",
        "channels": channels,
        "operations": {
            "receiveInteractions": _operation(
                "receive", "interactions", "The worker folds them; the trainer logs them."
            ),
            "receiveItems": _operation("receive", "items", "Worker and trainer keep the catalogue."),
            "receiveUsers": _operation("receive", "users", "Worker and trainer keep what is known, and erase."),
            "sendLists": _operation("send", "lists", "The worker publishes each list that has changed."),
            "sendReleases": _operation(
                "send", "releases", "The trainer puts a model into service, or somebody tries one; workers install it."
            ),
            "sendDeadLetters": _operation("send", "dead_letters", "The worker sets aside what it cannot use."),
        },
        "components": {
            "messages": {title: _message(field, title) for field, title in (*titles.items(), *beside.items())},
            "schemas": _amended(schemas),
        },
    }


_KEYS: Final = {
    "Release": f"The text {RELEASE_KEY.decode()}.",
    "Experiment": f"The text {EXPERIMENT_KEY.decode()}.",
    "Item": "The item's id, in UTF-8.",
    "DeadLetter": "As it came.",
}


def _operation(action: str, channel: str, summary: str) -> dict[str, Any]:
    return {"action": action, "channel": {"$ref": f"#/channels/{channel}"}, "summary": summary}


def _message(field: str, title: str) -> dict[str, Any]:
    described = _KEYS.get(title, "The user's id, in UTF-8; murmur2 of it decides the partition.")
    message: dict[str, Any] = {
        "name": title,
        "bindings": {"kafka": {"key": {"type": "string", "description": described}, "bindingVersion": "0.5.0"}},
    }
    if field == "dead_letters":
        return message | {"payload": {"description": "The bytes of the record, as they came."}, "headers": _DLQ_HEADERS}
    message["payload"] = {"$ref": f"#/components/schemas/{title}"}
    if field == "interactions":
        message["headers"] = _headers("The event's own id, where the body has no event_id.", "")
    if field == "lists":
        message["headers"] = _headers("The list's rec_id; with EFFICIENTREC_CLOUDEVENTS=on.", LIST_TYPE)
        message["description"] = "MessagePack with the same fields where EFFICIENTREC_LIST_FORMAT says so."
    return message


def _headers(what_id_is: str, kind: str) -> dict[str, Any]:
    """CloudEvents 1.0 in Kafka's binary mode, and W3C trace context: all of them may be missing."""
    return {
        "type": "object",
        "properties": {
            "ce_specversion": {"type": "string", "const": "1.0"},
            "ce_id": {"type": "string", "description": what_id_is},
            "ce_source": {"type": "string"},
            "ce_type": {"type": "string", **({"const": kind} if kind else {})},
            "ce_time": {"type": "string", "format": "date-time"},
            "ce_subject": {"type": "string", "description": "The user's id."},
            **({"ce_arm": {"type": "string", "description": "The list's arm, in an experiment."}} if kind else {}),
            "content-type": {"type": "string"},
            "traceparent": {"type": "string", "description": "W3C trace context."},
        },
    }


_DLQ_HEADERS: Final[dict[str, Any]] = {
    "type": "object",
    "properties": {
        **{f"dlq.original.{name}": {"type": "string"} for name in ("topic", "partition", "offset", "timestamp")},
        "dlq.error.class": {"type": "string", "enum": list(REASONS)},
        "dlq.error.message": {"type": "string"},
    },
    "required": ["dlq.original.topic", "dlq.original.partition", "dlq.original.offset", "dlq.error.class"],
}


def _amended(schemas: dict[str, Any]) -> dict[str, Any]:
    """The schemas with what decoders ask for beyond a shape, and each description on one line."""
    for name, schema in schemas.items():
        schema["description"] = " ".join(schema["description"].split())
        for field, more in _BEYOND_SHAPE.get(name, {}).items():
            _amend(schema["properties"][field], more)
        if name == "Interaction":
            schema |= _RATING
    return schemas


def _amend(schema: dict[str, Any], more: Mapping[str, Any]) -> None:
    """Each keyword goes to the alternative that it speaks of."""
    kinds = {"pattern": "string", "minLength": "string", "maxLength": "string"}
    numeric = {"minimum", "exclusiveMinimum", "exclusiveMaximum"}
    alternatives = schema.get("anyOf", [schema])
    for keyword, value in more.items():
        if keyword == "description":
            schema[keyword] = value
            continue
        for each in alternatives:
            wanted_here = each["type"] in ("integer", "number") if keyword in numeric else True
            if wanted_here and each["type"] == kinds.get(keyword, each["type"]):
                each[keyword] = value


def documents() -> dict[str, str]:
    """File name → its text."""
    prefix = Settings().prefix + "."
    names = Topics.of(Settings())
    found = {
        f"{getattr(names, field).removeprefix(prefix)}.schema.json": json_schema(kind)
        for field, kind in RECORDS.items()
    }
    found |= {
        f"{getattr(names, field).removeprefix(prefix)}.{kind.__name__.lower()}.schema.json": json_schema(kind)
        for field, kind in BESIDE.items()
    }
    found |= {"asyncapi.json": asyncapi(), "openapi.json": server_openapi.document()}
    return {name: json.dumps(document, indent=2) + "\n" for name, document in found.items()}


if __name__ == "__main__":
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in documents().items():
        (folder / name).write_text(text)
