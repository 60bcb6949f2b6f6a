"""Whether a process should be started again, and whether it does its work: /livez and /readyz (exposition.py).

Not alive is only what a restart can cure: an event loop that does not run any more, or work that waits and does not
move although the broker answers. A broker that is away is no such thing: everyone waits for it, goes on when it is
back, and would otherwise be killed again and again, each time to begin with a recovery. Neither is a long recovery,
as long as it gets on. Such a process is alive but not ready.

Asked from the thread of the HTTP server, so that it is answered when the event loop hangs; told from the event loop.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Hashable
from typing import Protocol

BEAT_SECONDS = 1.0
PAUSE_SECONDS = 10.0
"""Two looks that lie further apart than this do not show that nothing moved between them: the process stood still."""

Clock = Callable[[], float]
"""Seconds that only ever grow."""


class Health(Protocol):
    """What /livez and /readyz say: each a reason why not, empty when all is well."""

    def not_alive(self) -> str: ...

    def not_ready(self) -> str: ...


class Pulse:
    """Whether the event loop runs."""

    def __init__(self, stalled_seconds: float, clock: Clock = time.monotonic) -> None:
        self._stalled_seconds = stalled_seconds
        self._clock = clock
        self._beat_at = clock()

    async def run(self) -> None:
        """Beats until it is cancelled."""
        while True:
            self.beat()
            await asyncio.sleep(BEAT_SECONDS)

    def beat(self) -> None:
        """The loop runs now."""
        self._beat_at = self._clock()

    def not_alive(self) -> str:
        silent = self._clock() - self._beat_at
        return "" if silent < self._stalled_seconds else f"the event loop has not run for {silent:.0f} s"


class Standing(Pulse):
    """The health of a process that is alive while its event loop runs, and says itself what it still lacks."""

    missing = "the process is starting"
    """Why it is not ready; empty when it is."""

    def not_ready(self) -> str:
        return self.not_alive() or self.missing


class Watchdog:
    """Whether work that waits gets on."""

    def __init__(self, stalled_seconds: float, clock: Clock = time.monotonic) -> None:
        self._stalled_seconds = stalled_seconds
        self._clock = clock
        self._progress: Hashable = None
        self._seen_at = self._moved_at = self._excused_at = clock()
        self._waiting = ""

    def saw(self, waiting: str, progress: Hashable, *, is_excused: bool) -> None:
        """A look at the work. waiting: what there is to do, empty for nothing. progress: differs whenever anything
        was done. is_excused: nothing can be done, because the broker does not answer."""
        now = self._clock()
        moved = progress != self._progress
        if not waiting or moved or now - self._seen_at > PAUSE_SECONDS:
            self._moved_at = now
        if is_excused:
            self._excused_at = now
        self._progress, self._waiting, self._seen_at = progress, waiting, now

    def stands(self, seconds: float) -> bool:
        """Whether there is work, and none of it has moved for so long, excused or not."""
        return self._seen_at - self._moved_at >= seconds

    def not_alive(self) -> str:
        stood = self._seen_at - max(self._moved_at, self._excused_at)
        if stood < self._stalled_seconds:
            return ""
        return f"{self._waiting}, and nothing has moved for {stood:.0f} s"
