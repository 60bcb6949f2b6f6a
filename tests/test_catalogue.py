"""What nobody may get is worked out once for each model, and anew when something has changed."""

from __future__ import annotations

import asyncio

from aiokafka.structs import ConsumerRecord

from streams.catalogue import Catalogue
from streams.records import Item, encode
from tests.toy import ITEMS, START, toy_model


def hide(catalogue: Catalogue, *items: Item) -> None:
    records = [
        ConsumerRecord("items", 0, 0, 0, 0, item.item_id.encode(), encode(item), None, 0, 0, ()) for item in items
    ]
    asyncio.run(catalogue.handle(records))


def test_two_models_take_turns_without_working_it_out_again() -> None:
    catalogue, (one, other) = Catalogue(), (toy_model("toy-1"), toy_model("toy-2", ITEMS[::-1]))
    hide(catalogue, Item("a1", is_hidden=True))

    first, second = catalogue.blocked(one, START), catalogue.blocked(other, START)

    assert (first.nonzero()[0].tolist(), second.nonzero()[0].tolist()) == ([0], [len(ITEMS) - 1])
    assert catalogue.blocked(one, START) is first
    assert catalogue.blocked(other, START) is second


def test_a_change_and_an_expiry_reach_both_models() -> None:
    catalogue, models = Catalogue(), (toy_model("toy-1"), toy_model("toy-2"))
    hide(catalogue, Item("a1", is_hidden=True), Item("b1", expires_at=START + 5))
    assert [catalogue.blocked(model, START).sum() for model in models] == [1, 1]

    assert [catalogue.blocked(model, START + 5).sum() for model in models] == [2, 2]
    hide(catalogue, Item("a2", is_hidden=True))
    assert [catalogue.blocked(model, START + 5).sum() for model in models] == [3, 3]


def test_masks_of_models_that_went_are_not_kept() -> None:
    catalogue = Catalogue()

    for number in range(10):
        catalogue.blocked(toy_model(f"toy-{number}"), START)

    assert len(catalogue._masks) == 2
