"""What GRUB boots next, read from its configuration; nothing here runs GRUB.

Sources: the formats that grub-mkconfig and its 10_linux write, the order in which Debian's and
Ubuntu's grub-mkconfig sources its settings, and GRUB's manual on ``default`` and ``saved_entry``.
"""

from __future__ import annotations

import dataclasses
import itertools
import os
import re
import shlex
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from passthrough.problem import Kind, Problem
from passthrough.system import files

CONFIG = "boot/grub/grub.cfg"
ENVIRONMENT = "boot/grub/grubenv"
SETTINGS = "etc/default/grub"
DROP_INS = "etc/default/grub.d"
# Debian's and Ubuntu's way to run grub-mkconfig.
UPDATE_GRUB = ("update-grub",)

_BLOCK = re.compile(r"\s*(menuentry|submenu)\s(.*)\{\s*")
_DEFAULT = re.compile(r"\s*set\s+default=[\"']?([^\"']*)[\"']?\s*")
_LINUX = re.compile(r"\s*linux(?:16|efi)?\s+\S+(.*)")
_INITRD = re.compile(r"\s*initrd(?:16|efi)?\s+(.*)")
# Where a command begins: on a line, or behind another command.
_BEGIN = re.compile(r"(?:^|[;&|]|\{[ \t]|\b(?:then|else|do)[ \t])[ \t]*")
# The value ends with the line or at a semicolon, but for those within quotes.
_ASSIGNMENT = re.compile(
    _BEGIN.pattern + r"(?:(?:export|readonly)[ \t]+)?GRUB_CMDLINE_LINUX_DEFAULT="
    r"""((?:"(?:\\.|[^"\\])*"|'[^']*'|[^;"'\n])*)""",
    re.MULTILINE,
)
_UNSET = re.compile(
    _BEGIN.pattern + r"unset[ \t]+(?:[\w-]+[ \t]+)*GRUB_CMDLINE_LINUX_DEFAULT\b", re.MULTILINE
)
_COMMENT = re.compile(r"^[ \t]*#.*\n?", re.MULTILINE)
_REFERENCE = re.compile(r"\$\{?GRUB_CMDLINE_LINUX_DEFAULT\b")
# The kernel takes the last value of these options; those of others add up (modprobe.blacklist).
_LAST_WINS = ("intel_iommu", "iommu", "vfio_iommu_type1.allow_unsafe_interrupts")


class Entry(NamedTuple):
    """A menu entry: the kernel's arguments and the initrd paths, as grub.cfg spells them."""

    title: str
    arguments: tuple[str, ...] = ()
    initrds: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Grub:
    """GRUB on this host.

    ``entry`` is the menu entry that it boots by default, None where grub.cfg does not tell.
    ``settings`` maps the settings files, in the order in which grub-mkconfig sources them, to their
    text without comments. ``is_stale`` tells whether a settings file is newer than grub.cfg.
    """

    entry: Entry | None = None
    settings: Mapping[str, str] = dataclasses.field(default_factory=dict[str, str])
    is_stale: bool = False

    @property
    def erasers(self) -> tuple[str, ...]:
        """The settings files that set GRUB_CMDLINE_LINUX_DEFAULT and drop what it held before."""
        return tuple(path for path, text in self.settings.items() if _erases(text))


@dataclasses.dataclass
class _Menu:
    """A menu while `_parse` reads it: each child is an entry or another menu."""

    names: tuple[str, ...] = ()
    children: list[_Menu] = dataclasses.field(default_factory=list["_Menu"])
    entry: Entry | None = None


def read(root: Path) -> Grub:
    """Read GRUB's configuration and settings below ``root``.

    Raises:
        OSError: when a file is there and cannot be read.
    """
    config = files.read(root / CONFIG)
    if config is None:
        return Grub()
    environment = files.read(root / ENVIRONMENT)
    settings = [SETTINGS, *_drop_ins(root)]
    there = {path: found.content for path in settings if (found := files.read(root / path))}
    return Grub(
        entry=default_entry(config.content, environment.content if environment else ""),
        settings={path: _COMMENT.sub("", there[path]).replace("\\\n", " ") for path in there},
        is_stale=_newest(root, [*settings, DROP_INS]) > _newest(root, [CONFIG]),
    )


def default_entry(config: str, environment: str = "") -> Entry | None:
    """Find the entry that GRUB boots by itself.

    Args:
        config: the text of grub.cfg.
        environment: the text of grubenv, which can name a saved entry or one for the next boot.
    """
    saved = dict(line.split("=", 1) for line in environment.splitlines() if "=" in line)
    wanted = saved.get("next_entry", "")
    if not wanted:
        for line in config.splitlines():
            found = _DEFAULT.fullmatch(line)
            if found and "next_entry" not in found[1]:
                wanted = found[1]
    if "saved_entry" in wanted:
        wanted = saved.get("saved_entry", "")
    menu = _parse(config.splitlines())
    for name in wanted.split(">"):
        menu = _choose(menu, name)
    while menu.children:
        menu = menu.children[0]
    return menu.entry


def find_problem(grub: Grub, drop_in: str, tokens: Iterable[str]) -> Problem | None:
    """Find why GRUB would boot without some of ``tokens``, and what to do; None when it has all.

    Args:
        grub: what `read` gave.
        drop_in: our file among the settings, below the root.
        tokens: what our file adds to the kernel's command line.
    """
    if grub.entry is None:
        return None
    missing = [token for token in tokens if token not in grub.entry.arguments]
    if missing:
        lacks = f"boots {grub.entry.title!r} without {' '.join(missing)}"
        erasers = _behind(grub.erasers, drop_in)
        if not erasers:
            return Problem(
                Kind.GRUB_LACKS_OPTIONS,
                lacks,
                "run update-grub, and see which entry GRUB_DEFAULT names in /etc/default/grub",
                subject=f"/{CONFIG}",
            )
        return Problem(
            Kind.GRUB_IS_OVERRULED,
            lacks,
            "let it begin with $GRUB_CMDLINE_LINUX_DEFAULT, then run update-grub",
            cause=f"/{erasers[-1]} sets GRUB_CMDLINE_LINUX_DEFAULT outright and is read after"
            f" /{drop_in}",
            subject=f"/{CONFIG}",
        )
    # Of our own values of one option, such as an operator's after the charm's, the last is meant.
    for key, token in {token.partition("=")[0]: token for token in tokens}.items():
        last = [each for each in grub.entry.arguments if each.partition("=")[0] == key][-1]
        if key in _LAST_WINS and last != token:
            holders = " and ".join(f"/{path}" for path in _holders(grub, last, drop_in))
            return Problem(
                Kind.OPTION_LOSES,
                f"boots {grub.entry.title!r} with {last} after {token}, and the last one counts",
                f"take {last} out of {holders or 'the other settings'}, then run update-grub",
                subject=f"/{CONFIG}",
            )
    return None


def _behind(paths: Iterable[str], drop_in: str) -> tuple[str, ...]:
    """Keep the paths that grub-mkconfig sources after ``drop_in``: they have the last word."""
    return tuple(path for path in paths if path.startswith(f"{DROP_INS}/") and path > drop_in)


def _holders(grub: Grub, token: str, drop_in: str) -> tuple[str, ...]:
    """Find the other settings files that hold a token as a word of its own.

    Only those that grub-mkconfig sources after ours, where there are any: before ours, the token
    loses.
    """
    word = re.compile(rf"(?<![\w.,-]){re.escape(token)}(?![\w.=,:-])")
    found = [path for path, text in grub.settings.items() if path != drop_in and word.search(text)]
    return _behind(found, drop_in) or tuple(found)


def _parse(lines: Iterable[str]) -> _Menu:
    """Read the menu. Blocks nest by braces; a function or the like is a block without entries."""
    stack = [_Menu()]
    for line in lines:
        block = _BLOCK.fullmatch(line)
        if block:
            child = _Menu(names=_names(block[2]))
            if block[1] == "menuentry":
                child.entry = Entry(title=child.names[0] if child.names else "")
            stack[-1].children.append(child)
            stack.append(child)
        elif line.rstrip().endswith("{"):
            stack.append(_Menu())
        elif line.strip() == "}" and len(stack) > 1:
            stack.pop()
        elif stack[-1].entry:
            stack[-1].entry = _extend(stack[-1].entry, line)
    return stack[0]


def _extend(entry: Entry, line: str) -> Entry:
    linux = _LINUX.fullmatch(line)
    if linux and not entry.arguments:
        return entry._replace(arguments=tuple(linux[1].split()))
    initrd = _INITRD.fullmatch(line)
    if initrd and not entry.initrds:
        return entry._replace(initrds=tuple(initrd[1].split()))
    return entry


def _names(words: str) -> tuple[str, ...]:
    """The title of a block and its id, the two names that ``default`` can hold."""
    try:
        parts = shlex.split(words)
    except ValueError:  # quotes that do not close
        return ()
    named = [
        after
        for before, after in itertools.pairwise(parts)
        if before in ("--id", "$menuentry_id_option")
    ]
    return (*parts[:1], *named)


def _choose(menu: _Menu, name: str) -> _Menu:
    """Take one step of a ``default`` such as ``1>2`` or an id; GRUB falls back to the first."""
    for child in menu.children:
        if name in child.names:
            return child
    if name.isdecimal() and int(name) < len(menu.children):
        return menu.children[int(name)]
    return menu.children[0] if menu.children else menu


def _erases(settings: str) -> bool:
    values = (found[1] for found in _ASSIGNMENT.finditer(settings))
    return bool(_UNSET.search(settings)) or any(not _REFERENCE.search(each) for each in values)


def _drop_ins(root: Path) -> Iterator[str]:
    try:
        names = os.listdir(root / DROP_INS)
    except FileNotFoundError:
        return
    for name in sorted(names):
        # The shell's *.cfg expands to these.
        if name.endswith(".cfg") and not name.startswith("."):
            yield f"{DROP_INS}/{name}"


def _newest(root: Path, paths: Iterable[str]) -> int:
    """The latest modification time of the paths that exist, in nanoseconds."""
    newest = 0
    for path in paths:
        try:
            newest = max(newest, os.stat(root / path).st_mtime_ns)
        except FileNotFoundError:
            continue
    return newest
