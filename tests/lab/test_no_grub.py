"""A host that another boot loader starts: QEMU itself, with the kernel and the initramfs from disk.

That is what any boot loader does with the files that the host keeps for it. Only the kernel's
command line is out of the charm's reach.
"""

import pathlib
from collections.abc import Iterator

import pytest

from lab import booting, image, kernel, machine, story

pytestmark = pytest.mark.row("no-grub")

GIVEN = "gpu=1234:1111@0000:01:00.0"
# No option about the IOMMU: Debian's kernel switches VT-d on by itself.
LINE = f"root=LABEL=lab-root ro console=ttyS0 {image.CPU_OPTIONS}"
REMOVED = ("/boot/grub", "/usr/sbin/update-grub", "/usr/sbin/grub-mkconfig")


@pytest.fixture(scope="module")
def without_grub(boot: booting.Boot) -> Iterator[story.Watched]:
    """The machine runs with its IOMMU off, and GRUB is gone from its disk."""
    with boot(machine.NO_GRUB) as host:
        host.run(["rm", "-r", *REMOVED])
        yield story.begin(host)


@pytest.fixture(scope="module")
def refused(without_grub: story.Watched) -> story.Watched:
    """The charm is deployed while the IOMMU is off."""
    with without_grub.host.progress.step("deploy without GRUB"):
        without_grub.charm.deploy(devices=GIVEN)
    return without_grub


@pytest.fixture(scope="module")
def switched_on(refused: story.Watched, files_of_boot: pathlib.Path) -> story.Watched:
    """The other boot loader has started the kernel without the option that kept the IOMMU off."""
    _boot_from(refused, files_of_boot, "boot from outside, the IOMMU on")
    return refused


@pytest.fixture(scope="module")
def bound(switched_on: story.Watched, files_of_boot: pathlib.Path) -> story.Watched:
    """The machine has been rebooted the same way after the claim."""
    _boot_from(switched_on, files_of_boot, "boot from outside with a card claimed")
    return switched_on


@pytest.fixture(scope="module")
def files_of_boot(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """Where the boot loader keeps what it has read of the disk."""
    return tmp_path_factory.mktemp("boot")


def _boot_from(told: story.Watched, folder: pathlib.Path, title: str) -> None:
    """Switch the machine off and start the kernel and the initramfs that are on its disk now."""
    host = told.host
    for name in ("vmlinuz", "initrd.img"):
        host.fetch(f"/{name}", folder / name)
    host.power_off()
    kernel_words = ["-kernel", str(folder / "vmlinuz"), "-initrd", str(folder / "initrd.img")]
    host.power_on(title, [*kernel_words, "-append", LINE])
    told.charm.juju("rebooted", show=True)


def test_while_the_iommu_is_off_the_unit_is_blocked_with_the_option(refused: story.Watched) -> None:
    status = refused.charm.read_status()
    assert status.startswith("blocked: this host does not boot with GRUB")
    assert "add intel_iommu=on by its boot loader's own means" in status


def test_while_the_iommu_is_off_nothing_is_written(refused: story.Watched) -> None:
    assert refused.list_rewritten() == set()
    assert refused.read_drivers() == refused.with_claimed()


def test_once_the_iommu_is_on_no_option_is_asked_for(switched_on: story.Watched) -> None:
    line = kernel.read_command_line(switched_on.host)
    assert [token for token in line if "iommu" in token] == []
    assert switched_on.charm.read_status() == "active: gpu: 1 ready"
    assert switched_on.read_drivers() == switched_on.with_claimed("gpu0")


def test_once_the_iommu_is_on_no_file_of_grubs_is_written(switched_on: story.Watched) -> None:
    changed = switched_on.list_changed()
    assert [path for path in changed if "grub" in path] == []
    assert "/etc/initramfs-tools/scripts/init-top/pci-passthrough" in changed


def test_after_a_reboot_the_claim_was_made_at_boot(bound: story.Watched) -> None:
    assert bound.read_drivers() == bound.with_claimed("gpu0")
    assert bound.find_touches("gpu0") == []


def test_after_a_reboot_the_unit_is_ready_and_verify_passes(bound: story.Watched) -> None:
    assert bound.charm.read_status() == "active: gpu: 1 ready"
    assert bound.list_failed_checks() == ""
