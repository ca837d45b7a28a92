"""Hooks with nothing new, against those of an empty ops charm.

Both run as the packed `dispatch`, in the same made-up host, with the same packages and the same
hook tools (tests/harness/standin, tests/harness/hostbox).
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator

from harness import hostbox, hosttree, standin

from bench import busy, crowds, pairs

GOAL, GOAL_BUSY = 1.25, 1.1
# By hook: what of it is judged. A start stands for every hook that does all: it has no goal.
HOOKS: dict[str, str | None] = {"update-status": "seconds", "config-changed": "cpu", "start": None}
FUNCTIONS, CLAIMS = 64, 8
# What an OpenStack host has of each; more than a megabyte of dpkg's status, and a boot menu.
PACKAGES, KERNELS = 1500, 6

_CARDS = [f"0000:{0x10 + number:02x}:00.0" for number in range((FUNCTIONS - 2) // 2)]
_GPUS, _NICS, _HBA = _CARDS[:CLAIMS], _CARDS[CLAIMS:-1], _CARDS[-1]
_PRINCIPAL = "nova-compute/0"
_EMPTY_CHARM = """\
#!/usr/bin/env python3
import ops


class EmptyCharm(ops.CharmBase):
    pass


if __name__ == "__main__":
    ops.main(EmptyCharm)
"""


def measure(
    charm: pathlib.Path,
    rounds: int,
    progress: Callable[[str], object],
    former: tuple[str, pathlib.Path] | None = None,
) -> list[pairs.Comparison]:
    """Compare hooks with an empty charm's, and with a former revision's.

    Args:
        charm: the packed charm.
        rounds: pairs.
        progress: told what is under way.
        former: the name of another revision, and its packed charm; None for no such comparison.

    Raises:
        BenchError: when this machine cannot make a host box, or a hook is no no-op.
    """
    progress(f"hook: a host with {FUNCTIONS} functions, {CLAIMS} of them claimed")
    sides: list[tuple[str, standin.Agent, pathlib.Path, float | None]]
    with contextlib.ExitStack() as stack:
        place = pathlib.Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-")))
        ours, empty, report = stack.enter_context(_agents(place / "ours", charm))
        sides = [("an empty charm's", empty, report, GOAL)]
        ready = [ours]
        if former:
            progress(f"hook: a host with the charm of {former[0]}")
            other, _, told = stack.enter_context(_agents(place / "former", former[1]))
            sides.append((f"that of {former[0]}", other, told, None))
            ready.append(other)
        found: list[pairs.Comparison] = []
        for name, judged in HOOKS.items():
            progress(f"hook: {name} against an empty charm's")
            for whose, side, told, goal in sides:
                compared = pairs.compare(
                    f"{name}, {FUNCTIONS} functions and {CLAIMS} claims / {whose}",
                    lambda name=name: _run(ours, report, name),
                    lambda name=name, side=side, told=told: _run(side, told, name),
                    rounds,
                    goal if judged else None,
                )
                found.append(dataclasses.replace(compared, judged=judged or compared.judged))
        for agent in ready:
            _check_ready(agent)
        return found


def measure_busy(
    charm: pathlib.Path, rounds: int, progress: Callable[[str], object]
) -> pairs.Comparison:
    """Compare the hook with an empty charm's where programs, interfaces and disks are many.

    The processes are genuine ones, since the hook sees the box's own.

    Args:
        charm: the packed charm.
        rounds: pairs.
        progress: told what is under way.

    Raises:
        BenchError: when this machine cannot make a host box, or the hook is no no-op.
    """
    size = busy.FULL
    progress(f"hook: {busy.describe(size)}, {CLAIMS} functions claimed")
    with contextlib.ExitStack() as stack:
        place = pathlib.Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-")))
        ours, empty, report = stack.enter_context(_agents(place / "ours", charm, size))
        found = pairs.compare(
            f"update-status, busy host and {CLAIMS} claims / an empty charm's",
            lambda: _run(ours, report, "update-status"),
            lambda: _run(empty, report, "update-status"),
            rounds,
            GOAL_BUSY,
        )
        _check_ready(ours)
        return dataclasses.replace(found, judged="cpu")


def _check_ready(agent: standin.Agent) -> None:
    if str(agent.status()) != f"active: gpu: {CLAIMS} ready":
        raise pairs.BenchError(f"the unit is not ready: {agent.status()}")


def _run(agent: standin.Agent, report: pathlib.Path, name: str) -> pairs.Run:
    agent.hook(name)
    return pairs.read(report)


@contextlib.contextmanager
def _agents(
    place: pathlib.Path, charm: pathlib.Path, crowd: crowds.Size | None = None
) -> Iterator[tuple[standin.Agent, standin.Agent, pathlib.Path]]:
    """Agents of a unit that is ready and of an empty charm, and where their hooks report.

    The host then has a ``crowd`` beside its functions, where one is asked for.
    """
    place.mkdir()
    tree = make_host(place / "host")
    report = place / "run.json"
    # The charm's packages are for this Python, which need not be the first on the system's PATH.
    python = place / "python" / "python3"
    python.parent.mkdir()
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    python.symlink_to(pathlib.Path(sys.base_prefix, "bin", version))
    path = [str(python.parent)]
    try:
        with hostbox.Box(tree, place / "box", writable=[place]) as box:
            agent = standin.Agent(
                place / "ours", command_prefix=box.command_prefix, path_prefix=path
            )
            agent.deploy(charm, principal=_PRINCIPAL, config={"devices": "gpu=10de:1bb0"})
            box.reboot()
            agent.rebooted()
        if crowd:
            ports = [os.fspath(_below_sys(tree, each)) for each in _NICS]
            crowds.add_interfaces(tree.root, ports, crowd.interfaces)
            crowds.add_disks(tree.root, [os.fspath(_below_sys(tree, _HBA))], crowd.disks)
            for name in ("1", "net"):
                shutil.rmtree(tree.root / "proc" / name)  # the box has its own
        with (
            hostbox.Box(tree, place / "still", writable=[place], still=True) as box,
            _running(box, crowd) if crowd else contextlib.nullcontext(),
        ):
            prefix = [*pairs.measuring(report), *box.command_prefix]
            ours = standin.Agent(place / "ours", command_prefix=prefix, path_prefix=path)
            empty = standin.Agent(place / "empty", command_prefix=prefix, path_prefix=path)
            empty.deploy(_make_empty(ours, place / "empty-charm"), principal=_PRINCIPAL)
            yield ours, empty, report
    except hostbox.BoxError as error:
        raise pairs.BenchError(str(error)) from error


def _below_sys(tree: hosttree.HostTree, address: str) -> pathlib.Path:
    return tree.directory(address).relative_to(tree.root.resolve() / "sys")


@contextlib.contextmanager
def _running(box: hostbox.Box, crowd: crowds.Size) -> Iterator[None]:
    """Let processes with open files run in the box."""
    command = [sys.executable, *crowds.program(crowd.processes, crowd.files)]
    with subprocess.Popen(
        [*box.command_prefix, *command], stdout=subprocess.PIPE, text=True, start_new_session=True
    ) as running:
        try:
            assert running.stdout
            if running.stdout.readline() != "ready\n":
                raise pairs.BenchError("the host's processes do not start")
            yield
        finally:
            os.killpg(running.pid, signal.SIGKILL)


def _make_empty(agent: standin.Agent, target: pathlib.Path) -> pathlib.Path:
    """Copy the unit's charm, packages and declarations and all, and put an empty one into it."""
    shutil.copytree(agent.unit_directory() / "charm", target, symlinks=True)
    (target / "src/charm.py").write_text(_EMPTY_CHARM, encoding="utf-8")
    (target / ".unit-state.db").unlink()
    return target


def make_host(root: pathlib.Path) -> hosttree.HostTree:
    """A compute host with GPUs to claim, NICs and a disk controller to leave alone, and Nova."""
    tree = hosttree.HostTree(root, ubuntu="24.04")
    tree.function("0000:00:00.0", "8086:29c0", 0x060000)
    tree.function("0000:00:02.0", "1234:1111", 0x030000, driver="bochs-drm", boot_vga=True)
    for number, address in enumerate(_CARDS):
        bus, node = address[5:7], number % 2
        port = f"0000:00:{number // 8 + 3:02x}.{number % 8}"
        tree.bridge(port)
        if address in _GPUS:
            tree.function(address, "10de:1bb0", 0x030000, parent=port, driver="nouveau", numa=node)
        elif address in _NICS:
            tree.function(address, "8086:10d3", 0x020000, parent=port, driver="e1000e", numa=node)
            tree.nic(address, f"ens{number}", mac=f"52:54:00:00:00:{bus}", up=number == CLAIMS)
        else:
            tree.function(address, "1000:0097", 0x010700, parent=port, driver="mpt3sas", numa=node)
    tree.write("var/lib/dpkg/status", "".join(map(_stanza, range(PACKAGES))))
    tree.install_nova()
    (root / "sys/dev/char").mkdir(parents=True)  # as on every kernel
    _add_kernels(tree)
    return tree


def _stanza(number: int) -> str:
    """One package as dpkg's status file has it, as long as its entries are on average."""
    description = "\n".join(f" {'made up for a benchmark ' * 3}" for _ in range(9))
    return (
        f"Package: package-{number}\nStatus: install ok installed\nPriority: optional\n"
        f"Section: net\nInstalled-Size: 1024\nArchitecture: all\nVersion: 1.{number}-1ubuntu2\n"
        f"Description: a package\n{description}\n\n"
    )


def _add_kernels(tree: hosttree.HostTree) -> None:
    """Lengthen the boot menu by older kernels, as update-grub lists every one that is installed."""
    entries = "".join(
        f"menuentry 'Ubuntu, with Linux 6.8.0-{number}-generic' --id older-{number} {{\n"
        "\trecordfail\n\tload_video\n\tinsmod gzio\n\tinsmod part_gpt\n\tinsmod ext2\n"
        f"\tlinux /boot/vmlinuz-6.8.0-{number}-generic root=/dev/sda1 ro quiet\n"
        f"\tinitrd /boot/initrd.img-6.8.0-{number}-generic\n}}\n"
        for number in range(KERNELS)
    )
    tree.write("boot/grub/grub.cfg", tree.read("boot/grub/grub.cfg") + entries)
