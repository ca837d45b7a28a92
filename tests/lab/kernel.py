"""What a guest's kernel shows of its PCI devices, read in one command."""

import dataclasses
import json

from lab import errors, guest

VFIO = "vfio-pci"
# One Python process reads it all: a shell would fork hundreds of times, slowly.
READ_FUNCTIONS = """
import json, os, pathlib
found = {}
for path in sorted(pathlib.Path("/sys/bus/pci/devices").iterdir()):
    text = {name: (path / name).read_text().strip() for name in ("vendor", "device", "class")}
    link = {
        name: os.path.basename(os.readlink(path / name)) if (path / name).is_symlink() else None
        for name in ("driver", "iommu_group")
    }
    found[path.name] = {
        "id": f"{text['vendor'][2:]}:{text['device'][2:]}",
        "pci_class": text["class"][2:6],
        "driver": link["driver"],
        "group": link["iommu_group"],
        "override": (path / "driver_override").read_text().strip(),
        "numa_node": int((path / "numa_node").read_text()),
    }
print(json.dumps(found))
"""

READ_INTERFACES = """
import json, os, re
address = re.compile("[0-9a-f]{4}:[0-9a-f]{2}:[01][0-9a-f][.][0-7](?=/)")
names = os.listdir("/sys/class/net")
places = {name: address.findall(os.path.realpath(f"/sys/class/net/{name}")) for name in names}
print(json.dumps({found[-1]: name for name, found in places.items() if found}))
"""


@dataclasses.dataclass(frozen=True)
class Function:
    """A PCI function as /sys shows it; `override` is "(null)" where there is none."""

    id: str
    pci_class: str
    driver: str | None
    group: str | None
    override: str
    numa_node: int


def read_functions(host: guest.Guest) -> dict[str, Function]:
    """Return every PCI function of the guest by address, sorted."""
    printed = host.run(["python3", "-c", READ_FUNCTIONS]).stdout
    return {address: Function(**fields) for address, fields in json.loads(printed).items()}


def read_interfaces(host: guest.Guest) -> dict[str, str]:
    """Return the name of each network interface by its function's address."""
    return json.loads(host.run(["python3", "-c", READ_INTERFACES]).stdout)


def read_group_node(host: guest.Guest, address: str) -> str:
    """Return the device node of a function's IOMMU group."""
    return f"/dev/vfio/{read_functions(host)[address].group}"


def list_groups(functions: dict[str, Function]) -> list[set[str]]:
    """Return the IOMMU groups as sets of addresses."""
    names = {function.group for function in functions.values()} - {None}
    return [
        {address for address, function in functions.items() if function.group == name}
        for name in sorted(names, key=str)
    ]


def read_command_line(host: guest.Guest) -> list[str]:
    """Return the tokens the running kernel was started with."""
    return host.read("/proc/cmdline").split()


def find_mentions(log: list[str], address: str) -> list[str]:
    """Return the lines of a kernel's log about a function, its enumeration (`pci`) left out."""
    return [line for line in log if address in line and not line.startswith(f"pci {address}: ")]


def check_functions(found: dict[str, Function], expected: dict[str, str | None]) -> None:
    """Compare the drivers of some functions with those expected, by address.

    Raises:
        LabError: lists every difference.
    """
    wrong = [
        f"{address}: {found[address].driver if address in found else 'not there'}, not {driver}"
        for address, driver in sorted(expected.items())
        if address not in found or found[address].driver != driver
    ]
    if wrong:
        raise errors.LabError("drivers are not as expected:\n" + "\n".join(wrong))
