"""Who makes images or grub.cfg: told by the command line of a process, and by its /boot."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from passthrough.host import rebuilders
from passthrough.system import procfs

Start = Callable[..., Path]


@pytest.fixture
def start(tmp_path: Path) -> Start:
    """Let a process be there: its id, and its arguments."""
    (tmp_path / "boot").mkdir()

    def make(number: int, *arguments: str) -> Path:
        folder = tmp_path / f"proc/{number}"
        folder.mkdir(parents=True)
        (folder / "cmdline").write_bytes(b"".join(each.encode() + b"\0" for each in arguments))
        return folder

    return make


@pytest.mark.parametrize(
    ("arguments", "program"),
    [
        (("/bin/sh", "/usr/sbin/update-initramfs", "-u"), "update-initramfs"),
        (("/bin/sh", "-e", "/usr/sbin/update-initramfs"), "update-initramfs"),
        (("/bin/sh", "/usr/sbin/mkinitramfs", "-o", "/boot/x.new", "6.8.0"), "mkinitramfs"),
        (("/bin/bash", "--norc", "/usr/bin/dracut", "--force"), "dracut"),
        (("dracut", "--force"), "dracut"),
        (("/bin/sh", "/usr/sbin/grub-mkconfig", "-o", "/boot/grub/grub.cfg"), "grub-mkconfig"),
        (("/usr/sbin/update-grub",), "update-grub"),
        (("busybox", "sh", "/usr/sbin/update-grub2"), "update-grub2"),
    ],
)
def test_is_found(start: Start, tmp_path: Path, arguments: tuple[str, ...], program: str):
    start(1, "/sbin/init")
    start(4711, *arguments)
    assert rebuilders.find(tmp_path) == rebuilders.Rebuilder(4711, program)


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("/bin/sh",),
        ("/bin/sh", "-c", "echo update-grub"),
        ("less", "/usr/sbin/update-initramfs"),
        ("man", "dracut"),
        ("/usr/sbin/update-initramfs.real",),
        ("journalctl", "-t", "dracut"),
    ],
)
def test_nobody_else_is(start: Start, tmp_path: Path, arguments: tuple[str, ...]):
    start(4711, *arguments)
    assert rebuilders.find(tmp_path) is None


def test_one_of_a_container_is_nobodys_concern(start: Start, tmp_path: Path):
    folder = start(4711, "/bin/sh", "/usr/sbin/update-grub")
    inside = tmp_path / "container"
    (inside / "boot").mkdir(parents=True)
    (folder / "root").symlink_to(inside)
    assert rebuilders.find(tmp_path) is None
    (folder / "root").unlink()
    (folder / "root").symlink_to(tmp_path)
    assert rebuilders.find(tmp_path) == rebuilders.Rebuilder(4711, "update-grub")


def test_a_real_script_is_found_by_its_real_command_line(start: Start, tmp_path: Path):
    script = tmp_path / "update-initramfs"
    script.write_text("#!/bin/sh\necho begun\nread wait\n")
    script.chmod(0o755)
    process = subprocess.Popen([script], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdout
    assert process.stdout.readline() == b"begun\n"
    start(process.pid, *procfs.arguments_if_there(Path("/"), process.pid))
    process.communicate()
    assert rebuilders.find(tmp_path) == rebuilders.Rebuilder(process.pid, "update-initramfs")
    assert os.path.basename(script) == "update-initramfs"
