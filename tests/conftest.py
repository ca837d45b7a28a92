"""Fixtures for every tier."""

from __future__ import annotations

import pathlib
import subprocess

import pytest

ROOT = pathlib.Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def packed_charm() -> pathlib.Path:
    """The charm as `make pack` builds it, from the sources as they are now."""
    command = [str(ROOT / "scripts" / "pack")]
    result = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return pathlib.Path(result.stdout.strip())
