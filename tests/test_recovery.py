"""Recovery does not end because a broker was slow or away."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
from aiokafka.errors import KafkaConnectionError
from faust.tables.recovery import RebalanceAgain, ServiceStopped
from faust.types import TP

from efficientrec.errors import SourceTruncated, StateUnwritable
from streams import recovery
from streams.app import create_app
from streams.changelog import Stretch
from streams.recovery import Recovery
from streams.settings import Settings
from streams.topics import Topics

CHANGELOG = TP(Topics.of(Settings()).changelog, 0)


def played(what: Callable[[Recovery], Awaitable[None]]) -> bool:
    """Whether recovery begins once more after this."""

    async def play() -> bool:
        app = create_app(Settings(state_dir=Path("nowhere")))
        found: Recovery = app.tables.recovery
        await what(found)
        return bool(found.signal_recovery_start.is_set())

    return asyncio.run(play())


def test_the_worker_recovers_in_this_way() -> None:
    assert type(create_app(Settings(state_dir=Path("nowhere"))).tables.recovery) is Recovery


def test_a_step_without_an_answer_and_one_that_the_broker_fails_begin_once_more(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(recovery, "RETRY_SECONDS", 0.0)

    async def silent() -> None:
        await asyncio.Event().wait()

    async def failing() -> None:
        raise KafkaConnectionError

    async def slow(found: Recovery) -> None:
        with pytest.raises(RebalanceAgain):
            await found._wait(silent(), timeout=0.01)

    async def failed(found: Recovery) -> None:
        with pytest.raises(RebalanceAgain):
            await found._wait(failing())

    assert played(slow)
    assert played(failed)


def test_a_step_within_another_one_begins_both_once_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recovery, "RETRY_SECONDS", 0.0)

    async def slow_within(found: Recovery) -> None:
        with pytest.raises(RebalanceAgain):
            await found._wait(found._wait(asyncio.Event().wait(), timeout=0.01))
        assert found.app.crash_reason is None

    assert played(slow_within)


def test_a_step_that_fails_otherwise_ends_the_worker() -> None:
    async def broken() -> None:
        raise SourceTruncated("the topic was made anew")

    async def play() -> None:
        app = create_app(Settings(state_dir=Path("nowhere")))
        with pytest.raises(SourceTruncated):
            await app.tables.recovery._wait(broken())
        assert isinstance(app.crash_reason, SourceTruncated)

    asyncio.run(play())


def test_a_step_that_is_done_goes_on_and_one_that_a_rebalance_overtakes_begins_anew() -> None:
    async def done(found: Recovery) -> None:
        await found._wait(asyncio.sleep(0))

    async def overtaken(found: Recovery) -> None:
        found.signal_recovery_start.set()
        with pytest.raises(RebalanceAgain):
            await found._wait(asyncio.Event().wait())

    assert not played(done)
    assert played(overtaken)


def test_a_worker_that_stops_ends_its_recovery() -> None:
    async def stopped(found: Recovery) -> None:
        found._stopped.set()
        with pytest.raises(ServiceStopped):
            await found._wait(found._wait(asyncio.Event().wait(), timeout=5))
        assert found.app.crash_reason is None

    assert not played(stopped)


def records(first: int, last: int) -> Stretch:
    return Stretch(0, {}, first, last)


class Disk:
    """Stands for the store: takes runs, or fails."""

    def __init__(self, error: Exception | None = None) -> None:
        self.error = error
        self.runs: list[tuple[int, int]] = []

    def restore(self, run: Stretch) -> None:
        if self.error is not None:
            raise self.error
        self.runs.append((run.first, run.last))


def recovering(disk: Disk, highwater: int) -> Recovery:
    """Of partition 0, whose disk has got to offset 4."""
    app = create_app(Settings(state_dir=Path("nowhere")))
    app.table = SimpleNamespace(store=disk)  # type: ignore[assignment]
    found: Recovery = app.tables.recovery
    found.active_tps.add(CHANGELOG)
    found.active_offsets[CHANGELOG], found.active_highwaters[CHANGELOG] = 4, highwater
    found._set_recovery_started()
    return found


def test_recovery_ends_with_the_last_run_that_was_missing_and_takes_none_twice() -> None:
    async def play() -> None:
        disk = Disk()
        found = recovering(disk, highwater=9)

        found.restore(CHANGELOG, records(5, 7))
        assert not found.signal_recovery_end.is_set()
        found.restore(CHANGELOG, records(5, 7))
        found.restore(CHANGELOG, records(8, 9))

        assert disk.runs == [(5, 7), (8, 9)]
        assert found.signal_recovery_end.is_set()
        assert not found.in_recovery

    asyncio.run(play())


def test_what_is_fetched_of_a_partition_that_went_to_another_worker_is_left_alone() -> None:
    async def play() -> None:
        disk = Disk()
        recovering(disk, highwater=9).restore(TP(CHANGELOG.topic, 3), records(5, 7))
        assert disk.runs == []

    asyncio.run(play())


def test_a_disk_that_fails_in_recovery_stops_the_worker() -> None:
    async def play() -> None:
        found = recovering(Disk(StateUnwritable("no space left")), highwater=9)

        with pytest.raises(StateUnwritable):
            found.restore(CHANGELOG, records(5, 7))

        await asyncio.wait_for(found.app._crashed.wait(), 5)
        assert isinstance(found.app.crash_reason, StateUnwritable)
        assert found.active_offsets[CHANGELOG] == 4

    asyncio.run(play())
