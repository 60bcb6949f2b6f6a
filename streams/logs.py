"""What is logged, in which form, and how often.

One line for each event worth knowing, as text or as JSON: time (RFC 3339, UTC), level, logger, message, pid, and what
the line is about as keys of its own (partition, offset, model_version and the like).

A library may say the same thing once in a while: while a broker is away aiokafka tells of every attempt of every
client, a megabyte a minute. We may say it a few times: a poisoned stream must not fill the disk.

At INFO and above no line of ours holds a user's id or a secret: lines name topic, partition and offset, by which
whoever may read the topic finds the user.
"""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, Final

import msgspec

LIBRARIES: Final = ("faust", "mode", "aiokafka", "kafka", "numba")
SECONDS: Final = 30.0
OURS_MAX: Final = 10
"""How often we may say the same thing within SECONDS; eight partitions may each have a word."""
TEXTS_MAX: Final = 1000
TEXT_FORMAT: Final = "%(asctime)s %(levelname)-8s %(name)s  %(message)s"
STEP: Final = "[^"
"""How Faust's services begin what they say of every step, under the name of whichever module has a kind of them."""
_COMMON: Final = {*logging.LogRecord("", 0, "", 0, "", (), None).__dict__, "message", "asctime", "taskName"}
"""What every record has; all else is a field of its line."""
REFUSALS = (
    "TopicAuthorizationFailedError",
    "GroupAuthorizationFailedError",
    "ClusterAuthorizationFailedError",
    "TransactionalIdAuthorizationFailed",
    "BrokerRefused",
)
"""connection.NO_RIGHTS, and what is said of them, by name: a command that needs no broker loads none of its clients."""


def configure(level: str, form: str = "text") -> None:
    """Logs to standard error from this level on, and what libraries say only where it is a warning."""
    handler = logging.StreamHandler()
    handler.setFormatter(JsonLines() if form == "json" else logging.Formatter(TEXT_FORMAT))
    logging.basicConfig(level=level, handlers=[handler], force=True)
    logging.captureWarnings(True)
    handler.addFilter(without_trace)
    if form == "json":
        sys.excepthook = _logged
    if level == "DEBUG":
        return
    for name in LIBRARIES:  # they tell of every step
        logging.getLogger(name).setLevel(logging.WARNING)
    handler.addFilter(Seldom())


def writes_json() -> bool:
    """Whether standard error is for machines."""
    return any(isinstance(handler.formatter, JsonLines) for handler in logging.getLogger().handlers)


class JsonLines(logging.Formatter):
    """One JSON object a line, whatever the message or the traceback holds."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": _utc(record.created),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
            "pid": record.process,
        }
        line |= {key: value for key, value in record.__dict__.items() if key not in _COMMON and key not in line}
        if record.exc_info:
            line["error"] = self.formatException(record.exc_info)
        return _encoded(line).decode()


def _utc(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _encoded(line: dict[str, Any]) -> bytes:
    try:
        return msgspec.json.encode(line, enc_hook=str)
    except UnicodeEncodeError:  # half a character, out of some producer's bytes
        return msgspec.json.encode({key: str(value).encode(errors="replace").decode() for key, value in line.items()})


def _logged(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """What ends the process is a line like any other."""
    logging.getLogger("streams").critical("ended by %s", kind.__name__, exc_info=(kind, error, trace))


def without_trace(record: logging.LogRecord) -> bool:
    """What a broker does not allow is no bug: where in the program it was refused says nothing. One line remains here,
    and at the end the rights that are lacking (rights.py)."""
    if record.exc_info and type(record.exc_info[1]).__name__ in REFUSALS:
        record.exc_info = None
    return True


class Seldom(logging.Filter):
    """Lets the same thing, whatever it is filled in with, be said a few times in `seconds`, and then how often it was
    not said."""

    def __init__(self, seconds: float = SECONDS, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._seconds = seconds
        self._clock = clock
        self._said: dict[tuple[str, str], tuple[float, int]] = {}
        """(logger, text before anything is filled in) → when it was let through first, how often it was said since."""

    def filter(self, record: logging.LogRecord) -> bool:
        if record.levelno <= logging.INFO and str(record.msg).startswith(STEP):
            return False
        most = 1 if record.name.partition(".")[0] in LIBRARIES else OURS_MAX
        key, now = (record.name, str(record.msg)), self._clock()
        began, times = self._said.get(key, (now, 0))
        kept_back = 0
        if now - began >= self._seconds:
            kept_back, began, times = max(0, times - most), now, 0
        if key not in self._said and len(self._said) >= TEXTS_MAX:  # some texts are filled in before they get here
            self._said.clear()
        self._said[key] = (began, times + 1)
        if times >= most:
            return False
        if kept_back:
            record.msg = f"{record.msg} (and {kept_back} times since)"
        return True
