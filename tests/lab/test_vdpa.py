"""A card with a vDPA device, as NICs have them: whoever has its vhost-vdpa node open is a guest.

The stages are fixtures that follow one another on one machine. Its vDPA device is real as far as
the kernel goes, from vdpa's bus to vhost-vdpa's node; the driver below it is the lab's own, which
moves no data.
"""

import dataclasses
import json
from collections.abc import Iterator
from typing import Any

import pytest

from lab import booting, files, held, kernel, machine, story, uses

pytestmark = pytest.mark.row("vdpa")

CARD = machine.NEWER_NOVA["vdpa"].address
CARD_ID, NATIVE = "1234:11e8", "lab-vdpa"
NAME = "vhost-vdpa-0"
NODE, PLACE = f"/dev/{NAME}", f"/sys/bus/vdpa/devices/vdpa0/{NAME}"
# Something else is claimed, so that the IOMMU is on.
OTHER = f"nic=8086:10d3@{machine.NEWER_NOVA['nic0'].address}"
ASKED = f"{CARD_ID}@{CARD}"
IN_SPITE = json.dumps({"id": CARD_ID, "address": CARD, "allow-in-use": True})
PART = "has parts that would go with its driver: vDPA device vdpa0"
# The processes, by the units of systemd that run them.
HERE, ELSEWHERE = "lab-vdpa", "lab-vdpa-elsewhere"
HOLDERS = {
    HERE: uses.run(HERE, f"exec 3<>{NODE}"),
    ELSEWHERE: uses.run_elsewhere(ELSEWHERE, "c", f"cat {PLACE}/dev"),
}


@dataclasses.dataclass(frozen=True)
class Machine(story.Watched):
    """A story on the machine with the card."""

    def plan_card(self, item: str) -> dict[str, Any]:
        """Return the plan for the card, beside the other one."""
        return self.plan(f"[{OTHER}, {item}]")

    def read_reasons(self, item: str) -> dict[str, str]:
        """Return the rule and the reason of each refusal in that plan."""
        refusals = self.plan_card(item)["refusals"]
        return {refusal["rule"]: refusal["reason"] for refusal in refusals}

    def read_driver(self) -> str | None:
        """Return the card's driver."""
        return self.read_drivers()[CARD]

    def has_node(self) -> bool:
        """Say whether the vDPA device has its node."""
        return self.host.run(["test", "-c", NODE], check=False).status == 0

    def look(self) -> dict[str, Any]:
        """Return what an operator sees of the card."""
        return {
            "status": self.charm.read_status(),
            "driver": self.read_driver(),
            "override": kernel.read_functions(self.host)[CARD].override,
            "node": self.has_node(),
        }


@pytest.fixture(scope="module")
def ready(boot: booting.Boot) -> Iterator[Machine]:
    """Another card is claimed, the IOMMU is on, and vhost-vdpa has given the vDPA device a node."""
    with boot(machine.NEWER_NOVA) as host:
        told = Machine(**vars(story.begin(host)))
        with host.progress.step("deploy, claim another card"):
            told.charm.deploy(devices=OTHER)
        told.charm.reboot("reboot with another card claimed")
        host.run(["modprobe", "vhost_vdpa"])
        host.run(["udevadm", "settle"])
        told.seen["ready"] = told.look()
        told.seen["place"] = host.run(["readlink", "-f", PLACE]).stdout.strip()
        told.seen["unopened"] = told.read_reasons(ASKED)
        told.seen["overridden"] = told.plan_card(IN_SPITE)
        yield told


@pytest.fixture(scope="module")
def holding(ready: Machine) -> Machine:
    """One process after the other has had the node open, while the card was asked for."""
    own = ready.host.run(["readlink", "/proc/1/ns/pid", "/proc/1/ns/mnt"]).stdout.split()
    ready.seen["hosts own"] = own
    for name, command in HOLDERS.items():
        with ready.host.progress.step(f"ask for a card that {name} holds"):
            ready.host.run(command)
            process = held.read_sleeper(ready.host, name)
            before = ready.read_tree()
            links = [f"/proc/{process}/{link}" for link in ("ns/pid", "ns/mnt", "fd/3")]
            reasons = [ready.read_reasons(item) for item in (ASKED, IN_SPITE)]
            ready.charm.configure(devices=f"[{OTHER}, {IN_SPITE}]")
            ready.seen[name] = {
                **ready.look(),
                "reasons": reasons,
                "process": process,
                "places": ready.host.run(["readlink", *links]).stdout.split(),
                "processes left": held.read_sleeper(ready.host, name),
                "rewritten": files.list_rewritten(before, ready.read_tree()),
            }
            ready.host.run(["systemctl", "stop", name])
            if name is not list(HOLDERS)[-1]:
                ready.charm.configure(devices=OTHER)
    return ready


@pytest.fixture(scope="module")
def closed(holding: Machine) -> Machine:
    """The last process has ended, and the next hook has run."""
    holding.charm.run_hook("update-status")
    holding.seen["closed"] = holding.look()
    return holding


@pytest.fixture(scope="module")
def given_back(closed: Machine) -> Machine:
    """The card was taken out of the configuration."""
    closed.charm.configure(devices=OTHER)
    closed.seen["given back"] = closed.look()
    return closed


def test_the_node_stands_below_the_card(ready: Machine) -> None:
    assert ready.seen["ready"]["node"]
    assert ready.seen["ready"]["driver"] == NATIVE
    assert ready.seen["place"].endswith(f"/{CARD}/vdpa0/{NAME}")


def test_a_vdpa_device_that_nobody_has_open_is_a_part_of_the_card(ready: Machine) -> None:
    assert list(ready.seen["unopened"]) == ["subfunctions"]
    assert f"{CARD} {PART}{uses.WAY_OUT}" in ready.seen["unopened"]["subfunctions"]


def test_allow_in_use_gives_it_up_while_nobody_has_it_open(ready: Machine) -> None:
    assert ready.seen["overridden"]["refusals"] == []
    (claim,) = [each for each in ready.seen["overridden"]["claims"] if each["address"] == CARD]
    assert claim["overridden"] == [PART]


@pytest.mark.parametrize("name", HOLDERS)
def test_the_card_of_an_open_node_is_a_guests_whatever_its_item_says(
    holding: Machine, name: str
) -> None:
    seen = holding.seen[name]
    who = f"{CARD} is a guest's: {NODE} is open in process {seen['process']} (sleep)"
    for reasons in seen["reasons"]:
        assert list(reasons) == ["guest"]
        assert f"{who}{uses.GUEST_WAY_OUT}" in reasons["guest"]
    assert seen["status"].startswith("blocked: devices: item 2 ")
    assert f"{who}{uses.GUEST_WAY_OUT}" in seen["status"]


@pytest.mark.parametrize("name", HOLDERS)
def test_nothing_is_touched_meanwhile(holding: Machine, name: str) -> None:
    seen = holding.seen[name]
    assert seen["rewritten"] == set()
    assert (seen["driver"], seen["override"], seen["node"]) == (NATIVE, "(null)", True)
    assert seen["processes left"] == seen["process"]


@pytest.mark.parametrize(("name", "is_apart"), [(HERE, False), (ELSEWHERE, True)])
def test_one_process_has_it_in_namespaces_and_by_a_name_of_its_own(
    holding: Machine, name: str, is_apart: bool
) -> None:
    pids, mounts, opened = holding.seen[name]["places"]
    assert [each not in holding.seen["hosts own"] for each in (pids, mounts)] == [is_apart] * 2
    assert (opened != NODE) == is_apart


def test_once_it_is_closed_the_next_hook_claims_the_card(closed: Machine) -> None:
    assert closed.seen["closed"]["driver"] == kernel.VFIO
    assert not closed.seen["closed"]["node"]
    said = f"active: {CARD_ID}: 1 ready, nic: 1 ready; allow-in-use: {CARD}"
    assert closed.seen["closed"]["status"] == said


def test_given_back_it_has_its_vdpa_device_again(given_back: Machine) -> None:
    assert given_back.seen["given back"]["driver"] == NATIVE
    assert given_back.seen["given back"]["node"]
