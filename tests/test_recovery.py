"""Recovery does not end because a broker was slow or away."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from aiokafka.errors import KafkaConnectionError
from faust.tables.recovery import RebalanceAgain, ServiceStopped

from efficientrec.errors import SourceTruncated
from streams import recovery
from streams.app import create_app
from streams.recovery import Recovery
from streams.settings import Settings


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
