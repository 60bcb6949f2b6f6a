"""Plays a schedule with real worker processes on a real broker, breaks what the schedule says, and compares the rest.

Every worker reaches the broker through a network of its own (proxy.py), and kills itself where it is told
(chaos_worker.py). A supervisor starts again what has ended, as one does in production.
"""

from __future__ import annotations

import asyncio
import resource
import shutil
import signal
import time
import traceback
from collections.abc import Callable, Sequence
from itertools import groupby
from pathlib import Path

from aiokafka.admin import AIOKafkaAdminClient

from streams.broker import EmbeddedBroker, broker_answers
from streams.topics import wanted
from tests.integration.harness import Worker, World
from tests.kafka import NativeKafka
from tests.simulation.chaos_worker import STRUCK, VARIABLE
from tests.simulation.checks import Erasure, Handled, Ledger, Place, Truth, check_disk, check_topics
from tests.simulation.outcome import Outcome
from tests.simulation.proxy import Network, Proxy
from tests.simulation.schedule import AWAY, BROKEN_LINES, WORKERS, Fault, Hit, Schedule, Sent, schedule
from tests.toy import ITEMS, toy_model

Broker = NativeKafka | EmbeddedBroker

ON_KAFKA = tuple(Fault)
ON_EMBEDDED = tuple(fault for fault in Fault if fault not in (Fault.BROKER, Fault.STALL_LONG))
"""The embedded broker keeps nothing when it ends, and cannot refuse what was sent to it before a worker lost its
partitions and arrives afterwards: against both it promises nothing."""

PARTITIONS = 6  # for two workers as well as for three
STRIKE_SECONDS = 10.0
"""How long a worker may take to come by the step at which it is to crash, before that counts as missed."""
SETTLE_SECONDS = 120.0
"""How long everything may take to be handled: with one worker that starts anew, and two cores shared by all."""
STOP_SECONDS = 30.0
ENDED_MOST = 6
"""Workers that end by themselves and are started again, before the seed is given up."""


class ChaosWorker(Worker):
    """A worker that can be told to crash after a step."""

    command = ("-m", "tests.simulation.chaos_worker")

    @property
    def armed(self) -> Path:
        return self.folder / "chaos"

    @property
    def struck(self) -> Path:
        return self.armed.with_suffix(STRUCK)

    def environ(self) -> dict[str, str]:
        return {VARIABLE: str(self.armed)}

    def arm(self, step: str, count: int) -> None:
        whole = self.armed.with_suffix(".partial")
        whole.write_text(f"{step}|{count}")
        whole.replace(self.armed)


class Play:
    """One seed from its beginning to its outcome."""

    def __init__(self, plan: Schedule, broker: Broker, folder: Path, outcome: Outcome) -> None:
        self.plan = plan
        self.broker = broker
        self.outcome = outcome
        self.ledger = Ledger()
        is_kafka = isinstance(broker, NativeKafka)
        self.world = World(
            broker.address,
            folder,
            partitions=PARTITIONS,
            run_events_max=5,  # many small runs and commits, so that faults fall between them
            commit_interval_seconds=0.05,
            session_timeout_seconds=3.0 if is_kafka else 6.0,
            heartbeat_interval_seconds=0.5,
            request_timeout_seconds=5.0 if is_kafka else 10.0,
        )
        self.session = self.world.settings.session_timeout_seconds
        self.networks = {name: Proxy([broker.address]) for name in WORKERS}
        self._up: set[str] = set()
        self._excused: set[str] = set()
        """Workers of whom something was broken that may end them; until they have been started again."""

    def run(self) -> None:
        """Plays, waits until all is handled, compares."""
        for network in self.networks.values():
            network.start()
        self.world.create_topics()
        if self.plan.has_model:
            self.world.release(toy_model("toy-1"))
        for name in WORKERS[:2]:
            self._start(name)
        self._wait(self._is_shared_out, "all partitions are served")
        for each in self.plan.rounds:
            self._hit(each.hit, each.before, each.during)
            if each.is_calm:
                self._settle()
            self._look()
        self._produce(self.plan.after)
        self._settle()
        truth = Truth(self.world, self.ledger)
        check_topics(truth, self.outcome)
        self._stop_all()
        check_disk(truth, self.world.rows_on_disk(), self.outcome)

    def close(self) -> None:
        self.world.close()
        for network in self.networks.values():
            network.stop()

    # Workers

    def _worker(self, name: str) -> ChaosWorker:
        worker = self.world.worker(name, ChaosWorker, broker=f"kafka://{self.networks[name].address}")
        assert isinstance(worker, ChaosWorker)
        return worker

    def _start(self, name: str) -> None:
        worker = self._worker(name)
        worker.armed.unlink(missing_ok=True)
        worker.start()
        self._up.add(name)
        self._excused.discard(name)

    def _stop(self, name: str) -> None:
        """SIGTERM, which a worker follows soon and without complaint."""
        self._up.discard(name)
        worker = self._worker(name)
        listens = _listens(worker)  # before, nobody has told the process what to do at SIGTERM, and it simply ends
        worker.process.send_signal(signal.SIGTERM)
        if not self._ends(worker, STOP_SECONDS):
            self.outcome.problems.append(f"{name} did not stop within {STOP_SECONDS:g} s of SIGTERM")
            worker.kill()
        elif worker.process.returncode != 0 and (listens or worker.process.returncode != -signal.SIGTERM):
            self.outcome.problems.append(f"{name} stopped with status {worker.process.returncode}")

    def _stop_all(self) -> None:
        """One after the other: the last one has taken over everything, so its disk must hold every row."""
        while self._up:
            self._wait(self._is_shared_out, "all partitions are served")
            self._settle()
            self._stop(min(self._up))

    def _is_shared_out(self) -> bool:
        """Whether every worker has been dealt its partitions, which may be none, and all are dealt."""
        told = [self._metrics(name) for name in self._up]
        dealt = sum(each.get("efficientrec_partitions_assigned", 0) for each in told)
        return all(each.get("efficientrec_rebalances_total") for each in told) and dealt == PARTITIONS

    def _metrics(self, name: str) -> dict[str, float]:
        try:
            return self._worker(name).metrics()
        except OSError:  # it has only just started, or just ended
            return {}

    def _tend(self) -> None:
        """Starts again what has ended by itself."""
        for name in sorted(self._up):
            worker = self._worker(name)
            if worker.is_running():
                continue
            status = worker.process.returncode
            last = worker.output().strip().splitlines()[-1:]
            told = f"{name} ended by itself with status {status}: {last}"
            (self.outcome.notes if name in self._excused else self.outcome.problems).append(told)
            self.outcome.ended += 1
            assert self.outcome.ended <= ENDED_MOST, (
                f"{self.outcome.ended} workers ended by themselves; the last: {told}"
            )
            self._start(name)

    @staticmethod
    def _ends(worker: Worker, seconds: float) -> bool:
        deadline = time.monotonic() + seconds
        while worker.is_running():
            if time.monotonic() > deadline:
                return False
            time.sleep(0.02)
        return True

    # Records

    def _produce(self, records: Sequence[Sent]) -> None:
        """In order, and into the ledger what the topics will not tell."""
        for topic_name, group in groupby(records, lambda each: each.topic):
            sent = list(group)
            topic = self.world.topics.users if topic_name == "users" else self.world.topics.interactions
            floors: dict[int, int] = {}
            if topic_name == "users" and any(each.value is None and not each.is_poison for each in sent):
                self._look()
                floors = self.world.committed(self.world.topics.interactions)
            places = self.world.produce(topic, [(each.key, each.value) for each in sent])
            for each, (partition, offset) in zip(sent, places, strict=True):
                if each.is_poison:
                    self.ledger.poison[Place(topic, partition, offset)] = (each.key, each.value)
                elif each.value is None:
                    assert each.key is not None
                    self.ledger.erasures.append(Erasure(each.key, partition, offset, floors.get(partition, 0)))

    def _look(self) -> None:
        """Notes what has been handled by now. Nobody but this thread sends, so `sent` is what comes before."""
        users = self.world.committed(self.world.topics.users)
        sent = {number: self.world.end(self.world.topics.interactions, number) for number in range(PARTITIONS)}
        self.ledger.moments.append(Handled(users, sent))

    def _settle(self) -> None:
        self._wait(lambda: self.world.behind() == 0, "everything is committed")

    def _calm_a_fragile_group(self) -> None:
        """A leaving that falls into another leaving or joining hangs a group of the embedded broker for ever."""
        if isinstance(self.broker, EmbeddedBroker):
            self._wait(self._is_shared_out, "all partitions are served")

    def _wait(self, condition: Callable[[], bool], what: str) -> None:
        deadline = time.monotonic() + SETTLE_SECONDS
        while not condition():
            self._tend()
            if time.monotonic() > deadline:
                served = {name: self._metrics(name).get("efficientrec_partitions_assigned") for name in self._up}
                told = f"partitions are served by {served}, behind are {self.world.backlog()}"
                raise AssertionError(f"after {SETTLE_SECONDS:g} s it does not hold that {what}; {told}")
            time.sleep(0.2)

    # Faults

    def _hit(self, hit: Hit, before: Sequence[Sent], during: Sequence[Sent]) -> None:
        """The records before, the fault, the records during, and the mending."""
        strikes = {
            Fault.CRASH: self._crash,
            Fault.KILL: self._kill,
            Fault.DISK_LOST: self._kill,
            Fault.FREEZE: self._freeze,
            Fault.NAP: self._freeze,
            Fault.DISK_FULL: self._fill_disk,
            Fault.CUT: self._cut,
            Fault.CUT_LONG: self._cut,
            Fault.STALL: self._cut,
            Fault.STALL_LONG: self._cut,
            Fault.JOIN: self._join,
            Fault.LEAVE: self._leave,
            Fault.BROKER: self._kill_broker,
            Fault.RELEASE: self._release,
            Fault.DAMAGED: self._release,
        }
        self._tend()
        if hit.fault in BROKEN_LINES:  # who only just starts, and meets no broker, may give up
            self._excused |= {name for name in self._up if not self._metrics(name).get("efficientrec_rebalances_total")}
        has_struck = strikes[hit.fault](hit, before, during)
        (self.outcome.struck if has_struck else self.outcome.missed)[hit.name] += 1

    def _crash(self, hit: Hit, before: Sequence[Sent], during: Sequence[Sent]) -> bool:
        self._wait(self._is_shared_out, "all partitions are served")  # else it may have nothing to do
        worker = self._worker(hit.worker)
        worker.struck.unlink(missing_ok=True)
        worker.arm(hit.step, hit.count)
        self._produce(before)
        has_struck = self._ends(worker, STRIKE_SECONDS) and worker.struck.exists()
        worker.armed.unlink(missing_ok=True)
        self._produce(during)
        if has_struck:
            self._start(hit.worker)
        return has_struck

    def _kill(self, hit: Hit, before: Sequence[Sent], during: Sequence[Sent]) -> bool:
        worker = self._worker(hit.worker)
        self._produce(before)
        time.sleep(0.2 * hit.pause)  # how far into its work it falls
        worker.kill()
        if hit.fault is Fault.DISK_LOST:
            shutil.rmtree(worker.state_dir, ignore_errors=True)  # who only just starts has none yet
        self._produce(during)
        self._start(hit.worker)
        return True

    def _freeze(self, hit: Hit, before: Sequence[Sent], during: Sequence[Sent]) -> bool:
        worker = self._worker(hit.worker)
        self._produce(before)
        worker.process.send_signal(signal.SIGSTOP)
        self._away(hit)
        self._produce(during)
        worker.process.send_signal(signal.SIGCONT)
        return True

    def _cut(self, hit: Hit, before: Sequence[Sent], during: Sequence[Sent]) -> bool:
        network = self.networks[hit.worker]
        self._produce(before)
        network.become(Network.CUT if hit.fault in (Fault.CUT, Fault.CUT_LONG) else Network.STALLED)
        self._away(hit)
        self._produce(during)
        network.become(Network.WELL)
        return True

    def _away(self, hit: Hit) -> None:
        """The pause is the fault: within the session timeout, or beyond it."""
        if hit.fault in AWAY:
            self._excused.add(hit.worker)
            time.sleep(self.session * (1.2 + hit.pause))
        else:
            time.sleep(self.session * 0.3 * hit.pause)

    def _fill_disk(self, hit: Hit, before: Sequence[Sent], during: Sequence[Sent]) -> bool:
        """No file may grow any more, as on a full disk. Seen at the latest when the worker has to write out what it
        holds, at its end; then there is room again. It must say so, and it must not wait for room."""
        self._calm_a_fragile_group()
        worker = self._worker(hit.worker)
        said_before = len(worker.output())
        self._excused.add(hit.worker)
        resource.prlimit(worker.process.pid, resource.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))
        self._produce(before)
        if worker.is_running():
            worker.process.send_signal(signal.SIGTERM)
        if not self._ends(worker, STOP_SECONDS):
            self.outcome.problems.append(f"{hit.worker} hangs on a full disk")
            worker.kill()
        self._produce(during)
        self._start(hit.worker)
        return "File too large" in worker.output()[said_before:]

    def _join(self, hit: Hit, before: Sequence[Sent], during: Sequence[Sent]) -> bool:
        self._produce(before)
        self._start(hit.worker)
        self._produce(during)
        return True

    def _leave(self, hit: Hit, before: Sequence[Sent], during: Sequence[Sent]) -> bool:
        self._calm_a_fragile_group()
        self._produce(before)
        self._stop(hit.worker)
        self._produce(during)
        return True

    def _kill_broker(self, hit: Hit, before: Sequence[Sent], during: Sequence[Sent]) -> bool:
        assert isinstance(self.broker, NativeKafka)
        self._produce(before)
        self.broker.kill()
        time.sleep(2 * hit.pause)  # how long it is gone
        self.broker.start()
        self._produce(during)
        return True

    def _release(self, hit: Hit, before: Sequence[Sent], during: Sequence[Sent]) -> bool:
        self._produce(before)
        self.world.release(toy_model(hit.version, ITEMS[: hit.items]), damaged=hit.fault is Fault.DAMAGED)
        self._produce(during)
        return True


def play(seed: int, broker: Broker, folder: Path, name: str) -> Outcome:
    """The outcome of a seed. Logs stay when something is wrong. name: the broker's, on the command line."""
    begun = time.monotonic()
    outcome = Outcome(seed, replay=f"python -m tests.simulation --broker {name} --first-seed {seed} --seeds 1")
    plan = schedule(seed, ON_KAFKA if isinstance(broker, NativeKafka) else ON_EMBEDDED)
    one = Play(plan, broker, folder, outcome)
    try:
        one.run()
    except Exception as error:
        outcome.problems.append(f"{type(error).__name__}: {error}")
        outcome.notes.append(traceback.format_exc())
    finally:
        one.close()
    outcome.seconds = time.monotonic() - begun
    if outcome.problems:
        outcome.folder = str(folder)
    else:
        shutil.rmtree(folder)
    if isinstance(broker, NativeKafka):
        if not broker_answers(broker.address):  # the seed failed while it was down
            broker.kill()
            broker.start()
        asyncio.run(_forget(one.world))
    return outcome


async def _forget(world: World) -> None:
    """A broker that keeps the topics of all seeds would have thousands of files open."""
    admin = AIOKafkaAdminClient(bootstrap_servers=world.address)
    await admin.start()
    try:
        await admin.delete_topics([topic.name for topic in wanted(world.settings)])
    finally:
        await admin.close()


def _listens(worker: ChaosWorker) -> bool:
    """Whether the worker has got as far as to answer on /metrics."""
    try:
        worker.metrics()
    except OSError:
        return False
    return True
