"""The interfaces of a card, as far as making its VFs is concerned."""

from __future__ import annotations

import pytest
from harness import hosttree, made

from passthrough.host import ports

CARD = "0000:3b:00.0"


@pytest.fixture
def tree(tmp_path) -> hosttree.HostTree:
    tree = hosttree.HostTree(tmp_path / "host")
    tree.function(CARD, "8086:10c9", made.ETHERNET, driver="igb", total_vfs=7)
    tree.function("0000:3b:00.1", "8086:10c9", made.ETHERNET, driver="igb", total_vfs=7)
    tree.nic(CARD, "eno1", mac="52:54:00:00:00:AA")
    return tree


def test_an_idle_one(tree):
    assert ports.Ports(tree.root).of(CARD) == (ports.Port("eno1", "52:54:00:00:00:aa"),)


def test_one_that_is_up_in_a_bond_with_an_address(tree):
    (tree.root / "sys/class/net/eno1/flags").write_text("0x1003\n")
    (tree.root / "sys/class/net/eno1/master").symlink_to("../bond0")
    tree.write("proc/net/if_inet6", f"{'0' * 31}1 02 40 00 80 eno1\n")
    (port,) = ports.Ports(tree.root).of(CARD)
    assert (port.is_up, port.master, port.has_address) == (True, "bond0", True)


def test_another_functions_is_not_among_them(tree):
    assert ports.Ports(tree.root).of("0000:3b:00.1") == ()


def test_a_host_without_interfaces_has_none():
    assert ports.Ports.none().of(CARD) == ()
