"""The ``host-exceptions`` option: addresses that single hosts leave out, whatever is asked for."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import NamedTuple

from passthrough.config import values, words
from passthrough.errors import OptionError
from passthrough.system import quoting

OPTION = "host-exceptions"
MAX_ITEMS = 256

_GRAMMAR = "HOST=ADDRESS"
_EXAMPLE = "compute-7=0000:83:00.0"
# RFC 1123's names and the underscore, which some hosts have.
_HOST = re.compile(r"[a-z0-9](?:[a-z0-9_.-]{0,251}[a-z0-9])?")
_UNIT = re.compile(r"[a-z0-9-]+/[0-9]+")


class HostException(NamedTuple):
    """One item: an address, or a glob of addresses, that one host leaves out.

    Attributes:
        host: the host's name in lower case, with or without its domain.
        address: a lower-case glob with a PCI domain.
    """

    host: str
    address: str


def parse(text: str) -> tuple[HostException, ...]:
    """Parse the ``host-exceptions`` option.

    Args:
        text: items ``HOST=ADDRESS`` with commas, spaces or newlines between them; what stands
            behind a ``#`` is a comment. Several items may name one host.

    Returns:
        The items, each once, in the operator's order.

    Raises:
        OptionError: when the option does not accept the text; names the item and the way out.
    """
    plain = words.without_comments(text)
    items: dict[HostException, None] = {}
    for number, item in enumerate(words.split(OPTION, plain, r"[,\s]+", MAX_ITEMS), 1):
        try:
            items[_parse_item(item)] = None
        except values.NotAcceptedError as error:
            label = words.label(number, item)
            raise OptionError(OPTION, error.fact, label, error.way_out) from error
    return tuple(items)


def of(exceptions: Iterable[HostException], host: str) -> tuple[str, ...]:
    """The globs of addresses that one host leaves out.

    Args:
        exceptions: the parsed option.
        host: the name that the host's kernel has.

    Raises:
        OptionError: when there are exceptions, and the host's name is empty: whether they are this
            host's cannot be told, which is not the same as none.
    """
    exceptions = tuple(exceptions)
    if exceptions and not host:
        raise OptionError(
            OPTION, "this host does not tell its name, so which are its own cannot be told"
        )
    return tuple(each.address for each in exceptions if _is_same(each.host, host.lower()))


def _is_same(one: str, other: str) -> bool:
    """Compare two names of hosts: where either lacks its domain, by what stands before it."""
    if "." in one and "." in other:
        return one == other
    return one.partition(".")[0] == other.partition(".")[0]


def _parse_item(text: str) -> HostException:
    name, equals, address = text.partition("=")
    if not equals:
        raise values.NotAcceptedError(f"is not {_GRAMMAR}", f"write it so: {_EXAMPLE}")
    host = name.lower()
    if _UNIT.fullmatch(host):
        raise values.NotAcceptedError(
            f"{quoting.show(name)} is a unit of Juju's, which a host outlives",
            f"name the host: juju ssh {host} hostname",
        )
    if not _HOST.fullmatch(host):
        raise values.NotAcceptedError(
            f"{quoting.show(name)} is not the name of one host, as hostname prints it",
            f"write it so: {_EXAMPLE}",
        )
    return HostException(host, values.read_address(address))
