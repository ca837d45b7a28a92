"""Files we own: only changed when they differ, old or new at any moment, never half of one."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import pathlib
import socket
import stat
from collections.abc import Callable
from unittest import mock

import pytest

from passthrough.system import files
from passthrough.system.files import Present


@pytest.fixture
def path(tmp_path: pathlib.Path) -> pathlib.Path:
    return tmp_path / "etc" / "x.d" / "owned.conf"


def identity(path: pathlib.Path) -> tuple[int, int, int]:
    found = path.stat()
    return found.st_ino, found.st_mtime_ns, found.st_ctime_ns


class TestRead:
    def test_gives_text_and_mode(self, path: pathlib.Path):
        path.parent.mkdir(parents=True)
        path.write_bytes(b"a\r\nb\xff\n")
        path.chmod(0o640)
        assert files.read(path) == Present("a\r\nb\udcff\n", 0o640)

    def test_gives_none_where_there_is_none(self, path: pathlib.Path):
        assert files.read(path) is None
        path.parent.mkdir(parents=True)
        assert files.read(path) is None
        path.touch()
        assert files.read(path / "below-a-file") is None

    def test_takes_nothing_unreadable_for_absent(self, path: pathlib.Path):
        path.mkdir(parents=True)
        with pytest.raises(IsADirectoryError):
            files.read(path)


class TestEnsure:
    @pytest.mark.parametrize("mode", [0o644, 0o755, 0o640, 0o600], ids=oct)
    def test_writes_what_is_not_there(self, path: pathlib.Path, mode: int):
        assert files.ensure(path, "text\n", mode) is True
        assert files.read(path) == Present("text\n", mode)
        assert stat.S_IMODE(path.parent.stat().st_mode) & 0o022 == 0

    def test_leaves_an_equal_file_untouched(self, path: pathlib.Path):
        files.ensure(path, "text\n")
        before = identity(path)
        assert files.ensure(path, "text\n") is False
        assert identity(path) == before

    @pytest.mark.parametrize(
        ("content", "mode"), [("other\n", 0o644), ("text", 0o644), ("text\n", 0o755)]
    )
    def test_replaces_what_differs(self, path: pathlib.Path, content: str, mode: int):
        files.ensure(path, "text\n")
        inode = path.stat().st_ino
        assert files.ensure(path, content, mode) is True
        assert files.read(path) == Present(content, mode)
        assert path.stat().st_ino != inode

    def test_keeps_bytes_as_they_were_read(self, path: pathlib.Path):
        """Restoring a drop-in that somebody edited must give back just those bytes."""
        path.parent.mkdir(parents=True)
        path.write_bytes(b"caf\xe9\r\n")
        old = files.read(path)
        assert old is not None
        files.ensure(path, "new")
        files.ensure(path, old.content, old.mode)
        assert path.read_bytes() == b"caf\xe9\r\n"

    def test_removes_and_says_whether_there_was_something(self, path: pathlib.Path):
        assert files.ensure(path, None) is False
        files.ensure(path, "text")
        assert files.ensure(path, None) is True
        assert not path.exists()
        assert list(path.parent.iterdir()) == []
        assert files.ensure(path, None) is False

    def test_follows_nobodys_link(self, path: pathlib.Path, tmp_path: pathlib.Path):
        victim = tmp_path / "passwd"
        victim.write_text("root\n")
        path.parent.mkdir(parents=True)
        path.symlink_to(victim)
        assert files.ensure(path, "text\n") is True
        assert victim.read_text() == "root\n"
        assert not path.is_symlink()

    @pytest.mark.parametrize("step", ["fsync", "replace"])
    def test_that_fails_leaves_the_old_content_and_nothing_else(
        self, path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, step: str
    ):
        files.ensure(path, "old\n")

        def fail(*_: object, **__: object):
            raise OSError(28, "No space left on device", str(path))

        monkeypatch.setattr(os, step, fail)
        with pytest.raises(OSError, match="No space left on device"):
            files.ensure(path, "new\n")
        assert path.read_text() == "old\n"
        assert [each.name for each in path.parent.iterdir()] == ["owned.conf"]

    def test_is_whole_on_the_disk_before_it_has_its_name(
        self, path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
    ):
        steps: list[str] = []
        replace, fsync = os.replace, os.fsync

        def record_fsync(handle: int) -> None:
            is_directory = stat.S_ISDIR(os.fstat(handle).st_mode)
            size = "" if is_directory else f" {os.fstat(handle).st_size}"
            steps.append(f"{'directory' if is_directory else 'file'}{size}")
            fsync(handle)

        def record_replace(*names: str) -> None:
            steps.append("replace")
            replace(*names)

        monkeypatch.setattr(os, "fsync", record_fsync)
        monkeypatch.setattr(os, "replace", record_replace)
        files.ensure(path, "12345")
        assert steps == ["file 5", "replace", "directory"]

    def test_is_never_seen_under_a_name_that_its_readers_take(
        self, path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
    ):
        """grub.d reads *.cfg, modprobe.d *.conf, run-parts no name that begins with a dot."""
        seen: list[str] = []
        replace = os.replace

        def look(source: str, target: str) -> None:
            seen.extend(each.name for each in path.parent.iterdir())
            replace(source, target)

        monkeypatch.setattr(os, "replace", look)
        files.ensure(path, "text")
        assert len(seen) == 1
        assert seen[0].startswith(".")
        assert not seen[0].endswith((".conf", ".cfg", ".rules"))


class TestDropEmpty:
    def test_an_empty_folder_goes(self, tmp_path: pathlib.Path):
        (tmp_path / "ours").mkdir()
        files.drop_empty(tmp_path / "ours")
        assert list(tmp_path.iterdir()) == []

    def test_what_is_not_empty_or_no_folder_or_not_there_stays(self, tmp_path: pathlib.Path):
        (tmp_path / "ours").mkdir()
        (tmp_path / "ours/file").touch()
        for name in ("ours", "ours/file", "absent"):
            files.drop_empty(tmp_path / name)
        assert (tmp_path / "ours/file").exists()

    def test_another_error_is_not_kept_silent(
        self, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
    ):
        def refuse(*_: object) -> None:
            raise PermissionError(errno.EROFS, "Read-only file system")

        monkeypatch.setattr(pathlib.Path, "rmdir", refuse)
        with pytest.raises(PermissionError):
            files.drop_empty(tmp_path)
        files.drop_empty(tmp_path / "absent")


class TestAfterACrash:
    def test_sweep_removes_what_a_killed_write_left_and_nothing_else(
        self, path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
    ):
        files.ensure(path, "old\n")

        def die(*_: object) -> None:
            raise KeyboardInterrupt

        monkeypatch.setattr(os, "replace", die)
        monkeypatch.setattr(pathlib.Path, "unlink", lambda *_, **__: None)  # killed: no clean-up
        with pytest.raises(KeyboardInterrupt):
            files.ensure(path, "new\n")
        monkeypatch.undo()
        assert len(list(path.parent.iterdir())) == 2
        files.sweep([path, path.with_name("never-there"), path / "below-a-file"])
        assert [each.name for each in path.parent.iterdir()] == [path.name]
        assert path.read_text() == "old\n"

    def test_the_next_ensure_is_not_stopped_by_a_left_over(self, path: pathlib.Path):
        path.parent.mkdir(parents=True)
        (path.parent / f".{path.name}.new").write_text("half")
        assert files.ensure(path, "text\n") is True
        assert path.read_text() == "text\n"
        assert [each.name for each in path.parent.iterdir()] == [path.name]


class TestFilesOfOtherPrograms:
    def test_move_into_place_keeps_the_mode_of_the_old_file(self, path: pathlib.Path):
        path.parent.mkdir(parents=True)
        path.write_text("old")
        path.chmod(0o600)
        made = path.with_name("made")
        made.write_text("new")
        made.chmod(0o644)
        files.move_into_place(made, path)
        assert files.read(path) == Present("new", 0o600)
        assert not made.exists()

    def test_move_into_place_where_there_was_none(self, path: pathlib.Path):
        path.parent.mkdir(parents=True)
        made = path.with_name("made")
        made.write_text("new")
        made.chmod(0o640)
        files.move_into_place(made, path)
        assert files.read(path) == Present("new", 0o640)

    def test_move_into_place_keeps_the_former_file_until_the_disk_has_the_new_name(
        self, path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
    ):
        """What a boot loader finds at each of the two moments at which the journal is emptied."""
        path.parent.mkdir(parents=True)
        path.write_text("old")
        made = path.with_name("made")
        made.write_text("new")
        seen: list[dict[str, str]] = []

        def look(directory: pathlib.Path) -> bool:
            seen.append({each.name: each.read_text() for each in directory.iterdir()})
            return True

        monkeypatch.setattr(files, "checkpoint", look)
        files.move_into_place(made, path)
        assert seen == [
            {"owned.conf": "old", "made": "new"},
            {"owned.conf": "new", "owned.conf.pci-passthrough.former": "old"},
        ]
        assert [each.name for each in path.parent.iterdir()] == ["owned.conf"]

    def test_move_into_place_keeps_the_former_file_when_the_disk_does_not_take_the_last_step(
        self, path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
    ):
        path.parent.mkdir(parents=True)
        path.write_text("old")
        made = path.with_name("made")
        made.write_text("new")

        def fail_once_it_is_moved(directory: pathlib.Path) -> bool:
            if not made.exists():
                raise OSError(errno.EIO, "Input/output error")
            return True

        monkeypatch.setattr(files, "checkpoint", fail_once_it_is_moved)
        with pytest.raises(OSError, match="Input/output error"):
            files.move_into_place(made, path)
        assert path.read_text() == "new"
        assert files.former_of(path).read_text() == "old"

    def test_move_into_place_is_not_stopped_by_what_a_kill_left(self, path: pathlib.Path):
        path.parent.mkdir(parents=True)
        files.former_of(path).write_text("older")
        path.write_text("old")
        made = path.with_name("made")
        made.write_text("new")
        files.move_into_place(made, path)
        assert path.read_text() == "new"
        assert not files.former_of(path).exists()

    @pytest.mark.parametrize("number", files.NO_CHECKPOINT, ids=errno.errorcode.get)
    def test_checkpoint_where_there_is_none(
        self, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, number: int
    ):
        monkeypatch.setattr(fcntl, "ioctl", self.failing_with(number))
        assert files.checkpoint(tmp_path) is False

    def test_checkpoint_that_the_disk_does_not_take(
        self, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
    ):
        monkeypatch.setattr(fcntl, "ioctl", self.failing_with(errno.EIO))
        with pytest.raises(OSError, match="Input/output error"):
            files.checkpoint(tmp_path)

    @pytest.mark.parametrize(
        ("do", "named"),
        [
            (lambda path: files.ensure(path, "new"), "owned.conf"),
            (lambda path: files.move_into_place(path.with_name("made"), path), "made"),
            (files.settle, "owned.conf"),
            (lambda path: files.ensure(path, None), "x.d"),
        ],
        ids=["ensure", "move_into_place", "settle", "directory"],
    )
    def test_a_disk_that_fails_has_the_file_named(
        self,
        path: pathlib.Path,
        monkeypatch: pytest.MonkeyPatch,
        do: Callable[[pathlib.Path], object],
        named: str,
    ):
        """The kernel names no file where it was asked by descriptor."""
        path.parent.mkdir(parents=True)
        for each in (path, path.with_name("made")):
            each.write_text("text")
        monkeypatch.setattr(os, "fsync", self.failing_with(errno.EIO))
        with pytest.raises(OSError, match="Input/output error") as caught:
            do(path)
        assert pathlib.Path(str(caught.value.filename)).name == named

    def test_checkpoint_asks_ext4_for_one(
        self, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
    ):
        """The number is the kernel's _IOW('f', 43, __u32); no flag: the journal is not wiped."""
        asked: list[tuple[int, bytes]] = []
        monkeypatch.setattr(fcntl, "ioctl", lambda handle, *what: asked.append(what))
        assert files.checkpoint(tmp_path) is True
        assert asked == [(1 << 30 | 4 << 16 | ord("f") << 8 | 43, bytes(4))]

    @staticmethod
    def failing_with(number: int) -> Callable[..., None]:
        def fail(*_: object) -> None:
            raise OSError(number, os.strerror(number))

        return fail

    def test_settle_waits_for_the_file_and_for_its_name(
        self, path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
    ):
        path.parent.mkdir(parents=True)
        path.write_text("text")
        waited: list[int] = []
        monkeypatch.setattr(os, "fsync", lambda handle: waited.append(os.fstat(handle).st_ino))
        files.settle(path)
        assert waited == [path.stat().st_ino, path.parent.stat().st_ino]


class TestWhatIsNoPlainFile:
    """Whoever may write where we read must not make a hook hang, or fill the memory."""

    def test_a_fifo_is_named_and_not_waited_for(self, tmp_path: pathlib.Path):
        os.mkfifo(tmp_path / "x.conf")
        with pytest.raises(OSError, match="no regular file, so not read") as caught:
            files.read(tmp_path / "x.conf")
        assert caught.value.filename == str(tmp_path / "x.conf")

    def test_a_socket_too(self, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.chdir(tmp_path)  # a socket's path has room for a hundred bytes
        with socket.socket(socket.AF_UNIX) as bound:
            bound.bind("x.conf")
            with pytest.raises(OSError, match="no regular file, so not read"):
                files.read(tmp_path / "x.conf")

    def test_a_file_of_the_kernels_without_an_end_is_not_waited_for(
        self, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
    ):
        """/proc/kmsg is a regular file, and gives nothing while there is nothing new."""
        (tmp_path / "x.conf").write_text("")
        idle = mock.Mock(**{"read.return_value": None})
        monkeypatch.setattr(
            files, "open", lambda *_, **__: contextlib.nullcontext(idle), raising=False
        )
        with pytest.raises(OSError, match="no regular file, so not read"):
            files.read(tmp_path / "x.conf")

    @pytest.mark.parametrize("device", ["/dev/zero", "/dev/full", "/dev/tty"])
    def test_a_link_to_a_device_is_not_opened(self, tmp_path: pathlib.Path, device: str):
        (tmp_path / "x.conf").symlink_to(device)
        with pytest.raises(OSError, match="no regular file, so not read"):
            files.read(tmp_path / "x.conf")

    def test_a_link_to_dev_null_is_an_empty_file_as_for_systemd_and_modprobe(
        self, tmp_path: pathlib.Path
    ):
        (tmp_path / "x.conf").symlink_to("/dev/null")
        found = files.read(tmp_path / "x.conf")
        assert found
        assert found.content == ""

    def test_a_directory_is_one(self, tmp_path: pathlib.Path):
        with pytest.raises(IsADirectoryError):
            files.read(tmp_path)

    def test_a_file_without_end_is_left_at_a_limit(self, tmp_path: pathlib.Path):
        with (tmp_path / "x.conf").open("wb") as file:
            file.truncate(files.LARGEST + 1)
        with pytest.raises(OSError, match="larger than 16 MiB, so not read") as caught:
            files.read(tmp_path / "x.conf")
        assert caught.value.errno == errno.EFBIG
        os.truncate(tmp_path / "x.conf", files.LARGEST)
        assert files.read(tmp_path / "x.conf")

    def test_a_link_to_a_file_and_one_to_nothing_are_as_ever(self, tmp_path: pathlib.Path):
        (tmp_path / "there").write_text("[pci]\r\n")
        (tmp_path / "x.conf").symlink_to("there")
        (tmp_path / "y.conf").symlink_to("gone")
        assert getattr(files.read(tmp_path / "x.conf"), "content", None) == "[pci]\r\n"
        assert files.read(tmp_path / "y.conf") is None
