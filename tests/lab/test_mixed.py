"""One machine, many peculiarities: what a claim meets besides two plain cards.

The stages follow one another: the machine gets MAAS's kernel options and loses its newer kernel;
what is refused is refused while nothing is claimed yet; then everything is claimed at once, the
machine reboots, gets the newer kernel, and reboots into that.
"""

import dataclasses
import pathlib
import shlex
from collections.abc import Iterator

import pytest

from lab import booting, container, files, guest, kernel, machine, story, unit

SERIAL = machine.MIXED["serial"].address
BRIDGE, *PAIR = machine.MIXED["oldpci"].functions
PF = machine.MIXED["sriov"].address
VF_ID = "8086:10ca"
VFS = 2
HALF_A_PAIR = f"old=8086:100e@{PAIR[0]}"
CARD_WITH_VFS = f"nic=8086:10c9/PF@{PF}"
# Such a card without VFs, to give away whole: Nova calls it type-PF all the same.
WHOLE = machine.MIXED["whole"].address
UNTYPED = f"whole=8086:10c9@{WHOLE}"
TYPED = f"whole=8086:10c9/PF@{WHOLE}"
GIVEN = f'"serial=1b36:0002", "old=8086:100e", {{alias: vf, id: "{VF_ID}", device-type: type-VF}}'
CLAIMED = ("serial", "oldpci", "whole")
READY = (
    "active: old: 2 ready (1 at once, one guest a group), serial: 1 ready, vf: 2 ready, whole: 1"
    f" ready; {' '.join(PAIR)} share IOMMU group 11: one guest at a time can have any"
)
ON = "intel_iommu=on"

# As curtin writes the options of a tag; and what sets them again behind it, in the lab, is gone.
MAAS = 'GRUB_CMDLINE_LINUX_DEFAULT="intel_iommu=on iommu=pt"\n'
LAB_SETTINGS = "/etc/default/grub.d/10-lab.cfg"
# As netplan's virtual-function-count, or an administrator, has the card's own driver make VFs.
VF_RULE = (
    f'ACTION=="add", SUBSYSTEM=="net", KERNELS=="{PF}", DRIVERS=="igb",'
    f' ATTR{{device/sriov_numvfs}}="{VFS}"\n'
)
# A kernel's package unpacks files and runs its postinst. Here the files are kept elsewhere on the
# same disk in between, and update-initramfs forgets the kernel as the package's removal has it do.
HIDE_KERNEL = """
set -e
release=$1
mkdir /var/kept
update-initramfs -d -k "$release"
mv /lib/modules/"$release" /var/kept/modules
mkdir /var/kept/boot
mv /boot/*-"$release" /var/kept/boot/
"""
BRING_KERNEL = """
set -e
release=$1
mv /var/kept/modules /lib/modules/"$release"
mv /var/kept/boot/* /boot/
DEBIAN_FRONTEND=noninteractive dpkg-reconfigure linux-image-"$release"
"""


@dataclasses.dataclass(frozen=True)
class Machine(story.Watched):
    """A story on a machine with two kernels."""

    newer: str
    older: str

    def read_vf_drivers(self) -> list[str | None]:
        found = kernel.read_functions(self.host).values()
        return [function.driver for function in found if function.id == VF_ID]


@pytest.fixture(scope="module")
def prepared(boot: booting.Boot) -> Iterator[Machine]:
    """The older kernel runs, started the way MAAS set it up; the charm is not deployed."""
    with boot(machine.MIXED) as host:
        newer = _read_release(host)
        with host.progress.step("hide the newer kernel, set the options of MAAS"):
            host.run(["sh", "-c", HIDE_KERNEL, "sh", newer])
            host.run(f"sed -i /^GRUB_CMDLINE_LINUX_DEFAULT=/d {LAB_SETTINGS} /etc/default/grub")
            host.write("/etc/default/grub", f"{host.read('/etc/default/grub')}{MAAS}")
            host.write("/etc/udev/rules.d/50-virtual-functions.rules", VF_RULE)
            host.run("update-grub")
        host.reboot("reboot as MAAS has set it up")
        yield Machine(**vars(story.begin(host)), newer=newer, older=_read_release(host))


@pytest.fixture(scope="module")
def halved(prepared: Machine) -> Machine:
    """One of the two cards behind the bridge is asked for."""
    with prepared.host.progress.step("deploy, ask for half a group"):
        prepared.charm.deploy(devices=HALF_A_PAIR)
    return prepared


@pytest.fixture(scope="module")
def over_vfs(halved: Machine) -> Machine:
    """The card that has VFs is asked for."""
    halved.charm.configure(devices=CARD_WITH_VFS)
    return halved


@pytest.fixture(scope="module")
def inside(prepared: Machine) -> Iterator[container.Container]:
    """A unit of its own is deployed in a container, with a device that the container sees."""
    with container.start(prepared.host) as found:
        with prepared.host.progress.step("deploy in the container"):
            deploy = ["deploy", unit.CHARM, "--principal", unit.PRINCIPAL]
            _run_agent(found, *deploy, "--config", "devices=gpu=1234:1111")
        yield found


@pytest.fixture(scope="module")
def untyped(over_vfs: Machine) -> Machine:
    """All is asked for that can be had, the whole card without the type that Nova gives it."""
    with over_vfs.host.progress.step("claim six functions"):
        over_vfs.charm.configure(devices=f"[{GIVEN}, {UNTYPED}]")
    over_vfs.seen["untyped"] = over_vfs.charm.read_status()
    return over_vfs


@pytest.fixture(scope="module")
def claimed(untyped: Machine) -> Machine:
    """The serial card, both cards behind the bridge, a whole card and another's VFs are claimed."""
    untyped.charm.configure(devices=f"[{GIVEN}, {TYPED}]")
    return untyped


@pytest.fixture(scope="module")
def bound(claimed: Machine) -> Machine:
    """The machine has been rebooted."""
    claimed.host.reboot("reboot with six functions claimed")
    claimed.seen["before any hook"] = claimed.read_vf_drivers()
    claimed.charm.juju("rebooted", show=True)
    return claimed


@pytest.fixture(scope="module")
def upgraded(bound: Machine) -> Machine:
    """The newer kernel is installed, and has been booted."""
    with bound.host.progress.step("install the newer kernel"):
        bound.host.run(["sh", "-c", BRING_KERNEL, "sh", bound.newer])
    bound.charm.reboot("reboot into the newer kernel")
    return bound


def _read_release(host: guest.Guest) -> str:
    return host.run(["uname", "-r"]).stdout.strip()


def _run_agent(inside: container.Container, *words: str) -> str:
    """Run the stand-in agent in the container, with a model of its own."""
    agent = f"PYTHONPATH={unit.LIBRARY} python3 -m harness.standin --dir /var/lib/standin-inside"
    return inside.run(f"{agent} {shlex.join(words)}")


def _is_ours(path: str) -> bool:
    return "pci-passthrough" in pathlib.PurePosixPath(path).name


# Refused: nothing is written


@pytest.mark.row("built-in")
def test_the_serial_cards_driver_is_built_into_the_kernel(prepared: Machine) -> None:
    built_in = prepared.host.read(f"/lib/modules/{prepared.older}/modules.builtin")
    assert "/8250_pci.ko" in built_in
    assert prepared.read_drivers()[SERIAL] == "serial"


@pytest.mark.row("pci-bridge")
def test_one_card_of_two_in_a_group_is_refused_and_the_other_named(halved: Machine) -> None:
    status = halved.charm.read_status()
    assert status.startswith("blocked: ")
    assert f"{PAIR[0]} shares IOMMU group" in status
    assert f"with {PAIR[1]} (8086:100e, e1000)" in status


@pytest.mark.row("sr-iov")
def test_a_card_that_has_vfs_is_refused(over_vfs: Machine) -> None:
    assert over_vfs.read_vf_drivers() == ["igbvf"] * VFS
    status = over_vfs.charm.read_status()
    assert status.startswith("blocked: ")
    assert f"{PF} has {VFS} VFs, which would go with its driver" in status


@pytest.mark.row("sr-iov")
def test_what_is_refused_leaves_nothing_behind(over_vfs: Machine) -> None:
    assert over_vfs.list_rewritten() == set()
    assert over_vfs.read_drivers() == over_vfs.with_claimed()


@pytest.mark.row("container")
def test_the_container_sees_the_device_and_is_known_as_one(inside: container.Container) -> None:
    gpu = machine.MIXED["gpu0"].address
    assert inside.run(f"cat /sys/bus/pci/devices/{gpu}/vendor") == "0x1234\n"
    assert inside.run("systemd-detect-virt --container") == "systemd-nspawn\n"


@pytest.mark.row("container")
def test_in_a_container_the_unit_is_blocked_with_the_way_out(
    inside: container.Container,
) -> None:
    status = _run_agent(inside, "status")
    assert status.startswith("blocked: this unit is in a container")
    assert "deploy nova-compute and this charm on a machine" in status


@pytest.mark.row("container")
@pytest.mark.usefixtures("inside")
def test_in_a_container_nothing_is_written_there_or_on_its_host(prepared: Machine) -> None:
    written = files.read_tree(prepared.host, container.WRITTEN)
    places = tuple(f"{container.WRITTEN}{path}" for path in story.WATCHED)
    assert [path for path in written if path.startswith(places) and _is_ours(path)] == []
    assert prepared.list_rewritten() == set()
    assert prepared.read_drivers() == prepared.with_claimed()


# Claimed


@pytest.mark.row("maas")
def test_with_the_iommu_on_all_is_claimed_at_once_and_no_reboot_is_asked_for(
    claimed: Machine,
) -> None:
    assert claimed.charm.read_status() == READY
    assert claimed.read_drivers() == claimed.with_claimed(*CLAIMED)


@pytest.mark.row("maas")
def test_the_options_of_maas_stay_and_ours_come_last_and_once(claimed: Machine) -> None:
    claimed.charm.run_hook("update-status")
    assert MAAS in claimed.host.read("/etc/default/grub")
    config = claimed.host.read("/boot/grub/grub.cfg")
    lines = [line.split() for line in config.splitlines() if line.split()[:1] == ["linux"]]
    # The recovery entry has none of GRUB_CMDLINE_LINUX_DEFAULT.
    default, *_ = lines
    options = [word for word in default if "iommu" in word]
    assert options == ["intel_iommu=off", ON, "iommu=pt", ON]


@pytest.mark.row("maas")
def test_the_options_of_maas_are_named_among_what_is_left_over(claimed: Machine) -> None:
    plan = claimed.charm.run_action("plan")
    assert "/etc/default/grub" in plan["results"]["table"]


@pytest.mark.row("maas")
def test_the_running_kernel_has_them_in_that_order(bound: Machine) -> None:
    line = kernel.read_command_line(bound.host)
    assert [word for word in line if "iommu" in word] == ["intel_iommu=off", ON, "iommu=pt", ON]


@pytest.mark.row("built-in")
def test_at_boot_the_built_in_driver_lets_go(bound: Machine) -> None:
    mentions = kernel.find_mentions(bound.host.read_kernel_log(), SERIAL)
    (asked,) = [line for line in mentions if "asking it to let go" in line]
    assert mentions.index(asked) < mentions.index(f"{story.AT_BOOT} {SERIAL} is on vfio-pci")
    assert bound.read_drivers()[SERIAL] == kernel.VFIO


@pytest.mark.row("pci-bridge")
def test_both_cards_of_the_group_are_claimed_and_the_bridge_is_not(bound: Machine) -> None:
    found = kernel.read_functions(bound.host)
    assert {found[address].group for address in (BRIDGE, *PAIR)} == {found[BRIDGE].group}
    assert {address: found[address].driver for address in (BRIDGE, *PAIR)} == {
        BRIDGE: None,
        **dict.fromkeys(PAIR, kernel.VFIO),
    }
    assert bound.find_touches("oldpci") == []


@pytest.mark.row("sr-iov")
def test_a_whole_card_is_blocked_until_its_item_has_the_type_that_nova_gives_it(
    untyped: Machine,
) -> None:
    assert untyped.seen["untyped"] == (
        f"blocked: devices: item 4 {UNTYPED}: {WHOLE} is SR-IOV capable, so alias whole"
        f" (type-PCI) never matches it; write the item as {TYPED}"
    )


@pytest.mark.row("sr-iov")
def test_vfs_that_appear_during_the_boot_go_to_vfio_and_the_card_stays(bound: Machine) -> None:
    """They are not there when the initramfs runs: the rule for udev takes them, before any hook."""
    assert bound.seen["before any hook"] == [kernel.VFIO] * VFS
    assert bound.read_vf_drivers() == [kernel.VFIO] * VFS
    assert bound.read_drivers()[PF] == "igb"


@pytest.mark.row("sr-iov")
def test_after_the_reboot_the_unit_is_ready_and_verify_passes(bound: Machine) -> None:
    assert bound.charm.read_status() == READY
    assert bound.list_failed_checks() == ""


@pytest.mark.row("kernel-upgrade")
def test_the_newer_kernel_runs(upgraded: Machine) -> None:
    assert upgraded.newer != upgraded.older
    assert _read_release(upgraded.host) == upgraded.newer


@pytest.mark.row("kernel-upgrade")
def test_its_first_boot_made_the_claims(upgraded: Machine) -> None:
    log = upgraded.host.read_kernel_log()
    for address in (SERIAL, *PAIR, WHOLE):
        assert f"{story.AT_BOOT} {address} is on vfio-pci" in log
    assert upgraded.read_drivers() == upgraded.with_claimed(*CLAIMED)


@pytest.mark.row("kernel-upgrade")
def test_with_it_the_unit_is_ready_and_verify_passes(upgraded: Machine) -> None:
    assert upgraded.charm.read_status() == READY
    assert upgraded.list_failed_checks() == ""
