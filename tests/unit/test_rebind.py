"""Binding claimed functions anew at an operator's request."""

from __future__ import annotations

import pytest
from harness.constants import CLAIMED, GPUS
from harness.fakekernel import FakeKernel
from harness.world import World

from passthrough import errors, rebind
from passthrough.errors import PassthroughError
from passthrough.system import timed_write


@pytest.fixture
def bound(world: World) -> World:
    """The world of a host with its devices on vfio-pci."""
    world.turn_iommu_on()
    world.hook(GPUS)
    world.forget()
    return world


def ask(world: World, address: str = "", devices: str = GPUS):
    return rebind.rebind(world.decide(devices), rebind.Chosen(address), world.tools)


def unbound(kernel: FakeKernel) -> list[str]:
    return [each.partition("='")[2][:-1] for each in kernel.writes() if "/unbind" in each]


def test_all_claimed_functions_are_unbound_and_bound(bound: World):
    assert ask(bound) == dict.fromkeys(CLAIMED)
    assert unbound(bound.kernel) == list(CLAIMED)
    assert {bound.drivers()[address] for address in CLAIMED} == {"vfio-pci"}
    assert bound.drivers()["0000:85:00.0"] == "nouveau"
    assert bound.tools.calls == ["load vfio"]


def test_one_address_leaves_the_others_alone(bound: World):
    assert ask(bound, "0000:84:00.0") == {"0000:84:00.0": None}
    assert unbound(bound.kernel) == ["0000:84:00.0"]


def test_a_function_that_lost_vfio_is_brought_back(bound: World):
    bound.tree.bind("0000:83:00.0", "nouveau")
    assert ask(bound, "0000:83:00.0") == {"0000:83:00.0": None}
    assert bound.drivers()["0000:83:00.0"] == "vfio-pci"


def test_a_function_that_a_guest_holds_is_left_alone_and_the_rest_is_done(bound: World):
    bound.kernel.hold("0000:83:00.0", process=4711)
    done = ask(bound)
    assert {address for address, error in done.items() if error} == {"0000:83:00.0", "0000:83:00.1"}
    for error in (done["0000:83:00.0"], done["0000:83:00.1"]):
        assert isinstance(error, errors.InUseError)
        assert "a guest holds it" in str(error)
        assert "4711" in str(error)
    assert unbound(bound.kernel) == ["0000:84:00.0", "0000:84:00.1"]


def test_behind_a_driver_that_sleeps_nothing_is_touched(
    bound: World, monkeypatch: pytest.MonkeyPatch
):
    asked: list[str] = []
    monkeypatch.setattr(timed_write, "write", lambda path, text, *_: asked.append(text) or 5001)
    done = ask(bound)
    assert asked == ["0000:83:00.0"]
    assert isinstance(done["0000:83:00.0"], errors.StuckError)
    assert [str(done[each]) for each in CLAIMED[1:]] == [
        f"{each}: left alone, as 0000:83:00.0 does not come loose" for each in CLAIMED[1:]
    ]
    assert bound.kernel.writes() == []


def test_a_function_that_vfio_does_not_take_back_is_told(bound: World):
    bound.kernel.fail_probe("0000:84:00.0", "vfio-pci")
    done = ask(bound, "0000:84:00.0")
    assert "vfio-pci did not take it" in str(done["0000:84:00.0"])
    assert bound.drivers()["0000:84:00.0"] == "nouveau"


@pytest.mark.parametrize(
    ("address", "shown"),
    [
        ("0000:85:00.0", '"0000:85:00.0"'),
        ("83:00.0", '"83:00.0"'),
        ("../../x", '"../../x"'),
        ("0000:83:00.0\n", r'"0000:83:00.0\n"'),
    ],
)
def test_an_address_that_is_not_claimed_is_refused(bound: World, address: str, shown: str):
    with pytest.raises(rebind.RebindError) as caught:
        ask(bound, address)
    assert str(caught.value) == (
        f"{shown} is not claimed on this host; claimed are"
        " 0000:83:00.0, 0000:83:00.1, 0000:84:00.0, 0000:84:00.1"
    )
    assert (bound.kernel.writes(), bound.tools.calls) == ([], [])


def test_nothing_claimed_is_said(bound: World):
    with pytest.raises(rebind.RebindError, match=r"claimed are none$"):
        ask(bound, "0000:85:00.0", devices="x=1234:5678")


def test_without_an_iommu_a_reboot_comes_first(world: World):
    with pytest.raises(rebind.RebindError, match=r"^the IOMMU is off, .*; reboot first$"):
        ask(world)
    assert (world.kernel.writes(), world.tools.calls) == ([], [])


def test_for_want_of_the_module_nothing_is_unbound(bound: World):
    bound.tools.failing["modprobe"] = "Module vfio-pci not found"
    with pytest.raises(PassthroughError, match="Module vfio-pci not found"):
        ask(bound)
    assert unbound(bound.kernel) == []
