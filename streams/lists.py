"""From recommendations to records: the lists that go out, with their reasons and where they come from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import accumulate
from types import ModuleType
from typing import Final, NamedTuple

import msgspec
import numpy as np

from efficientrec import json_kernel, msgpack_kernel
from efficientrec.list_kernel import room_of
from efficientrec.model import Model
from efficientrec.recommend import Recommendations
from streams.records import (
    LIST_ENCODERS,
    SCHEMA_VERSION,
    ListHead,
    RankedItem,
    Reason,
    RecommendationList,
    Trigger,
    rec_id_of,
)

POPULAR = Reason("popular", 1.0)
KERNELS: Final[Mapping[str, ModuleType]] = {"json": json_kernel, "msgpack": msgpack_kernel}
"""What writes each format of the setting `list_format`."""
USERS_AT_A_TIME = 256  # their lists stay in the processor's cache from writing to sending


class Cause(NamedTuple):
    """Why a list is made: the newest event of its user."""

    user: str
    trigger: Trigger
    arrived_ms: int
    """When the broker got it."""
    trace: bytes | None = None
    """The W3C trace context that it came in."""


def personal_lists(
    model: Model,
    recommendations: Recommendations,
    causes: Sequence[Cause],
    generated_at: str,
    reason: str,
    list_format: str = "json",
    arm: str | None = None,
) -> list[bytes]:
    """The records of a batch of users, in its order. arm: of all of them, while an experiment runs.

    A kernel writes what a list is long by: with an object for every item and reason, and the garbage collector that
    looked at them, encoding took a third of the worker's time.
    """
    encode, kernel = LIST_ENCODERS[list_format], KERNELS[list_format]
    ids, id_start = model.items.written(kernel.id_members)
    ranks = kernel.rank_members(recommendations.items.shape[1])
    sizes = (recommendations.clusters.shape[1], kernel.ITEM_BYTES, kernel.CLUSTER_BYTES)
    records: list[bytes] = []
    for first in range(0, len(causes), USERS_AT_A_TIME):
        some = slice(first, first + USERS_AT_A_TIME)
        heads = [encode(_head(cause, model.version, generated_at, reason, arm)) for cause in causes[some]]
        head_end = np.array(list(accumulate(map(len, heads))), np.int64)
        room = room_of(recommendations.items[some], recommendations.strongest[some], id_start, *sizes)
        out = np.empty(int(head_end[-1]) + room, np.uint8)
        end = np.empty(len(heads), np.int64)
        kernel.write_lists(
            np.frombuffer(b"".join(heads), np.uint8),
            head_end,
            recommendations.clusters[some],
            recommendations.memberships[some],
            recommendations.items[some],
            recommendations.scores[some],
            recommendations.strongest[some],
            recommendations.part[some],
            ids,
            id_start,
            *ranks,
            out,
            end,
        )
        written, ends = out.data, end.tolist()
        records += [bytes(written[begin:end]) for begin, end in zip([0, *ends], ends, strict=False)]
    return records


def popular_lists(
    lists: Sequence[Sequence[tuple[str, float]]],
    causes: Sequence[Cause],
    generated_at: str,
    reason: str,
    list_format: str = "json",
) -> list[bytes]:
    """The records before the first model: what is popular and new to each user."""
    encode = LIST_ENCODERS[list_format]
    records = []
    for listed, cause in zip(lists, causes, strict=True):
        head = _head(cause, None, generated_at, reason)
        items = [RankedItem(item, rank, score, [POPULAR]) for rank, (item, score) in enumerate(listed, 1)]
        records.append(encode(RecommendationList(**msgspec.structs.asdict(head), clusters=[], items=items)))
    return records


def _head(cause: Cause, version: str | None, generated_at: str, reason: str, arm: str | None = None) -> ListHead:
    trigger = cause.trigger
    return ListHead(
        SCHEMA_VERSION,
        rec_id_of(trigger.topic, trigger.partition, trigger.offset, cause.user, version),
        cause.user,
        version,
        generated_at,
        trigger,
        reason,
        arm,
    )
