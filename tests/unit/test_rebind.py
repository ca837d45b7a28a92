"""Binding claimed functions anew at an operator's request."""

from __future__ import annotations

import pytest
from harness import hosttree, made
from harness.constants import CLAIMED, GPUS
from harness.fakekernel import FakeKernel, FakeTools

from passthrough import errors, rebind, reconcile, survey
from passthrough.errors import PassthroughError
from passthrough.site import Site
from passthrough.system import timed_write


@pytest.fixture
def bound(tree: hosttree.HostTree, kernel: FakeKernel, tools: FakeTools) -> hosttree.HostTree:
    """The host with its devices on vfio-pci."""
    tree.set_command_line("quiet splash intel_iommu=on")
    tree.iommu_on()
    reconcile.reconcile(
        Site(tree.root, "pci-passthrough"), made.wanted(GPUS), tools, lambda said: None
    )
    kernel.forget_writes()
    tools.calls.clear()
    return tree


def ask(tree: hosttree.HostTree, tools: FakeTools, address: str = "", devices: str = GPUS):
    decision = survey.decide(made.wanted(devices), survey.look(Site(tree.root, "pci-passthrough")))
    return rebind.rebind(decision, address, tools)


def unbound(kernel: FakeKernel) -> list[str]:
    return [each.partition("='")[2][:-1] for each in kernel.writes() if "/unbind" in each]


def test_all_claimed_functions_are_unbound_and_bound(bound, kernel, tools):
    assert ask(bound, tools) == dict.fromkeys(CLAIMED)
    assert unbound(kernel) == list(CLAIMED)
    assert {kernel.drivers()[address] for address in CLAIMED} == {"vfio-pci"}
    assert kernel.drivers()["0000:85:00.0"] == "nouveau"
    assert tools.calls == ["load vfio"]


def test_one_address_leaves_the_others_alone(bound, kernel, tools):
    assert ask(bound, tools, "0000:84:00.0") == {"0000:84:00.0": None}
    assert unbound(kernel) == ["0000:84:00.0"]


def test_a_function_that_lost_vfio_is_brought_back(bound, kernel, tools):
    bound.bind("0000:83:00.0", "nouveau")
    assert ask(bound, tools, "0000:83:00.0") == {"0000:83:00.0": None}
    assert kernel.drivers()["0000:83:00.0"] == "vfio-pci"


def test_a_function_that_a_guest_holds_is_left_alone_and_the_rest_is_done(bound, kernel, tools):
    kernel.hold("0000:83:00.0", process=4711)
    done = ask(bound, tools)
    assert {address for address, error in done.items() if error} == {"0000:83:00.0", "0000:83:00.1"}
    for error in (done["0000:83:00.0"], done["0000:83:00.1"]):
        assert isinstance(error, errors.InUseError)
        assert "a guest holds it" in str(error)
        assert "4711" in str(error)
    assert unbound(kernel) == ["0000:84:00.0", "0000:84:00.1"]


def test_behind_a_driver_that_sleeps_nothing_is_touched(
    bound, kernel, tools, monkeypatch: pytest.MonkeyPatch
):
    asked: list[str] = []
    monkeypatch.setattr(timed_write, "write", lambda path, text, *_: asked.append(text) or 5001)
    done = ask(bound, tools)
    assert asked == ["0000:83:00.0"]
    assert isinstance(done["0000:83:00.0"], errors.StuckError)
    assert [str(done[each]) for each in CLAIMED[1:]] == [
        f"{each}: left alone, as 0000:83:00.0 does not come loose" for each in CLAIMED[1:]
    ]
    assert kernel.writes() == []


def test_a_function_that_vfio_does_not_take_back_is_told(bound, kernel, tools):
    kernel.fail_probe("0000:84:00.0", "vfio-pci")
    done = ask(bound, tools, "0000:84:00.0")
    assert "vfio-pci did not take it" in str(done["0000:84:00.0"])
    assert kernel.drivers()["0000:84:00.0"] == "nouveau"


@pytest.mark.parametrize(
    ("address", "shown"),
    [
        ("0000:85:00.0", '"0000:85:00.0"'),
        ("83:00.0", '"83:00.0"'),
        ("../../x", '"../../x"'),
        ("0000:83:00.0\n", r'"0000:83:00.0\n"'),
    ],
)
def test_an_address_that_is_not_claimed_is_refused(bound, kernel, tools, address: str, shown: str):
    with pytest.raises(rebind.RebindError) as caught:
        ask(bound, tools, address)
    assert str(caught.value) == (
        f"{shown} is not claimed on this host; claimed are"
        " 0000:83:00.0, 0000:83:00.1, 0000:84:00.0, 0000:84:00.1"
    )
    assert (kernel.writes(), tools.calls) == ([], [])


def test_nothing_claimed_is_said(bound, tools):
    with pytest.raises(rebind.RebindError, match=r"claimed are none$"):
        ask(bound, tools, "0000:85:00.0", devices="x=1234:5678")


def test_without_an_iommu_a_reboot_comes_first(tree, kernel, tools):
    with pytest.raises(rebind.RebindError, match=r"^the IOMMU is off, .*; reboot first$"):
        ask(tree, tools)
    assert (kernel.writes(), tools.calls) == ([], [])


def test_for_want_of_the_module_nothing_is_unbound(bound, kernel, tools):
    tools.failing["modprobe"] = "Module vfio-pci not found"
    with pytest.raises(PassthroughError, match="Module vfio-pci not found"):
        ask(bound, tools)
    assert unbound(kernel) == []
