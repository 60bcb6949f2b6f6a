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
    kept: NDArray[np.void],
    outcome: NDArray[np.uint8],
    changed: NDArray[np.bool_],
) -> int:
    """What a run does to everything in a row but the encoder's state.

    Each user's events in offset order, times in [0, AT_MAX]; kept (users,), records of profile.KEPT, are changed in
    place. repeat_ids, repeat_seconds, events_per_second: as in interactions.Admission.

    outcome (events,): 0 counted, 1 folded before (its offset is not above the row's), 2 the producer sent it twice,
    3 one too many of its user's in that second. changed (users,): whether the row's offset moved on.

    Returns -1, or the place of an event that would spoil a row: of no user, without a weight, since one NaN would stay,
    or at an offset that falls, since it would be lost. The rows are then of no use.
    """
    last = np.full(len(kept), -(2**63), np.int64)
    changed[:] = False
    for index in range(len(user)):
        if not (0 <= user[index] < len(kept) and abs(weight[index]) <= 1 and offset[index] > last[user[index]]):
            return index
        last[user[index]] = offset[index]
        row = kept[user[index]]
        if offset[index] <= row.offset:
            outcome[index] = 1
            continue
        row.offset = offset[index]
        changed[user[index]] = True
        arrival = min(max(arrived[index] // 1000, 0), 2**32 - 1)
        noted = max(arrival, 1)  # 0 would mean unknown
        if event[index] != 0 and _contains(row.recent, row.recent_count, event[index]):  # quick, and seldom true
            known = np.int64(row.recent_count)
            if _is_repeat(row.recent, row.recent_at, known, event[index], noted, repeat_ids, repeat_seconds):
                outcome[index] = 2
                continue
        if events_per_second > 0:
            if arrival > row.second:
                row.second = arrival
                row.in_second = 0
            if row.in_second >= events_per_second:
                outcome[index] = 3
                continue
            row.in_second += 1
        if event[index] != 0:
            slot = row.recent_count % len(row.recent)
            row.recent[slot] = event[index]
            row.recent_at[slot] = noted
            row.recent_count += 1
        outcome[index] = 0
        if row.events == 0:
            row.begun = offset[index]
        slot = row.events % len(row.ring_item)
        row.ring_item[slot] = item[index]
        row.ring_weight[slot] = weight[index]
        row.ring_at[slot] = np.uint32(at[index] // 1000)
        row.events += 1
        if weight[index] > 0:
            row.liked += 1
        elif weight[index] < 0:
            row.disliked += 1
        if excludes[index]:
            fingerprint = np.uint16(item[index] & np.uint64(0xFFFF))
            if not _contains(row.seen, row.seen_count, fingerprint):
                row.seen[row.seen_count % len(row.seen)] = fingerprint
                row.seen_count += 1
        row.at = max(row.at, at[index])
    return -1


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
def _place_of(key: np.uint64, table: NDArray[np.uint64], place: NDArray[np.int32]) -> int:
    mask = np.uint64(len(table) - 1)
    slot = key & mask
    while table[slot] != 0:
        if table[slot] == key:
            return int(place[slot])
        slot = (slot + np.uint64(1)) & mask
    return -1


@compiled
def lookup(keys: NDArray[np.uint64], table: NDArray[np.uint64], place: NDArray[np.int32]) -> NDArray[np.int32]:
    """Index of each key, -1 where absent.

    table, place: open addressing, a power of two long, key 0 for an empty slot.
    """
    found = np.empty(len(keys), np.int32)
    for index in range(len(keys)):
        found[index] = _place_of(keys[index], table, place)
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
def taste(state: NDArray[np.float32], dislike: np.float32) -> NDArray[np.float32]:
    """(A⁺ - γ A⁻) / √(1 + n⁺ + γ n⁻) of each row of state (users, 2d + 2)."""
    width = state.shape[1] // 2 - 1
    result = np.empty((len(state), width), np.float32)
    for row in range(len(state)):
        length = math.sqrt(np.float32(1.0) + state[row, 2 * width] + dislike * state[row, 2 * width + 1])
        for column in range(width):
            result[row, column] = (state[row, column] - dislike * state[row, width + column]) / length
    return result


@compiled
def vector_inputs(
    state: NDArray[np.float32],
    kept: NDArray[np.void],
    trait_keys: NDArray[np.uint64],
    trait_vectors: NDArray[np.float32],
) -> NDArray[np.float32]:
    """(users, 2d + 2 + t): the means of likes and dislikes, the logarithms of 1 + their weights, and the mean of the
    vectors of the traits that the model knows."""
    width, traits = state.shape[1] // 2 - 1, trait_vectors.shape[1]
    inputs = np.zeros((len(state), 2 * width + 2 + traits), np.float32)
    for row in range(len(state)):
        for side in range(2):
            weight = state[row, 2 * width + side]
            first = side * width
            for column in range(first, first + width):
                inputs[row, column] = state[row, column] / (np.float32(1.0) + weight)
            inputs[row, 2 * width + side] = math.log1p(weight)
        mean = inputs[row, 2 * width + 2 :]
        known = np.float32(0.0)
        for trait in range(kept[row].traits_count):
            key = kept[row].traits[trait]
            place = np.searchsorted(trait_keys, key)
            if place < len(trait_keys) and trait_keys[place] == key:
                known += np.float32(1.0)
                for column in range(traits):
                    mean[column] += trait_vectors[place, column]
        for column in range(traits):
            mean[column] /= max(known, np.float32(1.0))
    return inputs


@compiled
def dense(
    inputs: NDArray[np.float32], weights: NDArray[np.float32], bias: NDArray[np.float32], relu: bool
) -> NDArray[np.float32]:
    """inputs @ weights + bias. Every sum starts at the bias and goes through the terms in order, whether its row is
    computed alone or with others, so that a row's result does not depend on how many rows come with it."""
    rows, width, outputs = inputs.shape[0], inputs.shape[1], weights.shape[1]
    result = np.empty((rows, outputs), np.float32)
    for row in range(rows):
        result[row] = bias
    fours, pairs = rows // 4 * 4, width // 2 * 2
    for row in range(0, fours, 4):  # four rows and two terms at once: half of the time went into loads and stores
        a, b, c, d = result[row], result[row + 1], result[row + 2], result[row + 3]
        for term in range(0, pairs, 2):
            a1, b1, c1, d1 = inputs[row, term], inputs[row + 1, term], inputs[row + 2, term], inputs[row + 3, term]
            after = term + 1
            a2, b2, c2, d2 = inputs[row, after], inputs[row + 1, after], inputs[row + 2, after], inputs[row + 3, after]
            for column in range(outputs):
                first, second = weights[term, column], weights[after, column]
                a[column] = (a[column] + a1 * first) + a2 * second
                b[column] = (b[column] + b1 * first) + b2 * second
                c[column] = (c[column] + c1 * first) + c2 * second
                d[column] = (d[column] + d1 * first) + d2 * second
    for row in range(rows):
        for term in range(pairs if row < fours else 0, width):
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
def strongest(logits: NDArray[np.float32], indices: NDArray[np.int32], memberships: NDArray[np.float32]) -> None:
    """The sigmoids of the greatest logits (users, n), greatest first, and where these stand; indices and memberships
    (users, count), count ≤ n, are filled. The sigmoid keeps the order, so the others need none."""
    for row in range(len(logits)):
        best = memberships[row]
        top(logits[row], indices.shape[1], indices[row], best)
        for place in range(len(best)):
            small = math.exp(-abs(np.float64(best[place])))  # of both forms the one that cannot overflow
            best[place] = (small if best[place] < 0 else 1.0) / (1.0 + small)


@compiled
def greatest(values: NDArray[np.float32], indices: NDArray[np.int32], best: NDArray[np.float32]) -> None:
    """The greatest of each row of values (users, n), greatest first, and where they stand; indices and best (users,
    count), count ≤ n, are filled."""
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
def _overlap(taste: NDArray[np.float32], places: NDArray[np.int32], values: NDArray[np.float32]) -> np.float32:
    """Σ_k min(taste[places[k]], values[k]), a place of -1 ends it (ELFM, eq. 6)."""
    total = np.float32(0.0)
    for index in range(len(places)):
        if places[index] < 0:
            break
        total += min(taste[places[index]], values[index])
    return total


@compiled
def vote_and_rank(
    clusters: NDArray[np.int32],
    memberships: NDArray[np.float32],
    cluster_weight: np.float32,
    anchor_weights: NDArray[np.float32],
    neighbour_weights: NDArray[np.float32],
    nominees: int,
    owner_items: NDArray[np.int32],
    owner_scores: NDArray[np.float32],
    anchor_items: NDArray[np.int32],
    anchor_scores: NDArray[np.float32],
    neighbour_items: NDArray[np.int32],
    neighbour_scores: NDArray[np.float32],
    popular: NDArray[np.int32],
    kept: NDArray[np.void],
    taste: NDArray[np.float32],
    item_places: NDArray[np.int32] | None,
    item_vectors: NDArray[np.float32],
    item_bias: NDArray[np.float32],
    popularity: np.float32,
    newcomer_popularity: np.float32,
    newcomer_events: int,
    item_keys: NDArray[np.uint64],
    table: NDArray[np.uint64],
    place: NDArray[np.int32],
    blocked: NDArray[np.bool_],
    exact: bool,
    place_of: NDArray[np.int32],
    items: NDArray[np.int32],
    scores: NDArray[np.float32],
    strongest: NDArray[np.int32],
    part: NDArray[np.float32],
    ranked: NDArray[np.int32],
) -> None:
    """Votes, exclusions, exact scores and the best N, one user after another; steps as in recommend.py.

    clusters, memberships (users, c). anchor_weights (a,), neighbour_weights (n,): of the votes for what tends to follow
    the newest interaction and for what resembles it, of those of the one before it, … nominees: of what resembles an
    interaction, so many become candidates; the others only add to the votes of those that there are. These votes are
    divided by √(1 + events): many of them come from who did much, and the newest alone can vote for long histories.
    owner_*, anchor_*, neighbour_* (owners, L): shortlists, best first, -1 for none. popular (p,): for who has too few
    candidates. item_places (items, K): which columns of taste the columns of item_vectors are compared with; None where
    they are multiplied, for which numba compiles a kernel of its own.
    item_bias counts popularity times for everybody, and up to newcomer_popularity times more for who has done fewer
    than newcomer_events things. kept (users,): records of profile.KEPT. table, place: as in `lookup`, over item_keys.
    place_of (items,): room to work in, -1 everywhere before and after.
    items, scores (users, N), strongest, part (users, N, 2): filled; strongest cluster and anchor of each item and the
    part each gave. ranked (users,): how many items were left to rank.
    """
    users, size = items.shape
    voters, anchors, neighbours = clusters.shape[1], len(anchor_weights), len(neighbour_weights)
    most = voters * owner_items.shape[1] + anchors * anchor_items.shape[1] + neighbours * neighbour_items.shape[1]
    most += len(popular)
    found = np.empty(most, np.int32)
    votes = np.empty(most, np.float32)
    leader = np.empty((2, most), np.int32)
    given = np.empty((2, most), np.float32)
    mine = np.zeros(1024, np.uint64)  # a bit for each fingerprint
    order = np.empty(size, np.int32)
    best = np.empty(size, np.float32)
    for user in range(users):
        row = kept[user]
        # 1. Votes add up; each candidate remembers its strongest cluster and its strongest anchor.
        count = 0
        anchored, befriended = min(anchors, row.events), min(neighbours, row.events)
        calm = np.float32(1 / math.sqrt(1.0 + row.events))
        for column in range(voters + anchored + 2 * befriended):
            nominating, first = True, 0
            if column < voters:
                side, owner = 0, np.int64(clusters[user, column])
                listed, credit = owner_items[owner], owner_scores[owner]
                share = memberships[user, column] * cluster_weight
            else:
                back = column - voters
                following = back < anchored
                if not following:
                    back -= anchored
                    nominating = back < befriended
                    if not nominating:
                        back -= befriended
                slot = (np.int64(row.events) - 1 - back) % len(row.ring_item)
                side, owner = 1, _place_of(row.ring_item[slot], table, place)
                if owner < 0 or row.ring_weight[slot] < 0:
                    continue
                if following:
                    listed, credit, share = anchor_items[owner], anchor_scores[owner], anchor_weights[back]
                else:
                    listed, credit = neighbour_items[owner], neighbour_scores[owner]
                    share = calm * neighbour_weights[back]
                    if nominating:
                        listed = listed[:nominees]
                    else:
                        first = min(nominees, len(listed))
            for rank in range(first, len(listed)):
                item = listed[rank]
                if item < 0:
                    break
                if not nominating and place_of[item] < 0:
                    continue
                vote = share * credit[rank]
                if item_places is not None and column < voters:
                    vote = cluster_weight * min(memberships[user, column], credit[rank])
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
        known = min(row.seen_count, len(row.seen))
        for index in range(known):
            mine[row.seen[index] >> 6] |= np.uint64(1) << np.uint64(row.seen[index] & 63)
        left = 0
        for candidate in range(count):
            if _is_out(found[candidate], blocked, item_keys, mine):
                votes[candidate] = -np.inf
            else:
                left += 1
        # 3. Who is new, or has hardly a candidate left, gets what is popular, with no vote behind it.
        newness = max(np.float32(0.0), np.float32(1.0) - np.float32(row.events) / np.float32(max(newcomer_events, 1)))
        if left < 2 * size or newcomer_popularity * newness > 0:
            for index in range(len(popular)):
                item = popular[index]
                if place_of[item] < 0 and not _is_out(item, blocked, item_keys, mine):
                    place_of[item] = count
                    found[count] = item
                    votes[count] = 0
                    for kind in range(2):
                        leader[kind, count] = -1
                        given[kind, count] = 0
                    count += 1
                    left += 1
        for index in range(known):
            mine[row.seen[index] >> 6] = 0
        # 4. Exact scores, and the best N with what speaks for each.
        liking = popularity + newcomer_popularity * newness
        for candidate in range(count):
            if votes[candidate] > -np.inf:
                item = found[candidate]
                votes[candidate] += liking * item_bias[item]
                if exact:
                    if item_places is None:
                        votes[candidate] += _dot(taste[user], item_vectors[item])
                    else:
                        votes[candidate] += _overlap(taste[user], item_places[item], item_vectors[item])
        chosen = top(votes[:count], size, order, best)
        for rank in range(size):
            if rank < chosen and best[rank] > -np.inf:
                candidate = order[rank]
                items[user, rank] = found[candidate]
                scores[user, rank] = best[rank]
                for kind in range(2):
                    strongest[user, rank, kind] = leader[kind, candidate]
                    part[user, rank, kind] = given[kind, candidate]
            else:
                items[user, rank] = -1
                scores[user, rank] = 0
                strongest[user, rank] = -1
                part[user, rank] = 0
        ranked[user] = left
        for candidate in range(count):
            place_of[found[candidate]] = -1


@compiled
def _is_out(item: int, blocked: NDArray[np.bool_], item_keys: NDArray[np.uint64], mine: NDArray[np.uint64]) -> bool:
    fingerprint = item_keys[item] & np.uint64(0xFFFF)
    seen = mine[fingerprint >> np.uint64(6)] >> (fingerprint & np.uint64(63))
    return bool(blocked[item] or seen & np.uint64(1))
