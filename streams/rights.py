"""What each process asks of Kafka, which is all that it must be allowed to do, and whether the broker lets it.

Knows operations, topics and groups. Knows nothing of how rights are granted. `python -m streams.rights` prints the
table of docs/security.md, which the tests grant, and nothing else.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Final

from aiokafka.client import CoordinationType
from aiokafka.errors import GroupAuthorizationFailedError, KafkaError, TopicAuthorizationFailedError
from aiokafka.protocol.api import Request, RequestStruct, Response
from aiokafka.protocol.types import Array, Boolean, Bytes, Int16, Int32, Schema, String

from efficientrec.errors import BrokerRefused, BrokerUnavailable
from streams import topics
from streams.settings import Settings
from streams.topics import Topics

_BITS: Final = {"Read": 3, "Write": 4, "Create": 5, "Describe": 8, "DescribeConfigs": 10}
_NOT_TOLD: Final = -(2**31)
_PAUSE_SECONDS: Final = 0.2


@dataclass(frozen=True, slots=True)
class Right:
    """An operation on a resource."""

    operation: str
    kind: str
    """Topic, Group or TransactionalId."""
    name: str
    """A name that ends in * means all names that begin so."""


_TOPICS: Final[Mapping[str, Mapping[str, str]]] = {
    "worker": {
        "interactions": "Read DescribeConfigs",
        "users": "Read DescribeConfigs",
        "items": "Read DescribeConfigs",
        "releases": "Read DescribeConfigs",
        "changelog": "Read Write DescribeConfigs",
        "lists": "Write DescribeConfigs",
        "dead_letters": "Write DescribeConfigs",
    },
    "trainer": {
        "interactions": "Read DescribeConfigs",
        "users": "Read DescribeConfigs",
        "items": "Read DescribeConfigs",
        "releases": "Read Write DescribeConfigs",
    },
    "server": {"lists": "Read", "interactions": "Write"},
    "topics create": dict.fromkeys((each.name for each in fields(Topics)), "Create Describe"),
    "topics check": dict.fromkeys((each.name for each in fields(Topics)), "Describe DescribeConfigs"),
    "models list": {"releases": "Read"},
    "models rollback": {"releases": "Read Write"},
    "models experiment": {"releases": "Read Write"},
    "replay": {"interactions": "Write", "users": "Write", "items": "Write"},
    "send": {"interactions": "Write"},
    "restore": {
        "interactions": "Read Write DescribeConfigs",
        "items": "Read Write DescribeConfigs",
        "users": "Read Write DescribeConfigs",
        "releases": "Read Write DescribeConfigs",
    },
    "audit": {"interactions": "Read", "users": "Read", "changelog": "Read"},
    "recommend": {"lists": "Read", "items": "Read"},
    "erase": {"users": "Write", "changelog": "Read", "lists": "Read"},
}
"""Process → field of Topics → operations. Whoever may read or write may also describe."""

PROCESSES: Final = tuple(_TOPICS)


def rights_of(process: str, settings: Settings) -> list[Right]:
    """All that it needs.

    >>> rights_of("send", Settings())
    [Right(operation='Write', kind='Topic', name='reco.interactions.events.v1')]
    """
    names = Topics.of(settings)
    needed = {
        name: operations + (" Write" if process == "worker" and forwards(name, settings) else "")
        for name, operations in _TOPICS[process].items()
    }
    found = [
        Right(operation, "Topic", getattr(names, name))
        for name, operations in needed.items()
        for operation in operations.split()
    ]
    trainer = f"{settings.group}-trainer"
    match process:
        case "worker":
            found.append(Right("Read", "Group", settings.group))
            if settings.fencing == "on":
                found.append(Right("Write", "TransactionalId", f"{names.changelog}-*"))
        case "trainer":
            found.append(Right("Read", "Group", trainer))
        case "erase":
            found += [Right("Describe", "Group", settings.group), Right("Describe", "Group", trainer)]
    return found


def forwards(name: str, settings: Settings) -> bool:
    """Whether a worker writes to a topic that it reads."""
    return settings.wrong_partition == "forward" and name in ("interactions", "users")


async def check(settings: Settings, process: str) -> None:
    """Returns if the process may do what it must, and the topics that it uses are as they must be. Raises BrokerRefused
    with all the rights that it lacks, else as topics.check does. Where nobody proves who he is, nobody is asked."""
    needed = rights_of(process, settings)
    if settings.security_protocol != "PLAINTEXT":
        async with topics.connected(settings) as admin:
            lacking = await _lacking(admin._client, needed, settings.broker_wait_seconds)
        if lacking:
            raise BrokerRefused(_told(lacking, process, settings))
    await topics.check(settings, {right.name for right in needed if right.kind == "Topic"})


async def explained(settings: Settings, process: str, error: Exception) -> BrokerRefused:
    """What to say of one of connection.NO_RIGHTS, which often do not name what they are about."""
    try:
        await check(settings, process)
    except BrokerRefused as refused:
        return refused
    return BrokerRefused(
        f"the broker refused {process} an operation ({error!r}), though it has the rights of docs/security.md now; "
        "start it again, and see the broker's authorizer log if it comes back"
    )


def _told(lacking: Sequence[Right], process: str, settings: Settings) -> str:
    who = f"user {settings.sasl_username!r}" if settings.sasl_username else "the user of our certificate"
    by_resource: dict[tuple[str, str], list[str]] = defaultdict(list)
    for right in lacking:
        by_resource[right.kind, right.name].append(right.operation)
    lines = [f"  {' and '.join(operations)} on {kind} {name}" for (kind, name), operations in by_resource.items()]
    return "\n".join(
        [
            f"{who} may not do what efficientrec {process} does at {','.join(settings.bootstrap_servers)}; expected "
            "ACLs (docs/security.md) that allow",
            *lines,
        ]
    )


async def _lacking(client: Any, needed: Sequence[Right], seconds: float) -> list[Right]:
    """Those that the broker does not grant. Transactional ids cannot be asked for: the worker tries one (writer.py)."""
    by_topic = await _topic_operations(client, sorted({right.name for right in needed if right.kind == "Topic"}))
    by_group = {
        name: await _group_operations(client, name, seconds)
        for name in sorted({right.name for right in needed if right.kind == "Group"})
    }
    granted = {"Topic": by_topic, "Group": by_group}
    return [
        right
        for right in needed
        if right.kind in granted and not granted[right.kind].get(right.name, _NOT_TOLD) >> _BITS[right.operation] & 1
    ]


async def _topic_operations(client: Any, names: list[str]) -> dict[str, int]:
    """Topic → bits of the operations that we may do, all of them where the broker does not say: a topic that is not
    there, for one, is topics.check's affair."""
    reply = await client.send(client.get_random_node(), _TopicRights(names))
    found = {}
    for code, name, _, _, operations in reply.topics:
        is_refused = code == TopicAuthorizationFailedError.errno
        found[name] = 0 if is_refused else ~0 if operations == _NOT_TOLD else operations
    return found


async def _group_operations(client: Any, name: str, seconds: float) -> int:
    deadline = asyncio.get_running_loop().time() + seconds
    while True:
        try:
            node = await client.coordinator_lookup(CoordinationType.GROUP, name)
            reply = await client.send(node, _GroupRights(name))
            code, *_, operations = reply.groups[0]
            if code == GroupAuthorizationFailedError.errno:
                return 0
            return ~0 if operations == _NOT_TOLD else int(operations)
        except GroupAuthorizationFailedError:
            return 0
        except KafkaError as error:  # a new cluster has to make the topic of the groups first
            if not error.retriable or asyncio.get_running_loop().time() >= deadline:
                raise BrokerUnavailable(f"no coordinator for group {name}: {error!r}") from error
            await asyncio.sleep(_PAUSE_SECONDS)


class _TopicReply(Response):  # type: ignore[misc]  # untyped there
    API_KEY = 3
    API_VERSION = 8
    SCHEMA = Schema(
        ("throttle_time_ms", Int32),
        ("brokers", Array(("node_id", Int32), ("host", String()), ("port", Int32), ("rack", String()))),
        ("cluster_id", String()),
        ("controller_id", Int32),
        (
            "topics",
            Array(
                ("error_code", Int16),
                ("topic", String()),
                ("is_internal", Boolean),
                (
                    "partitions",
                    Array(
                        ("error_code", Int16),
                        ("partition", Int32),
                        ("leader", Int32),
                        ("leader_epoch", Int32),
                        ("replicas", Array(Int32)),
                        ("isr", Array(Int32)),
                        ("offline_replicas", Array(Int32)),
                    ),
                ),
                ("operations", Int32),
            ),
        ),
        ("cluster_operations", Int32),
    )


class _TopicQuestion(RequestStruct):  # type: ignore[misc]
    API_KEY = 3
    API_VERSION = 8
    RESPONSE_TYPE = _TopicReply
    SCHEMA = Schema(
        ("topics", Array(String())),
        ("allow_auto_topic_creation", Boolean),
        ("include_cluster_operations", Boolean),
        ("include_topic_operations", Boolean),
    )


class _TopicRights(Request[_TopicQuestion]):  # type: ignore[misc]
    """Metadata in the version that tells our rights; aiokafka has earlier ones only."""

    API_KEY = 3

    def __init__(self, names: list[str]) -> None:
        self._names = names

    def build(self, request: type[_TopicQuestion]) -> _TopicQuestion:
        return request(self._names, False, False, True)


class _GroupReply(Response):  # type: ignore[misc]
    API_KEY = 15
    API_VERSION = 3
    SCHEMA = Schema(
        ("throttle_time_ms", Int32),
        (
            "groups",
            Array(
                ("error_code", Int16),
                ("group", String()),
                ("state", String()),
                ("protocol_type", String()),
                ("protocol", String()),
                (
                    "members",
                    Array(
                        ("member_id", String()),
                        ("client_id", String()),
                        ("client_host", String()),
                        ("metadata", Bytes),
                        ("assignment", Bytes),
                    ),
                ),
                ("operations", Int32),
            ),
        ),
    )


class _GroupQuestion(RequestStruct):  # type: ignore[misc]
    API_KEY = 15
    API_VERSION = 3
    RESPONSE_TYPE = _GroupReply
    SCHEMA = Schema(("groups", Array(String())), ("include_operations", Boolean))


class _GroupRights(Request[_GroupQuestion]):  # type: ignore[misc]
    """DescribeGroups in the version that tells our rights, whose answer aiokafka reads as that of an earlier one."""

    API_KEY = 15

    def __init__(self, name: str) -> None:
        self._name = name

    def build(self, request: type[_GroupQuestion]) -> _GroupQuestion:
        return request([self._name], True)


def rights_table() -> str:
    """The rights as a Markdown table, with PREFIX and GROUP for what the settings say."""
    settings = Settings(prefix="PREFIX", group="GROUP")
    lines = ["| process | resource | name | operations |", "| --- | --- | --- | --- |"]
    for process in PROCESSES:
        by_resource: dict[tuple[str, str], list[str]] = defaultdict(list)
        for right in rights_of(process, settings):
            by_resource[right.kind, right.name].append(right.operation)
        lines += [
            f"| `{process}` | {kind} | `{name}` | {', '.join(operations)} |"
            for (kind, name), operations in by_resource.items()
        ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    print(rights_table(), end="")
