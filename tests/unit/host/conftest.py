"""What the tests of the host's uses share; each file has its own ``host``."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from harness import hosttree

from passthrough.host import pci, usage


@pytest.fixture
def find(host: hosttree.HostTree) -> Callable[[], dict[str, list[str]]]:
    """The uses of every function: ``kind: what``."""

    def find() -> dict[str, list[str]]:
        found = usage.read(host.root, pci.read(host.root)).uses
        return {
            address: [f"{each.kind}: {each.what}" for each in found[address]] for address in found
        }

    return find
