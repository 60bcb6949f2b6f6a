"""The audit must be able to say no: rows that are changed, missing, or built by nobody's model are found."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from efficientrec import profile
from efficientrec.features import trait_keys
from efficientrec.recompute import Event, recompute
from streams import topics
from streams.audit import Audit, audit
from streams.broker import EmbeddedBroker
from streams.connection import Connection
from streams.features import feature_texts
from streams.outbox import KeyValue, Outbox
from streams.placement import partition_of
from streams.records import Interaction, User, encode
from streams.settings import Settings
from streams.topics import Topics
from tests.toy import START, save_toy, toy_model

USERS = ("ann", "bob", "cy")


def likes(user: str) -> list[Interaction]:
    return [Interaction("like", user, item, START + place) for place, item in enumerate(("a1", "b2", "a3"))]


async def _audited(
    settings: Settings, spoil: dict[bytes, bytes | None], described: Sequence[tuple[bytes, bytes | None]] = ()
) -> Audit:
    """Writes what a worker would have written, with some rows spoilt, and audits it. described: records of users."""
    await topics.create(settings)
    names = Topics.of(settings)
    model = toy_model()
    save_toy(model, str(Path(settings.models_dir) / model.version))
    outbox = Outbox(Connection(settings), settings.request_timeout_seconds)
    await outbox.start()
    for user in USERS:
        key, partition = user.encode(), partition_of(user.encode(), settings.partitions)
        sent = await outbox.send(names.interactions, partition, [(key, encode(like)) for like in likes(user)], START)
        last = await sent.acknowledged()
        assert last is not None
        events = [Event(last - 2 + place, like.item_id, 1.0, START + place) for place, like in enumerate(likes(user))]
        row = spoil.get(key, recompute(events, model, built=last - 1, partition=partition))
        rows: list[KeyValue] = [] if row is None else [(key, row)]
        await (await outbox.send(names.changelog, partition, rows, START)).acknowledged()
    for key, value in described:
        partition = partition_of(key, settings.partitions)
        await (await outbox.send(names.users, partition, [(key, value)], START)).acknowledged()
    await outbox.stop()
    return await audit(settings, START + 1)


def settings_for(broker: str, name: str, folder: Path) -> Settings:
    return Settings(
        broker=f"kafka://{broker}", prefix=name, group=name, partitions=2, models_dir=str(folder / "models")
    )


def test_rows_that_are_what_the_log_says_pass(embedded_broker: EmbeddedBroker, tmp_path: Path) -> None:
    found = asyncio.run(_audited(settings_for(embedded_broker.address, "audit-good", tmp_path), {}))

    assert found == Audit(checked=3, different=[])


def test_a_changed_and_a_missing_row_are_named(embedded_broker: EmbeddedBroker, tmp_path: Path) -> None:
    other = recompute([Event(0, "a1", 1.0, START)], None)

    found = asyncio.run(
        _audited(settings_for(embedded_broker.address, "audit-bad", tmp_path), {b"ann": other, b"cy": None})
    )

    assert found == Audit(checked=3, different=["ann", "cy"])


def test_who_was_erased_and_then_described_has_a_row_of_that_alone(
    embedded_broker: EmbeddedBroker, tmp_path: Path
) -> None:
    traits, encoder = trait_keys(feature_texts({"age": "30"})), toy_model().encoder
    fresh = profile.rebuilt(profile.unpack([None], encoder.width, encoder.key), encoder)
    (row,) = profile.pack(profile.with_traits(fresh, [traits], np.array([1])), partition_of(b"ann", 2))

    found = asyncio.run(
        _audited(
            settings_for(embedded_broker.address, "audit-fresh", tmp_path),
            {b"ann": row, b"cy": row},
            described=[(b"ann", None), (b"ann", encode(User("ann", {"age": "30"})))],
        )
    )

    assert found == Audit(checked=3, different=["cy"])
