"""What Hypothesis may think up: orders, repetitions and odd events. All strategies live here."""

from __future__ import annotations

import numpy as np
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from efficientrec.interactions import REPEAT_IDS_MAX, Admission, Interactions
from efficientrec.recommend import Recommendations
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


known_items = st.lists(st.lists(st.sampled_from(KNOWN), max_size=80), min_size=1, max_size=5)
"""Of some users what each did, oldest first; some did more than a row remembers, some nothing."""
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


ids = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=128) | st.builds(
    lambda letter, bytes_: letter * (bytes_ // len(letter.encode())),
    st.sampled_from(["x", "ü", "商", "☕", '"', "\x00", "🙂"]),
    st.sampled_from([4, 31, 32, 255, 256, 512]),  # lengths at which MessagePack goes over to another marker
)
"""Of users and items: 1 to 512 bytes."""
CLUSTER_NUMBERS = [-1, 0, 127, 128, 255, 256, 65_535, 65_536, 2**31 - 1]
votes = st.sampled_from([0.0, 1.0, 0.3, 1e-30, 12345.678]) | st.floats(0, 1e6, width=32)


@st.composite
def recommendations(draw: st.DrawFn, known: int) -> Recommendations:
    """Of up to three users, from so many items: lists of any length, with reasons and clusters or without."""
    users, columns = draw(st.integers(1, 3)), draw(st.integers(0, 3))
    size = draw(st.sampled_from([1, 2, 15, 16, 200]))
    places = st.integers(-1, known - 1)
    numbers = st.sampled_from(CLUSTER_NUMBERS)
    strongest = [draw(arrays(np.int32, (users, size), elements=each)) for each in (numbers, places)]
    return Recommendations(
        items=draw(arrays(np.int32, (users, size), elements=places, fill=st.integers(0, known - 1))),
        scores=draw(arrays(np.float32, (users, size), elements=st.floats(allow_nan=False, width=32))),
        clusters=draw(arrays(np.int32, (users, columns), elements=numbers.filter(lambda number: number >= 0))),
        memberships=draw(arrays(np.float32, (users, columns), elements=st.floats(0, 1, width=32))),
        strongest=np.stack(strongest, axis=-1),
        part=draw(arrays(np.float32, (users, size, 2), elements=votes)),
        ranked=np.full(users, known, np.int32),
    )
