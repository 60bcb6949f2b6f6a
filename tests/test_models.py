"""The models on the shelf: which there are, which serves, and how an earlier one serves again."""

from __future__ import annotations

import asyncio
import io
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from typer.testing import CliRunner

from efficientrec import artifact
from efficientrec.errors import ArtifactCorrupt, ModelUnknown, ReleaseUntrusted, SettingInvalid, TopicMismatch
from streams import topics
from streams.broker import EmbeddedBroker
from streams.cli import app
from streams.connection import Connection
from streams.learning import Outcome
from streams.models import end_experiment, experiment, render, rollback, shelf, stored
from streams.outbox import Outbox
from streams.records import EXPERIMENT_KEY, RELEASE_KEY, Release
from streams.releases import RECORD, announce
from streams.replay import replay
from streams.settings import Settings
from streams.signing import make_keys, trust
from tests.environment import environment
from tests.integration.harness import World
from tests.test_trainer import Refuser, Stage, cancelled, toy_dataset, until
from tests.toy import START, toy_model


def shelve(settings: Settings, version: str, created_at: str, previous: str | None, **manifest: Any) -> str:
    """Writes a model as a trainer would; returns its digest."""
    return artifact.save(
        replace(toy_model(), version=version),
        f"{settings.models_dir}/{version}",
        created_at=created_at,
        window=artifact.Window(interactions=1234, first_at=START, last_at=START),
        settings={"installation": settings.installation} | manifest,
        scores={"candidate": {"ndcg@20": 0.25}, "popularity": {"ndcg@20": 0.125}},
        previous=previous,
    )


async def release(settings: Settings, version: str, sha256: str, previous: str | None = None) -> Release:
    outbox = Outbox(Connection(settings), 10.0)
    await outbox.start()
    try:
        address = f"{settings.models_dir}/{version}"
        return await announce(outbox, settings, version, address, sha256, previous, START)
    finally:
        await outbox.stop()


@pytest.fixture
def settings(embedded_broker: EmbeddedBroker, tmp_path: Path, request: pytest.FixtureRequest) -> Settings:
    """Of a test's own topics and folder; three models lie there, of which the last was released."""
    name = f"models-{abs(hash(request.node.name)) % 10**8}"
    settings = Settings(
        broker=f"kafka://{embedded_broker.address}", prefix=name, group=name, models_dir=str(tmp_path), partitions=2
    )
    asyncio.run(topics.create(settings))
    previous = None
    for day in (1, 2, 3):
        version = f"2024050{day}T120000Z-aaaa"
        digest = shelve(settings, version, f"2024-05-0{day}T12:00:00.000Z", previous)
        asyncio.run(release(settings, version, digest, previous))
        previous = version
    return settings


FIRST, SECOND, THIRD = (f"2024050{day}T120000Z-aaaa" for day in (1, 2, 3))


def printed(settings: Settings) -> list[list[str]]:
    out = io.StringIO()
    Console(file=out, width=140).print(render(asyncio.run(shelf(settings))))
    return [line.split() for line in out.getvalue().splitlines()]


def test_the_models_are_listed_with_time_and_scores_and_the_one_in_service(settings: Settings) -> None:
    head, third, second, first = printed(settings)

    assert head == ["version", "created", "encoder", "events", "ndcg@20"]
    assert third == [THIRD, "2024-05-03T12:00:00.000Z", "efficientrec", "1,234", "0.2500", "released"]
    assert [first[0], second[0]] == [FIRST, SECOND]
    assert "released" not in first + second


def test_what_is_no_model_of_ours_is_not_on_the_shelf(settings: Settings) -> None:
    shelve(settings, "20240504T120000Z-bbbb", "2024-05-04T12:00:00Z", None, installation="other/other")
    root = Path(settings.models_dir)
    (root / "20240505T120000Z-cccc.1234.partial").mkdir()
    (root / "20240506T120000Z-dddd").mkdir()
    (root / "20240506T120000Z-dddd" / "manifest.json").write_text("{")
    (root / "renamed").symlink_to(root / FIRST)

    assert [each.version for each in stored(settings)] == [THIRD, SECOND, FIRST]
    assert stored(replace(settings, models_dir=str(root / "nowhere"))) == []


def test_rolling_back_twice_goes_back_twice(settings: Settings) -> None:
    once = asyncio.run(rollback(settings, None))
    twice = asyncio.run(rollback(settings, None))

    assert (once.version, once.previous_version) == (SECOND, THIRD)
    assert (twice.version, twice.previous_version) == (FIRST, SECOND)
    assert [line[-1] for line in printed(settings)[1:]].index("released") == 2
    with pytest.raises(ModelUnknown, match="took the place of none"):
        asyncio.run(rollback(settings, None))
    assert asyncio.run(rollback(settings, THIRD)).version == THIRD  # and forward again


def ran(settings: Settings) -> tuple[str, float] | None:
    """Version and share of the experiment that runs."""
    found = asyncio.run(shelf(settings)).experiment
    return None if found is None else (found.version, found.share)


def test_a_model_is_tried_on_a_share_of_the_users_until_the_end(settings: Settings) -> None:
    begun = asyncio.run(experiment(settings, FIRST, 0.1))
    assert (begun.version, begun.previous_version, begun.share) == (FIRST, THIRD, 0.1)
    _, third, second, first = printed(settings)
    assert (third[-1], first[-3:]) == ("released", ["tried", "on", "10%"])
    assert "tried" not in second

    again = asyncio.run(experiment(settings, SECOND, 0.25))
    assert ran(settings) == (SECOND, 0.25)
    assert again.salt != begun.salt, "another experiment divides the users in another way"

    for _ in range(2):
        asyncio.run(end_experiment(settings))
        assert ran(settings) is None
    released = asyncio.run(shelf(settings)).release
    assert released is not None
    assert released.version == THIRD, "what is released has not changed"


def test_only_what_can_serve_is_tried_and_beside_something_else(settings: Settings) -> None:
    weights = Path(settings.models_dir, SECOND, artifact.WEIGHTS)
    weights.write_bytes(weights.read_bytes()[:-1] + b"x")

    with pytest.raises(ArtifactCorrupt, match="not what was published"):
        asyncio.run(experiment(settings, SECOND, 0.1))
    with pytest.raises(ModelUnknown, match=f"there are: {THIRD}, {SECOND}, {FIRST}"):
        asyncio.run(experiment(settings, "20200101T000000Z-ffff", 0.1))
    with pytest.raises(ModelUnknown, match=f"{THIRD} is in service already"):
        asyncio.run(experiment(settings, THIRD, 0.1))
    for share in (0.0, 1.0, -0.1, 10.0, float("nan")):
        with pytest.raises(SettingInvalid, match="expected a share between 0 and 1"):
            asyncio.run(experiment(settings, FIRST, share))

    assert ran(settings) is None


def test_the_command_says_what_it_did_and_what_it_expected(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in environment(settings).items():
        monkeypatch.setenv(name, value)

    def answered(*words: str) -> tuple[int, str]:
        result = CliRunner().invoke(app, ["models", "experiment", *words])
        return result.exit_code, " ".join(result.output.split())

    assert answered(FIRST, "--share", "0.1") == (0, f"{FIRST} is tried on 10% of the users, beside {THIRD}.")
    assert ran(settings) == (FIRST, 0.1)
    assert answered("--end") == (0, "There is no experiment any more: all users get lists of the released model.")
    assert ran(settings) is None
    for words in ((), (FIRST,), ("--share", "0.1"), (FIRST, "--end"), ("--end", "--share", "0.1")):
        status, text = answered(*words)
        assert status == 2
        assert "expected VERSION with --share, or --end alone" in text
    assert ran(settings) is None


async def send(settings: Settings, key: bytes, value: bytes) -> None:
    outbox = Outbox(Connection(settings), 10.0)
    await outbox.start()
    try:
        sent = await outbox.send_one(topics.Topics.of(settings).releases, key, value, [])
        await sent.acknowledged()
    finally:
        await outbox.stop()


def test_an_experiment_that_cannot_be_read_keeps_nobody_from_a_rollback(settings: Settings) -> None:
    asyncio.run(send(settings, EXPERIMENT_KEY, b"junk"))

    said = " ".join(printed(settings)[-1])
    assert said.startswith("an experiment cannot be decoded: ")
    assert said.endswith("End it: efficientrec models experiment --end")
    assert asyncio.run(rollback(settings, FIRST)).version == FIRST
    asyncio.run(end_experiment(settings))
    assert printed(settings)[-1][0] == FIRST


def test_a_release_that_cannot_be_read_is_mended_by_a_rollback_to_a_named_model(settings: Settings) -> None:
    asyncio.run(send(settings, RELEASE_KEY, b"junk"))

    said = " ".join(printed(settings)[-1])
    assert said.startswith("a release cannot be decoded: ")
    assert said.endswith("Release a model anew: efficientrec models rollback VERSION")
    with pytest.raises(ModelUnknown, match=r"a release cannot be decoded: .*; name the version"):
        asyncio.run(rollback(settings, None))
    assert asyncio.run(rollback(settings, FIRST)).version == FIRST
    assert printed(settings)[-1][0] == FIRST


def test_a_tried_model_that_is_gone_is_said(settings: Settings) -> None:
    asyncio.run(experiment(settings, FIRST, 0.1))
    shutil.rmtree(Path(settings.models_dir, FIRST))

    assert printed(settings)[-1][:3] == [FIRST, "is", "tried,"]


def test_to_release_the_tried_model_ends_the_experiment_and_to_release_another_does_not(settings: Settings) -> None:
    asyncio.run(experiment(settings, FIRST, 0.1))

    asyncio.run(rollback(settings, SECOND))
    assert ran(settings) == (FIRST, 0.1)
    asyncio.run(rollback(settings, FIRST))
    assert ran(settings) is None


def test_a_rollback_that_broke_off_before_the_experiment_ended_is_finished_by_another(settings: Settings) -> None:
    asyncio.run(experiment(settings, FIRST, 0.1))
    digests = {each.version: each.sha256 for each in stored(settings)}
    first = asyncio.run(release(settings, FIRST, digests[FIRST], THIRD))
    assert ran(settings) == (FIRST, 0.1)

    assert asyncio.run(rollback(settings, FIRST)) == first

    assert ran(settings) is None
    with pytest.raises(ModelUnknown, match=f"{FIRST} is in service already"):
        asyncio.run(rollback(settings, FIRST))


def test_only_what_can_serve_is_released(settings: Settings) -> None:
    weights = Path(settings.models_dir, SECOND, artifact.WEIGHTS)
    weights.write_bytes(weights.read_bytes()[:-1] + b"x")

    with pytest.raises(ArtifactCorrupt, match="not what was published"):
        asyncio.run(rollback(settings, SECOND))
    with pytest.raises(ModelUnknown, match=f"there are: {THIRD}, {SECOND}, {FIRST}"):
        asyncio.run(rollback(settings, "20200101T000000Z-ffff"))
    with pytest.raises(ModelUnknown, match="in service already"):
        asyncio.run(rollback(settings, THIRD))

    found = asyncio.run(shelf(settings)).release
    assert found is not None
    assert found.version == THIRD


def test_before_the_first_release_a_version_has_to_be_named(embedded_broker: EmbeddedBroker, tmp_path: Path) -> None:
    settings = Settings(
        broker=f"kafka://{embedded_broker.address}", prefix="models-none", group="models-none", models_dir=str(tmp_path)
    )
    with pytest.raises(TopicMismatch, match="topics create"):
        asyncio.run(shelf(settings))
    asyncio.run(topics.create(settings))

    assert "No model was released yet" in " ".join(printed(settings)[-1])
    with pytest.raises(ModelUnknown, match="no model was ever released"):
        asyncio.run(rollback(settings, None))
    shelve(settings, FIRST, "2024-05-01T12:00:00.000Z", None)
    with pytest.raises(ModelUnknown, match="nothing to compare with"):
        asyncio.run(experiment(settings, FIRST, 0.1))


def test_a_released_model_that_is_gone_is_said(settings: Settings) -> None:
    asyncio.run(release(settings, "20240509T120000Z-eeee", "0" * 64))

    assert printed(settings)[-1][:3] == ["20240509T120000Z-eeee", "is", "released,"]


def test_the_trainer_compares_its_next_model_with_the_one_that_was_put_back(
    embedded_broker: EmbeddedBroker, tmp_path: Path
) -> None:
    stage = Stage(embedded_broker, "put-back", tmp_path, train_new_events=300)
    learner = Refuser(*[Outcome(result="refused", message="no better")] * 2)

    async def play() -> None:
        await topics.create(stage.settings)
        for version, previous in (("first", None), ("second", "first")):
            digest = shelve(stage.settings, version, f"2024-05-0{len(version) - 4}T12:00:00Z", previous)
            await release(stage.settings, version, digest, previous)
        task = asyncio.create_task(stage.trainer(learner).run())
        await replay(toy_dataset(), stage.settings, limit=300)
        await until(lambda: stage.runs("refused") == 1, task)

        await rollback(stage.settings, None)
        await replay(toy_dataset(), stage.settings, start=300, limit=300)
        await until(lambda: stage.runs("refused") == 2, task)
        await cancelled(task)

    asyncio.run(play())

    served = [None if job.serving is None else job.serving.version for job in learner.jobs]
    assert served == ["second", "first"]


def test_workers_install_the_model_that_was_put_back(embedded_broker: EmbeddedBroker, tmp_path: Path) -> None:
    world = World(embedded_broker.address, tmp_path / "world", models_dir=str(tmp_path / "models"))
    try:
        world.create_topics()
        for version, previous in (("first", None), ("second", "first")):
            digest = shelve(world.settings, version, f"2024-05-0{len(version) - 4}T12:00:00Z", previous)
            asyncio.run(release(world.settings, version, digest, previous))
        (worker,) = world.start("only")

        def serves(version: str) -> bool:
            return any(f'model_version="{version}"' in name for name in worker.metrics() if "model_info" in name)

        world.wait_for_metric(worker, "efficientrec_partitions_assigned", 4)
        assert serves("second")

        asyncio.run(rollback(world.settings, None))

        world.wait_until(lambda: serves("first"), "the earlier model serves")
        assert not serves("second")
    finally:
        world.close()


def test_with_a_key_only_what_was_released_with_it_is_put_back(settings: Settings, tmp_path: Path) -> None:
    signing, trusted = make_keys(tmp_path / "keys")
    signed = replace(settings, models_signing_key_file=signing, models_trusted_key_file=trusted)
    digests = {each.version: each.sha256 for each in stored(settings)}
    asyncio.run(release(signed, SECOND, digests[SECOND], FIRST))
    asyncio.run(release(signed, THIRD, digests[THIRD], SECOND))

    with pytest.raises(ReleaseUntrusted, match=f"{FIRST} was not released with this key"):
        asyncio.run(rollback(signed, FIRST))
    again = asyncio.run(rollback(signed, SECOND))

    workers = trust(signed)
    assert workers is not None
    workers.check(again)
    assert again.version == SECOND

    shutil.rmtree(tmp_path / SECOND)  # somebody who can write there puts another model under the name
    record = tmp_path / THIRD / RECORD
    shelve(settings, SECOND, "2024-05-02T12:00:00.000Z", None)
    shutil.copy(record, tmp_path / SECOND / RECORD)
    asyncio.run(release(signed, THIRD, digests[THIRD], SECOND))
    with pytest.raises(ReleaseUntrusted, match=f"{SECOND} was not released with this key"):
        asyncio.run(rollback(signed, SECOND))


def test_with_a_key_an_experiment_is_signed_and_only_with_what_was_released_with_it(
    settings: Settings, tmp_path: Path
) -> None:
    signing, trusted = make_keys(tmp_path / "keys")
    signed = replace(settings, models_signing_key_file=signing, models_trusted_key_file=trusted)
    digests = {each.version: each.sha256 for each in stored(settings)}
    for version, previous in ((SECOND, FIRST), (THIRD, SECOND)):
        asyncio.run(release(signed, version, digests[version], previous))

    with pytest.raises(ReleaseUntrusted, match=f"{FIRST} was not released with this key"):
        asyncio.run(experiment(signed, FIRST, 0.1))
    begun = asyncio.run(experiment(signed, SECOND, 0.1))

    workers = trust(signed)
    assert workers is not None
    workers.check(begun)
    assert asyncio.run(rollback(signed, SECOND)).version == SECOND, "the experiment left its release as it was"
