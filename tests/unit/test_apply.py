"""Carrying out a plan: the order that makes a crash mendable, and what failures leave behind."""

from __future__ import annotations

import errno

import hosttree
import pytest
from hosttree import kernel as kernel_model
from unit import made
from unit.fakekernel import CLAIMED, GPUS, OWNED, FakeKernel, FakeTools

from passthrough import PassthroughError, files, reconcile, record, status

NATIVE = {
    "0000:83:00.0": "nouveau",
    "0000:83:00.1": "snd_hda_intel",
    "0000:84:00.0": "nouveau",
    "0000:84:00.1": "snd_hda_intel",
}
INIT_TOP = "etc/initramfs-tools/scripts/init-top/pci-passthrough"
GRUB = "etc/default/grub.d/95-pci-passthrough.cfg"


def run(tree: hosttree.HostTree, tools: FakeTools, devices: str = GPUS, **config: object):
    wanted = made.wanted(devices, **config)
    return reconcile.reconcile(tree.root, "pci-passthrough", wanted, tools, lambda said: None)


def status_of(result: reconcile.Result) -> str:
    found = status.summarize(result.survey, result.outcome.failed)
    return f"{found.kind}: {found.message}"


def taken(tree: hosttree.HostTree) -> dict[str, str | None]:
    return dict(record.read(tree.root, "pci-passthrough").taken)


@pytest.fixture
def on(tree: hosttree.HostTree) -> hosttree.HostTree:
    """The host with its IOMMU on, so that binding needs no reboot."""
    tree.set_command_line("quiet splash intel_iommu=on")
    tree.iommu_on()
    return tree


class TestOrder:
    def test_functions_enter_the_record_before_they_are_touched(self, on, kernel, tools):
        seen: list[dict[str, str | None]] = []
        kernel.before_write = lambda name, text: seen.append(taken(on))
        tools.before_rebuild = lambda what: seen.append(taken(on))
        run(on, tools)
        assert seen
        assert all(each == NATIVE for each in seen)

    def test_functions_leave_the_record_after_they_are_given_back(self, on, kernel, tools):
        run(on, tools)
        seen: list[dict[str, str | None]] = []
        kernel.before_write = lambda name, text: seen.append(taken(on))
        run(on, tools, "")
        assert seen
        assert all(each == NATIVE for each in seen)
        assert taken(on) == {}

    def test_files_are_there_before_their_rebuild_and_devices_follow(self, on, kernel, tools):
        seen: dict[str, list[bool]] = {}

        def look(what: str) -> None:
            bound = "vfio-pci" in kernel.drivers().values()
            present = [(on.root / path).exists() for path in (INIT_TOP, GRUB)]
            seen[what] = [present[0 if what == "initramfs" else 1], bound]

        tools.before_rebuild = look
        run(on, tools)
        assert seen == {"initramfs": [True, False], "grub": [True, False]}

    def test_vfio_is_loaded_once_and_only_to_bind(self, on, kernel, tools):
        run(on, tools)
        assert tools.calls == ["rebuild initramfs", "rebuild grub", "load vfio"]
        tools.calls.clear()
        run(on, tools, "gpu=10de:1bb0@83:00.0")
        assert "load vfio" not in tools.calls

    def test_every_override_is_there_before_its_function_is_probed(self, on, kernel, tools):
        run(on, tools)
        written = kernel.writes()
        for address in CLAIMED:
            override = next(
                number
                for number, each in enumerate(written)
                if each.endswith(f"{address}/driver_override='vfio-pci'")
            )
            assert override < written.index(f"sys/bus/pci/drivers_probe={address!r}")

    def test_what_was_done_is_said_in_order(self, on, kernel, tools):
        said = [each for each in run(on, tools).outcome.did if each.startswith(("/etc", "0000"))]
        assert said[-4:] == [f"{address}: bound to vfio-pci" for address in CLAIMED]
        assert f"/{GRUB}: written" in said
        assert f"/{INIT_TOP}: written" in said
        said = [
            each for each in run(on, tools, "").outcome.did if each.startswith(("/etc", "0000"))
        ]
        assert f"/{GRUB}: removed" in said
        assert said[-4:] == [f"{address}: given back" for address in CLAIMED]


class TestRebuildThatFails:
    @pytest.mark.parametrize(
        ("what", "path"), [("initramfs", INIT_TOP), ("grub", GRUB)], ids=["initramfs", "grub"]
    )
    def test_restores_the_former_drop_ins_and_tells_the_tools_own_words(
        self, tree, kernel, tools, what: str, path: str
    ):
        tools.failing[what] = "cp: error writing: No space left on device"
        with pytest.raises(PassthroughError) as caught:
            run(tree, tools)
        assert str(caught.value) == (
            f"{what} failed with exit code 1: cp: error writing: No space left on device"
        )
        assert not (tree.root / path).exists()

    @pytest.mark.parametrize("what", ["initramfs", "grub"])
    def test_restores_what_an_earlier_plan_had_written(self, tree, kernel, tools, what: str):
        run(tree, tools, kernel_options="a=b", blacklist_drivers="nvidia")
        feeds = {"initramfs": ("etc/modprobe.d", "etc/initramfs-tools"), "grub": ("etc/default",)}
        before = tree.snapshot(*feeds[what])
        tools.failing[what] = "no"
        with pytest.raises(PassthroughError):
            run(tree, tools, "gpu=10de:1bb0", kernel_options="c=d", blacklist_drivers="x")
        assert tree.snapshot(*feeds[what]) == before

    @pytest.mark.parametrize("what", ["initramfs", "grub"])
    def test_is_tried_again_by_the_next_hook_and_ends_the_same(
        self, tree, kernel, tools, what: str
    ):
        tools.failing[what] = "no"
        for _ in range(2):
            with pytest.raises(PassthroughError):
                run(tree, tools)
        tools.failing.clear()
        tools.calls.clear()
        assert status_of(run(tree, tools)).startswith("blocked: reboot required: the IOMMU is off")
        assert f"rebuild {what}" in tools.calls
        mended = tree.snapshot(*OWNED)
        tools.calls.clear()
        run(tree, tools)
        assert tools.calls == []
        run(tree, tools, "")
        run(tree, tools)
        assert tree.snapshot(*OWNED) == mended

    @pytest.mark.parametrize("what", ["initramfs", "grub"])
    def test_of_removal_is_tried_again_too(self, tree, kernel, tools, what: str):
        before = tree.snapshot(*OWNED)
        run(tree, tools)
        tools.failing[what] = "no"
        with pytest.raises(PassthroughError):
            run(tree, tools, "")
        tools.failing.clear()
        tools.calls.clear()
        run(tree, tools, "")
        assert f"rebuild {what}" in tools.calls
        assert tree.snapshot(*OWNED) == before

    @pytest.mark.parametrize(
        ("what", "path"), [("initramfs", INIT_TOP), ("grub", GRUB)], ids=["initramfs", "grub"]
    )
    @pytest.mark.parametrize(
        ("error", "shown"),
        [
            (
                PermissionError(errno.EACCES, "Permission denied", "/boot/x"),
                "/boot/x: Permission denied",
            ),
            (OSError(errno.EIO, "Input/output error"), "the disk: Input/output error"),
        ],
        ids=["a-file", "no-file"],
    )
    def test_at_the_disk_restores_the_former_drop_ins_too(
        self, tree, kernel, tools, what: str, path: str, error: OSError, shown: str
    ):
        """Such as a full disk while grub.cfg is put in its place: no program has said a word."""

        def fail(rebuilt: str) -> None:
            if rebuilt == what:
                raise error

        tools.before_rebuild = fail
        with pytest.raises(PassthroughError) as caught:
            run(tree, tools)
        assert str(caught.value) == (
            f"{what} was not rebuilt: {shown}; the files that belong together were put back, and"
            " the next hook tries again"
        )
        assert not (tree.root / path).exists()
        tools.before_rebuild = lambda what: None
        tools.calls.clear()
        assert status_of(run(tree, tools)).startswith("blocked: reboot required: the IOMMU is off")
        assert f"rebuild {what}" in tools.calls

    def test_binds_nothing(self, on, kernel, tools):
        tools.failing["grub"] = "no"
        with pytest.raises(PassthroughError):
            run(on, tools)
        assert kernel.writes() == []
        assert "vfio-pci" not in kernel.drivers().values()


class TestFileThatCannotBeWritten:
    def test_is_named_and_takes_its_step_back(self, tree, kernel, tools):
        """The script below init-top cannot be written, so the hook of the same step goes too."""
        directory = tree.root / "etc/initramfs-tools/scripts/init-top"
        directory.rmdir()
        directory.write_text("a file in the way")
        with pytest.raises(PassthroughError) as caught:
            run(tree, tools)
        assert str(caught.value) == (
            f"/{INIT_TOP} cannot be written: File exists; the files that belong together were put"
            " back, and the next hook tries again"
        )
        assert not (tree.root / "etc/initramfs-tools/hooks/pci-passthrough").exists()
        assert tools.calls == []
        directory.unlink()
        assert status_of(run(tree, tools)).startswith("blocked: reboot required")

    def test_and_cannot_be_put_back_either_is_said_and_mended_later(
        self, tree, kernel, tools, monkeypatch: pytest.MonkeyPatch
    ):
        """The disk goes read-only between the writing and the rebuild."""
        ensure = files.ensure

        def refuse(path, *values, **named):
            if "initramfs-tools" in str(path):
                raise OSError(errno.EROFS, "Read-only file system", str(path))
            return ensure(path, *values, **named)

        tools.before_rebuild = lambda what: monkeypatch.setattr(files, "ensure", refuse)
        tools.failing["initramfs"] = "Read-only file system"
        said: list[str] = []
        with pytest.raises(PassthroughError, match="Read-only file system"):
            reconcile.reconcile(tree.root, "pci-passthrough", made.wanted(GPUS), tools, said.append)
        assert f"/{INIT_TOP}: could not be put back: Read-only file system" in said
        monkeypatch.undo()
        tools.failing.clear()
        tools.before_rebuild = lambda what: None
        tools.calls.clear()
        run(tree, tools)
        assert tools.calls == ["rebuild initramfs", "rebuild grub"]


class TestFunctionThatDoesNotMove:
    def test_by_a_failing_probe_gets_its_driver_back_and_stops_no_other(self, on, kernel, tools):
        kernel.fail_probe("0000:83:00.0", "vfio-pci")
        result = run(on, tools)
        assert {address: str(error) for address, error in result.outcome.failed.items()} == {
            "0000:83:00.0": "0000:83:00.0: vfio-pci did not take it; it is on nouveau (it was on"
            " nouveau)"
        }
        assert kernel.drivers() == {
            "0000:83:00.0": "nouveau",
            **dict.fromkeys(CLAIMED[1:], "vfio-pci"),
            "0000:85:00.0": "nouveau",
            "0000:85:00.1": "snd_hda_intel",
        }
        assert taken(on) == NATIVE
        assert status_of(result).startswith("blocked: ")
        assert "0000:83:00.0" in status_of(result)

    def test_is_tried_again_by_the_next_hook(self, on, kernel, tools):
        kernel.fail_probe("0000:83:00.0", "vfio-pci")
        run(on, tools)
        kernel.fail_probe("0000:83:00.0")
        assert status_of(run(on, tools)) == "active: gpu: 2 ready"
        assert taken(on) == NATIVE

    def test_by_a_driver_that_refuses_to_let_go_stays_where_it_is(self, on, kernel, tools):
        kernel.refuse("drivers/nouveau/unbind")
        kernel.refuse("0000:83:00.0/driver/unbind")
        result = run(on, tools)
        assert kernel.drivers()["0000:83:00.0"] == "nouveau"
        assert "0000:83:00.0" in result.outcome.failed
        assert "Device or resource busy" in str(result.outcome.failed["0000:83:00.0"])
        assert on.read("sys/bus/pci/devices/0000:83:00.0/driver_override") == "(null)\n"

    def test_on_its_way_back_stays_in_the_record_until_it_is_there(self, on, kernel, tools):
        run(on, tools)
        kernel.refuse("0000:84:00.0/driver/unbind", errno.EBUSY)
        result = run(on, tools, "gpu=10de:1bb0@83:00.0")
        assert "0000:84:00.0" in result.outcome.failed
        assert taken(on)["0000:84:00.0"] == "nouveau"
        assert kernel.drivers()["0000:84:00.1"] == "snd_hda_intel"
        kernel.relent()
        assert status_of(run(on, tools, "gpu=10de:1bb0@83:00.0")) == "active: gpu: 1 ready"
        assert kernel.drivers()["0000:84:00.0"] == "nouveau"
        assert set(taken(on)) == {"0000:83:00.0", "0000:83:00.1"}

    def test_because_a_guest_holds_it_is_left_alone_and_said(self, on, kernel, tools):
        run(on, tools)
        held = kernel.hold("0000:84:00.0")
        kernel.forget_writes()
        found = status_of(run(on, tools, "gpu=10de:1bb0@83:00.0"))
        assert found.startswith("blocked: ")
        assert "0000:84:00.0" in found
        assert kernel.drivers()["0000:84:00.0"] == kernel.drivers()["0000:84:00.1"] == "vfio-pci"
        assert [each for each in kernel.writes() if "unbind" in each] == []
        held.unlink()
        assert status_of(run(on, tools, "gpu=10de:1bb0@83:00.0")) == "active: gpu: 1 ready"
        assert kernel.drivers()["0000:84:00.0"] == "nouveau"

    def test_for_want_of_the_module_converges_later(self, on, kernel, tools):
        tools.failing["modprobe"] = "Module vfio-pci not found"
        with pytest.raises(PassthroughError, match="Module vfio-pci not found"):
            run(on, tools)
        assert kernel.drivers()["0000:83:00.0"] == "nouveau"
        assert taken(on) == NATIVE
        tools.failing.clear()
        tools.calls.clear()
        assert status_of(run(on, tools)) == "active: gpu: 2 ready"
        assert tools.calls == ["load vfio"]


class TestNativeDriver:
    def test_that_was_unloaded_is_loaded_again_by_its_modalias(self, on, kernel, tools):
        run(on, tools)
        kernel_model.remove_driver(on.root, "snd_hda_intel")
        run(on, tools, "gpu=10de:1bb0@83:00.0")
        modalias = on.read("sys/bus/pci/devices/0000:84:00.1/modalias").strip()
        assert f"load {modalias}" in tools.calls
        assert kernel.drivers()["0000:84:00.1"] == "snd_hda_intel"

    def test_that_the_host_does_not_have_leaves_the_function_free(self, on, kernel, tools):
        on.function("0000:c1:00.0", "1d0f:efa1", 0x020000)
        on.iommu_on()
        run(on, tools, "x=1d0f:efa1")
        assert on.driver_of("0000:c1:00.0") == "vfio-pci"
        result = run(on, tools, "")
        assert on.driver_of("0000:c1:00.0") is None
        assert result.outcome.failed == {}
        assert taken(on) == {}


def test_a_kernel_with_vfio_built_in_binds_too(make_host, monkeypatch):
    tree = make_host(ubuntu="22.04")
    tree.set_command_line("intel_iommu=on")
    tree.iommu_on()
    kernel = FakeKernel(tree, monkeypatch)
    assert status_of(run(tree, FakeTools(tree))) == "active: gpu: 2 ready"
    assert kernel.drivers()["0000:85:00.0"] == "nouveau"
