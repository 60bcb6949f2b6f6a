"""A second model is tried on half of the users by a real worker, as docs/procedures.md tells it."""

from __future__ import annotations

import asyncio
from collections import Counter
from itertools import count, islice
from pathlib import Path
from zlib import crc32

from efficientrec.interactions import key_of
from efficientrec.model import Model
from streams.arms import ARMS, CONTROL, TREATMENT, is_treated
from streams.broker import EmbeddedBroker
from streams.models import end_experiment, experiment, rollback
from streams.quality import ONE_IN
from streams.records import Experiment, RecommendationList
from tests.integration.harness import Worker, World
from tests.integration.play import chance, expect_exact_rows, expect_last_lists, like
from tests.toy import ITEMS, save_toy, toy_model

RELEASED, TRIED = toy_model("released"), toy_model("tried", ITEMS[::-1])


def shelved(world: World, model: Model) -> None:
    """The model lies in the folder as the trainer, or `efficientrec train`, would leave it."""
    save_toy(model, f"{world.settings.models_dir}/{model.version}")
    world.models[key_of(model.version)] = model


def arm_of(user: str, begun: Experiment) -> str:
    return ARMS[int(is_treated([user.encode()], begun.share, begun.salt)[0])]


def given(world: World, after: int = 0) -> list[RecommendationList]:
    """The lists, but for so many that were there before."""
    return sorted(world.lists(), key=lambda each: each.generated_at)[after:]


def expect_arms(lists: list[RecommendationList], begun: Experiment) -> None:
    versions = {CONTROL: RELEASED.version, TREATMENT: TRIED.version}
    for each in lists:
        arm = arm_of(each.user_id, begun)
        assert (each.arm, each.model_version) == (arm, versions[arm]), each.user_id
    assert {each.arm for each in lists} == set(ARMS)


def tries(world: World, worker: Worker, share: float) -> None:
    """Returns when the worker does."""
    name = "efficientrec_experiment_share_ratio"
    world.wait_until(lambda: worker.metrics().get(name) == share, f"the worker tries a model on {share:g} of the users")


def tried_for_a_while(world: World) -> None:
    """An experiment from its beginning to its end, with a worker that is started again in the middle."""
    for model in (RELEASED, TRIED):
        shelved(world, model)
    asyncio.run(rollback(world.settings, RELEASED.version))
    (worker,) = world.start("only")
    world.wait_for_metric(worker, "efficientrec_partitions_assigned", 4)

    begun = asyncio.run(experiment(world.settings, TRIED.version, 0.5))
    tries(world, worker, 0.5)
    names = (name for number in count() if crc32((name := f"judged-{number}").encode()) % ONE_IN == 0)
    judged = list(islice(names, 20))
    for item in ("a1", "a2", "b1"):
        world.interact(*(like(user, item) for user in judged))
        world.wait_until_handled()
    world.interact(*chance(1, 400, 100))
    world.wait_until_handled()

    lists = given(world)
    expect_arms(lists, begun)
    found = worker.metrics()
    published = "efficientrec_recommendations_published_total"
    assert {arm: found[f'{published}{{arm="{arm}",reason="event"}}'] for arm in ARMS} == Counter(
        each.arm for each in lists
    )
    for arm in ARMS:
        assert found[f'efficientrec_online_judged_events_total{{arm="{arm}"}}'] > 0
        assert found[f'efficientrec_online_hits_total{{arm="{arm}",by="list"}}'] > 0
    assert {name.split('arm="')[1].split('"')[0] for name in found if "model_info" in name} == set(ARMS)

    assert worker.stop() == 0, worker.output()
    worker.start()
    world.interact(*chance(2, 200, 100))
    world.wait_until_handled()
    expect_arms(given(world, len(lists)), begun)
    expect_exact_rows(world, world.rows())

    lists = given(world)
    asyncio.run(end_experiment(world.settings))
    tries(world, worker, 0.0)
    world.interact(*chance(3, 200, 100))
    world.wait_until_handled()
    assert {(each.arm, each.model_version) for each in given(world, len(lists))} == {(None, RELEASED.version)}
    expect_exact_rows(world, world.rows())
    expect_last_lists(world)


def test_a_model_is_tried_on_half_of_the_users_and_then_on_nobody(
    embedded_broker: EmbeddedBroker, tmp_path: Path
) -> None:
    world = World(embedded_broker.address, tmp_path / "world", models_dir=str(tmp_path / "models"))
    try:
        world.create_topics()
        tried_for_a_while(world)
    finally:
        world.close()


def test_to_release_the_tried_model_brings_it_to_everybody(embedded_broker: EmbeddedBroker, tmp_path: Path) -> None:
    world = World(embedded_broker.address, tmp_path / "world", models_dir=str(tmp_path / "models"))
    try:
        world.create_topics()
        for model in (RELEASED, TRIED):
            shelved(world, model)
        asyncio.run(rollback(world.settings, RELEASED.version))
        asyncio.run(experiment(world.settings, TRIED.version, 0.5))
        (worker,) = world.start("only")
        world.wait_for_metric(worker, "efficientrec_partitions_assigned", 4)
        tries(world, worker, 0.5)

        asyncio.run(rollback(world.settings, TRIED.version))
        tries(world, worker, 0.0)
        world.interact(*chance(1, 100, 50))
        world.wait_until_handled()

        assert {(each.arm, each.model_version) for each in world.lists()} == {(None, TRIED.version)}
    finally:
        world.close()
