"""How many requests a core answers: lists, lists that the client has already, events one by one and many at once.

One server process on a broker that has a list of each user; one client process with a few connections, which it keeps.
What counts is the server's own processor time, since the client takes more of it than the server.
"""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import aiohttp
import msgspec

from streams.records import ClusterWeight, Interaction, RankedItem, Reason, RecommendationList, encode
from tests.bench import machine
from tests.bench.spread import spread
from tests.integration.harness import World
from tests.integration.test_server import Server
from tests.test_server_store import a_list
from tests.toy import DAY, START

CONNECTIONS = 16
MANY = 100
CASES = ("a list", "a list that has not changed", "an event", f"{MANY} events")


def measure(broker: str, users: int, requests: int, rounds: int) -> dict[str, Any]:
    """requests: of each case and round."""
    with tempfile.TemporaryDirectory() as name, machine.running_broker(broker, Path(name) / "broker") as (address, _):
        world = World(address, Path(name) / "world")
        world.create_topics()
        world.produce(world.topics.lists, [(f"u{number}".encode(), encode(_list(number))) for number in range(users)])
        server = Server(world).start()
        try:
            server.wait_until_ready()
            found = asyncio.run(_asked(server, users, requests, rounds))
            held = machine.footprint(server.pid)
        finally:
            server.close()
    return {
        "broker": broker,
        "users": users,
        "list_bytes": len(encode(_list(0))),
        "per_core_second": {case: spread([each["per_core_second"] for each in found[case]]) for case in CASES},
        "per_second": {case: spread([each["per_second"] for each in found[case]]) for case in CASES},
        "rss": held.rss,
    }


def _list(number: int) -> RecommendationList:
    """Of the size that a trained model gives."""
    reasons = [Reason("cluster", 0.5123, cluster=17), Reason("anchor", 0.4877, item_id="m-1197")]
    items = [RankedItem(f"m-{1000 + rank}", rank, 7.25 - rank / 7, reasons) for rank in range(1, 21)]
    clusters = [ClusterWeight(cluster, 0.9 - cluster / 10) for cluster in range(8)]
    return msgspec.structs.replace(a_list(f"u{number}"), items=items, clusters=clusters)


async def _asked(server: Server, users: int, requests: int, rounds: int) -> dict[str, list[dict[str, float]]]:
    base = f"http://127.0.0.1:{server.settings.server_port}/v1"
    json = {"Content-Type": "application/json"}
    events = [encode(Interaction("like", f"u{number}", "m-1", START + DAY, str(number))) for number in range(MANY)]
    found: dict[str, list[dict[str, float]]] = {case: [] for case in CASES}
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=CONNECTIONS)) as session:

        async def get(number: int, tags: dict[int, str] | None = None) -> None:
            user = number * 7919 % users
            headers = {} if tags is None else {"If-None-Match": tags[user]}
            async with session.get(f"{base}/users/u{user}/list", headers=headers) as reply:
                assert reply.status == (200 if tags is None else 304)
                await reply.read()

        async def post(body: bytes) -> None:
            async with session.post(f"{base}/events", data=body, headers=json) as reply:
                assert reply.status == 202

        tags = {}
        for user in range(users):
            async with session.get(f"{base}/users/u{user}/list") as reply:
                tags[user] = reply.headers["ETag"]
        many = b"[%b]" % b",".join(events)
        acts: dict[str, tuple[int, Callable[[int], Awaitable[None]]]] = {
            CASES[0]: (requests, get),
            CASES[1]: (requests, lambda number: get(number, tags)),
            CASES[2]: (requests // 2, lambda number: post(events[number % MANY])),
            CASES[3]: (requests // 20, lambda number: post(many)),
        }
        for _ in range(rounds):
            for case, (times, act) in acts.items():
                cpu, begun = machine.cpu_seconds(server.pid), time.perf_counter()
                await _together(act, times)
                seconds, cpu = time.perf_counter() - begun, machine.cpu_seconds(server.pid) - cpu
                found[case].append({"per_second": times / seconds, "per_core_second": times / cpu})
    return found


async def _together(act: Callable[[int], Awaitable[None]], times: int) -> None:
    numbers = iter(range(times))

    async def one_after_the_other() -> None:
        for number in numbers:
            await act(number)

    await asyncio.gather(*(one_after_the_other() for _ in range(CONNECTIONS)))
