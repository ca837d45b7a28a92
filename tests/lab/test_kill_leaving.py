"""A kill before any step of giving everything back: the next run gives back what is left.

A hook of a unit that leaves and the caretaker of one that vanished do so by the same code.
"""

from collections.abc import Iterator

import pytest

from lab import booting, caretaking, files, kills, machine, story

pytestmark = pytest.mark.row("kill-leaving")

CARD = machine.INTEL["gpu0"].address
GIVEN = f"gpu=1234:1111@{CARD}"
# Of the steps, those with something new to be found dead in.
STEPS = (
    f"replace {caretaking.RECORD}",
    f"write /sys/bus/pci/devices/{CARD}/driver/unbind",
    f"write /sys/bus/pci/devices/{CARD}/driver_override",
    "remove /etc/initramfs-tools/scripts/init-top/pci-passthrough",
    "run update-initramfs",
    "remove /etc/default/grub.d/95-pci-passthrough.cfg",
    "run update-grub",
    "replace /boot/grub/grub.cfg",
    f"remove {caretaking.RECORD}",
    f"remove /etc/systemd/system/{caretaking.NAME}.timer",
    "remove /var/lib/pci-passthrough/pci-passthrough.caretaker.pyz",
)


@pytest.fixture(scope="module")
def bound(boot: booting.Boot) -> Iterator[story.Watched]:
    """A card is claimed, and the machine has been rebooted."""
    with boot(machine.INTEL) as host:
        told = story.begin(host)
        with host.progress.step("deploy with a card claimed"):
            told.charm.deploy(devices=GIVEN)
        told.charm.reboot("reboot with a card claimed")
        assert told.read_drivers() == told.with_claimed("gpu0")
        yield told


@pytest.fixture(scope="module")
def killed(bound: story.Watched) -> story.Watched:
    """Giving back was killed before each of its steps; another run followed each time."""
    killing = kills.Kills(bound.host, None)
    with bound.host.progress.step("give back undisturbed"):
        bound.seen["steps"] = killing.learn()
    with bound.host.progress.step("kill giving back before each of its steps"):
        bound.seen["kills"] = killing.visit()
    bound.seen["changed"] = bound.list_changed()
    return bound


@pytest.fixture(scope="module")
def rebooted(killed: story.Watched) -> story.Watched:
    """The machine was rebooted after the last one."""
    killed.host.reboot("reboot after the kills")
    return killed


def test_giving_back_was_killed_before_every_step(killed: story.Watched) -> None:
    steps = [kill["step"] for kill in killed.seen["kills"]]
    assert steps == killed.seen["steps"]
    assert sorted(set(STEPS) - set(steps)) == []


def test_after_a_kill_every_file_is_old_or_new_and_the_next_run_ends_alike(
    killed: story.Watched,
) -> None:
    assert kills.list_wrong(killed.seen["kills"]) == []


def test_in_the_end_nothing_of_ours_is_left(killed: story.Watched) -> None:
    # update-initramfs has made another image of the same files.
    changed = {path for path in killed.seen["changed"] if not path.startswith("/boot/initrd.img-")}
    assert changed == set()
    assert files.read_tree(killed.host, "/var/lib/pci-passthrough") == {}
    assert caretaking.find_claims(killed.host) == []


def test_the_next_boot_has_every_card_on_its_native_driver(rebooted: story.Watched) -> None:
    assert rebooted.read_drivers() == rebooted.with_claimed()
    log = rebooted.host.read_kernel_log()
    assert [line for line in log if line.startswith(story.AT_BOOT)] == []
