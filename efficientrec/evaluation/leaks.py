"""Whether a test can be trusted: nothing of what is asked for may be known beforehand.

The harness looks before it learns (`of_split`) and after it has lists (`of_lists`). What a model hides inside shows in
its score on targets that cannot be known (`unknowable`): they are drawn, so nobody beats chance who has not seen them.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from efficientrec.errors import EvaluationLeaks
from efficientrec.evaluation.pairs import Pairs
from efficientrec.evaluation.questions import Question, Split
from efficientrec.interactions import keys_of
from efficientrec.profile import SEEN_SIZE
from efficientrec.training.data import TrainingData


def of_split(split: Split) -> list[str]:
    """What a split gives away, one sentence each; empty for an honest one."""
    targets = {"validation": _targets(split.validation), "test": _targets(split.test)}
    known = {
        "train": _pairs(split.train),
        "final": _pairs(split.final),
        "what validation is given": _pairs(split.validation.given),
        "what the test is given": _pairs(split.test.given),
    }
    # The final training and the test's input may hold validation's targets: by then these are past.
    forbidden = [(where, "test") for where in known] + [
        (where, "validation") for where in ("train", "what validation is given")
    ]
    found = []
    for where, whose in forbidden:
        shared = len(np.intersect1d(known[where], targets[whose]))
        if shared:
            found.append(f"{shared} targets of {whose} stand in {where}")
    shared = len(np.intersect1d(targets["validation"], targets["test"]))
    if shared:
        found.append(f"{shared} targets are asked for in validation and in the test")
    for name, data in (("train", split.train), ("final", split.final)):
        strangers = int((_unmet(data) & ~np.array([bool(tokens) for tokens in data.tokens], np.bool_)).sum())
        if strangers:
            found.append(f"{strangers} items of {name} are neither described nor met in it")
        late = int((data.at >= split.cut).sum()) if split.cut is not None else 0
        if late:
            found.append(f"{late} events of {name} are of the time of the test")
    return found


def of_lists(items: NDArray[np.int32], question: Question, known: int, forgets: bool) -> list[str]:
    """What lists (asked, N) show that they must not. known: how many items there were to learn of. forgets: whether
    they are a served model's, whose rows remember the last SEEN_SIZE items only."""
    found = []
    strangers = int((items >= known).sum())
    if strangers:
        found.append(f"{strangers} places hold items that could not be known")
    remembered = np.diff(question.start) <= SEEN_SIZE if forgets else np.ones(len(question), np.bool_)
    met = int(question.met.has(items)[remembered].sum())
    if met:
        found.append(f"{met} places hold items that the user had met")
    return found


def refuse(found: list[str], of: str) -> None:
    """Raises EvaluationLeaks when anything was found."""
    if found:
        raise EvaluationLeaks(f"{of}: {'; '.join(found)}")


def unknowable(split: Split, seed: int) -> Split:
    """The same split, but what the test asks for is drawn from the items that each user has not met. No honest model
    does better on it than chance; one that has seen these targets does."""
    question, known = split.test, len(split.final.items)
    row = question.wanted.row
    draw = np.random.default_rng(seed).integers(0, known, len(row))
    fresh = ~np.isin(row * question.met.items + draw, question.met.key)
    wanted = Pairs.of(row[fresh], draw[fresh], len(question), question.wanted.items)
    kept = np.flatnonzero(wanted.counts())
    asked = replace(question, wanted=wanted, judged=wanted, favoured=wanted).take(kept)
    return replace(split, test=asked)


def _targets(question: Question) -> NDArray[np.uint64]:
    return _mixed(question.users[question.wanted.row], keys_of(question.given.items)[question.wanted.item])


def _pairs(data: TrainingData) -> NDArray[np.uint64]:
    return _mixed(data.user, keys_of(data.items)[data.item])


def _mixed(user: NDArray[np.integer], item: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """One number for a user and an item, whatever the places of the items."""
    return np.unique(user.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15) ^ item)


def _unmet(data: TrainingData) -> NDArray[np.bool_]:
    return np.asarray(np.bincount(data.item, minlength=len(data.items)) == 0)
