"""Runs of records: how they are dealt, what may be committed, what goes back to be fetched again."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from aiokafka.structs import ConsumerRecord, TopicPartition
from faust.types import TP

from efficientrec.errors import SourceTruncated
from streams.app import create_app
from streams.changelog import Batch
from streams.settings import Settings
from streams.topics import Topics
from streams.transport import Consumer, ConsumerThread, Run

TOPIC = Topics.of(Settings()).interactions
ZERO, ONE = TP(TOPIC, 0), TP(TOPIC, 1)
LOG = TP(Topics.of(Settings()).changelog, 0)
TOPICS = {"p": TOPIC, "c": LOG.topic}


class Fed(Consumer):
    """The consumer with fetches that a test deals out, and seeks that it can look at."""

    def __init__(self, run_events_max: int = 10) -> None:
        app = create_app(Settings(state_dir=Path("nowhere"), run_events_max=run_events_max))
        self.runs: list[Run] = []
        lanes: Any = SimpleNamespace(put=self.runs.append)
        app.lanes = lanes
        super().__init__(
            app.transport, callback=_ignored, on_partitions_revoked=_ignored, on_partitions_assigned=_ignored
        )
        self.fetched: Mapping[Any, list[Any]] = {}
        self.meanwhile = _ignored
        """What happens while a fetch is under way."""
        self.restored: list[tuple[TP, int, int]] = []
        app.tables.recovery.restore = lambda tp, run: self.restored.append((tp, run.first, run.last))
        self.sought: list[tuple[TP, int]] = []
        self.commits_known: dict[TP, int] = {}
        self.commits: list[Mapping[TP, int]] = []
        self.takes_commits: bool | BaseException | asyncio.Future[bool] = True
        self.bounds = (0, 0)
        self.positions: dict[TP, int] = {}
        self._set_active_tps({ZERO, ONE, LOG})
        self.resume_flow()
        self.open_sources()

    def _new_consumer_thread(self) -> Any:
        """Nothing is fetched here, and a real one has an event loop that would have to be closed."""
        return SimpleNamespace(beacon=None)

    async def _wait_next_records(self, timeout: float) -> tuple[Any, Any]:
        await self.meanwhile()
        return self.fetched, self._get_active_partitions()

    async def _seek(self, partition: TP, offset: int) -> None:
        self.sought.append((partition, offset))

    async def _commit(self, offsets: Mapping[TP, int]) -> bool:
        self.commits.append(dict(offsets))
        if isinstance(self.takes_commits, BaseException):
            raise self.takes_commits
        return self.takes_commits if isinstance(self.takes_commits, bool) else await self.takes_commits

    def assignment(self) -> set[TP]:
        return {ZERO, ONE}

    async def seek_to_committed(self) -> Any:
        return dict(self.commits_known)

    async def _bounds(self, tps: Iterable[TP]) -> dict[TP, tuple[int, int]]:
        return dict.fromkeys(tps, self.bounds)

    async def resume_with(self, *, committed: int, progress: int, start: int = 0, end: int = 1000) -> None:
        """What happens after a recovery, for partition 0."""
        self.commits_known, self.bounds = {ZERO: committed}, (start, end)
        self.app.progress = lambda: {ZERO: progress}
        await self.perform_seek()
        self.open_sources()

    def highwater(self, tp: TP) -> int:
        return 0

    def _position(self, tp: TP) -> int | None:
        return self.positions.get(tp)

    async def delivered(self, **fetched: Sequence[int]) -> list[Run]:
        """What comes to the lanes of a fetch: p0, p1, c0 = the offsets of its records; c of the changelog."""
        self.fetched = {
            TopicPartition(TOPICS[name[0]], int(name[1:])): _fetched(name, at) for name, at in fetched.items()
        }
        self.runs.clear()
        await self.deliver(1.0)
        return list(self.runs)


async def _ignored(*_: object) -> None: ...


def _fetched(name: str, offsets: Sequence[int]) -> list[Any]:
    """Of the changelog, each record is a batch."""
    records = _records(name, offsets)
    return [Batch(record.offset, [record]) for record in records] if name[0] == "c" else records


def _records(name: str, offsets: Sequence[int]) -> list[ConsumerRecord[bytes | None, bytes | None]]:
    place = TOPICS[name[0]], int(name[1:])
    return [ConsumerRecord(*place, offset, 0, 0, b"key", b"value", None, 3, 5, ()) for offset in offsets]


def offsets(run: Run) -> list[int]:
    return [record.offset for record in run.records]


def done(*runs: Run) -> None:
    for run in runs:
        run.handled = True


def test_a_fetch_is_dealt_in_bounded_runs_in_turn() -> None:
    async def play() -> None:
        runs = await Fed(run_events_max=2).delivered(p0=range(5), p1=range(7, 8))

        assert [(run.partition, offsets(run)) for run in runs] == [(0, [0, 1]), (1, [7]), (0, [2, 3]), (0, [4])]

    asyncio.run(play())


def test_only_an_unbroken_row_of_handled_runs_is_committed() -> None:
    async def play() -> None:
        consumer = Fed(run_events_max=2)
        first, second, third = await consumer.delivered(p0=range(6))

        done(second)
        assert consumer._new_offset(ZERO) is None
        done(first)
        assert consumer._new_offset(ZERO) == 4
        done(third)
        assert consumer._new_offset(ZERO) == 6

    asyncio.run(play())


def test_what_the_broker_did_not_take_is_committed_again() -> None:
    async def play() -> None:
        consumer = Fed()
        done(*await consumer.delivered(p0=range(4)))
        consumer.takes_commits = False
        assert not await consumer.commit()

        consumer.takes_commits = True

        assert await consumer.commit()
        assert consumer.commits == [{ZERO: 4}, {ZERO: 4}]
        assert not await consumer.commit()

    asyncio.run(play())


def test_a_commit_that_ends_with_the_consumers_thread_cancels_nobody_else() -> None:
    async def play() -> None:
        consumer = Fed()
        done(*await consumer.delivered(p0=range(4)))
        consumer.takes_commits = asyncio.CancelledError()

        assert not await consumer.commit()

        consumer.takes_commits = True
        assert await consumer.commit()

    asyncio.run(play())


def test_who_is_cancelled_amid_a_commit_stays_cancelled() -> None:
    async def play() -> None:
        consumer = Fed()
        done(*await consumer.delivered(p0=range(4)))
        consumer.takes_commits = asyncio.get_running_loop().create_future()
        task = asyncio.create_task(consumer.commit())
        while not consumer.commits:  # noqa: ASYNC110  # one turn of the loop at a time, until the commit is under way
            await asyncio.sleep(0)

        task.cancel()

        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(play())


def test_gaps_between_offsets_do_not_hold_up_the_commit() -> None:
    async def play() -> None:
        consumer = Fed(run_events_max=2)
        done(*await consumer.delivered(p0=[3, 10, 11, 40]))

        assert consumer._new_offset(ZERO) == 41

    asyncio.run(play())


def test_a_first_run_of_a_single_record_does_not_hold_up_the_commit() -> None:
    async def play() -> None:
        consumer = Fed()
        done(*await consumer.delivered(p0=[0]))
        assert consumer._new_offset(ZERO) == 1
        consumer._committed_offset[ZERO] = 1

        done(*await consumer.delivered(p0=range(1, 9)))

        assert consumer._new_offset(ZERO) == 9

    asyncio.run(play())


def test_a_run_that_was_left_alone_is_not_committed_nor_what_follows_it() -> None:
    async def play() -> None:
        consumer = Fed(run_events_max=2)
        _, after = await consumer.delivered(p0=range(4))

        done(after)

        assert consumer._new_offset(ZERO) is None

    asyncio.run(play())


def test_a_run_of_an_earlier_generation_is_not_committed() -> None:
    async def play() -> None:
        consumer = Fed()
        (run,) = await consumer.delivered(p0=range(4))
        consumer.app.consumer_generation_id += 1

        done(run)

        assert consumer._new_offset(ZERO) is None

    asyncio.run(play())


def test_a_run_that_was_delivered_twice_does_not_hold_up_the_commit() -> None:
    async def play() -> None:
        consumer = Fed()
        done(*await consumer.delivered(p0=range(4)))
        await consumer.delivered(p0=range(4))
        consumer._committed_offset[ZERO] = consumer._new_offset(ZERO)

        done(*await consumer.delivered(p0=range(4, 6)))

        assert consumer._new_offset(ZERO) == 6

    asyncio.run(play())


def test_records_that_come_again_in_other_runs_do_not_hold_up_the_commit() -> None:
    async def play() -> None:
        consumer = Fed(run_events_max=4)
        first, _ = await consumer.delivered(p0=range(6))
        again = await consumer.delivered(p0=range(9))

        done(first, *again)

        assert consumer._new_offset(ZERO) == 9

    asyncio.run(play())


@pytest.mark.parametrize("why", ["the flow has stopped", "the partition is paused", "recovery has not ended"])
def test_what_cannot_be_delivered_now_goes_back_to_be_fetched_again(why: str) -> None:
    async def play() -> None:
        consumer = Fed(run_events_max=2)
        if why == "the flow has stopped":
            consumer.stop_flow()
        elif why == "recovery has not ended":
            await consumer.perform_seek()
        else:
            consumer.pause_partitions({ZERO, ONE})

        assert await consumer.delivered(p0=range(5, 10), p1=[8]) == []

        assert consumer.sought == [(ZERO, 5), (ONE, 8)]
        assert consumer._new_offset(ZERO) is None

    asyncio.run(play())


def test_what_was_fetched_before_the_sources_opened_goes_back() -> None:
    async def play() -> None:
        consumer = Fed()
        await consumer.perform_seek()

        async def recovery_ends(*_: object) -> None:
            consumer.open_sources()

        consumer.meanwhile = recovery_ends
        assert await consumer.delivered(p0=[5, 6]) == []
        consumer.meanwhile = _ignored

        assert consumer.sought == [(ZERO, 5)]
        assert [offsets(run) for run in await consumer.delivered(p0=[5, 6])] == [[5, 6]]

    asyncio.run(play())


def test_what_goes_back_does_not_undo_a_seek_that_went_back_further() -> None:
    async def play() -> None:
        consumer = Fed()

        async def recovery(*_: object) -> None:
            await consumer.resume_with(committed=500, progress=420)

        consumer.meanwhile = recovery
        assert await consumer.delivered(p0=[500, 501]) == []

        assert consumer.sought == [(ZERO, 420), (ZERO, 420)]

    asyncio.run(play())


def test_the_changelog_goes_to_disk_at_once_and_back_while_its_partition_is_paused() -> None:
    async def play() -> None:
        consumer = Fed(run_events_max=2)

        assert await consumer.delivered(c0=[1, 2, 7]) == []
        consumer.pause_partitions({LOG})
        assert await consumer.delivered(c0=[8]) == []

        assert consumer.restored == [(LOG, 1, 2), (LOG, 7, 7)]
        assert consumer.sought == [(LOG, 8)]

    asyncio.run(play())


@pytest.mark.parametrize("when", ["before and during the fetch", "during the fetch", "during and after the fetch"])
def test_what_was_fetched_while_recovery_moved_a_changelog_does_not_go_to_disk(when: str) -> None:
    """Else the disk would lack what lies between where recovery goes on and there."""

    async def play() -> None:
        consumer, told, answered = Fed(), asyncio.Event(), asyncio.Event()

        async def seek_wait(partitions: object) -> None:
            told.set()
            await answered.wait()

        consumer._thread.seek_wait = seek_wait
        seek = asyncio.create_task(consumer.seek_wait({LOG: 100}))
        if when.startswith("before"):
            await told.wait()

        async def moved(*_: object) -> None:
            await told.wait()
            if not when.endswith("after the fetch"):
                answered.set()
                await seek

        consumer.meanwhile = moved
        await consumer.delivered(c0=[150, 151])
        assert consumer.restored == []
        assert consumer.sought == [(LOG, 100)]
        answered.set()
        await seek

        consumer.meanwhile = _ignored
        await consumer.delivered(c0=[100, 101])
        assert consumer.restored == [(LOG, 100, 101)]

    asyncio.run(play())


def test_a_run_is_next_when_the_one_before_it_was_handled() -> None:
    async def play() -> None:
        consumer = Fed(run_events_max=2)
        first, elsewhere, second, third = await consumer.delivered(p0=range(6), p1=[3])
        assert [run.is_next() for run in (first, second, third, elsewhere)] == [True, False, False, True]

        first.handled = True

        assert [run.is_next() for run in (second, third)] == [True, False]

    asyncio.run(play())


def test_a_flow_that_stops_between_two_runs_gives_back_the_rest_alone() -> None:
    async def play() -> None:
        consumer = Fed(run_events_max=2)
        delivered = []

        def taken(run: Run) -> None:
            delivered.append(offsets(run))
            consumer.stop_flow()

        consumer.app.lanes.put = taken
        await consumer.delivered(p0=range(6))

        assert delivered == [[0, 1]]
        assert consumer.sought == [(ZERO, 2)]

    asyncio.run(play())


def test_a_changelog_that_lost_its_end_is_made_good_from_the_source() -> None:
    async def play() -> None:
        consumer = Fed()

        await consumer.resume_with(committed=500, progress=420)

        assert consumer.sought == [(ZERO, 420)]
        assert consumer.commits == [{ZERO: 420}]
        assert [offsets(run) for run in await consumer.delivered(p0=[420, 421])] == [[420, 421]]

    asyncio.run(play())


def test_profiles_that_are_ahead_of_the_commit_move_nothing() -> None:
    async def play() -> None:
        consumer = Fed()

        await consumer.resume_with(committed=500, progress=540)

        assert consumer.sought == []

    asyncio.run(play())


def test_profiles_that_know_more_events_than_there_are_stop_the_worker() -> None:
    async def play() -> None:
        consumer = Fed()

        with pytest.raises(SourceTruncated, match=r"ends at offset 12, but .* up to 540.*EFFICIENTREC_GROUP"):
            await consumer.resume_with(committed=0, progress=540, end=12)

    asyncio.run(play())


def test_events_that_were_deleted_before_anybody_came_to_them_are_told_of(caplog: pytest.LogCaptureFixture) -> None:
    asyncio.run(Fed().resume_with(committed=500, progress=500, start=700))

    assert "begins at offset 700, but its profiles have got to 500 only" in caplog.text


def test_the_first_record_that_is_not_handled_is_known_with_its_time() -> None:
    async def play() -> None:
        consumer = Fed(run_events_max=2)
        consumer._committed_offset[ZERO] = 5
        assert consumer.first_undone(ZERO) == (5, None)
        first, second = await consumer.delivered(p0=range(5, 9))
        first.records[0] = replace(first.records[0], timestamp=77)
        second.records[0] = replace(second.records[0], timestamp=88)

        assert consumer.first_undone(ZERO) == (5, 77)
        done(first)
        assert consumer.first_undone(ZERO) == (7, 88)
        done(second)
        assert consumer.first_undone(ZERO) == (9, None)
        assert consumer.committed(ZERO) == 5
        consumer._new_offset(ZERO)  # what a commit asks for; the runs are forgotten
        assert consumer.first_undone(ZERO) == (9, None)

    asyncio.run(play())


def test_what_lies_behind_the_last_record_and_is_none_counts_as_handled() -> None:
    async def play() -> None:
        consumer = Fed()
        done(*await consumer.delivered(p0=[0, 1]))
        consumer.positions = {ZERO: 3}  # at 2 there is the marker of a transaction
        await consumer.delivered(p1=[0])

        assert consumer.first_undone(ZERO) == (3, None)
        assert consumer.first_undone(ONE) == (0, 0)
        consumer._committed_offset[ZERO] = 1
        assert consumer.committed(ZERO) == 1, "a record that is handled waits for its commit"
        consumer._new_offset(ZERO)
        consumer._committed_offset[ZERO] = 2
        assert consumer.committed(ZERO) == 3, "the marker never will be committed"

    asyncio.run(play())


def test_a_position_of_before_a_rebalance_says_nothing_of_what_is_handled() -> None:
    async def play() -> None:
        consumer = Fed()
        consumer.positions = {ZERO: 30}
        await consumer.delivered(p1=[0])
        await consumer.resume_with(committed=20, progress=20)
        assert consumer.first_undone(ZERO) == (20, None)

        async def a_recovery_begins(*_: object) -> None:
            await consumer.perform_seek()

        consumer.meanwhile = a_recovery_begins
        await consumer.delivered(p1=[0])
        assert consumer.first_undone(ZERO) == (20, None)

    asyncio.run(play())


def test_a_partition_that_has_just_gone_has_no_end() -> None:
    async def play() -> None:
        consumer = Fed()

        def not_assigned(tp: TP) -> int:
            raise AssertionError("Partition is not assigned")

        consumer._thread.highwater = not_assigned
        assert Consumer.highwater(consumer, ZERO) == 0
        consumer._thread.highwater = lambda tp: 12
        assert Consumer.highwater(consumer, ZERO) == 12

    asyncio.run(play())


def test_a_worker_that_stops_does_not_wait_for_a_group_that_waits_for_it(caplog: pytest.LogCaptureFixture) -> None:
    class Stuck:
        async def stop(self) -> None:
            await asyncio.Event().wait()

    async def play() -> None:
        thread = ConsumerThread.__new__(ConsumerThread)
        thread._consumer, thread._method_queue = Stuck(), None
        thread.app = SimpleNamespace(conf=SimpleNamespace(broker_session_timeout=0.01))
        await asyncio.wait_for(thread.on_thread_stop(), 5)

    asyncio.run(play())

    assert "the group was left without a word" in caplog.text
