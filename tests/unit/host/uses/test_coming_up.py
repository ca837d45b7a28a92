"""Right after a boot: what networkd has not finished is meant for the host."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from harness import hosttree, uses

from passthrough.host import pci, usage
from passthrough.planning import guards

NIC = "0000:3b:00.0"
FILE = "NETWORK_FILE=/run/systemd/network/10-netplan-ens1.network\n"
STATE = "run/systemd/netif/links/2"


@pytest.fixture
def host(tmp_path: Path) -> hosttree.HostTree:
    tree = hosttree.HostTree(tmp_path / "host")
    tree.function(NIC, "8086:1572", 0x020000, driver="i40e")
    uses.interface(tree, NIC, "ens1")
    return tree


@pytest.fixture
def objection(host: hosttree.HostTree) -> Callable[[], str | None]:
    """The guard that objects to the NIC, and why: ``guard: fact``; None for none."""

    def ask() -> str | None:
        functions = pci.read(host.root)
        found = guards.object_to(functions.functions[NIC], usage.read(host.root, functions))
        return f"{found.guard}: {found.fact}" if found else None

    return ask


@pytest.mark.parametrize("state", ["pending", "initialized", "configuring"])
def test_an_interface_that_waits_for_its_address_is_in_use(
    host: hosttree.HostTree, objection: Callable, state: str
):
    host.write(STATE, f"# private\nADMIN_STATE={state}\nOPER_STATE=carrier\n{FILE}")
    assert objection() == (
        "network-address: carries the host's traffic: systemd-networkd is configuring ens1"
    )


@pytest.mark.parametrize(
    "text",
    [
        f"ADMIN_STATE=configured\nOPER_STATE=carrier\n{FILE}",
        "ADMIN_STATE=unmanaged\nOPER_STATE=off\n",
        "ADMIN_STATE=pending\nOPER_STATE=off\n",
        f"ADMIN_STATE=failed\n{FILE}",
    ],
    ids=["without an address", "unmanaged", "of nobody", "failed"],
)
def test_one_that_networkd_is_done_with_or_never_had_is_free(
    host: hosttree.HostTree, objection: Callable, text: str
):
    assert objection() is None
    host.write(STATE, text)
    assert objection() is None


def test_a_state_that_cannot_be_read_is_not_none(host: hosttree.HostTree):
    (host.root / STATE).mkdir(parents=True)
    with pytest.raises(IsADirectoryError):
        usage.read(host.root, pci.read(host.root))
