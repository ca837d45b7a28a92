"""The host goes down while guests have a card and a VF; Nova starts them with what they had.

The stages follow one another on one machine, as in test_main_job.py. Nova's libvirt driver is
called as nova-compute calls it after a boot, before the unit's first hook: a real nova-compute does
not wait for Juju's agent.
"""

import dataclasses
import json
import pathlib
import time
from collections.abc import Iterator

import pytest

from lab import booting, caretaking, errors, kernel, machine, nested, nova, ssh, story, unit

pytestmark = pytest.mark.row("resume")

HARDWARE = machine.NOVA_VFS
CARD = HARDWARE["gpu0"].address
PF = HARDWARE["sriov"].address
CARD_ID, VF_ID, VFS = "1234:1111", "8086:10ca", 2
GIVEN = f'["gpu={CARD_ID}@{CARD}", {{alias: vf, id: "{VF_ID}", device-type: type-VF}}]'
READY = "active: gpu: 1 ready, vf: 2 ready"
# As netplan's virtual-function-count has it: the card's own driver makes the VFs.
VF_RULE = (
    f'ACTION=="add", SUBSYSTEM=="net", KERNELS=="{PF}", DRIVERS=="igb",'
    f' ATTR{{device/sriov_numvfs}}="{VFS}"\n'
)
PROGRAM = pathlib.Path(__file__).with_name("inside") / "resume.py"
INSIDE = f"{unit.LIBRARY}/{PROGRAM.name}"
WITH_CARD, WITH_VF = "with-card", "with-vf"
NOVA_SECONDS = 600.0


@dataclasses.dataclass(frozen=True)
class Story(story.Story):
    """A story with guests that Nova's libvirt driver makes, by their names what each one has."""

    guests: dict[str, str]
    folders: dict[str, str]

    def resume(self) -> None:
        """Have Nova bring every guest up; again on a machine that lost a processor."""
        for _ in range(nested.ATTEMPTS - 1):
            if self._resume():
                return
            self.host.progress.say("the emulated machine lost a processor: once more")
            self.host.cut_power()
            self.host.power_on("boot after the emulator's failure")
        if not self._resume():
            raise errors.LabError(f"the guests are not ready\n{self.host.report()}")

    def read_devices(self, name: str) -> list[str]:
        """Return the lines of lspci -nn as a guest itself printed them when it came up last."""
        return nested.find_devices(self._read_console(name))

    def virsh(self, *words: str) -> str:
        """Return what virsh prints."""
        return self.host.run(["virsh", "--connect", "qemu:///system", *words]).stdout

    def list_running(self) -> list[str]:
        """Return the names of the guests that libvirt runs; Nova writes them into the XML."""
        shown = [self.virsh("dumpxml", each) for each in self.virsh("list", "--name").split()]
        return sorted(name for name in self.guests if any(f">{name}<" in xml for xml in shown))

    def _resume(self) -> bool:
        request = {"arguments": nova.read_arguments(self.host), "guests": self.guests}
        self.host.write("/run/request", json.dumps(request))
        for name in self.guests:
            self.host.run(["rm", "-f", f"{self.folders[name]}/console.log"])
        self.host.run("sync")  # what was written shall survive a power cut
        command = f"runuser -u nova -- python3 {INSIDE} </run/request"
        with self.host.progress.step("Nova's libvirt driver brings the guests up"):
            try:
                self.host.run(command, timeout=NOVA_SECONDS)
            except ssh.CommandError:
                raise  # Nova says what is wrong
            except errors.LabError:
                return False  # not done in time, as where a processor is lost under Nova
            return self._wait_ready()

    def _wait_ready(self) -> bool:
        deadline = time.monotonic() + nested.BOOT_SECONDS
        while time.monotonic() < deadline:
            try:
                if all(nested.READY in self._read_console(name) for name in self.guests):
                    return True
            except errors.LabError:
                return False  # it did not even answer
            time.sleep(nested.POLL_SECONDS)
        return False

    def _read_console(self, name: str) -> str:
        command = ["cat", f"{self.folders[name]}/console.log"]
        return self.host.run(command, check=False, timeout=nested.ANSWER_SECONDS).stdout


def list_vfs(told: story.Story) -> dict[str, str | None]:
    """Return the driver of each VF by address."""
    found = kernel.read_functions(told.host)
    return {place: each.driver for place, each in found.items() if each.id == VF_ID}


@pytest.fixture(scope="module")
def bound(boot: booting.Boot) -> Iterator[Story]:
    """A card and two VFs are claimed, and the machine has been rebooted."""
    with boot(HARDWARE, disk_cache="writeback") as host:
        host.write("/etc/udev/rules.d/50-virtual-functions.rules", VF_RULE)
        host.run(f"echo {VFS} >/sys/bus/pci/devices/{PF}/sriov_numvfs")
        caretaking.begin(host)
        charm = unit.Unit(host)
        with host.progress.step("deploy with a card and VFs claimed"):
            charm.deploy(devices=GIVEN)
        caretaking.put_agents(host)
        charm.reboot("reboot with a card and VFs claimed")
        told = Story(host, charm, {}, {})
        told.seen["status"], told.seen["vfs"] = charm.read_status(), list_vfs(told)
        nested.Nested(host)
        host.put(PROGRAM, INSIDE)
        told.guests.update({WITH_CARD: CARD, WITH_VF: min(told.seen["vfs"])})
        for name in told.guests:
            found = host.run(["runuser", "-u", "nova", "--", "python3", INSIDE, "folder", name])
            folder = told.folders[name] = found.stdout.strip()
            host.run(["install", "-d", "-o", "nova", "-g", "nova", folder])
            host.run(["cp", f"{nested.FOLDER}/vmlinux", f"{folder}/kernel"])
            host.run(["cp", f"{nested.FOLDER}/initrd.img", f"{folder}/ramdisk"])
            host.run(["truncate", "--size=1M", f"{folder}/disk"])
        yield told


@pytest.fixture(scope="module")
def running(bound: Story) -> Story:
    """Nova has made both guests."""
    bound.resume()
    bound.seen["running"] = bound.list_running()
    return bound


@pytest.fixture(scope="module")
def down(running: Story) -> Story:
    """The host lost its power under them, and has booted; no hook has run."""
    running.host.run("sync")
    running.host.cut_power()
    running.host.power_on("boot after a power cut under two guests")
    running.seen["down"] = running.list_running(), running.read_drivers(), list_vfs(running)
    return running


@pytest.fixture(scope="module")
def resumed(down: Story) -> Story:
    """Nova has started them as it does after a boot."""
    down.resume()
    down.seen["resumed"] = {name: down.read_devices(name) for name in down.guests}
    down.seen["vfs after Nova"] = list_vfs(down)
    return down


@pytest.fixture(scope="module")
def hooked(resumed: Story) -> Story:
    """The unit's first hook of this boot has run."""
    with resumed.host.progress.step("the first hook after the boot"):
        resumed.charm.juju("rebooted", show=True)
    return resumed


@pytest.fixture(scope="module")
def vanished(hooked: Story) -> Story:
    """Both guests are shut off, the unit is gone, and the caretaker has looked twice."""
    for each in hooked.virsh("list", "--name").split():
        hooked.virsh("destroy", each)
    hooked.host.run(["rm", "-r", caretaking.UNIT])
    hooked.seen["first look"] = caretaking.look(hooked)
    caretaking.let_ten_minutes_pass(hooked)
    with hooked.host.progress.step("give back what no domain names"):
        hooked.seen["vanished"] = caretaking.look(hooked)
    hooked.seen["kept"] = hooked.read_drivers(), list_vfs(hooked)
    return hooked


@pytest.fixture(scope="module")
def given_back(vanished: Story) -> Story:
    """No domain names a function any more."""
    for each in vanished.virsh("list", "--all", "--name").split():
        vanished.virsh("undefine", each)
    with vanished.host.progress.step("give back the rest"):
        vanished.seen["given back"] = caretaking.look(vanished)
    return vanished


def test_a_card_and_vfs_are_ready(bound: Story) -> None:
    assert bound.seen["status"] == READY
    assert list(bound.seen["vfs"].values()) == [kernel.VFIO] * VFS


@pytest.mark.parametrize(("name", "identity"), [(WITH_CARD, CARD_ID), (WITH_VF, VF_ID)])
def test_each_guest_sees_what_it_was_given(running: Story, name: str, identity: str) -> None:
    assert running.seen["running"] == [WITH_CARD, WITH_VF]
    assert len([line for line in running.read_devices(name) if f"[{identity}]" in line]) == 1


def test_after_the_boot_no_guest_runs_and_what_they_had_waits_on_vfio(down: Story) -> None:
    names, drivers, vfs = down.seen["down"]
    assert names == []
    assert drivers == down.with_claimed("gpu0")
    assert list(vfs.values()) == [kernel.VFIO] * VFS


@pytest.mark.parametrize(("name", "identity"), [(WITH_CARD, CARD_ID), (WITH_VF, VF_ID)])
def test_nova_starts_each_guest_with_what_it_had(resumed: Story, name: str, identity: str) -> None:
    lines = resumed.seen["resumed"][name]
    resumed.host.progress.say(f"lspci in the guest '{name}': {'; '.join(lines)}")
    assert len([line for line in lines if f"[{identity}]" in line]) == 1
    assert resumed.seen["vfs after Nova"][resumed.guests[WITH_VF]] == kernel.VFIO


def test_the_hook_that_comes_after_takes_nothing_from_them(hooked: Story) -> None:
    assert hooked.list_running() == [WITH_CARD, WITH_VF]
    assert hooked.charm.read_status() == READY
    assert list(list_vfs(hooked).values()) == [kernel.VFIO] * VFS
    assert hooked.read_drivers() == hooked.with_claimed("gpu0")


def test_what_a_shut_off_domain_names_stays_when_the_unit_has_vanished(vanished: Story) -> None:
    well, said = vanished.seen["vanished"]
    assert well, said
    drivers, vfs = vanished.seen["kept"]
    named = vanished.guests[WITH_VF]
    assert f"left to guests that hold or name them, or to their driver: {named} {CARD}" in said
    assert drivers[CARD] == kernel.VFIO
    assert {place for place, driver in vfs.items() if driver == kernel.VFIO} == {named}


def test_when_no_domain_names_it_any_more_the_host_has_it_back(given_back: Story) -> None:
    well, said = given_back.seen["given back"]
    assert well, said
    assert given_back.read_drivers() == given_back.with_claimed()
    assert kernel.VFIO not in list_vfs(given_back).values()
    assert caretaking.find_claims(given_back.host) == []
