"""A world for a test: a host, its kernel, its tools and its Nova, and a unit's hooks on it.

world.hook(GPUS)
world.reboot()
assert world.hook() == Status(Kind.ACTIVE, "gpu: 2 ready")
assert world.drivers() == READY
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import pytest
from harness import constants, hosttree, made
from harness.fakekernel import FakeKernel, FakeTools
from harness.hosttree import kernel as model
from harness.hosttree import programs

from passthrough import lending, quarantining, reboot, reconcile, survey
from passthrough.config import options
from passthrough.effects import reboot_request
from passthrough.nova import lines as nova_lines
from passthrough.planning import quarantine
from passthrough.reporting import status
from passthrough.reporting.status import Status
from passthrough.reporting.verify import checklist
from passthrough.reporting.verify.result import Check
from passthrough.site import Site
from passthrough.state import record

W = TypeVar("W", bound="World")

# What the host's own administrator set: an option of the charm that comes later wins.
_IOMMU_OFF = "intel_iommu=off"
_SERVICE = "nova-compute"


def build_host(root: Path, **values: Any) -> hosttree.HostTree:
    """The issue's host, its IOMMU off: three equal GPUs with audio, two NICs and an NVMe disk."""
    tree = hosttree.HostTree(root, **{"command_line": f"quiet splash {_IOMMU_OFF}", **values})
    if (root / "etc/default/grub").exists():
        settings = tree.read("etc/default/grub")
        tree.write(
            "etc/default/grub", settings.replace("quiet splash", f"quiet splash {_IOMMU_OFF}")
        )
    tree.function("0000:00:00.0", "8086:2020", 0x060000)
    for number, bus in enumerate(constants.GPU_BUSES, 1):
        above = f"0000:80:0{number}.0"
        tree.bridge(above)
        for address, identity, code in (
            (f"0000:{bus}:00.0", constants.GPU_ID, made.DISPLAY),
            (f"0000:{bus}:00.1", constants.AUDIO_ID, made.AUDIO),
        ):
            native = constants.DRIVERS[address]
            tree.function(address, identity, code, parent=above, driver=native, numa=1)
    tree.bridge("0000:3a:00.0")
    for address in ("0000:3b:00.0", "0000:3b:00.1"):
        tree.function(
            address, constants.NIC_ID, made.ETHERNET, parent="0000:3a:00.0", driver="i40e"
        )
    tree.function("0000:02:00.0", constants.NVME_ID, made.STORAGE, driver="nvme", built_in=True)
    return tree


class World:
    """A made-up host that answers, and one application's unit on it.

    What a hook leaves behind stays to be asked for: `result`, `verdict`, `status`, and `said`, the
    sentences that it gave as progress.

    Args:
        kernel: the host's kernel, which knows the host.
        tools: the host's tools.
        application: the Juju application.
    """

    def __init__(
        self, kernel: FakeKernel, tools: FakeTools, application: str = constants.APPLICATION
    ):
        self.kernel, self.tools = kernel, tools
        self.tree = kernel.tree
        self.root = self.tree.root
        self.application = application
        self.site = Site(self.root, application)
        self.owner = record.Owner(constants.MODEL_UUID, f"{application}/0", "nova-compute/0")
        self.nova = Nova(self)
        self.config: dict[str, Any] = {"devices": ""}
        self.said: list[str] = []
        self.listener: Callable[[str], object] = lambda sentence: None
        self.verdict = reboot.Verdict()
        self._result: reconcile.Result | None = None

    @classmethod
    def of(cls: type[W], tree: hosttree.HostTree, patch: pytest.MonkeyPatch) -> W:
        """The world of a host: gives it a kernel and tools."""
        return cls(FakeKernel(tree, patch), FakeTools(tree))

    def beside(self, application: str) -> World:
        """Another application's unit on the same host."""
        return type(self)(self.kernel, self.tools, application)

    # What a unit does.

    @property
    def wanted(self) -> options.Options:
        """What the configuration asks for."""
        return made.wanted(**self.config)

    def hook(self, devices: str | None = None, **config: object) -> Status:
        """Run a hook, with another configuration if ``devices`` are given.

        Names are as Python spells them, ``kernel_options`` for kernel-options. A reboot that the
        hook asks for is left to the test, as the charm leaves it to Juju.

        Returns:
            The status behind it; raises what the hook raises.
        """
        if devices is not None:
            self.config = {"devices": devices, **config}
        else:
            assert not config, "options come with devices"
        result = self.run(self.wanted)
        failed = result.outcome.failed
        self.verdict = reboot_request.arrange(result.decision, failed, self.tools)
        return self._summarize()

    def lend(self, address: str) -> reconcile.Result:
        """Lend a function to the host, as the action does."""
        with self.ledger() as ledger:
            new = lending.lend(self.decide(), address)
            ledger.update(lent={**ledger.present.lent, **new})
        return self.run(self.wanted)

    def take_back(self, address: str) -> reconcile.Result:
        """Take a function back, as the action does."""
        with self.ledger() as ledger:
            found = lending.take_back(self.wanted, survey.look(self.site), address)
            ledger.update(lent=found.left)
        return self.run(self.wanted)

    def set_aside(self, address: str) -> reconcile.Result:
        """Take a function off Nova's offer, as the action quarantine does."""
        with self.ledger() as ledger:
            aim = quarantining.set_aside(self.decide(), address)
            ledger.update(**quarantine.changes(ledger.present, aim))
        return self.run(self.wanted)

    def leave(self) -> reconcile.Result:
        """Give everything back, as the hook stop does."""
        return self.run(options.Options(leaving=True))

    def run(self, wanted: options.Options) -> reconcile.Result:
        """Bring the host to what is wanted, without a word about reboots."""
        self._result = None
        start = reconcile.Start(owner=self.owner)
        self._result = reconcile.reconcile(self.site, wanted, self.tools, self._tell, start)
        return self._result

    def decide(self, devices: str | None = None, **config: object) -> survey.Decision:
        """Look and decide, as an action does; other options than the hooks' are for once."""
        wanted = self.wanted if devices is None else made.wanted(devices, **config)
        return survey.decide(wanted, survey.look(self.site))

    def checks(self, devices: str | None = None, **config: object) -> dict[str, Check]:
        """What the action verify says, by the names of the checks."""
        decision = self.decide(devices, **config)
        return {each.name: each for each in checklist.verify(decision)}

    def shown(self, name: str) -> str:
        """One check in a line: its status, what was seen, and the way out."""
        found = self.checks()[name]
        return f"{found.status}: {found.seen}" + (f" -> {found.fix}" if found.fix else "")

    # What becomes of it.

    @property
    def result(self) -> reconcile.Result:
        """What the last hook did, and what is decided behind it."""
        assert self._result, "the last hook has not come to its end"
        return self._result

    @property
    def status(self) -> str:
        """The status behind the last hook, such as ``active: gpu: 2 ready``."""
        found = self._summarize()
        return f"{found.kind}: {found.message}"

    def record(self) -> record.Record:
        """What the application has written down."""
        return record.read(self.site)

    @contextlib.contextmanager
    def ledger(self) -> Iterator[record.Ledger]:
        """The application's record, to change it behind the charm's back."""
        with record.open(self.site) as ledger:
            yield ledger

    def drivers(self) -> dict[str, str | None]:
        """The driver of every function of the GPUs."""
        return self.kernel.drivers()

    def snapshot(self, *directories: str) -> dict[str, object]:
        """What decides how the host runs, so that two hosts can be compared.

        Args:
            directories: whose files count, see `hosttree.HostTree.snapshot`.

        Returns:
            Those files, what stands in the initramfs, and each function's driver and override.
        """
        found: dict[str, object] = dict(self.tree.snapshot(*directories))
        found["initramfs"] = sorted(self._initramfs())
        for address in sorted(os.listdir(self.root / model.DEVICES)):
            override = self.tree.read(f"{model.DEVICES}/{address}/driver_override")
            found[address] = (self.tree.driver_of(address), override)
        return found

    def forget(self) -> None:
        """Begin new logs: what was said, what tools were called, what was written to /sys."""
        self.said.clear()
        self.tools.calls.clear()
        self.kernel.forget_writes()

    # What happens to the host.

    def make_ready(self) -> None:
        """Bring the host to where the charm has its devices: configured, rebooted, and settled."""
        self.hook(constants.GPUS)
        self.reboot()
        self.hook()
        self.forget()

    def reboot(self) -> None:
        """Start the host again with what was built last; services that were stopped run again."""
        for service in tuple(self.tools.stopped):
            self.tools.services[service] = f"{self.tools.stopped.pop(service)}+"
        self.kernel.reboot()

    def turn_iommu_on(self) -> None:
        """Let the running kernel have its IOMMU on, so that binding needs no reboot."""
        self.tree.set_command_line("quiet splash intel_iommu=on")
        self.tree.iommu_on()

    def _tell(self, sentence: str) -> None:
        self.said.append(sentence)
        self.listener(sentence)

    def _summarize(self) -> Status:
        return status.summarize(self.result.decision, self.result.outcome.failed, self.verdict)

    def _initramfs(self) -> Iterator[tuple[str, bytes]]:
        for image in (self.root / "boot").glob("initrd.img-*"):
            yield from programs.read_initramfs(image).items()


class Nova:
    """Nova on a world's host, once it is installed."""

    def __init__(self, world: World):
        self._world = world

    def install(self, *packages: str) -> None:
        """Install Nova with these packages, nova-compute by default, which runs.

        Its group is the test's own, so that a file can be given to it.
        """
        tree = self._world.tree
        tree.install_nova(*packages)
        tree.write("etc/group", f"root:x:0:\nnova:x:{os.getgid()}:nova\n")
        self._world.tools.services[_SERVICE] = "run"

    @property
    def path(self) -> Path:
        """The application's drop-in."""
        return self._world.root / nova_lines.path_of(self._world.application)

    def offered(self) -> list[str]:
        """The addresses in the drop-in."""
        text = self.path.read_text() if self.path.exists() else ""
        return [
            line.split('"')[3]
            for line in text.splitlines()
            if line.startswith(("device_spec", "passthrough_whitelist"))
        ]

    def restarts(self) -> int:
        """How often nova-compute was restarted, or asked to."""
        return self._world.tools.calls.count(f"restart {_SERVICE}")
