"""Digests that outlive a hook: the next revision of the charm has to find the same ones.

So none is made of a `repr`, which changes with the order and the names of a class's fields. Whoever
asks spells its value out in the words of JSON and names the version of that spelling.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import TypeAlias

# What JSON knows. A dataclass is none of it: its owner says what of it counts.
Plain: TypeAlias = "str | int | bool | Sequence[Plain] | Mapping[str, Plain] | None"


def of(version: int, value: Plain) -> str:
    """Digest a value by its canonical JSON: keys sorted, no blanks, ASCII.

    Args:
        version: of the way the value is spelled out; another one never gives the same digest.
        value: what to digest. A mapping's order does not count, a sequence's does.

    Returns:
        ``VERSION:`` and a SHA-256 in hexadecimal digits.

    Raises:
        TypeError: when something in the value is not JSON's.
    """
    text = json.dumps(value, sort_keys=True, separators=(",", ":"))
    return f"{version}:{hashlib.sha256(text.encode('ascii')).hexdigest()}"
