"""What a look reads: how often, not how long, so that a busy machine changes nothing."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from typing import Any

import pytest

_READERS = ("listdir", "open", "readlink", "stat")


@contextlib.contextmanager
def noted() -> Iterator[list[str]]:
    """Note each path that is opened, listed, followed or asked for, as often as it is."""
    seen: list[str] = []
    follow = os.readlink

    def noting(genuine: Callable[..., Any]) -> Callable[..., Any]:
        def read(path: Any = ".", *values: Any, **named: Any) -> Any:
            if not isinstance(path, int):
                begin = named.get("dir_fd")
                place = follow(f"/proc/self/fd/{begin}") if begin is not None else ""
                seen.append(os.path.join(place, os.fsdecode(path)))
            return genuine(path, *values, **named)

        return read

    with pytest.MonkeyPatch.context() as patch:
        for name in _READERS:
            patch.setattr(os, name, noting(getattr(os, name)))
        yield seen
