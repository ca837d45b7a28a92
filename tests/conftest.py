"""Fixtures for every tier."""

from __future__ import annotations

import pathlib
import subprocess

import pytest
from harness import released

ROOT = pathlib.Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def packed_charm() -> pathlib.Path:
    """The charm as `make pack` builds it, from the sources as they are now."""
    command = [str(ROOT / "scripts" / "pack")]
    result = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return pathlib.Path(result.stdout.strip())


@pytest.fixture(scope="session")
def first_release() -> pathlib.Path:
    """The charm of 52ee0af, which hosts have that are refreshed."""
    return released.pack(ROOT, released.FIRST)
