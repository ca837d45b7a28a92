"""One use of a PCI function by the host."""

from __future__ import annotations

from passthrough import enums, frozen


class Kind(enums.StrEnum):
    """The ways in which a host uses a function."""

    MOUNT = "mount"
    SWAP = "swap"
    MEMBER = "member"
    CONFIGURED = "configured"
    ADDRESS = "address"
    ROUTE = "route"
    PORT = "port"
    NAMESPACE = "namespace"
    PART = "part"
    DPDK = "dpdk"
    CONSOLE = "console"
    HOST_CONSOLE = "host-console"
    MEDIATED = "mediated"
    PROGRAM = "program"
    GUEST = "guest"
    HELD = "held"
    UNKNOWN = "unknown"


class Use(frozen.Value):
    """One use: its kind, and in words what it is."""

    kind: Kind
    what: str
