"""Which items nobody may get: hidden ones and expired ones, from the items topic, at once and for every model."""

from __future__ import annotations

import logging
import math

import numpy as np
from numpy.typing import NDArray

from efficientrec.errors import RecordInvalid
from efficientrec.interactions import key_of
from efficientrec.model import Model
from streams.follower import Record, place_of
from streams.records import decode_item, moment_ms

log = logging.getLogger(__name__)


class Catalogue:
    """Keeps only what is not simply available, so a large catalogue costs nothing here."""

    def __init__(self) -> None:
        self._until: dict[int, float] = {}
        """Item key → millisecond from which on it is blocked; minus infinity for hidden ones."""
        self._revision = 0
        self._mask: NDArray[np.bool_] = np.zeros(0, np.bool_)
        self._mask_of: tuple[str, int] | None = None
        self._mask_until = math.inf

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
        state = (model.version, self._revision)
        if state != self._mask_of or now_ms >= self._mask_until:
            keys = np.fromiter(self._until.keys(), np.uint64, len(self._until))
            until = np.fromiter(self._until.values(), np.float64, len(self._until))
            places = model.items.find(keys)
            self._mask = np.zeros(len(model.items), np.bool_)
            self._mask[places[(places >= 0) & (until <= now_ms)]] = True
            self._mask_until = float(until[until > now_ms].min(initial=math.inf))
            self._mask_of = state
        return self._mask

    def is_blocked(self, item_id: str, now_ms: int) -> bool:
        """The same for one item by its id, for the time before the first model."""
        return self._until.get(key_of(item_id), math.inf) <= now_ms
