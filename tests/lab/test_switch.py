"""A boot with ``pci-passthrough=off`` from GRUB: whatever claims at boot leaves every card alone.

Two cards are claimed of three equal ones, so their native drivers are in the image and would have
lost the race. The boot after it, without the switch, claims again.
"""

from collections.abc import Iterator

import pytest

from lab import booting, kernel, machine, story

pytestmark = pytest.mark.row("switch")

MACHINES = [
    pytest.param(machine.INTEL, id="initramfs-tools"),
    pytest.param(machine.DRACUT, id="dracut"),
]
GIVEN = "gpu=1234:1111@0000:83:00.0, gpu=1234:1111@0000:85:00.0"
SWITCH = "pci-passthrough=off"
DROP_IN = "/etc/default/grub.d/99-switch.cfg"


@pytest.fixture(scope="module", params=MACHINES)
def bound(boot: booting.Boot, request: pytest.FixtureRequest) -> Iterator[story.Watched]:
    """The machine has been rebooted with two cards claimed."""
    with boot(request.param) as host:
        told = story.begin(host)
        with host.progress.step("deploy, claim two cards"):
            told.charm.deploy(devices=GIVEN)
        told.charm.reboot("reboot with two cards claimed")
        yield told


@pytest.fixture(scope="module")
def switched_off(bound: story.Watched) -> story.Watched:
    """GRUB has started the machine with the switch, and the unit's start hook has run."""
    assert bound.read_drivers() == bound.with_claimed("gpu0", "gpu2")
    bound.host.write(DROP_IN, f'GRUB_CMDLINE_LINUX="$GRUB_CMDLINE_LINUX {SWITCH}"\n')
    bound.host.run(["update-grub"])
    bound.charm.reboot("boot with the switch")
    return bound


@pytest.fixture(scope="module")
def switched_on(switched_off: story.Watched) -> story.Watched:
    """GRUB has started the machine without the switch again."""
    switched_off.host.run(["rm", DROP_IN])
    switched_off.host.run(["update-grub"])
    switched_off.charm.reboot("boot without the switch")
    return switched_off


def test_the_switch_leaves_every_card_to_its_native_driver(switched_off: story.Watched) -> None:
    assert SWITCH in kernel.read_command_line(switched_off.host)
    assert switched_off.read_drivers() == switched_off.with_claimed()


@pytest.mark.parametrize("name", ["gpu0", "gpu1", "gpu2"])
def test_vfio_never_touched_a_card(switched_off: story.Watched, name: str) -> None:
    log = switched_off.host.read_kernel_log()
    for address in switched_off.host.machine[name].functions:
        lines = kernel.find_mentions(log, address)
        assert [line for line in lines if line.startswith(("vfio", story.AT_BOOT))] == []


def test_the_unit_says_so_and_binds_nothing(switched_off: story.Watched) -> None:
    assert switched_off.charm.read_status().startswith(
        f"blocked: switched off for this boot: the kernel was started with {SWITCH}"
    )


def test_the_next_boot_claims_again(switched_on: story.Watched) -> None:
    assert switched_on.read_drivers() == switched_on.with_claimed("gpu0", "gpu2")
    assert switched_on.charm.read_status() == "active: gpu: 2 ready"
