"""Thousands of schedules a minute, in one process and all by seed: the real loop and writers on a broker and disks in
memory (fakes.py), driven by hand.

Between any two requests the schedule decides what happens: a worker goes on, dies, is paused while the group gives its
partitions away, and wakes; a request is lost, or its answer, or it arrives much later; the broker goes away, or loses
the end of a changelog. At the end everything is mended, and the truth is recomputed (verdict.py).

Without fencing less is promised, and less is dealt: no request arrives after its sender has given it up, and a worker
is paused only where it looks at its lease before it next sends anything.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import random
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from unittest.mock import patch

from aiokafka.errors import KafkaError

from streams import worker, writer
from streams.progress import PROGRESS_KEY, Progress
from streams.topics import Topics, wanted
from tests.simulation.deal import MODELS, Deal, deal
from tests.simulation.fakes import Batch, Broker, Place
from tests.simulation.member import Around, Clock, Machine, Process
from tests.simulation.outcome import Outcome
from tests.simulation.verdict import End, ListSent, judge
from tests.toy import START

FINAL_ROUNDS = 8
"""Generations in which everything must have been handled once nothing fails any more."""
SEEDS_AT_A_TIME = 20
RECLAIM_SHORT = 1_000.0
"""Seconds: below it, partitions are claimed anew in the midst of a schedule."""


def play(seed: int) -> Outcome:
    """One schedule, and what it came to."""
    begun = time.monotonic()
    outcome = Outcome(seed, replay=f"python -m tests.simulation --broker memory --first-seed {seed} --seeds 1")
    dealt = deal(seed)
    clock = Clock(START)
    with _constants(dealt, clock):
        world = World(dealt, clock, outcome)
        try:
            world.play()
            world.finish()
            judge(world.end(), outcome)
        except AssertionError as error:
            outcome.problems.append(f"an invariant is broken: {error}")
    outcome.seconds = time.monotonic() - begun
    return outcome


def run(seeds: Iterable[int]) -> Iterator[Outcome]:
    """The outcome of each seed, in order, on all cores."""
    seeds = list(seeds)
    if len(seeds) <= SEEDS_AT_A_TIME:
        yield from map(play, seeds)
        return
    with multiprocessing.get_context("spawn").Pool(os.cpu_count()) as pool:
        yield from pool.imap(play, seeds, SEEDS_AT_A_TIME)


@contextmanager
def _constants(dealt: Deal, clock: Clock) -> Iterator[None]:
    """Limits so small that a short schedule meets them, and a clock that the schedule winds."""
    level = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with (
            patch.object(worker, "COLD_EVENTS_MAX", dealt.cold_events_max),
            patch.object(writer, "BATCH_BYTES", dealt.batch_bytes),
            patch.object(writer, "RECLAIM_SECONDS", dealt.reclaim_seconds),
            patch.object(writer, "time", clock),
        ):
            yield
    finally:
        logging.disable(level)


class World:
    """Broker, group and workers, and what the seed does to them."""

    def __init__(self, dealt: Deal, clock: Clock, outcome: Outcome) -> None:
        self.deal = dealt
        self.rng = random.Random(f"play {dealt.seed}")
        self.struck = outcome.struck
        self.topics = Topics.of(dealt.settings)
        self.broker = Broker(self.rng, dealt.gaps)
        self.broker.watch = self._watch
        self.clock = clock
        self.around = Around(
            deal=dealt,
            topics=self.topics,
            broker=self.broker,
            clock=clock,
            rng=self.rng,
            struck=outcome.struck,
            problems=outcome.problems,
            partitions={topic.name: topic.partitions for topic in wanted(dealt.settings)},
            committed={},
            is_member=lambda name, generation: self.members.get(name) == generation,
        )
        self.around.machines = self.machines = [Machine(name) for name in "abc"[: dealt.workers]]
        self.processes: dict[str, Process] = {}
        self.generation = 0
        self.members: dict[str, int] = {}
        self.released = 0 if dealt.is_cold else 1
        self.unsent = list(reversed(dealt.records))
        self.current: dict[int, dict[bytes, bytes | None]] = defaultdict(dict)
        """What each changelog says of each key."""
        self.lists: list[ListSent] = []
        self.cuts: set[int] = set()
        """Partitions whose changelog has lost its end."""
        self._healed = False
        for machine in self.machines:
            self._start(machine)
        self._rebalance()

    # The schedule

    def play(self) -> None:
        """Deals what the seed has in store, a step at a time."""
        for _ in range(self.deal.steps):
            actions = self._actions()
            (action,) = self.rng.choices([each for each, _ in actions], [weight for _, weight in actions])
            action()

    def _actions(self) -> list[tuple[Callable[[], object], float]]:
        up = list(self.processes.values())
        awake = [each for each in up if not each.is_paused]
        paused = [each for each in up if each.is_paused]
        faults = self.deal.faults
        fault = 1.5
        actions: list[tuple[Callable[[], object], float]] = [(self._rebalance, 3)]
        if self.unsent:
            actions.append((self._produce, 14))
        if awake:
            actions += [(lambda: self._work(self.rng.choice(awake)), 60), (lambda: self.rng.choice(awake).commit(), 6)]
        if len(up) < len(self.machines):
            actions.append((self._start_one, 4))
        if paused:
            actions.append((lambda: self._wake(self.rng.choice(paused)), 4))
        if self.broker.held and not self.broker.is_away:
            actions.append((self._deliver, 5))
        if self.broker.is_away:
            actions.append((self._broker_returns, 6))
        elif "broker" in faults:
            actions.append((self._broker_leaves, fault))
        if up and "kill" in faults:
            actions.append((lambda: self._kill(self.rng.choice(up)), fault))
        if up and "disk lost" in faults:
            actions.append((lambda: self._lose_disk(self.rng.choice(up)), fault / 2))
        if awake and "stop" in faults:
            actions.append((lambda: self._stop(self.rng.choice(awake)), fault))
        if awake and "pause" in faults:
            actions.append((lambda: self._pause(self.rng.choice(awake)), fault))
        if awake and "slow" in faults and self.deal.fences:
            actions.append((lambda: self._be_slow(self.rng.choice(awake)), fault))
        if awake and "runs lost" in faults:
            actions.append((lambda: self._lose_runs(self.rng.choice(awake)), fault))
        if awake and "disk full" in faults:
            actions.append((lambda: self._fill_disk(self.rng.choice(awake)), fault / 2))
        if "truncate" in faults:
            actions.append((self._truncate, fault))
        if awake and (self.deal.models > self.released or any(each.version != self._newest() for each in awake)):
            actions.append((lambda: self._install(self.rng.choice(awake)), 3 if "swap" in faults else 1))
        return actions

    def _produce(self) -> None:
        for _ in range(min(len(self.unsent), self.rng.choice((1, 3, 10)))):
            sent = self.unsent.pop()
            self.clock.now_ms += sent.pause_ms
            topic = self.topics.interactions if sent.topic == "interactions" else self.topics.users
            self.broker.append((topic, sent.partition), [(sent.key, sent.value, (), self.clock.now_ms)])

    def _work(self, process: Process) -> None:
        for _ in range(self.rng.choice((1, 1, 3, 8))):
            if process.dies_in is not None and process.dies_in <= 0:
                self._die(process)
                return
            self._step(process)

    def _step(self, process: Process) -> bool:
        """One step of one of its tasks; False where there is nothing to do."""
        self.clock.now_ms += 1
        steppable, startable = process.steppable(), process.startable()
        if process.position and self.rng.random() < 0.4 and process.fetch():
            return True
        if steppable or startable:
            choice = self.rng.choice(steppable + startable)
            if choice in steppable:
                process.step(choice)
            else:
                process.start(choice)
            return True
        return process.fetch()

    # Workers come and go

    def _newest(self) -> str | None:
        return MODELS[self.released - 1] if self.released else None

    def _start(self, machine: Machine) -> None:
        self.processes[machine.name] = Process(machine, self.around, self._newest())
        if self._healed:
            self.processes[machine.name].network.failing = 0.0

    def _start_one(self) -> None:
        self._start(self.rng.choice([each for each in self.machines if each.name not in self.processes]))
        if self.rng.random() < 0.7:
            self._rebalance()

    def _die(self, process: Process) -> None:
        process.end(clean=False)
        del self.processes[process.name]

    def _kill(self, process: Process) -> None:
        ticks = [task.tick.name for task in process.tasks.values() if task.tick]
        self.struck[f"kill at: {self.rng.choice(ticks) if ticks else 'rest'}"] += 1
        self._die(process)

    def _lose_disk(self, process: Process) -> None:
        self.struck["disk lost"] += 1
        self._die(process)
        for disk in process.machine.disks.values():
            disk.lose()

    def _fill_disk(self, process: Process) -> None:
        self.struck["disk full"] += 1
        process.store.is_full = True

    def _lose_runs(self, process: Process) -> None:
        if process.lose_runs():
            self.struck["runs lost on their way to the loop"] += 1

    def _stop(self, process: Process) -> None:
        """Asked to: what was begun is finished."""
        self.struck["stop"] += 1
        self._leave(process)
        if process.name in self.processes and not process.is_paused and not process.steppable():
            process.commit()
            self.members.pop(process.name, None)
            process.end(clean=True)
            del self.processes[process.name]

    def _pause(self, process: Process) -> None:
        if not self._may_be_paused(process):
            return
        self.struck["pause"] += 1
        process.is_paused = True
        if self.rng.random() < 0.7:
            self._rebalance()

    def _may_be_paused(self, process: Process) -> bool:
        return self.deal.fences or all(
            task.tick is not None and task.tick.request is None for task in process.tasks.values()
        )

    def _wake(self, process: Process) -> None:
        process.is_paused = False
        if process.generation >= 0 and not self.around.is_member(process.name, process.generation):
            self.struck["wake after takeover"] += 1
            # Fencing must hold whatever the worker believes. Only to claim a partition anew, which may be due in the
            # midst of a run, its lease must tell the truth.
            process.is_blind = (
                self.deal.fences and self.deal.reclaim_seconds > RECLAIM_SHORT and self.rng.random() < 0.5
            )

    def _be_slow(self, process: Process) -> None:
        """It does not give its partitions back in time, and the group goes on without it, while it believes itself
        alive."""
        self.struck["given up while giving back"] += 1
        process.revoked()
        process.is_blind = True
        self._rebalance(without=process)

    # The group

    def _leave(self, process: Process) -> None:
        """What a worker does before it gives its partitions back; it may be interrupted."""
        process.revoked()
        chance = 0.0 if self._healed else 0.02

        def interrupted() -> bool:
            return (process.dies_in is not None and process.dies_in <= 0) or self.rng.random() < chance

        process.settle(interrupted)
        if process.dies_in is not None:
            self._die(process)
        elif process.steppable():
            if "kill" in self.deal.faults:
                self._kill(process)
            elif "pause" in self.deal.faults and self._may_be_paused(process):
                self.struck["pause"] += 1
                process.is_paused = True
            else:
                process.settle(lambda: process.dies_in is not None and process.dies_in <= 0)
                if process.dies_in is not None:
                    self._die(process)

    def _rebalance(self, without: Process | None = None) -> None:
        """Whoever is awake joins a new generation; the partitions are dealt anew."""
        joining = []
        for process in list(self.processes.values()):
            if process.is_paused or process is without:
                continue
            if process.generation >= 0:
                self._leave(process)
                if process.name not in self.processes or process.is_paused:
                    continue
                if self.rng.random() < 0.7:
                    process.commit()
            joining.append(process)
        self.struck["rebalance"] += 1
        self.generation += 1
        self.members = {process.name: self.generation for process in joining}
        dealt: dict[str, list[int]] = defaultdict(list)
        if joining:
            for partition in range(self.deal.settings.partitions):
                dealt[self.rng.choice(joining).name].append(partition)
        for process in joining:
            process.assigned(self.generation, dealt[process.name])

    # Broker and models

    def _deliver(self) -> None:
        """Something that the network had kept arrives, or is lost."""
        late = self.broker.held.pop(self.rng.randrange(len(self.broker.held)))
        if self.rng.random() < 0.25:
            return
        try:
            late.send()
            self.struck[f"late {late.name} taken"] += 1
        except KafkaError as error:
            self.struck[f"late {late.name} refused: {type(error).__name__}"] += 1

    def _broker_leaves(self) -> None:
        self.broker.is_away = True

    def _broker_returns(self) -> None:
        self.broker.is_away = False

    def _truncate(self) -> None:
        """An unclean election: the changelog of a partition ends earlier than it did, and what was on its way to the
        old leader does not arrive. A writer is told of it by the broker, which no longer knows his last batch. Not so
        where there is no fencing, where nothing of any writer is left, or where he claims the partition anew: there it
        happens only while no worker is up."""
        partition = self.rng.randrange(self.deal.settings.partitions)
        place = (self.topics.changelog, partition)
        log = self.broker.logs[place]
        batches = self.rng.randint(1, 4)
        left = len(log.batches) - batches
        is_told = self.deal.fences and left > 0 and self.deal.reclaim_seconds > RECLAIM_SHORT
        if left < 0 or (self.processes and not is_told):
            return
        self.struck["changelog truncated"] += 1
        self.broker.held.clear()
        end = log.truncate(batches)
        self.around.cut[partition] = min(end, self.around.cut.get(partition, end))
        self.cuts.add(partition)
        self.current[partition] = {each.key: each.value for each in log.entries() if each.key is not None}

    def _install(self, process: Process) -> None:
        """A release reaches one worker; others serve the old model for a while."""
        if process.version == self._newest():
            if self.released == self.deal.models:
                return
            self.released += 1
        if process.tasks:
            self.struck["model swapped in the midst of a run"] += 1
        process.install(self._newest())

    # What the broker has

    def _watch(self, place: Place, batch: Batch) -> None:
        topic, partition = place
        note = batch.note
        if topic == self.topics.changelog:
            if note is not None and note.run is not None and partition in self.around.cut:
                self.around.mark_stale(partition, self.around.cut.pop(partition))
            current = self.current[partition]
            for entry in batch.entries:
                if entry.key == PROGRESS_KEY:
                    self._watch_progress(partition, Progress.from_bytes(entry.value), batch)
                assert entry.key is not None
                current[entry.key] = entry.value
        elif topic == self.topics.lists:
            current = self.current[partition]
            for entry in batch.entries:
                assert entry.key is not None
                self.lists.append(ListSent(partition, entry.key, entry.value, current.get(entry.key)))

    def _watch_progress(self, partition: int, now: Progress, batch: Batch) -> None:
        """Progress goes on by what its run holds, and leaves nothing out."""
        before = Progress.from_bytes(self.current[partition].get(PROGRESS_KEY))
        assert batch.note is not None
        run = batch.note.run
        assert run is not None
        is_users = run.topic == self.topics.users
        was, is_ = (before.users, now.users) if is_users else (before.interactions, now.interactions)
        other = before.interactions == now.interactions if is_users else before.users == now.users
        left_out = [
            each.offset
            for each in self.broker.logs[run.topic, partition].entries()
            if was <= each.offset < run.records[0].offset
        ]
        if not other or is_ < was or is_ > max(was, run.records[-1].offset + 1) or (left_out and is_ > was):
            self.around.problems.append(
                f"{batch.note.worker} moves partition {partition} from {before} to {now} by offsets "
                f"{run.records[0].offset} to {run.records[-1].offset} of {run.topic}; left out: {left_out}"
            )
        peak = self.around.peak[partition]
        self.around.peak[partition] = Progress(max(peak.interactions, now.interactions), max(peak.users, now.users))

    # The end

    def finish(self) -> None:
        """Mends everything and goes on until all is handled."""
        self._healed = True
        self.broker.is_away = False
        while self.broker.held:
            self._deliver()
        for process in list(self.processes.values()):
            process.network.failing = 0.0
            if process.is_paused or process.dies_in is not None or process.store.is_full:
                self._die(process)
        while self.broker.held:
            self._deliver()
        while self.unsent:
            self._produce()
        for _ in range(FINAL_ROUNDS):
            for machine in self.machines:
                if machine.name not in self.processes:
                    self._start(machine)
            self._rebalance()
            self._work_off()
            if self._is_done():
                return
        self.around.problems.append(
            f"not handled after {FINAL_ROUNDS} generations: committed {self.around.committed}, ends {self._ends()}"
        )

    def _work_off(self) -> None:
        for process in list(self.processes.values()):
            while process.name in self.processes and self._step(process):
                if process.dies_in is not None and process.dies_in <= 0:
                    self._die(process)
            if process.name in self.processes:
                process.commit()

    def _ends(self) -> dict[Place, int]:
        return {
            (topic, partition): log.end
            for topic in (self.topics.interactions, self.topics.users)
            for partition in range(self.deal.settings.partitions)
            if (log := self.broker.logs[topic, partition]).batches
        }

    def _is_done(self) -> bool:
        """Everything is committed, and taken in: what a changelog has lost was committed once."""
        for (topic, partition), end in self._ends().items():
            progress = Progress.from_bytes(self.current[partition].get(PROGRESS_KEY))
            reach = progress.users if topic == self.topics.users else progress.interactions
            if self.around.committed.get((topic, partition), 0) != end or reach < end:
                return False
        return True

    def end(self) -> End:
        return End(
            deal=self.deal,
            topics=self.topics,
            broker=self.broker,
            around=self.around,
            lists=self.lists,
            cuts=self.cuts,
            was_ever_warm=self.released > 0,
            now_ms=self.clock.now_ms,
        )
