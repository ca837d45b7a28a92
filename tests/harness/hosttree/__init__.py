"""Made-up hosts: a directory tree that looks like the parts of a host which the charm reads.

Under ``tmp_path`` a tree serves code that takes a root; mounted by a host box (tests/functional)
it is the root. What stands in it follows the kernel's Documentation/ABI and the /sys of real
machines; tests/functional/test_hostbox.py compares the two.

    tree = hosttree.HostTree(tmp_path / "host", ubuntu="24.04")
    tree.bridge("0000:80:01.0")
    tree.function("0000:83:00.0", "10de:1bb0", 0x030000, parent="0000:80:01.0", driver="nouveau")
    tree.function("0000:83:00.1", "10de:10f0", 0x040300, parent="0000:80:01.0")
    tree.iommu_on()
    tree.bind("0000:83:00.0", "vfio-pci")
"""

from harness.hosttree.examples import compute_host
from harness.hosttree.tree import UBUNTU, HostTree

__all__ = ["UBUNTU", "HostTree", "compute_host"]
