"""What somebody else changes, the next hook repairs and reports, or says what it needs."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from harness import hosttree, made, uses
from harness.constants import CLAIMED, GPUS
from harness.fakekernel import FakeKernel, FakeTools
from harness.hosttree import kernel as model

from passthrough import reconcile
from passthrough.errors import PassthroughError
from passthrough.planning import boot_files
from passthrough.reporting import status
from passthrough.site import Site
from passthrough.system import files

INIT_TOP = "etc/initramfs-tools/scripts/init-top/pci-passthrough"
GRUB = "etc/default/grub.d/95-pci-passthrough.cfg"
MODULES = "etc/modules-load.d/pci-passthrough.conf"
RULES = "etc/udev/rules.d/60-pci-passthrough.rules"
FEEDS = {file.path: file.feeds for file in boot_files.owned_files("pci-passthrough")}

Run = Callable[..., reconcile.Result]


@pytest.fixture
def run(tree: hosttree.HostTree, kernel: FakeKernel, tools: FakeTools) -> Run:
    """One hook on a host that was ready before."""

    def hook(devices: str = GPUS, **config: object) -> reconcile.Result:
        wanted = made.wanted(devices, **config)
        return reconcile.reconcile(
            Site(tree.root, "pci-passthrough"), wanted, tools, lambda said: None
        )

    hook()
    kernel.reboot()
    hook()
    tools.calls.clear()
    return hook


def status_of(result: reconcile.Result) -> str:
    found = status.summarize(result.decision, result.outcome.failed)
    return f"{found.kind}: {found.message}"


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
def test_a_drop_in_is_repaired_and_reported(
    tree: hosttree.HostTree, tools: FakeTools, run: Run, path: str, damage: Callable, said: str
):
    before = tree.snapshot("etc", "var/lib")
    damage(tree.root / path)
    result = run()
    assert result.outcome.repaired == (f"/{path} {said}",)
    assert tree.snapshot("etc", "var/lib") == before
    assert tools.calls == ([f"rebuild {FEEDS[path]}"] if FEEDS[path] else [])
    assert status_of(result) == "active: gpu: 2 ready"
    assert run().outcome == type(result.outcome)()


def test_a_device_that_was_unbound_is_bound_and_reported(
    tree: hosttree.HostTree, tools: FakeTools, run: Run
):
    tree.bind("0000:83:00.0", None)
    tree.bind("0000:84:00.0", "nouveau")
    result = run()
    assert {tree.driver_of(each) for each in CLAIMED} == {"vfio-pci"}
    assert result.outcome.repaired == (
        "0000:83:00.0 was on no driver",
        "0000:84:00.0 was on nouveau",
    )
    assert tools.calls == ["load vfio"]
    assert status_of(result) == "active: gpu: 2 ready"


def test_a_device_that_cannot_be_repaired_says_what_it_needs(
    tree: hosttree.HostTree, kernel: FakeKernel, run: Run
):
    tree.bind("0000:84:00.0", "nouveau")
    kernel.refuse("0000:84:00.0/driver/unbind", errno.EBUSY)
    result = run()
    assert result.outcome.repaired == ()
    assert status_of(result) == (
        "blocked: reboot required: 0000:84:00.0 is on nouveau, not vfio-pci"
        " (/sys/bus/pci/devices/0000:84:00.0/driver/unbind: Device or resource busy)"
    )


def test_an_initramfs_built_without_the_drop_in_is_built_again(
    tree: hosttree.HostTree, kernel: FakeKernel, tools: FakeTools, run: Run
):
    """A kernel upgrade while the script was gone: the boot after the repair binds again."""
    (tree.root / INIT_TOP).unlink()
    tools.rebuild("initramfs", lambda said: None)
    tools.calls.clear()
    run()
    assert tools.calls == ["rebuild initramfs"]
    kernel.reboot()
    assert {tree.driver_of(each) for each in CLAIMED} == {"vfio-pci"}


def test_a_kernel_upgrade_with_all_in_place_needs_nothing(
    kernel: FakeKernel, tools: FakeTools, run: Run
):
    tools.rebuild("initramfs", lambda said: None)
    tools.calls.clear()
    kernel.reboot()
    assert run().outcome.did == ()
    assert tools.calls == []


def test_what_is_configured_anew_is_no_repair(run: Run):
    assert run("gpu=10de:1bb0@0000:85:00.0").outcome.repaired == ()


def test_a_device_that_the_host_has_taken_into_use_is_not_taken_back(
    tree: hosttree.HostTree, kernel: FakeKernel, run: Run
):
    tree.bind("0000:84:00.1", "snd_hda_intel")

    uses.disk(tree, "0000:84:00.1", "sdz", "8:240")
    uses.mount(tree, "8:240", "/srv", "/dev/sdz")
    kernel.forget_writes()
    result = run()
    assert "holds a mounted file system: /srv on sdz" in status_of(result)
    assert tree.driver_of("0000:84:00.1") == "snd_hda_intel"
    assert not any("0000:84:00.1/driver/unbind" in each for each in kernel.writes())


class TestFailures:
    """Disk full, read-only, missing tool: said with the cause, put back, tried again."""

    OTHER = "gpu=10de:1bb0@0000:84:00.0, gpu=10de:1bb0@0000:85:00.0"

    @pytest.mark.parametrize("path", [INIT_TOP, MODULES], ids=["feeds-a-rebuild", "feeds-none"])
    @pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EIO])
    def test_a_file_that_cannot_be_written(
        self, tree, run: Run, monkeypatch: pytest.MonkeyPatch, path: str, number: int
    ):
        (tree.root / path).write_text("# edited\n")
        self.refuse_writes(monkeypatch, path, number)
        with pytest.raises(PassthroughError) as caught:
            run(self.OTHER)
        assert str(caught.value) == (
            f"/{path} cannot be written: {os.strerror(number)}; the files that belong together"
            " were put back, and the next hook tries again"
        )
        assert (tree.root / path).read_text() == "# edited\n"

    def test_is_over_when_there_is_room_again(self, tree, kernel, run: Run):
        with pytest.MonkeyPatch.context() as patch:
            self.refuse_writes(patch, INIT_TOP, errno.ENOSPC)
            with pytest.raises(PassthroughError):
                run(self.OTHER)
        assert status_of(run(self.OTHER)) == "active: gpu: 2 ready"
        assert tree.driver_of("0000:85:00.0") == "vfio-pci"
        assert tree.driver_of("0000:83:00.0") == "nouveau"
        assert not list(tree.root.rglob(".*.new"))

    @pytest.mark.parametrize("what", ["initramfs", "grub"])
    def test_a_rebuild_that_fails_leaves_no_half_of_it_active(
        self, tree, kernel, tools, run: Run, what: str
    ):
        """The next kernel package runs these tools too: what is in /etc is what it builds from."""
        before = self.feeding(tree, what)
        tools.failing[what] = "cannot create: No space left on device"
        with pytest.raises(PassthroughError, match="No space left on device"):
            run(self.OTHER, kernel_options="a=b")
        assert self.feeding(tree, what) == before
        tools.failing.clear()
        tools.calls.clear()
        found = status_of(run(self.OTHER, kernel_options="a=b"))
        assert found == "blocked: reboot required: the running kernel lacks a=b"
        assert f"rebuild {what}" in tools.calls
        assert self.feeding(tree, what) != before

    def test_going_back_to_the_former_options_rebuilds_what_is_unknown(
        self, tree, kernel, tools, run: Run
    ):
        """A failed tool may have built for some kernels: the old files alone prove nothing."""
        tools.failing["initramfs"] = "killed"
        with pytest.raises(PassthroughError):
            run(self.OTHER)
        tools.failing.clear()
        tools.calls.clear()
        run(GPUS)
        assert tools.calls[0] == "rebuild initramfs"
        tools.calls.clear()
        run(GPUS)
        assert tools.calls == []

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


def test_a_device_of_another_application_is_never_given_back_by_us(
    tree: hosttree.HostTree, kernel: FakeKernel, tools: FakeTools, run: Run
):
    """A charm that was removed under a guest has left; whoever claims the device since has it."""
    kernel.hold("0000:84:00.0")
    run("gpu=10de:1bb0@0000:83:00.0")
    other = made.wanted("gpu=10de:1bb0@0000:84:00.0")
    first = made.wanted("")
    reconcile.reconcile(Site(tree.root, "pci-passthrough"), first, tools, lambda said: None)
    result = reconcile.reconcile(Site(tree.root, "other"), other, tools, lambda said: None)
    assert result.decision.outcome.addresses == ("0000:84:00.0", "0000:84:00.1")
    assert model.driver_of(tree.root, "0000:84:00.0") == "vfio-pci"
    for descriptor in (tree.root / "proc/4711/fd").iterdir():
        descriptor.unlink()
    reconcile.reconcile(Site(tree.root, "pci-passthrough"), first, tools, lambda said: None)
    assert model.driver_of(tree.root, "0000:84:00.0") == "vfio-pci"
