"""Make the VFs of functions that stay with the host, and take them away, while the host runs.

Source: the kernel's Documentation/PCI/pci-iov-howto.rst and ABI/testing/sysfs-bus-pci. While VFs
come into being, sriov_drivers_autoprobe is 0: their own driver never has them.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from passthrough import errors
from passthrough.effects import drivers
from passthrough.effects.tools import Tools
from passthrough.host import pci, vfio_users
from passthrough.planning import vfs
from passthrough.state import record
from passthrough.system import commands, sysfs

# Seconds. Some drivers reset the port for each VF.
DEADLINE = 300.0
_AUTOPROBE, _NUMBER = "sriov_drivers_autoprobe", "sriov_numvfs"


def change(
    ledger: record.Ledger,
    outcome: vfs.Outcome,
    tools: Tools,
    report: Callable[[str], object],
    confirm: Callable[[str], str | None],
) -> dict[str, errors.BindError]:
    """Do what was decided about VFs, one function after the other.

    Args:
        ledger: the application's record, opened under the host's lock.
        outcome: what was decided.
        tools: wait for udev.
        report: takes a sentence about each thing that was done.
        confirm: asked of each function immediately before; gives what is against it by then.

    Returns:
        Address of each function that does not have the VFs that it shall have → why.

    Raises:
        OSError: when the record cannot be written; the host then stays as it is at that point.
    """
    failed: dict[str, errors.BindError] = {}
    for address in outcome.restores:
        _restore(ledger, address)
    for number, each in enumerate(outcome.changes):
        try:
            objection = confirm(each.address)
            if objection is not None:
                raise errors.PostponedError(each.address, f"its VFs stay as they are: {objection}")
            _change(ledger, each, tools, report)
        except errors.StuckError as error:
            failed[each.address] = error
            for later in outcome.changes[number + 1 :]:
                failed[later.address] = errors.PostponedError.after(error, later.address)
            break
        except errors.BindError as error:
            failed[each.address] = error
    for error in failed.values():
        report(f"not changed: {error}")
    return failed


def _change(
    ledger: record.Ledger, wanted: vfs.Change, tools: Tools, report: Callable[[str], object]
) -> None:
    root, address = ledger.site.root, wanted.address
    if wanted.present:
        lost = vfio_users.vfs_of(root, address)
        try:
            with drivers.kept_from_guests(root, address, lost):
                _set_number(root, address, 0)
        except OSError as error:
            raise errors.BindError(address, f"its VFs stay: {error.strerror}") from error
        report(f"{address}: its {wanted.present} VFs taken away")
    if wanted.number:
        _make(ledger, wanted, tools)
        report(f"{address}: {wanted.number} VFs made")
    # The record keeps those that are gone until the boot unit is, which would make them again.


def _make(ledger: record.Ledger, wanted: vfs.Change, tools: Tools) -> None:
    """Make VFs, of none; the record has them, and what to put back, before anything is written."""
    root, address = ledger.site.root, wanted.address
    autoprobe = drivers.device_of(root, address) / _AUTOPROBE
    known = ledger.present.vfs.get(address, record.Vfs(wanted.number))
    before = known.autoprobe or sysfs.attribute_if_there(autoprobe) or ""
    entry = record.Vfs(wanted.number, autoprobe=before if before in ("0", "1") else "")
    ledger.update(vfs={**ledger.present.vfs, address: entry})
    driver = pci.driver_of(root, address) or "no driver"
    try:
        if entry.autoprobe:
            drivers.write(autoprobe, "0")
        _set_number(root, address, wanted.number)
    except OSError as error:
        raise errors.BindError(address, f"{driver} makes no VFs: {error.strerror}") from error
    finally:
        # What udev loads for the VFs must have come and looked before they can be had again.
        try:
            tools.settle_devices()
        except commands.CommandError as error:
            raise errors.BindError(address, f"udev does not come to an end: {error}") from error
        _restore(ledger, address)
    made = sysfs.attribute_if_there(drivers.device_of(root, address) / _NUMBER)
    if made != str(wanted.number):
        raise errors.BindError(
            address,
            f"{driver} made {made} of {wanted.number} VFs",
            "see dmesg" + (", and bring its port up" if driver in vfs.WANT_PORT_UP else ""),
        )


def _restore(ledger: record.Ledger, address: str) -> None:
    """Put sriov_drivers_autoprobe back to what it was."""
    entry = ledger.present.vfs[address]
    path = drivers.device_of(ledger.site.root, address) / _AUTOPROBE
    if entry.autoprobe and path.exists():
        drivers.write(path, entry.autoprobe)
    ledger.update(vfs={**ledger.present.vfs, address: entry._replace(autoprobe="")})


def _set_number(root: Path, address: str, count: int) -> None:
    """Set how many VFs a function has.

    Raises:
        StuckError: when a driver has not released a VF in time.
        OSError: when the kernel refuses.
    """
    path = drivers.device_of(root, address) / _NUMBER
    drivers.write_in_time(root, address, path, str(count), DEADLINE)
