"""Have Nova's libvirt driver bring guests up, as nova-compute does when its host has booted.

Runs in a machine, as Nova's user, under the Python that Nova is installed for.

usage: resume.py <REQUEST, or resume.py folder NAME

REQUEST is a JSON object: ``arguments``, what nova-compute is started with, and ``guests``, the
address of the function that each guest has, by the guest's name; it has to be one that the
configuration offers. ``folder`` prints where a guest's kernel, ramdisk, disk and console.log are.

Where resume_guests_state_on_host_boot is set nova-compute calls `resume_state_on_host_boot` for
every instance that ran when its host went down (ComputeManager._resume_guests_state). It reads what
an instance is from the database; here it is put together. The first call makes the guest: for one
that libvirt does not know, the driver does the same.
"""
# pyright: reportMissingImports=false, reportAttributeAccessIssue=false

import json
import os
import pathlib
import sys
import traceback
import uuid

import nova.cmd  # it patches the standard library, as for nova-compute
import nova.conf
from nova import config, context, objects
from nova.network import model
from nova.pci import whitelist
from nova.virt import fake
from nova.virt.libvirt import driver

CONF = nova.conf.CONF
PROJECT = "lab"
MEMORY_MIB = 192
COMMAND_LINE = "console=ttyS0 quiet mitigations=off tsc=reliable clocksource=tsc"
# What the emulated machine lacks or would wait for: a display, a processor that libvirt knows.
SETTINGS = (
    ("vnc", "enabled", False),
    ("libvirt", "cpu_mode", "host-passthrough"),
    ("libvirt", "images_type", "raw"),
)


def main():
    """Bring up each guest with its function, or say where a guest's files are."""
    if sys.argv[1:]:
        print(find_folder(sys.argv[2]))
        return
    request = json.load(sys.stdin)
    # The name it was started by tells oslo.config which files are a program's own.
    sys.argv[0] = "nova-compute"
    objects.register_all()
    config.parse_args(["nova-compute", *request["arguments"]], configure_db=False, init_rpc=False)
    for known in (nova.conf.neutron, nova.conf.devices):  # as ComputeManager does
        known.register_dynamic_opts(CONF)
    for group, option, value in SETTINGS:
        CONF.set_override(option, value, group=group)
    offered = whitelist.Whitelist(CONF.pci.device_spec)
    nova_driver = driver.LibvirtDriver(fake.FakeVirtAPI(), read_only=False)
    nova_driver._host.initialize()
    for number, (name, address) in enumerate(request["guests"].items(), 1):
        function = read_function(address)
        if not offered.device_assignable(function):
            raise SystemExit(f"{address} is not offered: {CONF.pci.device_spec}")
        nova_driver.resume_state_on_host_boot(
            context.get_admin_context(),
            make_instance(number, name, function),
            model.NetworkInfo([]),
        )


def find_folder(name):
    """Where a guest's files are; Nova's packages leave instances_path as it is."""
    return f"/var/lib/nova/instances/{find_uuid(name)}"


def read_function(address):
    """What Nova's libvirt driver lists of a function."""
    path = pathlib.Path("/sys/bus/pci/devices", address)
    function = {
        "address": address,
        "vendor_id": (path / "vendor").read_text().strip()[2:],
        "product_id": (path / "device").read_text().strip()[2:],
        "dev_type": "type-PCI",
        "numa_node": max(int((path / "numa_node").read_text()), 0),
    }
    if (path / "physfn").exists():
        function["dev_type"] = "type-VF"
        function["parent_addr"] = os.path.basename(os.readlink(path / "physfn"))
    return function


def make_instance(number, name, function):
    """Put together what the database would have of an instance with one function."""
    request = str(uuid.uuid5(uuid.NAMESPACE_OID, function["address"]))
    asked = objects.InstancePCIRequest(
        request_id=request, count=1, alias_name="lab", spec=[], requester_id=None, is_new=False
    )
    identity = find_uuid(name)
    flavor = objects.Flavor(
        id=1,
        name="lab",
        flavorid="lab",
        memory_mb=MEMORY_MIB,
        vcpus=1,
        root_gb=0,
        ephemeral_gb=0,
        swap=0,
        extra_specs={},
    )
    return objects.Instance(
        id=number,
        uuid=identity,
        display_name=name,
        user_id=PROJECT,
        project_id=PROJECT,
        image_ref=str(uuid.uuid5(uuid.NAMESPACE_OID, "image")),
        kernel_id="kernel",
        ramdisk_id="ramdisk",
        root_device_name="/dev/vda",
        memory_mb=MEMORY_MIB,
        vcpus=1,
        root_gb=0,
        ephemeral_gb=0,
        ephemeral_key_uuid=None,
        os_type=None,
        vm_mode=None,
        architecture=None,
        config_drive="",
        default_ephemeral_device=None,
        default_swap_device=None,
        metadata={},
        system_metadata={
            "image_disk_format": "raw",
            "image_container_format": "bare",
            "image_os_command_line": COMMAND_LINE,
        },
        flavor=flavor,
        numa_topology=None,
        vcpu_model=None,
        resources=None,
        migration_context=None,
        trusted_certs=None,
        pci_requests=objects.InstancePCIRequests(instance_uuid=identity, requests=[asked]),
        pci_devices=objects.PciDeviceList(objects=[make_device(function, request)]),
    )


def find_uuid(name):
    """The UUID of the guest of a name."""
    return str(uuid.uuid5(uuid.NAMESPACE_DNS, name))


def make_device(fields, request):
    """A PciDevice of what the hypervisor says, given for a request."""
    label = "label_{vendor_id}_{product_id}".format(**fields)
    given = {"numa_node": None, **fields, "label": label, "dev_id": fields["address"]}
    given["parent_addr"] = fields.get("parent_addr")
    device = objects.PciDevice.create(None, given)
    device.request_id = request
    return device


if __name__ == "__main__":
    status = 1
    try:
        main()
        status = 0
    except Exception:
        traceback.print_exc()
    # The driver's threads would keep the interpreter from ending.
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)
