"""One use of a PCI function by the host, and the way from a device's path to the function."""

from __future__ import annotations

import dataclasses

MOUNT = "mount"
SWAP = "swap"
MEMBER = "member"
ADDRESS = "address"
ROUTE = "route"
PORT = "port"
NAMESPACE = "namespace"
CONSOLE = "console"
MEDIATED = "mediated"
PROGRAM = "program"


@dataclasses.dataclass(frozen=True)
class Use:
    """One use: its kind, one of the constants above, and in words what it is."""

    kind: str
    what: str
