"""A run's folder in the lab's cache: its own, and what killed runs of the same name left."""

from __future__ import annotations

import pathlib

import pytest
from lab import cache


def test_a_folder_is_gone_after_its_run(tmp_path: pathlib.Path) -> None:
    with cache.scratch(tmp_path, "nova") as folder:
        (folder / "disk").write_text("a guest's")
    assert not folder.exists()


def test_what_a_killed_run_left_goes(tmp_path: pathlib.Path) -> None:
    left = tmp_path / "nova-123-0a1b2c"
    left.mkdir()
    (left / "in-use").touch()
    with cache.scratch(tmp_path, "nova"):
        assert not left.exists()


def test_a_run_beside_it_keeps_its_folder(tmp_path: pathlib.Path) -> None:
    with cache.scratch(tmp_path, "nova") as first, cache.scratch(tmp_path, "nova"):
        assert first.is_dir()


@pytest.mark.parametrize("other", ["nova-vfs", "nova-1", "nova-vfs-12-0a1b2c"])
def test_a_name_that_begins_alike_is_not_touched(tmp_path: pathlib.Path, other: str) -> None:
    """Row `guest` stopped at `nova-vfs.lock`, which the machine 'nova-vfs' had left."""
    with cache.scratch(tmp_path, other):
        pass
    (tmp_path / f"{other}-1-0a1b2c").mkdir()
    with cache.scratch(tmp_path, "nova"):
        assert (tmp_path / f"{other}.lock").is_file()
        assert (tmp_path / f"{other}-1-0a1b2c").is_dir()
