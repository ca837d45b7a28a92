"""A variant of vfio-pci, Nova 31, and a libvirt that prefers variants: the hazard, and its end.

The stages are fixtures that follow one another on one machine with two equal cards. The variant is
the lab's own module, on the kernel's vfio_pci_core; Nova, libvirt and the guests are real. The
first card is claimed as the kernel names it. The second one is pinned to vfio-pci and managed by
libvirt, as every claim was before there was `driver: auto`; later it is asked for like the first.

What libvirt does is in its src/util/virpci.c: for a managed function virPCIDeviceBindToStub() reads
the row of /lib/modules/RELEASE/modules.alias that begins with "vfio_pci:", matches the function's
modalias and has the fewest wildcards (virPCIDeviceFindBestVFIOVariant()), loads that module, and
takes the driver from /sys/module/MODULE/drivers (virPCIDeviceFindDriver()). On another driver the
function is unbound and bound to this one, and remembered; behind the guest
virPCIDeviceUnbindFromStub() clears driver_override of what it remembers and probes anew.
"""

import dataclasses
import json
from collections.abc import Iterator
from typing import Any

import pytest

from lab import booting, kernel, machine, nested, nova, story

pytestmark = pytest.mark.row("variant")

AUTO, PINNED = (machine.NEWER_NOVA[name].address for name in ("nic0", "nic1"))
CARD_ID, NATIVE = "8086:10d3", "e1000e"
MODULE, VARIANT = "lab_vfio", "lab-variant"
ROW = f"alias vfio_pci:v00008086d000010D3sv*sd*bc*sc*i* {MODULE}"
ITEM = f"nic={CARD_ID}@"
AS_BEFORE = json.dumps(
    {"alias": "old", "id": CARD_ID, "address": PINNED, "driver": "vfio-pci", "managed": True}
)
BOTH_WAYS = f"[{ITEM}{AUTO}, {AS_BEFORE}]"
BOTH_AUTO = f"{ITEM}{AUTO}, {ITEM}{PINNED}"
LIBVIRT_LOG = "/run/lab-libvirt.log"
LIBVIRT_SETTINGS = f"""
log_filters = "1:util.pci"
log_outputs = "1:file:{LIBVIRT_LOG}"
"""
# The guests, named for their cards and for who binds those.
UNMANAGED, AS_NOVA_WAS = "unmanaged", "as-nova-was"
MANAGED, FOLLOWED = "managed", "followed"


@dataclasses.dataclass(frozen=True)
class Machine(story.Watched):
    """A story with guests."""

    guests: nested.Nested

    def look(self) -> dict[str, Any]:
        """Return what becomes of both cards."""
        found = kernel.read_functions(self.host)
        enabled = [f"/sys/bus/pci/devices/{address}/enable" for address in (AUTO, PINNED)]
        return {
            "opened": self.host.run(["cat", *enabled]).stdout.split(),
            "drivers": {address: found[address].driver for address in (AUTO, PINNED)},
            "override": found[PINNED].override,
            "status": self.charm.read_status(),
            "failed checks": self.list_failed_checks(),
        }

    def list_native_touches(self, address: str) -> list[str]:
        """Return the lines of the kernel's log in which the native driver says something of it."""
        mentions = kernel.find_mentions(self.host.read_kernel_log(), address)
        assert mentions
        return [line for line in mentions if NATIVE in line]


@pytest.fixture(scope="module")
def bound(boot: booting.Boot) -> Iterator[Machine]:
    """Both cards are claimed, and the machine has been rebooted; libvirt tells what it does."""
    with boot(machine.NEWER_NOVA, disk_cache="writeback") as host:
        host.run(["sh", "-c", f"printf '{LIBVIRT_SETTINGS}' >>/etc/libvirt/libvirtd.conf"])
        first = story.begin(host)
        with host.progress.step("deploy, claim a card each way"):
            first.charm.deploy(devices=BOTH_WAYS)
        first.charm.reboot("reboot with two cards claimed")
        told = Machine(**vars(first), guests=nested.Nested(host))
        told.seen["bound"] = told.look()
        yield told


@pytest.fixture(scope="module")
def asked(bound: Machine) -> Machine:
    """Nova has looked at it."""
    with bound.host.progress.step("Nova's libvirt driver lists the devices"):
        bound.seen["nova"] = nova.ask(bound.host)
    return bound


@pytest.fixture(scope="module")
def running(asked: Machine) -> Machine:
    """A guest with each card runs, as Nova tells libvirt."""
    asked.guests.define(UNMANAGED, [asked.seen["nova"]["hostdevs"][AUTO]])
    asked.guests.define(AS_NOVA_WAS, [asked.seen["nova"]["hostdevs"][PINNED]])
    asked.guests.start_paused(UNMANAGED, AS_NOVA_WAS)
    asked.seen["running"] = asked.look()
    return asked


@pytest.fixture(scope="module")
def stopped(running: Machine) -> Machine:
    """Both guests were stopped."""
    for name in (UNMANAGED, AS_NOVA_WAS):
        running.guests.stop(name)
    running.seen["stopped"] = running.look()
    running.seen["touches"] = running.list_native_touches(AUTO)
    running.seen["libvirt"] = running.host.read(LIBVIRT_LOG)
    return running


@pytest.fixture(scope="module")
def followed(stopped: Machine) -> Machine:
    """The second card is asked for like the first; Nova has looked again."""
    with stopped.host.progress.step("claim both cards as the kernel names them"):
        stopped.charm.configure(devices=BOTH_AUTO)
    stopped.seen["followed"] = stopped.look()
    stopped.seen["nova now"] = nova.ask(stopped.host)
    return stopped


@pytest.fixture(scope="module")
def again(followed: Machine) -> Machine:
    """Guests have run with both: the first card managed, as by a Nova before 31, the second not."""
    hostdevs = followed.seen["nova now"]["hostdevs"]
    followed.guests.define(MANAGED, [hostdevs[AUTO].replace('managed="no"', 'managed="yes"')])
    followed.guests.define(FOLLOWED, [hostdevs[PINNED]])
    followed.guests.start_paused(MANAGED, FOLLOWED)
    followed.seen["running again"] = followed.look()
    for name in (MANAGED, FOLLOWED):
        followed.guests.stop(name)
    followed.seen["stopped again"] = followed.look()
    followed.seen["touches again"] = followed.list_native_touches(AUTO)
    return followed


@pytest.fixture(scope="module")
def removed(again: Machine) -> Machine:
    """The guests are deleted, which would keep their cards, and the application was removed."""
    for name in (UNMANAGED, AS_NOVA_WAS, MANAGED, FOLLOWED):
        again.guests.delete(name)
    again.charm.remove()
    return again


def on(auto: str, pinned: str) -> dict[str, str]:
    """Return the drivers of both cards."""
    return {AUTO: auto, PINNED: pinned}


def test_the_kernel_names_the_variant_by_its_module(bound: Machine) -> None:
    release = bound.host.run(["uname", "-r"]).stdout.strip()
    assert ROW in bound.host.read(f"/lib/modules/{release}/modules.alias").splitlines()
    shown = bound.host.run(["ls", f"/sys/module/{MODULE}/drivers"]).stdout.split()
    assert shown == [f"pci:{VARIANT}"]


def test_a_boot_claims_with_the_variant_before_the_native_driver_sees_the_card(
    bound: Machine, stopped: Machine
) -> None:
    assert bound.seen["bound"]["drivers"] == on(VARIANT, kernel.VFIO)
    assert bound.seen["bound"]["failed checks"] == ""
    assert stopped.seen["touches"] == []


def test_nova_has_libvirt_leave_alone_what_has_a_variant_unless_the_item_says_otherwise(
    asked: Machine,
) -> None:
    hostdevs = asked.seen["nova"]["hostdevs"]
    assert 'managed="no"' in hostdevs[AUTO]
    assert 'managed="yes"' in hostdevs[PINNED]


@pytest.mark.parametrize(("stage", "opened"), [("bound", "0"), ("running", "1"), ("stopped", "0")])
def test_a_guest_has_a_card_open_on_the_variant(stopped: Machine, stage: str, opened: str) -> None:
    assert stopped.seen[stage]["opened"][0] == opened
    if stage == "running":
        assert stopped.seen[stage]["opened"][1] == opened


def test_libvirt_moves_a_managed_card_from_vfio_pci_to_the_variant(stopped: Machine) -> None:
    assert stopped.seen["running"]["drivers"] == on(VARIANT, VARIANT)
    assert f"matching alias '{MODULE}' found" in stopped.seen["libvirt"]


def test_behind_the_guest_it_leaves_such_a_card_to_the_native_driver(stopped: Machine) -> None:
    assert stopped.seen["stopped"]["drivers"][PINNED] == NATIVE
    assert stopped.seen["stopped"]["override"] == "(null)"
    assert PINNED in stopped.seen["stopped"]["failed checks"]


def test_the_card_on_the_variant_stays_there_over_its_guest(stopped: Machine) -> None:
    for stage in ("running", "stopped"):
        assert stopped.seen[stage]["drivers"][AUTO] == VARIANT


def test_driver_auto_takes_the_other_card_to_the_variant_too(followed: Machine) -> None:
    assert followed.seen["followed"]["drivers"] == on(VARIANT, VARIANT)
    assert followed.seen["followed"]["status"] == "active: nic: 2 ready"
    assert followed.seen["followed"]["failed checks"] == ""
    assert 'managed="no"' in followed.seen["nova now"]["hostdevs"][PINNED]


@pytest.mark.parametrize("stage", ["running again", "stopped again"])
def test_then_both_stay_there_managed_or_not_and_verify_passes(again: Machine, stage: str) -> None:
    assert again.seen[stage]["drivers"] == on(VARIANT, VARIANT)
    assert again.seen[stage]["failed checks"] == ""
    assert again.seen[stage]["status"] == "active: nic: 2 ready"
    assert again.seen["touches again"] == []


def test_removal_gives_both_back(removed: Machine) -> None:
    assert removed.read_drivers() == removed.with_claimed()
