"""The packed charm of a former commit, made once and kept in the project's cache."""

from __future__ import annotations

import os
import pathlib
import platform
import subprocess
import sys
import tempfile

from lab import cache

from bench import former, pairs

FIRST = "52ee0af"


class ReleaseError(Exception):
    """A former charm cannot be made; the message says what to do."""


def pack(checkout: pathlib.Path, commit: str) -> pathlib.Path:
    """Pack a commit's charm by its own `scripts/pack`.

    Args:
        checkout: the repository's work tree.
        commit: a commit, as long as git tells it from others.

    Returns:
        The charm, with packages for this Python.

    Raises:
        ReleaseError: when the clone lacks the commit, or it cannot be packed.
    """
    place = cache.root() / "released"
    python = f"{sys.version_info.major}.{sys.version_info.minor}"
    charm = place / f"{commit}-python{python}-{platform.machine()}.charm"
    with cache.lock(charm.with_suffix(".lock")):
        if not charm.exists():
            with tempfile.TemporaryDirectory(prefix="pack-", dir=place) as work:
                os.replace(_pack(checkout, commit, pathlib.Path(work)), charm)
    return charm


def _pack(checkout: pathlib.Path, commit: str, work: pathlib.Path) -> pathlib.Path:
    try:
        former.unpack(checkout, commit, work)
    except pairs.BenchError as error:
        raise ReleaseError(
            f"this clone has no commit {commit}, whose charm the tests refresh ({error}); get it"
            " with git fetch --unshallow"
        ) from error
    packed = subprocess.run(
        [os.fspath(work / "scripts/pack")], stdout=subprocess.PIPE, text=True, check=False
    )
    if packed.returncode:
        raise ReleaseError(f"scripts/pack of {commit} failed (above)")
    return pathlib.Path(packed.stdout.strip())
