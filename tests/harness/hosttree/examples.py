"""Ready-made hosts, for tests that need one and do not care which."""

from __future__ import annotations

import os
from typing import Any

from harness.hosttree.tree import HostTree

GPU, AUDIO, NIC, NVME = "10de:1bb0", "10de:10f0", "8086:10d3", "144d:a808"


def compute_host(root: str | os.PathLike[str], **options: Any) -> HostTree:
    """A compute host like the lab's machine, with its IOMMU off.

    Three equal GPUs (display and audio function) at 0000:83:00, 84:00 and 85:00, each behind a
    root port of its own on NUMA node 1; two equal NICs at 0000:03:00.0 and 04:00.0, the first up;
    an NVMe disk at 0000:05:00.0; the console's display at 0000:00:02.0.

    Args:
        root: directory that becomes the host's ``/``.
        options: of `HostTree`.
    """
    tree = HostTree(root, **{"ubuntu": "22.04", **options})
    tree.function("0000:00:00.0", "8086:29c0", 0x060000)
    tree.function("0000:00:02.0", "1234:1111", 0x030000, driver="bochs-drm", boot_vga=True)
    for number, bus in enumerate(("03", "04", "05"), 1):
        tree.bridge(f"0000:00:{0x10 + number:02x}.0")
        parent = f"0000:00:{0x10 + number:02x}.0"
        if bus == "05":
            tree.function("0000:05:00.0", NVME, 0x010802, parent=parent, driver="nvme")
        else:
            address = f"0000:{bus}:00.0"
            tree.function(address, NIC, 0x020000, parent=parent, driver="e1000e")
            tree.nic(address, f"ens{number}", mac=f"52:54:00:00:00:{bus}", up=number == 1)
    for number, bus in enumerate(("83", "84", "85"), 1):
        parent = f"0000:80:{number:02x}.0"
        tree.bridge(parent, numa=1)
        tree.function(f"0000:{bus}:00.0", GPU, 0x030000, parent=parent, driver="nouveau", numa=1)
        tree.function(
            f"0000:{bus}:00.1", AUDIO, 0x040300, parent=parent, driver="snd_hda_intel", numa=1
        )
    return tree
