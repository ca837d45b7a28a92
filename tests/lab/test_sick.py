"""Cards that fall sick: what Nova is offered then, and how often nova-compute is restarted for it.

The stages are fixtures that follow one another on one machine with two equal cards. The errors go
through the kernel's own AER driver, the power of a slot through its registers, and a card is drawn
and plugged by QEMU. The real Nova says what it would give to a guest. In place of its service is a
program that only counts its starts: there is no message broker for the real one.
"""

import dataclasses
import json
import pathlib
from collections.abc import Iterator
from typing import Any

import pytest

from lab import booting, held, kernel, machine, nova, story, unit

pytestmark = pytest.mark.row("sick")

HELD, FREE = (machine.NEWER_NOVA[name].address for name in ("nic0", "nic1"))
CARD_ID = "8086:10d3"
DEVICES = "/sys/bus/pci/devices"
INJECT = pathlib.Path(__file__).with_name("inside") / "inject_error.py"
# Data Link Protocol Error, a fatal one, and Receiver Error (PCI_ERR_UNC_DLP and PCI_ERR_COR_RCVR of
# linux/pci_regs.h).
FATAL, CORRECTABLE = ("10", "0"), ("0", "1")
STARTS = "/var/lib/nova/lab-starts"
SERVICE = f"""
[Service]
Type=simple
ExecStart=
ExecStart=/bin/sh -c 'echo start >>{STARTS}; exec sleep infinity'
"""
# The Power Controller Control of a slot (PCI_EXP_SLTCTL_PCC): set for off.
SLOT_CONTROL, POWER_OFF, POWER_ON = "CAP_EXP+0x18.w", "0400:0400", "0000:0400"
FLAPS = 4
DRAWS = 2
SCRAPE = (
    "python3 -c 'from urllib.request import urlopen;"
    ' print(urlopen("http://127.0.0.1:10285/metrics").read().decode(), end="")\''
)
# More than a function has to be well for, and more than lies between two restarts.
A_WHILE = "+2 hours"


@dataclasses.dataclass(frozen=True)
class Machine(story.Watched):
    """A story with errors and a slot's power."""

    def inject(self, address: str, error: tuple[str, str]) -> None:
        """Let a function have an error, and wait until the kernel has dealt with it."""
        program = f"{unit.LIBRARY}/{INJECT.name}"
        self.host.put(INJECT, program)
        self.host.run(["modprobe", "aer_inject"])
        self.host.run(["dmesg", "--clear"])
        self.host.run(["python3", program, address, *error])
        self.host.run("until dmesg | grep -q -E 'AER: device recovery|RxErr'; do sleep 0.2; done")

    def find_port(self, address: str) -> str:
        """Return the root port above a function."""
        place = self.host.run(["readlink", "-f", f"{DEVICES}/{address}"]).stdout.strip()
        return pathlib.PurePath(place).parent.name

    def switch_slot(self, power: str) -> None:
        """Switch the power of the free card's slot."""
        self.host.run(["setpci", "-s", self.find_port(FREE), f"{SLOT_CONTROL}={power}"])

    def draw(self) -> None:
        """Draw the free card, and wait until the kernel has it no more."""
        self.host.tell_hardware("device_del nic1")
        self.host.run(f"while [ -e {DEVICES}/{FREE} ]; do sleep 0.2; done")

    def plug(self) -> None:
        """Plug the card where it was."""
        device = f"device_add e1000e,id=nic1,bus=bus{FREE[5:7]},addr=0x0,romfile="
        assert self.host.tell_hardware(device) == ""
        self.host.run(f"until [ -e {DEVICES}/{FREE}/driver ]; do sleep 0.2; done")

    def hook(self) -> None:
        """Let the unit look as it does every few minutes."""
        self.charm.run_hook("update-status")

    def count_starts(self) -> int:
        """Return how often nova-compute was started."""
        return len(self.host.read(STARTS).split())

    def scrape(self) -> dict[str, float]:
        """Return what Prometheus would be told now: each sample's value by its name and labels."""
        lines = self.host.run(SCRAPE).stdout.splitlines()
        samples = (line.rpartition(" ") for line in lines if not line.startswith("#"))
        return {name: float(value) for name, _, value in samples}

    def look(self) -> dict[str, Any]:
        """Return what an operator, Nova and Prometheus see."""
        listed = json.loads(self.charm.run_cli("--json", "list").stdout)
        functions = {each["address"]: each for each in listed}
        return {
            "status": self.charm.read_status(),
            "assignable": nova.ask(self.host)["assignable"],
            "starts": self.count_starts(),
            "metrics": self.scrape(),
            "health": {
                address: functions[address].get("health")
                for address in (HELD, FREE)
                if address in functions
            },
        }


@pytest.fixture(scope="module")
def bound(boot: booting.Boot) -> Iterator[Machine]:
    """Both cards are claimed, the machine has been rebooted, and a process has one of them."""
    items = [
        {"alias": "nic", "id": CARD_ID, "address": address, "driver": "vfio-pci"}
        for address in (HELD, FREE)
    ]
    with boot(machine.NEWER_NOVA) as host:
        told = Machine(**vars(story.begin(host)))
        host.write(f"/etc/systemd/system/{nova.SERVICE}.service.d/lab.conf", SERVICE)
        host.run(["systemctl", "daemon-reload"])
        host.run(["systemctl", "enable", "--now", nova.SERVICE])
        with host.progress.step("deploy, claim two cards"):
            told.charm.deploy(devices=json.dumps(items), metrics="true")
        told.charm.reboot("reboot with two cards claimed")
        told.seen["power"] = host.read(f"{DEVICES}/{FREE}/power_state").strip()
        told.seen["process"] = held.start(host, HELD)
        told.seen["bound"] = told.look()
        told.seen["power after a look"] = host.read(f"{DEVICES}/{FREE}/power_state").strip()
        yield told


@pytest.fixture(scope="module")
def used(bound: Machine) -> Machine:
    """The process that has a card ended, and was started again, with hooks between."""
    for _ in range(2):
        held.stop(bound.host)
        bound.hook()
        bound.seen["process"] = held.start(bound.host, HELD)
        bound.hook()
    bound.seen["used"] = bound.look()
    return bound


@pytest.fixture(scope="module")
def repaired(used: Machine) -> Machine:
    """The link of the free card has repaired an error."""
    used.inject(FREE, CORRECTABLE)
    used.hook()
    used.seen["repaired"] = used.look()
    return used


@pytest.fixture(scope="module")
def failed(repaired: Machine) -> Machine:
    """Both cards have had a fatal error."""
    for address in (FREE, HELD):
        repaired.inject(address, FATAL)
    own = f"{DEVICES}/{FREE}/aer_dev_fatal"
    repaired.seen["own count"] = repaired.host.read(own).split()[-1]
    repaired.hook()
    repaired.seen["failed"] = repaired.look()
    repaired.hook()
    repaired.seen["a hook later"] = repaired.look()
    return repaired


@pytest.fixture(scope="module")
def let_go(failed: Machine) -> Machine:
    """The process with the other card has ended, and time has passed."""
    held.stop(failed.host)
    failed.host.run(["date", "--set", A_WHILE])
    failed.hook()
    failed.seen["let go"] = failed.look()
    return failed


@pytest.fixture(scope="module")
def rebound(let_go: Machine) -> Machine:
    """The operator has brought both back."""
    for address in (HELD, FREE):
        let_go.charm.run_action("rebind", address=address)
    let_go.hook()
    let_go.seen["rebound"] = let_go.look()
    return let_go


@pytest.fixture(scope="module")
def flapping(rebound: Machine) -> Machine:
    """The slot of the free card has lost its power again and again, with hooks between."""
    rebound.host.run(["date", "--set", A_WHILE])
    rebound.seen["off"] = []
    for number in range(FLAPS):
        rebound.switch_slot(POWER_OFF)
        rebound.hook()
        if number == 0:
            rebound.seen["off"] = rebound.look()
        rebound.switch_slot(POWER_ON)
        rebound.hook()
    rebound.seen["flapped"] = rebound.look()
    return rebound


@pytest.fixture(scope="module")
def well(flapping: Machine) -> Machine:
    """The slot has kept its power for a time."""
    for _ in range(2):
        flapping.host.run(["date", "--set", A_WHILE])
        flapping.hook()
    flapping.seen["well"] = flapping.look()
    return flapping


@pytest.fixture(scope="module")
def drawn(well: Machine) -> Machine:
    """The free card was drawn and plugged again and again, with hooks between."""
    well.host.run(["date", "--set", A_WHILE])
    for number in range(DRAWS):
        well.draw()
        well.hook()
        if number == 0:
            well.seen["drawn"] = well.look()
        well.plug()
        well.hook()
    well.seen["plugged"] = well.look()
    return well


def test_a_free_card_sleeps_and_is_seen_to_be_well_without_being_woken(bound: Machine) -> None:
    assert bound.seen["power"] == bound.seen["power after a look"] == "D3hot"
    assert bound.seen["bound"]["health"][FREE]["verdict"] == "well"


def test_prometheus_is_told_of_both_by_nobody_with_rights(bound: Machine) -> None:
    metrics = bound.seen["bound"]["metrics"]
    assert metrics['pci_passthrough_offered{alias="nic"}'] == 2
    assert metrics['pci_passthrough_held{alias="nic"}'] == 1
    user = bound.host.run("ps -o user= -p $(systemctl show -P MainPID pci-passthrough-exporter)")
    assert user.stdout.strip() not in ("", "root")


def test_both_are_offered_in_the_beginning(bound: Machine) -> None:
    assert bound.seen["bound"]["assignable"] == [HELD, FREE]
    assert bound.seen["bound"]["status"] == "active: nic: 2 ready"


def test_guests_that_come_and_go_restart_nova_compute_not_once(used: Machine) -> None:
    assert used.seen["used"]["starts"] == used.seen["bound"]["starts"]


def test_an_error_that_the_link_has_repaired_is_counted_and_changes_nothing(
    repaired: Machine,
) -> None:
    seen = repaired.seen["repaired"]
    assert seen["health"][FREE]["errors"]["correctable"] == 1
    assert seen["assignable"] == [HELD, FREE]
    assert seen["starts"] == repaired.seen["bound"]["starts"]


def test_the_kernel_counts_a_fatal_error_at_the_port_alone(failed: Machine) -> None:
    assert failed.seen["own count"] == "0"
    assert failed.seen["failed"]["health"][FREE]["errors"]["fatal"] == 1
    counted = f'pci_passthrough_function_aer_errors_total{{address="{FREE}",severity="fatal"}}'
    assert failed.seen["failed"]["metrics"][counted] == 1


def test_a_free_card_with_a_fatal_error_leaves_the_offer_and_a_held_one_stays(
    failed: Machine,
) -> None:
    assert failed.seen["failed"]["assignable"] == [HELD]
    assert failed.seen["failed"]["metrics"]['pci_passthrough_quarantined{alias="nic"}'] == 1
    assert failed.seen["failed"]["starts"] == failed.seen["bound"]["starts"] + 1
    assert held.read_process(failed.host) in (0, failed.seen["process"])


def test_the_status_names_what_is_sick(failed: Machine) -> None:
    said = failed.seen["failed"]["status"]
    assert "had a fatal PCIe error" in said
    assert not said.startswith("blocked")


def test_nothing_more_is_restarted_for_it(failed: Machine) -> None:
    assert failed.seen["a hook later"]["starts"] == failed.seen["failed"]["starts"]


def test_a_sick_card_that_is_let_go_leaves_the_offer_too(let_go: Machine) -> None:
    assert let_go.seen["let go"]["assignable"] == []
    assert let_go.seen["let go"]["starts"] == let_go.seen["failed"]["starts"] + 1


def test_rebind_brings_them_back(rebound: Machine) -> None:
    assert rebound.seen["rebound"]["assignable"] == [HELD, FREE]
    assert rebound.read_drivers()[FREE] == rebound.read_drivers()[HELD] == kernel.VFIO


def test_a_slot_without_power_takes_its_card_off_the_offer(flapping: Machine) -> None:
    assert flapping.seen["off"]["health"][FREE]["verdict"] == "sick"
    assert flapping.seen["off"]["assignable"] == [HELD]


def test_a_flapping_slot_restarts_nova_compute_once(flapping: Machine) -> None:
    assert flapping.seen["flapped"]["starts"] == flapping.seen["rebound"]["starts"] + 1
    assert flapping.seen["flapped"]["assignable"] == [HELD]


def test_with_its_power_kept_the_card_returns(well: Machine) -> None:
    assert well.seen["well"]["assignable"] == [HELD, FREE]
    assert well.seen["well"]["starts"] == well.seen["flapped"]["starts"] + 1


def test_a_card_that_is_drawn_is_missing(drawn: Machine) -> None:
    assert f"{FREE} is missing" in drawn.seen["drawn"]["status"]
    assert drawn.seen["drawn"]["assignable"] == [HELD]


def test_a_card_drawn_and_plugged_restarts_nova_compute_once_at_most(drawn: Machine) -> None:
    assert drawn.seen["plugged"]["starts"] <= drawn.seen["well"]["starts"] + 1
    assert drawn.read_drivers()[FREE] == kernel.VFIO
