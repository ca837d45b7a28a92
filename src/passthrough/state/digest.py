"""Digests that outlive a hook: the next revision of the charm has to compute the same ones.

None is made of a `repr`, which changes with the order and the names of a class's fields. The caller
spells its value out in JSON's types, and names the version of that spelling.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import TypeAlias

# JSON's types. A dataclass is none of them: its owner chooses what of it counts.
Plain: TypeAlias = "str | int | bool | Sequence[Plain] | Mapping[str, Plain] | None"


def of(version: int, value: Plain) -> str:
    """Digest a value by its canonical JSON: keys sorted, no blanks, ASCII.

    Args:
        version: of the spelling; two versions never give the same digest.
        value: what to digest. The order of a sequence counts, that of a mapping does not.

    Returns:
        ``VERSION:`` and a SHA-256 in hexadecimal digits.

    Raises:
        TypeError: when something in the value is of no JSON type.
    """
    text = json.dumps(value, sort_keys=True, separators=(",", ":"))
    return f"{version}:{hashlib.sha256(text.encode('ascii')).hexdigest()}"
