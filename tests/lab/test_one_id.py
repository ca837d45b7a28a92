"""A disk and its VFs bear one id: what an item claims goes by the type that it says.

The stages are fixtures that follow one another on one machine, with two equal disks. One has VFs.
"""

import json
from collections.abc import Iterator

import pytest

from lab import booting, kernel, machine, story

pytestmark = pytest.mark.row("one-id")

ID = machine.VFS["split"].functions[machine.VFS["split"].address].id
SPLIT, WHOLE = machine.VFS["split"].address, machine.VFS["whole"].address
VFS = [f"{SPLIT[:-1]}{number}" for number in (1, 2)]
# No driver of a VF's is wanted here: without its controller's leave it is not ready, after a while.
MAKE = "\n".join(
    (
        "set -e",
        f"echo 0 >/sys/bus/pci/devices/{SPLIT}/sriov_drivers_autoprobe",
        f"echo {len(VFS)} >/sys/bus/pci/devices/{SPLIT}/sriov_numvfs",
    )
)
TYPES = {"PF": "type-PF", "VF": "type-VF"}


def ask(device_type: str | None = None, **more: str) -> str:
    """Return the option with one item."""
    item = {"alias": "disk", "id": ID, **({"device-type": device_type} if device_type else {})}
    return json.dumps([{**item, **more}])


def list_claims(told: story.Story, option: str) -> list[str]:
    """Return what the plan for an option claims."""
    return sorted(claim["address"] for claim in told.plan(option)["claims"])


@pytest.fixture(scope="module")
def planned(boot: booting.Boot) -> Iterator[story.Watched]:
    """One disk has VFs, nothing is claimed, and the IOMMU is off: no group says anything yet."""
    with boot(machine.VFS) as host:
        told = story.begin(host)
        with host.progress.step("deploy"):
            told.charm.deploy()
        host.run(MAKE)
        told.seen["ids"] = {
            address: each.id
            for address, each in kernel.read_functions(host).items()
            if address in (SPLIT, WHOLE, *VFS)
        }
        for name in (*TYPES.values(), None):
            told.seen[name or "no type"] = list_claims(told, ask(name, exclude=SPLIT))
        yield told


@pytest.fixture(scope="module")
def claimed(planned: story.Watched) -> story.Watched:
    """The whole disk is claimed as a PF, the machine has been rebooted, and the VFs are there."""
    planned.charm.configure(devices=ask("type-PF", exclude=SPLIT))
    planned.charm.reboot("reboot with a disk claimed as a PF")
    planned.host.run(MAKE)
    planned.charm.run_hook("update-status")
    return planned


def test_the_vfs_have_the_id_of_their_disk(planned: story.Watched) -> None:
    assert planned.seen["ids"] == dict.fromkeys((SPLIT, WHOLE, *VFS), ID)


@pytest.mark.parametrize(
    ("said", "claims"), [("type-PF", [WHOLE]), ("no type", []), ("type-VF", VFS)]
)
def test_an_item_claims_the_type_that_it_says(
    planned: story.Watched, said: str, claims: list[str]
) -> None:
    assert planned.seen[said] == claims


def test_the_whole_disk_alone_is_taken(claimed: story.Watched) -> None:
    found = kernel.read_functions(claimed.host)
    drivers = {address: found[address].driver for address in (SPLIT, WHOLE, *VFS)}
    assert drivers == {SPLIT: "nvme", WHOLE: kernel.VFIO, **dict.fromkeys(VFS)}
    assert claimed.charm.read_status() == "active: disk: 1 ready"
    assert claimed.list_failed_checks() == ""
