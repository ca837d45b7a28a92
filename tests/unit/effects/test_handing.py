"""What the rules say for a function, and which functions are brought back."""

from __future__ import annotations

import pytest
from harness.fakekernel import FakeKernel, FakeTools
from harness.hosttree import HostTree
from harness.hosttree import kernel as model

from passthrough import errors
from passthrough.effects import drivers, handing
from passthrough.system import commands

NVME, OTHER = "0000:02:00.0", "0000:3b:00.0"


@pytest.fixture
def host(tree: HostTree, kernel: FakeKernel) -> HostTree:
    """The issue's host, its NVMe on vfio-pci."""
    tree.iommu_on()
    model.load(tree.root, ["vfio-pci"])
    drivers.bind(tree.root, NVME)
    kernel.forget_writes()
    return tree


def test_a_function_goes_and_comes_back(host: HostTree):
    tools = FakeTools(host)
    handing.take(host.root, NVME, tools)
    assert host.driver_of(NVME) == "nvme"
    assert handing.is_away(host.root, NVME)
    handing.give_back(host.root, NVME, tools)
    assert host.driver_of(NVME) == "vfio-pci"
    assert not handing.is_away(host.root, NVME)
    assert tools.calls == ["reload udev", "load nvme", "settle", "reload udev"]


def test_where_udev_does_not_listen_the_driver_stays(host: HostTree, kernel: FakeKernel):
    tools = FakeTools(host)
    tools.failing["reload"] = "no"
    with pytest.raises(commands.CommandError):
        handing.take(host.root, NVME, tools)
    assert host.driver_of(NVME) == "vfio-pci"
    assert kernel.writes() == []


def test_what_a_guest_has_stays(host: HostTree, kernel: FakeKernel):
    kernel.hold(NVME)
    with pytest.raises(errors.InUseError):
        handing.take(host.root, NVME, FakeTools(host))
    assert host.driver_of(NVME) == "vfio-pci"


class TestRecover:
    def test_leaves_alone_what_is_where_it_belongs(self, host: HostTree, kernel: FakeKernel):
        assert not handing.recover(host.root, [NVME, OTHER], FakeTools(host), pytest.fail)
        assert kernel.writes() == []

    def test_brings_back_what_was_left(self, host: HostTree):
        said: list[str] = []
        handing.take(host.root, NVME, FakeTools(host))
        assert handing.recover(host.root, [NVME], FakeTools(host), said.append)
        assert said == [f"{NVME}: back on vfio-pci, its erase not at its end"]
        assert host.driver_of(NVME) == "vfio-pci"

    def test_says_why_one_stays(self, host: HostTree, kernel: FakeKernel):
        said: list[str] = []
        handing.take(host.root, NVME, FakeTools(host))
        kernel.fail_probe(NVME, "vfio-pci")
        assert handing.recover(host.root, [NVME], FakeTools(host), said.append)
        assert said[0].startswith(f"{NVME}: vfio-pci did not take it")
        assert (host.root / handing.rules_path(NVME)).exists()
