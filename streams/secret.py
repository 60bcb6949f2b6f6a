"""A password or a token in memory: handed to the code that needs it, and shown to nobody else.

Knows how a secret is read from a file. Knows nothing of which secrets there are.
"""

from __future__ import annotations

import hmac
from pathlib import Path
from typing import Never

from efficientrec.errors import SettingInvalid

MASK = "***"
BYTES_MAX = 16_384


class Revealed(str):
    """The text, as those who need it take it. Tools that note the variables of a traceback do so by their repr."""

    __slots__ = ()

    def __repr__(self) -> str:
        return MASK


class Secret:
    """Text whose every rendering is a mask; `reveal` is the one way to it, and easy to search for.

    >>> f"{Secret('swordfish')} {[Secret('swordfish')]}"
    '*** [***]'
    """

    __slots__ = ("_text",)

    def __init__(self, text: str = "") -> None:
        self._text = text

    def reveal(self) -> str:
        """The text itself; "" where the setting was not given."""
        return Revealed(self._text)

    def __bool__(self) -> bool:
        return bool(self._text)

    def __repr__(self) -> str:
        return MASK if self else "''"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and hmac.compare_digest(self._text.encode(), other._text.encode())

    def __hash__(self) -> int:
        return hash(self._text)

    def __reduce__(self) -> Never:
        raise TypeError("a secret is not written anywhere: hand the name of its file to the other process")


def checked(text: object, where: str) -> Secret:
    """The secret that was given under the name `where`; SettingInvalid, which does not show it, if it cannot be one."""
    if not isinstance(text, str) or not text or not text.isprintable():
        raise SettingInvalid(f"{where} cannot be used (it is not shown here); expected one line of printable text")
    return Secret(text)


def read(path: Path, where: str) -> Secret:
    """The secret that a file holds, but for a line's end after it."""
    try:
        with path.open("rb") as file:
            found = file.read(BYTES_MAX + 1)
    except OSError as error:
        raise SettingInvalid(f"{where} is {str(path)!r}; expected a readable file ({error.strerror})") from error
    if len(found) > BYTES_MAX:
        raise SettingInvalid(f"{where} is {str(path)!r}; expected a file of at most {BYTES_MAX} bytes")
    try:
        text = found.decode()
    except UnicodeDecodeError:
        # Not `from error`, which holds the bytes.
        raise SettingInvalid(f"{where} is {str(path)!r}; expected a file with text in UTF-8") from None
    return checked(text.removesuffix("\n").removesuffix("\r"), f"what the file {str(path)!r} of {where} holds")
