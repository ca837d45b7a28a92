"""Read single values of an option, strictly.

Every value is hostile until it has matched a pattern here, because accepted ones end up in files
that root's shell and Nova read. Every reader takes one untyped value, and raises NotAcceptedError
with the reason; the caller names the option and the item.
"""

from __future__ import annotations

import re
from typing import cast

from passthrough import pci_address
from passthrough.system import quoting

MAX_LIST = 256
MAX_ALIASES = 8
MAX_VFS = 65535  # sriov_numvfs is 16 bits wide

ALIAS_BAR = "|"  # between the names of an alias that is renamed: no name holds it
TYPE_PREFIX = "type-"
DEVICE_TYPES = ("type-PCI", "type-PF", "type-VF")
DEFAULT_DEVICE_TYPE = "type-PCI"
QUARANTINES = ("auto", "manual")
NUMA_POLICIES = ("legacy", "preferred", "required", "socket")

_ALIAS = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
_ID = r"[0-9a-f]{4}"
_NETWORK = r"[A-Za-z0-9][A-Za-z0-9_.:-]{0,63}"
_VFIO_DRIVER = r"[A-Za-z0-9_-]{0,50}vfio[_-]pci"
_CUSTOM_NAME = r"[A-Z0-9_]{1,248}"
_COUNT = r"[1-9][0-9]{0,4}"

_GLOB_PART = r"(?:[0-9a-f?*]|\[[0-9a-f](?:-?[0-9a-f])*\])+"
_GLOB = rf"{_GLOB_PART}:{_GLOB_PART}:{_GLOB_PART}\.{_GLOB_PART}"


class NotAcceptedError(ValueError):
    """An option does not accept a value.

    Attributes:
        fact: what is wrong with the value.
        way_out: what to write instead; empty where the fact says it.
    """

    def __init__(self, fact: str, way_out: str = ""):
        self.fact = fact
        self.way_out = way_out
        super().__init__(f"{fact}; {way_out}" if way_out else fact)


def read_id(value: object) -> tuple[str, str]:
    """Read ``VENDOR:PRODUCT`` into two words of four lower-case hex digits."""
    text = _word(value)
    vendor, colon, product = text.lower().partition(":")
    if not colon:
        raise NotAcceptedError(f"{quoting.show(text)} is not VENDOR:PRODUCT, e.g. 10de:1bb0")
    for what, part in (("vendor", vendor), ("product", product)):
        if not re.fullmatch(_ID, part):
            raise NotAcceptedError(
                f"{what} id {quoting.show(part)} is not four hex digits, e.g. 10de:1bb0"
            )
    return vendor, product


def read_alias(value: object) -> str:
    """Read an alias: a name that a flavor can carry (``pci_passthrough:alias=NAME:COUNT``)."""
    text = _word(value)
    if not _ALIAS.fullmatch(text):
        raise NotAcceptedError(
            f"alias {quoting.show(text)} is not a name of up to 64 letters, digits, '.', '_' and"
            " '-' that begins with a letter or digit"
        )
    return text


def read_aliases(value: object) -> str:
    """Read one alias, or several names for the same devices, of which each counts once.

    Args:
        value: a name, names with ``|`` between them, or a list of names.

    Returns:
        The names, in the order given, with ``|`` between them.
    """
    is_list = isinstance(value, list)
    named = cast("list[object]", value) if is_list else list(_word(value).split(ALIAS_BAR))
    if not 0 < len(named) <= MAX_ALIASES:
        raise NotAcceptedError(
            f"{len(named)} names for one alias", f"give 1 to {MAX_ALIASES}, or leave the key out"
        )
    return ALIAS_BAR.join(dict.fromkeys(read_alias(each) for each in named))


def read_address(value: object) -> str:
    """Read one address or glob into lower case; a missing domain is 0000, as lspci prints it."""
    text = _word(value)
    address = text.lower()
    if address.count(":") == 1:
        address = f"0000:{address}"
    if pci_address.is_exact(address):
        return pci_address.canonical(address)
    if re.fullmatch(_GLOB, address) and re.search(r"[?*\[]", address):
        return address
    raise NotAcceptedError(
        f"address {quoting.show(text)} is not [DOMAIN:]BUS:SLOT.FUNCTION in hex, such as"
        " 0000:83:00.0 or the glob 0000:8[34]:00.0"
    )


def read_addresses(value: object) -> tuple[str, ...]:
    """Read one address or a list of them, each once, in the order given."""
    values = cast("list[object]", value) if isinstance(value, list) else [value]
    if not 0 < len(values) <= MAX_LIST:
        raise NotAcceptedError(
            f"{len(values)} addresses", f"give 1 to {MAX_LIST}, or leave the key out"
        )
    return tuple(dict.fromkeys(read_address(each) for each in values))


def read_custom_name(value: object) -> str:
    """Read the name of a resource class or trait, in upper case as Placement keeps it."""
    text = _word(value).upper()
    if not re.fullmatch(_CUSTOM_NAME, text):
        raise NotAcceptedError(f"{quoting.show(value)} is not a name of letters, digits and '_'")
    return text


def read_physical_network(value: object) -> str:
    """Read the name of a physical network, as Neutron's bridge_mappings have it."""
    text = _word(value)
    if not re.fullmatch(_NETWORK, text):
        raise NotAcceptedError(
            f"{quoting.show(text)} is not a name of up to 64 letters, digits, '.', '_', ':' and '-'"
        )
    return text


def read_vfio_driver(value: object) -> str | None:
    """Read the VFIO driver of a claim; None for ``auto``, which leaves it to the kernel."""
    text = _word(value)
    if text == "auto":
        return None
    if not re.fullmatch(_VFIO_DRIVER, text):
        raise NotAcceptedError(
            f"{quoting.show(text)} is neither auto nor vfio-pci, nor a variant of that, such as"
            " mlx5_vfio_pci"
        )
    return text


def read_quarantine(value: object) -> str:
    """Read whether what is sick is taken off the offer: ``auto`` or ``manual``."""
    return _choice(value, QUARANTINES)


def read_traits(value: object) -> tuple[str, ...]:
    """Read trait names from a list, or from a string with commas or spaces between; sorted."""
    is_list = isinstance(value, list)
    values = cast("list[object]", value) if is_list else re.split(r"[,\s]+", _word(value))
    names = tuple(sorted({read_custom_name(each) for each in values if each != ""}))
    if not 0 < len(names) <= MAX_LIST:
        raise NotAcceptedError(
            f"{len(names)} trait names", f"give 1 to {MAX_LIST}, or leave the key out"
        )
    return names


def read_bool(value: object) -> bool:
    """Read ``true`` or ``false``, in any case."""
    text = _word(value).lower()
    if text not in ("true", "false"):
        raise NotAcceptedError(f"{quoting.show(value)} is neither true nor false")
    return text == "true"


def read_count(value: object) -> int:
    """Read how many VFs a function shall have: 1 or more, in decimal."""
    text = _word(value)
    if not re.fullmatch(_COUNT, text) or int(text) > MAX_VFS:
        raise NotAcceptedError(
            f"{quoting.show(text)} is not a number from 1 to {MAX_VFS}",
            "leave the item out for no VFs",
        )
    return int(text)


def read_device_type(value: object) -> str:
    """Read a device_type of Nova's alias schema (nova/pci/request.py)."""
    return _choice(value, DEVICE_TYPES)


def read_short_type(value: object) -> str:
    """Read a device type as the short form has it behind a slash: ``PF``, ``VF`` or ``PCI``."""
    text = _word(value)
    found = f"{TYPE_PREFIX}{text.upper()}"
    if found not in DEVICE_TYPES:
        raise NotAcceptedError(
            f"type {quoting.show(text)} is not PF, VF or PCI", "write it so: 10de:2330/PF"
        )
    return found


def read_numa_policy(value: object) -> str:
    """Read a numa_policy of Nova's alias schema (nova/pci/request.py)."""
    return _choice(value, NUMA_POLICIES)


def _choice(value: object, choices: tuple[str, ...]) -> str:
    text = _word(value)
    if text not in choices:
        raise NotAcceptedError(f"{quoting.show(text)} is not one of {', '.join(choices)}")
    return text


def _word(value: object) -> str:
    if not isinstance(value, str):
        raise NotAcceptedError(f"{quoting.show(value)} is not a plain word")
    return value
