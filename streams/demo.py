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
import math
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
from pathlib import Path
from urllib.request import urlopen

from prometheus_client.parser import text_string_to_metric_families
from rich.console import Console
from rich.live import Live
from rich.markup import escape

from efficientrec.datasets import Dataset, read_dataset, weight_rules
from efficientrec.errors import EfficientRecError
from streams import topics
from streams.audit import Audit, audit
from streams.broker import EmbeddedBroker, free_port
from streams.children import start_child, stop_child
from streams.clock import wall_ms
from streams.replay import Pause, Replayed, Speed, replay
from streams.settings import Settings
from streams.story import invite, tell_story
from streams.watch import Progress, Watch

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


def run_demo(data: Path | None, encoder: str, until_done: bool, output: Path | None, console: Console) -> int:
    """Plays the demo; exit status 0 when every row was as it must be."""
    if output is not None:
        output.touch()  # a place where nothing can be written is better known before than after
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # SIGTERM ends it as Ctrl-C does: children first
    folder = Path(tempfile.mkdtemp(prefix="efficientrec-demo-"))
    try:
        return asyncio.run(_demo(read_dataset(data or SHIPPED), encoder, folder, until_done, output, console))
    except KeyboardInterrupt:
        console.print("Stopped.")
        return 130
    finally:
        shutil.rmtree(folder, ignore_errors=True)


async def _demo(
    dataset: Dataset, encoder: str, folder: Path, until_done: bool, output: Path | None, console: Console
) -> int:
    began = time.monotonic()
    console.print(
        f"[bold]EfficientRec[/] plays {escape(dataset.name)}: {len(dataset):,} interactions of "
        f"{len(dataset.users):,} users with {len(dataset.items):,} items."
    )
    with EmbeddedBroker(log=folder / "broker.log") as broker:
        environ = _environ(dataset, encoder, folder, broker.address)
        settings = Settings.load(environ)
        await topics.create(settings)
        with _children(environ, folder) as children:
            await _serving(settings, children, folder, console)
            watch = Watch(settings)
            task = asyncio.create_task(watch.run())
            try:
                await _play(dataset, settings, watch, task, children, folder, console)
                checked = await audit(settings, wall_ms())
                figures = _figures(watch, checked, time.monotonic() - began)
                user = await tell_story(dataset, settings, watch, console)
                _report(checked, figures, console)
                if output is not None:
                    _write(output, figures)
                if not until_done:
                    invite(settings, watch, user, console)
                    await _stay(children, folder)
            finally:
                task.cancel()
                with suppress(asyncio.CancelledError):
                    await task
    return 1 if checked.different else 0


def _environ(dataset: Dataset, encoder: str, folder: Path, address: str) -> dict[str, str]:
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
        "FENCING": "off",  # the embedded broker has no producer ids
        "METRICS_PORT": str(free_port()),
        "TRAINER_METRICS_PORT": str(free_port()),
        "ENCODER": encoder,
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


async def _play(
    dataset: Dataset,
    settings: Settings,
    watch: Watch,
    seeing: asyncio.Task[None],
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
                if seeing.done():
                    seeing.result()  # raises what ended it
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
                if seeing.done():
                    seeing.result()  # raises what ended it
                if time.monotonic() > deadline:
                    raise DemoFailed(
                        f"lists are missing {QUIET_SECONDS:g} s after the last event; {_tail(folder, 'worker')}"
                    )
                await asyncio.sleep(1 / FRAMES_PER_SECOND)
        finally:
            playing.cancel()
            with suppress(asyncio.CancelledError):
                await playing


def _figures(watch: Watch, checked: Audit, seconds: float) -> dict[str, object]:
    score = watch.board.score
    return {
        "events": score.events,
        "lists": score.lists,
        "dead_letters": watch.dead_letters,
        "users": len(score.listed),
        "models": len(score.versions),
        "swaps": max(0, len(score.versions) - 1),
        "latency_ms": {"p50": _rounded(score.latency_ms(50), 1), "p99": _rounded(score.latency_ms(99), 1)},
        "hit_rate_at_10": _rounded(score.all.rate, 4),
        "popularity_hit_rate_at_10": _rounded(score.all.popularity_rate, 4),
        "with_a_model": {
            "judged": score.personal.judged,
            "hit_rate_at_10": _rounded(score.personal.rate, 4),
            "popularity_hit_rate_at_10": _rounded(score.personal.popularity_rate, 4),
        },
        "rows_checked": checked.checked,
        "rows_different": len(checked.different),
        "seconds": round(seconds, 1),
    }


def _rounded(number: float, digits: int) -> float | None:
    """None where there was nothing to measure: JSON has no NaN."""
    return None if math.isnan(number) else round(number, digits)


def _write(output: Path, figures: Mapping[str, object]) -> None:
    output.write_text(json.dumps(figures, indent=2) + "\n")


def _report(checked: Audit, figures: Mapping[str, object], console: Console) -> None:
    if checked.different:
        console.print(
            f"[bold red]{len(checked.different)} of {checked.checked} rows differ[/] from the plain recomputation: "
            f"{escape(', '.join(checked.different[:10]))}"
        )
    else:
        console.print(f"All {checked.checked} rows equal a plain recomputation from the log, byte for byte.")
    console.print(json.dumps(figures, indent=2), highlight=True)


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
