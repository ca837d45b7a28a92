"""What GRUB boots next, read from its configuration; nothing here runs GRUB.

Sources: the formats that grub-mkconfig and its 10_linux write, the order in which Debian's and
Ubuntu's grub-mkconfig sources its settings, and GRUB's manual on ``default`` and ``saved_entry``.
"""

from __future__ import annotations

import itertools
import os
import re
import shlex
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from passthrough import frozen
from passthrough.host import kernel_line
from passthrough.problem import Kind, Problem
from passthrough.system import files

if TYPE_CHECKING:
    from passthrough.host import shell_settings

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
_ALL, _USUAL = "GRUB_CMDLINE_LINUX", "GRUB_CMDLINE_LINUX_DEFAULT"
_MARK = "\1"


class Entry(NamedTuple):
    """A menu entry: the kernel's arguments and the initrd paths, as grub.cfg spells them."""

    title: str
    arguments: tuple[str, ...] = ()
    initrds: tuple[str, ...] = ()


class Grub(frozen.Value):
    """GRUB on this host.

    ``entry`` is the menu entry that it boots by default, None where grub.cfg does not tell.
    ``settings`` maps the settings files, in the order in which grub-mkconfig sources them, to their
    text. ``is_stale`` tells whether a settings file is newer than grub.cfg.
    """

    entry: Entry | None = None
    settings: Mapping[str, str] = frozen.field(default_factory=dict[str, str])
    is_stale: bool = False

    @property
    def erasers(self) -> tuple[str, ...]:
        """The settings files that set GRUB_CMDLINE_LINUX_DEFAULT and drop what it held before."""
        return tuple(path for path, text in self.settings.items() if _erases(text))


class _Menu:
    """A menu while `_parse` reads it: each child is an entry or another menu."""

    def __init__(self, names: tuple[str, ...] = (), entry: Entry | None = None):
        self.names = names
        self.children: list[_Menu] = []
        self.entry = entry


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
        settings=there,
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


def find_problem(
    grub: Grub, drop_in: str, tokens: Iterable[str], iommu_table: str | None = None
) -> Problem | None:
    """Find why GRUB would boot without some of ``tokens``, and what to do; None when it has all.

    Args:
        grub: what `read` gave.
        drop_in: our file among the settings, below the root.
        tokens: what our file adds to the kernel's command line.
        iommu_table: the ACPI table that announces the host's IOMMU.
    """
    if grub.entry is None:
        return None
    title, tokens = grub.entry.title, tuple(tokens)
    off = kernel_line.leaves_iommu_off(grub.entry.arguments, iommu_table)
    if off:
        return Problem(
            Kind.IOMMU_IS_TURNED_OFF,
            f"boots {title!r} with {off}, and nothing turns the IOMMU on again",
            f"take {off} out of {_others(grub, off, drop_in)}, then run update-grub",
            subject=f"/{CONFIG}",
        )
    read = tuple(kernel_line.own(grub.entry.arguments))
    missing = [token for token in tokens if token not in read]
    lost = [token for token in missing if token in grub.entry.arguments]
    if lost:
        return Problem(
            Kind.OPTION_LOSES,
            f"boots {title!r} with {' '.join(lost)} behind {kernel_line.END}",
            "the kernel reads no option of its own there: take"
            f" {kernel_line.END} out of {_others(grub, kernel_line.END, drop_in)}, then run"
            " update-grub",
            subject=f"/{CONFIG}",
        )
    if missing:
        lacks = f"boots {title!r} without {' '.join(missing)}"
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
    revoked = kernel_line.revoked(tokens, grub.entry.arguments)
    if revoked:
        ours, last = revoked[0].token, revoked[1].token
        return Problem(
            Kind.OPTION_LOSES,
            f"boots {title!r} with {last} after {ours}, and the last one counts",
            f"take {last} out of {_others(grub, last, drop_in)}, then run update-grub",
            subject=f"/{CONFIG}",
        )
    return None


def settled_options(grub: Grub, drop_in: str) -> tuple[str, ...]:
    """Work out what the settings but ours put on the command line of what boots by default.

    Where only a run of them would tell, everything that they may put there, and that the last run
    has put there: an ``if`` may be for another machine.

    Args:
        grub: what `read` gave.
        drop_in: our file among the settings, below the root.
    """
    sourced = _source("")
    words: list[str] = []
    for path, text in grub.settings.items():
        if path != drop_in:
            sourced = _source(text, sourced)
            words += _words(sourced)
    values = [sourced.value(name) for name in (_ALL, _USUAL)]
    if None in values:
        return tuple(each for each in words if not grub.entry or each in grub.entry.arguments)
    return tuple(" ".join(value or "" for value in values).split())


def holders(grub: Grub, token: str, drop_in: str) -> tuple[str, ...]:
    """Find the other settings files that put a token on the kernel's command line.

    Only those that grub-mkconfig sources after ours, where there are any: before ours, the token
    loses. Where none is seen to set it, those that mention it: a loop, a function or a program may
    put it there.

    Args:
        grub: what `read` gave.
        token: the kernel's option, as it stands on the line.
        drop_in: our file among the settings, below the root.
    """
    found = [
        path
        for path, text in grub.settings.items()
        if path != drop_in and token in _words(_source(text))
    ]
    found = found or [
        path for path, text in grub.settings.items() if path != drop_in and _mentions(text, token)
    ]
    return _behind(found, drop_in) or tuple(found)


def feeds_command_line(sourced: shell_settings.Sourced) -> tuple[shell_settings.Assignment, ...]:
    """Keep the assignments of a settings file that reach Linux's command line.

    Those of variables that such an assignment mentions are among them.
    """
    names = {_ALL, _USUAL}
    for each in reversed(sourced.assignments):
        if each.name in names:
            names |= each.mentions
    return tuple(each for each in sourced.assignments if each.name in names)


def _others(grub: Grub, token: str, drop_in: str) -> str:
    """Name the files that hold a token, for people."""
    found = [f"/{path}" for path in holders(grub, token, drop_in)]
    return " and ".join(found) or "the other settings"


def _source(text: str, before: shell_settings.Sourced | None = None) -> shell_settings.Sourced:
    from passthrough.host import shell_settings  # only where something is to be mended

    return shell_settings.source(text, before)


def _words(sourced: shell_settings.Sourced) -> list[str]:
    found: list[str] = []
    for each in feeds_command_line(sourced):
        text = " ".join(each.literals) if each.value is None else each.value
        found += text.split()
    return found


def _mentions(text: str, token: str) -> bool:
    """Tell whether a word of a file that is no comment is a token."""
    alone = re.compile(rf"(?<![\w.,:/=-]){re.escape(token)}(?![\w.,:/=-])")
    return any(alone.search(line) for line in text.splitlines() if line.lstrip()[:1] != "#")


def _behind(paths: Iterable[str], drop_in: str) -> tuple[str, ...]:
    """Keep the paths that grub-mkconfig sources after ``drop_in``: they have the last word."""
    return tuple(path for path in paths if path.startswith(f"{DROP_INS}/") and path > drop_in)


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
    """Tell whether a file drops what GRUB_CMDLINE_LINUX_DEFAULT held before, or may do so."""
    sourced = _source(settings, _source(f"{_USUAL}={_MARK}"))
    value = sourced.value(_USUAL)
    if value is not None:
        return _MARK not in value
    carriers = {_USUAL}
    for each in sourced.assignments:
        if each.mentions & carriers or each.name == _USUAL:
            carriers.add(each.name)
        if each.name == _USUAL and not (each.appends or each.mentions & carriers):
            return True
    return False


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
