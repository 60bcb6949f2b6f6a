"""What numba compiles, nothing else: loops over the rows of a batch, one user at a time.

Each row is computed by the same instructions in the same order however many rows come with it: one user alone gets to
the last bit what the same user gets in a batch of thousands. So matrix products are written out here rather than left
to BLAS. Nothing here checks a bound: who calls answers for the shapes and the places.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from efficientrec.compiled import compiled

BUILT_ON = "81cd933c65c14d61"  # see compiled.py


@compiled
def gather(
    source: NDArray[np.uint8], start: NDArray[np.int64], length: NDArray[np.int64], out: NDArray[np.uint8]
) -> None:
    """Copies `length[u]` bytes from `start[u]` of source into row u of out (users, bytes), and moves start on."""
    for user in range(len(start)):
        begin, count = start[user], length[user]
        out[user, :count] = source[begin : begin + count]
        start[user] = begin + count


@compiled
def scatter(
    rows: NDArray[np.uint8], length: NDArray[np.int64], out: NDArray[np.uint8], start: NDArray[np.int64]
) -> None:
    """The way back: the first `length[u]` bytes of row u go to `start[u]` of out, and start moves on."""
    for user in range(len(start)):
        begin, count = start[user], length[user]
        out[begin : begin + count] = rows[user, :count]
        start[user] = begin + count


@compiled
def _contains(values: Any, count: int, value: Any) -> bool:
    found = False
    for index in range(min(count, len(values))):  # no early exit: the loop stays a straight vector comparison
        found |= values[index] == value
    return found


@compiled
def murmur2(
    buffer: NDArray[np.uint8], start: NDArray[np.int64], length: NDArray[np.int64], out: NDArray[np.uint32]
) -> None:
    """Kafka's hash of keys: out[k] is murmur2 of the `length[k]` bytes from `start[k]` of buffer."""
    m = np.uint32(0x5BD1E995)
    for key in range(len(start)):
        place, left = start[key], length[key]
        mixed = np.uint32(np.uint32(0x9747B28C) ^ np.uint32(left))
        while left >= 4:
            word = np.uint32(0)
            for byte in range(4):
                word |= np.uint32(buffer[place + byte]) << np.uint32(8 * byte)
            word = np.uint32(word * m)
            word = np.uint32((word ^ (word >> np.uint32(24))) * m)
            mixed = np.uint32(mixed * m) ^ word
            place += 4
            left -= 4
        if left:
            for byte in range(left):
                mixed ^= np.uint32(buffer[place + byte]) << np.uint32(8 * byte)
            mixed = np.uint32(mixed * m)
        mixed = np.uint32((mixed ^ (mixed >> np.uint32(13))) * m)
        out[key] = mixed ^ (mixed >> np.uint32(15))


@compiled
def _is_repeat(
    ids: NDArray[np.uint64],
    noted_at: NDArray[np.uint32],
    count: int,
    event: np.uint64,
    at: int,
    most: int,
    apart: float,
) -> bool:
    """Whether an id is among the `most` newest of ids and was noted, the last time, within `apart` seconds of `at`."""
    for back in range(1, min(most, count, len(ids)) + 1):
        slot = (count - back) % len(ids)
        if ids[slot] == event:
            return bool(noted_at[slot] == 0 or abs(np.int64(noted_at[slot]) - at) <= apart)
    return False


@compiled
def fold_history(
    user: NDArray[np.int32],
    item: NDArray[np.uint64],
    weight: NDArray[np.float32],
    at: NDArray[np.int64],
    arrived: NDArray[np.int64],
    offset: NDArray[np.int64],
    event: NDArray[np.uint64],
    excludes: NDArray[np.bool_],
    repeat_ids: int,
    repeat_seconds: float,
    events_per_second: int,
    row_offset: NDArray[np.int64],
    row_at: NDArray[np.int64],
    begun: NDArray[np.int64],
    second: NDArray[np.uint32],
    in_second: NDArray[np.uint32],
    events: NDArray[np.uint32],
    liked: NDArray[np.uint32],
    disliked: NDArray[np.uint32],
    ring_item: NDArray[np.uint64],
    ring_weight: NDArray[np.float32],
    ring_at: NDArray[np.uint32],
    seen_count: NDArray[np.uint32],
    seen: NDArray[np.uint16],
    recent_count: NDArray[np.uint32],
    recent: NDArray[np.uint64],
    recent_at: NDArray[np.uint32],
    outcome: NDArray[np.uint8],
) -> None:
    """What a run does to everything in a row but the encoder's state.

    Events in offset order, times in [0, AT_MAX]; rows are changed in place. repeat_ids, repeat_seconds,
    events_per_second: as in interactions.Admission.

    outcome (events,): 0 counted, 1 folded before (its offset is not above the row's), 2 the producer sent it twice,
    3 one too many of its user's in that second.
    """
    ring_size, seen_size, recent_size = ring_item.shape[1], seen.shape[1], recent.shape[1]
    for index in range(len(user)):
        row = user[index]
        if offset[index] <= row_offset[row]:
            outcome[index] = 1
            continue
        row_offset[row] = offset[index]
        arrival = min(max(arrived[index] // 1000, 0), 2**32 - 1)
        noted = max(arrival, 1)  # 0 would mean unknown
        if event[index] != 0 and _contains(recent[row], recent_count[row], event[index]):  # quick, and seldom true
            known = np.int64(recent_count[row])
            if _is_repeat(recent[row], recent_at[row], known, event[index], noted, repeat_ids, repeat_seconds):
                outcome[index] = 2
                continue
        if events_per_second > 0:
            if arrival > second[row]:
                second[row] = arrival
                in_second[row] = 0
            if in_second[row] >= events_per_second:
                outcome[index] = 3
                continue
            in_second[row] += 1
        if event[index] != 0:
            slot = recent_count[row] % recent_size
            recent[row, slot] = event[index]
            recent_at[row, slot] = noted
            recent_count[row] += 1
        outcome[index] = 0
        if events[row] == 0:
            begun[row] = offset[index]
        slot = events[row] % ring_size
        ring_item[row, slot] = item[index]
        ring_weight[row, slot] = weight[index]
        ring_at[row, slot] = np.uint32(at[index] // 1000)
        events[row] += 1
        if weight[index] > 0:
            liked[row] += 1
        elif weight[index] < 0:
            disliked[row] += 1
        if excludes[index]:
            fingerprint = np.uint16(item[index] & np.uint64(0xFFFF))
            if not _contains(seen[row], seen_count[row], fingerprint):
                seen[row, seen_count[row] % seen_size] = fingerprint
                seen_count[row] += 1
        row_at[row] = max(row_at[row], at[index])


@compiled
def accumulate(
    user: NDArray[np.int32],
    item: NDArray[np.int32],
    weight: NDArray[np.float32],
    at: NDArray[np.int64],
    rate: float,
    vectors: NDArray[np.float32],
    state: NDArray[np.float32],
    state_at: NDArray[np.int64],
) -> None:
    """Decayed signed sums: A ← e^(-rate Δt) A + |y| f_i, likes in the first half of the sums, dislikes in the second.

    item (events,): index into vectors (items, d), -1 for an item that the model does not know. rate: per millisecond.
    state (users, 2d + 2): sums of likes, sums of dislikes, weight of likes, weight of dislikes; changed in place.
    A late event is added with the weight it would have by now, so that the sum does not depend on the order of arrival.
    """
    width = vectors.shape[1]
    for index in range(len(user)):
        row = user[index]
        share = np.float32(1.0)
        if at[index] > state_at[row]:
            fade = np.float32(math.exp(-rate * (at[index] - state_at[row])))
            for column in range(2 * width + 2):
                state[row, column] *= fade
            state_at[row] = at[index]
        else:
            share = np.float32(math.exp(-rate * (state_at[row] - at[index])))
        known = item[index]
        if known < 0 or weight[index] == 0:
            continue
        amount = share * abs(weight[index])
        side = 0 if weight[index] > 0 else 1
        first = side * width
        for column in range(width):
            state[row, first + column] += amount * vectors[known, column]
        state[row, 2 * width + side] += amount


@compiled
def lookup(keys: NDArray[np.uint64], table: NDArray[np.uint64], place: NDArray[np.int32]) -> NDArray[np.int32]:
    """Index of each key, -1 where absent.

    table, place: open addressing, a power of two long, key 0 for an empty slot.
    """
    mask = np.uint64(len(table) - 1)
    found = np.full(len(keys), -1, np.int32)
    for index in range(len(keys)):
        slot = keys[index] & mask
        while table[slot] != 0:
            if table[slot] == keys[index]:
                found[index] = place[slot]
                break
            slot = (slot + np.uint64(1)) & mask
    return found


@compiled
def hash_table(keys: NDArray[np.uint64], table: NDArray[np.uint64], place: NDArray[np.int32]) -> int:
    """Fills table and place for `lookup`. Returns the index of a key that occurs twice, or -1."""
    mask = np.uint64(len(table) - 1)
    for index in range(len(keys)):
        slot = keys[index] & mask
        while table[slot] != 0:
            if table[slot] == keys[index]:
                return index
            slot = (slot + np.uint64(1)) & mask
        table[slot] = keys[index]
        place[slot] = index
    return -1


@compiled
def dense(
    inputs: NDArray[np.float32], weights: NDArray[np.float32], bias: NDArray[np.float32], relu: bool
) -> NDArray[np.float32]:
    """inputs @ weights + bias, row by row, so that a row's result does not depend on how many rows come with it."""
    rows, width, outputs = inputs.shape[0], inputs.shape[1], weights.shape[1]
    result = np.empty((rows, outputs), np.float32)
    for row in range(rows):
        for column in range(outputs):
            result[row, column] = bias[column]
        for term in range(width):
            value = inputs[row, term]
            for column in range(outputs):
                result[row, column] += value * weights[term, column]
        if relu:
            for column in range(outputs):
                result[row, column] = max(result[row, column], np.float32(0.0))
    return result


@compiled
def top(values: NDArray[np.float32], count: int, indices: NDArray[np.int32], best: NDArray[np.float32]) -> int:
    """The `count` ≥ 1 greatest of values, greatest first, ties to the lower index. Returns how many there are."""
    kept = 0
    for index in range(len(values)):
        value = values[index]
        if kept == count and value <= best[kept - 1]:
            continue
        place = kept if kept < count else count - 1
        while place > 0 and best[place - 1] < value:
            best[place] = best[place - 1]
            indices[place] = indices[place - 1]
            place -= 1
        best[place] = value
        indices[place] = index
        kept = min(kept + 1, count)
    return kept


@compiled
def top_rows(values: NDArray[np.float32], indices: NDArray[np.int32], best: NDArray[np.float32]) -> None:
    """`top` for each row of values (rows, n); indices and best (rows, count), count ≤ n, are filled."""
    for row in range(len(values)):
        top(values[row], indices.shape[1], indices[row], best[row])


@njit(cache=True, nogil=True, error_model="numpy", fastmath={"reassoc", "contract", "nsz"})
def _dot(left: NDArray[np.float32], right: NDArray[np.float32]) -> np.float32:
    """Sum of products, in the order that the vector unit likes: the same for every user, since it is compiled once."""
    total = np.float32(0.0)
    for index in range(len(left)):
        total += left[index] * right[index]
    return total


@compiled
def vote_and_rank(
    voters: NDArray[np.int32],
    shares: NDArray[np.float32],
    clusters: int,
    owner_items: NDArray[np.int32],
    owner_scores: NDArray[np.float32],
    anchor_items: NDArray[np.int32],
    anchor_scores: NDArray[np.float32],
    popular: NDArray[np.int32],
    taste: NDArray[np.float32],
    item_vectors: NDArray[np.float32],
    item_bias: NDArray[np.float32],
    item_keys: NDArray[np.uint64],
    blocked: NDArray[np.bool_],
    seen_count: NDArray[np.uint32],
    seen: NDArray[np.uint16],
    exact: bool,
    place_of: NDArray[np.int32],
    items: NDArray[np.int32],
    scores: NDArray[np.float32],
    strongest: NDArray[np.int32],
    part: NDArray[np.float32],
    ranked: NDArray[np.int32],
) -> None:
    """Votes, exclusions, exact scores and the best N, one user after another; steps as in recommend.py.

    voters, shares (users, v): the first `clusters` columns are clusters, the others anchors (items); -1 for none.
    owner_*, anchor_* (owners, L): shortlists, best first, -1 for none. popular (p,): for who has too few candidates.
    place_of (items,): room to work in, -1 everywhere before and after.
    items, scores (users, N), strongest, part (users, N, 2): filled; strongest cluster and anchor of each item and the
    part each gave. ranked (users,): how many items were left to rank.
    """
    users, size = items.shape
    most = voters.shape[1] * max(owner_items.shape[1], anchor_items.shape[1]) + len(popular)
    found = np.empty(most, np.int32)
    votes = np.empty(most, np.float32)
    leader = np.empty((2, most), np.int32)
    given = np.empty((2, most), np.float32)
    mine = np.zeros(65_536, np.bool_)
    order = np.empty(size, np.int32)
    best = np.empty(size, np.float32)
    for user in range(users):
        # 1. Votes add up; each candidate remembers its strongest cluster and its strongest anchor.
        count = 0
        for column in range(voters.shape[1]):
            owner = voters[user, column]
            if owner < 0:
                continue
            side = 0 if column < clusters else 1
            listed = owner_items[owner] if side == 0 else anchor_items[owner]
            credit = owner_scores[owner] if side == 0 else anchor_scores[owner]
            share = shares[user, column]
            for rank in range(len(listed)):
                item = listed[rank]
                if item < 0:
                    break
                vote = share * credit[rank]
                candidate = place_of[item]
                if candidate < 0:
                    candidate = count
                    count += 1
                    place_of[item] = candidate
                    found[candidate] = item
                    votes[candidate] = 0
                    for kind in range(2):
                        leader[kind, candidate] = -1
                        given[kind, candidate] = 0
                votes[candidate] += vote
                if vote > given[side, candidate]:
                    given[side, candidate] = vote
                    leader[side, candidate] = owner
        # 2. What the user has met, and what is hidden or expired, leaves.
        known = min(seen_count[user], seen.shape[1])
        for index in range(known):
            mine[seen[user, index]] = True
        left = 0
        for candidate in range(count):
            item = found[candidate]
            if blocked[item] or mine[item_keys[item] & np.uint64(0xFFFF)]:
                votes[candidate] = -np.inf
            else:
                left += 1
        # 3. Who has hardly a candidate left gets what is popular, with no vote behind it.
        if left < 2 * size:
            for place in range(len(popular)):
                item = popular[place]
                if blocked[item] or mine[item_keys[item] & np.uint64(0xFFFF)]:
                    continue
                if place_of[item] < 0:
                    place_of[item] = count
                    found[count] = item
                    votes[count] = 0
                    for kind in range(2):
                        leader[kind, count] = -1
                        given[kind, count] = 0
                    count += 1
                    left += 1
        for index in range(known):
            mine[seen[user, index]] = False
        # 4. Exact scores, and the best N with what speaks for each.
        if exact:
            for candidate in range(count):
                if votes[candidate] > -np.inf:
                    item = found[candidate]
                    votes[candidate] += _dot(taste[user], item_vectors[item]) + item_bias[item]
        kept = top(votes[:count], size, order, best)
        for place in range(size):
            if place < kept and best[place] > -np.inf:
                candidate = order[place]
                items[user, place] = found[candidate]
                scores[user, place] = best[place]
                for kind in range(2):
                    strongest[user, place, kind] = leader[kind, candidate]
                    part[user, place, kind] = given[kind, candidate]
            else:
                items[user, place] = -1
                scores[user, place] = 0
                for kind in range(2):
                    strongest[user, place, kind] = -1
                    part[user, place, kind] = 0
        ranked[user] = left
        for candidate in range(count):
            place_of[found[candidate]] = -1
