"""The matrix: every kind of host that the lab shows the charm on, and what it showed of each.

A row is proved by the tests that are marked with its name. `conftest.py` runs the rows that are
asked for and hands over how their tests ended; the tables are made here.
"""

import dataclasses
from collections.abc import Iterable, Sequence

from lab import machine as machines

ALWAYS = "always"
ALL = "all"
PASSED, FAILED, SKIPPED = "passed", "failed", "skipped"


@dataclasses.dataclass(frozen=True)
class Row:
    """A kind of host: the machine it is shown on, what is peculiar to it, and what was proved.

    Rows of one machine share its boots. `always` rows run with every `make lab`, the others each
    night.
    """

    name: str
    machine: machines.Machine
    host: str
    proves: str
    always: bool = False


# The table. docs/reference/supported-hosts.md has the same.
ROWS = (
    Row(
        "initramfs-tools",
        machines.INTEL,
        host="Intel VT-d, GRUB, initramfs-tools",
        proves="two of three identical cards are claimed before any native driver sees them, one"
        " is given back, removal leaves nothing",
        always=True,
    ),
    Row(
        "no-match",
        machines.INTEL,
        host="no matching device",
        proves="active, and nothing is written",
        always=True,
    ),
    Row(
        "dracut",
        machines.DRACUT,
        host="dracut in place of initramfs-tools",
        proves="claimed before any native driver sees them, verified in the image, removed from it",
        always=True,
    ),
    Row(
        "newer-dracut",
        machines.NEWER_DRACUT,
        host="the dracut, kernel, systemd and Python of Debian 13",
        proves="claimed before any native driver sees them, verified in the image, removed from it",
    ),
    Row(
        "no-iommu",
        machines.NO_IOMMU,
        host="no IOMMU: off in the firmware, or none",
        proves="blocked with the reason, and nothing is written",
        always=True,
    ),
    Row(
        "guest",
        machines.NOVA,
        host="Nova and libvirt with guests",
        proves="Nova assigns the claimed cards and no others, a guest sees its card, and keeps it"
        " while it runs",
        always=True,
    ),
    Row(
        "variant",
        machines.NEWER_NOVA,
        host="a card with a variant of vfio-pci, Nova 31 and a libvirt that prefers variants",
        proves="libvirt takes it from vfio-pci, and leaves it to the host behind a guest; with"
        " driver: auto it is on the variant from the boot on, over a guest's start and stop",
    ),
    Row(
        "vdpa",
        machines.NEWER_NOVA,
        host="a card with a vDPA device, whose vhost-vdpa node a process has open",
        proves="refused as a guest's, whatever the item says, and nothing is touched, also for a"
        " process in other namespaces; claimed once that has ended",
    ),
    Row(
        "sick",
        machines.NEWER_NOVA,
        host="cards with PCIe errors, without power, drawn and plugged",
        proves="a free one leaves Nova's offer and returns, a held one stays; a flapping slot"
        " restarts nova-compute once",
    ),
    Row(
        "resume",
        machines.NOVA_VFS,
        host="a host that goes down while guests have a card and a VF",
        proves="after the boot Nova starts each guest with what it had, before any hook; what a"
        " shut-off domain names stays when the unit has vanished",
    ),
    Row(
        "in-use",
        machines.GUARDED,
        host="devices that the host or a process uses",
        proves="each is refused with the reason, and none is taken from a process that has it",
    ),
    Row(
        "crash",
        machines.INTEL,
        host="a power cut in the middle of a hook",
        proves="it boots with what was there before or with the new, and the next hook ends alike",
    ),
    Row(
        "kill",
        machines.INTEL,
        host="a kill before any step of a hook, and a reboot after each",
        proves="every file is old or new, it boots as they say, and the next hook ends alike",
    ),
    Row(
        "kill-leaving",
        machines.INTEL,
        host="a kill before any step of giving everything back",
        proves="the next run gives back what is left, and nothing stays on the disk or in an image",
    ),
    Row(
        "rebuilds",
        machines.INTEL,
        host="packages, settings and full disks in the way of a rebuild",
        proves="never beside dpkg, in either order; blocked with the reason where the settings say"
        " no; with a disk full at the second kernel it boots with what was there before",
    ),
    Row(
        "vanished",
        machines.INTEL,
        host="a unit that Juju took away before its last hook",
        proves="what it left is given back after two looks, and is as before; nothing while the"
        " unit or its machine's agent may live, or a process has the card",
    ),
    Row(
        "switch",
        machines.INTEL,
        host="pci-passthrough=off, by either initramfs generator, with a claimed card and the"
        " host's own equal one exchanged",
        proves="nothing is claimed in that boot, the host has its card; the next boot claims what"
        " the options name by then",
    ),
    Row(
        "idle",
        machines.INTEL,
        host="reboot=when-idle on a host with a container and an OSD",
        proves="it waits and names them; then nova-compute stops, and the boot starts it again",
    ),
    Row(
        "maas",
        machines.MIXED,
        host="kernel options set by MAAS in /etc/default/grub",
        proves="they stay, the charm's own come last and once, and no reboot is asked for",
    ),
    Row(
        "built-in",
        machines.MIXED,
        host="a device whose driver is built into the kernel",
        proves="taken from it at once, and again at every boot",
    ),
    Row(
        "pci-bridge",
        machines.MIXED,
        host="two cards behind a PCIe-to-PCI bridge, in one IOMMU group",
        proves="one alone is refused with the other's address; both are claimed, the bridge is not",
    ),
    Row(
        "sr-iov",
        machines.MIXED,
        host="an SR-IOV capable NIC",
        proves="refused while it has VFs; they go to vfio-pci as they appear, after a boot before"
        " any hook",
    ),
    Row(
        "vfs",
        machines.VFS,
        host="a NIC whose VFs the charm makes",
        proves="there after every boot and on vfio-pci, also after a kill; their own driver never"
        " has one; their number stays while a process holds one, or the port is up",
    ),
    Row(
        "one-id",
        machines.VFS,
        host="an NVMe whose VFs bear its own id",
        proves="an item of type-PF takes the whole one alone, type-VF the VFs alone, none of a type"
        " nothing, as Nova would match neither",
    ),
    Row(
        "erase",
        machines.LVM,
        host="an NVMe with a tenant's volume group, on a host with LVM",
        proves="erased once it is off the offer and no domain names it, and read back; the host"
        " never activates the volume group; killed at any step it is never offered",
    ),
    Row(
        "container",
        machines.MIXED,
        host="a container (systemd-nspawn, as LXD a user of the host's kernel)",
        proves="blocked with the reason, and nothing is written",
    ),
    Row(
        "kernel-upgrade",
        machines.MIXED,
        host="a newer kernel, installed after the devices were claimed",
        proves="its first boot claims them: its package has built an initramfs with our files",
    ),
    Row(
        "amd",
        machines.AMD,
        host="AMD-Vi",
        proves="bound at once and again at boot, with no kernel option",
    ),
    Row(
        "no-grub",
        machines.NO_GRUB,
        host="a boot loader other than GRUB",
        proves="blocked with the option to set while the IOMMU is off; claimed at boot with it on",
    ),
)


@dataclasses.dataclass(frozen=True)
class Outcome:
    """How one test ended, after how many seconds, its share of boots and deployment included.

    `reason` says why a test was skipped.
    """

    row: str
    result: str
    seconds: float
    reason: str = ""


def choose(asked: str) -> tuple[Row, ...]:
    """Return the rows that are asked for, in the order of the table.

    Args:
        asked: `always`, `all`, or names of rows or of machines, separated by commas.

    Raises:
        ValueError: one of the names is neither.
    """
    if asked in (ALL, ALWAYS):
        return tuple(row for row in ROWS if row.always or asked == ALL)
    names = set(asked.split(","))
    known = {name for row in ROWS for name in (row.name, row.machine.name)}
    if names - known:
        raise ValueError(
            f"no row or machine {', '.join(sorted(names - known))}: there are"
            f" {ALWAYS}, {ALL}, {', '.join(row.name for row in ROWS)}"
        )
    return tuple(row for row in ROWS if names & {row.name, row.machine.name})


def describe(rows: Iterable[Row], outcomes: Sequence[Outcome]) -> list[dict[str, object]]:
    """Return each row with what its tests came to, for a program to read.

    Returns:
        One mapping per row: name, machine, host, proves, result (`passed`, `failed`, `skipped` or,
        where no test of it ran, `not run`), tests (how many), seconds and reasons.
    """
    described = []
    for row in rows:
        mine = [outcome for outcome in outcomes if outcome.row == row.name]
        described.append(
            {
                "name": row.name,
                "machine": row.machine.name,
                "host": row.host,
                "proves": row.proves,
                "result": _sum_up({outcome.result for outcome in mine}),
                "tests": len(mine),
                "seconds": round(sum(outcome.seconds for outcome in mine)),
                "reasons": sorted({outcome.reason for outcome in mine} - {""}),
            }
        )
    return described


def format_table(described: Iterable[dict[str, object]]) -> str:
    """Return what `describe` gave as a table for people; a row's reasons stand below it."""
    lines = [f"{'ROW':<16} {'MACHINE':<12} {'RESULT':<8} {'TESTS':>5} {'TIME':>7}  PROVED"]
    for each in described:
        proved = each["proves"] if each["result"] == PASSED else f"({each['proves']})"
        lines.append(
            f"{each['name']:<16} {each['machine']:<12} {each['result']:<8} {each['tests']:>5}"
            f" {each['seconds']:>5} s  {proved}"
        )
        reasons = each["reasons"]
        if isinstance(reasons, list):
            lines += [f"{'':<16} {reason}" for reason in reasons]
    return "\n".join(lines)


def _sum_up(results: set[str]) -> str:
    for result in (FAILED, SKIPPED, PASSED):
        if result in results:
            return result
    return "not run"
