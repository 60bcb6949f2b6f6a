"""How a data set is divided for a test: three answers to what may be learned from, what is asked, and what counts.

Each is a function of the data and a seed. What is learned at the end of a stream is the fourth (prequential.py).
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from efficientrec.errors import SettingInvalid
from efficientrec.evaluation.questions import Question, Split, asking, knowing, known_first
from efficientrec.interactions import LIKED
from efficientrec.spans import steps
from efficientrec.training.data import TrainingData

ASKED_MIN = 50
"""Users of whom something can be told."""


def strong(data: TrainingData, seed: int, items_min: int = 5, only_liked: bool = True) -> Split:
    """Strong generalisation: 80/10/10 of the users learn, validate and test; of what an asked user liked a random
    fifth are targets, of at least `items_min`; of two where next to nobody liked so many. With only_liked the others
    are all that is learned and given, each with weight 1, as published figures have it; without it what was not liked
    stands beside them with its sign, a random fifth of it held out as well.
    """
    liked = data.weight >= LIKED
    count = np.bincount(data.user[liked], minlength=data.users)
    if 20 * int((count >= items_min).sum()) < int((count >= 2).sum()):
        items_min = 2
    generator = np.random.default_rng(seed)
    users = generator.permutation(np.flatnonzero(count >= items_min))
    first, second = int(0.8 * len(users)), int(0.9 * len(users))
    draw = generator.random(len(data))
    held_out = _fifth(data, liked, draw) | _fifth(data, ~liked, draw)
    learning = _members(users[:first], data.users)[data.user]
    usable = liked if only_liked else np.ones(len(data), np.bool_)
    data, items = known_first(data, learning & usable)

    def ask(asked: NDArray[np.int64]) -> Question:
        mine = _members(asked, data.users)[data.user]
        given, later = data.chosen(mine & usable & ~held_out), data.chosen(mine & held_out)
        return asking(given.weighing(1.0) if only_liked else given, later, later.weight >= LIKED)

    train = knowing(data.chosen(learning & usable), items)
    train = train.weighing(1.0) if only_liked else train
    validation, test = ask(users[first:second]), ask(users[second:])
    return Split(train, validation, test, final=train, criterion="ndcg@100", fading=False)


def leave_one_out(data: TrainingData, seed: int, ordered: bool = True) -> Split:
    """The last item of each user is the target of the test, the one before it that of validation; each is asked for
    with everything before it as input, and what came before both is learned. Every interaction counts alike.

    Only an item's first time counts: what a user had met before cannot be asked for, and what he did after his last new
    item is left out. Who has two items has no validation, who has one is only learned from. ordered: False where the
    order of the data means nothing, so that the last is a random one.

    Where histories are so short that this would leave most users without two items to learn from, a random tenth of
    those with two is asked in the test for their last item, another tenth in validation, and the others are learned
    from whole.
    """
    data = neutral(data, seed, ordered).weighing(1.0)
    order = np.argsort(data.user, kind="stable")
    user, item = data.user[order], data.item[order]
    new = np.zeros(len(order), np.bool_)
    new[np.unique(user.astype(np.int64) * len(data.items) + item, return_index=True)[1]] = True
    before: NDArray[np.int64] = np.cumsum(new) - new  # new items before each event, of all users
    begin = np.searchsorted(user, user)
    rank: NDArray[np.int64] = before - before[begin]
    total = np.bincount(user[new], minlength=data.users)[user]
    left = np.empty(len(order), np.int64)  # how many new items the user has from here on, this one included
    left[order] = total - rank
    fresh = np.empty(len(order), np.bool_)
    fresh[order] = new
    many = np.empty(len(order), np.int64)
    many[order] = total
    # After the last new item, `left` is 0; between it and the one before, 1 for the last itself and for repeats ahead.
    held = np.minimum(many - 1, 2)  # how many of the user's new items are held out
    validated, tested = left == 2, left == 1
    some = _tenths(data, many, seed)
    if some is not None:
        held = (some[0] | some[1]).astype(np.int64)
        validated, tested = tested & some[0], tested & some[1]
    learned = np.where(fresh, left > held, left >= held)
    second, last = fresh & validated & (left <= held), fresh & tested & (left <= held)
    data, items = known_first(data, learned)

    def ask(target: NDArray[np.bool_], given: NDArray[np.bool_]) -> Question:
        later = data.chosen(target)
        return asking(data.chosen(given), later, np.ones(len(later), np.bool_))

    train = knowing(data.chosen(learned), items)
    validation = ask(second, learned)
    test = ask(last, learned | second | (~fresh & (left == 1)))
    return Split(train, validation, test, final=train, criterion="ndcg@20")


def _tenths(
    data: TrainingData, many: NDArray[np.int64], seed: int
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]] | None:
    """(events,) those of the users asked in validation, and in the test, where histories are short; None where they are
    not, or a tenth of the users would be too few to tell anything. many (events,): items of the event's user."""
    users, first = np.unique(data.user, return_index=True)
    able = users[many[first] >= 2]
    if len(able) < 10 * ASKED_MIN or 2 * int((many[first] >= 4).sum()) >= len(able):
        return None
    drawn = np.random.default_rng(seed).permutation(able)
    tenth = len(able) // 10
    validated, tested = (_members(part, data.users) for part in (drawn[:tenth], drawn[tenth : 2 * tenth]))
    return validated[data.user], tested[data.user]


def temporal(data: TrainingData, seed: int, share: float = 0.1) -> Split:
    """Global split in time: predict what users of a later time liked, of all that was before. The last `share` of the
    events is the test, what comes as long before it validation; what is chosen on that is trained again up to the
    test."""
    data = neutral(data, seed)
    middle, cut = data.cut(2 * share), data.cut(share)
    data, items = known_first(data, data.at < cut)
    later = data.chosen(data.at >= cut)
    # Validation happens when the items of the time after it are not yet known.
    earlier, known = known_first(data.before(cut), data.before(cut).at < middle)
    between = earlier.chosen(earlier.at >= middle)
    return Split(
        train=knowing(earlier.before(middle), known),
        validation=asking(earlier.before(middle), between, between.weight >= LIKED),
        test=asking(data.before(cut), later, later.weight >= LIKED),
        final=knowing(data.before(cut), items),
        criterion="ndcg@100",
        cut=cut,
    )


def neutral(data: TrainingData, seed: int, ordered: bool = True) -> TrainingData:
    """The same events, those of one time in random order: the order of a file may tell what it should not. Without
    order in the data, all of them."""
    draw = np.random.default_rng(seed).random(len(data))
    order = np.lexsort((draw, data.at)) if ordered else np.argsort(draw)
    return replace(data, user=data.user[order], item=data.item[order], weight=data.weight[order])


def split(protocol: str, data: TrainingData, clock: str, seed: int, only_liked: bool = True) -> Split:
    """The split of a protocol by its name. clock: where the data's times come from (datasets.Dataset.clock)."""
    if protocol == "strong":
        return strong(data, seed, only_liked=only_liked)
    if protocol == "leave-one-out":
        return leave_one_out(data, seed, ordered=clock != "rows")
    if protocol == "temporal":
        require_times(protocol, clock)
        return temporal(data, seed)
    raise SettingInvalid(f"protocol is {protocol!r}; expected one of {', '.join(PROTOCOLS)}")


PROTOCOLS = ("strong", "leave-one-out", "temporal", "prequential")


def require_times(protocol: str, clock: str) -> None:
    """Refuses data without times."""
    if clock != "timestamp":
        raise SettingInvalid(
            f"protocol is {protocol!r}, and the data have no times; expected a column timestamp, or another protocol"
        )


def _fifth(data: TrainingData, events: NDArray[np.bool_], draw: NDArray[np.float64]) -> NDArray[np.bool_]:
    """(events,) a random fifth, at least one, of each user's marked events."""
    mine = np.flatnonzero(events)
    mine = mine[np.lexsort((draw[mine], data.user[mine]))]
    of = data.user[mine]
    count = np.bincount(of, minlength=data.users)
    rank = steps(count)
    chosen = np.zeros(len(data), np.bool_)
    chosen[mine[rank < np.maximum(1, np.round(0.2 * count[of]))]] = True
    return chosen


def _members(users: NDArray[np.integer], count: int) -> NDArray[np.bool_]:
    member = np.zeros(count, np.bool_)
    member[users] = True
    return member
