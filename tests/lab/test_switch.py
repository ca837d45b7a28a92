"""A boot with ``pci-passthrough=off`` from GRUB: whatever claims at boot leaves every card alone.

Two cards are claimed of three equal ones, so their native drivers are in the image and would have
lost the race. The third is the host's own, and a service has it open. It and the first one are
exchanged while the machine is off: every address has a card of the id that it had, so nothing
tells the early script of it, and only the switch keeps the host's card for the host. Then the
configuration follows the cards, and the boot after it, without the switch, claims again.
"""

import pathlib
from collections.abc import Iterator

import pytest

from lab import booting, hardware, kernel, machine, story, unit

pytestmark = pytest.mark.row("switch")

# The third card's memory tells it apart, wherever it stands.
MACHINES = [
    pytest.param(machine.change_model(each, "gpu2", hardware.SMALLER_GPU), id=generator)
    for each, generator in ((machine.INTEL, "initramfs-tools"), (machine.DRACUT, "dracut"))
]
OWN_BYTES = 8 << 20
PLACES = ("0000:83:00.0", "0000:84:00.0", "0000:85:00.0")
GIVEN = f"gpu=1234:1111@{PLACES[0]}, gpu=1234:1111@{PLACES[1]}"
FOLLOWED = f"gpu=1234:1111@{PLACES[1]}, gpu=1234:1111@{PLACES[2]}"
SWITCH = "pci-passthrough=off"
DROP_IN = "/etc/default/grub.d/99-switch.cfg"
PROGRAM = pathlib.Path(__file__).with_name("inside") / "own_card.py"
OWN = "own-card"
SERVICE = f"""\
[Service]
Type=notify
NotifyAccess=all
ExecStart=python3 {unit.LIBRARY}/{PROGRAM.name} {OWN_BYTES}
[Install]
WantedBy=multi-user.target
"""


def find_own(told: story.Story) -> str:
    """Return the address of the host's own card, by its memory."""
    read = f"head -qn1 {' '.join(f'/sys/bus/pci/devices/{place}/resource' for place in PLACES)}"
    regions = [line.split() for line in told.host.run(read).stdout.splitlines()]
    sizes = [int(end, 16) - int(start, 16) + 1 for start, end, _ in regions]
    return PLACES[sizes.index(OWN_BYTES)]


def read_own_service(told: story.Story) -> str:
    """Return systemd's state of the service that has the host's own card open."""
    return told.host.run(["systemctl", "is-active", OWN], check=False).stdout.strip()


@pytest.fixture(scope="module", params=MACHINES)
def bound(boot: booting.Boot, request: pytest.FixtureRequest) -> Iterator[story.Watched]:
    """The machine has been rebooted with two cards claimed, and uses the third."""
    with boot(request.param) as host:
        told = story.begin(host)
        host.put(PROGRAM, f"{unit.LIBRARY}/{PROGRAM.name}")
        host.write(f"/etc/systemd/system/{OWN}.service", SERVICE)
        host.run(["systemctl", "enable", "--now", OWN])
        with host.progress.step("deploy, claim two cards"):
            told.charm.deploy(devices=GIVEN)
        told.charm.reboot("reboot with two cards claimed")
        told.seen["bound"] = told.read_drivers(), told.with_claimed("gpu0", "gpu1")
        told.seen["own"] = find_own(told), read_own_service(told)
        yield told


@pytest.fixture(scope="module")
def switched_off(bound: story.Watched) -> story.Watched:
    """GRUB has started the machine with the switch and two cards exchanged; start has run."""
    bound.host.write(DROP_IN, f'GRUB_CMDLINE_LINUX="$GRUB_CMDLINE_LINUX {SWITCH}"\n')
    bound.host.run(["update-grub"])
    exchanged = machine.exchange(bound.host.machine, "gpu0", "gpu2")
    bound.host.rebuild(exchanged, "boot with the switch and two cards exchanged")
    bound.charm.juju("rebooted", show=True)
    bound.seen["status"] = bound.charm.read_status()
    return bound


@pytest.fixture(scope="module")
def followed(switched_off: story.Watched) -> story.Watched:
    """The configuration names the cards where they stand now, in a boot with the switch."""
    with switched_off.host.progress.step("have the configuration follow the cards"):
        switched_off.charm.configure(devices=FOLLOWED)
    switched_off.seen["followed"] = (
        switched_off.charm.read_status(),
        switched_off.read_drivers(),
        read_own_service(switched_off),
    )
    return switched_off


@pytest.fixture(scope="module")
def switched_on(followed: story.Watched) -> story.Watched:
    """GRUB has started the machine without the switch again."""
    followed.host.run(["rm", DROP_IN])
    followed.host.run(["update-grub"])
    followed.charm.reboot("boot without the switch")
    return followed


def test_the_host_has_its_own_card_and_guests_can_have_the_others(bound: story.Watched) -> None:
    drivers, expected = bound.seen["bound"]
    assert drivers == expected
    assert bound.seen["own"] == (PLACES[2], "active")


def test_the_switch_leaves_every_card_to_its_native_driver(switched_off: story.Watched) -> None:
    assert SWITCH in kernel.read_command_line(switched_off.host)
    assert switched_off.read_drivers() == switched_off.with_claimed()


def test_the_host_has_its_own_card_although_it_stands_where_a_claimed_one_stood(
    switched_off: story.Watched,
) -> None:
    assert find_own(switched_off) == PLACES[0]
    assert read_own_service(switched_off) == "active"


@pytest.mark.parametrize("name", ["gpu0", "gpu1", "gpu2"])
def test_vfio_never_touched_a_card(switched_off: story.Watched, name: str) -> None:
    log = switched_off.host.read_kernel_log()
    for address in switched_off.host.machine[name].functions:
        lines = kernel.find_mentions(log, address)
        assert [line for line in lines if line.startswith(("vfio", story.AT_BOOT))] == []


def test_the_early_script_ran_and_said_so(switched_off: story.Watched) -> None:
    said = f"{story.AT_BOOT} switched off on the kernel command line"
    assert said in switched_off.host.read_kernel_log()


def test_the_unit_says_so_and_binds_nothing(switched_off: story.Watched) -> None:
    assert switched_off.seen["status"].startswith(
        f"blocked: switched off for this boot: the kernel was started with {SWITCH}"
    )


def test_what_is_configured_in_such_a_boot_waits_for_the_next(followed: story.Watched) -> None:
    status, drivers, service = followed.seen["followed"]
    assert status.startswith("blocked: switched off for this boot: ")
    assert drivers == followed.with_claimed()
    assert service == "active"


def test_the_next_boot_claims_again_and_leaves_the_host_its_card(
    switched_on: story.Watched,
) -> None:
    assert switched_on.read_drivers() == switched_on.with_claimed("gpu0", "gpu1")
    assert switched_on.find_touches("gpu0") == []
    assert read_own_service(switched_on) == "active"
    assert switched_on.charm.read_status() == "active: gpu: 2 ready"
