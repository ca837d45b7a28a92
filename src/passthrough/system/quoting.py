"""Hostile text in messages: printable, short, on one line."""

from __future__ import annotations

import re
import reprlib

_PLAIN = re.compile(r"[A-Za-z0-9/._:@+-]{1,60}")
_shortener = reprlib.Repr()
_shortener.maxlevel = 2


def show(value: object, limit: int = 60) -> str:
    """Quote hostile text for a message: printable, on one line, at most ``limit`` long."""
    if isinstance(value, str):
        return f'"{bare(value, limit - 2)}"'
    text = _shortener.repr(value).encode("ascii", "backslashreplace").decode()
    return text[: limit - 4] + '..."' if len(text) > limit else text


def bare(text: str, limit: int = 58) -> str:
    """Hostile text for a message, as `show` gives it, without the quotes."""
    # Cut before it is escaped, too: a megabyte of it is not worth the time.
    shown = text[: limit + 2].encode("unicode_escape").decode()
    return shown[: limit - 3] + "..." if len(text) > limit + 2 or len(shown) > limit else shown


def plain(name: str) -> str:
    """A name for a message: as it is where it is harmless, quoted where it is not."""
    return name if _PLAIN.fullmatch(name) else show(name)
