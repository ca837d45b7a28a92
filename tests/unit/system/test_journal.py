"""The journal's socket, on a made-up host."""

from __future__ import annotations

import os
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from passthrough.system import journal


@pytest.fixture
def root() -> Iterator[Path]:
    # The address of a socket has at most 107 bytes, and a test's own directory can have more.
    with tempfile.TemporaryDirectory(dir="/tmp") as place:
        (Path(place) / "dev").mkdir()
        yield Path(place)


def test_who_listens_gets_the_line(root: Path):
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(os.fspath(root / "dev/log"))
        assert journal.say(root, "pci-passthrough", "0000:83:00.0: given back \udc80") is True
        said = listener.recv(1000).decode()
    assert said == f"<29>pci-passthrough[{os.getpid()}]: 0000:83:00.0: given back ?"


def test_where_nobody_listens_nothing_fails(root: Path):
    assert journal.say(root, "pci-passthrough", "gone") is False
    (root / "dev/log").write_text("")
    assert journal.say(root, "pci-passthrough", "gone") is False


def test_a_path_that_no_socket_can_have_fails_nothing(tmp_path: Path):
    assert journal.say(tmp_path / ("x" * 200), "pci-passthrough", "gone") is False
