"""VFs that the charm has a NIC's own driver make: after boots, after kills, with one that is held.

The stages are fixtures that follow one another on one machine. Its NIC is real as far as igb and
igbvf go: igb makes the VFs, and igbvf would have every one of them.
"""

import dataclasses
import json
from collections.abc import Iterator
from typing import Any

import pytest

from lab import booting, guest, held, kernel, kills, machine, story

pytestmark = pytest.mark.row("vfs")

PF = machine.VFS["sriov"].address
PF_ID, VF_ID = "8086:10c9", "8086:10ca"
# The 82576 puts its first VF 0x80 behind itself, and each other one two behind the one before.
ADDRESSES = [f"{PF[:8]}10.{number}" for number in (0, 2, 4, 6)]
DEVICE = f"/sys/bus/pci/devices/{PF}"
UNIT = "/etc/systemd/system/pci-passthrough-vfs.service"
SWITCH = "pci-passthrough=off"
DROP_IN = "/etc/default/grub.d/99-switch.cfg"
IOMMU = "/etc/default/grub.d/50-iommu.cfg"
# Of the steps of a run that makes two VFs, those with something new to be found dead in.
STEPS = (
    f"write {DEVICE}/sriov_drivers_autoprobe",
    f"write {DEVICE}/sriov_numvfs",
    "replace /etc/udev/rules.d/60-pci-passthrough.rules",
    f"replace {UNIT}",
    f"write /sys/bus/pci/devices/{ADDRESSES[1]}/driver_override",
)


def ask(number: int) -> str:
    """Return the option: so many VFs of the card, and an alias for them."""
    card = json.dumps({"id": PF_ID, "address": PF, "vfs": number})
    return f"[{card}, vf={VF_ID}/VF]"


@dataclasses.dataclass(frozen=True)
class Machine(story.Watched):
    """A story on the machine with the NIC."""

    def read_vfs(self) -> dict[str, str | None]:
        """Return the driver of every VF by address."""
        found = kernel.read_functions(self.host)
        return {address: each.driver for address, each in found.items() if each.id == VF_ID}

    def read_number(self) -> str:
        """Return how many VFs the card has, and whether their own driver may have them."""
        names = ("sriov_numvfs", "sriov_drivers_autoprobe")
        return " ".join(self.host.read(f"{DEVICE}/{name}").strip() for name in names)

    def list_native_touches(self) -> list[str]:
        """Return the lines of the kernel's log by which a driver but vfio-pci had a VF."""
        log = self.host.read_kernel_log()
        return [
            line
            for address in ADDRESSES
            for line in kernel.find_mentions(log, address)
            if not line.startswith((story.AT_BOOT, kernel.VFIO))
        ]

    def look(self) -> dict[str, Any]:
        """Return all of it, with the unit's status."""
        return {
            "vfs": self.read_vfs(),
            "number": self.read_number(),
            "touches": self.list_native_touches(),
            "status": self.charm.read_status(),
        }


def claimed(number: int) -> dict[str, str]:
    """Return what the drivers of so many VFs have to be."""
    return dict.fromkeys(ADDRESSES[:number], kernel.VFIO)


def read_port(host: guest.Guest) -> str:
    """Return the name of the card's interface."""
    return kernel.read_interfaces(host)[PF]


@pytest.fixture(scope="module")
def made(boot: booting.Boot) -> Iterator[Machine]:
    """Two VFs are asked for while the IOMMU is off and the card's port is down."""
    with boot(machine.VFS) as host:
        told = Machine(**vars(story.begin(host)))
        with host.progress.step("deploy, ask for two VFs"):
            told.charm.deploy(devices=ask(2))
        told.seen["made"] = told.look()
        yield told


@pytest.fixture(scope="module")
def bound(made: Machine) -> Machine:
    """The machine has been rebooted: its IOMMU is on."""
    made.charm.reboot("reboot with two VFs asked for")
    made.seen["bound"] = made.look()
    made.seen["failed checks"] = made.list_failed_checks()
    made.seen["log"] = made.host.read_kernel_log()
    return made


@pytest.fixture(scope="module")
def holding(bound: Machine) -> Machine:
    """A process has the second VF, and three are asked for; then it ends."""
    process = held.start(bound.host, ADDRESSES[1])
    bound.charm.configure(devices=ask(3))
    bound.seen["held"] = {**bound.look(), "process": process}
    held.stop(bound.host)
    bound.charm.run_hook("update-status")
    bound.seen["free"] = bound.look()
    return bound


@pytest.fixture(scope="module")
def busy(holding: Machine) -> Machine:
    """The card's port is up while four are asked for; then the machine is rebooted."""
    holding.host.run(["ip", "link", "set", read_port(holding.host), "up"])
    holding.charm.configure(devices=ask(4))
    holding.seen["busy"] = holding.look()
    holding.charm.reboot("reboot with four VFs asked for")
    holding.seen["four"] = holding.look()
    return holding


@pytest.fixture(scope="module")
def switched_off(busy: Machine) -> Machine:
    """GRUB has started the machine with the switch, then without it again."""
    busy.host.write(DROP_IN, f'GRUB_CMDLINE_LINUX="$GRUB_CMDLINE_LINUX {SWITCH}"\n')
    busy.host.run(["update-grub"])
    busy.charm.reboot("boot with the switch")
    busy.seen["switched off"] = busy.look()
    busy.host.run(["rm", DROP_IN])
    busy.host.run(["update-grub"])
    busy.charm.reboot("boot without the switch")
    busy.seen["switched on"] = busy.look()
    return busy


@pytest.fixture(scope="module")
def given_up(switched_off: Machine) -> Machine:
    """No VF is asked for any more."""
    switched_off.charm.configure(devices="")
    switched_off.seen["given up"] = switched_off.look()
    return switched_off


@pytest.fixture(scope="module")
def killed(given_up: Machine) -> Machine:
    """A run that makes two VFs was killed before some of its steps, with a boot and a run after.

    The operator has turned the IOMMU on: without it a boot after a kill could bind nothing.
    """
    given_up.host.write(IOMMU, 'GRUB_CMDLINE_LINUX="$GRUB_CMDLINE_LINUX intel_iommu=on"\n')
    given_up.host.run(["update-grub"])
    killing = kills.Kills(given_up.host, {"devices": ask(2)})
    with given_up.host.progress.step("an undisturbed run"):
        given_up.seen["steps"] = killing.learn()
    given_up.seen["kills"] = []
    for where in STEPS:
        kill = killing.kill(where)
        given_up.host.reboot(f"reboot after a kill before: {kill['step']}")
        kill["booted"] = given_up.look()
        kill["not mended"] = killing.mend()
        kill["mended"] = given_up.look()
        given_up.seen["kills"].append(kill)
    return given_up


@pytest.fixture(scope="module")
def removed(killed: Machine) -> Machine:
    """The application is removed."""
    killed.charm.configure(devices=ask(2))
    killed.seen["before removal"] = killed.look()
    killed.charm.remove()
    killed.seen["removed"] = {"vfs": killed.read_vfs(), "number": killed.read_number()}
    return killed


def test_a_port_that_is_down_gets_them_at_once_without_their_own_driver(made: Machine) -> None:
    assert made.seen["made"]["vfs"] == dict.fromkeys(ADDRESSES[:2])
    assert made.seen["made"]["number"] == "2 1"
    assert made.seen["made"]["touches"] == []
    assert made.seen["made"]["status"].startswith("blocked: reboot required: the IOMMU is off")


def test_a_boot_makes_them_and_has_them_on_vfio(bound: Machine) -> None:
    assert bound.seen["bound"]["vfs"] == claimed(2)
    assert bound.seen["bound"]["number"] == "2 1"
    assert bound.seen["bound"]["status"] == "active: vf: 2 ready"
    assert bound.seen["failed checks"] == ""
    assert f"{story.AT_BOOT} {PF} has 2 of 2 VFs" in bound.seen["log"]
    for address in ADDRESSES[:2]:
        assert f"{story.AT_BOOT} {address} is on vfio-pci" in bound.seen["log"]


def test_their_card_stays_with_the_host(bound: Machine) -> None:
    assert bound.read_drivers()[PF] == "igb"
    assert bound.read_drivers()[machine.VFS["other"].address] == "igb"


def test_another_number_is_refused_while_a_process_has_one(holding: Machine) -> None:
    seen = holding.seen["held"]
    assert seen["vfs"] == claimed(2)
    said = f"{PF} keeps its 2 VFs, as {ADDRESSES[1]} is open in process {seen['process']}"
    assert seen["status"].startswith(f"blocked: devices: item 1 {PF_ID}@{PF}: {said}")


def test_once_it_has_ended_the_next_hook_makes_them_anew(holding: Machine) -> None:
    assert holding.seen["free"]["vfs"] == claimed(3)
    assert holding.seen["free"]["status"] == "active: vf: 3 ready"


def test_a_port_that_is_up_is_not_reset(busy: Machine) -> None:
    seen = busy.seen["busy"]
    assert seen["vfs"] == claimed(3)
    assert f"{PF} gets its 4 VFs at the next boot" in seen["status"]
    assert busy.seen["four"]["vfs"] == claimed(4)
    assert busy.seen["four"]["status"] == "active: vf: 4 ready"


def test_a_boot_with_the_switch_makes_none(switched_off: Machine) -> None:
    assert switched_off.seen["switched off"]["number"] == "0 1"
    assert switched_off.seen["switched off"]["vfs"] == {}
    assert switched_off.seen["switched on"]["vfs"] == claimed(4)


def test_what_is_not_asked_for_any_more_goes(given_up: Machine) -> None:
    assert given_up.seen["given up"]["vfs"] == {}
    assert given_up.seen["given up"]["number"] == "0 1"


def test_a_run_was_killed_before_each_of_the_steps(killed: Machine) -> None:
    found = [kill["step"] for kill in killed.seen["kills"]]
    assert all(step in name for step, name in zip(STEPS, found, strict=True)), found


def test_after_a_kill_and_a_boot_the_next_run_ends_alike(killed: Machine) -> None:
    assert kills.list_wrong(killed.seen["kills"]) == []
    assert [kill["mended"]["vfs"] for kill in killed.seen["kills"]] == [claimed(2)] * len(STEPS)
    assert [kill["mended"]["number"] for kill in killed.seen["kills"]] == ["2 1"] * len(STEPS)


@pytest.mark.parametrize(
    "stage", ["made", "bound", "held", "free", "busy", "four", "switched on", "given up"]
)
def test_their_own_driver_never_had_one(given_up: Machine, stage: str) -> None:
    assert given_up.seen[stage]["touches"] == []


def test_nor_after_a_kill(killed: Machine) -> None:
    looks = [kill[when] for kill in killed.seen["kills"] for when in ("booted", "mended")]
    assert [look["touches"] for look in looks] == [[]] * len(looks)


def test_a_removal_gives_them_back(removed: Machine) -> None:
    assert removed.seen["before removal"]["vfs"] == claimed(2)
    assert removed.seen["removed"] == {"vfs": {}, "number": "0 1"}
    assert [path for path in removed.list_changed() if "pci-passthrough" in path] == []
