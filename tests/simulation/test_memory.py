"""The simulation in memory: some of its seeds, that a seed means one schedule, and that it sees what is wrong."""

from __future__ import annotations

from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.simulation.memory import play
from tests.simulation.mutations import MUTATIONS, Mutation, first_failure
from tests.simulation.patched import Patch, PatchUnfit, applied

SEEDS = range(150)
QUICK = {
    "events below a row's offset are folded again",
    "nobody is fenced off",
    "an abandoned run counts as handled",
}


def test_no_schedule_loses_doubles_or_changes_a_row() -> None:
    struck: Counter[str] = Counter()
    for seed in SEEDS:
        outcome = play(seed)
        struck += outcome.struck

        assert not outcome.problems, "\n".join([*outcome.problems, outcome.replay])
        assert (outcome.lost, outcome.doubled, outcome.different) == (0, 0, 0), outcome.replay

    assert {"answer lost", "disk fell back", "earlier writer refused", "wake after takeover"} <= struck.keys()


@pytest.mark.parametrize("seed", [1, 14, 95])
def test_a_seed_means_one_schedule(seed: int) -> None:
    first, again = play(seed), play(seed)

    assert replace(first, seconds=0) == replace(again, seconds=0)


def test_what_is_wrong_is_seen() -> None:
    quick = [mutation for mutation in MUTATIONS if mutation.name in QUICK]
    assert len(quick) == len(QUICK)

    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(lambda mutation: first_failure(mutation, range(100)), quick))

    assert all(found), [mutation.name for mutation, seen in zip(quick, found, strict=True) if not seen]


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: mutation.name)
def test_every_mutation_fits_the_text_as_it_is(mutation: Mutation) -> None:
    texts: dict[str, str] = {}
    for patch in mutation.patches:
        spec = find_spec(patch.module)
        assert spec is not None
        assert spec.origin is not None
        texts[patch.module] = applied(patch, texts.get(patch.module, Path(spec.origin).read_text()))


def test_a_mutation_of_a_passage_that_is_not_there_is_refused() -> None:
    with pytest.raises(PatchUnfit):
        applied(Patch("a module", "x = 1", "x = 2"), "y = 1\n")
