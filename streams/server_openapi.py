"""The server's OpenAPI document. Records in it come from their structs; routes and answers are written here by hand."""

from __future__ import annotations

from typing import Any

import msgspec

from streams.records import Interaction, RecommendationList
from streams.server_events import EVENTS_MAX, NDJSON, Fault


class Problem(msgspec.Struct, omit_defaults=True):
    """What went wrong, as RFC 9457 has it."""

    type: str
    status: int
    detail: str
    errors: list[Fault] = []
    """Of a 422: the first faults, each with its place."""


class Accepted(msgspec.Struct):
    """The broker has acknowledged this many events."""

    accepted: int


def document() -> dict[str, Any]:
    """OpenAPI 3.1."""
    _, components = msgspec.json.schema_components(
        (Interaction, RecommendationList, Problem, Accepted), ref_template="#/components/schemas/{name}"
    )
    one, many = {"$ref": "#/components/schemas/Interaction"}, f"at most {EVENTS_MAX} of them"
    array = {"type": "array", "items": one, "minItems": 1, "maxItems": EVENTS_MAX}
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "EfficientRec",
            "version": "1.0.0",
            "description": "Lists out, events in. docs/events.md says what their fields mean.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "security": [{}, {"token": []}],
        "paths": {
            "/v1/users/{user_id}/list": {
                "get": {
                    "operationId": "getList",
                    "summary": "The newest list of a user.",
                    "parameters": [
                        {
                            "name": "user_id",
                            "in": "path",
                            "required": True,
                            "description": "Any id, percent-encoded in UTF-8.",
                            "schema": {"type": "string", "minLength": 1},
                        },
                        {
                            "name": "If-None-Match",
                            "in": "header",
                            "description": "The ETag of the list that one has.",
                            "schema": {"type": "string"},
                        },
                    ],
                    "responses": {
                        "200": {
                            "description": "The list.",
                            "headers": {
                                "ETag": {"description": "Changes with the list.", "schema": {"type": "string"}},
                                "Last-Modified": {
                                    "description": "The list's generated_at.",
                                    "schema": {"type": "string"},
                                },
                            },
                            "content": _json("RecommendationList"),
                        },
                        "304": {"description": "The list is the one that If-None-Match names."},
                        "404": _problem("No list of this user: none yet, or the user was erased."),
                        **_common("The server is still reading lists, or has too much to do."),
                    },
                }
            },
            "/v1/events": {
                "post": {
                    "operationId": "postEvents",
                    "summary": "Takes interactions: all of a request or none.",
                    "description": "Without an event_id, an event that is sent again counts again.",
                    "parameters": [
                        {
                            "name": "traceparent",
                            "in": "header",
                            "description": "W3C trace context; it goes on to the list that the event makes.",
                            "schema": {"type": "string"},
                        }
                    ],
                    "requestBody": {
                        "required": True,
                        "content": {
                            "application/json": {"schema": {"oneOf": [one, array]}},
                            NDJSON: {"schema": {"type": "string", "description": f"An interaction a line, {many}."}},
                        },
                    },
                    "responses": {
                        "202": {"description": "The broker has them all.", "content": _json("Accepted")},
                        "400": _problem("Not JSON, or no event."),
                        "408": _problem("The body took too long."),
                        "413": _problem(f"Too many bytes, or more than {EVENTS_MAX} events."),
                        "415": _problem("Neither JSON nor newline-delimited JSON, or compressed."),
                        "422": _problem("Events that cannot be used, named by `errors`."),
                        **_common("The broker did not acknowledge them, or the server has too much to do."),
                    },
                }
            },
        },
        "components": {
            "schemas": components,
            "securitySchemes": {
                "token": {
                    "type": "http",
                    "scheme": "bearer",
                    "description": "The setting EFFICIENTREC_SERVER_TOKEN, where it is given.",
                }
            },
        },
    }


def _common(unavailable: str) -> dict[str, Any]:
    return {"401": _problem("The token is missing or wrong."), "503": _problem(unavailable)}


def _problem(description: str) -> dict[str, Any]:
    schema = {"$ref": "#/components/schemas/Problem"}
    return {"description": description, "content": {"application/problem+json": {"schema": schema}}}


def _json(name: str) -> dict[str, Any]:
    return {"application/json": {"schema": {"$ref": f"#/components/schemas/{name}"}}}
