"""Runs on their way to the loop: which wait for which, and which become one."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Sequence
from types import SimpleNamespace
from typing import Any

import pytest

from streams import lanes
from streams.lanes import Lanes
from streams.transport import Run


class Handler:
    """Stands for the loop: holds every run until it is told to go on."""

    def __init__(self, events_max: int = 100) -> None:
        self.begun: list[tuple[int, list[int]]] = []
        self.crashes: list[Exception] = []
        self.error: Exception | None = None
        self.refusal: Exception | None = None
        self.is_lost = False
        self.gates: dict[int, asyncio.Event] = {}
        self.batches: list[list[int]] = []
        self.lanes = Lanes(self.handle, self.crash, events_max)

    def handle(self, runs: Sequence[Run]) -> list[Coroutine[Any, Any, None]]:
        if self.refusal is not None:
            raise self.refusal
        self.batches.append([run.partition for run in runs])
        for run in runs:
            self.begun.append((run.partition, [record.offset for record in run.records]))
            self.gates[run.partition] = asyncio.Event()
        return [self.end(run) for run in runs]

    async def end(self, run: Run) -> None:
        await self.gates[run.partition].wait()
        if self.error is not None:
            raise self.error
        run.handled = not self.is_lost

    async def crash(self, error: Exception) -> None:
        self.crashes.append(error)

    def put(self, *runs: Run) -> None:
        for run in runs:
            self.lanes.put(run)

    async def go_on(self, partition: int = 0) -> None:
        """Ends what the partition is at, and lets everybody come to where they wait next."""
        self.gates[partition].set()
        await rest()


async def rest() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


def run(partition: int, *offsets: int, follows: Run | None = None, generation: int = 1) -> Run:
    records: Any = [SimpleNamespace(offset=offset) for offset in offsets]
    return Run("topic", partition, records, generation, follows=follows)


def row(*runs: tuple[int, ...]) -> list[Run]:
    """Runs of partition 0, of which each follows the one before it."""
    made: list[Run] = []
    for offsets in runs:
        made.append(run(0, *offsets, follows=made[-1] if made else None))
    return made


def test_what_comes_while_a_batch_is_under_way_makes_the_next_one() -> None:
    async def play() -> None:
        handler = Handler()
        first, second = run(0, 1), run(1, 7)

        handler.put(first, second)
        await rest()
        assert handler.batches == [[0, 1]]
        await handler.go_on(1)
        assert (first.handled, second.handled) == (False, True)
        handler.put(run(2, 1), run(1, 8))
        await rest()
        assert handler.batches == [[0, 1]]

        await handler.go_on(0)

        assert first.handled
        assert handler.batches == [[0, 1], [1, 2]]

    asyncio.run(play())


def test_a_full_batch_does_not_wait() -> None:
    async def play() -> None:
        handler = Handler(events_max=3)
        handler.put(run(0, 1))
        await rest()

        handler.put(run(1, 1, 2))
        await rest()
        assert handler.batches == [[0]]
        handler.put(run(2, 1))
        await rest()

        assert handler.batches == [[0], [1, 2]]

    asyncio.run(play())


def test_a_broker_that_does_not_answer_holds_only_its_own_partitions_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lanes, "PATIENCE_SECONDS", 0.0)

    async def play() -> None:
        handler = Handler()
        stuck, fine = run(0, 1), run(1, 7)
        handler.put(stuck, fine)
        await rest()
        await handler.go_on(1)

        handler.put(run(1, 8), run(0, 2))
        await rest()

        assert handler.batches == [[0, 1], [1]]

    asyncio.run(play())


def test_what_comes_while_a_run_is_handled_becomes_one_run() -> None:
    async def play() -> None:
        handler = Handler()
        first, second, third = row((1,), (2, 3), (4,))

        handler.put(first)
        await rest()
        handler.put(second, third)
        assert handler.begun == [(0, [1])]
        assert handler.lanes.events["topic", 0] == 4
        await handler.go_on()

        assert handler.begun == [(0, [1]), (0, [2, 3, 4])]
        assert (first.handled, second.handled, third.handled) == (True, False, False)
        await handler.go_on()
        assert (second.handled, third.handled) == (True, True)
        assert handler.lanes.events["topic", 0] == 0

    asyncio.run(play())


def test_runs_are_not_joined_beyond_the_limit_nor_across_what_lies_between() -> None:
    async def begun(*runs: Run) -> list[list[int]]:
        handler = Handler(events_max=3)
        handler.put(*runs)
        for _ in runs:
            await rest()
            if 0 in handler.gates:
                await handler.go_on()
        return [offsets for _, offsets in handler.begun]

    async def play() -> None:
        assert await begun(*row((1, 2), (3,), (4,))) == [[1, 2, 3], [4]]
        assert await begun(*row((1, 2, 3, 4), (5,))) == [[1, 2, 3, 4], [5]]  # a run is not cut here
        one, _, three = row((1,), (2,), (3,))
        assert await begun(one, three) == [[1], [3]]
        one, two = row((1,), (2,))
        two.generation = 2
        assert await begun(one, two) == [[1], [2]]

    asyncio.run(play())


def test_a_joined_run_that_was_left_alone_leaves_all_its_parts_unhandled() -> None:
    async def play() -> None:
        handler = Handler()
        runs = row((1,), (2,))
        handler.put(*runs)
        await rest()
        handler.is_lost = True
        await handler.go_on()

        assert not any(each.handled for each in runs)

    asyncio.run(play())


def test_to_settle_finishes_what_was_begun_and_drops_the_rest() -> None:
    async def play() -> None:
        handler = Handler()
        first, second = row((1,), (2,))
        handler.put(first)
        await rest()
        handler.put(second)

        settled = asyncio.create_task(handler.lanes.settle())
        await rest()
        assert not settled.done()
        await handler.go_on()
        await settled

        assert (first.handled, second.handled) == (True, False)
        assert handler.begun == [(0, [1])]
        assert handler.lanes.events["topic", 0] == 0

    asyncio.run(play())


def test_an_error_ends_the_app_and_the_lane_but_not_the_others() -> None:
    async def play() -> None:
        handler = Handler()
        handler.put(run(0, 1), run(1, 5))
        await rest()
        handler.put(run(0, 2))
        handler.error = ValueError("broken")
        await handler.go_on(0)

        assert handler.crashes == [handler.error]
        assert handler.begun == [(0, [1]), (1, [5])]

    asyncio.run(play())


def test_what_waits_in_several_partitions_becomes_one_batch_within_the_limit_in_turn() -> None:
    async def play() -> None:
        handler = Handler(events_max=4)
        handler.put(run(0, 1, 2), run(1, 1, 2), run(2, 1), run(3, 1, 2, 3, 4, 5))
        await rest()
        assert handler.batches == [[0, 1], [2], [3]], "a run that is too large for what is left of a batch goes first"

        handler.put(run(0, 3, 4), run(1, 3, 4), run(2, 2, 3), run(3, 6, 7))
        for partition in range(4):
            handler.gates[partition].set()
        await rest()

        assert handler.batches[3:] == [[0, 1], [2, 3]]

    asyncio.run(play())


def test_sources_of_one_partition_take_turns() -> None:
    async def play() -> None:
        handler = Handler()
        other = run(0, 7)
        other.topic = "other"

        handler.put(run(0, 1), other)
        await rest()
        assert handler.begun == [(0, [1])]
        await handler.go_on()

        assert handler.begun == [(0, [1]), (0, [7])]

    asyncio.run(play())


def test_a_batch_that_cannot_be_begun_ends_the_app() -> None:
    async def play() -> None:
        handler = Handler()
        handler.refusal = ValueError("unreadable")
        first, second = run(0, 1), run(1, 1)

        handler.put(first, second)
        await rest()

        assert handler.crashes == [handler.refusal, handler.refusal]
        assert not any(each.handled for each in (first, second))

    asyncio.run(play())
