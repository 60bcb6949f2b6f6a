"""What Hypothesis may think up: orders, repetitions and odd events. All strategies live here."""

from __future__ import annotations

import numpy as np
from hypothesis import settings
from hypothesis import strategies as st

from efficientrec.interactions import REPEAT_IDS_MAX, Admission, Interactions
from tests.toy import DAY, START, Act, run_of

# On a fresh machine the first example waits for a compiler, which no deadline can tell from a slow test.
settings.register_profile("unhurried", deadline=None)
settings.load_profile("unhurried")

KNOWN = [f"i{number}" for number in range(12)]
"""Items of toy.random_model; few, so that they come again."""
UNKNOWN = ["never seen", "ü", ""]
WEIGHTS = [0.0, -0.0, 1.0, -1.0, 0.1, -0.3, 1e-30, -1e-38, 1e-45, 0.99999994]
ODD_TIMES = [START, START + 1, START + 999, START - 10 * DAY, START + 400 * DAY, 0, 1, 2**32 * 1000 - 1]
IMPOSSIBLE_TIMES = [-1, -DAY, 2**32 * 1000, 2**63 - 1, -(2**63)]
ARRIVALS = [START, START + 999, START + 1000, START + 2500, START - 1, START + DAY, 0, 1000, 2**32 * 1000, -(2**63)]

items = st.sampled_from(KNOWN + UNKNOWN)
weights = st.sampled_from(WEIGHTS) | st.floats(-1, 1, width=32)
times = st.sampled_from(ODD_TIMES) | st.integers(START, START + 3 * DAY) | st.sampled_from(IMPOSSIBLE_TIMES)
event_ids = st.none() | st.sampled_from([f"e{number}" for number in range(30)])  # more than a row remembers
arrivals = st.sampled_from(ARRIVALS) | st.integers(START, START + 4000)  # several a second, and not in order
users = st.sampled_from(["anna", "ben", "clara"])
acts = st.builds(Act, users, items, weights, times, event_ids, st.booleans(), arrivals)
admissions = st.builds(
    Admission,
    repeat_ids=st.integers(0, REPEAT_IDS_MAX),
    repeat_seconds=st.sampled_from([0, 0.5, 1, 2, 3.5, 86_400, float("inf")]),
    events_per_second=st.integers(0, 3),
)


scores = st.sampled_from([0.0, -0.0, 1.0, -1.0, np.inf, -np.inf]) | st.floats(allow_nan=False, width=32)


def histories(most: int = 40) -> st.SearchStrategy[list[Act]]:
    """What several users did, in the order of the partition."""
    return st.lists(acts, max_size=most)


@st.composite
def cuts(draw: st.DrawFn, length: int) -> list[tuple[int, int]]:
    """(begin, end) of consecutive runs, some of them empty, that together are `length` long."""
    places = sorted(draw(st.lists(st.integers(0, length), max_size=6)))
    return list(zip([0, *places], [*places, length], strict=True))


@st.composite
def deliveries(draw: st.DrawFn, acts: list[Act]) -> list[Interactions]:
    """Runs that deliver all of the acts at least once, and some of them again after what came later."""
    runs = []
    for begin, end in draw(cuts(len(acts))):
        again = draw(st.integers(0, begin))
        runs.append(run_of(acts[again:end], first_offset=again, users=["anna", "ben", "clara"]))
    return runs
