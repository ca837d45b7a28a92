"""Which card stands at an address, by its id and the serial number in its configuration space."""

from __future__ import annotations

import pytest
from harness.constants import GPU_ID

from passthrough.host import identity
from passthrough.host.identity import Identity

ADDRESS = "0000:83:00.0"
CONFIG = f"sys/bus/pci/devices/{ADDRESS}/config"
SERIAL = "00-04-4b-ff-fe-01-02-03"


def capability(number: int, then: int = 0, content: bytes = bytes(8)) -> bytes:
    """An extended capability, version 1, that leads to the offset ``then``."""
    return (number | 1 << 16 | then << 20).to_bytes(4, "little") + content


def put_serial(tree, serial: str = SERIAL, address: str = ADDRESS) -> None:
    """Let a function tell a serial number, behind another capability."""
    text = bytes.fromhex(serial.replace("-", ""))[::-1]
    space = bytes(256) + capability(0x0001, 0x140).ljust(64, b"\0") + capability(0x0003, 0, text)
    path = tree.root / f"sys/bus/pci/devices/{address}/config"
    path.write_bytes(space.ljust(4096, b"\0"))


def test_its_id_and_serial(tree):
    put_serial(tree)
    assert identity.read(tree.root, ADDRESS) == Identity(GPU_ID, SERIAL)


def test_nothing_there(tree):
    assert identity.read(tree.root, "0000:99:00.0") is None


@pytest.mark.parametrize(
    "space",
    [
        b"",
        bytes(256),
        bytes(4096),
        b"\xff" * 4096,  # the card does not answer
        bytes(256) + capability(0x0001, 0x100),  # leads to itself
        bytes(256) + capability(0x0001, 0x40).ljust(64, b"\0"),  # leads before the first
        bytes(256) + capability(0x0001, 0xFFC),  # leads behind the end
        bytes(256) + capability(0x0003)[:8],  # half of one
    ],
)
def test_a_card_that_tells_no_serial(tree, space: bytes):
    (tree.root / CONFIG).write_bytes(space)
    assert identity.read(tree.root, ADDRESS) == Identity(GPU_ID)


def test_a_configuration_space_that_cannot_be_read(tree):
    (tree.root / CONFIG).unlink()
    assert identity.read(tree.root, ADDRESS) == Identity(GPU_ID)


@pytest.mark.parametrize(
    ("then", "now", "other"),
    [
        (Identity("a:b", "1"), Identity("a:b", "1"), False),
        (Identity("a:b", "1"), Identity("a:b", "2"), True),
        (Identity("a:b", "1"), Identity("a:c", "1"), True),
        (Identity("a:b", "1"), Identity("a:b"), False),
        (Identity("a:b"), Identity("a:b", "1"), False),
    ],
)
def test_another_card(then: Identity, now: Identity, other: bool):
    assert then.is_other(now) is other
