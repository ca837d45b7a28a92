"""Who has a function open, by libvirt's files and the guests' own descriptors: without the pass."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from harness import hosttree, uses

from passthrough import survey
from passthrough.config import options
from passthrough.host import pci, vfio_users
from passthrough.reporting import inventory
from passthrough.site import Site
from passthrough.system import open_files, procfs

GPU, AUDIO, OTHER = "0000:83:00.0", "0000:83:00.1", "0000:84:00.0"
QEMU, VPP = "/usr/bin/qemu-system-x86_64", "/usr/sbin/vpp"
GUEST, PROGRAM, IDLE = 4711, 812, 12
SITE = "pci-passthrough"
STATUS = """\
<domstatus state='running' reason='booted' pid='{process}'>
  <domain type='kvm' id='3'>
    <name>{name}</name>
    <uuid>6a3c1a4e-52a5-4f0c-9b58-0c9a7d1f2e3d</uuid>
    <devices>{devices}
    </devices>
  </domain>
</domstatus>
"""
DEVICE = """
      <hostdev mode='subsystem' type='pci' managed='yes'>
        <driver name='vfio'/>
        <source>
          <address domain='0x{}' bus='0x{}' slot='0x{}' function='0x{}'/>
        </source>
      </hostdev>"""


@pytest.fixture
def host(tmp_path: Path) -> hosttree.HostTree:
    """A GPU and its audio on vfio-pci in one group, another GPU in another, and a busy process."""
    tree = hosttree.HostTree(tmp_path / "host")
    tree.bridge("0000:80:01.0")
    tree.bridge("0000:80:02.0")
    tree.function(GPU, "10de:1bb0", 0x030000, parent="0000:80:01.0", driver="nouveau")
    tree.function(AUDIO, "10de:10f0", 0x040300, parent="0000:80:01.0", driver="snd_hda_intel")
    tree.function(OTHER, "10de:1bb1", 0x030000, parent="0000:80:02.0", driver="nouveau")
    tree.iommu_on({"0000:80:01.0": 7, GPU: 7, AUDIO: 7, OTHER: 8})
    for address in (GPU, AUDIO, OTHER):
        tree.bind(address, "vfio-pci")
    uses.process(tree, IDLE, "/usr/bin/sleep", "/dev/null")
    return tree


def define(tree: hosttree.HostTree, process: int, *functions: str, name: str = "one") -> Path:
    """What libvirt keeps of a domain that runs, or has run."""
    numbers = (address.replace(".", ":").split(":") for address in functions)
    devices = "".join(DEVICE.format(*each) for each in numbers)
    path = tree.root / f"run/libvirt/qemu/{name}.xml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(STATUS.format(process=process, name=name, devices=devices))
    return path


def own_node(tree: hosttree.HostTree, address: str, name: str) -> str:
    """Let the kernel have a node for a function alone."""
    node = tree.directory(address) / "vfio-dev" / name
    node.mkdir(parents=True)
    (node / "dev").write_text(f"511:{name.removeprefix('vfio')}\n")
    return f"/dev/vfio/devices/{name}"


class Asked:
    """Who has functions, and which processes were looked at for it."""

    def __init__(self, tree: hosttree.HostTree, monkeypatch: pytest.MonkeyPatch):
        self._tree = tree
        self.looks: list[tuple[int, ...]] = []
        real = open_files.look

        def look(root: Path, processes: tuple[int, ...], mounts: tuple[str, ...]):
            self.looks.append(tuple(processes))
            return real(root, processes, mounts)

        monkeypatch.setattr(open_files, "look", look)

    def users(self, *addresses: str) -> dict[str, tuple[int, ...]]:
        processes = procfs.Processes(self._tree.root)
        accounts = vfio_users.Accounts(self._tree.root, processes)
        return vfio_users.Users(self._tree.root, processes, accounts).of(addresses or (GPU,))

    def objections(self) -> dict[str, str | None]:
        rows = inventory.describe(self._tree.root, pci.read(self._tree.root))
        return {row["address"]: row["reason"] for row in rows}

    @property
    def everybody(self) -> bool:
        """Whether a pass over all processes was made; one alone."""
        passes = [each for each in self.looks if IDLE in each]
        assert len(passes) < 2
        return bool(passes)


@pytest.fixture
def asked(host: hosttree.HostTree, monkeypatch: pytest.MonkeyPatch) -> Asked:
    return Asked(host, monkeypatch)


class TestAccountedFor:
    def test_the_guest_that_libvirt_names_is_looked_at_alone(self, host: hosttree.HostTree, asked):
        uses.process(host, GUEST, QEMU, "/dev/vfio/7")
        define(host, GUEST, GPU, AUDIO)
        assert asked.users(GPU, AUDIO, OTHER) == {GPU: (GUEST,), AUDIO: (GUEST,)}
        assert asked.looks == [(GUEST,)]

    def test_the_list_asks_nobody_else_and_a_guest_is_no_objection(
        self, host: hosttree.HostTree, asked
    ):
        uses.process(host, GUEST, QEMU, "/dev/vfio/7")
        define(host, GUEST, GPU, AUDIO)
        found = asked.objections()
        assert (found[GPU], found[AUDIO], found[OTHER]) == (None, None, None)
        assert not asked.everybody

    def test_neither_does_a_decision(self, host: hosttree.HostTree, asked):
        uses.process(host, GUEST, QEMU, "/dev/vfio/7")
        define(host, GUEST, GPU, AUDIO)
        facts = survey.look(Site(host.root, SITE))
        decision = survey.decide(options.parse({"devices": "gpu=10de:1bb0"}), facts)
        assert decision.outcome.addresses == (GPU, AUDIO)
        assert not asked.everybody

    def test_a_domain_may_name_some_functions_of_a_group(self, host: hosttree.HostTree, asked):
        uses.process(host, GUEST, QEMU, "/dev/vfio/7")
        define(host, GUEST, GPU)
        (host.directory(AUDIO) / "enable").write_text("0\n")
        assert asked.users(AUDIO) == {AUDIO: (GUEST,)}
        assert not asked.everybody

    def test_a_guest_of_another_program_is_known_by_kvm(self, host: hosttree.HostTree, asked):
        uses.process(host, GUEST, "/opt/vmm", "/dev/vfio/7", "anon_inode:kvm-vm")
        define(host, GUEST, GPU, AUDIO)
        assert asked.users() == {GPU: (GUEST,)}
        assert not asked.everybody

    def test_guests_of_several_groups(self, host: hosttree.HostTree, asked):
        uses.process(host, GUEST, QEMU, "/dev/vfio/7")
        uses.process(host, GUEST + 1, QEMU, "/dev/vfio/8")
        define(host, GUEST, GPU, AUDIO)
        define(host, GUEST + 1, OTHER, name="two")
        assert asked.users(GPU, OTHER) == {GPU: (GUEST,), OTHER: (GUEST + 1,)}
        assert asked.looks == [(GUEST, GUEST + 1)]

    def test_a_function_that_goes_by_its_own_node(self, host: hosttree.HostTree, asked):
        uses.process(host, GUEST, QEMU, own_node(host, GPU, "vfio3"))
        (host.directory(GPU) / "enable").write_text("1\n")
        (host.directory(AUDIO) / "enable").write_text("0\n")
        define(host, GUEST, GPU)
        assert asked.users() == {GPU: (GUEST,)}
        assert not asked.everybody

    def test_a_groups_node_where_functions_have_their_own(self, host: hosttree.HostTree, asked):
        for address, name in ((GPU, "vfio3"), (AUDIO, "vfio4")):
            own_node(host, address, name)
        uses.process(host, GUEST, QEMU, "/dev/vfio/7")
        define(host, GUEST, GPU)
        assert asked.users(GPU, AUDIO) == {GPU: (GUEST,), AUDIO: (GUEST,)}
        assert not asked.everybody


class TestNotAccountedFor:
    """Then all processes are asked, once, and tell what they always told."""

    def test_nobody_is_named(self, host: hosttree.HostTree, asked):
        uses.process(host, GUEST, QEMU, "/dev/vfio/7")
        assert asked.users() == {GPU: (GUEST,)}
        assert asked.everybody

    def test_the_number_is_another_process_by_now(self, host: hosttree.HostTree, asked):
        uses.process(host, GUEST, QEMU, "/dev/vfio/7")
        uses.process(host, PROGRAM, "/usr/bin/sleep", "/dev/null")
        define(host, PROGRAM, GPU, AUDIO)
        assert asked.users() == {GPU: (GUEST,)}
        assert asked.everybody

    def test_the_number_is_a_programs_that_has_the_function(self, host: hosttree.HostTree, asked):
        """A guest that has ended is no excuse for who took its number, and its card."""
        uses.process(host, PROGRAM, VPP, "/dev/vfio/7")
        define(host, PROGRAM, GPU, AUDIO)
        assert "/dev/vfio/7 is open in process 812 (vpp)" in (asked.objections()[GPU] or "")
        assert asked.everybody
        assert asked.users() == {GPU: (PROGRAM,)}

    def test_a_guest_that_has_not_what_its_domain_names(self, host: hosttree.HostTree, asked):
        uses.process(host, GUEST, QEMU, "/dev/vfio/8")
        uses.process(host, PROGRAM, VPP, "/dev/vfio/7")
        define(host, GUEST, GPU, AUDIO)
        assert asked.users(GPU, OTHER) == {GPU: (PROGRAM,), OTHER: (GUEST,)}
        assert asked.everybody

    def test_a_process_that_has_ended(self, host: hosttree.HostTree, asked):
        uses.process(host, PROGRAM, VPP, "/dev/vfio/7")
        define(host, 99999, GPU, AUDIO)
        assert asked.users() == {GPU: (PROGRAM,)}
        assert asked.everybody

    def test_a_guest_whose_descriptors_cannot_be_seen(
        self, host: hosttree.HostTree, asked, monkeypatch: pytest.MonkeyPatch
    ):
        uses.process(host, GUEST, QEMU, "/dev/vfio/7")
        define(host, GUEST, GPU, AUDIO)
        genuine = os.listdir

        def refuse(path: str = ".") -> list[str]:
            if os.fspath(path).endswith(f"/{GUEST}/fd"):
                raise PermissionError(13, "Permission denied", path)
            return genuine(path)

        monkeypatch.setattr(os, "listdir", refuse)
        assert asked.users() == {}
        assert asked.everybody

    def test_one_of_two(self, host: hosttree.HostTree, asked):
        uses.process(host, GUEST, QEMU, "/dev/vfio/7")
        uses.process(host, PROGRAM, VPP, "/dev/vfio/8")
        define(host, GUEST, GPU, AUDIO)
        assert asked.users(GPU, OTHER) == {GPU: (GUEST,), OTHER: (PROGRAM,)}
        assert asked.everybody
        found = asked.objections()
        assert found[GPU] is None
        assert "/dev/vfio/8 is open in process 812 (vpp)" in (found[OTHER] or "")

    def test_a_closed_neighbour_whose_own_node_anybody_may_have(
        self, host: hosttree.HostTree, asked
    ):
        node = own_node(host, AUDIO, "vfio4")
        uses.process(host, GUEST, QEMU, own_node(host, GPU, "vfio3"), node)
        uses.process(host, PROGRAM, VPP, node)
        (host.directory(GPU) / "enable").write_text("1\n")
        (host.directory(AUDIO) / "enable").write_text("0\n")
        define(host, GUEST, GPU)
        assert asked.users(AUDIO) == {AUDIO: (PROGRAM, GUEST)}
        assert asked.everybody

    @pytest.mark.parametrize("text", ["", "00\n", "-1\n", "1 1\n", "yes\n", "\u0661\n"])
    def test_what_the_kernel_does_not_say(self, host: hosttree.HostTree, asked, text: str):
        uses.process(host, GUEST, QEMU, "/dev/vfio/7")
        define(host, GUEST, GPU, AUDIO)
        (host.directory(AUDIO) / "enable").write_text(text)
        assert asked.users() == {GPU: (GUEST,)}
        assert asked.everybody

    def test_a_variant_in_the_group(self, host: hosttree.HostTree, asked):
        host.variant("nvgrace-gpu-vfio-pci")
        host.bind(AUDIO, "nvgrace-gpu-vfio-pci")
        uses.process(host, GUEST, QEMU, "/dev/vfio/7")
        define(host, GUEST, GPU, AUDIO)
        assert asked.users() == {GPU: (GUEST,)}
        assert asked.everybody

    def test_a_vdpa_node_or_one_without_an_iommu_is_somebody_elses_to_tell(
        self, host: hosttree.HostTree, asked
    ):
        (host.root / "dev/vfio").mkdir(parents=True, exist_ok=True)
        (host.root / "dev/vfio/noiommu-7").touch()
        uses.process(host, GUEST, QEMU, "/dev/vfio/7")
        uses.process(host, PROGRAM, VPP, "/dev/vfio/noiommu-7")
        define(host, GUEST, GPU, AUDIO)
        assert asked.users() == {GPU: (PROGRAM, GUEST)}
        assert asked.everybody


def write(content: bytes) -> Callable[[Path], object]:
    return lambda path: path.write_bytes(content)


def cut(path: Path) -> None:
    path.write_text(path.read_text()[:60])


def to_another_place(path: Path) -> None:
    path.unlink()
    path.symlink_to("/dev/zero")


@pytest.mark.parametrize(
    "spoil",
    [
        write(b""),
        write(b"\xff\xfe<domstatus pid='4711'>"),
        write(b"<domstatus pid='-1'><source><address bus='0x83' slot='0' function='0'/></source>"),
        write(b"<domstatus pid='99999999999'><source><address bus='0x83'/></source>"),
        write(b"<domstatus pid='0'><source><address bus='0x83' slot='0' function='0'/></source>"),
        cut,
        to_another_place,
        lambda path: (path.unlink(), path.mkdir()),
        lambda path: (path.unlink(), os.mkfifo(path)),
        lambda path: shutil.rmtree(path.parent),
        lambda path: (shutil.rmtree(path.parent), path.parent.touch()),
    ],
)
def test_a_file_that_tells_nothing_costs_the_pass_and_hides_nobody(
    host: hosttree.HostTree, asked, spoil: Callable[[Path], object]
):
    uses.process(host, PROGRAM, VPP, "/dev/vfio/7")
    spoil(define(host, PROGRAM, GPU, AUDIO))
    assert asked.users() == {GPU: (PROGRAM,)}
    assert asked.everybody


def test_before_a_driver_changes_all_processes_are_asked(host: hosttree.HostTree, asked):
    """Also of a function that a guest accounts for."""
    uses.process(host, GUEST, QEMU, "/dev/vfio/7")
    define(host, GUEST, GPU, AUDIO)
    facts = survey.look(Site(host.root, SITE))
    assert facts.users.of([GPU]) == {GPU: (GUEST,)}
    assert not asked.everybody
    assert survey.ask_again(facts, [GPU]).users.of([GPU]) == {GPU: (GUEST,)}
    assert asked.everybody
