"""What is kept about a user, against a plain recomputation from the log."""

from __future__ import annotations

import copy
import dataclasses
import struct
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from efficientrec import profile
from efficientrec.errors import RowUnreadable, SettingInvalid
from efficientrec.interactions import DEFAULT_ADMISSION, Admission, Interactions, key_of
from efficientrec.model import Model
from efficientrec.profile import Rows
from efficientrec.recompute import recompute
from tests import strategies
from tests.toy import (
    DAY,
    START,
    Act,
    additive,
    dislike,
    events_of,
    like,
    new_rows,
    random_model,
    rows_after,
    run_of,
    same_bits,
    toy_model,
    view,
)

USERS = ["anna", "ben", "clara"]
FIRST = random_model(1, items=8, version="first")  # knows some of the items that strategies.KNOWN has
SECOND = random_model(2, items=11, dim=7, version="second")
SWIFT = random_model(3, items=9, version="swift", half_life_seconds=2)  # every millisecond shows, and hours are nothing
GOLDEN = Path(__file__).parent / "golden"


def folded(runs: Sequence[Interactions], model: Model | None, admission: Admission = DEFAULT_ADMISSION) -> Rows:
    rows = profile.empty(len(USERS))
    for run in runs:
        rows = profile.fold(rows, run, model.encoder if model else None, admission).rows
    return rows


def with_columns(rows: Rows, **columns: object) -> Rows:
    """The same rows but for these columns."""
    after = copy.deepcopy(rows)
    for name, column in columns.items():
        getattr(after, name)[...] = column
    return after


def stored(rows: Rows, model: Model | None) -> Rows:
    """As after a restart: written and read again."""
    values = profile.pack(rows, partition=3)
    return profile.unpack(values, model.encoder.width, model.encoder.key) if model else profile.unpack(values, 0, 0)


@given(strategies.histories(), st.sampled_from([None, FIRST, SWIFT]), strategies.admissions)
def test_a_row_equals_its_plain_recomputation_to_the_last_byte(
    acts: list[Act], model: Model | None, admission: Admission
) -> None:
    plain = [recompute(events_of(acts, user), model, partition=3, admission=admission) for user in USERS]

    rows = folded([run_of(acts, users=USERS)], model, admission)

    assert profile.pack(profile.rebuilt(rows, model.encoder if model else None), partition=3) == plain


@given(st.data())
def test_neither_the_cut_into_runs_nor_their_repetition_changes_a_row(data: st.DataObject) -> None:
    acts, admission = data.draw(strategies.histories()), data.draw(strategies.admissions)
    whole = folded([run_of(acts, users=USERS)], FIRST, admission)

    pieces = folded(data.draw(strategies.deliveries(acts)), FIRST, admission)

    assert same_bits(whole, pieces)


@given(st.data())
def test_a_row_that_lived_through_models_and_restarts_equals_its_plain_recomputation(data: st.DataObject) -> None:
    acts, admission = data.draw(strategies.histories()), data.draw(strategies.admissions)
    rows = profile.empty(len(USERS))
    model: Model | None = None

    for begin, end in data.draw(strategies.cuts(len(acts))):
        model = data.draw(st.sampled_from([None, FIRST, SECOND, SWIFT]))
        rows = stored(rows, model)
        run = run_of(acts[begin:end], begin, USERS)
        rows = profile.fold(rows, run, model.encoder if model else None, admission).rows

    plain = [
        recompute(events_of(acts, user), model, built=built, partition=3, begun=begun, admission=admission)
        for user, built, begun in zip(USERS, rows.built.tolist(), rows.begun.tolist(), strict=True)
    ]
    assert profile.pack(rows, partition=3) == plain


@given(strategies.histories(), st.sampled_from([None, FIRST]), strategies.admissions)
def test_a_run_that_is_delivered_again_changes_nothing(
    acts: list[Act], model: Model | None, admission: Admission
) -> None:
    run = run_of(acts, users=USERS)
    once = folded([run], model, admission)

    again = profile.fold(once, run, model.encoder if model else None, admission)

    assert not again.changed.any()
    assert not again.counted.any()
    assert not again.repeated.any()
    assert not again.limited.any()
    assert same_bits(again.rows, once)


def test_fold_tells_which_rows_moved_on_and_what_became_of_each_event() -> None:
    run = run_of(
        [like("anna", "a1", event_id="e1"), like("anna", "a2", event_id="e1"), like("ben", "a1", event_id="e1")],
        users=USERS,
    )

    result = profile.fold(profile.empty(3), run, None)

    assert result.changed.tolist() == [True, True, False]
    assert result.counted.tolist() == [True, False, True]  # another user's event may have the same id
    assert result.repeated.tolist() == [False, True, False]


def test_a_retry_by_the_producer_moves_the_offset_and_nothing_else() -> None:
    once = rows_after(toy_model(), like("anna", "a1", event_id="e1"))

    retry = run_of([like("anna", "a1", at=START + DAY, event_id="e1")], first_offset=5)
    again = profile.fold(once, retry, toy_model().encoder)

    assert again.changed.tolist() == [True]
    assert same_bits(with_columns(again.rows, offset=once.offset), once)
    assert again.rows.offset.tolist() == [5]


def test_an_event_id_is_forgotten_after_as_many_others_as_a_row_remembers() -> None:
    others = [like("anna", "a1", event_id=f"other-{number}") for number in range(profile.RECENT_SIZE)]
    run = run_of([like("anna", "a1", event_id="e"), *others[:-1], like("anna", "a1", event_id="e")])
    longer = run_of([like("anna", "a1", event_id="e"), *others, like("anna", "a1", event_id="e")])

    remembered = profile.fold(profile.empty(1), run, None)
    forgotten = profile.fold(profile.empty(1), longer, None)

    assert remembered.repeated[-1]
    assert not forgotten.repeated[-1]


def test_an_id_is_looked_for_among_as_many_of_the_newest_as_asked_for() -> None:
    ids = ["a", "b", "c", "b", "a", "a"]
    run = run_of([like("anna", f"i{place}", event_id=name) for place, name in enumerate(ids)])

    nothing = profile.fold(profile.empty(1), run, None, Admission(repeat_ids=0))
    two = profile.fold(profile.empty(1), run, None, Admission(repeat_ids=2))

    assert nothing.counted.all()
    assert two.repeated.tolist() == [False, False, False, True, False, True]


def test_an_id_that_was_noted_too_long_ago_counts_and_is_noted_again() -> None:
    within, apart = 10, 11
    arrivals = [0, within, apart, apart + within, 2 * apart + 1, within]  # a repeat does not renew the time
    acts = [
        like("anna", f"i{step}", event_id="e")._replace(arrived=START + 1000 * seconds)
        for step, seconds in enumerate(arrivals)
    ]

    result = profile.fold(profile.empty(1), run_of(acts), None, Admission(repeat_seconds=within))

    assert result.counted.tolist() == [True, False, True, False, True, True]
    assert result.rows.recent_at[0, :4].tolist() == [START // 1000 + seconds for seconds in (0, 11, 23, 10)]


def test_where_the_broker_tells_no_time_an_id_counts_once() -> None:
    acts = [like("anna", "a1", event_id="e")._replace(arrived=0) for _ in range(2)]

    result = profile.fold(profile.empty(1), run_of(acts), None, Admission(repeat_seconds=0))

    assert result.repeated.tolist() == [False, True]


def test_a_flood_counts_up_to_the_limit_and_the_next_second_counts_again() -> None:
    arrivals = [0, 1, 2, 999, 1000, 999, 1001, 2000]  # the sixth comes late and counts with the second that has begun
    acts = [
        like("anna", f"i{step}", event_id=f"e{step}")._replace(arrived=START + millis)
        for step, millis in enumerate(arrivals)
    ]

    result = profile.fold(profile.empty(1), run_of(acts), None, Admission(events_per_second=2))

    assert result.limited.tolist() == [False, False, True, True, False, False, True, False]
    assert result.counted.tolist() == (~result.limited).tolist()
    assert result.rows.events.tolist() == [5]
    assert result.rows.offset.tolist() == [7]
    assert (result.rows.second.tolist(), result.rows.in_second.tolist()) == ([START // 1000 + 2], [1])


def test_what_was_one_too_many_may_be_sent_again_and_a_repeat_takes_no_place() -> None:
    ids, arrivals = ["a", "a", "b", "b"], [0, 1, 2, 1000]
    acts = [
        like("anna", f"i{step}", event_id=name)._replace(arrived=START + millis)
        for step, (name, millis) in enumerate(zip(ids, arrivals, strict=True))
    ]

    one = profile.fold(profile.empty(1), run_of(acts), None, Admission(events_per_second=1))
    two = profile.fold(profile.empty(1), run_of(acts), None, Admission(events_per_second=2))

    assert (one.repeated.tolist(), one.limited.tolist()) == ([False, True, False, False], [False, False, True, False])
    assert (two.repeated.tolist(), two.limited.tolist()) == ([False, True, False, True], [False] * 4)


def test_one_users_flood_is_no_other_users() -> None:
    run = run_of([like(user, "a1") for user in ("anna", "anna", "ben", "anna", "ben")])

    result = profile.fold(profile.empty(2), run, None, Admission(events_per_second=1))

    assert result.limited.tolist() == [False, True, False, True, True]


def test_without_a_limit_a_row_counts_no_seconds() -> None:
    rows = rows_after(None, *(like("anna", f"i{step}") for step in range(9)))

    assert (rows.events.tolist(), rows.second.tolist(), rows.in_second.tolist()) == ([9], [0], [0])


@pytest.mark.parametrize(
    ("change", "name"),
    [
        ({"repeat_ids": -1}, "repeat_ids"),
        ({"repeat_ids": profile.RECENT_SIZE + 1}, "repeat_ids"),
        ({"repeat_seconds": -0.5}, "repeat_seconds"),
        ({"repeat_seconds": float("nan")}, "repeat_seconds"),
        ({"events_per_second": -1}, "events_per_second"),
    ],
)
def test_an_admission_that_cannot_be_kept_is_refused(change: dict[str, float], name: str) -> None:
    with pytest.raises(SettingInvalid, match=name):
        Admission(**change)  # type: ignore[arg-type]


def test_a_row_begins_with_its_first_event_and_what_was_before_is_left_out() -> None:
    acts = [
        like("anna", "i1", event_id="e"),
        dislike("anna", "i2"),
        like("anna", "i3", event_id="e"),
        view("anna", "i4"),
    ]
    row = profile.fold(profile.empty(1), run_of(acts[2:], first_offset=2), FIRST.encoder).rows
    later = profile.fold(row, run_of([like("anna", "i5")], first_offset=9), FIRST.encoder).rows
    described = profile.with_traits(later, [np.array([1], np.uint64)], np.array([3]))

    assert profile.empty(1).begun.tolist() == [-1]
    assert [each.begun.tolist() for each in (row, later, described)] == [[2]] * 3
    assert profile.pack(row, 0) == [recompute(events_of(acts, "anna"), FIRST, begun=2)]
    assert profile.pack(row, 0) == [recompute(events_of(acts[2:], "anna", 2), FIRST)]


@given(
    st.lists(st.tuples(st.sampled_from(strategies.KNOWN), st.floats(-1, 1, width=32), st.booleans()), max_size=20),
    st.randoms(),
)
def test_the_order_of_arrival_changes_the_sums_by_rounding_only(
    deeds: list[tuple[str, float, bool]], random: object
) -> None:
    acts = [
        Act("anna", item, weight, START + step * DAY // 3, f"e{step}", excludes)
        for step, (item, weight, excludes) in enumerate(deeds)
    ]
    mixed = acts.copy()
    random.shuffle(mixed)  # type: ignore[attr-defined]

    in_time = folded([run_of(acts, users=USERS)], FIRST)
    late = folded([run_of(mixed, users=USERS)], FIRST)

    # Every event adds one product and at most one decay, each rounded to a relative 2⁻²⁴, to sums of at most Σ |y f|.
    most = len(acts) * float(np.abs(additive(FIRST).item_vectors).max(initial=1))
    np.testing.assert_allclose(late.state, in_time.state, rtol=0, atol=4 * len(acts) * most * 2.0**-24)
    assert late.at.tolist() == in_time.at.tolist()
    for name in ("events", "liked", "disliked", "seen_count", "recent_count"):
        assert getattr(late, name).tolist() == getattr(in_time, name).tolist()
    for name in ("seen", "ring_item", "ring_weight", "ring_at"):
        assert np.sort(getattr(late, name)).tolist() == np.sort(getattr(in_time, name)).tolist()


def test_an_event_counts_half_after_a_half_life_and_a_late_one_as_if_it_had_come_in_time() -> None:
    model = toy_model()
    half_life = int(additive(model).half_life_seconds * 1000)

    in_time = rows_after(model, like("anna", "a1"), like("anna", "b1", at=START + half_life))
    late = rows_after(model, like("anna", "b1", at=START + half_life), like("anna", "a1"))

    assert in_time.state[0].tolist() == [0.5, 1, 0, 0, 1.5, 0]
    assert late.state[0].tolist() == [0.5, 1, 0, 0, 1.5, 0]


def test_likes_and_dislikes_are_summed_apart() -> None:
    rows = rows_after(toy_model(), like("anna", "a1"), dislike("anna", "a1"), view("anna", "b1"))

    assert rows.state[0] == pytest.approx([1, 0.1, 1, 0, 1.1, 1])
    assert (rows.events.tolist(), rows.liked.tolist(), rows.disliked.tolist()) == ([3], [2], [1])


@given(strategies.histories(), strategies.histories())
def test_the_arguments_of_fold_stay_as_they_were(before: list[Act], acts: list[Act]) -> None:
    rows = folded([run_of(before, users=USERS)], FIRST)
    run = run_of(acts, first_offset=len(before), users=USERS)
    rows_then, run_then = copy.deepcopy(rows), copy.deepcopy(run)

    profile.fold(rows, run, FIRST.encoder)
    profile.fold(rows, run, SECOND.encoder)
    profile.fold(rows, run, None)

    assert same_bits(rows, rows_then)
    assert same_bits(run, run_then)


def test_a_run_of_read_only_columns_is_folded_like_any_other() -> None:
    run = run_of([like("anna", "a1"), dislike("anna", "b1", event_id="e")])
    frozen = copy.deepcopy(run)
    for field in dataclasses.fields(frozen):
        column = getattr(frozen, field.name)
        if isinstance(column, np.ndarray):
            column.setflags(write=False)

    rows = profile.fold(profile.empty(1), frozen, toy_model().encoder).rows

    assert same_bits(rows, profile.fold(profile.empty(1), run, toy_model().encoder).rows)


def test_users_without_events_and_runs_without_either_are_fine() -> None:
    nobody = profile.fold(profile.empty(0), run_of([]), FIRST.encoder)
    idle = profile.fold(profile.empty(3), run_of([like("ben", "i1")], users=USERS), FIRST.encoder)

    assert (len(nobody.rows), len(nobody.counted), profile.pack(nobody.rows, 0)) == (0, 0, [])
    assert len(profile.unpack([], FIRST.encoder.width, FIRST.encoder.key)) == 0
    assert idle.changed.tolist() == [False, True, False]
    assert idle.rows.offset.tolist() == [-1, 0, -1]


@pytest.mark.parametrize("at", [-1, -(2**63), 2**32 * 1000, 2**63 - 1])
def test_times_that_a_row_cannot_hold_count_as_the_nearest_that_it_can(at: int) -> None:
    nearest = min(max(at, 0), profile.AT_MAX)

    rows = rows_after(toy_model(), like("anna", "a1"), like("anna", "a2", at=at))

    assert same_bits(rows, rows_after(toy_model(), like("anna", "a1"), like("anna", "a2", at=nearest)))
    assert np.isfinite(rows.state).all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"weight": np.array([1, np.nan], np.float32)}, "weight nan"),
        ({"weight": np.array([1, 1.5], np.float32)}, "weight 1.5"),
        ({"user": np.array([0, 1], np.int32)}, "user 1, of 1"),
        ({"user": np.array([0, -1], np.int32)}, "user -1, of 1"),
        ({"offset": np.array([3, 3], np.int64)}, "offsets"),
        ({"offset": np.array([3, 2], np.int64)}, "offsets"),
        ({"at": np.array([START], np.int64)}, "columns"),
        ({"arrived": np.array([START], np.int64)}, "columns"),
        ({"users": ["anna", "ben"]}, "rows"),
    ],
)
def test_a_run_that_would_spoil_a_row_stops_the_worker(change: dict[str, object], message: str) -> None:
    run = dataclasses.replace(run_of([like("anna", "a1"), like("anna", "a2")]), **change)  # type: ignore[arg-type]

    with pytest.raises(AssertionError, match=message):
        profile.fold(profile.empty(1), run, None)


def test_only_the_offsets_of_each_user_rise_where_users_are_of_several_partitions() -> None:
    acts = [like("anna", "a1"), like("ben", "a1"), like("anna", "a2"), like("ben", "a2")]
    run = dataclasses.replace(run_of(acts), offset=np.array([70, 3, 71, 9]))
    falls = dataclasses.replace(run, offset=np.array([70, 3, 71, 2]))

    result = profile.fold(profile.empty(2), run, None)
    again = profile.fold(result.rows, run, None)

    assert result.rows.offset.tolist() == [71, 9]
    assert result.counted.all()
    assert not again.changed.any()
    for rows in (profile.empty(2), result.rows):
        with pytest.raises(AssertionError, match="offsets of user 1 fall"):
            profile.fold(rows, falls, None)


def test_rows_of_several_partitions_are_packed_together() -> None:
    rows = rows_after(FIRST, *(like(f"u{number}", "i1") for number in range(2 * profile.ROWS_AT_A_TIME + 3)))
    partitions = np.arange(len(rows)) % 7

    together = profile.pack(rows, partitions)

    alone = [profile.pack(profile.take(rows, np.array([user])), int(partitions[user])) for user in range(len(rows))]
    assert together == [row for (row,) in alone]


def many(count: int) -> list[Act]:
    """More than a row remembers, each with its own id and times; every other item is known to no model."""
    return [
        Act(
            "anna",
            f"i{number % 11}" if number % 2 else f"item-{number}",
            1.0 if number % 3 else -1.0,
            START + 1000 * number,
            f"event-{number}",
            arrived=START + 700 * number,
        )
        for number in range(count)
    ]


@pytest.mark.parametrize("count", [63, 64, 65, 127, 128, 129, 640, 641, 1400])
def test_a_history_longer_than_the_rings_equals_its_plain_recomputation(count: int) -> None:
    acts = many(count)

    rows = rows_after(FIRST, *acts)
    again = profile.rebuilt(stored(rows, SECOND), SECOND.encoder)

    assert profile.pack(rows, 0) == [recompute(events_of(acts, "anna"), FIRST)]
    assert profile.pack(again, 0) == [recompute(events_of(acts, "anna"), SECOND, built=count - 1)]


def test_counts_turn_over_without_harm() -> None:
    full = 2**32 - 1
    rows = with_columns(profile.empty(1), events=full, liked=full, seen_count=full, recent_count=full)

    after = profile.fold(rows, run_of([like("anna", "a1", event_id="e")]), None).rows

    assert (after.events.tolist(), after.liked.tolist()) == ([0], [0])
    assert len(profile.pack(after, 0)[0]) <= profile.STATELESS_BYTES_MAX + 4 * after.state.shape[1]


@given(st.data())
def test_packing_and_unpacking_change_nothing(data: st.DataObject) -> None:
    model = data.draw(st.sampled_from([None, FIRST]))
    acts = data.draw(strategies.histories())
    rows = profile.rebuilt(folded([run_of(acts, users=USERS)], model), model.encoder if model else None)
    traits = [np.arange(1, 2 + number, dtype=np.uint64) for number in range(3)]
    rows = profile.with_traits(rows, traits, np.array([4, 5, 6]))

    assert same_bits(stored(rows, model), rows)


def test_a_user_of_whom_nothing_is_kept_is_a_new_user_between_others() -> None:
    rows = rows_after(FIRST, like("anna", "i1"), like("ben", "i2"))
    anna, ben = profile.pack(rows, 0)

    read = profile.unpack([None, anna, None, ben], FIRST.encoder.width, FIRST.encoder.key)

    assert profile.pack(read, 0)[1::2] == [anna, ben]
    assert read.offset.tolist() == [-1, 0, -1, 1]
    assert same_bits(profile.unpack([None], 4, 7), profile.empty(1, 4))


def test_some_of_the_rows_are_those_rows_alone() -> None:
    rows = rows_after(FIRST, like("anna", "i1"), like("ben", "i2"), like("clara", "i3"))

    some = profile.take(rows, np.array([2, 0]))

    assert profile.pack(some, 0) == [profile.pack(rows, 0)[2], profile.pack(rows, 0)[0]]


def test_the_fullest_row_with_the_widest_state_fits() -> None:
    widest = random_model(dim=(profile.STATE_MAX - 2) // 2, version="widest")
    rows = rows_after(widest, *many(2 * profile.SEEN_SIZE + 100))
    traits = np.arange(1, profile.TRAITS_MAX + 5, dtype=np.uint64)
    rows = profile.with_traits(rows, [traits], np.array([1]))

    length = len(profile.pack(rows, 0)[0])

    assert widest.encoder.width == profile.STATE_MAX
    assert length == profile.STATELESS_BYTES_MAX + 4 * profile.STATE_MAX


def golden_row() -> bytes:
    rows = rows_after(
        toy_model(),
        like("anna", "a1", event_id="first"),
        dislike("anna", "b1", at=START + DAY),
        view("anna", "never seen", at=START + 2 * DAY + 500),
    )
    rows = profile.with_traits(rows, [np.array([key_of("taste=a")], np.uint64)], np.array([7]))
    return profile.pack(rows, partition=2)[0]


def on_disk(layout: int) -> bytes:
    return bytes.fromhex((GOLDEN / f"row-v{layout}.hex").read_text())


def read(*values: bytes | None) -> Rows:
    return profile.unpack(values, 6, key_of("toy-1"))


def test_the_layout_is_the_one_on_disk() -> None:
    row = golden_row()

    assert row == on_disk(profile.LAYOUT), (
        "rows on disk have this layout: a new one needs a new version byte and a way to read the old"
    )


def test_a_row_of_layout_1_keeps_all_that_it_knew_and_is_written_anew_with_its_next_event() -> None:
    now = read(golden_row())
    nothing_new = with_columns(now, begun=-1, recent_at=0)

    old = read(on_disk(1))
    next_event = run_of([like("anna", "a3", event_id="next")], first_offset=3)
    (row,) = profile.pack(profile.fold(old, next_event, toy_model().encoder).rows, partition=2)

    assert same_bits(old, nothing_new)
    assert row[0] == profile.LAYOUT == 2
    assert row == profile.pack(profile.fold(nothing_new, next_event, toy_model().encoder).rows, partition=2)[0]
    assert read(row).recent_at[0, :2].tolist() == [0, START // 1000]
    assert read(row).events.tolist() == [4]


def layout_1(ids: int, *, keys: int = 16, state: int = 0) -> bytes:
    """A row of layout 1 whose user has sent events e0, e1, … and of which nothing else is kept."""
    recent = [0] * min(ids, keys)
    for number in range(ids):
        recent[number % 16] = key_of(f"e{number}")
    header = struct.pack("<BBHiQqqqqIIIIII", 1, 0, state, 0, 0, -1, ids, START, -1, 0, 0, 0, 0, ids, 0)
    return header + bytes(4 * state) + struct.pack(f"<{len(recent)}Q", *recent)


@pytest.mark.parametrize("ids", [0, 1, 15, 16, 17, 23, 24, 25, 39, 40, 41, 1000])
def test_a_row_of_layout_1_remembers_its_16_ids_and_goes_on_to_24(ids: int) -> None:
    old = read(layout_1(ids))
    last = [f"e{number}" for number in range(max(0, ids - 16), ids)]
    places = [0] * 24
    for number in range(max(0, ids - 16), ids):
        places[number % 24] = key_of(f"e{number}")
    before = [f"e{ids - 17}"] if ids > 16 else []
    fresh = [f"new{number}" for number in range(8)]

    run = run_of([like("anna", "a1", event_id=name) for name in [*fresh, *last, *before]], first_offset=ids + 1)
    result = profile.fold(old, run, None, Admission(repeat_seconds=0))

    assert old.recent_count.tolist() == [ids]
    assert old.recent[0].tolist() == places
    assert result.repeated.tolist() == [False] * 8 + [True] * len(last) + [False] * len(before)


def test_layouts_may_be_mixed() -> None:
    values = [layout_1(20), None, golden_row(), on_disk(1), None, golden_row(), layout_1(3)]

    together = read(*values)

    for place, value in enumerate(values):
        assert same_bits(profile.take(together, np.array([place])), read(value))


def test_a_row_of_layout_1_may_hold_a_wider_state_than_a_new_one() -> None:
    assert read(layout_1(20, state=382)).recent_count.tolist() == [20]
    with pytest.raises(RowUnreadable, match="at most"):
        read(layout_1(20, state=383))


def test_a_row_of_layout_1_with_as_many_ids_as_a_new_one_holds_is_damaged() -> None:
    with pytest.raises(RowUnreadable, match="bytes"):
        read(layout_1(20, keys=20))


@pytest.mark.parametrize("cut", [0, 1, 71, 72, 87, 88, 100, -1])
def test_a_truncated_row_is_refused(cut: int) -> None:
    row = golden_row()[:cut]

    for place in (0, 1):
        with pytest.raises(RowUnreadable, match="bytes"):
            read(*[row, golden_row(), row][place : place + 2])


@pytest.mark.parametrize("cut", [1, 71, 72, 100, -1])
def test_a_truncated_row_of_layout_1_is_refused(cut: int) -> None:
    with pytest.raises(RowUnreadable, match="bytes"):
        read(golden_row(), on_disk(1)[:cut])


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("layout", 3, r"layout 3; this release reads layouts \[1, 2\]"),
        ("layout", 0, "layout 0"),
        ("layout", 1, "bytes"),
        ("state_count", 7, "bytes"),
        ("state_count", 60_000, "at most"),
        ("traits_count", 2, "bytes"),
        ("traits_count", 200, "at most"),
        ("events", 4, "bytes"),
        ("seen_count", 1, "bytes"),
        ("recent_count", 2**32 - 1, "bytes"),
    ],
)
def test_a_damaged_header_is_refused(field: str, value: int, message: str) -> None:
    row = np.frombuffer(golden_row(), np.uint8).copy()
    row[: profile.HEADER.itemsize].view(profile.HEADER)[field] = value

    with pytest.raises(RowUnreadable, match=message):
        read(golden_row(), row.tobytes())


def test_a_row_with_bytes_too_many_is_refused() -> None:
    with pytest.raises(RowUnreadable, match="bytes"):
        read(golden_row() + b"\0")


def test_a_row_of_another_model_is_made_anew_from_its_ring() -> None:
    acts = [like("anna", "i1"), dislike("anna", "i2", at=START + DAY)]
    rows = rows_after(FIRST, *acts)

    changed = profile.rebuilt(stored(rows, SECOND), SECOND.encoder)

    fresh = rows_after(SECOND, *acts)
    np.testing.assert_allclose(changed.state, fresh.state, rtol=1e-6, atol=1e-6)
    assert changed.model.tolist() == [SECOND.encoder.key]
    assert changed.built.tolist() == [1]
    assert profile.rebuilt(changed, SECOND.encoder) is changed


def test_an_item_that_no_model_knew_counts_when_one_does() -> None:
    early = toy_model("early", items=[item for item in toy_model().items.ids if item != "b8"])
    later = toy_model("later")
    rows = rows_after(early, like("anna", "b8"))

    known = profile.rebuilt(rows, later.encoder)

    assert rows.state[0].tolist() == [0, 0, 0, 0, 0, 0]
    assert known.state[0].tolist() == [0, 1, 0, 0, 1, 0]


def test_before_the_first_model_a_row_keeps_everything_but_a_state() -> None:
    rows = rows_after(None, like("anna", "a1"))

    later = profile.rebuilt(rows, toy_model().encoder)

    assert rows.state.shape == (1, 0)
    assert (rows.model.tolist(), rows.built.tolist()) == ([0], [-1])
    assert later.state[0].tolist() == [1, 0, 0, 0, 1, 0]


def test_without_a_model_a_row_forgets_who_built_it() -> None:
    rows = profile.rebuilt(rows_after(toy_model(), like("anna", "a1")), toy_model("toy-2").encoder)

    forgotten = profile.rebuilt(rows, None)

    assert rows.built.tolist() == [0]
    assert (forgotten.model.tolist(), forgotten.built.tolist(), forgotten.state.shape) == ([0], [-1], (1, 0))


def test_demographics_are_replaced_by_newer_ones_only() -> None:
    rows = new_rows(toy_model(), 3)
    rows = profile.with_traits(rows, [np.array([1, 2], np.uint64)] * 3, np.array([5, 5, 5]))

    rows = profile.with_traits(rows, [np.array([3], np.uint64)] * 3, np.array([4, 5, 6]))

    assert rows.traits_count.tolist() == [2, 2, 1]
    assert rows.traits[:, :2].tolist() == [[1, 2], [1, 2], [3, 0]]
    assert rows.users_offset.tolist() == [5, 5, 6]


def test_a_row_of_demographics_alone_equals_its_plain_recomputation() -> None:
    stale = profile.empty(1, toy_model().encoder.width)

    rows = profile.with_traits(stale, [np.array([9, 8], np.uint64)], np.array([3]))

    assert profile.pack(rows, 1) == [recompute([], None, partition=1, traits=[9, 8], users_offset=3)]
