"""A kill before any step of a run: the next run ends alike, with a reboot in between or without.

The stages are fixtures that follow one another on one machine, as in test_main_job.py.
"""

import itertools
from collections.abc import Iterator

import pytest

from lab import booting, kernel, kills, machine, story, unit

pytestmark = pytest.mark.row("kill")

GPU, NIC = machine.INTEL["gpu0"].address, machine.INTEL["nic1"].address
BEFORE = {"devices": f"gpu=1234:1111@{GPU}"}
# With another option for the kernel every file is written anew, and everything is rebuilt.
OPTION = "hung_task_panic=0"
AFTER = {"devices": f"{BEFORE['devices']}, nic=8086:10d3@{NIC}", "kernel-options": OPTION}
RECORD = "/var/lib/pci-passthrough/pci-passthrough.json"
# Every step of a run whose kill leaves something else behind, in their order.
STEPS = (
    f"replace {RECORD}",
    "replace /etc/udev/rules.d/60-pci-passthrough.rules",
    "replace /etc/initramfs-tools/scripts/init-top/pci-passthrough",
    "run update-initramfs",
    f"replace {RECORD}",
    "replace /etc/default/grub.d/95-pci-passthrough.cfg",
    "run update-grub",
    "replace /boot/grub/grub.cfg",
    f"replace {RECORD}",
    "run modprobe",
    f"write /sys/bus/pci/devices/{NIC}/driver_override",
    f"write /sys/bus/pci/devices/{NIC}/driver/unbind",
    "write /sys/bus/pci/drivers_probe",
    "remove /run/pci-passthrough.lock",
)


@pytest.fixture(scope="module")
def bound(boot: booting.Boot) -> Iterator[story.Story]:
    """A card is claimed, and the machine has been rebooted."""
    with boot(machine.INTEL) as host:
        charm = unit.Unit(host)
        with host.progress.step("deploy with a card claimed"):
            charm.deploy(**BEFORE)
        charm.reboot("reboot with a card claimed")
        yield story.Story(host, charm)


@pytest.fixture(scope="module")
def killed(bound: story.Story) -> story.Story:
    """A run that claims a second device was killed before each of its steps; the next followed."""
    killing = kills.Kills(bound.host, AFTER)
    with bound.host.progress.step("an undisturbed run"):
        bound.seen["steps"] = killing.learn()
    with bound.host.progress.step("kill a run before each of its steps"):
        bound.seen["kills"] = killing.visit()
    return bound


@pytest.fixture(scope="module")
def rebooted(killed: story.Story) -> story.Story:
    """The same, but the machine was rebooted before the next run."""
    killing = kills.Kills(killed.host, AFTER)
    killed.seen["reboots"] = []
    for number in itertools.count(1):
        kill = killing.kill(number)
        if not kill["step"]:
            break
        killed.host.reboot(f"reboot after a kill before: {kill['step']}")
        kill["drivers"] = killed.read_drivers()
        kill["not mended"] = killing.mend()
        killed.seen["reboots"].append(kill)
    return killed


@pytest.fixture(scope="module")
def ended(rebooted: story.Story) -> story.Story:
    """Undisturbed again, the machine was rebooted once more, and its hooks ran."""
    rebooted.charm.configure(AFTER)
    rebooted.charm.reboot("reboot at the end of the kills")
    return rebooted


@pytest.mark.parametrize("seen", ["kills", "reboots"])
def test_a_run_was_killed_before_every_step(rebooted: story.Story, seen: str) -> None:
    killed = [kill["step"] for kill in rebooted.seen[seen]]
    assert killed == rebooted.seen["steps"]
    names = iter(killed)
    assert [step for step in STEPS if step not in names] == []


@pytest.mark.parametrize("seen", ["kills", "reboots"])
def test_after_a_kill_every_file_is_old_or_new_and_the_next_run_ends_alike(
    rebooted: story.Story, seen: str
) -> None:
    """Alike: the same bytes, the same images, the same drivers as after an undisturbed run."""
    assert kills.list_wrong(rebooted.seen[seen]) == []


def test_after_a_kill_the_host_boots_as_the_initramfs_that_was_left_says(
    rebooted: story.Story,
) -> None:
    old, new = rebooted.with_claimed("gpu0"), rebooted.with_claimed("gpu0", "nic1")
    wrong = [
        (kill["step"], kill["drivers"])
        for kill in rebooted.seen["reboots"]
        if kill["drivers"] != (new if kill["new images"] else old)
    ]
    assert wrong == []


def test_in_the_end_the_unit_is_ready_and_verify_passes(ended: story.Story) -> None:
    assert OPTION in kernel.read_command_line(ended.host)
    assert ended.read_drivers() == ended.with_claimed("gpu0", "nic1")
    assert ended.charm.read_status() == "active: gpu: 1 ready, nic: 1 ready"
    assert ended.list_failed_checks() == ""
