"""Carrying out a plan: the order that makes a crash mendable, and what failures leave behind."""

from __future__ import annotations

import errno
from functools import partial

import pytest
from harness import hosttree, made, uses
from harness.constants import CLAIMED, GPUS, OWNED
from harness.fakekernel import FakeKernel, FakeTools
from harness.hosttree import kernel as kernel_model

from passthrough import errors, reboot, reconcile
from passthrough.effects import reboot_request
from passthrough.errors import PassthroughError
from passthrough.reporting import status
from passthrough.site import Site
from passthrough.state import record, stuck
from passthrough.system import files, timed_write

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
    return reconcile.reconcile(Site(tree.root, "pci-passthrough"), wanted, tools, lambda said: None)


def status_of(result: reconcile.Result) -> str:
    found = status.summarize(result.decision, result.outcome.failed)
    return f"{found.kind}: {found.message}"


def taken(tree: hosttree.HostTree) -> dict[str, str | None]:
    return dict(record.read(Site(tree.root, "pci-passthrough")).taken)


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


class TestHostThatChangesDuringARebuild:
    """A rebuild takes minutes, and what may be bound behind it is decided anew."""

    DISK = "0000:02:00.0"
    DEVICES = f"disk=144d:a808@{DISK}, gpu=10de:1bb0@0000:83:00.0"

    @pytest.fixture
    def on(self, on) -> hosttree.HostTree:
        uses.disk(on, self.DISK, "nvme0n1", "259:0", "nvme/nvme0")
        return on

    def mount(self, what: str, tree: hosttree.HostTree) -> None:
        if what == "initramfs":
            uses.mount(tree, "259:0", "/srv", "/dev/nvme0n1")

    def unmount(self, tree: hosttree.HostTree) -> None:
        (tree.root / "proc/1/mountinfo").unlink()

    def test_a_disk_that_was_mounted_is_not_taken(self, on, kernel, tools):
        tools.before_rebuild = lambda what: self.mount(what, on)
        result = run(on, tools, self.DEVICES)
        assert on.driver_of(self.DISK) == "nvme"
        assert not [each for each in kernel.writes() if self.DISK in each]
        assert on.driver_of("0000:83:00.0") == "vfio-pci"
        assert f"{self.DISK}: left alone" in str(result.outcome.failed[self.DISK])
        assert status_of(result).startswith(f"blocked: devices: item 1 disk=144d:a808@{self.DISK}")
        assert "/srv" in status_of(result)

    def test_the_next_hook_gives_up_its_claim(self, on, kernel, tools):
        tools.before_rebuild = lambda what: self.mount(what, on)
        run(on, tools, self.DEVICES)
        assert self.DISK in on.read(INIT_TOP)
        tools.before_rebuild = lambda what: None
        tools.calls.clear()
        run(on, tools, self.DEVICES)
        assert self.DISK not in on.read(INIT_TOP)
        assert tools.calls == ["rebuild initramfs"]
        assert self.DISK not in taken(on)
        assert on.driver_of(self.DISK) == "nvme"

    def test_what_is_free_again_by_then_is_for_the_next_hook_and_no_reason_to_reboot(
        self, on, kernel, tools, monkeypatch: pytest.MonkeyPatch
    ):
        load_vfio = tools.load_vfio
        monkeypatch.setattr(tools, "load_vfio", lambda: (self.unmount(on), load_vfio()))
        tools.before_rebuild = lambda what: self.mount(what, on)
        config = {"reboot": "when-idle"}
        result = run(on, tools, self.DEVICES, **config)
        failed = result.outcome.failed
        assert reboot_request.arrange(result.decision, failed) == reboot.Verdict()
        assert status_of(result) == (
            f"waiting: the next hook goes on with {self.DISK}: left alone, as it cannot be claimed"
            " any more since the rebuild"
        )
        tools.before_rebuild = lambda what: None
        monkeypatch.setattr(tools, "load_vfio", load_vfio)
        assert status_of(run(on, tools, self.DEVICES, **config)) == (
            "active: disk: 1 ready, gpu: 1 ready"
        )

    def test_a_survey_that_fails_by_then_binds_nothing(self, on, kernel, tools):
        """The record of another application is damaged in the meantime."""
        tools.before_rebuild = lambda what: on.write("var/lib/pci-passthrough/qat.json", "{")
        with pytest.raises(record.RecordError, match=r"qat\.json is not readable"):
            run(on, tools, self.DEVICES)
        assert kernel.writes() == []
        (on.root / "var/lib/pci-passthrough/qat.json").unlink()
        tools.before_rebuild = lambda what: None
        assert status_of(run(on, tools, self.DEVICES)) == "active: disk: 1 ready, gpu: 1 ready"

    def test_without_a_rebuild_the_host_is_looked_at_once_before(self, on, kernel, tools):
        run(on, tools)
        on.bind("0000:83:00.0", "nouveau")
        looked: list[str] = []
        kernel.before_write = lambda name, text: looked.append(name)
        surveyed: list[bool] = []
        read = record.read

        def count(*values):
            surveyed.append(bool(looked))
            return read(*values)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(record, "read", count)
            run(on, tools)
        assert surveyed.index(True) == 1


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
            reconcile.reconcile(
                Site(tree.root, "pci-passthrough"), made.wanted(GPUS), tools, said.append
            )
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
        assert status_of(result) == (
            "blocked: reboot required: 0000:83:00.0 is on nouveau, not vfio-pci (vfio-pci did not"
            " take it)"
        )

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
        assert status_of(result) == (
            "blocked: reboot required: 0000:83:00.0 is on nouveau, not vfio-pci"
            " (/sys/bus/pci/devices/0000:83:00.0/driver/unbind: Device or resource busy)"
        )
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

    @pytest.mark.parametrize(
        ("before", "after"), [("", GPUS), (GPUS, "")], ids=["bind", "give-back"]
    )
    @pytest.mark.parametrize("ends", [False, True], ids=["for-ever", "meanwhile"])
    def test_because_its_driver_sleeps_is_the_last_one_to_be_touched(
        self, on, kernel, tools, monkeypatch, before: str, after: str, ends: bool
    ):
        """There is one note of what sleeps: a second one would have the first forgotten."""
        run(on, tools, before)
        kernel.forget_writes()
        sleepers: list[int] = []

        def sleep(path, text, seconds, do):
            sleepers.append(5001 + len(sleepers))
            on.write(f"proc/{sleepers[-1]}/stat", f"{sleepers[-1]} (x) D {'0 ' * 18}77 0\n")
            return sleepers[-1]

        def wake(sentence: str) -> None:
            if ends and "left alone" in sentence:
                (on.root / f"proc/{sleepers[0]}/stat").unlink(missing_ok=True)

        monkeypatch.setattr(timed_write, "write", sleep)
        wanted = made.wanted(after)
        look = partial(reconcile.reconcile, Site(on.root, "pci-passthrough"), wanted, tools, wake)
        if ends:
            result = look()
            assert list(result.outcome.failed) == list(CLAIMED)
            assert status_of(result) == (
                "waiting: the next hook goes on with 0000:83:00.1: left alone, as 0000:83:00.0 does"
                " not come loose (2 more: run the plan action)"
            )
        else:
            with pytest.raises(errors.StuckError, match=r"^0000:83:00\.0: "):
                look()
            with pytest.raises(errors.StuckError, match=r"^0000:83:00\.0: "):
                look()
        assert len(sleepers) == 1
        assert on.read(stuck.PATH) == "0000:83:00.0 5001 77\n"
        assert not [each for each in kernel.writes() if "83:00.0" not in each]
        assert taken(on) == NATIVE

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
