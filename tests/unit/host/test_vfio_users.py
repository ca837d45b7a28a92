"""Who has a function open: the kernel's own word first, and the processes where it gives none."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from harness import hosttree, reads, uses
from harness.hosttree import kernel

from passthrough import survey
from passthrough.config import options
from passthrough.host import pci, usage, vfio_users
from passthrough.reporting import inventory
from passthrough.site import Site
from passthrough.system import procfs

GPU, AUDIO, NIC, VF = "0000:83:00.0", "0000:83:00.1", "0000:3b:00.0", "0000:3b:02.0"
QEMU = "/usr/bin/qemu-system-x86_64"
GUEST = 4711


@pytest.fixture
def host(tmp_path: Path) -> hosttree.HostTree:
    """A GPU and its audio on vfio-pci in one group, which also has the bridge above them."""
    tree = hosttree.HostTree(tmp_path / "host")
    tree.bridge("0000:80:01.0")
    tree.function(GPU, "10de:1bb0", 0x030000, parent="0000:80:01.0", driver="nouveau")
    tree.function(AUDIO, "10de:10f0", 0x040300, parent="0000:80:01.0", driver="snd_hda_intel")
    tree.iommu_on({"0000:80:01.0": 7, GPU: 7, AUDIO: 7})
    for address in (GPU, AUDIO):
        tree.bind(address, "vfio-pci")
    return tree


def enable(tree: hosttree.HostTree, address: str) -> Path:
    return tree.directory(address) / "enable"


def ask(tree: hosttree.HostTree, *addresses: str) -> tuple[dict[str, tuple[int, ...]], bool]:
    """Who has functions, and whether any process was asked."""
    processes = procfs.Processes(tree.root)
    users = vfio_users.Users(tree.root, processes, vfio_users.Accounts(tree.root, processes))
    with reads.noted() as seen:
        found = users.of(addresses or (GPU,))
    return found, any(f"{tree.root}/proc" in path for path in seen)


def test_the_made_up_kernel_enables_what_is_open(host: hosttree.HostTree):
    def shown() -> list[str]:
        return [enable(host, each).read_text() for each in (GPU, AUDIO)]

    assert shown() == ["0\n", "0\n"]
    shutil.rmtree(uses.process(host, GUEST, QEMU, "/dev/vfio/7"))
    assert shown() == ["1\n", "1\n"]
    kernel.show_open(host.root)
    host.bind(AUDIO, "snd_hda_intel")
    assert shown() == ["0\n", "1\n"], "a native driver enables what it has"


def test_of_what_the_kernel_says_that_nobody_has_no_process_is_asked(host: hosttree.HostTree):
    uses.process(host, 12, "/usr/bin/sleep", "/dev/null")
    assert ask(host, GPU, AUDIO) == ({}, False)


def test_of_what_somebody_has_the_processes_are_asked_who(host: hosttree.HostTree):
    uses.process(host, GUEST, QEMU, "/dev/vfio/7")
    assert ask(host, GPU) == ({GPU: (GUEST,)}, True)


def test_another_function_of_the_group_may_be_what_is_open(host: hosttree.HostTree):
    uses.process(host, GUEST, QEMU, "/dev/vfio/7")
    enable(host, GPU).write_text("0\n")
    assert ask(host, GPU) == ({GPU: (GUEST,)}, True)


def write(text: str) -> Callable[[Path], object]:
    return lambda path: path.write_text(text)


def replace_by(make: Callable[[Path], object]) -> Callable[[Path], object]:
    def replace(path: Path) -> None:
        path.unlink()
        make(path)

    return replace


def link_to_a_zero(path: Path) -> None:
    (path.parent / "zero").write_text("0\n")
    path.symlink_to("zero")


@pytest.mark.parametrize(
    "change",
    [
        *map(write, ("", "1\n", "2\n", "-0\n", "00\n", "0x0\n", "0 0\n", " 0\n", "no\n")),
        Path.unlink,
        replace_by(Path.mkdir),
        replace_by(link_to_a_zero),
        replace_by(os.mkfifo),
    ],
)
def test_nothing_but_a_zero_that_was_read_is_no(host: hosttree.HostTree, change):
    uses.process(host, GUEST, QEMU, "/dev/vfio/7")
    for address in (GPU, AUDIO):
        enable(host, address).write_text("0\n")
    change(enable(host, AUDIO))
    assert ask(host, GPU) == ({GPU: (GUEST,)}, True)


def test_a_variant_in_the_group_has_not_been_shown_to_say_so(host: hosttree.HostTree):
    host.variant("nvgrace-gpu-vfio-pci")
    host.bind(AUDIO, "nvgrace-gpu-vfio-pci")
    assert enable(host, AUDIO).read_text() == "0\n"
    assert ask(host, GPU) == ({}, True)


def test_a_functions_own_node_can_be_open_while_it_is_closed(host: hosttree.HostTree):
    node = host.directory(GPU) / "vfio-dev/vfio3"
    node.mkdir(parents=True)
    (node / "dev").write_text("511:3\n")
    uses.process(host, GUEST, QEMU, "/dev/vfio/devices/vfio3")
    assert enable(host, GPU).read_text() == "0\n"
    assert ask(host, GPU) == ({GPU: (GUEST,)}, True)


def test_a_group_that_cannot_be_listed_is_no_answer(host: hosttree.HostTree):
    shutil.rmtree(host.root / "sys/kernel/iommu_groups/7/devices")
    assert ask(host, GPU) == ({}, True)


def test_functions_without_a_driver_say_nothing_of_their_group(host: hosttree.HostTree):
    for address in (GPU, AUDIO):
        host.bind(address, None)
    assert enable(host, GPU).read_text() == "0\n"
    assert ask(host, GPU) == ({}, True)


def test_a_vf_belongs_to_the_question_of_its_parent(host: hosttree.HostTree):
    host.function(NIC, "8086:1572", 0x020000, driver="i40e", total_vfs=4)
    host.virtual_functions(NIC, [VF], "8086:154c", driver="iavf")
    host.iommu_on({GPU: 7, AUDIO: 7, NIC: 8, VF: 9})
    for address in (NIC, VF):
        host.bind(address, "vfio-pci")
    assert ask(host, NIC) == ({}, False)
    uses.process(host, GUEST, QEMU, "/dev/vfio/9")
    assert enable(host, NIC).read_text() == "0\n"
    assert ask(host, NIC) == ({NIC: (GUEST,)}, True)


class TestLooks:
    """Who asks the kernel, and who asks the processes all the same."""

    @pytest.fixture(autouse=True)
    def opening(self, host: hosttree.HostTree):
        """A guest has opened the group, and its functions a moment later."""
        uses.process(host, GUEST, "/usr/sbin/vpp", "/dev/vfio/7")
        for address in (GPU, AUDIO):
            enable(host, address).write_text("0\n")

    def test_list_tells_by_what_the_kernel_says(self, host: hosttree.HostTree):
        with reads.noted() as seen:
            rows = {
                each["address"]: each["claimable"]
                for each in inventory.describe(host.root, pci.read(host.root))
            }
        assert (rows[GPU], rows[AUDIO]) == (True, True)
        assert [path for path in seen if path.endswith("/fd")] == []

    def test_before_a_driver_changes_the_processes_are_asked(self, host: hosttree.HostTree):
        facts = survey.look(Site(host.root, "pci-passthrough"))
        wanted = options.parse({"devices": "gpu=10de:1bb0"})
        assert survey.decide(wanted, facts).outcome.addresses == (GPU, AUDIO)
        again = survey.ask_again(facts, [GPU])
        (refusal,) = survey.decide(wanted, again).refusals
        assert refusal.rule == "program"
        assert again.users.of([GPU]) == {GPU: (GUEST,)}

    def test_whoever_reads_uses_without_a_word_asks_the_processes(self, host: hosttree.HostTree):
        found = usage.read(host.root, pci.read(host.root)).all_of(GPU)
        assert [each.what for each in found] == ["/dev/vfio/7 is open in process 4711 (vpp)"]
