"""Kill a run at its n-th effect on the host, for real: in a child process, with SIGKILL.

An effect is whatever another process or the next boot could see: a file created, written, renamed
or removed, a write to sysfs, a rebuild, a module loaded. The kill comes just before it, so killing
at every number from 1 on visits every state that a kill can leave behind.
"""

from __future__ import annotations

import contextlib
import copy
import os
import signal
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from harness.fakekernel import FakeKernel, FakeTools

from passthrough.effects import drivers
from passthrough.system import timed_write

# Of the os module: what changes files by name, and what does so by descriptor.
_BY_NAME = ("open", "replace", "unlink", "mkdir", "rmdir", "rename", "link", "symlink")
_BY_TOOL = (
    "rebuild",
    "load_vfio",
    "load_native",
    "restart",
    "start_timer",
    "stop_timer",
    "start_socket",
    "stop_socket",
    "settle_devices",
    "reload_udev",
)
_BY_DESCRIPTOR = ("fsync", "fchmod", "fchown", "ftruncate", "pwrite")


class Killer:
    """Counts effects, and kills its own process at one of them."""

    def __init__(self, root: Path, number: int):
        self._root = os.fspath(root)
        self._left = number
        self._paused = False

    def effect(self) -> None:
        """One effect is about to happen."""
        if not self._paused:
            self._left -= 1
            if self._left == 0:
                os.kill(os.getpid(), signal.SIGKILL)

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """What the made-up kernel and the tools do to the tree is theirs, and counts as one."""
        self._paused = True
        yield
        self._paused = False

    def install(self, kernel: FakeKernel, tools: FakeTools) -> None:
        """Stand in the way of every effect of this process."""
        for name in _BY_NAME:
            setattr(os, name, self._watch_name(getattr(os, name)))
        for name in _BY_DESCRIPTOR:
            setattr(os, name, self._watch(getattr(os, name)))
        for name in _BY_TOOL:
            setattr(tools, name, self._watch_whole(getattr(tools, name)))
        write = self._watch_whole(kernel.write)

        # A child of the child would be killed in its place.
        timed_write.write = write_in_process
        drivers.write = write

    def _watch(self, do: Callable[..., Any]) -> Callable[..., Any]:
        def watched(*values: Any, **named: Any) -> Any:
            self.effect()
            return do(*values, **named)

        return watched

    def _watch_name(self, do: Callable[..., Any]) -> Callable[..., Any]:
        def watched(path: Any, *values: Any, **named: Any) -> Any:
            creates = do.__name__ != "open" or (values and values[0] & os.O_CREAT)
            if creates and os.fspath(path).startswith(self._root):
                self.effect()
            return do(path, *values, **named)

        return watched

    def _watch_whole(self, do: Callable[..., Any]) -> Callable[..., Any]:
        def watched(*values: Any, **named: Any) -> Any:
            self.effect()
            with self.paused():
                return do(*values, **named)

        return watched


def write_in_process(path: Path, text: str, seconds: float, do: Any) -> None:
    """Stand in for `timed_write.write` where nothing blocks: a fork costs more than the rest."""
    del seconds
    do(path, text)


def run_killed(
    number: int, kernel: FakeKernel, tools: FakeTools, job: Callable[[], object]
) -> bool:
    """Do ``job`` in a child process that is killed at its effect of that number.

    Returns:
        True if it was killed, False if it came to its end before.
    """
    child = os.fork()
    if child == 0:
        code = 1
        try:
            Killer(kernel.root, number).install(kernel, tools)
            job()
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert code in (0, -signal.SIGKILL), "the run failed by itself"
    return code != 0


class Tree:
    """Everything below a directory, to be compared and put back: faster than copies are.

    The log of what was written to sysfs is left out.
    """

    def __init__(self, root: Path):
        self.entries = dict(_walk(os.fspath(root), ""))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Tree) and self.entries == other.entries

    def without(self, *endings: str) -> Tree:
        """The same, but for files whose names end like this."""
        rest = copy.copy(self)
        rest.entries = {
            name: entry for name, entry in self.entries.items() if not name.endswith(endings)
        }
        return rest

    def put_back(self, root: Path) -> None:
        """Make the directory what it was."""
        present = Tree(root).entries
        for name in sorted(present.keys() - self.entries.keys(), reverse=True):
            remove = os.rmdir if present[name][0] == "d" else os.unlink
            remove(f"{root}/{name}")
        for name in sorted(self.entries):
            if present.get(name) != self.entries[name]:
                self._put(f"{root}/{name}", present.get(name), *self.entries[name])

    @staticmethod
    def _put(path: str, present: object, kind: str, mode: int, content: bytes | str) -> None:
        if kind == "d":
            if present is None:
                os.mkdir(path)
        else:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)
            if kind == "l":
                os.symlink(content, path)
                return
            with open(path, "wb") as file:
                file.write(bytes(content))  # type: ignore[arg-type]
        os.chmod(path, mode)


def _walk(root: str, name: str) -> Iterator[tuple[str, tuple[str, int, bytes | str]]]:
    with os.scandir(f"{root}/{name}") as entries:
        for entry in entries:
            below = f"{name}{entry.name}"
            if below == ".made/writes":
                continue
            if entry.is_symlink():
                yield below, ("l", 0, os.readlink(entry.path))
            elif entry.is_dir():
                yield below, ("d", entry.stat().st_mode & 0o7777, "")
                yield from _walk(root, f"{below}/")
            else:
                with open(entry.path, "rb") as file:
                    yield below, ("f", entry.stat().st_mode & 0o7777, file.read())
