"""One training, from the interaction log to an artifact and a verdict: `python -m streams.learning`.

Its own process because a training takes all it can get: the trainer's consumer stays responsive beside it, its memory
goes back when it ends, and it can be broken off at any moment. The job comes as a line of JSON on standard input,
progress and outcome go out as lines on standard output. When standard input ends, the trainer is gone, and so is the
training.

Knows the log, the library and the rule by which a model is let in. Knows nothing of Kafka.
"""

from __future__ import annotations

import os
import posixpath
import sys
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Final, Literal

import msgspec
import numpy as np
from msgspec import Struct

from efficientrec import artifact
from efficientrec.errors import ArtifactError, EfficientRecError, TrainingImpossible
from efficientrec.features import item_tokens, user_traits
from efficientrec.model import Model
from streams import logs
from streams.records import Release

if TYPE_CHECKING:  # what follows imports torch, which only the process that trains shall do
    from efficientrec.evaluation.judging import Examples
    from efficientrec.training.data import TrainingData
    from efficientrec.training.recipe import Recipe
    from efficientrec.training.train import Trained
    from streams.log import Logged

METRIC: Final = "ndcg@20"
"""The score that decides: it rewards a hit the more the higher it stands in a list of the default size."""
HELD_OUT_SHARE: Final = 0.1
"""Latest part of the interactions on which models are compared, at most."""
EXAMPLES_LEAST: Final = 5  # held-out events without which nothing can be said against a serving model
HELD_OUT_LEAST: Final = 2000
"""Interactions held out at least, as far as a tenth of all allows it: fewer tell two models hardly apart."""


class ItemAbout(Struct, array_like=True):
    """What is said of an item, as `efficientrec.features.item_tokens` takes it."""

    item_id: str
    title: str
    categories: list[str]
    features: dict[str, str]


class Job(Struct, kw_only=True):
    """All that a training depends on."""

    version: str
    created_at: str
    """RFC 3339."""
    installation: str
    """Topic prefix and group, written into the manifest: whose artifact it is."""
    log_dir: str
    models_dir: str
    interactions_max: int
    seed: int
    encoder: str
    half_life_seconds: float
    popularity_half_life_seconds: float
    margin: float
    serving: Release | None
    """The release to compare with."""
    items: list[ItemAbout]
    users: dict[str, dict[str, str]]
    """user id → features."""
    log_level: str = "INFO"
    log_format: str = "text"
    """As the trainer logs: both write to the same standard error."""


class Step(Struct, tag="step"):
    """A line of progress."""

    name: str
    share: float


class Outcome(Struct, tag="outcome", kw_only=True):
    """The last line: what came of it."""

    result: Literal["accepted", "refused", "impossible", "failed"]
    message: str
    """A sentence that gives the reason."""
    address: str = ""
    """Of the artifact; only when accepted, as there is none otherwise."""
    sha256: str = ""
    scores: dict[str, dict[str, float]] = {}
    examples: int = 0
    interactions: int = 0
    seconds: float = 0.0


Line = Step | Outcome
Report = Callable[[str, float], None]
Train = Callable[["TrainingData", "Recipe", str, Report], "Trained"]


def learn(job: Job, report: Report, train: Train | None = None) -> Outcome:
    """Trains, judges, and writes the artifact if it may serve. Whatever goes wrong is in the outcome.

    1. Read the log.
    2. Hold out the latest interactions: those that the serving model has not seen, but neither more than HELD_OUT_SHARE
    of all nor fewer than HELD_OUT_LEAST. (When fewer are new, it has seen some of what it is asked, which favours it.)
    3. Train: a model of what came before, to be judged, and one of everything by the same recipe, to be published.
    4. Judge the former, the serving model and popularity by the same held-out events.
    5. Write the artifact, unless the verdict is against it.
    """
    start = perf_counter()
    try:
        outcome = _learn(job, report, train or _train)
    except TrainingImpossible as error:
        outcome = Outcome(result="impossible", message=str(error))
    except (EfficientRecError, OSError) as error:
        outcome = Outcome(result="failed", message=f"{type(error).__name__}: {error}")
    outcome.seconds = perf_counter() - start
    return outcome


def _learn(job: Job, report: Report, train: Train) -> Outcome:
    from efficientrec.training.recipe import Recipe
    from streams.log import read_log

    # 1.
    report("reading the log", 0.0)
    logged = read_log(Path(job.log_dir), job.interactions_max)
    data = training_data(logged, job.items, job.users)
    if not len(data):
        raise TrainingImpossible("the log holds no interactions")
    # 2.
    serving, seen_until = _serving(job.serving, report)
    recipe = Recipe(
        seed=job.seed,
        encoder=job.encoder,
        half_life_seconds=job.half_life_seconds,
        popularity_half_life_seconds=job.popularity_half_life_seconds,
        validation_share=held_out_share(data, seen_until),
    )
    # 3.
    trained = train(data, recipe, job.version, report)
    # 4.
    held_out = _scoring(data, recipe, trained.cut)
    scores = dict(trained.scores)
    if serving is not None:
        report("judging the serving model", 0.0)
        scores["serving"] = _judge(serving, held_out)
    accepted, message = verdict(scores, job.margin, len(held_out))
    outcome = Outcome(
        result="accepted" if accepted else "refused",
        message=message,
        scores=scores,
        examples=len(held_out),
        interactions=len(data),
    )
    if not accepted:
        return outcome
    # 5.
    report("writing the artifact", 0.0)
    outcome.address = posixpath.join(job.models_dir, job.version)
    outcome.sha256 = artifact.save(
        trained.model,
        outcome.address,
        created_at=job.created_at,
        window=artifact.Window(
            interactions=len(data),
            first_at=int(data.at[0]),
            last_at=int(data.at[-1]),
            offsets={str(partition): offset for partition, offset in logged.offsets.items()},
        ),
        settings={"installation": job.installation, **asdict(recipe), **asdict(trained.voices), "margin": job.margin},
        scores=scores,
        previous=None if job.serving is None else job.serving.version,
    )
    return outcome


def verdict(scores: Mapping[str, Mapping[str, float]], margin: float, examples: int) -> tuple[bool, str]:
    """Whether a candidate with these scores may serve, and the reason.

    It has to reach the serving model's score, or popularity's before the first model, less the margin. Once a model
    serves, popularity is only reported: a model that fell below it would be no better kept than replaced.

    >>> verdict({"candidate": {"ndcg@20": 0.2}, "serving": {"ndcg@20": 0.3}}, 0.02, 500)
    (False, 'ndcg@20 0.2000 on 500 held-out events; serving has 0.3000, and 0.2940 are needed')
    >>> verdict({"candidate": {"ndcg@20": 0.0}, "serving": {"ndcg@20": 0.0}}, 0.02, 0)[0]
    False
    """
    rival = "serving" if "serving" in scores else "popularity"
    own, other = scores["candidate"][METRIC], scores[rival][METRIC]
    needed = (1 - margin) * other
    message = f"{METRIC} {own:.4f} on {examples} held-out events; {rival} has {other:.4f}, and {needed:.4f} are needed"
    if examples < EXAMPLES_LEAST and rival == "serving":
        return False, f"{message}; at least {EXAMPLES_LEAST} events are needed to tell"
    return own >= needed, message


def held_out_share(data: TrainingData, seen_until: int | None) -> float:
    """The share of the latest interactions to hold out. seen_until: event time that the serving model knows up to."""
    most = HELD_OUT_SHARE * len(data)
    least = min(HELD_OUT_LEAST, most)
    fresh = most if seen_until is None else len(data) - int(np.searchsorted(data.at, seen_until, side="right"))
    return float(np.clip(fresh, least, most) / len(data))


def training_data(logged: Logged, items: list[ItemAbout], users: Mapping[str, Mapping[str, str]]) -> TrainingData:
    """What was logged, with what is said of items and users; items that nobody touched yet come last."""
    from efficientrec.training.data import TrainingData

    about = {item.item_id: item for item in items}
    known = set(logged.items)
    ids = [*logged.items, *(item_id for item_id in about if item_id not in known)]
    return TrainingData(
        user=logged.user,
        item=logged.item,
        weight=logged.weight,
        at=logged.at,
        items=ids,
        tokens=[_tokens(about.get(item_id)) for item_id in ids],
        traits=[user_traits(users.get(user_id, {})) for user_id in logged.users],
    )


def _tokens(item: ItemAbout | None) -> list[str]:
    return [] if item is None else item_tokens(item.title, item.categories, item.features)


def _serving(release: Release | None, report: Report) -> tuple[Model | None, int | None]:
    """The model in service and the event time up to which it was trained. One that cannot be read is no rival: workers
    that start now cannot read it either."""
    if release is None:
        return None, None
    try:
        model, manifest = artifact.load(release.address, release.sha256)
    except ArtifactError as error:
        report(f"judging without the serving model {release.version}, which cannot be read: {error}", 0.0)
        return None, None
    return model, manifest.window.last_at


def _train(data: TrainingData, recipe: Recipe, version: str, report: Report) -> Trained:
    from efficientrec.training.train import train

    return train(data, recipe, version=version, progress=report)


def _scoring(data: TrainingData, recipe: Recipe, cut: int) -> Examples:
    """The events by which `train` scored its candidate."""
    from efficientrec.evaluation import judging

    return judging.examples(data, cut, recipe.seed, 2 * recipe.examples_max).halves(recipe.seed)[1]


def _judge(model: Model, held_out: Examples) -> dict[str, float]:
    from efficientrec.evaluation import judging

    return judging.judge(model, held_out)


# The process


def main() -> None:
    """Reads a job, does it, and says what came of it."""
    line = sys.stdin.buffer.readline()
    if not line.endswith(b"\n"):
        sys.exit(1)  # the trainer went away while it wrote
    threading.Thread(target=_end_with_trainer, daemon=True).start()
    _give_way()
    lines, encoder = os.fdopen(os.dup(1), "wb"), msgspec.json.Encoder()
    os.dup2(2, 1)  # whatever a library prints must not mix with our lines

    def say(said: Line) -> None:
        lines.write(encoder.encode(said) + b"\n")
        lines.flush()

    job = msgspec.json.decode(line, type=Job)
    logs.configure(job.log_level, job.log_format)
    say(learn(job, lambda name, share: say(Step(name, share))))


def _give_way() -> None:
    """Lists come first: a worker on the same machine must hardly notice a training.

    Linux weighs sessions against each other before it looks at the processes in them, so being nice is said for both.
    """
    os.nice(15)
    with suppress(OSError):
        Path("/proc/self/autogroup").write_text("15")


def _end_with_trainer() -> None:
    while os.read(0, 4096):  # not through sys.stdin, whose lock a daemon thread would hold at the interpreter's end
        pass
    os._exit(1)


if __name__ == "__main__":
    main()
