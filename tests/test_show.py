"""A user's last list is found wherever it lies, and reads well."""

from __future__ import annotations

import asyncio
import io
from collections.abc import Sequence

import pytest
from rich.console import Console

from efficientrec.errors import BrokerUnavailable
from streams import show, topics
from streams.broker import EmbeddedBroker, free_port
from streams.connection import Connection
from streams.outbox import KeyValue, Outbox
from streams.placement import partition_of
from streams.records import (
    SCHEMA_VERSION,
    ClusterWeight,
    Item,
    RankedItem,
    Reason,
    RecommendationList,
    Trigger,
    encode,
)
from streams.settings import Settings
from streams.show import Shown, last_list, render
from streams.topics import Topics


def a_list(user: str, rec_id: str, version: str | None = "20231114T221320Z-ab12") -> RecommendationList:
    return RecommendationList(
        schema_version=SCHEMA_VERSION,
        rec_id=rec_id,
        user_id=user,
        model_version=version,
        generated_at="2023-11-14T22:13:20.123Z",
        trigger=Trigger("t", 0, 1, None, "2023-11-14T22:13:20.000Z"),
        reason="event",
        clusters=[ClusterWeight(17, 0.82)] if version else [],
        items=[
            RankedItem("i1", 1, 1.5, [Reason("anchor", 0.3, item_id="i3"), Reason("cluster", 0.7, cluster=17)]),
            RankedItem("i2", 2, 0.25, [Reason("popular", 1.0)]),
        ],
    )


def settings_for(broker: EmbeddedBroker, name: str) -> Settings:
    return Settings(broker=f"kafka://{broker.address}", prefix=name, group=name, partitions=2)


async def publish(settings: Settings, topic: str, partitions: int, records: Sequence[KeyValue]) -> None:
    outbox = Outbox(Connection(settings), 10.0)
    await outbox.start()
    try:
        for record in records:
            pending = await outbox.send(topic, partition_of(record[0], partitions), [record], 1_700_000_000_000)
            await pending.acknowledged()
    finally:
        await outbox.stop()


def printed(shown: Shown) -> str:
    out = io.StringIO()
    Console(file=out, width=100).print(render(shown))
    return out.getvalue()


def test_the_last_list_is_shown_with_titles_and_reasons(embedded_broker: EmbeddedBroker) -> None:
    settings = settings_for(embedded_broker, "shown")
    names = Topics.of(settings)
    lists = [("u1", a_list("u1", "old")), ("u2", a_list("u2", "other")), ("u1", a_list("u1", "new"))]
    items = [Item("i1", "Former title"), Item("i3", "Alien [1979]"), Item("i1", "Heat (1995)"), Item("i4", "Nobody's")]

    async def play() -> Shown:
        await topics.create(settings)
        await publish(settings, names.lists, 2, [(user.encode(), encode(body)) for user, body in lists])
        await publish(settings, names.items, 1, [(item.item_id.encode(), encode(item)) for item in items])
        return await last_list(settings, "u1")

    shown = asyncio.run(play())
    text = printed(shown)

    assert shown.published is not None
    assert shown.published.rec_id == "new"
    assert shown.titles == {"i1": "Heat (1995)", "i3": "Alien [1979]"}
    first, second = text.splitlines()[3:5]
    assert first.split() == ["1", "Heat", "(1995)", "1.500", "cluster", "17,", "because", "of", "Alien", "[1979]"]
    assert second.split() == ["2", "i2", "0.250", "popular"]
    assert "20231114T221320Z-ab12" in text
    assert "2023-11-14T22:13:20.123Z" in text
    assert "17 (82%)" in text


def test_a_list_that_lies_far_back_is_found(embedded_broker: EmbeddedBroker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(show, "FIRST_LOOK", 2)
    settings = settings_for(embedded_broker, "far")
    others = [f"x{number}" for number in range(40)]

    async def play() -> Shown:
        await topics.create(settings)
        lists = [(user.encode(), encode(a_list(user, user))) for user in ["u1", *others]]
        await publish(settings, Topics.of(settings).lists, 2, lists)
        return await last_list(settings, "u1")

    shown = asyncio.run(play())

    assert shown.published is not None
    assert shown.published.rec_id == "u1"


def test_users_without_a_list_get_a_sentence(embedded_broker: EmbeddedBroker) -> None:
    settings = settings_for(embedded_broker, "none")

    async def play() -> tuple[Shown, Shown]:
        await topics.create(settings)
        unknown = await last_list(settings, "u1")
        await publish(settings, Topics.of(settings).lists, 2, [(b"u1", encode(a_list("u1", "x"))), (b"u1", None)])
        return unknown, await last_list(settings, "u1")

    unknown, erased = asyncio.run(play())

    assert printed(unknown).startswith("No list for user u1 yet")
    assert printed(erased).startswith("User u1 was erased")


def test_before_the_first_model_the_list_says_so() -> None:
    text = printed(Shown("u1", a_list("u1", "r", version=None)))

    assert "none yet (what is popular)" in text
    assert "belongs to no cluster yet" in text


def test_in_an_experiment_the_users_arm_is_shown() -> None:
    published = a_list("u1", "r")
    assert "arm" not in printed(Shown("u1", published))

    published.arm = "treatment"

    assert "arm treatment" in printed(Shown("u1", published))


def test_a_broker_that_is_not_there_is_named() -> None:
    settings = Settings(broker=f"kafka://127.0.0.1:{free_port()}")

    with pytest.raises(BrokerUnavailable, match=r"127\.0\.0\.1"):
        asyncio.run(last_list(settings, "u1"))
