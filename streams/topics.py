"""Which topics there are, how each must be made, and whether a broker has them so.

Knows names, partition counts and clean-up policies. Knows nothing of what the records say (records.py).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.errors import KafkaError, TopicAlreadyExistsError, TopicAuthorizationFailedError, for_code

from efficientrec.errors import BrokerUnavailable, TopicMismatch
from streams.connection import Connection
from streams.settings import Settings

log = logging.getLogger(__name__)

NULLS_KEPT_SECONDS = 7 * 86_400
"""How long a null stays in a compacted topic: the longest time that a worker's disk or a trainer may be away."""
TABLE = "profiles"
"""The worker's table; its changelog's name follows from it."""


@dataclass(frozen=True, slots=True)
class Topics:
    """The names, which all begin with the prefix; the changelog is named as Faust names it, after group and table."""

    interactions: str
    items: str
    users: str
    lists: str
    releases: str
    dead_letters: str
    changelog: str

    @classmethod
    def of(cls, settings: Settings) -> Topics:
        """The names under these settings.

        >>> Topics.of(Settings()).lists
        'reco.recommendations.lists.v1'
        """
        prefix = settings.prefix
        return cls(
            interactions=f"{prefix}.interactions.events.v1",
            items=f"{prefix}.items.changes.v1",
            users=f"{prefix}.users.changes.v1",
            lists=f"{prefix}.recommendations.lists.v1",
            releases=f"{prefix}.models.releases.v1",
            dead_letters=f"{prefix}.interactions.dlq.v1",
            changelog=f"{settings.group}-{TABLE}-changelog",
        )


@dataclass(frozen=True, slots=True)
class Topic:
    """How a topic must be made."""

    name: str
    partitions: int
    cleanup: str
    """`compact` keeps the newest record of each key for ever, `delete` keeps every record until it is old."""
    shows_every_null: bool = False
    """Whether a null must be seen even by whoever reads after the key has a newer record: it asks for something."""


def wanted(settings: Settings) -> list[Topic]:
    """Every topic as it must be. Those keyed by user share one partition count, so that a user is one partition's
    affair."""
    names = Topics.of(settings)
    return [
        Topic(names.interactions, settings.partitions, "delete"),
        Topic(names.users, settings.partitions, "compact", shows_every_null=True),
        Topic(names.lists, settings.partitions, "compact"),
        Topic(names.changelog, settings.partitions, "compact"),
        Topic(names.items, 1, "compact"),  # every worker reads all of it, and one partition keeps its order
        Topic(names.releases, 1, "compact"),
        Topic(names.dead_letters, 1, "delete"),
    ]


async def create(settings: Settings) -> list[str]:
    """Create what is missing, leave alone what exists, and return the names of the new ones."""
    async with connected(settings) as admin:
        existing = set(await admin.list_topics())
        missing = [topic for topic in wanted(settings) if topic.name not in existing]
        if not missing:
            return []
        reply = await admin.create_topics(
            [
                NewTopic(
                    topic.name,
                    topic.partitions,
                    settings.replication_factor,
                    topic_configs=_configs(topic, settings.replication_factor),
                )
                for topic in missing
            ]
        )
        created, refused = [], []
        for name, code, message in (entry[:3] for entry in reply.topic_errors):
            if code == 0:
                created.append(name)
            elif code == TopicAuthorizationFailedError.errno:
                refused.append(f"{name} cannot be created: expected the rights Create and Describe (docs/security.md)")
            elif code != TopicAlreadyExistsError.errno:  # somebody else was faster: as good as ours, `check` will tell
                refused.append(f"{name} cannot be created: {message or for_code(code).__name__}")
        if refused:
            raise TopicMismatch("\n".join(refused))
        await _listed(admin, created, settings.request_timeout_seconds)
        return created


def _configs(topic: Topic, copies: int) -> dict[str, str]:
    """What differs from Kafka's defaults. It keeps nulls for a day, and may drop one as soon as the user is described
    anew; whoever is away longer would never learn of an erasure. Elsewhere nothing may hold compaction up: a changelog
    that keeps a week of rows takes hours to read."""
    configs = {"cleanup.policy": topic.cleanup}
    if topic.cleanup == "compact":
        configs["delete.retention.ms"] = str(1000 * NULLS_KEPT_SECONDS)
    if topic.shows_every_null:
        configs["min.compaction.lag.ms"] = str(1000 * NULLS_KEPT_SECONDS)
    if copies >= 3:
        configs["min.insync.replicas"] = "2"  # one broker may be away, and what is acknowledged is on two
    return configs


async def check(settings: Settings, names: Collection[str] | None = None) -> None:
    """Return if every topic, or each of these, is as it must be; TopicMismatch lists all that differ, each with what to
    change."""
    due = [topic for topic in wanted(settings) if names is None or topic.name in names]
    async with connected(settings) as admin:
        counts = await _counts(admin)
        present = [topic for topic in due if topic.name in counts]
        policies = await _configured(admin, [topic.name for topic in present], "cleanup.policy")
    problems = [
        f"{topic.name} is missing; run: efficientrec topics create" for topic in due if topic.name not in counts
    ]
    for topic in present:
        if counts[topic.name] != topic.partitions:
            problems.append(_partitions_differ(topic, counts[topic.name], settings))
        policy = policies.get(topic.name)
        if policy is None:
            log.debug("clean-up policy not reported by the broker", extra={"topic": topic.name})
        elif topic.cleanup not in {part.strip() for part in policy.split(",")}:
            problems.append(
                f"{topic.name} has cleanup.policy {policy}; set it to {topic.cleanup} (kafka-configs --alter --topic "
                f"{topic.name} --add-config cleanup.policy={topic.cleanup})"
            )
    if problems:
        raise TopicMismatch("\n".join(problems))


async def _listed(admin: AIOKafkaAdminClient, names: list[str], seconds: float) -> None:
    """Return when the broker lists the topics: Kafka acknowledges them before all its parts know them."""
    async with asyncio.timeout(seconds):
        while True:
            if set(names) <= set(await admin.list_topics()):
                return
            await asyncio.sleep(0.05)


def _partitions_differ(topic: Topic, count: int, settings: Settings) -> str:
    found = f"{topic.name} has {count} partition{'s' if count != 1 else ''}; expected {topic.partitions}: "
    if topic.partitions == settings.partitions and topic.partitions != 1:
        return (
            found + f"set EFFICIENTREC_PARTITIONS to {count} if all topics keyed by user have {count}, else delete it"
        )
    return found + "delete it and run: efficientrec topics create"


async def partitions_of(settings: Settings, name: str) -> int:
    """How many partitions a topic has, of whichever installation it is; TopicMismatch where there is none."""
    async with connected(settings) as admin:
        counts = await _counts(admin)
    if name not in counts:
        raise TopicMismatch(f"{name} is missing; expected the topic of an installation on this broker")
    return counts[name]


async def _counts(admin: AIOKafkaAdminClient) -> dict[str, int]:
    """Topic → partitions. All are listed: to ask about one by name would create it on a broker that creates topics on
    first use."""
    return {entry["topic"]: len(entry["partitions"]) for entry in await admin.describe_topics()}


async def retention_ms(settings: Settings, name: str) -> int | None:
    """How long the topic keeps a record, -1 for ever; None from a broker that does not say."""
    async with connected(settings) as admin:
        found = (await _configured(admin, [name], "retention.ms")).get(name)
    return None if found is None else int(found)


async def _configured(admin: AIOKafkaAdminClient, names: list[str], key: str) -> dict[str, str]:
    """What the broker reports of one config by topic; a broker that does not report it is not at fault."""
    if not names:
        return {}
    # Every setting is asked for: the embedded broker hangs up on a request that names the ones it wants.
    asked = [ConfigResource(ConfigResourceType.TOPIC, name) for name in names]
    found: dict[str, str] = {}
    for reply in await admin.describe_configs(asked):
        for resource in reply.to_object()["resources"]:
            for entry in resource["config_entries"]:
                if entry["config_names"] == key and entry["config_value"]:
                    found[resource["resource_name"]] = entry["config_value"]
    return found


@asynccontextmanager
async def connected(settings: Settings) -> AsyncIterator[Any]:
    """An admin client that is connected. Raises as Connection.reach does, and BrokerUnavailable when the broker goes
    away meanwhile."""
    connection = Connection(settings)
    await connection.reach(settings.broker_wait_seconds)
    admin = AIOKafkaAdminClient(request_timeout_ms=int(settings.request_timeout_seconds * 1000), **connection.options())
    try:
        await admin.start()
        yield admin
    except (KafkaError, TimeoutError) as error:
        raise BrokerUnavailable(f"the Kafka broker at {connection.address} stopped answering ({error!r})") from error
    finally:
        await admin.close()
