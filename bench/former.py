"""The charm as it was at another revision, to show what a change has done to its speed."""

from __future__ import annotations

import contextlib
import pathlib
import subprocess
import tempfile
import zipfile
from collections.abc import Iterable, Iterator

from bench import pairs

PROGRAM = "bin/pci-passthrough"
# What of a packed charm is the project's own.
CODE = ("bin", "src", "lib", "templates", "actions.yaml", "config.yaml", "metadata.yaml")


def unpack(
    checkout: pathlib.Path, revision: str, place: pathlib.Path, names: Iterable[str] = ()
) -> None:
    """Lay files of a revision out in a directory that is there.

    Args:
        checkout: the repository's work tree.
        revision: what git knows it by.
        place: the directory.
        names: the files and directories to lay out; all of them by default.

    Raises:
        BenchError: git has no such revision, in git's words.
    """
    packed = subprocess.run(
        ["git", "-C", str(checkout), "archive", revision, "--", *names],
        capture_output=True,
        check=False,
    )
    if packed.returncode:
        raise pairs.BenchError(packed.stderr.decode().strip())
    subprocess.run(["tar", "--extract", "--directory", place], input=packed.stdout, check=True)


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
    with tempfile.TemporaryDirectory(prefix="bench-") as place:
        _lay_out(checkout, revision, pathlib.Path(place), ("bin", "src"))
        yield pathlib.Path(place, PROGRAM)


def pack(checkout: pathlib.Path, revision: str, charm: pathlib.Path, target: pathlib.Path) -> None:
    """Pack the charm of a revision with the packages of a packed one: the code alone differs.

    Args:
        checkout: the repository's work tree.
        revision: what git knows it by.
        charm: the packed charm whose packages it gets.
        target: the file to write.

    Raises:
        BenchError: git has no such revision.
    """
    with (
        tempfile.TemporaryDirectory(prefix="bench-") as place,
        zipfile.ZipFile(charm) as packed,
        zipfile.ZipFile(target, "w") as made,
    ):
        for each in packed.infolist():
            if each.filename.partition("/")[0] not in CODE:
                made.writestr(each, packed.read(each))
        root = pathlib.Path(place)
        _lay_out(checkout, revision, root, CODE)
        for path in sorted(each for each in root.rglob("*") if each.is_file()):
            made.write(path, path.relative_to(root))


def _lay_out(
    checkout: pathlib.Path, revision: str, place: pathlib.Path, names: Iterable[str]
) -> None:
    """As `unpack`, for whoever named the revision with --against."""
    try:
        unpack(checkout, revision, place, names)
    except pairs.BenchError as error:
        raise pairs.BenchError(f"--against {revision}: {error}") from error
