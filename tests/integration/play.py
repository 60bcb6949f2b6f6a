"""What users do in these tests, and what must be found afterwards."""

from __future__ import annotations

import numpy as np

from streams.records import Interaction
from tests.integration.harness import World
from tests.toy import DAY, ITEMS, START


def like(user: str, item: str, at: int = START, event_id: str | None = None) -> Interaction:
    return Interaction("like", user, item, at, event_id)


def chance(seed: int, events: int, users: int) -> list[Interaction]:
    """Interactions of many users, some late, one in ten sent again under the same event id."""
    rng = np.random.default_rng(seed)
    kinds = ("view", "like", "dislike", "rating", "purchase")
    items = [*ITEMS, "unknown-1", "unknown-2"]
    made: list[Interaction] = []
    for number in range(events):
        if made and rng.random() < 0.1:
            made.append(made[-1 - int(rng.integers(min(5, len(made))))])
            continue
        kind = kinds[rng.integers(len(kinds))]
        made.append(
            Interaction(
                event_type=kind,
                user_id=f"user-{rng.integers(users)}",
                item_id=items[rng.integers(len(items))],
                event_time=START + int(rng.integers(30 * DAY)),
                event_id=f"event-{seed}-{number}" if rng.random() < 0.8 else None,
                value=float(rng.integers(1, 6)) if kind == "rating" else None,
            )
        )
    return made


def expect_exact_rows(world: World, rows: dict[bytes, bytes], whose: str = "") -> None:
    """The rows, of users whose ids begin with `whose`, are what the plain program makes of the log."""
    rows = {key: row for key, row in rows.items() if key.startswith(whose.encode())}
    expected = world.recomputed(rows, whose)
    assert rows.keys() == expected.keys()
    different = [key for key in rows if rows[key] != expected[key]]
    assert not different, f"{len(different)} of {len(rows)} rows differ, such as that of {different[0]!r}"


def expect_last_lists(world: World) -> None:
    """Every user's list is that of his last event, and no list was older than the one before it."""
    newest: dict[str, int] = {}
    for each in world.lists():
        assert each.trigger.offset >= newest.get(each.user_id, -1), f"a list of {each.user_id} went backwards"
        newest[each.user_id] = each.trigger.offset
    assert newest == {user: events[-1].offset for user, events in world.accepted().items()}
