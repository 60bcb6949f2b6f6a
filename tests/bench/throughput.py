"""A saturated worker beside an idiomatic Faust agent that does the same arithmetic, and beside raw aiokafka.

1. A broker; for each round a world of its own: topics, model, one process pinned to one core. All else has the other.
2. Warm up: some users' lists are out, so group, model, kernels and connections stand.
3. Hold the process (SIGSTOP), produce one event for each of many users, let it go, and wait for as many lists.
4. The rounds alternate between all, so that a change of the machine's speed touches them alike. Medians are reported.

Beside all-distinct users the worker plays the beginning of a real data set as fast as it can: there users send many
events in a row, which make one row and one list for each run. Its items stand for those of the synthetic model.
"""

from __future__ import annotations

import asyncio
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import msgspec
from aiokafka import AIOKafkaConsumer
from aiokafka.structs import TopicPartition

from efficientrec import profile
from efficientrec.datasets import Dataset, read_dataset
from efficientrec.recommend import recommend
from streams.children import start_child, stop_child
from streams.lists import Cause, personal_lists
from streams.metrics import STAGES
from streams.records import Interaction, Trigger, rfc3339
from tests.bench import machine, raw
from tests.bench.histories import history
from tests.bench.idiomatic import Task
from tests.bench.spread import spread
from tests.bench.synthetic import ITEMS, synthetic_model
from tests.bench.traffic import outcomes, until_handled
from tests.integration.harness import KeyValue, World
from tests.toy import START, save_toy

PARTITIONS = 8
WARM_USERS = 1000
SESSION_SECONDS = 12.0
"""Longer than the process is held."""
LIMIT_SECONDS = 180.0
"""How long a round may take; the process may have died."""


class Round(msgspec.Struct):
    """What one process did with one backlog."""

    lists: int
    seconds: float
    cpu_seconds: float
    stages: dict[str, float] = {}
    """Seconds that the worker spent in each step, by its own clock."""

    @property
    def lists_per_second(self) -> float:
        return self.lists / self.seconds

    @property
    def lists_per_core_second(self) -> float:
        return self.lists / self.cpu_seconds


def measure(broker: str, users: int, idiomatic_users: int, rounds: int, data: Path, events: int) -> dict[str, Any]:
    """The figures of all rounds. data, events: the data set that is played, and how much of it."""
    ours, theirs, ceilings, replays = [], [], [], []
    played = _played(read_dataset(data), events)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model = folder / "model"
        save_toy(synthetic_model(), str(model))
        with machine.running_broker(broker, folder) as (address, pid):
            worker_core, other_core = machine.two_cores()
            machine.pin(pid, other_core)
            machine.pin(os.getpid(), other_core)
            for number in range(rounds):
                ours.append(worker_round(world_at(address, folder / f"worker-{number}"), users))
                theirs.append(
                    idiomatic_round(world_at(address, folder / f"idiomatic-{number}"), model, idiomatic_users)
                )
                ceilings.append(raw_round(world_at(address, folder / f"raw-{number}"), users))
                replays.append(_replay_round(world_at(address, folder / f"replay-{number}"), played))
    lists_per_second = statistics.median(each.lists_per_second for each in ours)
    idiomatic_per_second = statistics.median(each.lists_per_second for each in theirs)
    spreads = {
        "lists_per_core_second": spread(each.lists_per_core_second for each in ours),
        "idiomatic_per_core_second": spread(each.lists_per_core_second for each in theirs),
        "raw_per_core_second": spread(each.lists_per_core_second for each in ceilings),
        "replay_events_per_core_second": spread(len(played) / each.cpu_seconds for each in replays),
    }
    per_core, idiomatic_per_core, raw_per_core, replay_per_core = (each["median"] for each in spreads.values())
    return {
        "broker": broker,
        "pinned": worker_core is not None,
        "records_per_second_distinct": lists_per_second,  # every record is another user's: one list for each
        "lists_per_second_distinct": lists_per_second,
        "lists_per_core_second": per_core,
        "cpu_seconds_per_1000_lists": 1000 / per_core,
        "idiomatic_per_second": idiomatic_per_second,
        "idiomatic_per_core_second": idiomatic_per_core,
        "idiomatic_cpu_seconds_per_1000_lists": 1000 / idiomatic_per_core,
        "ratio": lists_per_second / idiomatic_per_second,
        "ratio_per_core_second": per_core / idiomatic_per_core,
        "microseconds_per_list": {
            stage: 1e6 * statistics.median(each.stages[stage] / (each.lists + WARM_USERS) for each in ours)
            for stage in STAGES
        },
        "raw_per_second": statistics.median(each.lists_per_second for each in ceilings),
        "raw_per_core_second": raw_per_core,
        "replay": {
            "data": data.name,
            "events": len(played),
            "lists": statistics.median(each.lists for each in replays),
            "events_per_second": statistics.median(len(played) / each.seconds for each in replays),
            "events_per_core_second": replay_per_core,
            "lists_per_core_second": statistics.median(each.lists_per_core_second for each in replays),
        },
        "spread": spreads,
        "rounds": {
            "worker": [msgspec.to_builtins(each) for each in ours],
            "idiomatic": [msgspec.to_builtins(each) for each in theirs],
            "raw": [msgspec.to_builtins(each) for each in ceilings],
            "replay": [msgspec.to_builtins(each) for each in replays],
        },
    }


def world_at(address: str, folder: Path) -> World:
    """A world of one round, in a new folder."""
    folder.mkdir()
    return World(address, folder, partitions=PARTITIONS, session_timeout_seconds=SESSION_SECONDS)


def worker_round(world: World, users: int) -> Round:
    """Of the worker, with what each of its steps took."""
    try:
        world.create_topics()
        world.release(synthetic_model())
        (worker,) = world.start("only")
        done = _round(world, worker.process, users)
        measured = worker.metrics()
        done.stages = {
            stage: measured[f'efficientrec_stage_duration_seconds_sum{{stage="{stage}"}}'] for stage in STAGES
        }
        return done
    finally:
        world.close()


def idiomatic_round(world: World, model: Path, users: int) -> Round:
    """Of the agent."""
    world.create_topics()
    task = Task(
        broker=world.settings.broker,
        group=world.settings.group,
        prefix=world.settings.prefix,
        partitions=PARTITIONS,
        folder=str(world.folder),
        model=str(model),
        session_timeout_seconds=world.settings.session_timeout_seconds,
    )
    return _process_round(world, "tests.bench.idiomatic", task, users)


def raw_round(world: World, users: int) -> Round:
    """Of raw aiokafka."""
    world.create_topics()
    return _process_round(world, "tests.bench.raw", raw_task(world), users)


def raw_task(world: World) -> raw.Task:
    """What raw aiokafka has to do in this world."""
    row_bytes, list_bytes = bytes_of_a_user()
    return raw.Task(
        broker=world.address,
        source=world.topics.interactions,
        rows=world.topics.changelog,
        lists=world.topics.lists,
        partitions=world.settings.partitions,
        row_bytes=row_bytes,
        list_bytes=list_bytes,
    )


def _process_round(world: World, module: str, task: msgspec.Struct, users: int) -> Round:
    """Of a process that is told its task on its command line."""
    log = world.folder / "process.log"
    process = start_child([sys.executable, "-m", module, msgspec.json.encode(task).decode()], log=log)
    try:
        return _round(world, process, users)
    except RuntimeError as error:
        error.add_note(log.read_text()[-2000:])
        raise
    finally:
        stop_child(process)


def bytes_of_a_user() -> tuple[int, int]:
    """Row and list of a user with one event."""
    model = synthetic_model()
    run = history(model, ["user-12345"], 0, events=1)
    rows = profile.fold(profile.unpack([None], model.encoder.width, model.encoder.key), run, model.encoder).rows
    cause = Cause("user-12345", Trigger("topic", 0, 0, "event-user-12345", rfc3339(START)), START)
    (row,) = profile.pack(rows, 0)
    (body,) = personal_lists(model, recommend(model, rows, 20), [cause], rfc3339(START), "event")
    return len(row), len(body)


def _played(dataset: Dataset, events: int) -> list[KeyValue]:
    """The first events of a data set, in the order of their times."""
    records: list[KeyValue] = []
    for place, (user, item, at) in enumerate(zip(dataset.user, dataset.item, dataset.at, strict=True)):
        if place == events:
            break
        name = f"user-{dataset.users[user]}"
        event = Interaction("like", name, f"item-{item % ITEMS}", int(at), f"event-{place}")
        records.append((name.encode(), msgspec.json.encode(event)))
    return records


def _replay_round(world: World, records: list[KeyValue]) -> Round:
    try:
        world.create_topics()
        world.release(synthetic_model())
        (worker,) = world.start("only")
        world.wait_for_metric(worker, "efficientrec_partitions_assigned", PARTITIONS)
        machine.pin(worker.process.pid, machine.two_cores()[0])
        world.interact(*(_event(f"warm-{number}", number) for number in range(WARM_USERS)))
        warm = asyncio.run(until_handled(worker, WARM_USERS, LIMIT_SECONDS))
        worker.process.send_signal(signal.SIGSTOP)
        world.produce(world.topics.interactions, records)
        cpu, begun = machine.cpu_seconds(worker.process.pid), time.perf_counter()
        worker.process.send_signal(signal.SIGCONT)
        done = asyncio.run(until_handled(worker, WARM_USERS + len(records), LIMIT_SECONDS))
        seconds = time.perf_counter() - begun
        lists = outcomes(done).lists - outcomes(warm).lists
        return Round(lists, seconds, machine.cpu_seconds(worker.process.pid) - cpu)
    finally:
        world.close()


def _round(world: World, process: subprocess.Popen[bytes], users: int) -> Round:
    machine.pin(process.pid, machine.two_cores()[0])
    world.interact(*(_event(f"warm-{number}", number) for number in range(WARM_USERS)))
    return asyncio.run(_watched(world, process, users))


async def _watched(world: World, process: subprocess.Popen[bytes], users: int) -> Round:
    consumer: AIOKafkaConsumer[bytes | None, bytes | None] = AIOKafkaConsumer(
        bootstrap_servers=world.address, auto_offset_reset="earliest", enable_auto_commit=False
    )
    await consumer.start()
    try:
        consumer.assign([TopicPartition(world.topics.lists, number) for number in range(PARTITIONS)])
        await _seen(consumer, WARM_USERS, process)
        process.send_signal(signal.SIGSTOP)
        events = [_event(f"user-{number}", number) for number in range(users)]
        await world._produce(
            world.topics.interactions, [(each.user_id.encode(), msgspec.json.encode(each)) for each in events]
        )
        cpu, begun = machine.cpu_seconds(process.pid), time.perf_counter()
        process.send_signal(signal.SIGCONT)
        await _seen(consumer, users, process)
        return Round(users, time.perf_counter() - begun, machine.cpu_seconds(process.pid) - cpu)
    finally:
        await consumer.stop()


async def _seen(
    consumer: AIOKafkaConsumer[bytes | None, bytes | None], lists: int, process: subprocess.Popen[bytes]
) -> None:
    """Returns when so many lists are out; there is one for each event, since each is another user's."""
    deadline = time.monotonic() + LIMIT_SECONDS
    while lists > 0:
        lists -= sum(map(len, (await consumer.getmany(timeout_ms=50)).values()))
        if process.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError(f"{lists} lists are missing; the process has status {process.poll()}")


def _event(user: str, number: int) -> Interaction:
    return Interaction("like", user, f"item-{number * 37 % ITEMS}", START + number, f"event-{user}")
