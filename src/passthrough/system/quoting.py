"""Show hostile text in messages: printable, short, on one line."""

from __future__ import annotations

import re
import reprlib

_PLAIN = re.compile(r"[A-Za-z0-9/._:@+-]{1,60}")
_shortener = reprlib.Repr()
_shortener.maxlevel = 2


def show(value: object, limit: int = 60) -> str:
    """Quote a value for a message, in at most ``limit`` characters; what is no text by its repr."""
    if isinstance(value, str):
        return f'"{bare(value, limit - 2)}"'
    text = _shortener.repr(value).encode("ascii", "backslashreplace").decode()
    return text[: limit - 4] + '..."' if len(text) > limit else text


def bare(text: str, limit: int = 58) -> str:
    """Escape text for a message as `show` does, without the quotes."""
    # Cut before escaping, too: the text can be a megabyte long.
    shown = text[: limit + 2].encode("unicode_escape").decode()
    return shown[: limit - 3] + "..." if len(text) > limit + 2 or len(shown) > limit else shown


def plain(name: str) -> str:
    """Give a name for a message: a harmless one as it is, any other quoted."""
    return name if _PLAIN.fullmatch(name) else show(name)
