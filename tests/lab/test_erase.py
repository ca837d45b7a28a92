"""A tenant's volume group on an NVMe: erased when an operator says so, and never seen by the host.

The stages are fixtures that follow one another on one machine, whose udev has LVM's rules: without
rules of the charm's own, it activates the volume group as soon as a driver of the host's has the
disk.
"""

import dataclasses
import json
import pathlib
from collections.abc import Iterator
from typing import Any

import pytest

from lab import booting, held, kernel, machine, story, unit

pytestmark = pytest.mark.row("erase")

DISK = machine.LVM["nvme"].address
ID = machine.LVM["nvme"].functions[DISK].id
NODE, GROUP, VOLUME = "/dev/nvme0n1", "tenant", "secret"
PATTERN = "what the tenant wrote"
# What lies on the disk is a part of a volume group: the host would keep it by its guards.
DEVICES = json.dumps([{"alias": "disk", "id": ID, "address": DISK, "allow-in-use": True}])
FILL = f"yes '{PATTERN}' | dd of=/dev/{GROUP}/{VOLUME} bs=1M count=16 iflag=fullblock oflag=direct"
WRITE = "\n".join(
    (
        "set -e",
        f"pvcreate --yes {NODE}",
        f"vgcreate {GROUP} {NODE}",
        f"lvcreate --yes --name {VOLUME} --size 16M {GROUP}",
        FILL,
        f"vgchange --activate n {GROUP}",
    )
)
# As the driver finds the disk at any time; what LVM remembers of it keeps it from a second look.
COME_ANEW = "\n".join(
    (
        "set -e",
        "rm -rf /run/lvm/pvs_online /run/lvm/vgs_online",
        f"echo {DISK} >/sys/bus/pci/drivers/nvme/unbind",
        f"echo {DISK} >/sys/bus/pci/drivers_probe",
        f"for i in $(seq 300); do [ -e /dev/mapper/{GROUP}-{VOLUME} ] && exit; sleep 0.2; done",
        "exit 1",
    )
)
DOMAIN = "/etc/libvirt/qemu/shut-off.xml"
NAMED = """\
<domain type='kvm'><name>shut-off</name><devices>
<hostdev mode='subsystem' type='pci' managed='no'><source>
<address domain='0x0000' bus='0x{bus}' slot='0x{slot}' function='0x{function}'/>
</source></hostdev></devices></domain>
"""
EVENTS, WATCHER = "/run/lab-events", "lab-events"
WATCH = (
    f"systemd-run --quiet --unit={WATCHER}"
    f" sh -c 'exec udevadm monitor --udev --property --subsystem-match=block >{EVENTS}'"
)
# The host's own driver for a moment, as an operator has it who knows what he does.
TO_HOST = "\n".join(
    (
        "set -e",
        f"cd /sys/bus/pci/devices/{DISK}",
        "echo >driver_override",
        f"echo {DISK} >driver/unbind",
        f"echo {DISK} >/sys/bus/pci/drivers_probe",
        "udevadm settle",
    )
)
KILLS = pathlib.Path(__file__).with_name("inside") / "erase_kills.py"
CRASHING = KILLS.with_name("crashing.py")
# Of the steps, those with something new to be found dead in.
STEPS = (
    f"replace /run/udev/rules.d/00-pci-passthrough-erase-{DISK.replace(':', '-')}.rules",
    "replace /var/lib/pci-passthrough/pci-passthrough.json",
    f"write /sys/bus/pci/devices/{DISK}/driver_override",
    f"write /sys/bus/pci/devices/{DISK}/driver/unbind",
    "write /sys/bus/pci/drivers_probe",
    "send 0x80",
    f"remove /run/udev/rules.d/00-pci-passthrough-erase-{DISK.replace(':', '-')}.rules",
)
SECONDS = 3600.0


@dataclasses.dataclass(frozen=True)
class Machine(story.Watched):
    """A story on the machine with LVM."""

    def erase(self, **more: str) -> dict[str, Any]:
        """Run the action; `results`, `log`, `failed` and `message`."""
        params = {"address": DISK, "confirm": DISK, **more}
        return self.charm.run_action("erase", check=False, **params)

    def refused(self, **more: str) -> str:
        """Why the action fails; "" when it did not."""
        done = self.erase(**more)
        return done["message"] if done["failed"] else ""

    def list_offered(self) -> list[str]:
        """Return the addresses that Nova is offered."""
        specs = self.plan(DEVICES)["nova"]["device-specs"]
        return [spec["address"] for spec in specs]

    def look_as_host(self) -> dict[str, Any]:
        """Return what the host's own tools say of the disk, which its driver has."""
        properties = self.host.run(["udevadm", "info", "--query=property", NODE]).stdout
        return {
            "type": dict(line.split("=", 1) for line in properties.splitlines() if "=" in line).get(
                "ID_FS_TYPE"
            ),
            "volumes": self.host.run(["lvs", "--noheadings"], check=False).stdout.strip(),
            "mapped": self.list_mapped(),
            "pattern": self.host.run(f"grep -c -a '{PATTERN}' {NODE}", check=False).stdout.strip(),
            "bytes": self.host.run(f"tr -d '\\0' <{NODE} | wc -c").stdout.strip(),
        }

    def list_mapped(self) -> list[str]:
        """Return the names of device-mapper's devices."""
        return self.host.run("ls /dev/mapper").stdout.split()

    def read_events(self) -> list[dict[str, str]]:
        """Return the properties of each event that udev has dealt with since the watch began."""
        events = self.host.read(EVENTS).split("\n\n")
        return [
            dict(line.split("=", 1) for line in event.splitlines() if "=" in line)
            for event in events
            if "DEVNAME=" in event
        ]


@pytest.fixture(scope="module")
def written(boot: booting.Boot) -> Iterator[Machine]:
    """The tenant's volume group is on the disk, and the host has seen it."""
    with boot(machine.LVM) as host:
        told = Machine(**vars(story.begin(host)))
        with host.progress.step("write a tenant's volume group"):
            host.run(WRITE)
            host.run(COME_ANEW)
        told.seen["written"] = told.look_as_host()
        host.run(["vgchange", "--activate", "n", GROUP])
        yield told


@pytest.fixture(scope="module")
def claimed(written: Machine) -> Machine:
    """The disk is claimed, and the machine has been rebooted."""
    with written.host.progress.step("deploy with the disk claimed"):
        written.charm.deploy(devices=DEVICES)
    written.charm.reboot("reboot with the disk claimed")
    written.seen["claimed"] = written.read_drivers()[DISK], written.list_offered()
    return written


@pytest.fixture(scope="module")
def refused(claimed: Machine) -> Machine:
    """Erasing was asked for too soon: offered, named by a domain, open, not confirmed."""
    told, why = claimed, claimed.seen.setdefault("refused", {})
    why["offered"] = told.refused()
    done = told.charm.run_action("quarantine", address=DISK)
    assert not done["failed"], done["message"]
    why["once"] = told.refused(confirm=DISK[:-1] + "1")
    bus, slot, function = DISK[5:7], DISK[8:10], DISK[11:]
    told.host.write(DOMAIN, NAMED.format(bus=bus, slot=slot, function=function))
    why["named"] = told.refused()
    told.host.run(["rm", DOMAIN])
    process = held.start(told.host, DISK)
    why["open"] = told.refused().replace(str(process), "PROCESS")
    held.stop(told.host)
    told.seen["after refusals"] = told.read_drivers()[DISK], told.list_offered()
    return told


@pytest.fixture(scope="module")
def erased(refused: Machine) -> Machine:
    """The disk was erased, while somebody looked at udev's events."""
    told = refused
    told.host.run(WATCH)
    with told.host.progress.step("erase"):
        told.seen["erased"] = told.erase()
    told.host.run("udevadm settle")
    told.host.run(["systemctl", "stop", WATCHER])
    told.seen["events"] = told.read_events()
    told.seen["behind"] = {
        "driver": told.read_drivers()[DISK],
        "offered": told.list_offered(),
        "mapped": told.list_mapped(),
        "rules": told.host.run("ls /run/udev/rules.d", check=False).stdout.split(),
    }
    return told


@pytest.fixture(scope="module")
def read_back(erased: Machine) -> Machine:
    """The host's own driver has had it for a while, and the next hook has taken it again."""
    erased.host.run(TO_HOST)
    erased.seen["read back"] = erased.look_as_host()
    erased.charm.run_hook("config-changed")
    return erased


@pytest.fixture(scope="module")
def killed(read_back: Machine) -> Machine:
    """An erase was killed before each of its steps; a hook followed each time."""
    told = read_back
    script = f"{unit.LIBRARY}/{KILLS.name}"
    for each in (KILLS, CRASHING):
        told.host.put(each, f"{unit.LIBRARY}/{each.name}")
    command = ["python3", script, unit.CHARM_FOLDER, DISK, DEVICES]
    with told.host.progress.step("kill an erase before each of its steps"):
        printed = told.host.run(command, timeout=SECONDS, on_line=told.host.progress.waiting)
    told.seen["kills"] = [json.loads(line) for line in printed.stdout.splitlines()]
    return told


@pytest.fixture(scope="module")
def returned(killed: Machine) -> Machine:
    """An operator has brought it back, by rebind."""
    done = killed.charm.run_action("rebind", address=DISK)
    killed.seen["returned"] = not done["failed"], killed.list_offered()
    return killed


def test_without_the_charm_the_host_activates_a_tenants_volume_group(written: Machine) -> None:
    seen = written.seen["written"]
    assert seen["type"] == "LVM2_member"
    assert f"{GROUP}-{VOLUME}" in seen["mapped"]
    assert int(seen["pattern"]) > 1000


def test_it_is_claimed_and_offered(claimed: Machine) -> None:
    assert claimed.seen["claimed"] == (kernel.VFIO, [DISK])


def test_it_is_refused_while_it_is_offered(refused: Machine) -> None:
    assert refused.seen["refused"]["offered"] == (
        f"{DISK}: Nova is offered it; juju run pci-passthrough/0 quarantine address={DISK}"
    )


def test_it_is_refused_while_somebody_may_want_it(refused: Machine) -> None:
    why = refused.seen["refused"]
    assert why["once"].startswith("confirm is ")
    assert why["named"].startswith(f"{DISK}: the guest shut-off names it, be it shut off or not")
    assert why["open"] == (
        f"{DISK}: a process has it open (PROCESS); stop or migrate the guest first"
    )
    assert refused.seen["after refusals"] == (kernel.VFIO, [])


def test_it_is_erased_by_a_format_and_read_back(erased: Machine) -> None:
    done = erased.seen["erased"]
    assert not done["failed"], done["message"]
    table = done["results"]["table"]
    assert "erased, by format (user data erase)" in table
    assert "64 samples: 64 zeroes" in table


def test_meanwhile_udev_had_its_hands_off_it(erased: Machine) -> None:
    events = [each for each in erased.seen["events"] if each["DEVNAME"] == NODE]
    assert next(each["ACTION"] for each in events) == "add"
    assert [each for each in events if "ID_FS_TYPE" in each or "ID_SERIAL" in each] == []
    added = [each for each in events if each["ACTION"] != "remove"]
    assert {each.get("SYSTEMD_READY") for each in added} == {"0"}
    # No volume came: device-mapper's devices have events of their own.
    names = {each["DEVNAME"] for each in erased.seen["events"]}
    assert [each for each in names if each.startswith("/dev/dm-")] == []


def test_behind_it_is_on_vfio_pci_and_off_the_offer(erased: Machine) -> None:
    assert erased.seen["behind"] == {
        "driver": kernel.VFIO,
        "offered": [],
        "mapped": ["control"],
        "rules": [],
    }


def test_what_the_tenant_wrote_is_gone(read_back: Machine) -> None:
    assert read_back.seen["read back"] == {
        "type": None,
        "volumes": "",
        "mapped": ["control"],
        "pattern": "0",
        "bytes": "0",
    }


def test_it_was_killed_before_every_kind_of_step(killed: Machine) -> None:
    steps = {kill["step"] for kill in killed.seen["kills"]}
    assert sorted(set(STEPS) - steps) == []


def test_killed_at_any_step_it_is_never_offered(killed: Machine) -> None:
    kills = killed.seen["kills"]
    assert [
        (kill["step"], when)
        for kill in kills
        for when in ("killed", "hook")
        if kill[when]["offered"]
    ] == []


def test_killed_on_the_hosts_driver_udev_is_kept_off(killed: Machine) -> None:
    left = [(kill["step"], kill["killed"]) for kill in killed.seen["kills"]]
    assert [step for step, seen in left if seen["driver"] == "nvme" and not seen["rules"]] == []
    assert [step for step, seen in left if seen["driver"] == "nvme"] != []


def test_the_next_hook_brings_it_back_and_keeps_the_mark(killed: Machine) -> None:
    for kill in killed.seen["kills"]:
        wanted = {"driver": kernel.VFIO, "rules": False, "mark": kill["killed"]["mark"]}
        assert {key: kill["hook"][key] for key in wanted} == wanted, kill["step"]
    marks = {kill["killed"]["mark"] for kill in killed.seen["kills"]}
    assert marks == {None, "begun", "told"}


def test_rebind_has_it_offered_again(returned: Machine) -> None:
    assert returned.seen["returned"] == (True, [DISK])
