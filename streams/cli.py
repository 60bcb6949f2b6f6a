"""The command line: one function a command, each of which reads the settings and hands over.

What a command needs is imported when it runs: so a worker never loads torch, and `--help` is quick.
"""

from __future__ import annotations

import asyncio
import logging
import os
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape

from efficientrec.errors import EfficientRecError
from streams import logs
from streams.clock import wall_ms
from streams.settings import Settings

app = typer.Typer(
    name="efficientrec",
    help="Real-time recommendations from Kafka: interactions in, refreshed lists out.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)
topics_app = typer.Typer(no_args_is_help=True, help="The topics in Kafka: create them, or check how they are made.")
app.add_typer(topics_app, name="topics")
models_app = typer.Typer(
    no_args_is_help=True, help="The trained models: list them, or put an earlier one into service."
)
app.add_typer(models_app, name="models")

keys_app = typer.Typer(no_args_is_help=True, help="The keys with which releases are signed.")
app.add_typer(keys_app, name="keys")

Config = Annotated[
    Path | None,
    typer.Option(
        "--config", "-c", help="TOML file with settings; variables EFFICIENTREC_* go over it.", dir_okay=False
    ),
]
Data = Annotated[
    Path, typer.Option("--data", help="Folder with interactions.csv.gz and, where there are any, items and users.")
]
Seed = Annotated[int, typer.Option("--seed", help="Seed of every random choice.")]

console = Console()


def main() -> None:
    """Runs the command line; an error of ours is one line, and exit status 1."""
    try:
        app()
    except EfficientRecError as error:
        if logs.writes_json():
            logging.getLogger("streams").critical("%s: %s", type(error).__name__, error)
        else:
            text = f"[bold red]{type(error).__name__}[/]: {escape(str(error))}"
            Console(stderr=True).print(text, highlight=False, soft_wrap=True)
        sys.exit(1)


def _settings(config: Path | None) -> Settings:
    settings = Settings.load(os.environ, config)
    logs.configure(settings.log_level, settings.log_format)
    return settings


@app.command()
def worker(
    config: Config = None,
    processes: Annotated[int, typer.Option(min=1, help="Workers on this machine, each with a folder of its own.")] = 1,
) -> None:
    """Serve: fold interactions into profiles and publish refreshed lists, until SIGTERM.

    Of several processes each keeps its state in worker-0, worker-1, … under EFFICIENTREC_STATE_DIR. One that dies is
    started again. The metrics of all are on EFFICIENTREC_METRICS_PORT, under the label process.

    Example: EFFICIENTREC_BROKER=kafka://127.0.0.1:9092 efficientrec worker
    """
    settings = _settings(config)
    if processes > 1:
        from streams.supervisor import supervise

        supervise(settings, processes, config)
        return
    from streams.app import run

    asyncio.run(run(settings))


@app.command()
def trainer(config: Config = None) -> None:
    """Keep the interaction log, train models from it, and release those that are good enough, until SIGTERM.

    Example: EFFICIENTREC_TRAIN_EVERY_SECONDS=3600 efficientrec trainer
    """
    from streams.trainer import serve

    asyncio.run(serve(_settings(config)))


@app.command()
def server(config: Config = None) -> None:
    """Serve lists over HTTP and take events, until SIGTERM; docs/http.md has the routes.

    Example: EFFICIENTREC_SERVER_PORT=8080 efficientrec server
    """
    from streams.server import serve

    asyncio.run(serve(_settings(config)))


@app.command()
def broker(
    port: Annotated[int, typer.Option(min=0, max=65_535, help="Port on which it listens; 0 takes a free one.")] = 9092,
    host: Annotated[str, typer.Option(help="Address on which it listens.")] = "127.0.0.1",
) -> None:
    """Run the embedded broker, which speaks Kafka's protocol and keeps everything in memory, until Ctrl-C.

    Example: efficientrec broker --port 9092
    """
    from streams.broker import EmbeddedBroker

    with EmbeddedBroker(port, host=host) as running:
        console.print(f"The broker answers on {running.address}; Ctrl-C stops it and forgets what it holds.")
        console.print("It has no producer ids, so workers need EFFICIENTREC_FENCING=off.")
        running.wait()


@topics_app.command("create")
def topics_create(config: Config = None) -> None:
    """Create the topics that are missing; those that exist are left as they are.

    Example: EFFICIENTREC_PARTITIONS=12 efficientrec topics create
    """
    from streams import topics

    settings = _settings(config)
    made = asyncio.run(topics.create(settings))
    for topic in topics.wanted(settings):
        state = "created" if topic.name in made else "exists"
        console.print(f"{state:8} {topic.name}  partitions={topic.partitions} cleanup.policy={topic.cleanup}")


@topics_app.command("check")
def topics_check(config: Config = None) -> None:
    """Compare the topics with what is needed; say what to change.

    Example: efficientrec topics check
    """
    from streams import rights

    asyncio.run(rights.check(_settings(config), "topics check"))
    console.print("All topics are as they must be.")


@keys_app.command("new")
def keys_new(folder: Annotated[Path, typer.Argument(help="Where the two files go; made if it is not there.")]) -> None:
    """Make a pair of keys: one with which the trainer signs releases, one by which workers know them.

    Example: efficientrec keys new keys
    """
    from streams.signing import make_keys

    signing, trusted = make_keys(folder)
    console.print(f"EFFICIENTREC_MODELS_SIGNING_KEY_FILE={escape(str(signing))}  for the trainer; keep it secret")
    console.print(f"EFFICIENTREC_MODELS_TRUSTED_KEY_FILE={escape(str(trusted))}  for the workers")


@models_app.command("list")
def models_list(config: Config = None) -> None:
    """Show the models in EFFICIENTREC_MODELS_DIR with their scores, and which is released.

    Example: efficientrec models list
    """
    from streams.models import render, shelf

    console.print(render(asyncio.run(shelf(_settings(config)))))


@models_app.command("rollback")
def models_rollback(
    version: Annotated[
        str | None,
        typer.Argument(
            help="Without one, the model that served when the released one was trained.", show_default=False
        ),
    ] = None,
    config: Config = None,
) -> None:
    """Release a model that is there already: workers install it within seconds.

    The trainer goes on, and compares its next model with this one. Stop it first if what it learns is at fault.

    Example: efficientrec models rollback 20240501T120000Z-4f2a
    """
    from streams.models import rollback

    release = asyncio.run(rollback(_settings(config), version))
    before = escape(release.previous_version or "popularity")
    console.print(f"{escape(release.version)} is released in place of {before}.", highlight=False, soft_wrap=True)


@models_app.command("experiment")
def models_experiment(
    version: Annotated[str | None, typer.Argument(help="The model to try.", show_default=False)] = None,
    share: Annotated[
        float | None, typer.Option("--share", help="Of the users, between 0 and 1, who get its lists.")
    ] = None,
    end: Annotated[bool, typer.Option("--end", help="End the experiment that runs.")] = False,
    config: Config = None,
) -> None:
    """Try a model on a share of the users; all others keep the released one. Lists and metrics name the arm.

    To end it and release the tried model to all: efficientrec models rollback VERSION.

    Example: efficientrec models experiment 20240501T120000Z-4f2a --share 0.1
    """
    from streams.models import end_experiment, experiment

    if end == (version is not None) or end == (share is not None):
        raise typer.BadParameter("expected VERSION with --share, or --end alone")
    settings = _settings(config)
    if version is None or share is None:
        asyncio.run(end_experiment(settings))
        said = "There is no experiment any more: all users get lists of the released model."
    else:
        begun = asyncio.run(experiment(settings, version, share))
        beside = escape(str(begun.previous_version))
        said = f"{escape(begun.version)} is tried on {100 * share:.4g}% of the users, beside {beside}."
    console.print(said, highlight=False, soft_wrap=True)


@app.command()
def replay(
    folder: Annotated[Path, typer.Argument(help="Folder with interactions.csv.gz; items and users go first.")],
    speed: Annotated[str, typer.Option(help="1000/s: events per second. 60x: times real time. max: no limit.")] = "max",
    config: Config = None,
) -> None:
    """Produce a data set to the topics in the order of its times.

    Example: efficientrec replay data/ml-1m --speed 2000/s
    """
    from efficientrec.datasets import read_dataset
    from streams import rights
    from streams.replay import Speed, replay

    settings, pace, dataset = _settings(config), Speed.parse(speed), read_dataset(folder)
    asyncio.run(rights.check(settings, "replay"))
    done = asyncio.run(replay(dataset, settings, pace))
    console.print(f"{done.interactions} interactions, {done.items} items, {done.users} users in {done.seconds:.1f} s")


@app.command()
def send(
    event_type: Annotated[str, typer.Argument(help="Such as like, rating, purchase, hide.")],
    user: Annotated[str, typer.Argument(help="The user's id.")],
    item: Annotated[str, typer.Argument(help="The item's id.")],
    value: Annotated[float | None, typer.Option(help="The rating, where the type needs one.")] = None,
    config: Config = None,
) -> None:
    """Send one interaction by hand, with the present time.

    Example: efficientrec send rating 42 318 --value 5
    """
    from streams.send import send

    offset = asyncio.run(send(_settings(config), event_type, user, item, value))
    shown = escape(user)
    console.print(f"Sent, at offset {offset} of its partition. efficientrec recommend {shown} shows what changed.")


@app.command()
def recommend(
    user: Annotated[str, typer.Argument(help="The user's id.")],
    config: Config = None,
) -> None:
    """Show the last list that a user was given, with titles and reasons.

    Example: efficientrec recommend 42
    """
    from streams import rights
    from streams.show import last_list, render

    settings = _settings(config)
    asyncio.run(rights.check(settings, "recommend"))
    console.print(render(asyncio.run(last_list(settings, user))))


@app.command()
def erase(
    user: Annotated[str, typer.Argument(help="The user's id.")],
    timeout: Annotated[float, typer.Option(help="Seconds to wait until it is done everywhere.", min=1)] = 60,
    config: Config = None,
) -> None:
    """Erase a user: profile, list, and the trainer's log; tell when each is done.

    Example: efficientrec erase 42
    """
    from streams.erase import erase

    def tell(line: str) -> None:
        console.print(line, highlight=False, markup=False, soft_wrap=True)

    asyncio.run(erase(_settings(config), user, timeout, tell))


@app.command()
def audit(config: Config = None) -> None:
    """Compare every user's row with a plain recomputation from the interactions topic; exit status 1 if any differs.

    The stream must be at rest: what is not folded yet counts as missing.

    Example: efficientrec audit
    """
    from streams import rights
    from streams.audit import audit

    settings = _settings(config)
    asyncio.run(rights.check(settings, "audit"))
    found = asyncio.run(audit(settings, wall_ms()))
    shown = ", ".join(escape(user) for user in found.different[:10])
    console.print(f"{found.checked} rows checked, {len(found.different)} differ{': ' + shown if shown else ''}")
    if found.different:
        sys.exit(1)


@app.command()
def restore(
    log_dir: Annotated[
        Path, typer.Option("--log", help="The log of the trainer of the former installation.", file_okay=False)
    ],
    prefix: Annotated[
        str | None,
        typer.Option(
            "--prefix", help="EFFICIENTREC_PREFIX of the former one, whose items, users and model are copied."
        ),
    ] = None,
    config: Config = None,
) -> None:
    """Fill topics that were just created with what a former installation knew; its trainer must have stopped.

    For another number of partitions, or after the loss of Kafka: docs/procedures.md.

    Example: EFFICIENTREC_PREFIX=reco2 EFFICIENTREC_GROUP=reco2 efficientrec restore --log log --prefix reco
    """
    from streams import rights
    from streams.restore import restore

    settings = _settings(config)
    asyncio.run(rights.check(settings, "restore"))
    done = asyncio.run(restore(settings, log_dir, prefix))
    console.print(f"{done.interactions} interactions, {done.items} items, {done.users} users, {done.releases} releases")


@app.command()
def train(
    data: Data,
    out: Annotated[Path, typer.Option("--out", help="Folder in which the artifact gets a folder of its own.")],
    encoder: Annotated[str, typer.Option("--encoder", help="efficientrec, elfm or elcrec.")] = "efficientrec",
    seed: Seed = 0,
    checkpoints: Annotated[
        Path | None,
        typer.Option("--checkpoints", help="Folder in which a training that was cut off finds what it had learned."),
    ] = None,
) -> None:
    """Train a model from files, without Kafka, and write its artifact.

    Example: efficientrec train --data data/ml-1m --out models
    """
    _calm_threads()
    from efficientrec.training.folder import train_folder
    from efficientrec.training.recipe import Recipe
    from streams.records import rfc3339
    from streams.trainer import version_of

    now_ms = wall_ms()
    version = version_of(now_ms, str(seed))
    address = str(out / version)
    recipe = Recipe(seed=seed, encoder=encoder)
    trained, digest = train_folder(
        data,
        address,
        version=version,
        created_at=rfc3339(now_ms),
        recipe=recipe,
        progress=_progress,
        checkpoints=checkpoints,
    )
    console.print(f"{escape(address)}\nsha256 of its manifest: {digest}", soft_wrap=True)
    _print_scores(trained.scores)


@app.command()
def evaluate(
    data: Annotated[Path, typer.Option("--data", help="Folder with interactions.csv.gz, or one CSV or Parquet file.")],
    protocol: Annotated[
        str,
        typer.Option(
            "--protocol",
            help="strong: users that were not trained on. leave-one-out: the last item of each. "
            "temporal: all that comes later. prequential: each next event of the stream.",
        ),
    ] = "strong",
    model: Annotated[
        list[str] | None,
        typer.Option(
            "--model",
            help="An encoder or a baseline; may be repeated. Without any: efficientrec and all the baselines.",
        ),
    ] = None,
    seed: Seed = 0,
    signed: Annotated[
        bool, typer.Option("--signed", help="strong: learn from all ratings with their sign, not only from likes.")
    ] = False,
    every: Annotated[int, typer.Option("--every", min=1, help="prequential: ask for every n-th event.")] = 10,
    refit: Annotated[
        str, typer.Option("--refit", help="prequential: hour, day or the number of events after which models relearn.")
    ] = "50000",
    refresh: Annotated[
        list[str] | None,
        typer.Option("--refresh", help="prequential: event, hour or day; when lists are made. Without any: all three."),
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--json", help="Write the figures to this file.", dir_okay=False)
    ] = None,
) -> None:
    """Train and score on held-out interactions beside baselines, without Kafka.

    Example: efficientrec evaluate --data data/ml-1m --protocol strong --json scores.json
    """
    _calm_threads()
    from streams.evaluate import evaluate

    evaluate(
        data,
        protocol,
        model or [],
        seed=seed,
        signed=signed,
        every=every,
        refit=refit,
        refreshes=refresh or [],
        output=output,
        console=console,
    )


Models = Annotated[
    list[str] | None,
    typer.Option(
        "--model", help="An encoder or a baseline; may be repeated. Without any: efficientrec and all the baselines."
    ),
]


@app.command()
def report(
    results: Annotated[
        Path, typer.Option("--results", help="Folder with a JSON file for each run; what is there is not run again.")
    ],
    out: Annotated[Path, typer.Option("--out", help="The page.", dir_okay=False)],
    data: Annotated[
        list[Path] | None,
        typer.Option("--data", help="Folder or file to evaluate; may be repeated. Without any: only the page is made."),
    ] = None,
    protocol: Annotated[
        list[str] | None,
        typer.Option(
            "--protocol",
            help="As of evaluate; or strong-signed, with all ratings; or portrait: cold start, cost and clusters of "
            "each encoder. May be repeated. Without any: all.",
        ),
    ] = None,
    model: Models = None,
    seed: Annotated[list[int] | None, typer.Option("--seed", help="May be repeated; 0 without any.")] = None,
    every: Annotated[int, typer.Option("--every", min=1, help="prequential: ask for every n-th event.")] = 10,
    refit: Annotated[
        str, typer.Option("--refit", help="prequential: hour, day or the number of events after which models relearn.")
    ] = "50000",
) -> None:
    """Run the evaluations that are missing, and write one page with all of them.

    Example: efficientrec report --data data/ml-1m --seed 0 --seed 1 --results results --out report.html
    """
    _calm_threads()
    from streams.report import report

    report(
        data or [],
        protocol or [],
        model or [],
        seed or [0],
        every=every,
        refit=refit,
        results=results,
        out=out,
        console=console,
    )


@app.command()
def tune(
    data: Annotated[Path, typer.Option("--data", help="Folder with interactions.csv.gz, or one CSV or Parquet file.")],
    out: Annotated[
        Path,
        typer.Option("--out", help="File with every trial; where it is there, the search goes on.", dir_okay=False),
    ],
    protocol: Annotated[
        str, typer.Option("--protocol", help="strong, leave-one-out or temporal; on its validation users alone.")
    ] = "strong",
    model: Annotated[str, typer.Option("--model", help="The encoder whose recipe is searched.")] = "efficientrec",
    trials: Annotated[int, typer.Option("--trials", min=1, help="Trials in all, those in the file included.")] = 50,
    seed: Seed = 0,
    signed: Annotated[
        bool, typer.Option("--signed", help="strong: learn from all ratings with their sign, not only from likes.")
    ] = False,
) -> None:
    """Search for the numbers of an encoder's recipe on validation data, and record every trial.

    Example: efficientrec tune --data data/ml-1m --model efficientrec --trials 50 --out search.json
    """
    _calm_threads()
    from streams.tune import tune

    tune(data, protocol, model, trials=trials, seed=seed, signed=signed, output=out, console=console)


@app.command()
def demo(
    data: Annotated[
        Path | None, typer.Option("--data", help="Another folder to play; MovieLens latest-small if none is given.")
    ] = None,
    encoder: Annotated[str, typer.Option("--encoder", help="efficientrec, elfm or elcrec.")] = "efficientrec",
    until_done: Annotated[
        bool, typer.Option("--until-done", help="End after the replay instead of staying up.")
    ] = False,
    output: Annotated[
        Path | None, typer.Option("--json", help="Write the figures to this file.", dir_okay=False)
    ] = None,
) -> None:
    """The whole loop on this machine: broker, worker and trainer on real ratings, with figures while it runs.

    Example: efficientrec demo --until-done --json demo.json
    """
    from streams.demo import run_demo

    sys.exit(run_demo(data, encoder, until_done, output, console))


def _calm_threads() -> None:
    """Threads of torch that wait must not spin: on a busy machine that makes a training many times slower."""
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ.setdefault("GOMP_SPINCOUNT", "0")


def _progress(what: str, share: float) -> None:
    console.print(f"{share:4.0%} {what}", highlight=False, markup=False)


def _print_scores(scores: dict[str, dict[str, float]]) -> None:
    from rich.table import Table

    table = Table("", *scores)
    for metric in dict.fromkeys(metric for row in scores.values() for metric in row):
        table.add_row(metric, *(f"{row[metric]:.4f}" if metric in row else "" for row in scores.values()))
    console.print(table)
