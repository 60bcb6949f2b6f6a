"""Lists on their way out: what the kernel writes is what the record types read."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from types import ModuleType

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from efficientrec import json_kernel, msgpack_kernel
from efficientrec.recommend import Recommendations
from efficientrec.vocabulary import Vocabulary
from streams.arms import ARMS
from streams.lists import USERS_AT_A_TIME, Cause, personal_lists, popular_lists
from streams.records import ClusterWeight, RankedItem, Reason, Trigger, decode_list, rec_id_of
from tests import strategies
from tests.toy import toy_model

IDS = ["plain", 'with "quotes" and \\', "naïve ☕ 商品", "line\nbreak\x00", "x" * 512]
MODEL = replace(toy_model(), items=Vocabulary(IDS))


def cause(user: str, offset: int = 7, event_id: str | None = "e-1") -> Cause:
    return Cause(user, Trigger("reco.interactions", 3, offset, event_id, "2023-11-14T22:13:20.123Z"), 1000)


def recommended(**columns: object) -> Recommendations:
    """One user with three items: by a cluster, by an anchor and a cluster, by popularity; the last place is empty."""
    given = {
        "items": np.array([[2, 4, 1, -1]], np.int32),
        "scores": np.array([[12.3456789, 0.5, -3.25, 0]], np.float32),
        "clusters": np.array([[17, 3]], np.int32),
        "memberships": np.array([[0.98768, 1.0]], np.float32),
        "strongest": np.array([[[17, -1], [3, 0], [-1, -1], [-1, -1]]], np.int32),
        "part": np.array([[[2.0, 0], [1.0, 3.0], [0, 0], [0, 0]]], np.float32),
        "ranked": np.array([3], np.int32),
        **columns,
    }
    return Recommendations(**given)  # type: ignore[arg-type]


def test_a_list_says_what_was_recommended_and_why() -> None:
    (body,) = personal_lists(MODEL, recommended(), [cause('us"er ☕')], "2024-01-01T00:00:00.000Z", "event")

    found = decode_list(body)

    assert found.user_id == 'us"er ☕'
    assert found.rec_id == rec_id_of("reco.interactions", 3, 7, 'us"er ☕', MODEL.version)
    assert (found.model_version, found.reason) == (MODEL.version, "event")
    assert found.generated_at == "2024-01-01T00:00:00.000Z"
    assert found.trigger == cause("x").trigger
    assert found.clusters == [ClusterWeight(17, 0.9877), ClusterWeight(3, 1.0)]
    assert found.items == [
        RankedItem(IDS[2], 1, 12.345679, [Reason("cluster", 1.0, cluster=17)]),
        RankedItem(IDS[4], 2, 0.5, [Reason("anchor", 0.75, item_id=IDS[0]), Reason("cluster", 0.25, cluster=3)]),
        RankedItem(IDS[1], 3, -3.25, [Reason("popular", 1.0)]),
    ]
    assert msgspec.json.encode(found) == body  # to the byte, so nothing changes for who compares


def test_ids_of_all_kinds_come_back() -> None:
    items = np.arange(len(IDS), dtype=np.int32)[None]
    nothing = {"strongest": np.full((1, len(IDS), 2), -1, np.int32), "part": np.zeros((1, len(IDS), 2), np.float32)}
    (body,) = personal_lists(
        MODEL,
        recommended(items=items, scores=np.zeros((1, len(IDS)), np.float32), **nothing),
        [cause("u")],
        "",
        "event",
    )

    assert [item.item_id for item in decode_list(body).items] == IDS


@pytest.mark.parametrize(
    ("score", "text"),
    [
        (0.0, "0.0"),
        (1.0, "1.0"),
        (-1.5, "-1.5"),
        (1e-6, "0.000001"),
        (4e-7, "0.0"),
        (0.1, "0.1"),
        (1234567.0, "1234567.0"),
        (99.9999995, "100.0"),
        (1e12, "999999995904.0"),
    ],
)
def test_numbers_are_plain_decimals(score: float, text: str) -> None:
    scores = np.full((1, 4), score, np.float32)
    (body,) = personal_lists(MODEL, recommended(scores=scores), [cause("u")], "", "event")

    assert f'"rank":1,"score":{text},'.encode() in body
    assert decode_list(body).items[0].score == pytest.approx(score, rel=1e-6, abs=5e-7)


def test_a_score_beyond_all_bounds_still_gives_a_list() -> None:
    scores = np.array([[3e38, -3e38, 0, 0]], np.float32)
    (body,) = personal_lists(MODEL, recommended(scores=scores), [cause("u")], "", "event")

    assert [item.score for item in decode_list(body).items] == [9e12, -9e12, 0.0]


def test_every_user_of_a_large_batch_gets_his_own_list() -> None:
    users = 2 * USERS_AT_A_TIME + 3
    one = recommended()
    many = Recommendations(
        **{
            name: np.repeat(getattr(one, name), users, axis=0)
            for name in ("items", "scores", "clusters", "memberships", "strongest", "part", "ranked")
        }
    )
    many.items[:, 0] = np.arange(users) % len(IDS)
    causes = [cause(f"user-{number}", number, None) for number in range(users)]

    found = [decode_list(body) for body in personal_lists(MODEL, many, causes, "", "event")]

    assert [each.user_id for each in found] == [each.user for each in causes]
    assert [each.items[0].item_id for each in found] == [IDS[number % len(IDS)] for number in range(users)]
    assert personal_lists(MODEL, many, [], "", "event") == []


def test_before_the_first_model_a_list_names_popularity() -> None:
    (body,) = popular_lists([[("a", 3.0), ("b", 1.0)]], [cause("u")], "", "event")

    found = decode_list(body)

    assert (found.user_id, found.model_version, found.clusters) == ("u", None, [])
    assert found.items == [
        RankedItem("a", 1, 3.0, [Reason("popular", 1.0)]),
        RankedItem("b", 2, 1.0, [Reason("popular", 1.0)]),
    ]


def test_a_list_names_its_arm_only_while_an_experiment_runs() -> None:
    plain, named = (
        personal_lists(MODEL, recommended(), [cause("u")], "", "event", "json", arm)[0] for arm in (None, "treatment")
    )

    assert b"arm" not in plain
    assert named == plain.replace(b'"reason":"event"', b'"reason":"event","arm":"treatment"')


@given(st.data())
def test_messagepack_says_the_same_as_json(data: st.DataObject) -> None:
    known = data.draw(st.lists(strategies.ids, min_size=1, max_size=4, unique=True))
    model = replace(toy_model(), items=Vocabulary(known))
    found = data.draw(strategies.recommendations(len(known)))
    causes = [
        cause(data.draw(strategies.ids), data.draw(st.integers(0, 2**63 - 1)), data.draw(st.none() | strategies.ids))
        for _ in found.items
    ]

    arm = data.draw(st.sampled_from([None, *ARMS]))

    as_json = personal_lists(model, found, causes, "2024-01-01T00:00:00.000Z", "event", "json", arm)
    packed = personal_lists(model, found, causes, "2024-01-01T00:00:00.000Z", "event", "msgpack", arm)

    for one, other in zip(as_json, packed, strict=True):
        assert one[:1] == b"{"
        assert other[:1] >= b"\x80"
        # As texts: fields in the same order, and whole numbers apart from others.
        assert repr(msgspec.msgpack.decode(other)) == repr(msgspec.json.decode(one))
        assert decode_list(other) == decode_list(one)
        assert decode_list(one).arm == arm
        assert msgspec.msgpack.encode(decode_list(other)) == other  # every marker is the shortest there is


@given(st.lists(st.tuples(strategies.ids, st.floats(allow_nan=False, allow_infinity=False)), max_size=20))
def test_before_the_first_model_messagepack_says_the_same_as_json(listed: list[tuple[str, float]]) -> None:
    (one,) = popular_lists([listed], [cause("ü")], "", "event")
    (other,) = popular_lists([listed], [cause("ü")], "", "event", "msgpack")

    assert (one[:1] == b"{", other[:1] >= b"\x80") == (True, True)
    assert repr(msgspec.msgpack.decode(other)) == repr(msgspec.json.decode(one))
    assert decode_list(other) == decode_list(one)


@pytest.mark.parametrize(
    ("kernel", "encode"), [(json_kernel, msgspec.json.encode), (msgpack_kernel, msgspec.msgpack.encode)]
)
def test_no_item_or_cluster_takes_more_room_than_its_kernel_says(
    kernel: ModuleType, encode: Callable[[object], bytes]
) -> None:
    reasons = [Reason("cluster", 0.1234, cluster=2**31 - 1), Reason("anchor", 0.8766, item_id="")]
    ids = 2 * len(kernel.id_members([""])[0])

    assert len(encode(RankedItem("", 200, -9e12, reasons))) - ids < kernel.ITEM_BYTES  # with a comma
    assert len(encode(ClusterWeight(2**31 - 1, 0.1234))) < kernel.CLUSTER_BYTES
