"""Readers of /proc, see proc(5). The name of each says what happens to an error.

``…_if_there`` takes every error for absence: processes end, and files are closed, while they are
looked at. ``…_or_raise`` takes a missing file alone for absence, and lets every other error
through.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from passthrough import TYPE_CHECKING
from passthrough.system import sysfs

if TYPE_CHECKING:
    from passthrough.system import namespaces, open_files


def text_if_there(root: Path, name: str) -> str:
    """Read a file of /proc, such as ``cmdline``, as text; empty when it cannot be read."""
    try:
        with open(f"{root}/proc/{name}", encoding="utf-8", errors="replace") as file:
            return file.read()
    except OSError:
        return ""


def lines_or_raise(root: Path, name: str) -> list[str]:
    """Read the lines of a file of /proc, such as ``net/route``; empty where there is none.

    Raises:
        OSError: when it is there and cannot be read.
    """
    return sysfs.lines_or_raise(os.path.join(root, "proc", name))


def names_or_raise(root: Path, name: str) -> list[str]:
    """List a directory of /proc, such as ``fs/jbd2``; empty where there is none.

    Raises:
        OSError: when it is there and cannot be read.
    """
    return sysfs.names_or_raise(f"{root}/proc/{name}")


def processes_if_there(root: Path) -> tuple[int, ...]:
    """List the ids of all processes, sorted."""
    names = sysfs.names_if_there(f"{root}/proc")
    return tuple(sorted(int(name) for name in names if name.isdecimal()))


class Processes:
    """The processes of a host and their open devices, read in one pass.

    The first question makes the pass, since most looks at a host have none; the later ones are
    answered from it.

    Args:
        root: the host's root; None for a host without processes.
    """

    def __init__(self, root: Path | None):
        self._root = root
        self._asked: dict[frozenset[int], open_files.Opened] = {}

    @classmethod
    def none(cls) -> Processes:
        """Give a host without processes."""
        return cls(None)

    @functools.cached_property
    def numbers(self) -> tuple[int, ...]:
        """The ids of all processes, sorted."""
        return processes_if_there(self._root) if self._root else ()

    @functools.cached_property
    def mounts(self) -> tuple[str, ...]:
        """The lines of mountinfo of every mount namespace, without those that are alike.

        Raises:
            OSError: when the reader's own namespace, or init's, cannot be read.
        """
        return tuple(_mounts(self._root, self.numbers)) if self._root else ()

    @functools.cached_property
    def opened(self) -> open_files.Opened:
        """The device nodes that are open, told by their numbers.

        Raises:
            OSError: as `mounts` does.
        """
        from passthrough.system import open_files  # ctypes is not for a look without a question

        return open_files.look(self._root or Path("/nowhere"), self.numbers, self.mounts)

    def opened_by(self, processes: frozenset[int]) -> open_files.Opened:
        """What some processes have open, without a pass over all of them.

        Raises:
            OSError: as `mounts` does.
        """
        from passthrough.system import open_files

        if processes not in self._asked:
            root = self._root or Path("/nowhere")
            self._asked[processes] = open_files.look(root, sorted(processes), self.mounts)
        return self._asked[processes]

    @functools.cached_property
    def interfaces(self) -> namespaces.Interfaces | None:
        """What the kernel says of interfaces in all network namespaces.

        None for a tree that is not this machine's, and for a reader who is not root.

        Raises:
            OSError: when it does not tell.
        """
        if self._root != Path("/") or os.geteuid():
            return None
        from passthrough.system import namespaces  # sockets take long to import

        opened = self.opened.networks
        return namespaces.look(namespaces.find(self.numbers, opened, self.mounts))

    @property
    def devices(self) -> Mapping[str, tuple[int, ...]]:
        """The device nodes and KVM guests that are open, each with the sorted ids of who has it."""
        return self.opened.paths

    @property
    def root(self) -> Path | None:
        """The host's root; None for a host without processes."""
        return self._root

    def program(self, process: int) -> str:
        """The program of one process, as `program_if_there` gives it."""
        return program_if_there(self._root, process) if self._root else ""

    @functools.cached_property
    def programs(self) -> Mapping[int, str]:
        """The program of each process, as `program_if_there` gives it."""
        return (
            {each: program_if_there(self._root, each) for each in self.numbers}
            if self._root
            else {}
        )

    def arguments(self, process: int) -> tuple[str, ...]:
        """Give the command line of a process, as `arguments_if_there` does."""
        return arguments_if_there(self._root, process) if self._root else ()

    def texts(self, pattern: str) -> Iterator[tuple[str, str]]:
        """Read the files that a pattern below the root names; gives their names and texts.

        Files that vanish meanwhile, and those that are no ASCII text, are left out.
        """
        for path in self._root.glob(pattern) if self._root else ():
            try:
                yield path.name, path.read_text(encoding="ascii")
            except (FileNotFoundError, UnicodeDecodeError):
                continue


def _mounts(root: Path, processes: Iterable[int]) -> Iterable[str]:
    seen: set[str] = set()
    lines: dict[str, None] = {}
    for process in ("self", *processes):
        try:
            namespace = mount_namespace_or_raise(root, process)
        except OSError:
            if process not in ("self", 1):
                continue  # gone since it was listed; or of another user, and we are not root
            namespace = str(process)
        if namespace in seen:
            continue
        try:
            lines.update(dict.fromkeys(lines_or_raise(root, f"{process}/mountinfo")))
            seen.add(namespace)
        except OSError:
            continue  # the same; another process of the namespace may answer
    return lines


def mount_namespace_or_raise(root: Path, process: int | str) -> str:
    """Name the mount namespace of a process, or of the reader as ``self``: ``mnt:[4026531841]``.

    Raises:
        OSError: when the process has ended, or is another user's and the reader is not root.
    """
    return os.readlink(f"{root}/proc/{process}/ns/mnt")


def sees_same(root: Path, process: int, path: str) -> bool | None:
    """Tell whether a process sees at a path what the reader does; None where it cannot be told.

    Args:
        root: the root of the host, and of what the reader sees.
        process: its id.
        path: below the root.
    """
    try:
        theirs = os.stat(root / f"proc/{process}/root" / path)
        return os.path.samestat(theirs, os.stat(root / path))
    except OSError:
        return None


def program_if_there(root: Path, process: int) -> str:
    """Give the file name of the program a process runs; empty for a kernel thread."""
    try:
        path = os.readlink(f"{root}/proc/{process}/exe")
    except OSError:
        return ""
    # The kernel appends this once an upgrade has replaced the file of a running program.
    return os.path.basename(path.removesuffix(" (deleted)"))


def arguments_if_there(root: Path, process: int) -> tuple[str, ...]:
    """Give the command line of a process; empty for a kernel thread."""
    text = text_if_there(root, f"{process}/cmdline").rstrip("\0")
    return tuple(text.split("\0")) if text else ()


def started_if_there(root: Path, process: int) -> str | None:
    """Give the start of a process, in clock ticks since boot; no two have the same id and start."""
    # The second field is a name in parentheses, and can itself hold parentheses and blanks.
    _, _, rest = text_if_there(root, f"{process}/stat").rpartition(")")
    values = rest.split()
    return values[19] if len(values) > 19 else None


def command_line_if_there(root: Path) -> tuple[str, ...]:
    """Give the tokens of the running kernel's command line, in order."""
    return tuple(text_if_there(root, "cmdline").split())


def boot_id_if_there(root: Path) -> str:
    """Give the id of this boot, another one after every boot; empty where there is none."""
    return text_if_there(root, "sys/kernel/random/boot_id").rstrip("\n")


def host_name_if_there(root: Path) -> str:
    """Give the host's name as its kernel has it; empty where none is told."""
    return text_if_there(root, "sys/kernel/hostname").strip()


def release_if_there(root: Path) -> str:
    """Give the running kernel's release, such as ``6.8.0-31-generic``; empty where none is told."""
    return text_if_there(root, "sys/kernel/osrelease").rstrip("\n")
