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
        text = f'"{value[:limit].encode("unicode_escape").decode()}"'
        cut = len(value) > limit
    else:
        text = _shortener.repr(value).encode("ascii", "backslashreplace").decode()
        cut = False
    return text[: limit - 4] + '..."' if cut or len(text) > limit else text


def plain(name: str) -> str:
    """A name for a message: as it is where it is harmless, quoted where it is not."""
    return name if _PLAIN.fullmatch(name) else show(name)
