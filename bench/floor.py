"""What any listing in Python costs: it starts, asks sysfs the least there is to ask, prints JSON.

``floor.py ROOT``. No name, no use by the host, no rule: what `pci-passthrough list` can not be
faster than on the same tree.
"""

import json
import os
import sys


def main():
    """Print a line of JSON for each function: what the kernel says of it, in its own words."""
    devices = f"{sys.argv[1]}/sys/bus/pci/devices"
    for address in sorted(os.listdir(devices)):
        here = f"{devices}/{address}"
        row = {"address": address, "iommu_group": os.readlink(f"{here}/iommu_group")}
        for name in ("uevent", "numa_node"):
            handle = os.open(f"{here}/{name}", os.O_RDONLY)
            row[name] = os.read(handle, 4096).decode()
            os.close(handle)
        print(json.dumps(row))


main()
