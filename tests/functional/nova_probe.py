"""Ask the real Nova what it makes of a configuration. Runs under Nova's own interpreter.

usage: PYTHON_OF_NOVA nova_probe.py

It reads one request a line and answers each with a line, both JSON, until its input ends: importing
Nova takes seconds, a request milliseconds. A request is an object with

==============  ====================================================================================
key             value
==============  ====================================================================================
``program``     read the files that this program of Nova reads, such as nova-compute …
``arguments``   … when it is started with these arguments; none by default
``files``       in place of a program: these files, in this order, as --config-file
``devices``     the functions that the hypervisor lists: objects with address, vendor_id,
                product_id, dev_type, and optionally parent_addr and numa_node …
``driver``      … or, when true, let Nova's libvirt driver list them, which gives ``hostdevs``, too
``sysfs``       … or, without either key, where to read them; /sys by default
``flavors``     what flavors ask for in pci_passthrough:alias, such as ``gpu:2``; "" for nothing
==============  ====================================================================================

and an answer ``{"error": TEXT}`` where Nova refuses the configuration, otherwise

===========================  =======================================================================
``aliases``                  alias name → ``[numa_policy, [spec, …]]``, from get_alias_from_config
``listed``                   addresses of all the devices, sorted
``assignable``               addresses of the devices that the device_specs match, sorted
``hostdevs``                 address → the element of a guest's XML that gives it one of these
``tags``                     address → the tags of the device_spec that matched it first
``passes``                   flavor → whether PciPassthroughFilter.host_passes with these devices
``report_in_placement``      the option
``enabled_filters``          the option
``options``                  ``alias`` and ``device_spec``: the values as oslo.config read them
===========================  =======================================================================

Written for Nova 26 (Debian 12, in the lab) to 34 (the functional tests).
"""
# pyright: reportMissingImports=false

import json
import logging
import os
import pathlib
import sys
import traceback
import types

import nova.conf
from nova import config, exception, objects
from nova.compute import pci_placement_translator as placement
from nova.pci import request, stats, utils, whitelist
from nova.scheduler.filters import pci_passthrough_filter

CONF = nova.conf.CONF
# Whatever Nova itself raises for a configuration it does not take.
REFUSALS = (exception.NovaException,)


def main():
    """Answer the requests on standard input."""
    logging.disable(logging.CRITICAL)
    objects.register_all()
    for line in sys.stdin:
        try:
            said = answer(json.loads(line))
        except REFUSALS as error:
            said = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(said), flush=True)


def answer(case):
    """Load a case's configuration as Nova's services do, and look at it with their code."""
    load(case)
    driver = start_driver() if case.get("driver") else None
    if driver:
        devices = json.loads(driver._get_pci_passthrough_devices())
    else:
        devices = case["devices"] if "devices" in case else read_devices(case.get("sysfs", "/sys"))
        # They need not be in this machine's /sys, where Nova looks whether a function is a PF.
        pfs = {each["address"] for each in devices if each["dev_type"] == "type-PF"}
        utils.is_physical_function = lambda *parts: "{}:{}:{}.{}".format(*parts) in pfs
    get_aliases = getattr(request, "get_alias_from_config", None) or request._get_alias_from_config
    getattr(get_aliases, "cache_clear", lambda: None)()
    aliases = get_aliases()
    accepted = whitelist.Whitelist(CONF.pci.device_spec)
    matches = {each["address"]: match(accepted, each) for each in devices}
    assignable = [each for each in devices if matches[each["address"]]]
    pools = make_pools(accepted, assignable)
    check_placement(accepted, assignable)
    return {
        "aliases": aliases,
        "listed": sorted(matches),
        "assignable": sorted(address for address, spec in matches.items() if spec),
        "hostdevs": make_hostdevs(driver, assignable, matches) if driver else {},
        "tags": {address: spec.get_tags() for address, spec in matches.items() if spec},
        "passes": {flavor: passes(pools, flavor) for flavor in case.get("flavors", ())},
        "report_in_placement": CONF.pci.report_in_placement,
        "enabled_filters": CONF.filter_scheduler.enabled_filters,
        "options": {"alias": CONF.pci.alias, "device_spec": CONF.pci.device_spec},
    }


def load(case):
    """Parse the configuration files of a case, or those that a program of Nova finds."""
    CONF.reset()
    if "files" in case:
        arguments = [word for name in case["files"] for word in ("--config-file", name)]
        CONF(arguments, project="nova", prog="none", default_config_dirs=[])
    else:
        # The name it was started by tells oslo.config which files are a program's own.
        sys.argv[0] = case["program"]
        arguments = [case["program"], *case.get("arguments", ())]
        config.parse_args(arguments, configure_db=False, init_rpc=False)


def start_driver():
    """Nova's libvirt driver, connected to the libvirtd of this machine when it is first used."""
    from nova.virt.libvirt import driver

    return driver.LibvirtDriver(None, read_only=True)


def make_hostdevs(driver, devices, matches):
    """Write the XML with which Nova's libvirt driver gives each device to a guest, by address."""
    return {
        each["address"]: driver._get_guest_pci_device(
            make_device(add_tags(each, matches[each["address"]]))
        ).to_xml()
        for each in devices
    }


def add_tags(device, spec):
    """Add what the tracker takes of a device's device_spec, from Nova 31 on.

    Source: PciDevTracker.update_devices_from_hypervisor_resources in nova/pci/manager.py.
    """
    enhanced = dict(device)
    getattr(spec, "enhanced_pci_device_with_spec_tags", lambda fields: None)(enhanced)
    return enhanced


def read_devices(sysfs):
    """List what is below a /sys as Nova's libvirt driver lists node devices.

    Source: _get_device_type in nova/virt/libvirt/host.py, and libvirt, which calls a function with
    sriov_totalvfs above 0 ``virt_functions``.
    """
    devices = []
    for path in sorted(pathlib.Path(sysfs, "bus/pci/devices").iterdir()):
        total = path / "sriov_totalvfs"
        device = {
            "address": path.name,
            "vendor_id": (path / "vendor").read_text().strip()[2:],
            "product_id": (path / "device").read_text().strip()[2:],
            "dev_type": "type-PCI",
            "numa_node": max(int((path / "numa_node").read_text()), 0),
        }
        if (path / "physfn").exists():
            device["dev_type"] = "type-VF"
            device["parent_addr"] = os.path.basename(os.readlink(path / "physfn"))
        elif total.exists() and int(total.read_text()):
            device["dev_type"] = "type-PF"
        devices.append(device)
    return devices


def match(accepted, device):
    """Find the device_spec for a device; none for one whose address Nova cannot take.

    Source: PciDevTracker.update_devices_from_hypervisor_resources in nova/pci/manager.py.
    """
    try:
        found = accepted.device_assignable(device)
    except exception.PciConfigInvalidSpec:
        return None
    # Nova 26 says here only whether there is one.
    return accepted.get_devspec(make_device(device)) if found is True else found or None


def make_pools(accepted, devices):
    """Pool devices as nova-compute's resource tracker does for the scheduler."""
    pools = stats.PciDeviceStats(objects.NUMATopology(), dev_filter=accepted)
    for each in devices:
        pools.add_device(make_device(each))
    return pools


def make_device(fields):
    """A PciDevice of what the hypervisor says."""
    label = "label_{vendor_id}_{product_id}".format(**fields)
    given = {"numa_node": None, **fields, "label": label, "dev_id": fields["address"]}
    given["parent_addr"] = fields.get("parent_addr")
    return objects.PciDevice.create(None, given)


def passes(pools, flavor):
    """Run the scheduler's filter for a host with these pools and a flavor."""
    specs = {"pci_passthrough:alias": flavor} if flavor else {}
    requests = request.get_pci_requests_from_flavor(objects.Flavor(extra_specs=specs))
    host = types.SimpleNamespace(pci_stats=pools, allocation_candidates=[{"mappings": {}}])
    wanted = types.SimpleNamespace(pci_requests=requests)
    return bool(pci_passthrough_filter.PciPassthroughFilter().host_passes(host, wanted))


def check_placement(accepted, devices):
    """Build the view that nova-compute reports to Placement; raises what stops the service."""
    if not CONF.pci.report_in_placement:
        return
    view = placement.PlacementView("host", [])
    for each in devices:
        view.process_dev(make_device(each), accepted.device_assignable(each))


if __name__ == "__main__":
    status = 1
    try:
        main()
        status = 0
    except Exception:
        traceback.print_exc()
    # The driver's connection to libvirt keeps the interpreter from ending in an orderly way.
    sys.stdout.flush()
    os._exit(status)
