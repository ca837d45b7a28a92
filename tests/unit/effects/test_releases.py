"""Several functions that are given back: the processes are asked once for their own nodes."""

from __future__ import annotations

from pathlib import Path

import pytest
from harness import hosttree
from harness.fakekernel import FakeKernel
from harness.hosttree import kernel as model

from passthrough import errors
from passthrough.effects import drivers
from passthrough.system import open_files

GPU, AUDIO, OTHER = "0000:83:00.0", "0000:83:00.1", "0000:84:00.0"
NODE, NUMBER = "/dev/full", "1:7"  # opens, and no process of the made-up host has it


@pytest.fixture
def host(tree: hosttree.HostTree, kernel: FakeKernel) -> hosttree.HostTree:
    """Three functions on vfio-pci, each with a node of its own, as kernels with iommufd have it."""
    tree.iommu_on()
    model.load(tree.root, ["vfio-pci"])
    for number, address in enumerate((GPU, AUDIO, OTHER)):
        tree.bind(address, "vfio-pci")
        node = tree.directory(address) / f"vfio-dev/vfio{number}"
        node.mkdir(parents=True)
        (node / "dev").write_text(f"511:{number}\n")
        group = (tree.directory(address) / "iommu_group").resolve().name
        shown = tree.root / f"sys/class/vfio/{group}/dev"
        shown.parent.mkdir(parents=True, exist_ok=True)
        shown.write_text(f"{NUMBER}\n")
        (tree.root / f"dev/vfio/{group}").unlink(missing_ok=True)
        (tree.root / f"dev/vfio/{group}").symlink_to(NODE)
    return tree


@pytest.fixture
def passes(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    found: list[object] = []
    real = open_files.look

    def look(*values) -> open_files.Opened:
        found.append(values)
        return real(*values)

    monkeypatch.setattr(open_files, "look", look)
    return found


def open_own(host: hosttree.HostTree, number: int) -> None:
    descriptors = host.root / "proc/99/fd"
    descriptors.mkdir(parents=True)
    (descriptors / "7").symlink_to(f"/dev/vfio/devices/vfio{number}")


def refuse(name: str) -> None:
    pytest.fail(f"{name} was loaded")


def enable(host: hosttree.HostTree, address: str) -> Path:
    return host.directory(address) / "enable"


def give_back(releases: drivers.Releases, *addresses: str) -> None:
    for address in addresses:
        assert releases.release(address, None, None) is True


def test_one_pass_does_for_functions_that_the_kernel_calls_closed(host, passes):
    give_back(drivers.Releases(host.root, refuse), GPU, AUDIO, OTHER)
    assert len(passes) == 1
    assert [host.driver_of(each) for each in (GPU, OTHER)] == ["nouveau", "nouveau"]


def test_that_pass_comes_before_the_first_driver_changes(host, kernel, passes):
    open_own(host, 0)
    with pytest.raises(errors.InUseError, match="vfio0 is open in process 99"):
        drivers.Releases(host.root, refuse).release(GPU, None, None)
    assert kernel.writes() == []


def test_a_function_that_another_one_of_the_run_is_held_with_stays(host, passes):
    open_own(host, 2)
    releases = drivers.Releases(host.root, refuse)
    give_back(releases, GPU, AUDIO)
    with pytest.raises(errors.InUseError, match="vfio2 is open in process 99"):
        releases.release(OTHER, None, None)
    assert len(passes) == 1


@pytest.mark.parametrize("said", ["1\n", "", None])
def test_a_function_that_is_not_said_to_be_closed_is_asked_about_anew(host, passes, said):
    """Somebody has opened it since, or the kernel does not tell."""
    releases = drivers.Releases(host.root, refuse)
    give_back(releases, GPU)
    open_own(host, 2)
    if said is None:
        enable(host, OTHER).unlink()
    else:
        enable(host, OTHER).write_text(said)
    with pytest.raises(errors.InUseError, match="vfio2 is open in process 99"):
        releases.release(OTHER, None, None)
    assert len(passes) == 2
    assert host.driver_of(OTHER) == "vfio-pci"


def test_so_is_one_whose_group_is_no_node_of_the_kernels(host, passes):
    """Then opening the group proves nothing."""
    releases = drivers.Releases(host.root, refuse)
    give_back(releases, GPU)
    group = (host.directory(OTHER) / "iommu_group").resolve().name
    (host.root / f"dev/vfio/{group}").unlink()
    (host.root / f"dev/vfio/{group}").touch()
    open_own(host, 2)
    with pytest.raises(errors.InUseError, match="vfio2 is open in process 99"):
        releases.release(OTHER, None, None)
    assert len(passes) == 2


def test_another_run_asks_again(host, passes):
    for address in (GPU, OTHER):
        give_back(drivers.Releases(host.root, refuse), address)
    assert len(passes) == 2
