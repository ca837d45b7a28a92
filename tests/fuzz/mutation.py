"""Changes seeds into inputs that nobody meant, the same ones on every run."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

CORPUS = Path(__file__).parent / "corpus"

# What shells, GRUB, modprobe, udev, YAML, JSON, INI and terminals give a meaning to.
HOSTILE = (
    '"', "'", "`", "$(reboot)", "${IFS}", "$GRUB_CMDLINE_LINUX", ";", "&", "|", "\\", "\n", "\r",
    "\0", "\t", "\x0b", "\x1b[2J", "\x85", "\u00a0", "\u2028", "\u202e", "\ud800", "\U0001f4a9",
    "#", "%{", "%c", "*", "?", "[", "]", "[!a]", "{", "}", "<", ">", "!", "~", "=", "==", ",", ",,",
    ":", "::", "@", "@@", "/", "../", "..", "-", "--", "+=", " ", "  ", "\n- ", "- ", "&a ", "*a",
    "!!python/object/apply:os.system ", "!!int ", "? ", "|\n", ">\n", "---\n", "%YAML 1.1\n",
    "\ninit=/bin/sh", " root=/dev/sda", "\nGRUB_DEFAULT=1", "\n[DEFAULT]\n", "\nblacklist ahci\n",
    '", RUN+="/bin/sh', "null", "None", "true", "0", "-1", "1e9", "0x", "NaN", "9" * 40, "a" * 300,
    "\u0661\u0660de", "\uff11", "\u0130", "\ufb01",
)  # fmt: skip


def seeds(name: str) -> list[Any]:
    """The corpus of that name."""
    return json.loads((CORPUS / f"{name}.json").read_text(encoding="utf-8"))


def variants(name: str, texts: Sequence[str], count: int) -> Iterator[str]:
    """So many texts: every seed as it is, then seeds with one to five changes."""
    chance = random.Random(name)  # noqa: S311 - the same inputs on every run, not secrets
    yield from texts[:count]
    for _ in range(count - len(texts[:count])):
        text = chance.choice(texts)
        for _ in range(chance.randint(1, 5)):
            text = _change(chance, text, texts)
        yield text


def _change(chance: random.Random, text: str, texts: Sequence[str]) -> str:
    at, to = sorted((chance.randint(0, len(text)), chance.randint(0, len(text))))
    match chance.randrange(8):
        case 0:
            return text[:at] + chance.choice(HOSTILE) + text[at:]
        case 1:
            return text[:at] + chance.choice(HOSTILE) + text[at + 1 :]
        case 2:
            return text[:at] + text[to:]
        case 3:
            return text[:to] + text[at:]
        case 4:
            return text[:at] + chance.choice(texts)[at:]
        case 5:
            return text[:at] + text[at:to].swapcase() + text[to:]
        case 6:
            return text[:at] + chr(chance.randrange(0x250)) + text[at + 1 :]
        case _:
            return chance.choice((" ", "\n", ",")).join((text, chance.choice(texts)))
