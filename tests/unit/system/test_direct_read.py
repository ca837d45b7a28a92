"""Reading past the cache."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from passthrough.system import direct_read


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    path = tmp_path / "disk"
    path.write_bytes(b"a" * 4096 + b"b" * 4096)
    return path


def test_gives_the_part_that_is_asked_for(disk: Path):
    assert direct_read.read(disk, 4096, 4096) == b"b" * 4096


def test_where_there_is_no_direct_way_it_reads_all_the_same(
    disk: Path, monkeypatch: pytest.MonkeyPatch
):
    real = os.open

    def refuse(path: Path, flags: int) -> int:
        if flags & os.O_DIRECT:
            raise OSError(errno.EINVAL, "Invalid argument")
        return real(path, flags)

    monkeypatch.setattr(os, "open", refuse)
    assert direct_read.read(disk, 0, 4096) == b"a" * 4096


def test_less_than_asked_for_is_an_error(disk: Path):
    with pytest.raises(OSError, match="it gives less than it has"):
        direct_read.read(disk, 4096, 8192)


def test_so_is_a_disk_that_is_not_there(tmp_path: Path):
    with pytest.raises(FileNotFoundError):
        direct_read.read(tmp_path / "none", 0, 512)
