"""Run in a guest: has a device as a guest's QEMU has it, until it is told to end.

usage: holder.py GROUP ADDRESS READY. Opens the group and, through it, the function (the kernel's
Documentation/driver-api/vfio.rst), then writes the file READY.
"""

import fcntl
import os
import pathlib
import signal
import struct
import sys

# From linux/vfio.h: _IO(';', 100 + n).
SET_IOMMU, SET_CONTAINER, GET_DEVICE = 0x3B66, 0x3B68, 0x3B6A
TYPE1 = 1


def main(group_node: str, address: str, ready: str) -> None:
    """Open the function, say so, and wait for a signal."""
    container = os.open("/dev/vfio/vfio", os.O_RDWR)
    group = os.open(group_node, os.O_RDWR)
    fcntl.ioctl(group, SET_CONTAINER, struct.pack("i", container))
    fcntl.ioctl(container, SET_IOMMU, TYPE1)
    # Only with a buffer that can change does ioctl() return what the kernel did: the descriptor.
    fcntl.ioctl(group, GET_DEVICE, bytearray(f"{address}\0".encode()))
    pathlib.Path(ready).touch()
    signal.pause()


if __name__ == "__main__":
    main(*sys.argv[1:])
