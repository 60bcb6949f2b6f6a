"""One worker of the simulation in memory: the real loop and writers, driven by hand, and what is left when it dies.

What app.py, lanes.py, transport.py and table.py do around the loop is told here a second time, in plain words: a lane
for each topic and partition, of which one of a partition moves at a time, batches of runs of several partitions; claims
and recovery when partitions are dealt, runs that are fetched ahead, commits of what is handled without a gap.
"""

from __future__ import annotations

import random
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from functools import cache
from types import SimpleNamespace
from typing import Any

from aiokafka.structs import ConsumerRecord

from efficientrec.interactions import WeightPolicy
from streams.app import App
from streams.catalogue import Catalogue
from streams.experiments import Models
from streams.lanes import joined, next_row, raising
from streams.metrics import WorkerMetrics
from streams.progress import PROGRESS_KEY, Progress
from streams.topics import Topics
from streams.transport import Run
from streams.worker import Loop
from streams.writer import PartitionLost, Writers
from tests.simulation.deal import Deal, model_of
from tests.simulation.fakes import Broker, Disk, Entry, Network, Note, Place, Post, Store, Tick, Wire

RUNS_AHEAD = 3
"""Most runs that wait in a lane."""


@cache
def _metrics() -> WorkerMetrics:
    return WorkerMetrics(WeightPolicy().rules)


class Clock:
    """Milliseconds that only the schedule winds on."""

    def __init__(self, now_ms: int) -> None:
        self.now_ms = now_ms

    def __call__(self) -> int:
        return self.now_ms

    def monotonic(self) -> float:
        """Stands in for the module `time`."""
        return self.now_ms / 1000


@dataclass
class Task:
    """A coroutine, the moment at which it waits, and what it is for."""

    coroutine: Coroutine[Any, Any, None]
    run: Run | None
    model: str | None
    parts: list[Run] = field(default_factory=list)
    """The runs that it was joined from."""
    tick: Tick | None = None
    has_failed: bool = False
    """It stands for a lane that has ended: nobody takes another run out of it."""


@dataclass
class Around:
    """What all workers share."""

    deal: Deal
    topics: Topics
    broker: Broker
    clock: Clock
    rng: random.Random
    struck: Counter[str]
    problems: list[str]
    partitions: dict[str, int]
    committed: dict[Place, int]
    is_member: Callable[[str, int], bool]
    """Whether the worker of this name belongs to the group's present generation, and this is its number."""
    peak: dict[int, Progress] = field(default_factory=lambda: defaultdict(Progress))
    """How far each changelog has ever got."""
    cut: dict[int, int] = field(default_factory=dict)
    """Partitions whose changelog has lost its end, and not gone on since → where it ends."""
    machines: list[Machine] = field(default_factory=list)

    def mark_stale(self, partition: int, reach: int, but: Machine | None = None) -> None:
        """A disk that knows of what the changelog has lost is known by its offset, until the changelog has grown beyond
        it, be it by a second fence. From then on nothing tells, so such disks are taken away here: that much is not
        promised."""
        for machine in self.machines:
            offset = machine.disks[partition].offset
            if machine is not but and offset is not None and offset >= reach:
                machine.stale.add(partition)


@dataclass
class Machine:
    """What outlives a process."""

    name: str
    disks: dict[int, Disk] = field(default_factory=lambda: defaultdict(Disk))
    stale: set[int] = field(default_factory=set)
    """Partitions whose disk must not be used any more."""


class Process:
    """A worker from its start to its end."""

    def __init__(self, machine: Machine, around: Around, version: str | None) -> None:
        self.machine = machine
        self.around = around
        self.network = Network(around.broker, around.rng, around.struck)
        self.network.failing = around.deal.failing
        self.network.delays = around.deal.settings.fencing == "on"
        self.store = Store(machine.disks)
        settings, metrics = around.deal.settings, _metrics()
        self.models = Models(settings.models_dir, settings.list_size, metrics)
        self.install(version)
        self.is_blind = False
        """Whether it has not noticed that it was given up."""
        self.writers = Writers(
            Wire(self.network, self._note),
            settings.group,
            around.topics.changelog,
            fences=settings.fencing == "on",
            alive=self._is_alive,
            clock=around.clock,
            sleep=self._sleep,
        )
        post = Post(self.network, around.partitions)
        self.loop = Loop(settings, self.store, self.writers, post, self.models, Catalogue(), metrics, around.clock)
        self.generation = -1
        self.is_paused = False
        self.dies_in: int | None = None
        """Steps that an app still takes after one of its lanes has failed."""
        self.tasks: dict[str, Task] = {}
        """By the lane's name; claims by what they are."""
        self.waiting: dict[Place, deque[Run]] = defaultdict(deque)
        self._claiming: set[int] = set()
        self._fences: dict[int, int] = {}
        self.position: dict[Place, int] = {}
        self.delivered: dict[Place, deque[Run]] = defaultdict(deque)

    @property
    def name(self) -> str:
        return self.machine.name

    @property
    def _sources(self) -> tuple[str, str]:
        return self.around.topics.interactions, self.around.topics.users

    def install(self, version: str | None) -> None:
        self.version = version
        self.models.released.current = None if version is None else model_of(version)

    def _is_alive(self) -> bool:
        return self.is_blind or self.generation < 0 or self.around.is_member(self.name, self.generation)

    async def _sleep(self, seconds: float) -> None:
        self.around.clock.now_ms += int(1000 * seconds)
        await Tick("sleep")

    def _note(self, partition: int) -> Note:
        for task in self.tasks.values():
            if task.run is not None and task.run.partition == partition:
                return Note(task.run, task.model, self.name)
        return Note(None, None, self.name)

    # The group's side

    def revoked(self) -> None:
        """Partitions are about to be given back."""
        self.writers.leave()

    def assigned(self, generation: int, partitions: list[int]) -> None:
        """Partitions of a new generation; what was fetched in an earlier one may still wait in the streams."""
        self.generation = generation
        self.is_blind = False
        self.loop.reassigned()
        self.position.clear()
        self.delivered.clear()
        self._fences.clear()
        self._claiming = set(partitions)
        if not self.around.deal.fences:
            for runs in self.waiting.values():
                runs.clear()
        if not partitions:
            self.writers.keep(())
        for partition in partitions:
            self.tasks[f"claim of {partition}"] = Task(self._claim(partition, generation), None, None)
        for partition in partitions:  # all at once: who leaves now leaves all of them
            self.step(f"claim of {partition}")

    async def _claim(self, partition: int, generation: int) -> None:
        self._fences[partition] = await self.writers.claim(partition, generation)
        if self._claiming == self._fences.keys():
            for each, fence in self._fences.items():
                recover(self.around, self.machine, each, fence)
            self.store.ends = {each: fence + 1 for each, fence in self._fences.items()}
            self._seek()
            self.writers.keep(self.store.ends)

    def _seek(self) -> None:
        """To what was committed, or as far back as the rows know of (transport.Consumer._seek_to_state)."""
        for partition in self.store.ends:
            for topic in self._sources:
                self.position[topic, partition] = self.around.committed.get((topic, partition), 0)
        app: Any = SimpleNamespace(table=SimpleNamespace(store=self.store), sources=self._sources)
        for place, known in App.progress(app).items():
            end = self.around.broker.logs[place].end
            if known > end:
                self.around.problems.append(f"progress of {place} is {known}, beyond its end {end}")
            if known < self.position[place]:
                self.around.struck["went back behind the commit"] += 1
                self.position[place] = known

    # The process's side

    def fetch(self) -> bool:
        """One more run into a lane, if there is anything new; whether there was."""
        places = [
            place
            for place, position in self.position.items()
            if len(self.waiting[place]) < RUNS_AHEAD and self.around.broker.logs[place].end > position
        ]
        if not places:
            return False
        place = self.around.rng.choice(places)
        topic, partition = place
        entries = [each for each in self.around.broker.logs[place].entries() if each.offset >= self.position[place]]
        entries = entries[: self.around.rng.choice((1, 2, 4, 12))]
        run = Run(topic, partition, [_record(place, entry) for entry in entries], self.generation)
        self.position[place] = entries[-1].offset + 1
        run.follows = self.delivered[place][-1] if self.delivered[place] else None
        self.waiting[place].append(run)
        self.delivered[place].append(run)
        return True

    def lose_runs(self) -> bool:
        """What waits in the lanes is gone, though it was delivered; whether there was anything."""
        lost = any(self.waiting.values())
        for runs in self.waiting.values():
            runs.clear()
        return lost

    def startable(self) -> list[str]:
        """Lanes that have a run, of partitions that have nothing under way."""
        busy = {task.run.partition for task in self.tasks.values() if task.run is not None}
        return [
            lane
            for place, runs in self.waiting.items()
            if runs and (lane := _lane(place)) not in self.tasks and place[1] not in busy
        ]

    def start(self, lane: str) -> None:
        """Begins a batch: the next run of this lane, and by chance those of other partitions."""
        lanes = {_lane(place): place for place in self.waiting}
        batch = [lane]
        for other in self.startable():
            if lanes[other][1] not in {lanes[each][1] for each in batch} and self.around.rng.random() < 0.5:
                batch.append(other)
        rows = [next_row(self.waiting[lanes[each]], self.around.rng.choice((1, 4, 20))) for each in batch]
        runs = [joined(row) for row in rows]
        for run in runs:
            self._tell_again(run)
        if len(runs) > 1:
            self.around.struck["batch of several partitions"] += 1
        try:
            rests = self.loop.handle(runs)
        except Exception as error:
            rests = [raising(error) for _ in runs]
        for each, row, run, rest in zip(batch, rows, runs, rests, strict=True):
            self.tasks[each] = Task(rest, run, self.version, row)
        for each in batch:
            self.step(each)

    def _tell_again(self, run: Run) -> None:
        """For the tally: whether what the run holds has been taken in before."""
        (stored,) = self.store.read(run.partition, [PROGRESS_KEY])
        progress = Progress.from_bytes(stored)
        is_users = run.topic == self.around.topics.users
        again = [each for each in run.records if each.offset < (progress.users if is_users else progress.interactions)]
        if again:
            self.around.struck["run delivered again"] += 1
        if is_users and any(each.value is None for each in again):
            self.around.struck["erasure delivered again"] += 1

    def step(self, name: str) -> None:
        """Drives a task to its next tick or its end."""
        task = self.tasks[name]
        try:
            task.tick = task.coroutine.send(None)
        except StopIteration:
            del self.tasks[name]
            for part in task.parts:
                part.handled = task.run is not None and task.run.handled
            if task.run is not None and not task.run.handled:
                self.around.struck["run abandoned"] += 1
        except PartitionLost:
            assert task.run is None, "the loop lets nobody know of a lost partition"
            del self.tasks[name]
            self.around.struck["claim abandoned"] += 1
        except Exception as error:
            self._failed(name, task, error)
        if self.dies_in is not None:
            self.dies_in -= 1

    def _failed(self, name: str, task: Task, error: Exception) -> None:
        """The lane ends, and the app soon: others may go on, and the partition's other one may take the lock."""
        del self.tasks[name]
        if task.run is not None:
            self.waiting[task.run.topic, task.run.partition].clear()
        self.dies_in = self.around.rng.choice((1, 1, 5, 20)) if self.dies_in is None else self.dies_in
        self.around.struck[f"died of {type(error).__name__}"] += 1
        if not isinstance(error, self.around.deal.expected):
            self.around.problems.append(f"{self.name} died of {error!r} in {task.run}")
        self.tasks[name] = Task(task.coroutine, None, None, has_failed=True)

    def commit(self) -> None:
        """Offsets after unbroken rows of handled runs; a group that has gone on refuses them."""
        for (topic, partition), runs in self.delivered.items():
            end = None
            while runs and runs[0].handled:
                end = runs.popleft().records[-1].offset + 1
            if end is None:
                continue
            if not self.around.is_member(self.name, self.generation):
                self.around.struck["commit refused"] += 1
                continue
            progress = self.around.peak[partition]
            known = progress.interactions if topic == self.around.topics.interactions else progress.users
            if end > known:
                self.around.problems.append(f"{topic} {partition} is committed up to {end}, and kept up to {known}")
            self.around.committed[topic, partition] = end

    def settle(self, interrupted: Callable[[], bool]) -> None:
        """Finishes what was begun, and what waits, before partitions are given back. Faust waits for both; where there
        are fences, runs of an earlier generation may come later all the same."""
        drains = not self.around.deal.fences or self.around.rng.random() < 0.7
        while not interrupted():
            names = self.steppable()
            startable = self.startable() if drains else []
            if not names and not startable:
                return
            choice = self.around.rng.choice(names + startable)
            if choice in names:
                self.step(choice)
            else:
                self.start(choice)

    def steppable(self) -> list[str]:
        return [name for name, task in self.tasks.items() if not task.has_failed]

    def end(self, *, clean: bool) -> None:
        """Nothing of its memory is left; requests that had left may arrive."""
        for task in self.tasks.values():
            request = task.tick.request if task.tick else None
            if request is not None and self.network.delays and self.around.rng.random() < 0.4:
                self.around.struck["request of a dead worker on its way"] += 1
                self.around.broker.held.append(request)
            task.coroutine.close()
        self.tasks.clear()
        for disk in self.machine.disks.values():
            if clean:
                disk.close()
            elif disk.crash(self.around.rng):
                self.around.struck["disk fell back"] += 1


def _lane(place: Place) -> str:
    return f"{place[0]} {place[1]}"


def recover(around: Around, machine: Machine, partition: int, fence: int) -> None:
    """What the table's recovery does: the changelog from where the disk ends up to the fence. A disk that knows of
    more than there is was written before the changelog lost its end, and is set aside."""
    disk = machine.disks[partition]
    if partition in around.cut:
        end = around.cut.pop(partition)
        around.mark_stale(partition, end, but=machine if fence == end else None)
    if partition in machine.stale:
        machine.stale.discard(partition)
        around.struck["disk ahead, not to be told any more"] += 1
        disk.lose()
    if disk.offset is not None and disk.offset >= fence:
        around.struck["disk ahead set aside"] += 1
        disk.lose()
    reach = -1 if disk.offset is None else disk.offset
    missing = [
        each
        for each in around.broker.logs[around.topics.changelog, partition].entries()
        if reach < each.offset <= fence and each.key is not None
    ]
    while missing:
        size = around.rng.choice((3, 50))
        run, missing = missing[:size], missing[size:]
        disk.write({each.key: each.value for each in run if each.key is not None}.items(), run[-1].offset)


def _record(place: Place, entry: Entry) -> ConsumerRecord[bytes | None, bytes | None]:
    key, value = entry.key, entry.value
    return ConsumerRecord(
        *place,
        entry.offset,
        entry.timestamp,
        0,
        key,
        value,
        None,
        -1 if key is None else len(key),
        -1 if value is None else len(value),
        tuple(entry.headers),
    )
