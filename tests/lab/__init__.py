"""A real machine to test on: Debian in QEMU with an emulated IOMMU and real PCI devices.

`image` builds the disk, `machine` says what hardware there is, `guest` boots and drives it and
`unit` runs the packed charm inside. Only Python's own library is needed here, and the host
packages of `requirements-apt.txt`.
"""
