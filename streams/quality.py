"""How good the lists of this worker are, from what it handles anyway: hits, coverage, use of the clusters.

1. *Hits.* Of each tenth user, by a hash of his id, the first 10 items of his newest list are kept. An event that shows
   that he liked something he had not met is looked up there before the list that answers it is made: predict first,
   learn after. The same question is put to what was most popular when the model was trained, without what he has met.
   An event that the list's model was trained on is not judged: that happens where a worker is behind.
   While an experiment runs, an event counts for the arm for which the list was made in which it is looked up.
2. *Coverage.* For each item of the released model the moment at which it was last found to have stood in a list.
3. *Entropy.* The memberships of each cluster in those lists, of which half is forgotten every few minutes.

What is kept takes 3 MB, however many users there are: two users whose hashes share a place push each other out. It is
no state: after a restart or a rebalance a user's first event finds no list and is not judged. An event of a run that
is delivered again after a failure may be judged twice.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

from efficientrec.interactions import LIKED, Interactions, keys_of
from efficientrec.model import Model
from efficientrec.profile import Rows
from efficientrec.recommend import Recommendations
from streams.arms import ARMS, CONTROL, Arm
from streams.metrics import WorkerMetrics

TOP = 10
ONE_IN = 10
PLACES = 2**15
COVERED_SECONDS = 600.0
"""How long an item counts as covered after it stood in a list."""
HALF_LIFE_SECONDS = 300.0
"""Of the memberships."""
UNRANKED = 2**30
FINGERPRINTS = 2**16
"""Rows keep 16 bits of the key of each item that the user has met."""

Clock = Callable[[], int]
"""Milliseconds."""


class Sample(NamedTuple):
    """The users of a batch whose lists are judged."""

    number: NDArray[np.intp]
    """(users,) of each user of the batch, in what follows; -1 for who is not in the sample."""
    tag: NDArray[np.uint32]
    """(n,) hash of each, never 0."""
    trained_up_to: NDArray[np.int64]
    """(n,) offset in his partition up to which the model in service for him was trained."""
    arm: Arm
    """Of all of them."""

    @property
    def place(self) -> NDArray[np.intp]:
        return (self.tag // ONE_IN % PLACES).astype(np.intp)


class Ranks(NamedTuple):
    """A model's most popular items, to be looked up by their keys."""

    version: str
    keys: NDArray[np.uint64]
    """(n,) sorted."""
    rank: NDArray[np.int32]
    """(n,) of each key."""
    of_fingerprint: NDArray[np.int32]
    """(FINGERPRINTS,) rank of the item with these 16 bits, UNRANKED for none."""


class Quality:
    """Told of every batch, before and after its lists are made."""

    def __init__(self, metrics: WorkerMetrics, clock: Clock) -> None:
        self._metrics = metrics
        self._clock = clock
        self._owner = np.zeros(PLACES, np.uint32)
        self._items = np.zeros((PLACES, TOP), np.uint32)
        self._known_up_to = np.zeros(PLACES, np.int64)
        self._arm = np.zeros(PLACES, np.uint8)
        self._ranks: dict[str, Ranks] = {}
        """Of each arm's model."""
        self._is_listed = np.zeros(1, np.bool_)
        self._listed_ms = np.zeros(1, np.int64)
        self._use = np.zeros(0, np.float64)
        self._faded_ms = clock()

    def sample(self, keys: Sequence[bytes], partitions: NDArray[np.integer], arm: Arm) -> Sample:
        """Whose lists are judged. keys, partitions (users,): of a batch, or of its users of one arm."""
        tags = np.fromiter(map(crc32, keys), np.uint32, len(keys))
        user = np.flatnonzero((tags % ONE_IN == 0) & (tags != 0))
        number = np.full(len(keys), -1, np.intp)
        number[user] = np.arange(len(user))
        up_to = [arm.trained_up_to.get(partition, 0) for partition in partitions[user].tolist()]
        return Sample(number, tags[user], np.array(up_to, np.int64), arm)

    def judge(self, sample: Sample, events: Interactions, counted: NDArray[np.bool_], before: Rows) -> None:
        """Looks events up in the lists that their users have. counted (events,): not those that came before. before:
        the rows of these users as they were."""
        ranks = None if sample.arm.model is None else self._ranks_of(sample.arm.name, sample.arm.model)
        asked = sample.number[events.user]
        event = np.flatnonzero((asked >= 0) & counted & (events.weight >= LIKED))
        asked = asked[event]
        place = sample.place[asked]
        given = (self._owner[place] == sample.tag[asked]) & (events.offset[event] >= self._known_up_to[place])
        event, place = event[given], place[given]
        if not len(event):
            return
        item, user = events.item[event], events.user[event]
        filled = before.seen_count[user]
        width = min(int(filled.max()), before.seen.shape[1])
        seen, is_filled = before.seen[:, :width][user], np.arange(width) < filled[:, None]
        is_new = ~((seen == (item & np.uint64(FINGERPRINTS - 1)).astype(np.uint16)[:, None]) & is_filled).any(axis=1)
        is_hit = (self._items[place] == _short(item)[:, None]).any(axis=1) & is_new
        if ranks is None:  # what is popular is what they were given
            is_popular = is_hit
        else:
            rank = _rank(ranks, item)
            met_before = np.count_nonzero((ranks.of_fingerprint[seen] < rank[:, None]) & is_filled, axis=1)
            is_popular = (rank - met_before < TOP) & is_new
        for number, arm in enumerate(ARMS):
            of_arm = self._arm[place] == number  # not that of the user now: an experiment may have begun, or ended
            if of_arm.any():
                self._metrics.judged.labels(arm).inc(int((is_new & of_arm).sum()))
                self._metrics.hits.labels("list", arm).inc(int((is_hit & of_arm).sum()))
                self._metrics.hits.labels("popularity", arm).inc(int((is_popular & of_arm).sum()))

    def gave(self, sample: Sample, due: NDArray[np.intp], model: Model, found: Recommendations) -> None:
        """Lists of these users (due,) were made by their arm's model."""
        if sample.arm.name == CONTROL:
            self._is_listed[found.items] = True  # -1, which fills a list, has the last place
            self._use += np.bincount(found.clusters.ravel(), found.memberships.ravel(), len(self._use))
        of_due = np.flatnonzero(sample.number[due] >= 0)
        places = found.items[of_due, :TOP]
        self._keep(sample, due[of_due], np.where(places >= 0, _short(model.items.keys[places]), np.uint32(0)))

    def gave_popular(self, sample: Sample, due: NDArray[np.intp], lists: Sequence[Sequence[tuple[str, float]]]) -> None:
        """The same before the first model."""
        of_due = np.flatnonzero(sample.number[due] >= 0)
        keys = np.zeros((len(of_due), TOP), np.uint32)
        for row, place in enumerate(of_due.tolist()):
            listed = [item for item, _ in lists[place][:TOP]]
            keys[row, : len(listed)] = _short(keys_of(listed))
        self._keep(sample, due[of_due], keys)

    def erased(self, keys: Sequence[bytes]) -> None:
        """Nothing is kept of these users."""
        tags = np.fromiter(map(crc32, keys), np.uint32, len(keys))
        places = tags // ONE_IN % PLACES
        self._owner[places[self._owner[places] == tags]] = 0

    def forget(self) -> None:
        """Of all users: others may have served them."""
        self._owner[:] = 0

    def show(self) -> None:
        """Puts coverage and entropy where they can be seen."""
        now = self._clock()
        if CONTROL not in self._ranks:
            return
        self._listed_ms[self._is_listed] = now
        self._is_listed[:] = False
        covered = self._listed_ms[:-1] > now - 1000 * COVERED_SECONDS
        self._metrics.coverage.set(float(covered.mean()))
        self._use *= 2.0 ** (-max(0, now - self._faded_ms) / (1000 * HALF_LIFE_SECONDS))
        self._faded_ms = now
        self._metrics.entropy.set(evenness(self._use))

    def _keep(self, sample: Sample, users: NDArray[np.intp], keys: NDArray[np.uint32]) -> None:
        """keys (users, up to TOP): of the items of their lists."""
        number = sample.number[users]
        place = sample.place[number]
        self._owner[place] = sample.tag[number]
        self._items[place] = 0
        self._items[place, : keys.shape[1]] = keys
        self._known_up_to[place] = sample.trained_up_to[number]
        self._arm[place] = ARMS.index(sample.arm.name)

    def _ranks_of(self, arm: str, model: Model) -> Ranks:
        """Made anew when a model takes another's place, with what is counted by its items and clusters."""
        if arm in self._ranks and self._ranks[arm].version == model.version:
            return self._ranks[arm]
        self._ranks[arm] = _ranks(model)
        if arm == CONTROL:
            self._is_listed = np.zeros(len(model.items) + 1, np.bool_)
            self._listed_ms = np.zeros(len(model.items) + 1, np.int64)
            self._use = np.zeros(len(model.clusters), np.float64)
        else:
            self._owner[self._arm == ARMS.index(arm)] = 0  # these lists are of an earlier experiment
        return self._ranks[arm]


def evenness(use: NDArray[np.float64]) -> float:
    """Entropy of these shares, by that of as many alike; 0 for no use at all.

    >>> evenness(np.array([1.0, 1.0])), evenness(np.array([1.0, 0.0])), evenness(np.zeros(2))
    (1.0, 0.0, 0.0)
    """
    share = use[use > 0] / use.sum() if use.any() else use[:0]
    if len(share) < 2:
        return 0.0
    return float(-(share * np.log(share)).sum() / np.log(len(use)))


def _ranks(model: Model) -> Ranks:
    keys = model.items.keys[model.popular]
    order = np.argsort(keys)
    of_fingerprint = np.full(FINGERPRINTS, UNRANKED, np.int32)
    rank = np.arange(len(keys), dtype=np.int32)[::-1]  # the more popular of two that share their 16 bits comes last
    of_fingerprint[keys[rank] & np.uint64(FINGERPRINTS - 1)] = rank
    return Ranks(model.version, keys[order], order.astype(np.int32), of_fingerprint)


def _rank(ranks: Ranks, item: NDArray[np.uint64]) -> NDArray[np.int32]:
    """(n,) rank of each item by its key, UNRANKED where it is not among the most popular."""
    if not len(ranks.keys):
        return np.full(len(item), UNRANKED, np.int32)
    place = np.minimum(np.searchsorted(ranks.keys, item), len(ranks.keys) - 1)
    return np.where(ranks.keys[place] == item, ranks.rank[place], np.int32(UNRANKED))


def _short(keys: NDArray[np.uint64]) -> NDArray[np.uint32]:
    """The low half of each key, which tells ten items apart well enough; 0 stands for no item."""
    return keys.astype(np.uint32)
