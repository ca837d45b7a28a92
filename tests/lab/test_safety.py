"""The host keeps what it uses, and a guest what it has: on a real kernel, with real devices.

The stages are fixtures that follow one another on one machine, as in test_main_job.py: first every
guard against its device, then a process that has a device as a guest's QEMU has it.
"""

import dataclasses
import json
import pathlib
from collections.abc import Iterator
from typing import Any

import pytest

from lab import booting, files, held, kernel, machine, story, unit, uses

pytestmark = pytest.mark.row("in-use")

FIRST, SECOND = (list(machine.GUARDED[name].functions) for name in ("gpu0", "gpu1"))
HELD, KEPT = FIRST[0], SECOND[0]
TWO_CARDS = f"gpu=1234:1111@{HELD}, gpu=1234:1111@{KEPT}"
# The first card is taken out, and a port of the host's bridge is to be had in spite of that.
OVERRIDE = f"""\
- {{alias: gpu, id: '1234:1111', address: '{KEPT}'}}
- {{alias: nic, id: '8086:10d3', address: '{uses.NIC0}', allow-in-use: true}}
"""
SIBLING = "0000:05:02.0"
WATCHED = ("/etc", "/boot", "/var/lib/pci-passthrough", "/usr/lib/modules-load.d")
USED_AT_LAST = {use.address: use for use in (*uses.ALWAYS, *uses.ROUNDS[-1])}
# Everything that some round uses, and what is always in use, each as an item by itself.
ASKED = sorted({use.address for round in uses.ROUNDS for use in round} | set(USED_AT_LAST))
IDS = {address: each.id for address, each in machine.GUARDED.functions.items()}
# Nova calls a port that can have VFs a PF.
IDS |= {port: f"{IDS[port]}/PF" for port in (uses.BUSY_PORT, uses.IDLE_PORT)}
EVERYTHING = ", ".join(f"{IDS[each]}@{each}" for each in ASKED)
# What nobody uses: a port of a NIC whose other port carries the host, a card of four functions, a
# disk of the root disk's model, one without driver.
GPU_WITH_USB = list(machine.GUARDED["gpu3"].functions)
FREE = [uses.SPARE, uses.NO_DRIVER, uses.IDLE_PORT, *GPU_WITH_USB]
FREE_ITEMS = ", ".join(f"{IDS[each]}@{each}" for each in (*FREE[:3], GPU_WITH_USB[0]))
AND_THE_SPARE = f"{TWO_CARDS}, disk=1af4:1001@{uses.SPARE}"
EVENTS = "/run/lab-events"
WATCHER = pathlib.Path(__file__).with_name("inside") / "watch_unbind.py"


class Story(story.Story):
    """A story that uses the machine's devices."""

    def shell(self, *commands: str) -> None:
        """Run these, and end at the first that fails."""
        self.host.run("\n".join(["set -e", *commands]))


def reasons_by_address(plan: dict[str, Any]) -> dict[str, tuple[str, str]]:
    """Return the rule and the reason of every refusal, by the address that it begins with."""
    found = {}
    for refusal in plan["refusals"]:
        address, _, reason = refusal["reason"].split(": ", 2)[2].partition(" ")
        found[address] = (refusal["rule"], reason)
    return found


@pytest.fixture(scope="module")
def deployed(boot: booting.Boot) -> Iterator[Story]:
    """The charm is deployed, nothing is asked of it yet."""
    with boot(machine.GUARDED) as host:
        charm = unit.Unit(host)
        with host.progress.step("deploy"):
            charm.deploy()
        yield Story(host, charm)


@pytest.fixture(scope="module")
def refused(deployed: Story) -> Story:
    """Every round of uses was made, and a plan asked for meanwhile; the last round stays made."""
    deployed.seen["nic"] = kernel.read_interfaces(deployed.host)
    ports = deployed.host.run(f"ls /sys/bus/pci/devices/{uses.SERIAL}/tty")
    deployed.seen["line"] = ports.stdout.strip()
    deployed.seen["refused"] = []
    for number, made in enumerate(uses.ROUNDS):
        with deployed.host.progress.step(f"use devices, round {number + 1}"):
            deployed.shell(*(fill(deployed, use, use.make) for use in made))
            for use in made:
                if use.unit:
                    deployed.seen[use.unit] = held.read_last_process(deployed.host, use.unit)
            deployed.seen["refused"].append(reasons_by_address(deployed.plan(EVERYTHING)))
            if made is uses.ROUNDS[0]:
                deployed.seen["free"] = deployed.plan(FREE_ITEMS)
            if made is not uses.ROUNDS[-1]:
                deployed.shell(*(fill(deployed, use, use.undo) for use in reversed(made)))
    return deployed


def fill(told: Story, use: uses.Use, text: str) -> str:
    """Put the name of the function's interface, and of its program's process, into a use's text."""
    interface, process = told.seen["nic"].get(use.address, ""), told.seen.get(use.unit, "")
    text = text.replace("{nic}", interface).replace("{process}", str(process))
    return text.replace("{line}", told.seen["line"])


@pytest.fixture(scope="module")
def configured(refused: Story) -> Story:
    """All of it was configured, while everything is in use."""
    before = files.read_tree(refused.host, *WATCHED)
    refused.charm.configure(devices=EVERYTHING)
    after = files.read_tree(refused.host, *WATCHED)
    refused.seen["rewritten"] = files.list_rewritten(before, after)
    return refused


@pytest.fixture(scope="module")
def bound(configured: Story) -> Story:
    """Two cards were claimed and the machine rebooted; a bridge has a port again."""
    with configured.host.progress.step("claim two cards"):
        configured.charm.configure(devices=TWO_CARDS)
    configured.charm.reboot("reboot with two cards claimed")
    configured.shell(fill(configured, uses.BRIDGE_PORT, uses.BRIDGE_PORT.make))
    return configured


@pytest.fixture(scope="module")
def hidden(bound: Story) -> Story:
    """A disk was asked for that a file system has which no list shows; udev's events are noted."""
    watch = f"udevadm monitor --udev --subsystem-match=block >{EVENTS}"
    bound.shell(
        uses.HIDDEN.make, "udevadm settle", f"systemd-run --quiet --unit=lab-events sh -c '{watch}'"
    )
    before = files.read_tree(bound.host, *WATCHED)
    with bound.host.progress.step("ask for a disk that a hidden file system has"):
        bound.charm.configure(devices=AND_THE_SPARE)
    bound.seen["rewritten"] = files.list_rewritten(before, files.read_tree(bound.host, *WATCHED))
    bound.seen["hidden"] = bound.charm.read_status(), bound.read_drivers()
    return bound


@pytest.fixture(scope="module")
def freed_disk(hidden: Story) -> Story:
    """The file system is gone; the disk was claimed, and given back."""
    hidden.shell("systemctl stop lab-events", f"cp {EVENTS} {EVENTS}-refused", uses.HIDDEN.undo)
    watch = f"udevadm monitor --udev --subsystem-match=block >{EVENTS}"
    hidden.shell(f"systemd-run --quiet --unit=lab-events sh -c '{watch}'")
    with hidden.host.progress.step("claim the disk"):
        hidden.charm.run_hook("update-status")
    hidden.seen["claimed"] = hidden.charm.read_status(), hidden.read_drivers()
    hidden.shell("systemctl stop lab-events")
    with hidden.host.progress.step("give the disk back"):
        hidden.charm.configure(devices=TWO_CARDS)
    return hidden


@pytest.fixture(scope="module")
def occupied(freed_disk: Story) -> Story:
    """A process has the first card, and rebind was asked for."""
    freed_disk.seen["process"] = held.start(freed_disk.host, HELD)
    with freed_disk.host.progress.step("rebind"):
        freed_disk.seen["rebind"] = freed_disk.charm.run_action(
            "rebind", check=False, format="json"
        )
    return freed_disk


@pytest.fixture(scope="module")
def pending(occupied: Story) -> Story:
    """The held card was taken out of the configuration; the bridge's port was put in."""
    occupied.seen["override"] = occupied.plan(OVERRIDE)
    with occupied.host.progress.step("take out the held card, override a guard"):
        occupied.charm.configure(devices=OVERRIDE)
    return occupied


@pytest.fixture(scope="module")
def freed(pending: Story) -> Story:
    """The process has ended, and the next update-status has run."""
    held.stop(pending.host)
    with pending.host.progress.step("update-status after the process has ended"):
        pending.charm.run_hook("update-status")
    return pending


@pytest.fixture(scope="module")
def removed(freed: Story) -> Story:
    """The application was removed while a process had the second card."""
    held.start(freed.host, KEPT)
    with freed.host.progress.step("remove the application"):
        freed.charm.remove()
    return freed


@pytest.fixture(scope="module")
def removed_rebooted(removed: Story) -> Story:
    """The machine was rebooted after that."""
    removed.host.reboot("reboot without the charm")
    return removed


ROUNDS = [
    pytest.param(number, use, id=f"{use.address} {use.fact}")
    for number, made in enumerate(uses.ROUNDS)
    for use in (*made, *(uses.ALWAYS if number == 0 else ()))
]


@pytest.mark.parametrize(("number", "use"), ROUNDS)
def test_a_guard_refuses_what_the_host_uses_and_says_why(
    refused: Story, number: int, use: uses.Use
) -> None:
    reason = fill(refused, use, use.fact) + use.way_out
    assert refused.seen["refused"][number].get(use.address) == (use.rule, reason)


@pytest.mark.parametrize("number", range(len(uses.ROUNDS)))
def test_a_guard_refuses_nothing_else(refused: Story, number: int) -> None:
    used = {use.address for use in (*uses.ROUNDS[number], *uses.ALWAYS)}
    assert set(refused.seen["refused"][number]) == used


def test_what_nobody_uses_can_be_claimed(refused: Story) -> None:
    plan = refused.seen["free"]
    assert plan["refusals"] == []
    assert sorted(claim["address"] for claim in plan["claims"]) == sorted(FREE)


def test_the_status_of_refused_devices_names_the_first_and_how_many_more(
    configured: Story,
) -> None:
    status = configured.charm.read_status()
    first = USED_AT_LAST[ASKED[0]]
    fact = fill(configured, first, first.fact)
    assert status.startswith(f"blocked: devices: item 1 {EVERYTHING.split(', ')[0]}: ")
    assert f"{first.address} {fact}{uses.WAY_OUT}" in status
    assert status.endswith(f"({len(ASKED) - 1} more: run the plan action)")


def test_for_refused_devices_nothing_is_written_and_nothing_is_unbound(configured: Story) -> None:
    assert configured.seen["rewritten"] == set()
    functions = kernel.read_functions(configured.host)
    assert {functions[each].override for each in ASKED} == {"(null)"}
    drivers = {**configured.with_claimed(), uses.NO_DRIVER: "uio_pci_generic"}
    assert configured.read_drivers() == drivers


def test_after_the_reboot_the_claimed_cards_alone_are_on_vfio(bound: Story) -> None:
    assert bound.read_drivers() == bound.with_claimed("gpu0", "gpu1")


def test_one_of_two_cards_behind_a_bridge_is_refused_for_the_other_ones_driver(
    bound: Story,
) -> None:
    plan = bound.plan(f"{TWO_CARDS}, 8086:100e@{uses.OLD_NIC}")
    rule, reason = reasons_by_address(plan)[uses.OLD_NIC]
    assert rule == "group-not-viable"
    assert f"with {SIBLING} (8086:100e, e1000); claim them too" in reason


def test_one_of_two_cards_behind_a_bridge_is_refused_for_what_the_host_does_with_the_other(
    bound: Story,
) -> None:
    use = dataclasses.replace(uses.IPV4, address=SIBLING)
    bound.shell(fill(bound, use, use.make))
    try:
        plan = bound.plan(f"{TWO_CARDS}, 8086:100e@{uses.OLD_NIC}")
    finally:
        bound.shell(fill(bound, use, use.undo))
    rule, reason = reasons_by_address(plan)[uses.OLD_NIC]
    assert rule == "group-in-use"
    assert f"with {SIBLING}, which {fill(bound, use, use.fact)}; " in reason


def test_both_cards_behind_a_bridge_can_be_claimed_together_and_the_bridge_cannot(
    bound: Story,
) -> None:
    plan = bound.plan(f"{TWO_CARDS}, 8086:100e, 1b36:000e")
    assert {uses.OLD_NIC, SIBLING} <= {claim["address"] for claim in plan["claims"]}
    assert reasons_by_address(plan)["0000:04:00.0"][0] == "pci-bridge"


def test_a_disk_that_no_list_shows_in_use_is_refused_by_the_kernel(hidden: Story) -> None:
    status, drivers = hidden.seen["hidden"]
    assert f"{uses.SPARE} {uses.HIDDEN.fact}{uses.HIDDEN.way_out}" in status
    assert drivers == hidden.with_claimed("gpu0", "gpu1")
    assert hidden.seen["rewritten"] == set()


def test_it_is_claimed_once_the_kernel_says_that_it_is_free(freed_disk: Story) -> None:
    status, drivers = freed_disk.seen["claimed"]
    assert status == "active: disk: 1 ready, gpu: 2 ready"
    assert drivers == freed_disk.with_claimed("gpu0", "gpu1", "spare")
    assert freed_disk.read_drivers() == freed_disk.with_claimed("gpu0", "gpu1")


def test_asking_the_kernel_makes_no_event_of_udevs(freed_disk: Story) -> None:
    for log in (f"{EVENTS}-refused", EVENTS):
        lines = freed_disk.host.read(log).splitlines()
        assert [line for line in lines if " change " in line and "vdb" in line] == []
    assert "/vdb (block)" in freed_disk.host.read(EVENTS), "it does tell: the disk has gone"


def test_rebind_leaves_a_held_card_alone_and_does_the_other(occupied: Story) -> None:
    answer, node = occupied.seen["rebind"], kernel.read_group_node(occupied.host, HELD)
    who = f"a guest holds it ({node} is open in process {occupied.seen['process']})"
    done = {row["address"]: row for row in json.loads(answer["results"]["functions"])}
    assert all(who in done[address]["error"] for address in FIRST)
    assert [each for each in done if done[each]["bound"]] == SECOND
    assert answer["failed"]
    assert who in answer["message"]


def test_a_held_card_stays_with_its_process_whatever_is_configured(pending: Story) -> None:
    assert held.read_process(pending.host) == pending.seen["process"]
    assert pending.read_drivers() == pending.with_claimed("gpu0", "gpu1", "nic0")


def test_the_status_tells_who_holds_a_card_and_what_becomes_of_it(pending: Story) -> None:
    process = pending.seen["process"]
    assert pending.charm.read_status() == (
        f"blocked: {HELD}: a guest holds it (process {process}), and it is given back when that"
        " guest is gone; stop or migrate the guest (1 more: run the plan action)"
    )
    waiting = {row["address"]: row["processes"] for row in pending.plan(OVERRIDE)["pending"]}
    assert waiting == {address: [process] for address in FIRST}


def test_allow_in_use_is_in_the_plan_before_it_is_done(pending: Story) -> None:
    claims = {claim["address"]: claim for claim in pending.seen["override"]["claims"]}
    fact = fill(pending, uses.BRIDGE_PORT, uses.BRIDGE_PORT.fact)
    assert claims[uses.NIC0]["overridden"] == [fact]
    assert claims[KEPT]["overridden"] == []


def test_after_the_process_has_ended_the_next_hook_gives_the_card_back(freed: Story) -> None:
    assert freed.read_drivers() == freed.with_claimed("gpu1", "nic0")


def test_allow_in_use_stays_in_status_and_verify(freed: Story) -> None:
    assert freed.charm.read_status() == (
        f"active: gpu: 1 ready, nic: 1 ready; allow-in-use: {uses.NIC0}"
    )
    verified = freed.charm.run_action("verify", check=False, format="json")
    checks = {row["name"]: row["status"] for row in json.loads(verified["results"]["checks"])}
    assert checks[f"allow-in-use {uses.NIC0}"] == "ok"
    assert not verified["failed"], verified["results"]["checks"]


@pytest.mark.parametrize(
    ("address", "afterwards"),
    [
        pytest.param(KEPT, "EBUSY", id="another member keeps the group's node there"),
        pytest.param(uses.NIC0, "ENOENT", id="the node goes with the only member"),
    ],
)
def test_nobody_can_open_a_group_while_the_charm_unbinds_a_member(
    freed: Story, address: str, afterwards: str
) -> None:
    script, node = f"{unit.LIBRARY}/{WATCHER.name}", kernel.read_group_node(freed.host, address)
    freed.host.put(WATCHER, script)
    command = ["env", f"PYTHONPATH={unit.CHARM_FOLDER}/src", "python3", script, node, address]
    assert json.loads(freed.host.run(command).stdout) == {
        "at first": "opened",
        "before the unbind": "EBUSY",
        "after the unbind": afterwards,
        "at last": "opened",
    }


def test_removal_leaves_a_held_card_and_its_process_alone(removed: Story) -> None:
    assert held.read_process(removed.host) != 0
    assert removed.read_drivers() == removed.with_claimed("gpu1")


def test_removal_deletes_every_file_but_the_caretakers_in_spite_of_that(removed: Story) -> None:
    found = removed.host.run(["find", *WATCHED[:2], "-name", "*pci-passthrough*"]).stdout
    assert sorted(pathlib.Path(line).name for line in found.splitlines()) == [
        "pci-passthrough-caretaker.conf",
        "pci-passthrough-caretaker.service",
        "pci-passthrough-caretaker.timer",
    ]


def test_the_boot_after_such_a_removal_gives_the_card_back(removed_rebooted: Story) -> None:
    assert removed_rebooted.read_drivers() == removed_rebooted.with_claimed()
