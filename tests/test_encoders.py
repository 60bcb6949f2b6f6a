"""What holds for every encoder. A new one joins `ENCODERS` and gets the same checks."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from efficientrec import artifact, profile
from efficientrec.model import Model
from efficientrec.profile import Rows
from efficientrec.recompute import recompute
from tests import strategies
from tests.toy import (
    START,
    Act,
    additive,
    dislike,
    events_of,
    like,
    random_model,
    random_sequence_model,
    rows_after,
    run_of,
    same_bits,
    save_toy,
    view,
)
from tests.toy_elfm import random_elfm

ENCODERS: dict[str, Callable[[], Model]] = {
    "efficientrec": lambda: random_model(5, items=10),
    "efficientrec without traits": lambda: random_model(5, items=10, traits=0),
    "efficientrec of no items": lambda: random_model(5, items=0),
    "elfm": lambda: random_elfm(5, items=10),
    "elfm of no items": lambda: random_elfm(5, items=0),
    "elcrec": lambda: random_sequence_model(5, items=10),
    "elcrec of three layers": lambda: random_sequence_model(5, items=10, layers=3),
    "elcrec of no items": lambda: random_sequence_model(5, items=0),
}
USERS = ["anna", "ben", "clara"]
BUSY = [
    like("anna", "i1"),
    dislike("ben", "i2", at=START + 5),
    view("anna", "i3", at=START - 1000),
    like("clara", "never seen"),
]

every_encoder = pytest.mark.parametrize("make", list(ENCODERS.values()), ids=list(ENCODERS))


def busy_rows(model: Model) -> Rows:
    rows = rows_after(model, *BUSY)
    known = getattr(model.encoder, "trait_keys", np.array([5, 6], np.uint64))[:2]
    return profile.with_traits(rows, [known, np.array([77], np.uint64), known[:1]], np.array([1, 1, 1]))


def part(rows: Rows, user: int) -> Rows:
    """One user's row alone."""
    return profile.unpack([profile.pack(rows, 0)[user]], rows.state.shape[1], int(rows.model[user]))


@every_encoder
def test_the_state_fits_into_a_row(make: Callable[[], Model]) -> None:
    assert 0 <= make().encoder.width <= profile.STATE_MAX


@every_encoder
def test_inputs_stay_untouched(make: Callable[[], Model]) -> None:
    model = make()
    rows, run = busy_rows(model), run_of(BUSY)
    rows_then, run_then = copy.deepcopy(rows), copy.deepcopy(run)

    model.encoder.accumulate(rows.state, rows.at, run.user, run.item, run.weight, run.at)
    model.encoder.taste(rows)
    model.encoder.vector(rows)

    assert same_bits(rows, rows_then)
    assert same_bits(run, run_then)


@every_encoder
def test_the_same_encoder_says_the_same_twice(make: Callable[[], Model]) -> None:
    first, second = make(), make()

    one, other = busy_rows(first), busy_rows(second)

    assert same_bits(one, other)
    assert first.encoder.vector(one).tobytes() == second.encoder.vector(other).tobytes()
    assert first.encoder.taste(one).tobytes() == second.encoder.taste(other).tobytes()


@every_encoder
def test_reading_gives_vector_and_taste(make: Callable[[], Model]) -> None:
    model = make()
    rows = busy_rows(model)

    vector, taste = model.encoder.read(rows)

    assert vector.tobytes() == model.encoder.vector(rows).tobytes()
    assert taste.tobytes() == model.encoder.taste(rows).tobytes()


@every_encoder
@given(acts=strategies.histories())
def test_one_user_gets_the_same_alone_and_in_a_batch(make: Callable[[], Model], acts: list[Act]) -> None:
    model = make()
    rows = profile.fold(profile.empty(3), run_of(acts, users=USERS), model.encoder).rows
    vector, taste = model.encoder.vector(rows), model.encoder.taste(rows)

    for user, name in enumerate(USERS):
        own = [(offset, act) for offset, act in enumerate(acts) if act.user == name]
        run = run_of([act for _, act in own], users=[name])
        alone = profile.fold(profile.empty(1), run, model.encoder).rows

        assert alone.state.tobytes() == rows.state[user].tobytes()
        assert model.encoder.vector(part(rows, user)).tobytes() == vector[user].tobytes()
        assert model.encoder.taste(part(rows, user)).tobytes() == taste[user].tobytes()


@every_encoder
@pytest.mark.parametrize("users", [1, 2, 3, 7, 8, 16, 33])
def test_a_user_gets_the_same_wherever_he_stands_in_a_batch(make: Callable[[], Model], users: int) -> None:
    model = make()
    rows = rows_after(model, *(like(f"u{number}", f"i{number % 9}", START + number) for number in range(users)))

    vector, taste = model.encoder.vector(rows), model.encoder.taste(rows)

    for user in range(users):
        assert model.encoder.vector(part(rows, user)).tobytes() == vector[user].tobytes()
        assert model.encoder.taste(part(rows, user)).tobytes() == taste[user].tobytes()


@every_encoder
def test_saving_and_loading_change_nothing(make: Callable[[], Model], tmp_path: Path) -> None:
    model = make()
    digest = save_toy(model, str(tmp_path / "saved"))

    loaded, _ = artifact.load(str(tmp_path / "saved"), digest)

    rows, again = busy_rows(model), busy_rows(loaded)
    assert same_bits(rows, again)
    assert model.encoder.vector(rows).tobytes() == loaded.encoder.vector(again).tobytes()
    assert model.encoder.taste(rows).tobytes() == loaded.encoder.taste(again).tobytes()


@every_encoder
@given(acts=strategies.histories())
def test_whatever_users_do_the_numbers_stay_finite(make: Callable[[], Model], acts: list[Act]) -> None:
    model = make()

    rows = profile.fold(profile.empty(3), run_of(acts, users=USERS), model.encoder).rows

    assert np.isfinite(rows.state).all()
    assert np.isfinite(model.encoder.vector(rows)).all()
    assert np.isfinite(model.encoder.taste(rows)).all()
    assert {model.encoder.vector(rows).dtype.name, model.encoder.taste(rows).dtype.name} == {"float32"}


@every_encoder
@given(acts=strategies.histories())
def test_a_row_is_what_a_plain_recomputation_makes_of_the_log(make: Callable[[], Model], acts: list[Act]) -> None:
    model = make()

    rows = profile.fold(profile.empty(3), run_of(acts, users=USERS), model.encoder).rows

    for packed, name in zip(profile.pack(rows, 0), USERS, strict=True):
        assert packed == recompute(events_of(acts, name), model)


@every_encoder
@given(acts=strategies.histories())
def test_so_is_a_row_that_another_model_built(make: Callable[[], Model], acts: list[Act]) -> None:
    before, model = random_model(3, items=9, version="before"), make()
    folded = profile.fold(profile.empty(3), run_of(acts, users=USERS), before.encoder).rows

    rows = profile.rebuilt(folded, model.encoder)

    for user, (packed, name) in enumerate(zip(profile.pack(rows, 0), USERS, strict=True)):
        assert packed == recompute(events_of(acts, name), model, built=int(rows.built[user]))


@every_encoder
def test_unknown_items_pass_time_and_nothing_else(make: Callable[[], Model]) -> None:
    model = make()
    later = START + 86_400_000
    rows = rows_after(model, like("anna", "i1"), view("anna", "i2"))

    run = run_of([like("anna", "never seen", at=later)], first_offset=2)
    after = profile.fold(rows, run, model.encoder).rows

    nothing = np.zeros(1, np.int32), np.zeros(1, np.uint64), np.zeros(1, np.float32), np.array([later])
    only_time = model.encoder.accumulate(rows.state, rows.at, *nothing)
    assert after.state.tobytes() == only_time.tobytes()
    if rows.state.any():
        assert np.abs(after.state).sum() < np.abs(rows.state).sum()


@every_encoder
def test_a_batch_of_nobody_is_an_empty_answer(make: Callable[[], Model]) -> None:
    model = make()

    rows = profile.rebuilt(profile.empty(0), model.encoder)

    assert len(model.encoder.vector(rows)) == 0
    assert model.encoder.taste(rows).shape == (0, model.encoder.shapes()[1])


def test_demographics_that_the_model_knows_move_the_vector_and_others_do_not() -> None:
    model = random_model(5, items=10)
    plain = rows_after(model, like("anna", "i1"))
    known, unknown = additive(model).trait_keys[-1:], np.array([77], np.uint64)

    with_known = profile.with_traits(plain, [known], np.array([1]))
    with_unknown = profile.with_traits(plain, [unknown], np.array([1]))
    with_both = profile.with_traits(plain, [np.concatenate((unknown, known))], np.array([1]))

    assert not np.allclose(model.encoder.vector(with_known), model.encoder.vector(plain))
    assert model.encoder.vector(with_unknown).tobytes() == model.encoder.vector(plain).tobytes()
    assert model.encoder.vector(with_both).tobytes() == model.encoder.vector(with_known).tobytes()


@given(st.integers(1, 40))
def test_many_likes_of_one_taste_point_where_it_points(count: int) -> None:
    model = random_model(5, items=10)

    rows = rows_after(model, *(like("anna", "i4") for _ in range(count)))

    taste, item = model.encoder.taste(rows)[0], additive(model).item_vectors[4]
    assert taste == pytest.approx(count / np.sqrt(1 + count) * item, rel=1e-5)
