"""The program as it was at another revision, to show what a change has done to its speed."""

from __future__ import annotations

import contextlib
import pathlib
import subprocess
import tempfile
from collections.abc import Iterator

from bench import pairs

PROGRAM = "bin/pci-passthrough"


@contextlib.contextmanager
def checked_out(checkout: pathlib.Path, revision: str) -> Iterator[pathlib.Path]:
    """Lay the program of a revision out in a directory of its own, for as long as the block runs.

    Args:
        checkout: the repository's work tree.
        revision: what git knows it by.

    Yields:
        The path of its ``pci-passthrough``.

    Raises:
        BenchError: git has no such revision.
    """
    packed = subprocess.run(
        ["git", "-C", str(checkout), "archive", revision, "--", "bin", "src"],
        capture_output=True,
        check=False,
    )
    if packed.returncode:
        raise pairs.BenchError(f"--against {revision}: {packed.stderr.decode().strip()}")
    with tempfile.TemporaryDirectory(prefix="bench-") as place:
        subprocess.run(["tar", "--extract", "--directory", place], input=packed.stdout, check=True)
        yield pathlib.Path(place, PROGRAM)
