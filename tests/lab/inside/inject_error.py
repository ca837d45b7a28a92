"""Run in a machine: tells its kernel of a PCIe error of a function, by the kernel's aer_inject.

usage: inject_error.py ADDRESS UNCORRECTABLE CORRECTABLE, the last two as bits of the registers that
say what is wrong. From there on all is real: the port's interrupt, the AER driver, its counters.
"""

import pathlib
import struct
import sys


def main(address: str, uncorrectable: str, correctable: str) -> None:
    """Write one struct aer_error_inj of the kernel's drivers/pci/pcie/aer_inject.c."""
    domain, bus, place = address.split(":")
    device, function = place.split(".")
    words = (int(uncorrectable, 16), int(correctable, 16), 0, 0, 0, 0, int(domain, 16))
    packed = struct.pack("=BBBx7I", int(bus, 16), int(device, 16), int(function), *words)
    with pathlib.Path("/dev/aer_inject").open("wb", buffering=0) as node:
        node.write(packed)


if __name__ == "__main__":
    main(*sys.argv[1:])
