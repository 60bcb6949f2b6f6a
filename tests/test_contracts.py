"""The contract for machines says what the decoders do, is valid by its own standards, and breaks no older program."""

from __future__ import annotations

import gzip
import json
import re
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from jsonschema import Draft7Validator, Draft202012Validator

from efficientrec.errors import InteractionInvalid, RecordInvalid
from efficientrec.interactions import RULES, WeightPolicy
from streams import contracts, records
from streams.contracts import BESIDE, RECORDS, json_schema
from streams.records import (
    LIST_ENCODERS,
    Experiment,
    decode_experiment,
    decode_interaction,
    decode_item,
    decode_list,
    decode_release,
    decode_user,
)
from streams.settings import Settings
from streams.topics import Topics

ROOT = Path(__file__).parent.parent
DOCUMENTS = ROOT / "docs" / "contracts"
VENDORED = Path(__file__).parent / "vendored"
V1 = Path(__file__).parent / "golden" / "contracts-v1"
OLD_RECORDS: dict[str, dict[str, Any]] = json.loads((V1 / "records.json").read_text())
FIRST_EXPERIMENT = OLD_RECORDS["Release"] | {"share": 0.1, "salt": "20240501T120000Z-4f2a 2024-05-01T12:05:00.000Z"}
WHOLE = {**OLD_RECORDS, "Experiment": FIRST_EXPERIMENT}
EXAMPLES = re.findall(r"```json (\w+)\n(.*?)```", (ROOT / "docs" / "events.md").read_text(), re.DOTALL)
KINDS = {kind.__name__: kind for kind in (*RECORDS.values(), *BESIDE.values())}
VALIDATORS = {name: Draft202012Validator(json_schema(kind)) for name, kind in KINDS.items()}
TO_COME = 2**52  # milliseconds: no event lies too far ahead


def is_accepted(name: str, body: dict[str, Any]) -> bool:
    """Whether the decoder takes it, under the key that the body asks for."""
    value = json.dumps(body).encode()
    key = str(body.get("item_id" if name == "Item" else "user_id", "")).encode()
    try:
        match name:
            case "Interaction":
                decode_interaction(value, key, WeightPolicy(), TO_COME)
            case "Item":
                decode_item(value, key)
            case "User":
                decode_user(value, key)
            case "RecommendationList":
                decode_list(value)
            case "Experiment":
                decode_experiment(value)
            case _:
                decode_release(value)
    except (InteractionInvalid, RecordInvalid):
        return False
    return True


def vendored(name: str) -> Any:
    return json.loads(gzip.decompress((VENDORED / name).read_bytes()))


# The documents


def test_the_documents_are_those_of_the_code() -> None:
    found = {path.name: path.read_text() for path in DOCUMENTS.iterdir()}

    assert found == contracts.documents(), "run: python -m streams.contracts"


def test_the_asyncapi_document_is_valid_and_has_every_topic() -> None:
    document = json.loads((DOCUMENTS / "asyncapi.json").read_text())

    Draft7Validator(vendored("asyncapi-3.0.0.json.gz")).validate(document)
    names = Topics.of(Settings())
    addresses = {channel["address"] for channel in document["channels"].values()}
    assert addresses == {getattr(names, field) for field in (*RECORDS, "dead_letters")}
    assert {each["channel"]["$ref"].rpartition("/")[2] for each in document["operations"].values()} == set(
        document["channels"]
    )


def test_the_openapi_document_is_valid() -> None:
    document = json.loads((DOCUMENTS / "openapi.json").read_text())

    Draft202012Validator(vendored("openapi-3.1.json.gz")).validate(document)
    for schema in document["components"]["schemas"].values():
        Draft202012Validator.check_schema(schema)


@pytest.mark.parametrize("document", ["asyncapi.json", "openapi.json"])
def test_every_reference_leads_somewhere(document: str) -> None:
    whole = json.loads((DOCUMENTS / document).read_text())

    for reference in re.findall(r'"\$ref": "#/([^"]+)"', json.dumps(whole)):
        place = whole
        for step in reference.split("/"):
            place = place[step]


@pytest.mark.parametrize(("name", "text"), EXAMPLES, ids=[name for name, _ in EXAMPLES])
def test_every_example_of_the_page_is_valid(name: str, text: str) -> None:
    VALIDATORS[name].validate(json.loads(text))


# The schemas and the decoders

JUNK = st.none() | st.booleans() | st.integers(-5, 5) | st.sampled_from(["", "x", [], ["x"], {}, {"a": 1}, [1], 1.5])
NAMES = st.sampled_from(["u", "", "x" * 512, "x" * 513])
TIMES = (
    st.datetimes().filter(lambda moment: moment.year != 1970).map(lambda moment: moment.isoformat() + "Z")
    | st.integers(-(2**54), 2**54)
    | st.integers(0, 2_000_000_000)
    | st.sampled_from(
        [
            "",
            "noon",
            "2024-05-01T12:30:00",
            "2024-05-01T12:30Z",
            "2024-05-01 12:30:00.5+02:00",
            "2024-05-01t12:30:00-0930",
            "2024-05-01T24:00:00Z",
            "2024-13-01T12:30:00Z",
            "2024-05-01T12:30:60Z",
            "2024-05-01T12:30:00+24:00",
            " 2024-05-01T12:30:00Z",
            "0000-05-01T12:30:00Z",
            1.5e9,
            None,
            True,
        ]
    )
)
FEATURES = st.dictionaries(st.sampled_from("ab"), JUNK, max_size=2) | JUNK
RELEASE_FIELDS: dict[str, st.SearchStrategy[Any]] = {
    "schema_version": st.integers(0, 2) | JUNK,
    "version": JUNK,
    "address": JUNK,
    "sha256": st.sampled_from(["0" * 64, "f" * 63, "F" * 64, "g" * 64, "0" * 65]) | JUNK,
    "released_at": TIMES.filter(lambda time: isinstance(time, str)) | JUNK,
    "previous_version": JUNK,
}
FIELDS: dict[str, dict[str, st.SearchStrategy[Any]]] = {
    "Interaction": {
        "event_type": st.sampled_from([*RULES, ""]),
        "user_id": NAMES | JUNK,
        "item_id": NAMES | JUNK,
        "event_time": TIMES,
        "event_id": NAMES | JUNK,
        "value": st.floats(allow_nan=False, allow_infinity=False) | JUNK,
        "rec_id": NAMES | JUNK,
    },
    "Item": {
        "item_id": NAMES | JUNK,
        "title": JUNK,
        "categories": JUNK,
        "features": FEATURES,
        "is_hidden": JUNK,
        "expires_at": TIMES,
    },
    "User": {"user_id": NAMES | JUNK, "features": FEATURES},
    "RecommendationList": {
        "schema_version": st.integers(0, 2) | JUNK,
        "model_version": JUNK,
        "trigger": JUNK,
        "reason": JUNK,
        "clusters": JUNK,
        "items": JUNK,
    },
    "Release": RELEASE_FIELDS,
    "Experiment": {
        **RELEASE_FIELDS,
        "share": st.sampled_from([0, 0.0, -0.1, 1e-9, 0.5, 1, 1.0, 2]) | JUNK,
        "salt": st.sampled_from(["x" * 10]) | JUNK,
    },
}
LEFT_OUT = object()


@pytest.mark.parametrize("name", FIELDS)
@given(data=st.data())
def test_the_schema_accepts_what_the_decoder_does(name: str, data: st.DataObject) -> None:
    body = dict(WHOLE[name])
    for field in data.draw(st.sets(st.sampled_from(sorted(FIELDS[name])), max_size=3)):
        drawn = data.draw(FIELDS[name][field] | st.just(LEFT_OUT), label=field)
        if drawn is LEFT_OUT:
            body.pop(field, None)
        else:
            body[field] = drawn
    assume(not any(isinstance(body.get(key), float) and body[key] == int(body[key]) for key in ("schema_version",)))

    assert VALIDATORS[name].is_valid(body) == is_accepted(name, body), body


@pytest.mark.parametrize(
    "body",
    [
        {"user_id": "é" * 300},  # bytes count, and a schema counts letters
        {"event_type": "sneeze"},  # which types there are is a setting
        {"event_time": "2024-02-30T00:00:00Z"},  # a calendar is more than a pattern
        {"event_time": "1970-01-01T00:00:00+00:01"},
    ],
)
def test_what_only_the_worker_can_tell_is_known(body: dict[str, Any]) -> None:
    whole = OLD_RECORDS["Interaction"] | body

    assert VALIDATORS["Interaction"].is_valid(whole)
    assert not is_accepted("Interaction", whole)


# Evolution


def with_more(value: Any) -> Any:
    """The record as a later program may write it: with a field more in every object whose fields are named here."""
    if isinstance(value, list):
        return [with_more(each) for each in value]
    if isinstance(value, dict):
        return {key: each if key == "features" else with_more(each) for key, each in value.items()} | {"later": [{}]}
    return value


@pytest.mark.parametrize("name", OLD_RECORDS)
def test_an_old_consumer_reads_a_new_record(name: str) -> None:
    old, new = OLD_RECORDS[name], with_more(OLD_RECORDS[name])

    assert is_accepted(name, new)
    assert VALIDATORS[name].is_valid(new)
    assert msgspec.convert(new, KINDS[name]) == msgspec.convert(old, KINDS[name])


def test_an_old_consumer_reads_a_new_list_in_msgpack() -> None:
    old = OLD_RECORDS["RecommendationList"]

    assert decode_list(msgspec.msgpack.encode(with_more(old))) == decode_list(msgspec.json.encode(old))


@pytest.mark.parametrize("name", OLD_RECORDS)
def test_a_new_consumer_reads_an_old_record(name: str) -> None:
    old = OLD_RECORDS[name]

    assert is_accepted(name, old)
    assert json.loads(records.encode(msgspec.convert(old, KINDS[name]))) == old


@pytest.mark.parametrize("arm", [None, "treatment"])
def test_a_list_of_today_is_one_of_the_first_day(arm: str | None) -> None:
    published = decode_list(msgspec.json.encode(OLD_RECORDS["RecommendationList"]))
    published.arm = arm
    first_day = Draft202012Validator(json.loads((V1 / "recommendations.lists.v1.schema.json").read_text()))

    written = json.loads(LIST_ENCODERS["json"](published))

    first_day.validate(written)
    assert {field: written[field] for field in OLD_RECORDS["RecommendationList"]} == OLD_RECORDS["RecommendationList"]
    assert written.get("arm") == arm


def test_an_experiment_is_read_back_as_it_was_written() -> None:
    experiment = decode_experiment(json.dumps(FIRST_EXPERIMENT).encode())

    assert json.loads(records.encode(experiment)) == FIRST_EXPERIMENT
    assert msgspec.convert(with_more(FIRST_EXPERIMENT), Experiment) == experiment


@pytest.mark.parametrize("path", sorted(V1.glob("*.schema.json")), ids=lambda path: path.name)
def test_a_schema_only_ever_grows(path: Path) -> None:
    """What was accepted still is, and what was promised still comes: of records that come in, no field becomes
    required; of those that go out, none goes; and none changes its type."""
    before, now = (json.loads(each.read_text())["$defs"] for each in (path, DOCUMENTS / path.name))
    goes_out = "lists" in path.name or "releases" in path.name

    for name, old in before.items():
        new = now[name]
        assert {field: new["properties"].get(field) for field in old["properties"]} == old["properties"]
        required, formerly = set(new.get("required", ())), set(old.get("required", ()))
        assert required >= formerly if goes_out else required <= formerly
