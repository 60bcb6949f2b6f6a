"""The whole loop on one machine: broker, worker and trainer as processes of their own, fed with real ratings.

1. Start the broker, make the topics, start worker and trainer.
2. Replay the ratings in time order. The first model comes from what was replayed so far; further on the
   replay waits for it, and later for the second one, so that every run shows models taking each other's place.
3. Watch both topics from outside, as any consumer could: latency, and hits of the lists given *before* each event.
4. When every event has its list: one user's story, and the check of every row against a plain recomputation.

Whatever ends this process ends its children.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict
from functools import cache
from pathlib import Path
from urllib.request import urlopen

import msgspec
from aiokafka import AIOKafkaConsumer
from aiokafka.structs import TopicPartition
from prometheus_client.parser import text_string_to_metric_families
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from efficientrec.artifact import MANIFEST, Manifest
from efficientrec.datasets import Dataset, read_dataset, weight_rules
from efficientrec.errors import EfficientRecError, InteractionInvalid
from streams import topics
from streams.audit import Audit, audit
from streams.broker import EmbeddedBroker, free_port
from streams.children import start_child, stop_child
from streams.follower import Record
from streams.records import RecommendationList, decode_interaction, decode_list
from streams.replay import Pause, Replayed, Speed, replay
from streams.scoreboard import LIKED, Scoreboard
from streams.settings import Settings
from streams.show import last_list, render
from streams.topics import Topics

SHIPPED = Path(__file__).parent / "data" / "ml-latest-small"
REPLAY_SECONDS = 90.0  # beside the holds; a large data set is played faster, not longer
FIRST_TRAINING, NEXT_TRAINING = 0.2, 0.2  # shares of the data: when the first model is trained, and each later one
HOLDS = ((0.3, 1), (0.6, 2))  # share of the replay, and trainings that must have ended before it goes on
HOLD_SECONDS = 90.0
START_SECONDS = 120.0
QUIET_SECONDS = 60.0  # how long the last lists may take
FRAMES_PER_SECOND = 4


class DemoFailed(EfficientRecError):
    """A part of the demo ended by itself; names its log."""


def run_demo(data: Path | None, until_done: bool, output: Path | None, console: Console) -> int:
    """Plays the demo; exit status 0 when every row was as it must be."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # SIGTERM ends it as Ctrl-C does: children first
    folder = Path(tempfile.mkdtemp(prefix="efficientrec-demo-"))
    try:
        return asyncio.run(_demo(read_dataset(data or SHIPPED), folder, until_done, output, console))
    except KeyboardInterrupt:
        console.print("Stopped.")
        return 130
    finally:
        shutil.rmtree(folder, ignore_errors=True)


async def _demo(dataset: Dataset, folder: Path, until_done: bool, output: Path | None, console: Console) -> int:
    began = time.monotonic()
    console.print(
        f"[bold]EfficientRec[/] plays {dataset.name}: {len(dataset):,} interactions of {len(dataset.users):,} users "
        f"with {len(dataset.items):,} items."
    )
    with EmbeddedBroker(log=folder / "broker.log") as broker:
        environ = _environ(dataset, folder, broker.address)
        settings = Settings.load(environ)
        await topics.create(settings)
        with _children(environ, folder) as children:
            await _serving(settings, children, folder, console)
            watch = Watch(settings, folder)
            task = asyncio.create_task(watch.run())
            try:
                await _play(dataset, settings, watch, children, folder, console)
                checked = await audit(settings, time.time_ns() // 1_000_000)
                figures = _figures(watch, checked, time.monotonic() - began)
                await _tell(dataset, settings, watch, checked, figures, console)
                if output is not None:
                    _write(output, figures)
                if not until_done:
                    _invite(settings, watch, console)
                    await _stay(children, folder)
            finally:
                task.cancel()
                with suppress(asyncio.CancelledError):
                    await task
    return 1 if checked.different else 0


def _environ(dataset: Dataset, folder: Path, address: str) -> dict[str, str]:
    """The settings of the demo, as any deployment would give them; those of the surroundings do not count."""
    rules = {name: asdict(rule) for name, rule in weight_rules(dataset).items()}
    for rule in rules.values():  # a rule is a constant or a line, not both
        for key in ("neutral", "span") if not rule["span"] else ("weight",):
            del rule[key]
    ours = {
        "BROKER": f"kafka://{address}",
        "STATE_DIR": str(folder / "state"),
        "MODELS_DIR": str(folder / "models"),
        "LOG_DIR": str(folder / "log"),
        "SESSION_TIMEOUT_SECONDS": "6",  # the embedded broker lets a group form after half of this
        "HEARTBEAT_INTERVAL_SECONDS": "2",
        "PARTITIONS": "4",  # the embedded broker looks at each of them at every fetch
        "FETCH_WAIT_SECONDS": "0.03",
        "METRICS_PORT": str(free_port()),
        "TRAINER_METRICS_PORT": str(free_port()),
        "TRAIN_FIRST_EVENTS": str(max(1, int(len(dataset) * FIRST_TRAINING))),
        "TRAIN_NEW_EVENTS": str(max(1, int(len(dataset) * NEXT_TRAINING))),
        "TRAIN_EVERY_SECONDS": "3600",
        "WEIGHTS": json.dumps(rules),
    }
    kept = {name: value for name, value in os.environ.items() if not name.startswith("EFFICIENTREC_")}
    return {**kept, **{f"EFFICIENTREC_{name}": value for name, value in ours.items()}}


@contextmanager
def _children(environ: Mapping[str, str], folder: Path) -> Iterator[dict[str, subprocess.Popen[bytes]]]:
    """Worker and trainer while the block lasts."""
    children: dict[str, subprocess.Popen[bytes]] = {}
    try:
        for name in ("worker", "trainer"):
            command = [sys.executable, "-m", "streams", name]
            children[name] = start_child(command, log=folder / f"{name}.log", environ=environ)
        yield children
    finally:
        for child in children.values():
            stop_child(child, grace_seconds=5.0)


async def _serving(
    settings: Settings, children: Mapping[str, subprocess.Popen[bytes]], folder: Path, console: Console
) -> None:
    """Returns when the worker has its partitions; the first start on a machine compiles the kernels first."""
    with console.status("the worker starts; the first time on a machine it compiles its kernels"):
        deadline = time.monotonic() + START_SECONDS
        where = (settings.metrics_host, settings.metrics_port, "efficientrec_partitions_assigned")
        while await asyncio.to_thread(_measured, *where) < settings.partitions:
            _check(children, folder)
            if time.monotonic() > deadline:
                raise DemoFailed(f"the worker does not serve after {START_SECONDS:g} s; {_tail(folder, 'worker')}")
            await asyncio.sleep(1 / FRAMES_PER_SECOND)


def _measured(host: str, port: int, name: str) -> float:
    """A metric of one of our processes, summed over its labels; 0 while it does not answer."""
    try:
        with urlopen(f"http://{host}:{port}/metrics", timeout=5) as response:
            text = response.read().decode()
    except OSError:
        return 0
    samples = [sample for family in text_string_to_metric_families(text) for sample in family.samples]
    return sum(sample.value for sample in samples if sample.name == name)


class Watch:
    """Reads interactions and lists as any consumer could, and keeps the score."""

    def __init__(self, settings: Settings, folder: Path) -> None:
        self._settings = settings
        self._topics = Topics.of(settings)
        self._folder = folder
        self.board = Scoreboard(settings.policy, settings.popularity_half_life_seconds, cache(self._trained_up_to))
        self.dead_letters = 0
        self.newest: dict[str, int] = {}
        """User → offset of the newest interaction that was accepted."""
        self.answered: dict[str, int] = {}
        """User → offset of the newest interaction that a list has taken in."""
        self.story: dict[str, RecommendationList] = {}
        """The newest list of each user."""

    @property
    def is_at_rest(self) -> bool:
        """Every accepted interaction is in its user's list."""
        return all(self.answered.get(user, -1) >= offset for user, offset in self.newest.items())

    async def run(self) -> None:
        names = self._topics
        consumer: AIOKafkaConsumer[bytes | None, bytes | None] = AIOKafkaConsumer(
            bootstrap_servers=self._settings.bootstrap_servers,
            auto_offset_reset="earliest",
            enable_auto_commit=False,
            fetch_max_wait_ms=int(1000 * self._settings.fetch_wait_seconds),
        )
        await consumer.start()
        try:
            consumer.assign(
                [
                    TopicPartition(topic.name, number)
                    for topic in topics.wanted(self._settings)
                    if topic.name in (names.interactions, names.lists, names.dead_letters)
                    for number in range(topic.partitions)
                ]
            )
            while True:
                batches = await consumer.getmany(timeout_ms=100)
                received_ms = time.time() * 1000
                for partition, records in batches.items():
                    self._take(partition.topic, records, received_ms)
                    await asyncio.sleep(0)
        finally:
            await consumer.stop()

    def _take(self, topic: str, records: list[Record], received_ms: float) -> None:
        if topic == self._topics.dead_letters:
            self.dead_letters += len(records)
        for record in records:
            if topic == self._topics.interactions:
                with suppress(InteractionInvalid):
                    event = decode_interaction(record.value, record.key, self._settings.policy, 2**52)
                    self.newest[event.user_id] = record.offset
                    self.board.event(record.partition, record.offset, record.timestamp, event)
            elif topic == self._topics.lists and record.value is not None:
                published = decode_list(record.value)
                self.answered[published.user_id] = published.trigger.offset
                self.story[published.user_id] = published
                self.board.published(published, received_ms)

    def _trained_up_to(self, version: str) -> Mapping[int, int]:
        manifest = msgspec.json.decode((self._folder / "models" / version / MANIFEST).read_bytes(), type=Manifest)
        return {int(partition): offset for partition, offset in manifest.window.offsets.items()}


async def _play(
    dataset: Dataset,
    settings: Settings,
    watch: Watch,
    children: Mapping[str, subprocess.Popen[bytes]],
    folder: Path,
    console: Console,
) -> None:
    """Replays everything, with the progress on the screen, and returns when every event has its list."""
    speed = Speed(events_per_second=len(dataset) / REPLAY_SECONDS)
    pause = Pause()
    state = Progress(total=len(dataset))

    def on_progress(done: Replayed) -> None:
        state.sent = done.interactions

    with Live(console=console, refresh_per_second=FRAMES_PER_SECOND, get_renderable=lambda: state.render(watch)):
        playing = asyncio.create_task(replay(dataset, settings, speed, progress=on_progress, pause=pause))
        try:
            waiting_since: float | None = None
            runs = (settings.metrics_host, settings.trainer_metrics_port, "efficientrec_trainer_runs_total")
            while not playing.done():
                _check(children, folder)
                trained = await asyncio.to_thread(_measured, *runs)
                held = any(state.sent >= share * len(dataset) and trained < needed for share, needed in HOLDS)
                waiting_since = (waiting_since or time.monotonic()) if held else None
                if held and waiting_since and time.monotonic() - waiting_since < HOLD_SECONDS:
                    state.holding = "the replay waits for the trainer"
                    pause.hold()
                else:
                    state.holding = ""
                    pause.go_on()
                await asyncio.sleep(1 / FRAMES_PER_SECOND)
            await playing
            state.sent = len(dataset)
            deadline = time.monotonic() + QUIET_SECONDS
            while not (watch.board.score.events >= len(dataset) and watch.is_at_rest):
                _check(children, folder)
                if time.monotonic() > deadline:
                    raise DemoFailed(
                        f"lists are missing {QUIET_SECONDS:g} s after the last event; {_tail(folder, 'worker')}"
                    )
                await asyncio.sleep(1 / FRAMES_PER_SECOND)
        finally:
            playing.cancel()
            with suppress(asyncio.CancelledError):
                await playing


class Progress:
    """What the terminal shows while the replay runs."""

    def __init__(self, total: int) -> None:
        self.total = total
        self.sent = 0
        self.holding = ""
        self._began = time.monotonic()
        self._before = (self._began, 0, 0)
        self._rates = (0.0, 0.0)

    def render(self, watch: Watch) -> RenderableType:
        score, now = watch.board.score, time.monotonic()
        elapsed = now - self._before[0]
        if elapsed >= 1:
            self._rates = ((score.events - self._before[1]) / elapsed, (score.lists - self._before[2]) / elapsed)
            self._before = (now, score.events, score.lists)
        version = next(reversed(score.versions), None)
        table = Table.grid(padding=(0, 3))
        table.add_row(
            "replayed", f"{score.events:,} of {self.total:,}", f"{self._rates[0]:,.0f} events/s", self.holding
        )
        table.add_row("lists", f"{score.lists:,} for {len(score.listed):,} users", f"{self._rates[1]:,.0f} lists/s")
        table.add_row(
            "event to list",
            f"p50 {score.latency_ms(50, 5000):.0f} ms",
            f"p99 {score.latency_ms(99, 5000):.0f} ms",
            "[dim]of the last 5,000 lists[/]",
        )
        table.add_row("model", version or "none yet: what is popular", f"{len(score.versions)} so far")
        table.add_row(
            "hit rate at 10",
            f"[bold green]{score.all.rate:.3f}[/]",
            f"popularity {score.all.popularity_rate:.3f}",
            f"[dim]{score.all.judged:,} liked events, each looked up in the list that its user had before[/]",
        )
        table.add_row(
            "with a model",
            f"[bold green]{score.personal.rate:.3f}[/]",
            f"popularity {score.personal.popularity_rate:.3f}",
            f"[dim]{score.personal.judged:,} of them[/]",
        )
        return Panel(table, title=f"{now - self._began:.0f} s", title_align="right", expand=False)


def _figures(watch: Watch, checked: Audit, seconds: float) -> dict[str, object]:
    score = watch.board.score
    return {
        "events": score.events,
        "lists": score.lists,
        "dead_letters": watch.dead_letters,
        "users": len(score.listed),
        "models": len(score.versions),
        "swaps": max(0, len(score.versions) - 1),
        "latency_ms": {"p50": round(score.latency_ms(50), 1), "p99": round(score.latency_ms(99), 1)},
        "hit_rate_at_10": round(score.all.rate, 4),
        "popularity_hit_rate_at_10": round(score.all.popularity_rate, 4),
        "with_a_model": {
            "judged": score.personal.judged,
            "hit_rate_at_10": round(score.personal.rate, 4),
            "popularity_hit_rate_at_10": round(score.personal.popularity_rate, 4),
        },
        "rows_checked": checked.checked,
        "rows_different": len(checked.different),
        "seconds": round(seconds, 1),
    }


def _write(output: Path, figures: Mapping[str, object]) -> None:
    output.write_text(json.dumps(figures, indent=2) + "\n")


async def _tell(
    dataset: Dataset,
    settings: Settings,
    watch: Watch,
    checked: Audit,
    figures: Mapping[str, object],
    console: Console,
) -> None:
    """The end of the demo: a story, the check, the figures."""
    user = _hero(dataset, watch)
    if user is not None:
        shown = await last_list(settings, user)
        console.print(Panel(Group(_liked(dataset, user), Text(), render(shown)), title="One user", expand=False))
    if checked.different:
        console.print(
            f"[bold red]{len(checked.different)} of {checked.checked} rows differ[/] from the plain recomputation: "
            f"{', '.join(checked.different[:10])}"
        )
    else:
        console.print(f"All {checked.checked} rows equal a plain recomputation from the log, byte for byte.")
    console.print(msgspec.json.format(msgspec.json.encode(figures), indent=2).decode(), highlight=True)


def _hero(dataset: Dataset, watch: Watch) -> str | None:
    """A user whose taste can be told in a few lines: with a list of a model, and the fewest likes beyond twenty."""
    likes: dict[str, int] = {}
    for user, is_liked in zip(dataset.user.tolist(), _is_liked(dataset), strict=True):
        if is_liked:
            likes[dataset.users[user]] = likes.get(dataset.users[user], 0) + 1
    personal = [user for user, published in watch.story.items() if published.model_version]
    return min(personal, key=lambda user: (abs(likes.get(user, 0) - 20), user), default=None)


def _is_liked(dataset: Dataset) -> list[bool]:
    rule = weight_rules(dataset)["rating"]
    return [value != value or (value - rule.neutral) / rule.span >= LIKED for value in dataset.value.tolist()]


def _liked(dataset: Dataset, user: str) -> RenderableType:
    place = dataset.users.index(user)
    liked = [
        dataset.items[item]
        for whose, item, is_liked in zip(dataset.user.tolist(), dataset.item.tolist(), _is_liked(dataset), strict=True)
        if whose == place and is_liked
    ]
    titles = [dataset.catalogue[item].title if item in dataset.catalogue else item for item in liked[-10:]]
    return Text(f"User {user} liked, among {len(liked)}, lately: " + "; ".join(reversed(titles)))


def _invite(settings: Settings, watch: Watch, console: Console) -> None:
    """How to go on by hand."""
    server, names = settings.bootstrap_servers[0], Topics.of(settings)
    user = next(iter(watch.story), "1")
    item = watch.story[user].items[0].item_id if user in watch.story and watch.story[user].items else "1"
    event = json.dumps({"event_type": "like", "user_id": user, "item_id": item, "event_time": int(time.time())})
    console.print(
        Panel(
            Text(
                "Everything stays up until Ctrl-C. Elsewhere, look at a list, send an event, and look again:\n\n"
                f"  export EFFICIENTREC_BROKER=kafka://{server} EFFICIENTREC_PARTITIONS={settings.partitions}\n"
                f"  efficientrec recommend {user}\n"
                f"  efficientrec send like {user} {item}\n"
                f"  efficientrec recommend {user}\n\n"
                "The same event from any Kafka client, here kcat:\n\n"
                f"  echo '{user}|{event}' | kcat -b {server} -t {names.interactions} -K '|' "
                "-X topic.partitioner=murmur2_random"
            ),
            title="Your turn",
            expand=False,
        )
    )


async def _stay(children: Mapping[str, subprocess.Popen[bytes]], folder: Path) -> None:
    while True:
        _check(children, folder)
        await asyncio.sleep(1)


def _check(children: Mapping[str, subprocess.Popen[bytes]], folder: Path) -> None:
    for name, child in children.items():
        if child.poll() is not None:
            raise DemoFailed(f"the {name} ended with status {child.returncode}; {_tail(folder, name)}")


def _tail(folder: Path, name: str) -> str:
    lines = (folder / f"{name}.log").read_text(errors="replace").splitlines()[-15:]
    return "the end of its log:\n" + "\n".join(lines)
