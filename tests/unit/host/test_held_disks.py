"""Which disks the kernel is asked for, and what its answers say."""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Generator, Mapping, Sequence
from pathlib import Path

import pytest
from harness import hosttree, uses

from passthrough.host import disks, held_disks
from passthrough.system import exclusive

NVME, HBA, FC = "0000:02:00.0", "0000:04:00.0", "0000:5e:00.0"


class Kernel:
    """Answers an exclusive open; ``asked`` are the devices, without the root."""

    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch):
        self.errors: dict[str, int] = {}
        self.asked: list[tuple[str, str, bool]] = []
        self._root = root
        monkeypatch.setattr(exclusive, "hold", self._hold)

    @contextlib.contextmanager
    def _hold(
        self, devices: Sequence[exclusive.Device], seconds: float
    ) -> Generator[Mapping[str, int]]:
        assert seconds == held_disks.DEADLINE
        self.asked += [
            (each.path.removeprefix(f"{self._root}"), each.number, each.keep) for each in devices
        ]
        yield {f"{self._root}{path}": error for path, error in self.errors.items()}


@pytest.fixture
def host(tmp_path: Path) -> hosttree.HostTree:
    tree = hosttree.HostTree(tmp_path / "host")
    for address, identity, class_code, driver in (
        (NVME, "144d:a808", 0x010802, "nvme"),
        (HBA, "1000:0097", 0x010700, "mpt3sas"),
        (FC, "10df:f400", 0x0C0400, "lpfc"),
    ):
        tree.function(address, identity, class_code, driver=driver)
    uses.disk(tree, NVME, "nvme0n1", "259:0", "nvme/nvme0")
    uses.partition(tree, "nvme0n1", "nvme0n1p1", "259:1")
    uses.disk(tree, HBA, "sda", "8:0", "host0/target0:0:0/0:0:0:0")
    return tree


@pytest.fixture
def kernel(host: hosttree.HostTree, monkeypatch: pytest.MonkeyPatch) -> Kernel:
    return Kernel(host.root, monkeypatch)


def found(host: hosttree.HostTree, address: str) -> list[str]:
    with held_disks.hold(host.root, disks.read(host.root), address) as uses_:
        return [f"{each.kind}: {each.what}" for each in uses_]


def test_partitions_come_before_the_disk_that_is_kept(host: hosttree.HostTree, kernel: Kernel):
    assert found(host, NVME) == []
    assert kernel.asked == [
        ("/dev/nvme0n1p1", "259:1", False),
        ("/dev/nvme0n1", "259:0", True),
    ]


def test_a_function_without_disks_is_not_asked_for(host: hosttree.HostTree, kernel: Kernel):
    assert found(host, FC) == []
    assert kernel.asked == []


def test_a_medium_that_can_be_taken_out_is_never_asked_for(host: hosttree.HostTree, kernel: Kernel):
    uses.partition(host, "sda", "sda1", "8:1")
    (host.root / "sys/class/block/sda/removable").write_text("1\n")
    assert found(host, HBA) == []
    assert kernel.asked == []
    (host.root / "sys/class/block/sda/removable").write_text("0\n")
    assert found(host, HBA) == []
    assert [each[0] for each in kernel.asked] == ["/dev/sda1", "/dev/sda"]


def test_all_paths_to_a_namespace_are_asked_for(host: hosttree.HostTree, kernel: Kernel):
    uses.multipath_namespace(host, "nvme5n1", "259:5", {"nvme5": HBA, "nvme6": NVME})
    assert found(host, HBA) == []
    assert [each[0] for each in kernel.asked] == ["/dev/nvme5n1", "/dev/sda"]


def test_a_namespace_over_fibre_channel_is_its_ports(host: hosttree.HostTree, kernel: Kernel):
    uses.fibre_channel_host(host, FC, "host1", "0x100000109b1c2a3f")
    uses.namespace_over_fibre_channel(
        host, "nvme9n1", "259:9", "nvme9", "0x100000109b1c2a3f", multipath=True
    )
    assert found(host, FC) == []
    assert kernel.asked == [("/dev/nvme9n1", "259:9", True)]


def test_what_is_assembled_is_not_asked_for(host: hosttree.HostTree, kernel: Kernel):
    uses.assembled(host, "dm-0", "253:0", "sda")
    assert found(host, HBA) == []
    assert [each[0] for each in kernel.asked] == ["/dev/sda"]


def test_a_name_with_a_slash(host: hosttree.HostTree, kernel: Kernel):
    uses.disk(host, HBA, "cciss!c0d0", "104:0", "cciss0")
    assert found(host, HBA) == []
    assert ("/dev/cciss/c0d0", "104:0", True) in kernel.asked


@pytest.mark.parametrize(
    ("errors", "said"),
    [
        ({"/dev/nvme0n1": errno.EBUSY}, ["held: something in the kernel has nvme0n1"]),
        (
            {"/dev/nvme0n1p1": errno.EBUSY, "/dev/nvme0n1": errno.EBUSY},
            ["held: something in the kernel has nvme0n1p1"],
        ),
        (
            {"/dev/nvme0n1": errno.EIO},
            ["unknown: it cannot be told whether nvme0n1 is free (Input/output error)"],
        ),
        (
            {"/dev/nvme0n1": errno.ETIMEDOUT},
            ["unknown: it cannot be told whether nvme0n1 is free (no answer)"],
        ),
        (
            {"/dev/nvme0n1p1": errno.EACCES},
            ["unknown: it cannot be told whether nvme0n1p1 is free (Permission denied)"],
        ),
    ],
)
def test_what_an_answer_says(
    host: hosttree.HostTree, kernel: Kernel, errors: dict[str, int], said: list[str]
):
    kernel.errors = errors
    assert found(host, NVME) == said
