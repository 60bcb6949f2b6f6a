"""What the kernels promise beside what profiles, encoders and lists are tested for."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from efficientrec import kernels
from streams.lists import KERNELS
from tests import strategies

FROM_BYTES_TO_LISTS = """
import gc
import sys

from numba.core.dispatcher import Dispatcher

from efficientrec.warm import warm, warm_every_encoder
from streams.lists import KERNELS

list_format, encoders = sys.argv[1:]
is_every = encoders == "every"
(warm_every_encoder if is_every else warm)(KERNELS[list_format])


def compiled():
    return {each: len(each.signatures) for each in gc.get_objects() if isinstance(each, Dispatcher)}


ready = compiled()

import numpy as np

from efficientrec import profile
from efficientrec.interactions import WeightPolicy
from efficientrec.recommend import recommend
from streams.lists import Cause, personal_lists
from streams.records import Interaction, Trigger, decode_interactions, encode
from streams.slot import probe
from tests.test_profile import on_disk
from tests.toy import random_model, random_sequence_model, toy_model
from tests.toy_elfm import random_elfm

models = [toy_model(), random_model(version="other")]
if is_every:
    models += [random_elfm(), random_sequence_model()]
old = on_disk(1)
for model in (None, *models):
    width, key = (0, 0) if model is None else (model.encoder.width, model.encoder.key)
    for first, users in ((0, 1), (1, 2), (3, 300)):
        names = [f"u{number}" for number in range(users)]
        item = (model or models[0]).items.ids[0]
        values = [encode(Interaction("like", user, item, 1_700_000_000, f"e{first}")) for user in names]
        offsets = list(range(first * 1000, first * 1000 + users))
        keys, times = [user.encode() for user in names], [0] * users
        run = decode_interactions(values, keys, offsets, times, 1_700_000_000_000, WeightPolicy(), 0).interactions
        rows = profile.fold(profile.unpack([old, *[None] * (users - 1)], width, key), run, model and model.encoder).rows
        rows = profile.take(rows, np.arange(users)[::-1])
        old = profile.pack(rows, np.zeros(users, np.int64))[-1]
        if model is not None:
            trigger = Trigger("t", 0, 0, None, "")
            causes = [Cause(user, trigger, 0) for user in names]
            personal_lists(model, recommend(model, rows, 3), causes, "", "event", list_format)
for model in models:
    probe(model, 20, list_format)

late = {each.py_func.__qualname__ for each, count in compiled().items() if count != ready.get(each, 0)}
assert not late, late
"""


@pytest.mark.parametrize(("list_format", "encoders"), [*((name, "default") for name in KERNELS), ("json", "every")])
def test_once_warm_no_run_waits_for_a_compiler(list_format: str, encoders: str) -> None:
    command = [sys.executable, "-c", FROM_BYTES_TO_LISTS, list_format, encoders]
    done = subprocess.run(command, capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stderr


@given(st.lists(strategies.scores, max_size=60), st.integers(1, 40))
def test_the_greatest_come_first_and_of_equals_the_earlier(values: list[float], count: int) -> None:
    indices, best = np.full(count, -7, np.int32), np.empty(count, np.float32)

    found = kernels.top(np.array(values, np.float32), count, indices, best)

    expected = sorted(range(len(values)), key=lambda place: -values[place])[:count]
    assert found == len(expected)
    assert indices[:found].tolist() == expected
    assert best[:found].tolist() == [values[place] for place in expected]


@pytest.mark.parametrize("rows", [1, 3, 4, 5, 8])
@pytest.mark.parametrize("width", [1, 2, 7])
def test_a_dense_layer_is_a_sum_from_the_bias_on_term_by_term(rows: int, width: int) -> None:
    rng = np.random.default_rng(rows)
    inputs, weights, bias = (rng.normal(size=shape).astype(np.float32) for shape in ((rows, width), (width, 5), (5,)))
    expected = np.tile(bias, (rows, 1))
    for term in range(width):
        expected += inputs[:, term, None] * weights[term]

    result = kernels.dense(inputs, weights, bias, False)
    rectified = kernels.dense(inputs, weights, bias, True)

    assert result.tobytes() == expected.tobytes()
    assert rectified.tobytes() == np.maximum(expected, 0).tobytes()
