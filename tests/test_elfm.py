"""The encoder of local factor models: what its state is, whatever happens and in whatever order."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from efficientrec import profile
from efficientrec.encoders.elfm import EVERYBODY, ElfmEncoder
from efficientrec.encoders.elfm_plain import PlainElfm
from efficientrec.interactions import key_of
from efficientrec.recommend import recommend
from tests import strategies
from tests.toy import DAY, START, Act, dislike, like, names, rows_after, run_of
from tests.toy_elfm import elfm_of, random_elfm

MODEL = random_elfm(3, items=12)
ENCODER = elfm_of(MODEL)


def by_formula(encoder: ElfmEncoder, acts: list[Act], now: int) -> NDArray[np.float64]:
    """G of all clusters in one go: the attention-weighted mean of the readings, in double precision."""
    rate = math.log(2) / (1000 * encoder.half_life_seconds)
    place = {key_of(text): place for place, text in enumerate(encoder.items.ids)}
    liked = [act for act in acts if act.weight > 0 and key_of(act.item) in place]
    vectors = encoder.item_vectors[[place[key_of(act.item)] for act in liked]].astype(np.float64)
    attention, reading = vectors @ encoder.heads, vectors @ encoder.readers
    weight = np.array([np.float32(act.weight) * math.exp(-rate * (now - act.at)) for act in liked])
    share = weight[:, None] * np.exp(attention)
    return np.asarray((share * reading).sum(axis=0) / share.sum(axis=0))


def folded(encoder: ElfmEncoder, acts: list[Act]) -> NDArray[np.float32]:
    """(width,) the state after the acts of one user, from nothing."""
    run = run_of(acts, users=["anna"])
    state = np.zeros((1, encoder.width), np.float32)
    after = encoder.accumulate(state, np.zeros(1, np.int64), run.user, run.item, run.weight, run.at)
    return np.asarray(after[0])


hers = st.lists(
    st.builds(
        lambda item, weight, at: Act("anna", item, weight, at),
        strategies.items,
        st.sampled_from([1.0, 0.3, -0.7]) | st.floats(2**-7, 1, width=32),
        st.integers(START, START + 30 * DAY),
    ),
    min_size=1,
    max_size=40,
)


@given(acts=hers, order=st.randoms(use_true_random=False))
def test_the_state_is_the_formula_in_any_order_of_events(acts: list[Act], order: object) -> None:
    shuffled = list(acts)
    order.shuffle(shuffled)  # type: ignore[attr-defined]
    now = max(act.at for act in acts)

    state = folded(ENCODER, shuffled)

    n = state[-1]
    if not any(act.weight > 0 and act.item in MODEL.items.ids for act in acts):
        assert not state.any()
        return
    expected = by_formula(ENCODER, acts, now)
    assert state[ENCODER.count : -1] == pytest.approx(expected, abs=1e-5 * max(1.0, float(np.abs(expected).max())))
    assert n > 0


@given(acts=strategies.histories())
def test_the_plain_form_is_the_same_to_the_last_bit(acts: list[Act]) -> None:
    mine = [hers_in_time(act) for act in acts]
    plain = PlainElfm(ENCODER, 0)

    for act in mine:
        plain.add(key_of(act.item), np.float32(act.weight), act.at)

    assert folded(ENCODER, mine).tobytes() == plain.state.tobytes()


def hers_in_time(act: Act) -> Act:
    """The act as anna's, at a time that a row can hold."""
    return act._replace(user="anna", at=min(max(act.at, 0), profile.AT_MAX))


@given(acts=strategies.histories(), spread=st.sampled_from([30.0, 1e4, 1e9]))
def test_attention_of_any_size_stays_finite(acts: list[Act], spread: float) -> None:
    encoder = elfm_of(random_elfm(4, items=12, spread=math.sqrt(spread)))

    state = folded(encoder, [hers_in_time(act) for act in acts])

    assert np.isfinite(state).all()


def test_an_item_with_all_the_attention_is_what_is_read() -> None:
    item_vectors, heads = np.array([[1, 0], [0, 1]], np.float32), np.array([[0.0], [200.0]], np.float32)
    readers = np.array([[-1.0], [3.0]], np.float32)
    items = random_elfm(items=2).items
    encoder = replace(ENCODER, items=items, item_vectors=item_vectors, heads=heads, readers=readers)

    state = folded(encoder, [like("anna", "i0"), like("anna", "i1"), like("anna", "i0")])

    assert state[1] == 3.0


def test_time_takes_from_the_weight_and_leaves_the_means() -> None:
    fresh = folded(ENCODER, [like("anna", "i1"), like("anna", "i2")])

    later = START + round(1000 * ENCODER.half_life_seconds)
    aged = folded(ENCODER, [like("anna", "i1"), like("anna", "i2"), dislike("anna", "i3", at=later)])

    assert aged[:-1].tobytes() == fresh[:-1].tobytes()
    assert aged[-1] == pytest.approx(fresh[-1] / 2)


def test_an_old_like_counts_less_beside_a_new_one() -> None:
    old, new = folded(ENCODER, [like("anna", "i1")]), folded(ENCODER, [like("anna", "i2")])
    together = folded(ENCODER, [like("anna", "i1"), like("anna", "i2")])
    apart = folded(ENCODER, [like("anna", "i1"), like("anna", "i2", at=START + 90 * DAY)])

    def from_new(state: NDArray[np.float32]) -> NDArray[np.float32]:
        return np.asarray(np.abs(state - new)[ENCODER.count : -1])

    assert (from_new(apart) <= from_new(together)).all()
    assert (from_new(together) <= np.abs(old - new)[ENCODER.count : -1]).all()


def test_who_has_liked_nothing_has_an_empty_state_and_no_memberships() -> None:
    rows = rows_after(MODEL, dislike("anna", "i1"), like("anna", "never seen"))

    assert not rows.state.any()
    assert not MODEL.encoder.vector(rows).any()


def test_memberships_are_not_negative_and_everybody_is_in_the_last_column_of_a_taste() -> None:
    rows = rows_after(MODEL, *(like(f"u{number}", f"i{number}") for number in range(12)))

    vector, taste = MODEL.encoder.vector(rows), MODEL.encoder.taste(rows)

    assert (vector >= 0).all()
    assert vector.any()
    assert taste[:, :-1].tobytes() == vector.tobytes()
    assert (taste[:, -1] == EVERYBODY).all()


def test_the_best_of_a_list_is_the_best_by_min_sum() -> None:
    rows = rows_after(MODEL, like("anna", "i1"), like("anna", "i5"))

    lists = recommend(replace(MODEL, blend=replace(MODEL.blend, anchor_weight=0, neighbour_weight=0)), rows, 3)

    taste = MODEL.encoder.taste(rows)[0]
    affinity = np.zeros((len(MODEL.items), len(taste)), np.float32)
    for item, (places, values) in enumerate(zip(MODEL.ranking_places, MODEL.ranking_vectors, strict=True)):
        affinity[item, places[places >= 0]] = values[places >= 0]
    popularity = MODEL.blend.popularity + MODEL.blend.newcomer_popularity / 3  # of three events he has done two
    scores = np.minimum(taste, affinity).sum(axis=1) + popularity * MODEL.item_bias
    chosen, memberships = MODEL.clusters.assign(MODEL.encoder.vector(rows))
    for cluster, membership in zip(chosen[0], memberships[0], strict=True):
        for item, credit in zip(
            MODEL.cluster_shortlists.items[cluster], MODEL.cluster_shortlists.scores[cluster], strict=True
        ):
            if item >= 0:
                scores[item] += np.float32(MODEL.blend.cluster_weight) * min(membership, credit)
    scores[[1, 5]] = -np.inf
    assert names(MODEL, lists)[0] == f"i{scores.argmax()}"
    assert lists.scores[0, 0] == pytest.approx(scores.max(), rel=1e-5)


def test_an_event_costs_the_width_whatever_the_history() -> None:
    short, long = (folded(ENCODER, [like("anna", f"i{n % 12}", START + n) for n in range(most)]) for most in (3, 3000))

    assert len(short) == len(long) == ENCODER.width == 2 * ENCODER.count + 1
