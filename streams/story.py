"""How the demo ends: one user's story, and how to go on by hand."""

from __future__ import annotations

import json
import shlex
import sys
import time
from pathlib import Path

from rich.console import Console, Group, RenderableType
from rich.panel import Panel
from rich.text import Text

from efficientrec.datasets import Dataset, weight_rules
from efficientrec.interactions import LIKED
from streams.settings import Settings
from streams.show import last_list, render
from streams.topics import Topics
from streams.watch import Watch

LIKES_TOLD = 20  # a taste that can be told in a few lines, and yet is one


async def tell_story(dataset: Dataset, settings: Settings, watch: Watch, console: Console) -> str | None:
    """Shows what one user liked, what he got, and why; returns the user, None when no list of a model went out."""
    user = _hero(dataset, watch)
    if user is not None:
        shown = await last_list(settings, user)
        console.print(Panel(Group(_liked(dataset, user), Text(), render(shown)), title="One user", expand=False))
    return user


def invite(settings: Settings, watch: Watch, user: str | None, console: Console) -> None:
    """Says how to look at a list, send an event, and look again, in lines that can be copied."""
    user = user or next(iter(watch.lists), "1")
    listed = watch.lists[user].items if user in watch.lists else []
    item = listed[0].item_id if listed else "1"
    server = settings.bootstrap_servers[0]
    event = {"event_type": "like", "user_id": user, "item_id": item, "event_time": int(time.time())}
    command = _command()
    for line in (
        "[bold]Your turn.[/] Everything stays up until Ctrl-C. In another terminal, in this folder:",
        "",
        f"  export EFFICIENTREC_BROKER=kafka://{server} EFFICIENTREC_PARTITIONS={settings.partitions}",
        f"  {command} recommend {shlex.quote(user)}",
        f"  {command} send like {shlex.quote(user)} {shlex.quote(item)}",
        f"  {command} recommend {shlex.quote(user)}",
        "",
        "The same event from any Kafka client, here kcat:",
        "",
        f"  echo {shlex.quote(f'{user}|{json.dumps(event)}')} | kcat -b {server} "
        f"-t {Topics.of(settings).interactions} -K '|' -X topic.partitioner=murmur2_random",
    ):
        console.print(line, soft_wrap=True, highlight=False)


def _command() -> str:
    """How this program is called from where it was called."""
    called = Path(sys.argv[0])
    if called.name != "efficientrec":
        return f"{sys.executable} -m streams"
    here = Path.cwd()
    return str(called.relative_to(here) if called.is_relative_to(here) else called)


def _hero(dataset: Dataset, watch: Watch) -> str | None:
    """A user with a list of a model whose taste can be told in a few lines."""
    likes: dict[str, int] = {}
    for user, is_liked in zip(dataset.user.tolist(), _is_liked(dataset), strict=True):
        if is_liked:
            likes[dataset.users[user]] = likes.get(dataset.users[user], 0) + 1
    personal = [user for user, published in watch.lists.items() if published.model_version]
    return min(personal, key=lambda user: (abs(likes.get(user, 0) - LIKES_TOLD), user), default=None)


def _is_liked(dataset: Dataset) -> list[bool]:
    rule = weight_rules(dataset)["rating"]
    return [value != value or (value - rule.neutral) / rule.span >= LIKED for value in dataset.value.tolist()]


def _liked(dataset: Dataset, user: str) -> RenderableType:
    place = dataset.users.index(user)
    liked = [
        dataset.items[item]
        for whose, item, is_liked in zip(dataset.user.tolist(), dataset.item.tolist(), _is_liked(dataset), strict=True)
        if whose == place and is_liked
    ]
    titles = [dataset.catalogue[item].title if item in dataset.catalogue else item for item in liked[-10:]]
    return Text(f"User {user} liked, among {len(liked)}, lately: " + "; ".join(reversed(titles)))
