"""A boot with ``pci-passthrough=off``: nothing is bound, what guests hold stays, and it is told."""

from __future__ import annotations

import json

import pytest
from harness import hosttree
from harness.constants import CLAIMED, GPUS, ONE
from harness.fakekernel import FakeKernel, FakeTools
from harness.world import World

from passthrough import rebind, reboot
from passthrough.host import machine
from passthrough.reporting import plan_text
from passthrough.reporting.status import Kind, Status

OFF = "pci-passthrough=off"
TOLD = (
    f"switched off for this boot: the kernel was started with {OFF}; reboot without it to have the"
    " devices claimed"
)


class Started(World):
    """A host that was ready, and can be started with the switch."""

    def start(self, *words: str) -> None:
        """Start the host; the early script and the udev rule do nothing."""
        self.tree.power_cycle()
        self.tree.set_command_line(" ".join(("quiet splash intel_iommu=on", *words)))
        self.tree.iommu_on()
        self.tree.load_natives()


@pytest.fixture
def unit(tree: hosttree.HostTree, kernel: FakeKernel, tools: FakeTools) -> Started:
    found = Started(kernel, tools)
    found.nova.install()
    found.make_ready()
    assert found.nova.offered() == ["0000:83:00.0", "0000:84:00.0"]
    return found


@pytest.mark.parametrize("word", [OFF, "pci_passthrough=off", "recovery", "single"])
def test_no_hook_of_such_a_boot_binds_anything(unit: Started, word: str):
    unit.start(word)
    natives = unit.drivers()
    assert natives["0000:83:00.0"] == "nouveau"
    told = [unit.hook() for _ in range(3)]
    assert unit.drivers() == natives
    assert told == [Status(Kind.BLOCKED, TOLD.replace(OFF, word))] * 3


def test_the_boot_files_stay_and_the_next_boot_claims(unit: Started):
    before = unit.tree.snapshot("etc/default", "etc/initramfs-tools", "etc/udev")
    unit.start(OFF)
    unit.hook()
    assert unit.tree.snapshot("etc/default", "etc/initramfs-tools", "etc/udev") == before
    assert not [each for each in unit.tools.calls if each.startswith("rebuild")]
    unit.kernel.reboot()
    assert unit.hook() == Status(Kind.ACTIVE, "gpu: 2 ready")
    assert {unit.drivers()[each] for each in CLAIMED} == {"vfio-pci"}


def test_nova_is_offered_what_a_guest_holds_and_nothing_else(unit: Started):
    """Libvirt has bound a managed device for a guest; its twin on vfio-pci is held by nobody."""
    unit.start(OFF)
    for address in CLAIMED:
        unit.tree.bind(address, "vfio-pci")
    held = unit.kernel.hold("0000:83:00.0")
    unit.hook()
    assert unit.nova.offered() == ["0000:83:00.0"]
    assert unit.drivers()["0000:83:00.0"] == "vfio-pci"
    unit.kernel.close(held)
    unit.hook()
    assert unit.nova.offered() == []


def test_what_is_claimed_no_more_is_given_back_as_ever(unit: Started):
    unit.start(OFF)
    unit.tree.bind("0000:84:00.0", "vfio-pci")
    unit.hook(ONE)
    assert unit.drivers()["0000:84:00.0"] == "nouveau"


def test_rebind_refuses_and_names_the_switch(unit: Started):
    unit.start(OFF)
    with pytest.raises(rebind.RebindError) as caught:
        rebind.rebind(unit.decide(), rebind.Chosen("0000:83:00.0"), unit.tools)
    assert str(caught.value) == (
        f"this host was started with {OFF}, so nothing is bound in this boot; reboot without {OFF}"
        " first"
    )
    assert unit.drivers()["0000:83:00.0"] == "nouveau"


def test_when_idle_does_not_reboot_out_of_it(unit: Started):
    unit.start(OFF)
    unit.hook(GPUS, reboot="when-idle", iommu_passthrough=True)
    assert unit.verdict.action is reboot.Action.NONE
    assert unit.record().reboot is None


def test_plan_and_verify_say_it(unit: Started):
    unit.start(OFF)
    decision = unit.decide()
    found = json.loads(json.dumps(plan_text.describe_plan(decision)))
    assert (found["switched-off"], found["bind"], found["at-boot"]) == (OFF, [], list(CLAIMED))
    assert TOLD in " ".join(plan_text.plan_text(decision).split())
    assert unit.shown("switch") == (
        f"fail: the kernel was started with {OFF}, so nothing is claimed in this boot -> reboot"
        f" without {OFF}"
    )


@pytest.mark.parametrize(
    ("line", "switch"),
    [
        ("quiet", ""),
        (f"quiet {OFF} splash", OFF),
        ("pci-passthrough=off pci-passthrough=on", ""),
        ("pci_passthrough=on pci-passthrough=off", OFF),
        ("pci-passthrough=on recovery", "recovery"),
        ("ro single", "single"),
        ("pci-passthrough=offline x.pci-passthrough=off pci-passthrough recovery=1 singles", ""),
    ],
)
def test_what_counts_as_the_switch(line: str, switch: str):
    assert machine.Platform(command_line=tuple(line.split())).switch == switch
