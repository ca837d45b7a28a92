"""What somebody else changes, the next hook repairs and reports, or says what it needs."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from harness import hosttree, uses
from harness.constants import CLAIMED, GPUS, GRUB, INIT_TOP, MODULES, ONE, RULES
from harness.hosttree import kernel as model
from harness.world import World

from passthrough.effects import apply
from passthrough.errors import PassthroughError
from passthrough.planning import boot_files
from passthrough.system import files

FEEDS = {file.path: file.feeds for file in boot_files.owned_files("pci-passthrough")}


@pytest.mark.parametrize(
    "path", [INIT_TOP, GRUB, MODULES, RULES], ids=["init-top", "grub", "modules", "udev"]
)
@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda path: path.unlink(), "was missing"),
        (lambda path: path.write_text("# edited\n"), "had been edited"),
        (lambda path: path.chmod(0o600), "had been edited"),
    ],
    ids=["deleted", "edited", "mode"],
)
def test_a_drop_in_is_repaired_and_reported(ready: World, path: str, damage: Callable, said: str):
    before = ready.tree.snapshot("etc", "var/lib")
    damage(ready.root / path)
    ready.hook()
    assert ready.result.outcome.repaired == (f"/{path} {said}",)
    assert ready.tree.snapshot("etc", "var/lib") == before
    assert ready.tools.calls == ([f"rebuild {FEEDS[path]}"] if FEEDS[path] else [])
    assert ready.status == "active: gpu: 2 ready"
    ready.hook()
    assert ready.result.outcome == apply.Outcome()


def test_a_device_that_was_unbound_is_bound_and_reported(ready: World):
    ready.tree.bind("0000:83:00.0", None)
    ready.tree.bind("0000:84:00.0", "nouveau")
    ready.hook()
    assert {ready.tree.driver_of(each) for each in CLAIMED} == {"vfio-pci"}
    assert ready.result.outcome.repaired == (
        "0000:83:00.0 was on no driver",
        "0000:84:00.0 was on nouveau",
    )
    assert ready.tools.calls == ["load vfio"]
    assert ready.status == "active: gpu: 2 ready"


def test_a_device_that_cannot_be_repaired_says_what_it_needs(ready: World):
    ready.tree.bind("0000:84:00.0", "nouveau")
    ready.kernel.refuse("0000:84:00.0/driver/unbind", errno.EBUSY)
    ready.hook()
    assert ready.result.outcome.repaired == ()
    assert ready.status == (
        "blocked: reboot required: 0000:84:00.0 is on nouveau, not vfio-pci"
        " (/sys/bus/pci/devices/0000:84:00.0/driver/unbind: Device or resource busy)"
    )


def test_an_initramfs_built_without_the_drop_in_is_built_again(ready: World):
    """A kernel upgrade while the script was gone: the boot after the repair binds again."""
    (ready.root / INIT_TOP).unlink()
    ready.tools.rebuild("initramfs", lambda said: None)
    ready.tools.calls.clear()
    ready.hook()
    assert ready.tools.calls == ["rebuild initramfs"]
    ready.reboot()
    assert {ready.tree.driver_of(each) for each in CLAIMED} == {"vfio-pci"}


def test_a_kernel_upgrade_with_all_in_place_needs_nothing(ready: World):
    ready.tools.rebuild("initramfs", lambda said: None)
    ready.tools.calls.clear()
    ready.reboot()
    ready.hook()
    assert ready.result.outcome.did == ()
    assert ready.tools.calls == []


def test_what_is_configured_anew_is_no_repair(ready: World):
    ready.hook("gpu=10de:1bb0@0000:85:00.0")
    assert ready.result.outcome.repaired == ()


def test_a_device_that_the_host_has_taken_into_use_is_not_taken_back(ready: World):
    ready.tree.bind("0000:84:00.1", "snd_hda_intel")

    uses.disk(ready.tree, "0000:84:00.1", "sdz", "8:240")
    uses.mount(ready.tree, "8:240", "/srv", "/dev/sdz")
    ready.kernel.forget_writes()
    ready.hook()
    assert "holds a mounted file system: /srv on sdz" in ready.status
    assert ready.tree.driver_of("0000:84:00.1") == "snd_hda_intel"
    assert not any("0000:84:00.1/driver/unbind" in each for each in ready.kernel.writes())


class TestFailures:
    """Disk full, read-only, missing tool: said with the cause, put back, tried again."""

    OTHER = "gpu=10de:1bb0@0000:84:00.0, gpu=10de:1bb0@0000:85:00.0"

    @pytest.mark.parametrize("path", [INIT_TOP, MODULES], ids=["feeds-a-rebuild", "feeds-none"])
    @pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EIO])
    def test_a_file_that_cannot_be_written(
        self, ready: World, monkeypatch: pytest.MonkeyPatch, path: str, number: int
    ):
        (ready.root / path).write_text("# edited\n")
        self.refuse_writes(monkeypatch, path, number)
        with pytest.raises(PassthroughError) as caught:
            ready.hook(self.OTHER)
        assert str(caught.value) == (
            f"/{path} cannot be written: {os.strerror(number)}; the files that belong together"
            " were put back, and the next hook tries again"
        )
        assert (ready.root / path).read_text() == "# edited\n"

    def test_is_over_when_there_is_room_again(self, ready: World):
        with pytest.MonkeyPatch.context() as patch:
            self.refuse_writes(patch, INIT_TOP, errno.ENOSPC)
            with pytest.raises(PassthroughError):
                ready.hook(self.OTHER)
        ready.hook(self.OTHER)
        assert ready.status == "active: gpu: 2 ready"
        assert ready.tree.driver_of("0000:85:00.0") == "vfio-pci"
        assert ready.tree.driver_of("0000:83:00.0") == "nouveau"
        assert not list(ready.root.rglob(".*.new"))

    @pytest.mark.parametrize("what", ["initramfs", "grub"])
    def test_a_rebuild_that_fails_leaves_no_half_of_it_active(self, ready: World, what: str):
        """The next kernel package runs these tools too: what is in /etc is what it builds from."""
        before = self.feeding(ready.tree, what)
        ready.tools.failing[what] = "cannot create: No space left on device"
        with pytest.raises(PassthroughError, match="No space left on device"):
            ready.hook(self.OTHER, kernel_options="nosmt")
        assert self.feeding(ready.tree, what) == before
        ready.tools.failing.clear()
        ready.tools.calls.clear()
        ready.hook(self.OTHER, kernel_options="nosmt")
        assert ready.status == "blocked: reboot required: the running kernel lacks nosmt"
        assert f"rebuild {what}" in ready.tools.calls
        assert self.feeding(ready.tree, what) != before

    def test_going_back_to_the_former_options_rebuilds_what_is_unknown(self, ready: World):
        """A failed tool may have built for some kernels: the old files alone prove nothing."""
        ready.tools.failing["initramfs"] = "killed"
        with pytest.raises(PassthroughError):
            ready.hook(self.OTHER)
        ready.tools.failing.clear()
        ready.tools.calls.clear()
        ready.hook(GPUS)
        assert ready.tools.calls[0] == "rebuild initramfs"
        ready.tools.calls.clear()
        ready.hook(GPUS)
        assert ready.tools.calls == []

    @staticmethod
    def feeding(tree: hosttree.HostTree, what: str) -> dict[str, files.Present | None]:
        return {path: files.read(tree.root / path) for path in FEEDS if FEEDS[path] == what}

    @staticmethod
    def refuse_writes(monkeypatch: pytest.MonkeyPatch, path: str, number: int) -> None:
        real = files._replace

        def replace(target: Path, *values: Any) -> None:
            if os.fspath(target).endswith(path):
                raise OSError(number, os.strerror(number), os.fspath(target))
            real(target, *values)

        monkeypatch.setattr(files, "_replace", replace)


def test_a_device_of_another_application_is_never_given_back_by_us(ready: World):
    """A charm that was removed under a guest has left; whoever claims the device since has it."""
    ready.kernel.hold("0000:84:00.0")
    ready.hook(ONE)
    other = ready.beside("other")
    ready.hook("")
    other.hook("gpu=10de:1bb0@0000:84:00.0")
    assert other.result.decision.outcome.addresses == ("0000:84:00.0", "0000:84:00.1")
    assert model.driver_of(ready.root, "0000:84:00.0") == "vfio-pci"
    for descriptor in (ready.root / "proc/4711/fd").iterdir():
        descriptor.unlink()
    ready.hook("")
    assert model.driver_of(ready.root, "0000:84:00.0") == "vfio-pci"
