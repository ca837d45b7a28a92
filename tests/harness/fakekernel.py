"""The kernel of a made-up host, which answers, and its tools, which are only recorded.

`FakeKernel` puts `hosttree.kernel` behind the one place from which effects/drivers.py writes to
sysfs, so that an unbind unbinds and a probe binds, also where a child process makes the write. What
it cannot know, it is told: which driver's probe fails, which write the kernel refuses, which
process holds a group.
"""

from __future__ import annotations

import errno
import os
import re
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest
from harness import constants, hosttree
from harness.hosttree import kernel as model
from harness.hosttree import programs

from passthrough.effects import drivers
from passthrough.effects import tools as host_tools
from passthrough.host import generators, modules
from passthrough.system import commands

_WRITES = ".made/writes"


class FakeKernel:
    """The kernel behind a `hosttree.HostTree`: reacts to what effects/drivers.py writes."""

    def __init__(self, tree: hosttree.HostTree, monkeypatch: pytest.MonkeyPatch):
        self.tree = tree
        self.root = tree.root
        self._refused: dict[str, int] = {}
        self._failing: dict[str, set[str]] = {}
        self.before_write: Callable[[str, str], object] = lambda name, text: None
        monkeypatch.setattr(drivers, "write", self.write)

    def write(self, path: Path, text: str) -> None:
        """Stand in for the write to sysfs; a child process may call it, so the log is a file."""
        name = os.fspath(path.resolve().relative_to(self.root.resolve()))
        self.before_write(name, text)
        with (self.root / _WRITES).open("a") as log:
            log.write(f"{name}={text!r}\n")
        for ending, number in self._refused.items():
            if os.fspath(path).endswith(ending):
                raise OSError(number, os.strerror(number), os.fspath(path))
        if not path.exists():
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), os.fspath(path))
        if name == "sys/bus/pci/drivers_probe":
            wanted = model.wanted_driver(self.root, text)
            if wanted in self._failing.get(text, set()):
                return  # dmesg tells of a probe that fails, the writer is not told
        model.store(self.root, name, text.encode())

    def writes(self) -> list[str]:
        """Everything that was written below /sys, such as ``sys/bus/pci/drivers_probe='…'``."""
        log = self.root / _WRITES
        return log.read_text().splitlines() if log.exists() else []

    def forget_writes(self) -> None:
        """Begin a new log of writes."""
        (self.root / _WRITES).unlink(missing_ok=True)

    def fail_probe(self, address: str, *drivers: str) -> None:
        """Let these drivers' probes of a function fail from now on; none lets all succeed."""
        self._failing[address] = set(drivers)

    def refuse(self, ending: str, number: int = errno.EBUSY) -> None:
        """Let every write to a path that ends like this fail."""
        self._refused[ending] = number

    def relent(self) -> None:
        """Take back every `refuse` and `fail_probe`."""
        self._refused.clear()
        self._failing.clear()

    @property
    def is_kind(self) -> bool:
        """Whether it refuses nothing."""
        return not self._refused

    def hold(self, address: str, process: int = 4711) -> Path:
        """Let a process have the node of a function's group open; the link to remove again.

        Whoever removes it tells of that: `close`, or the function stays enabled.
        """
        group = os.path.basename(os.readlink(self.tree.directory(address) / "iommu_group"))
        descriptors = self.root / "proc" / str(process) / "fd"
        descriptors.mkdir(parents=True, exist_ok=True)
        held = descriptors / str(len(list(descriptors.iterdir())))
        held.symlink_to(f"/dev/vfio/{group}")
        model.show_open(self.root)
        return held

    def close(self, held: Path) -> None:
        """Let a process close what `hold` has opened."""
        held.unlink()
        model.show_open(self.root)

    def drivers(self) -> dict[str, str | None]:
        """The driver of every function of the GPUs."""
        return {address: self.tree.driver_of(address) for address in constants.CARDS}

    def reboot(self) -> None:
        """Start the host again with the initramfs and grub.cfg that were built last."""
        self.tree.power_cycle()
        claimed = [
            address
            for address, identity, twins in self._claims_of_the_initramfs()
            if all(self._is_at(each, identity) for each in (address, *twins))
            and (self.root / model.DEVICES / address / "iommu_group").exists()
        ]
        for address, module in self._variants_of_the_initramfs().items():
            if address in claimed:
                model.load(self.root, [module])
                name = modules.driver_of(self.root, module)
                self._claim(address, *([name] if name else []))
        if claimed:
            model.load(self.root, ["vfio-pci"])
        for address in claimed:
            if not model.is_vfio(self.root, model.driver_of(self.root, address)):
                self._claim(address, "vfio-pci")
        self.tree.load_natives()
        self._run_boot_unit()

    def _run_boot_unit(self) -> None:
        """Do what each application's boot unit for VFs does, if systemd starts it."""
        for unit in sorted(self.root.glob("etc/systemd/system/multi-user.target.d/*-vfs.conf")):
            name = unit.name.removesuffix("-vfs.conf")
            script = self.root / f"var/lib/pci-passthrough/{name}.vfs.sh"
            if not (script.exists() and (unit.parents[1] / f"{name}-vfs.service").exists()):
                continue  # a kill has left some of the files: the unit asks for its script
            text = script.read_text()
            if "pci-passthrough=off" in self.tree.read("proc/cmdline").split():
                continue
            for address, number, claims in re.findall(
                r"(?m)^make (\S+) 0x\S+ 0x\S+ (\d+)\n((?:claim .*\n)*)", text
            ):
                self._make_vfs(address, int(number), re.findall(r"claim (\S+)", claims))

    def _make_vfs(self, address: str, number: int, claims: list[str]) -> None:
        device = f"{_below(self.root, self.root / model.DEVICES / address)}"
        if self.tree.read(f"{device}/sriov_numvfs").strip() != "0":
            return
        model.store(self.root, f"{device}/{model.AUTOPROBE}", b"0")
        model.set_number_of_vfs(self.root, address, number)
        model.load(self.root, ["vfio-pci"])
        for vf in claims:
            place = self.root / model.DEVICES / vf
            model.store(self.root, f"{_below(self.root, place)}/driver_override", b"vfio-pci")
            model.probe(self.root, vf)
        model.store(self.root, f"{device}/{model.AUTOPROBE}", b"1")

    def _claim(self, address: str, *drivers: str) -> None:
        model.set_driver(self.root, address, None)  # one that is built in has to let go
        device = self.root / model.DEVICES / address
        for driver in drivers:
            override = f"{_below(self.root, device)}/driver_override"
            model.store(self.root, override, driver.encode())
            if driver not in self._failing.get(address, ()):
                model.probe(self.root, address)

    def _variants_of_the_initramfs(self) -> dict[str, str]:
        """The variants that the boot script asks for on the kernel that starts, by address."""
        case = self._boot_scripts().partition('case "$kernel" in')[2].partition("esac")[0]
        blocks = dict(re.findall(r"(?m)^(\S+)\)\n((?: +variant .*\n)*) +;;$", case))
        block = blocks.get(self.tree.release.kernel, blocks.get("*", ""))
        return dict(re.findall(r"variant (\S+) (\S+)", block))

    def _is_at(self, address: str, identity: str) -> bool:
        device = self.root / model.DEVICES / address
        return device.exists() and identity in (device / "uevent").read_text()

    def _boot_scripts(self) -> str:
        with tempfile.TemporaryDirectory() as scratch:
            scripts = programs.unpack_boot_scripts(self.root, Path(scratch))
            return "\n".join(script.read_text() for script in scripts)

    def _claims_of_the_initramfs(self) -> list[tuple[str, str, list[str]]]:
        lines = re.findall(r"(?m)^claim (\S+) 0x(\S+) 0x(\S+)(.*)$", self._boot_scripts())
        return [
            (address, f"PCI_ID={vendor}:{product}".upper(), twins.split())
            for address, vendor, product, twins in lines
        ]


class FakeTools:
    """`tools.Tools` for a `hosttree.HostTree`: remembers what it was asked for, and does it."""

    def __init__(self, tree: hosttree.HostTree):
        self.tree = tree
        self.calls: list[str] = []
        self.failing: dict[str, str] = {}
        self.services: dict[str, str] = {}
        self.timers: set[str] = set()
        self.sockets: set[str] = set()

        self.stopped: dict[str, str] = {}
        self.after_stop: Callable[[str], object] = lambda service: None
        self.restarts_denied = False
        self.before_rebuild: Callable[[str], object] = lambda what: None

    def rebuild(
        self,
        what: str,
        progress: Callable[[str], object],
        generator: generators.Generator | None = None,
        reached: Callable[[str], object] = host_tools.nobody,
    ) -> None:
        """Do what update-initramfs, dracut or update-grub does to the tree."""
        self.calls.append(f"rebuild {what}")
        self.before_rebuild(what)
        self._fail_where_told(what)
        for release in programs.kernel_releases(self.tree.root) if what == "initramfs" else ():
            reached(release)
        progress(f"{what}: rebuilt")
        command = (f"update-{what}", "-u")
        if what == "initramfs" and generator:
            command = next(each for each in generator.rebuilds if self._has(each[0]))
        programs.run(self.tree.root, command[0], command[1:])

    def load_vfio(self, variants: Iterable[str] = ()) -> None:
        """Load vfio-pci, whose driver then binds what has an override and no driver."""
        self.calls.append(" ".join(["load vfio", *variants]))
        self._fail_where_told("modprobe")
        model.load(self.tree.root, ["vfio_iommu_type1", "vfio-pci", *variants])

    def load_native(self, modalias: str) -> None:
        """Load the native drivers of a modalias."""
        self.calls.append(f"load {modalias}")
        model.load(self.tree.root, [modalias])

    def running(self, service: str) -> str | None:
        """Name this run of a service, None for one that does not run."""
        return self.services.get(service)

    def restart(self, service: str) -> bool:
        """Start a service anew; False where the policy layer is told to deny it."""
        self.calls.append(f"restart {service}")
        self._fail_where_told("restart")
        if self.restarts_denied:
            return False
        self.services[service] = f"{self.services.get(service, '')}+"
        return True

    def start_timer(self, name: str) -> None:
        """Start a timer."""
        self._fail_where_told("systemctl")
        self.timers.add(name)

    def stop_timer(self, name: str) -> None:
        """Stop a timer."""
        self._fail_where_told("systemctl")
        self.timers.discard(name)

    def start_socket(self, name: str) -> None:
        """Listen on a socket, or listen anew."""
        self.calls.append(f"listen {name}")
        self._fail_where_told("socket")
        self.sockets.add(name)

    def stop_socket(self, name: str) -> None:
        """Stop a socket."""
        self._fail_where_told("socket")
        self.sockets.discard(name)

    def settle_devices(self) -> None:
        """Wait for udev, which the tree answers for at once."""
        self.calls.append("settle")
        self._fail_where_told("settle")

    def reload_udev(self) -> None:
        """Have udev read its rules again."""
        self.calls.append("reload udev")
        self._fail_where_told("reload")

    def stop(self, service: str) -> None:
        """Stop a service."""
        self.calls.append(f"stop {service}")
        self._fail_where_told("stop")
        self.stopped[service] = self.services.pop(service)
        self.after_stop(service)

    def start(self, service: str) -> None:
        """Start a service that was stopped."""
        self.calls.append(f"start {service}")
        self._fail_where_told("start")
        self.services[service] = f"{self.stopped.pop(service, '')}+"

    def _has(self, program: str) -> bool:
        return any((self.tree.root / place / program).exists() for place in ("usr/sbin", "usr/bin"))

    def _fail_where_told(self, what: str) -> None:
        if what in self.failing:
            raise commands.CommandError((what,), "failed with exit code 1", (self.failing[what],))


def _below(root: Path, path: Path) -> str:
    return os.fspath(path.resolve().relative_to(root.resolve()))
