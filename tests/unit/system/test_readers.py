"""What the readers of /sys and /proc make of errors: what their names say."""

from __future__ import annotations

import errno
import os
import pathlib
import re
from collections.abc import Callable

import pytest

import passthrough
from passthrough.system import procfs, sysfs

SOURCE = pathlib.Path(passthrough.__file__).parent

# Each reader of one path, and what it gives where nothing is.
TOLERANT: dict[Callable[[pathlib.Path], object], object] = {
    sysfs.attribute_if_there: None,
    lambda path: sysfs.value_if_there(os.fspath(path)): None,
    lambda path: sysfs.link_name_if_there(os.fspath(path)): None,
    sysfs.names_if_there: [],
    lambda path: sysfs.paths_if_there(path, "*"): [],
}
STRICT: dict[Callable[[pathlib.Path], object], object] = {
    lambda path: sysfs.link_name_or_raise(os.fspath(path)): None,
    sysfs.links_or_raise: {},
    sysfs.names_or_raise: [],
    sysfs.names_if_directory_or_raise: [],
    lambda path: sysfs.directories_or_raise(os.fspath(path)): [],
    sysfs.is_there_or_raise: False,
    lambda path: sysfs.hides_some_or_raise(os.fspath(path)): False,
    sysfs.lines_or_raise: [],
}
LOOP = "a/link/to/itself"  # not to be looked at by anybody, root included


@pytest.fixture
def tree(tmp_path: pathlib.Path) -> pathlib.Path:
    """A directory with a file, a link into nowhere, and one that leads to itself."""
    (tmp_path / "file").write_text("1\n")
    (tmp_path / "link").symlink_to("../drivers/vfio-pci")
    loop = tmp_path / LOOP
    loop.parent.mkdir(parents=True)
    loop.symlink_to("itself")
    return tmp_path


@pytest.mark.parametrize("reader", [*TOLERANT, *STRICT])
def test_what_is_not_there_is_absent(tree: pathlib.Path, reader):
    expected = {**TOLERANT, **STRICT}[reader]
    assert reader(tree / "nothing") == expected


@pytest.mark.parametrize("reader", TOLERANT)
def test_what_cannot_be_read_is_absent_to_a_tolerant_reader(tree: pathlib.Path, reader):
    assert reader(tree / LOOP / "below") == TOLERANT[reader]


@pytest.mark.parametrize("reader", STRICT)
def test_what_cannot_be_read_is_an_error_to_a_strict_reader(tree: pathlib.Path, reader):
    with pytest.raises(OSError, match="Too many levels of symbolic links"):
        reader(tree / LOOP / "below")


def test_readers_of_directories_differ_over_a_file(tree: pathlib.Path):
    assert sysfs.names_if_there(tree / "file") == []
    assert sysfs.names_if_directory_or_raise(tree / "file") == []
    for reader in (sysfs.names_or_raise, sysfs.links_or_raise):
        with pytest.raises(NotADirectoryError):
            reader(tree / "file")


def test_links_are_read_by_name_and_other_entries_left_out(tree: pathlib.Path):
    assert sysfs.links_or_raise(tree) == {"link": "../drivers/vfio-pci"}
    assert sysfs.link_name_or_raise(f"{tree}/link") == "vfio-pci"
    assert sysfs.link_name_if_there(f"{tree}/link") == "vfio-pci"


@pytest.mark.parametrize("call", ["open", "read"])
def test_a_file_that_answers_an_error_is_taken_as_absent(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, call: str
):
    (tmp_path / "x").write_text("1\n")
    assert sysfs.attribute_if_there(tmp_path / "x") == "1"

    def fail(*_: object, **__: object):
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))

    with monkeypatch.context() as patched:
        patched.setattr(os, call, fail)
        found = sysfs.attribute_if_there(tmp_path / "x")
    assert found is None


def test_a_directory_and_a_file_longer_than_a_chunk(tmp_path: pathlib.Path):
    assert sysfs.attribute_if_there(tmp_path) is None
    (tmp_path / "long").write_text("x" * 200_000)
    assert sysfs.attribute_if_there(tmp_path / "long") == "x" * 200_000


def test_procfs_readers_keep_to_their_names(tmp_path: pathlib.Path):
    assert procfs.text_if_there(tmp_path, "cmdline") == ""
    assert procfs.lines_or_raise(tmp_path, "net/route") == []
    assert procfs.processes_if_there(tmp_path) == ()
    assert procfs.command_line_if_there(tmp_path) == ()
    assert procfs.boot_id_if_there(tmp_path) == ""
    assert procfs.release_if_there(tmp_path) == ""
    assert procfs.started_if_there(tmp_path, 1) is None
    with pytest.raises(FileNotFoundError):
        procfs.mount_namespace_or_raise(tmp_path, "self")
    (tmp_path / "proc").symlink_to("proc")
    assert procfs.text_if_there(tmp_path, "cmdline") == ""
    assert procfs.processes_if_there(tmp_path) == ()
    with pytest.raises(OSError, match="Too many levels of symbolic links"):
        procfs.lines_or_raise(tmp_path, "net/route")


def test_no_other_module_reads_links_or_proc_by_itself():
    """A reader of its own would have a policy of its own, which no name tells."""
    own = re.compile(r"\breadlink\(|[\"']proc/|\}/proc/|\bscandir\(")
    found = [
        f"{path.relative_to(SOURCE)}: {line.strip()}"
        for path in sorted(SOURCE.rglob("*.py"))
        if path.parent.name != "system"
        for line in path.read_text().splitlines()
        if own.search(line)
    ]
    assert found == []
