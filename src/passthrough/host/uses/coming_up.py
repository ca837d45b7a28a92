"""Interfaces that the host is about to use: systemd-networkd has them, and is not done. Reads only.

Right after a boot nothing shows what an interface is for: DHCP has not answered, a bond is not
there yet. Source: systemd's src/libsystemd/sd-network (sd-network.h) for /run/systemd/netif.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from passthrough import pci_address
from passthrough.host.uses import kinds
from passthrough.system import quoting, sysfs

_NET = "sys/class/net"
_LINKS = "run/systemd/netif/links"
_UNFINISHED = ("pending", "initialized", "configuring")


def find(root: Path) -> Iterator[tuple[str, kinds.Use]]:
    """Find the functions whose interfaces are being configured, as pairs of address and use.

    An interface counts that a .network file names. One that networkd only brings up, without an
    address, is done at once; one that waits for a cable is not.

    Raises:
        OSError: when the state of an interface is there and cannot be read.
    """
    for name, path in sysfs.links_or_raise(root / _NET).items():
        functions = pci_address.functions_on(path)
        index = sysfs.attribute_if_there(root / _NET / name / "ifindex") if functions else None
        if not index:
            continue
        pairs = (line.partition("=") for line in sysfs.lines_or_raise(root / _LINKS / index))
        state = {key: value for key, _, value in pairs}
        if state.get("NETWORK_FILE") and state.get("ADMIN_STATE") in _UNFINISHED:
            use = kinds.Use(
                kinds.Kind.ADDRESS, f"systemd-networkd is configuring {quoting.plain(name)}"
            )
            yield from ((address, use) for address in sorted(functions))
