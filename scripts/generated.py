"""Files that are made of something else in the project, and are kept in it."""

from __future__ import annotations

import argparse
import pathlib
from collections.abc import Callable, Mapping

ROOT = pathlib.Path(__file__).resolve().parent.parent


def find_outdated(texts: Mapping[pathlib.Path, str]) -> list[pathlib.Path]:
    """Return the files that are not as they would be written, or not there.

    Args:
        texts: every file's text by its path.
    """
    return [
        path
        for path, text in texts.items()
        if not path.exists() or path.read_text(encoding="utf-8") != text
    ]


def main(description: str | None, render: Callable[[], Mapping[pathlib.Path, str]]) -> int:
    """Write the files, or check them, as the command line asks.

    Args:
        description: the program's docstring, whose first line its help shows.
        render: gives every file's text by its path.

    Returns:
        The exit code: 1 where a file was found to be out of date.
    """
    parser = argparse.ArgumentParser(description=(description or "").partition("\n")[0])
    parser.add_argument("--check", action="store_true", help="write nothing; fail when outdated")
    is_check = parser.parse_args().check
    texts = render()
    if is_check:
        outdated = find_outdated(texts)
        for path in outdated:
            print(f"error: {path.relative_to(ROOT)} is out of date: make reference")
        return int(bool(outdated))
    for path, text in texts.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        print(path.relative_to(ROOT))
    return 0
