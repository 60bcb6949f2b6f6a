"""Which items nobody may get: hidden ones and expired ones, from the items topic, at once and for every model."""

from __future__ import annotations

import logging
import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from efficientrec.errors import RecordInvalid
from efficientrec.interactions import key_of
from efficientrec.model import Model
from streams.follower import Record, place_of
from streams.records import decode_item, moment_ms

log = logging.getLogger(__name__)


MASKS = 2  # as many models may serve at a time


class Mask(NamedTuple):
    """What is blocked of a model's items."""

    blocked: NDArray[np.bool_]
    """(items,)"""
    revision: int
    """Of the catalogue."""
    until: float
    """Millisecond at which the next item expires."""


class Catalogue:
    """Keeps only what is not simply available, so a large catalogue costs nothing here."""

    def __init__(self) -> None:
        self._until: dict[int, float] = {}
        """Item key → millisecond from which on it is blocked; minus infinity for hidden ones."""
        self._revision = 0
        self._masks: dict[str, Mask] = {}
        """Model version → what is blocked of it; of MASKS models at the most."""

    async def handle(self, records: list[Record]) -> None:
        """Takes item records in the order of the topic; one that cannot be read changes nothing."""
        for record in records:
            if record.key is None:
                continue
            key = key_of(record.key.decode(errors="replace"))
            blocked_from = -math.inf  # a removed item is as good as hidden
            if record.value is not None:
                try:
                    item = decode_item(record.value, record.key)
                except RecordInvalid as error:
                    log.warning("item at offset %s ignored: %s", record.offset, error, extra=place_of(record))
                    continue
                if not item.is_hidden:
                    blocked_from = math.inf if item.expires_at is None else moment_ms(item.expires_at)
            if self._until.get(key, math.inf) != blocked_from:
                if blocked_from == math.inf:
                    del self._until[key]
                else:
                    self._until[key] = blocked_from
                self._revision += 1

    def blocked(self, model: Model, now_ms: int) -> NDArray[np.bool_]:
        """(items,) what must not be recommended now; made anew only when catalogue, model or an expiry changed it."""
        mask = self._masks.get(model.version)
        if mask is None or mask.revision != self._revision or now_ms >= mask.until:
            keys = np.fromiter(self._until.keys(), np.uint64, len(self._until))
            until = np.fromiter(self._until.values(), np.float64, len(self._until))
            places = model.items.find(keys)
            blocked = np.zeros(len(model.items), np.bool_)
            blocked[places[(places >= 0) & (until <= now_ms)]] = True
            mask = Mask(blocked, self._revision, float(until[until > now_ms].min(initial=math.inf)))
            self._masks.pop(model.version, None)
            self._masks = dict([*self._masks.items()][1 - MASKS :]) | {model.version: mask}
        return mask.blocked

    def is_blocked(self, item_id: str, now_ms: int) -> bool:
        """The same for one item by its id, for the time before the first model."""
        return self._until.get(key_of(item_id), math.inf) <= now_ms
