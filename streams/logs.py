"""What is logged, and how often: our own words always, a library's once in a while.

While a broker is away aiokafka tells of every attempt of every client to reach it, a megabyte a minute.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

LIBRARIES = ("faust", "mode", "aiokafka", "kafka", "numba")
SECONDS = 30.0
TEXTS_MAX = 1000
REFUSALS = (
    "TopicAuthorizationFailedError",
    "GroupAuthorizationFailedError",
    "ClusterAuthorizationFailedError",
    "TransactionalIdAuthorizationFailed",
)
"""connection.NO_RIGHTS by name: a command that needs no broker loads none of its clients."""


def configure(level: str) -> None:
    """Logs to standard error from this level on, and what libraries say only where it is a warning."""
    logging.basicConfig(level=level, format="%(asctime)s %(levelname)-8s %(name)s  %(message)s")
    for handler in logging.getLogger().handlers:
        handler.addFilter(without_trace)
    if level == "DEBUG":
        return
    for name in (*LIBRARIES, "streams.recovery"):  # they tell of every step; in recovery.py it is Faust who speaks
        logging.getLogger(name).setLevel(logging.WARNING)
    for handler in logging.getLogger().handlers:
        handler.addFilter(Seldom())


def without_trace(record: logging.LogRecord) -> bool:
    """What a broker does not allow is no bug: where in the program it was refused says nothing. One line remains here,
    and at the end the rights that are lacking (rights.py)."""
    if record.exc_info and type(record.exc_info[1]).__name__ in REFUSALS:
        record.exc_info = None
    return True


class Seldom(logging.Filter):
    """Lets a library say the same thing, whatever it fills in, once in `seconds`, with how often it was said."""

    def __init__(self, seconds: float = SECONDS, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._seconds = seconds
        self._clock = clock
        self._said: dict[tuple[str, str], tuple[float, int]] = {}
        """(logger, text before anything is filled in) → when it was let through, and how often it was not since."""

    def filter(self, record: logging.LogRecord) -> bool:
        if record.name.partition(".")[0] not in LIBRARIES:
            return True
        key, now = (record.name, str(record.msg)), self._clock()
        at, kept_back = self._said.get(key, (now - self._seconds, 0))
        if now - at < self._seconds:
            self._said[key] = (at, kept_back + 1)
            return False
        if len(self._said) >= TEXTS_MAX:  # some texts are filled in before they get here
            self._said.clear()
        self._said[key] = (now, 0)
        if kept_back:
            record.msg = f"{record.msg} (and {kept_back} times since)"
        return True
