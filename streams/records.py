"""What crosses the wire: the shape of every record, how a run of interactions becomes columns, and what is refused.

`docs/events.md` says the same to people, with examples that the tests read back. Knows JSON, MessagePack, times and
ids. Knows nothing of where records come from or go to (topics.py), nor of what an interaction does to a profile.
"""

from __future__ import annotations

import math
import string
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Annotated, Final, Literal, NamedTuple, TypeVar

import msgspec
import numpy as np
import xxhash
from msgspec import Struct
from numpy.typing import NDArray

from efficientrec.errors import InteractionInvalid, RecordInvalid
from efficientrec.interactions import Interactions, WeightPolicy, key_of, keys_of

SCHEMA_VERSION: Final = 1
ID_BYTES_MAX: Final = 512
"""Longest id in UTF-8. Ids are keys of records and of rows; what is longer is a mistake of the producer."""
TEXT_MAX: Final = 2048
"""Letters of each thing that a release says."""
RELEASE_KEY: Final = b"main"
"""Key of the release in service: compaction keeps the newest record of each key."""
EXPERIMENT_KEY: Final = b"experiment"
"""Key, on the same topic, of the experiment that runs; a null value ends it."""

REASONS: Final = (
    "undecodable",
    "incomplete",
    "too_long",
    "key_mismatch",
    "unknown_type",
    "bad_value",
    "bad_time",
    "far_future",
)
"""Why an interaction is refused, in the order in which it is looked at; one word each, fit for a counter's label."""

Time = str | int | float
"""A moment on its way in: RFC 3339 text with an offset, or seconds or milliseconds since 1970."""
_SECONDS_MAX: Final = 1e11  # a larger number means milliseconds: as seconds it would lie beyond the year 5138
_MILLISECONDS_END: Final = 2.0**53  # from here on a float no longer counts single milliseconds


class Interaction(Struct, gc=False, omit_defaults=True):
    """What a user did to an item; key: the user's id."""

    event_type: str
    user_id: str
    item_id: str
    event_time: Time
    event_id: str | None = None
    value: float | None = None
    rec_id: str | None = None


class Item(Struct, omit_defaults=True):
    """An item of the catalogue as it is now; key: the item's id; a null value removes it."""

    item_id: str
    title: str | None = None
    categories: list[str] = []
    features: dict[str, str | float | int | bool | list[str]] = {}
    is_hidden: bool = False
    expires_at: Time | None = None


class User(Struct, omit_defaults=True):
    """What is known about a user beside interactions; key: the user's id; a null value erases the user."""

    user_id: str
    features: dict[str, str | float | int | bool | list[str]] = {}


class Trigger(Struct, gc=False):
    """The newest interaction that a list has taken in."""

    topic: str
    partition: int
    offset: int
    event_id: str | None
    event_time: str


class ClusterWeight(Struct, gc=False):
    """How much a user belongs to a cluster; the number means something only within the list's model version."""

    id: int
    weight: float


class Reason(Struct, gc=False, omit_defaults=True):
    """Who voted for an item: a cluster, an anchor (an item the user touched), or everybody; the shares of an item add
    to 1."""

    kind: Literal["cluster", "anchor", "popular"]
    share: float
    cluster: int | None = None
    item_id: str | None = None


class RankedItem(Struct, gc=False):
    """An item with its place, counted from 1."""

    item_id: str
    rank: int
    score: float
    reasons: list[Reason]


class ListHead(Struct, gc=False, omit_defaults=True):
    """What a list says beside its clusters and items."""

    schema_version: int
    rec_id: str
    user_id: str
    model_version: str | None
    """None until the first model is in service: the list is then what is popular."""
    generated_at: str
    trigger: Trigger
    reason: str
    """Why the list was made: `event`; readers must expect other reasons to come."""
    arm: str | None = None
    """While an experiment runs, the user's arm in it: `control` or `treatment`."""


class RecommendationList(ListHead, gc=False, kw_only=True):
    """A user's recommendations; key: the user's id; a null value says that the user was erased."""

    clusters: list[ClusterWeight]
    items: list[RankedItem]


class Release(Struct, gc=False, omit_defaults=True):
    """A model version that workers shall serve, by its address and digest; key: RELEASE_KEY."""

    schema_version: int
    version: str
    address: str
    """Folder of the artifact, as a URL that fsspec opens."""
    sha256: str
    """Digest of the artifact's manifest.json, which holds the digests of all its other files."""
    released_at: str
    previous_version: str | None = None
    signature: str | None = None
    """By the trainer's key, of all the above but the schema version (signing.py)."""


class Experiment(Release, gc=False, kw_only=True):
    """A model version that workers shall serve to a share of the users, beside the released one; key: EXPERIMENT_KEY;
    a null value ends the experiment."""

    share: float
    """Of the users, between 0 and 1."""
    salt: str
    """Decides, with a user's id, whether he is among them (arms.py)."""


_ENCODER = msgspec.json.Encoder()
LIST_ENCODERS: Final[Mapping[str, Callable[[ListHead], bytes]]] = {
    "json": _ENCODER.encode,
    "msgpack": msgspec.msgpack.Encoder().encode,
}
"""The bytes of a list, or of its head, for each format of the setting `list_format`."""


def encode(record: Struct) -> bytes:
    """The bytes of a record.

    >>> encode(Interaction("like", "u1", "i1", 1700000000))
    b'{"event_type":"like","user_id":"u1","item_id":"i1","event_time":1700000000}'
    """
    return _ENCODER.encode(record)


def rec_id_of(topic: str, partition: int, offset: int, user_id: str, model_version: str | None) -> str:
    """The id of the list that this interaction and this model gave this user.

    It follows from its arguments alone: when a crash makes a worker publish a list again, the list has the id it had
    before, so a consumer that counts or stores by rec_id counts it once.
    """
    # The user's id stands last: it alone may hold any character, so no two different lists share a text.
    text = f"{topic}\0{partition}\0{offset}\0{model_version or ''}\0{user_id}"
    return xxhash.xxh3_128_hexdigest(text.encode())


def rfc3339(milliseconds: int) -> str:
    """A moment on its way out: UTC with milliseconds.

    >>> rfc3339(1700000000123)
    '2023-11-14T22:13:20.123Z'
    """
    return rfc3339_column(np.array([milliseconds], np.int64))[0]


def rfc3339_column(milliseconds: NDArray[np.int64]) -> list[str]:
    """`rfc3339` of each."""
    texts: list[str] = np.datetime_as_string(milliseconds.astype("datetime64[ms]"), unit="ms", timezone="UTC").tolist()
    return texts


# Runs of interactions


@dataclass(frozen=True, slots=True)
class Rejected:
    """A record of the run that cannot be used."""

    index: int
    """Its place in the run."""
    reason: str
    """One of REASONS."""
    message: str
    """A sentence that names what was wrong and what was expected."""


@dataclass(frozen=True, slots=True)
class Decoded:
    """A run of records, decoded. All but `rejected` have one entry for each good event, in offset order."""

    interactions: Interactions
    index: NDArray[np.intp]
    """The event's place in the run."""
    event_types: list[str]
    item_ids: list[str]
    event_ids: list[str | None]
    """The event's own id, None where the producer gave none."""
    rec_ids: list[str | None]
    """The list that the event came from, None where the producer did not say."""
    rejected: list[Rejected]

    def of(self, users: NDArray[np.intp]) -> tuple[Decoded, NDArray[np.intp]]:
        """The events of some users, rising, as if there were no others; and the place of each among all events."""
        events = self.interactions
        number = np.full(len(events.users), -1, np.int32)
        number[users] = np.arange(len(users), dtype=np.int32)
        event = np.flatnonzero(number[events.user] >= 0)
        places = event.tolist()
        interactions = Interactions(
            users=[events.users[user] for user in users.tolist()],
            user=number[events.user[event]],
            item=events.item[event],
            weight=events.weight[event],
            at=events.at[event],
            arrived=events.arrived[event],
            offset=events.offset[event],
            event=events.event[event],
            excludes=events.excludes[event],
        )
        its = Decoded(
            interactions,
            self.index[event],
            [self.event_types[place] for place in places],
            [self.item_ids[place] for place in places],
            [self.event_ids[place] for place in places],
            [self.rec_ids[place] for place in places],
            [],
        )
        return its, event


_decode_interaction = msgspec.json.Decoder(Interaction).decode
_UNDECODABLE = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, TypeError)
"""What decoding raises: for JSON or types, for bytes that are not UTF-8, for JSON too deeply nested, for a null."""


def decode_interactions(
    values: Sequence[bytes | None],
    keys: Sequence[bytes | None],
    offsets: Sequence[int],
    timestamps: Sequence[int],
    now_ms: int,
    policy: WeightPolicy,
    future_tolerance_ms: int,
    origins: Sequence[str | None] | None = None,
) -> Decoded:
    """The columns of a run of records of one partition, and what had to be refused. Never raises, whatever the bytes.

    1. Decode each value, and look at the run as a whole: most runs hold nothing bad, and whole columns are cheap to
    check. 2. If anything in the run is bad, look at each record alone, and set the bad ones aside with their reasons.
    3. Turn what is left into columns.

    timestamps: when the broker got each record, in milliseconds; negative where it does not say. origins: what stands
    for the id of an event that has none of its own, None where nothing does.

    Decoding value by value into a Struct takes 0.23 µs; joining the run into one JSON array first takes 0.30 µs, and
    would need proof that a value such as `{},{}` cannot shift its neighbours.
    """
    latest_ms = now_ms + future_tolerance_ms
    index = np.arange(len(values))
    rejected: list[Rejected] = []
    numbers = None
    try:
        events = list(map(_decode_interaction, values))  # type: ignore[arg-type]  # a null raises TypeError
    except _UNDECODABLE:
        pass
    else:
        numbers = _usable_numbers(events, keys, policy, latest_ms)
    if numbers is None:
        events, good = [], []
        for place, (value, key) in enumerate(zip(values, keys, strict=True)):
            try:
                events.append(decode_interaction(value, key, policy, latest_ms))
                good.append(place)
            except InteractionInvalid as error:
                rejected.append(Rejected(place, error.reason, str(error)))
        index = np.array(good, np.intp)
        numbers = _numbers(events)
    offset, arrived = np.asarray(offsets, np.int64)[index], np.asarray(timestamps, np.int64)[index]
    stand_ins = None if origins is None else [origins[place] for place in index.tolist()]
    return _columns(events, numbers, index, offset, np.maximum(arrived, 0), policy, stand_ins, rejected)


def decode_interaction(value: bytes | None, key: bytes | None, policy: WeightPolicy, latest_ms: int) -> Interaction:
    """One usable interaction; InteractionInvalid gives the reason why it is not. The order is that of REASONS."""
    event = _parsed(value)
    for name in ("user_id", "item_id", "event_type"):
        if not getattr(event, name):
            raise InteractionInvalid("incomplete", f"{name} is empty; expected an id or name")
    for name in ("user_id", "item_id", "event_id", "rec_id"):
        size = len((getattr(event, name) or "").encode())
        if size > ID_BYTES_MAX:
            raise InteractionInvalid("too_long", f"{name} has {size} bytes; expected at most {ID_BYTES_MAX}")
    if key is None:
        # Without a key it lies on any partition, where it would start a second profile of its user.
        raise InteractionInvalid("key_mismatch", f"the record has no key; expected the user_id {_short(event.user_id)}")
    if key != event.user_id.encode():
        raise InteractionInvalid(
            "key_mismatch", f"the key is {_short(key)}; expected the user_id {_short(event.user_id)} in UTF-8"
        )
    rule = policy.rules.get(event.event_type)
    if rule is None:
        expected = ", ".join(policy.rules)
        raise InteractionInvalid(
            "unknown_type", f"event_type is {_short(event.event_type)}; expected one of {expected}"
        )
    if event.value is not None and not math.isfinite(event.value):
        raise InteractionInvalid("bad_value", f"value is {event.value}; expected a finite number")
    if event.value is None and rule.needs_value:
        raise InteractionInvalid("incomplete", f"a {event.event_type} has no value; expected a number")
    try:
        at = moment_ms(event.event_time)
    except ValueError as error:
        raise InteractionInvalid("bad_time", f"event_time {error}") from error
    if at < 0:
        raise InteractionInvalid("bad_time", f"event_time is {_short(event.event_time)}; expected 1970 or later")
    if at > latest_ms:
        raise InteractionInvalid(
            "far_future",
            f"event_time is {_short(event.event_time)}, which is after {_readable(latest_ms)}, the latest accepted; "
            "numbers up to 1e11 are read as seconds, larger ones as milliseconds",
        )
    return event


def moment_ms(time: Time) -> int:
    """Milliseconds since 1970 of a moment on its way in; ValueError says what was expected.

    >>> moment_ms("2023-11-14T22:13:20.123Z"), moment_ms(1700000000.123), moment_ms(1700000000123)
    (1700000000123, 1700000000123, 1700000000123)
    """
    if isinstance(time, str):
        at = _texts_ms([time])[0]
    elif abs(time) < _MILLISECONDS_END:
        at = float(time if abs(time) > _SECONDS_MAX else time * 1000)
    else:
        at = math.nan
    if not abs(at) < _MILLISECONDS_END:  # NaN where it was not understood
        raise ValueError(f"is {_short(time)}; expected RFC 3339 with an offset, or seconds or milliseconds since 1970")
    return round(at)


def dead_letter_headers(
    topic: str, partition: int, offset: int, timestamp_ms: int, reason: str, message: str
) -> list[tuple[str, bytes]]:
    """Headers that say whence a refused record came and why it was refused; its key and bytes travel untouched."""
    return [
        ("dlq.original.topic", topic.encode()),
        ("dlq.original.partition", str(partition).encode()),
        ("dlq.original.offset", str(offset).encode()),
        ("dlq.original.timestamp", str(timestamp_ms).encode()),
        ("dlq.error.class", reason.encode()),
        ("dlq.error.message", message.encode(errors="backslashreplace")),
    ]


def _parsed(value: bytes | None) -> Interaction:
    """The record's body, whatever stands in its fields; InteractionInvalid if it has no such shape."""
    if value is None:
        raise InteractionInvalid("undecodable", "the record has no value; expected a JSON object")
    try:
        return _decode_interaction(value)
    except msgspec.ValidationError as error:
        text = str(error)  # such as: Expected `str`, got `int` - at `$.user_id`
        if "missing required field" in text:
            raise InteractionInvalid("incomplete", text) from error
        field = text.rpartition("`$.")[2].rstrip("`")
        raise InteractionInvalid(
            {"value": "bad_value", "event_time": "bad_time"}.get(field, "undecodable"), text
        ) from error
    except _UNDECODABLE as error:
        raise InteractionInvalid("undecodable", f"{error}; expected a JSON object in UTF-8") from error


class _Numbers(NamedTuple):
    """What is a number in events: values, NaN where there is none (JSON has no NaN of its own), and times in
    milliseconds."""

    values: NDArray[np.float64]
    at: NDArray[np.float64]


def _numbers(events: list[Interaction]) -> _Numbers:
    values = np.array([math.nan if event.value is None else event.value for event in events], np.float64)
    return _Numbers(values, _moments_ms([event.event_time for event in events]))


def _usable_numbers(
    events: list[Interaction], keys: Sequence[bytes | None], policy: WeightPolicy, latest_ms: int
) -> _Numbers | None:
    """The events' numbers if `decode_interaction` would accept all events; a doubt counts as no."""
    if not events:
        return _numbers(events)
    users = [event.user_id for event in events]
    items = [event.item_id for event in events]
    names = [event.event_id or "" for event in events] + [event.rec_id or "" for event in events]
    kinds = {event.event_type for event in events}
    if "" in kinds or not kinds <= policy.rules.keys():
        return None
    if not all(users) or not all(items) or list(map(str.encode, users)) != list(keys):
        return None
    longest = max(max(map(len, users)), max(map(len, items)), max(map(len, names)))
    if longest > ID_BYTES_MAX // 4:  # no character takes more than four bytes
        return None
    numbers = _numbers(events)
    needy = {kind for kind in kinds if policy.rules[kind].needs_value}
    if np.isinf(numbers.values).any() or (
        needy and any(event.value is None and event.event_type in needy for event in events)
    ):
        return None
    begin, end = numbers.at.min(), numbers.at.max()
    return numbers if begin >= 0 and end <= min(latest_ms, _MILLISECONDS_END - 1) else None  # NaN fails both


def _columns(
    events: list[Interaction],
    numbers: _Numbers,
    index: NDArray[np.intp],
    offset: NDArray[np.int64],
    arrived: NDArray[np.int64],
    policy: WeightPolicy,
    stand_ins: list[str | None] | None,
    rejected: list[Rejected],
) -> Decoded:
    places: dict[str, int] = {}
    user = np.fromiter((places.setdefault(event.user_id, len(places)) for event in events), np.int32, len(events))
    item_ids = [event.item_id for event in events]
    event_types = [event.event_type for event in events]
    event_ids = [event.event_id or None for event in events]
    marks = event_ids
    if stand_ins is not None:
        marks = [own or other for own, other in zip(event_ids, stand_ins, strict=True)]
    with np.errstate(over="ignore"):  # a value near the end of what a float can hold lands beyond the clip all the same
        weight = policy.weights(event_types, numbers.values)
    interactions = Interactions(
        users=list(places),
        user=user,
        item=keys_of(item_ids),
        weight=weight,
        at=numbers.at.astype(np.int64),
        arrived=arrived,
        offset=offset,
        event=np.fromiter((0 if mark is None else key_of(mark) for mark in marks), np.uint64, len(events)),
        excludes=policy.excludes(event_types),
    )
    rec_ids = [event.rec_id or None for event in events]
    return Decoded(interactions, index, event_types, item_ids, event_ids, rec_ids, rejected)


_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECOND = timedelta(milliseconds=1)
_Moment = Annotated[datetime, msgspec.Meta(tz=True)]  # text without an offset could mean any time zone


def _moments_ms(times: Sequence[Time]) -> NDArray[np.float64]:
    """Milliseconds since 1970 of moments on their way in, rounded; NaN where one is not understood."""
    texts = {place: time for place, time in enumerate(times) if isinstance(time, str)}
    numbers = [math.nan if isinstance(time, str) else time for time in times] if texts else times
    at = _numbers_ms(numbers)  # type: ignore[arg-type]  # no text is left among them
    if texts:
        at[list(texts)] = _texts_ms(list(texts.values()))
    return np.rint(at)


def _numbers_ms(numbers: Sequence[float]) -> NDArray[np.float64]:
    try:
        at = np.array(numbers, np.float64)
    except OverflowError:  # a whole number of more than 308 digits
        at = np.array([number if abs(number) < 1e300 else math.nan for number in numbers], np.float64)
    return at * np.where(np.abs(at) > _SECONDS_MAX, 1.0, 1000.0)


def _texts_ms(texts: list[str]) -> list[float]:
    try:
        return [(moment - _EPOCH) / _MILLISECOND for moment in msgspec.convert(texts, list[_Moment])]
    except msgspec.ValidationError:
        return [math.nan] if len(texts) == 1 else [_texts_ms([text])[0] for text in texts]


def _short(value: object) -> str:
    """The value in a message: quoted, and not longer than a line."""
    shown = repr(value)
    return shown if len(shown) <= 80 else f"{shown[:76]}...{shown[-1]}"


def _readable(milliseconds: int) -> str:
    """`rfc3339` where the calendar reaches, else the bare number."""
    return rfc3339(milliseconds) if abs(milliseconds) < 2**47 else f"{milliseconds} ms"


# Single records


_T = TypeVar("_T")
_decode_item = msgspec.json.Decoder(Item).decode
_decode_user = msgspec.json.Decoder(User).decode
_decode_json_list = msgspec.json.Decoder(RecommendationList).decode
_decode_msgpack_list = msgspec.msgpack.Decoder(RecommendationList).decode
_decode_json_head = msgspec.json.Decoder(ListHead).decode
_decode_msgpack_head = msgspec.msgpack.Decoder(ListHead).decode
_decode_release = msgspec.json.Decoder(Release).decode
_decode_experiment = msgspec.json.Decoder(Experiment).decode


def decode_item(value: bytes, key: bytes | None) -> Item:
    """An item of the catalogue, or RecordInvalid. (A null value never comes here: it removes the item.)"""
    item = _decoded(_decode_item, value, "an item")
    _check_id("item_id", item.item_id, key)
    if item.expires_at is not None:
        try:
            moment_ms(item.expires_at)
        except ValueError as error:
            raise RecordInvalid(f"expires_at of item {_short(item.item_id)} {error}") from error
    return item


def decode_user(value: bytes, key: bytes | None) -> User:
    """What is known about a user, or RecordInvalid. (A null value never comes here: it erases the user.)"""
    user = _decoded(_decode_user, value, "a user")
    _check_id("user_id", user.user_id, key)
    return user


def check_user_key(key: bytes) -> None:
    """RecordInvalid unless it can be a user's id: rows lie beside others, whose keys are none, and a null erases."""
    try:
        _check_id("user_id", key.decode(), key)
    except UnicodeDecodeError as error:
        raise RecordInvalid(f"the key is {_short(key)}; expected a user_id in UTF-8") from error


def decode_list(value: bytes) -> RecommendationList:
    """A published list of either format, or RecordInvalid."""
    # MessagePack marks a map by a byte that is no ASCII; JSON begins with one that is.
    decode = _decode_msgpack_list if value[:1] >= b"\x80" else _decode_json_list
    published = _decoded(decode, value, "a recommendation list")
    _check_schema(published.schema_version, "a recommendation list")
    return published


def decode_list_head(value: bytes) -> ListHead:
    """What a published list of either format says beside its clusters and items, or RecordInvalid; for a fraction of
    the time."""
    decode = _decode_msgpack_head if value[:1] >= b"\x80" else _decode_json_head
    head = _decoded(decode, value, "a recommendation list")
    _check_schema(head.schema_version, "a recommendation list")
    return head


def decode_release(value: bytes) -> Release:
    """A release, or RecordInvalid."""
    release = _decoded(_decode_release, value, "a release")
    _check_release(release, "release")
    return release


def decode_experiment(value: bytes) -> Experiment:
    """An experiment, or RecordInvalid. (A null value never comes here: it ends the experiment.)"""
    experiment = _decoded(_decode_experiment, value, "an experiment")
    _check_release(experiment, "experiment")
    if not 0 < experiment.share < 1:
        raise RecordInvalid(
            f"share of experiment {experiment.version} is {experiment.share}; expected one between 0 and 1"
        )
    if not experiment.salt.isprintable() or not 0 < len(experiment.salt) <= TEXT_MAX:
        raise RecordInvalid(
            f"salt of experiment {experiment.version} is {_short(experiment.salt)}; expected one line of printable text"
        )
    return experiment


def _check_release(release: Release, what: str) -> None:
    _check_schema(release.schema_version, f"the {what}")
    for text in (release.version, release.address, release.released_at, release.previous_version or ""):
        if not text.isprintable() or len(text) > TEXT_MAX:  # they stand in logs
            raise RecordInvalid(f"the {what} says {_short(text)}; expected one short line of printable text")
    if not release.version or not release.address:
        raise RecordInvalid(f"the {what} has no version or no address; expected both")
    try:
        moment_ms(release.released_at)
    except ValueError as error:
        raise RecordInvalid(f"released_at of {what} {release.version} {error}") from error
    if len(release.sha256) != 64 or not set(release.sha256) <= set(string.hexdigits.lower()):
        raise RecordInvalid(f"sha256 of {what} {release.version} is {_short(release.sha256)}; expected 64 hex digits")


def _decoded(decode: Callable[[bytes], _T], value: bytes, what: str) -> _T:
    try:
        return decode(value)
    except _UNDECODABLE as error:
        raise RecordInvalid(f"{what} cannot be decoded: {error}") from error


def _check_id(name: str, text: str, key: bytes | None) -> None:
    if not text or len(text.encode()) > ID_BYTES_MAX:
        raise RecordInvalid(f"{name} is {_short(text)}; expected 1 to {ID_BYTES_MAX} bytes")
    if key != text.encode():  # compaction and deletion go by the key, so it has to be right
        raise RecordInvalid(f"the key is {_short(key)}; expected the {name} {_short(text)} in UTF-8")


def _check_schema(version: int, what: str) -> None:
    if version != SCHEMA_VERSION:
        raise RecordInvalid(f"{what} has schema_version {version}; this release reads {SCHEMA_VERSION}")
