"""HTML out of texts that nobody has looked at: what is not markup already is escaped."""

from __future__ import annotations

from html import escape

VOID = frozenset({"meta", "br", "hr"})


class Markup(str):
    """A text that is HTML."""

    __slots__ = ()


def element(name: str, /, *content: str | None, **attributes: str) -> Markup:
    """An element. Attribute names may end or be joined with `_`, which stands for nothing or `-`; None is left out.

    >>> element("td", "a < b", class_="best", data_label="x")
    '<td class="best" data-label="x">a &lt; b</td>'
    """
    given = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{escape(value, quote=True)}"' for key, value in attributes.items()
    )
    if name in VOID:
        return Markup(f"<{name}{given}>")
    return Markup(f"<{name}{given}>{joined(*content)}</{name}>")


def joined(*content: str | None) -> Markup:
    """Texts and markup one after another."""
    return Markup(
        "".join(each if isinstance(each, Markup) else escape(each, quote=False) for each in content if each is not None)
    )
