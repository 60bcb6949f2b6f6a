"""Each encoder, end to end: set, learned by a trainer from the stream, served by a worker, and audited from the log."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from efficientrec import artifact
from efficientrec.encoders.registry import ENCODERS
from efficientrec.interactions import key_of
from streams.broker import EmbeddedBroker, free_port
from streams.records import Interaction, decode_release
from tests.integration.harness import TrainerProcess, World
from tests.integration.play import expect_exact_rows, expect_last_lists, like
from tests.toy import ITEMS, START

USERS = 60
FIRST = 900


@pytest.fixture(params=list(ENCODERS))
def world(request: pytest.FixtureRequest, embedded_broker: EmbeddedBroker, tmp_path: Path) -> Iterator[World]:
    world = World(
        embedded_broker.address,
        tmp_path,
        encoder=request.param,
        train_first_events=FIRST,
        log_dir=tmp_path / "log",
        trainer_metrics_port=free_port(),
    )
    try:
        world.create_topics()
        yield world
    finally:
        world.close()


def likes(seed: int, events: int, first: int = 0) -> list[Interaction]:
    """Even users like what is of taste A, odd ones what is of taste B, but for one like in twenty."""
    rng = np.random.default_rng(seed)
    made = []
    for number in range(first, first + events):
        user = int(rng.integers(USERS))
        taste = (user + (rng.random() < 0.05)) % 2
        item = ITEMS[2 * min(int(rng.geometric(0.25)) - 1, 7) + taste]
        made.append(like(f"u{user}", item, START + 60_000 * number))
    return made


def test_it_is_learned_from_the_stream_and_served_and_every_row_is_what_the_log_says(world: World) -> None:
    (worker,) = world.start("worker")
    world.worker("trainer", TrainerProcess).start()

    world.interact(*likes(1, FIRST))
    world.wait_for_metric(worker, 'efficientrec_model_swaps_total{outcome="installed"}', 1)
    world.interact(*likes(2, 300, FIRST))
    world.wait_until_handled()

    (announced,) = world.read(world.topics.releases)
    assert announced.value is not None
    release = decode_release(announced.value)
    model, manifest = artifact.load(release.address, release.sha256)
    world.models[key_of(model.version)] = model
    assert manifest.encoder == world.settings.encoder
    expect_exact_rows(world, world.rows())
    expect_last_lists(world)
    last = {each.user_id: each for each in world.lists()}
    served = [each for each in last.values() if each.model_version == model.version]
    assert len(served) == USERS
    met = {user: {event.item_id for event in events} for user, events in world.accepted().items()}
    right = []
    for each in served:
        wanted = {item for item in ITEMS if item[0] == "ab"[int(each.user_id[1:]) % 2]} - met[each.user_id]
        if wanted:
            right.append(each.items[0].item_id in wanted)
    assert len(right) > USERS / 2
    assert np.mean(right) > 0.8, "the best item is seldom to the user's taste"
