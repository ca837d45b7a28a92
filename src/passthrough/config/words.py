"""Options that list words or items. Pure."""

from __future__ import annotations

import re

from passthrough.errors import OptionError
from passthrough.system import quoting

MAX_WORDS = 64


def without_comments(text: str) -> str:
    """Drop what stands behind a ``#``, and a byte-order mark; tabs become blanks."""
    blank = text.removeprefix("\ufeff").replace("\t", " ").replace("\r\n", "\n")
    return re.sub(r"(?m)(^|[ ,])#.*$", r"\1", blank)


def split(option: str, text: str, separators: str, most: int = MAX_WORDS) -> list[str]:
    """Split an option's text into words.

    Args:
        option: the option's name.
        text: its value.
        separators: a pattern of what stands between words. Nothing else separates: str.split()
            would also split at characters that a shell keeps.
        most: how many words are accepted.

    Raises:
        OptionError: when there are more words than accepted.
    """
    words = [word for word in re.split(separators, text) if word]
    if len(words) > most:
        raise OptionError(
            option, f"there are {len(words)}, and at most {most} are accepted", "the list"
        )
    return words


def label(number: int, item: object) -> str:
    """Name an item of an option in a message, counted from 1, such as ``item 2 "nouveau"``."""
    return f"item {number} {quoting.show(item)}"
