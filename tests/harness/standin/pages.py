"""The lines of pages that a reader pastes: those of console blocks that begin with ``juju``."""

from __future__ import annotations

import pathlib
import re
from collections.abc import Iterator

_BLOCK = re.compile(r"(?ms)^```console\n(.*?)^```")
_FILE = re.compile(r"(?ms)^```yaml\n# (\S+\.yaml)\n(.*?)^```")


def all_of(root: pathlib.Path) -> list[pathlib.Path]:
    """README.md and the pages of docs/, in the order of their paths."""
    pages = [root / "README.md", *(root / "docs").rglob("*.md")]
    return sorted(pages, key=lambda path: path.relative_to(root).as_posix())


def lines_of(page: pathlib.Path) -> Iterator[str]:
    """The lines of a page's console blocks that run juju, as a shell joins them."""
    for block in _BLOCK.findall(page.read_text(encoding="utf-8")):
        for line in block.replace("\\\n", " ").splitlines():
            command = line.removeprefix("$ ").split(" | ")[0].split("  #")[0].strip()
            if command.startswith("juju "):
                yield command


def files_of(page: pathlib.Path) -> Iterator[tuple[str, str]]:
    """The YAML files that a page shows, by the name in their first line."""
    yield from _FILE.findall(page.read_text(encoding="utf-8"))


def without_blocks(page: pathlib.Path) -> str:
    """A page's text but for its console blocks."""
    return _BLOCK.sub("", page.read_text(encoding="utf-8"))
