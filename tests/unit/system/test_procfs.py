"""The processes of a made-up host, and what they have open."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from passthrough.host import vfio_users
from passthrough.system import procfs


@pytest.fixture
def start(tmp_path: Path) -> Callable[..., Path]:
    """Start a process that has files open; gives its directory below /proc."""

    def do(process: int, program: str, *targets: str) -> Path:
        directory = tmp_path / f"proc/{process}"
        (directory / "fd").mkdir(parents=True)
        os.symlink(program, directory / "exe")
        for number, target in enumerate(targets):
            os.symlink(target, directory / f"fd/{number}")
        return directory

    return do


def test_devices_and_guests_are_kept_and_files_are_not(tmp_path: Path, start):
    start(7, "/usr/bin/qemu-system-x86_64", "/dev/vfio/17", "anon_inode:kvm-vm", "/var/log/x")
    start(12, "/usr/bin/dpdk", "/dev/vfio/17", "socket:[4711]")
    assert procfs.Processes(tmp_path).devices == {
        "/dev/vfio/17": (7, 12),
        "anon_inode:kvm-vm": (7,),
    }


def test_one_pass_answers_every_question(tmp_path: Path, start, monkeypatch: pytest.MonkeyPatch):
    start(7, "/usr/bin/qemu-system-x86_64", "/dev/vfio/17")
    listed: list[str] = []
    real = os.listdir

    def spy(directory: str) -> list[str]:
        listed.append(directory)
        return real(directory)

    monkeypatch.setattr(os, "listdir", spy)
    processes = procfs.Processes(tmp_path)
    assert listed == [], "nobody has asked yet"
    for _ in range(3):
        assert processes.devices
        assert processes.programs == {7: "qemu-system-x86_64"}
    assert listed == [f"{tmp_path}/proc", f"{tmp_path}/proc/7/fd"]


def test_a_file_that_is_closed_meanwhile_is_passed_over(
    tmp_path: Path, start, monkeypatch: pytest.MonkeyPatch
):
    start(7, "/usr/bin/x", "/dev/vfio/17", "/dev/vfio/18")
    real = os.readlink

    def close(path: str) -> str:
        if str(path).endswith("/fd/0"):
            raise FileNotFoundError(2, "No such file or directory", path)
        return real(path)

    monkeypatch.setattr(os, "readlink", close)
    assert procfs.Processes(tmp_path).devices == {"/dev/vfio/18": (7,)}


def test_files_that_are_no_text_are_passed_over(tmp_path: Path):
    place = tmp_path / "run/libvirt/qemu"
    place.mkdir(parents=True)
    (place / "a.pid").write_text("4711\n")
    (place / "b.pid").write_bytes(b"\xff\xfe")
    assert list(procfs.Processes(tmp_path).texts("run/libvirt/qemu/*.pid")) == [("a.pid", "4711\n")]


def test_a_host_without_processes_has_no_answer():
    processes = procfs.Processes.none()
    assert (processes.numbers, processes.devices, processes.programs) == ((), {}, {})
    assert processes.arguments(1) == ()
    assert list(processes.texts("run/*")) == []
    assert vfio_users.Users.none().of(["0000:83:00.0"]) == {}
