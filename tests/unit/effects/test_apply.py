"""Carrying out a plan: the order that makes a crash mendable, and what failures leave behind."""

from __future__ import annotations

import errno
from functools import partial

import pytest
from harness import uses
from harness.constants import CLAIMED, GPUS, GRUB, INIT_TOP, KEPT, NATIVE, OWNED
from harness.hosttree import kernel as kernel_model
from harness.world import World

from passthrough import errors, reboot, survey
from passthrough.errors import PassthroughError
from passthrough.state import record, stuck
from passthrough.system import files, timed_write


@pytest.fixture
def on(world: World) -> World:
    """The world of a host with its IOMMU on, so that binding needs no reboot."""
    world.turn_iommu_on()
    return world


def taken(world: World) -> dict[str, str | None]:
    return dict(world.record().taken)


class TestOrder:
    def test_functions_enter_the_record_before_they_are_touched(self, on: World):
        seen: list[dict[str, str | None]] = []
        on.kernel.before_write = lambda name, text: seen.append(taken(on))
        on.tools.before_rebuild = lambda what: seen.append(taken(on))
        on.hook(GPUS)
        assert seen
        assert all(each == NATIVE for each in seen)

    def test_functions_leave_the_record_after_they_are_given_back(self, on: World):
        on.hook(GPUS)
        seen: list[dict[str, str | None]] = []
        on.kernel.before_write = lambda name, text: seen.append(taken(on))
        on.hook("")
        assert seen
        assert all(each == NATIVE for each in seen)
        assert taken(on) == {}

    def test_files_are_there_before_their_rebuild_and_devices_follow(self, on: World):
        seen: dict[str, list[bool]] = {}

        def look(what: str) -> None:
            bound = "vfio-pci" in on.drivers().values()
            present = [(on.root / path).exists() for path in (INIT_TOP, GRUB)]
            seen[what] = [present[0 if what == "initramfs" else 1], bound]

        on.tools.before_rebuild = look
        on.hook(GPUS)
        assert seen == {"initramfs": [True, False], "grub": [True, False]}

    def test_vfio_is_loaded_once_and_only_to_bind(self, on: World):
        on.hook(GPUS)
        assert on.tools.calls == ["rebuild initramfs", "rebuild grub", "load vfio"]
        on.tools.calls.clear()
        on.hook("gpu=10de:1bb0@83:00.0")
        assert "load vfio" not in on.tools.calls

    def test_every_override_is_there_before_its_function_is_probed(self, on: World):
        on.hook(GPUS)
        written = on.kernel.writes()
        for address in CLAIMED:
            override = next(
                number
                for number, each in enumerate(written)
                if each.endswith(f"{address}/driver_override='vfio-pci'")
            )
            assert override < written.index(f"sys/bus/pci/drivers_probe={address!r}")

    def test_what_was_done_is_said_in_order(self, on: World):
        on.hook(GPUS)
        said = [each for each in on.result.outcome.did if each.startswith(("/etc", "0000"))]
        assert said[-4:] == [f"{address}: bound to vfio-pci" for address in CLAIMED]
        assert f"/{GRUB}: written" in said
        assert f"/{INIT_TOP}: written" in said
        on.hook("")
        said = [each for each in on.result.outcome.did if each.startswith(("/etc", "0000"))]
        assert f"/{GRUB}: removed" in said
        assert said[-4:] == [f"{address}: given back" for address in CLAIMED]


class TestRebuildThatFails:
    @pytest.mark.parametrize(
        ("what", "path"), [("initramfs", INIT_TOP), ("grub", GRUB)], ids=["initramfs", "grub"]
    )
    def test_restores_the_former_drop_ins_and_tells_the_tools_own_words(
        self, world: World, what: str, path: str
    ):
        world.tools.failing[what] = "cp: error writing: No space left on device"
        with pytest.raises(PassthroughError) as caught:
            world.hook(GPUS)
        assert str(caught.value) == (
            f"{what} failed with exit code 1: cp: error writing: No space left on device"
        )
        assert not (world.root / path).exists()

    @pytest.mark.parametrize("what", ["initramfs", "grub"])
    def test_restores_what_an_earlier_plan_had_written(self, world: World, what: str):
        world.hook(GPUS, kernel_options="nosmt", blacklist_drivers="nvidia")
        feeds = {"initramfs": ("etc/modprobe.d", "etc/initramfs-tools"), "grub": ("etc/default",)}
        before = world.tree.snapshot(*feeds[what])
        world.tools.failing[what] = "no"
        with pytest.raises(PassthroughError):
            world.hook("gpu=10de:1bb0", kernel_options="psi=1", blacklist_drivers="x")
        assert world.tree.snapshot(*feeds[what]) == before

    @pytest.mark.parametrize("what", ["initramfs", "grub"])
    def test_is_tried_again_by_the_next_hook_and_ends_the_same(self, world: World, what: str):
        world.tools.failing[what] = "no"
        for _ in range(2):
            with pytest.raises(PassthroughError):
                world.hook(GPUS)
        world.tools.failing.clear()
        world.tools.calls.clear()
        world.hook(GPUS)
        assert world.status.startswith("blocked: reboot required: the IOMMU is off")
        assert f"rebuild {what}" in world.tools.calls
        mended = world.tree.snapshot(*OWNED)
        world.tools.calls.clear()
        world.hook(GPUS)
        assert world.tools.calls == []
        world.hook("")
        world.hook(GPUS)
        assert world.tree.snapshot(*OWNED) == mended

    @pytest.mark.parametrize("what", ["initramfs", "grub"])
    def test_of_removal_is_tried_again_too(self, world: World, what: str):
        before = world.tree.snapshot(*OWNED)
        world.hook(GPUS)
        world.tools.failing[what] = "no"
        with pytest.raises(PassthroughError):
            world.hook("")
        world.tools.failing.clear()
        world.tools.calls.clear()
        world.hook("")
        assert f"rebuild {what}" in world.tools.calls
        assert world.tree.snapshot(*OWNED) == before

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
        self, world: World, what: str, path: str, error: OSError, shown: str
    ):
        """Such as a full disk while grub.cfg is put in its place: no program has said a word."""

        def fail(rebuilt: str) -> None:
            if rebuilt == what:
                raise error

        world.tools.before_rebuild = fail
        with pytest.raises(PassthroughError) as caught:
            world.hook(GPUS)
        assert str(caught.value) == (
            f"{what} was not rebuilt: {shown}; the files that belong together were put back, and"
            " the next hook tries again"
        )
        assert not (world.root / path).exists()
        world.tools.before_rebuild = lambda what: None
        world.tools.calls.clear()
        world.hook(GPUS)
        assert world.status.startswith("blocked: reboot required: the IOMMU is off")
        assert f"rebuild {what}" in world.tools.calls

    def test_binds_nothing(self, on: World):
        on.tools.failing["grub"] = "no"
        with pytest.raises(PassthroughError):
            on.hook(GPUS)
        assert on.kernel.writes() == []
        assert "vfio-pci" not in on.drivers().values()


class TestHostThatChangesDuringARebuild:
    """A rebuild takes minutes, and what may be bound behind it is decided anew."""

    DISK = "0000:02:00.0"
    DEVICES = f"disk=144d:a808@{DISK}, gpu=10de:1bb0@0000:83:00.0"

    @pytest.fixture
    def on(self, on: World) -> World:
        uses.disk(on.tree, self.DISK, "nvme0n1", "259:0", "nvme/nvme0")
        return on

    def mount(self, what: str, world: World) -> None:
        if what == "initramfs":
            uses.mount(world.tree, "259:0", "/srv", "/dev/nvme0n1")

    def unmount(self, world: World) -> None:
        (world.root / "proc/1/mountinfo").unlink(missing_ok=True)

    def test_a_disk_that_was_mounted_is_not_taken(self, on: World):
        on.tools.before_rebuild = lambda what: self.mount(what, on)
        on.hook(self.DEVICES)
        assert on.tree.driver_of(self.DISK) == "nvme"
        assert not [each for each in on.kernel.writes() if self.DISK in each]
        assert on.tree.driver_of("0000:83:00.0") == "vfio-pci"
        assert f"{self.DISK}: left alone" in str(on.result.outcome.failed[self.DISK])
        assert on.status.startswith(f"blocked: devices: item 1 disk=144d:a808@{self.DISK}")
        assert "/srv" in on.status

    def test_the_next_hook_gives_up_its_claim(self, on: World):
        on.tools.before_rebuild = lambda what: self.mount(what, on)
        on.hook(self.DEVICES)
        assert self.DISK in on.tree.read(INIT_TOP)
        on.tools.before_rebuild = lambda what: None
        on.tools.calls.clear()
        on.hook(self.DEVICES)
        assert self.DISK not in on.tree.read(INIT_TOP)
        assert on.tools.calls == ["rebuild initramfs"]
        assert self.DISK not in taken(on)
        assert on.tree.driver_of(self.DISK) == "nvme"

    def test_what_is_free_again_by_then_is_for_the_next_hook_and_no_reason_to_reboot(
        self, on: World
    ):
        """The disk comes first; it is unmounted while the GPU behind it changes its driver."""
        on.kernel.before_write = lambda name, text: self.unmount(on)
        on.tools.before_rebuild = lambda what: self.mount(what, on)
        config = {"reboot": "when-idle"}
        on.hook(self.DEVICES, **config)
        assert on.verdict == reboot.Verdict()
        assert on.status == (
            f"waiting: the next hook goes on with {self.DISK}: left alone, as it cannot be claimed"
            " any more: holds a mounted file system: /srv on nvme0n1"
        )
        on.tools.before_rebuild = lambda what: None
        on.hook(self.DEVICES, **config)
        assert on.status == "active: disk: 1 ready, gpu: 1 ready"

    def test_a_disk_that_was_mounted_while_another_driver_let_go_is_not_taken(self, on: World):
        """Without a rebuild: its claim is as old as the last boot, which did not bind it."""
        disks = (self.DISK, "0000:90:00.0")
        on.tree.function(disks[1], "144d:a808", 0x010802, driver="nvme")
        on.tree.iommu_on()
        on.hook("disk=144d:a808")
        for address in disks:
            assert on.tree.driver_of(address) == "vfio-pci"
            on.tree.bind(address, "nvme")
        uses.disk(on.tree, disks[1], "nvme1n1", "259:1", "nvme/nvme1")

        def mount(name: str, text: str) -> None:
            if name.endswith("nvme/unbind") and text == disks[0]:
                uses.mount(on.tree, "259:1", "/srv", "/dev/nvme1n1")

        on.kernel.before_write = mount
        on.tools.calls.clear()
        on.hook("disk=144d:a808")
        assert not [each for each in on.tools.calls if each.startswith("rebuild")]
        assert on.tree.driver_of(disks[0]) == "vfio-pci"
        assert on.tree.driver_of(disks[1]) == "nvme"
        assert "/srv" in on.status

    def test_what_the_host_writes_on_a_disk_by_then_is_never_taken_for_a_guests(self, on: World):
        """Neither by this run nor by the next one, which finds in the record what was taken."""

        def write(what: object) -> None:
            uses.signature(on.tree, "259:0", "LVM2_member")

        on.tools.before_rebuild = write
        on.hook(self.DEVICES)
        refused = (
            f"blocked: devices: item 1 disk=144d:a808@{self.DISK}: {self.DISK} holds a part of"
            " the host's storage: nvme0n1 is part of an LVM volume group"
        )
        assert on.status.startswith(refused)
        on.tools.before_rebuild = lambda what: None
        on.hook(self.DEVICES)
        assert on.status.startswith(refused)
        assert self.DISK not in on.tree.read(INIT_TOP)
        assert self.DISK not in taken(on)
        assert on.tree.driver_of(self.DISK) == "nvme"

    def test_a_survey_that_fails_by_then_binds_nothing(self, on: World):
        """The record of another application is damaged in the meantime."""
        on.tree.write("etc/modules-load.d/pci-passthrough-qat.conf", "vfio-pci\n")
        on.tools.before_rebuild = lambda what: on.tree.write(
            "var/lib/pci-passthrough/qat.json", "{"
        )
        with pytest.raises(record.RecordError, match=r"qat\.json is not readable"):
            on.hook(self.DEVICES)
        assert on.kernel.writes() == []
        (on.root / "var/lib/pci-passthrough/qat.json").unlink()
        on.tools.before_rebuild = lambda what: None
        on.hook(self.DEVICES)
        assert on.status == "active: disk: 1 ready, gpu: 1 ready"

    def test_without_a_rebuild_the_host_is_looked_at_once_before(self, on: World):
        on.hook(GPUS)
        on.tree.bind("0000:83:00.0", "nouveau")
        looked: list[str] = []
        on.kernel.before_write = lambda name, text: looked.append(name)
        surveyed: list[bool] = []
        look = survey.look

        def count(*values):
            surveyed.append(bool(looked))
            return look(*values)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(survey, "look", count)
            on.hook(GPUS)
        assert surveyed.index(True) == 1


class TestFileThatCannotBeWritten:
    def test_is_named_and_takes_its_step_back(self, world: World):
        """The script below init-top cannot be written, so the hook of the same step goes too."""
        directory = world.root / "etc/initramfs-tools/scripts/init-top"
        directory.rmdir()
        directory.write_text("a file in the way")
        with pytest.raises(PassthroughError) as caught:
            world.hook(GPUS)
        assert str(caught.value) == (
            f"/{INIT_TOP} cannot be written: File exists; the files that belong together were put"
            " back, and the next hook tries again"
        )
        assert not (world.root / "etc/initramfs-tools/hooks/pci-passthrough").exists()
        assert world.tools.calls == []
        directory.unlink()
        world.hook(GPUS)
        assert world.status.startswith("blocked: reboot required")

    def test_and_cannot_be_put_back_either_is_said_and_mended_later(
        self, world: World, monkeypatch: pytest.MonkeyPatch
    ):
        """The disk goes read-only between the writing and the rebuild."""
        ensure = files.ensure

        def refuse(path, *values, **named):
            if "initramfs-tools" in str(path):
                raise OSError(errno.EROFS, "Read-only file system", str(path))
            return ensure(path, *values, **named)

        world.tools.before_rebuild = lambda what: monkeypatch.setattr(files, "ensure", refuse)
        world.tools.failing["initramfs"] = "Read-only file system"
        with pytest.raises(PassthroughError, match="Read-only file system"):
            world.hook(GPUS)
        assert f"/{INIT_TOP}: could not be put back: Read-only file system" in world.said
        monkeypatch.undo()
        world.tools.failing.clear()
        world.tools.before_rebuild = lambda what: None
        world.tools.calls.clear()
        world.hook(GPUS)
        assert world.tools.calls == ["rebuild initramfs", "rebuild grub"]


class TestFunctionThatDoesNotMove:
    def test_by_a_failing_probe_gets_its_driver_back_and_stops_no_other(self, on: World):
        on.kernel.fail_probe("0000:83:00.0", "vfio-pci")
        on.hook(GPUS)
        assert {address: str(error) for address, error in on.result.outcome.failed.items()} == {
            "0000:83:00.0": "0000:83:00.0: vfio-pci did not take it; it is on nouveau (it was on"
            " nouveau)"
        }
        assert on.drivers() == {
            "0000:83:00.0": "nouveau",
            **dict.fromkeys(CLAIMED[1:], "vfio-pci"),
            **KEPT,
        }
        assert taken(on) == NATIVE
        assert on.status == (
            "blocked: reboot required: 0000:83:00.0 is on nouveau, not vfio-pci (vfio-pci did not"
            " take it)"
        )

    def test_is_tried_again_by_the_next_hook(self, on: World):
        on.kernel.fail_probe("0000:83:00.0", "vfio-pci")
        on.hook(GPUS)
        on.kernel.fail_probe("0000:83:00.0")
        on.hook(GPUS)
        assert on.status == "active: gpu: 2 ready"
        assert taken(on) == NATIVE

    def test_by_a_driver_that_refuses_to_let_go_stays_where_it_is(self, on: World):
        on.kernel.refuse("drivers/nouveau/unbind")
        on.kernel.refuse("0000:83:00.0/driver/unbind")
        on.hook(GPUS)
        assert on.drivers()["0000:83:00.0"] == "nouveau"
        assert "0000:83:00.0" in on.result.outcome.failed
        assert on.status == (
            "blocked: reboot required: 0000:83:00.0 is on nouveau, not vfio-pci"
            " (/sys/bus/pci/devices/0000:83:00.0/driver/unbind: Device or resource busy)"
        )
        assert on.tree.read("sys/bus/pci/devices/0000:83:00.0/driver_override") == "(null)\n"

    def test_on_its_way_back_stays_in_the_record_until_it_is_there(self, on: World):
        on.hook(GPUS)
        on.kernel.refuse("0000:84:00.0/driver/unbind", errno.EBUSY)
        on.hook("gpu=10de:1bb0@83:00.0")
        assert "0000:84:00.0" in on.result.outcome.failed
        assert taken(on)["0000:84:00.0"] == "nouveau"
        assert on.drivers()["0000:84:00.1"] == "snd_hda_intel"
        on.kernel.relent()
        on.hook("gpu=10de:1bb0@83:00.0")
        assert on.status == "active: gpu: 1 ready"
        assert on.drivers()["0000:84:00.0"] == "nouveau"
        assert set(taken(on)) == {"0000:83:00.0", "0000:83:00.1"}

    def test_because_a_guest_holds_it_is_left_alone_and_said(self, on: World):
        on.hook(GPUS)
        held = on.kernel.hold("0000:84:00.0")
        on.kernel.forget_writes()
        on.hook("gpu=10de:1bb0@83:00.0")
        found = on.status
        assert found.startswith("blocked: ")
        assert "0000:84:00.0" in found
        assert on.drivers()["0000:84:00.0"] == on.drivers()["0000:84:00.1"] == "vfio-pci"
        assert [each for each in on.kernel.writes() if "unbind" in each] == []
        on.kernel.close(held)
        on.hook("gpu=10de:1bb0@83:00.0")
        assert on.status == "active: gpu: 1 ready"
        assert on.drivers()["0000:84:00.0"] == "nouveau"

    @pytest.mark.parametrize(
        ("before", "after"), [("", GPUS), (GPUS, "")], ids=["bind", "give-back"]
    )
    @pytest.mark.parametrize("ends", [False, True], ids=["for-ever", "meanwhile"])
    def test_because_its_driver_sleeps_is_the_last_one_to_be_touched(
        self, on: World, monkeypatch, before: str, after: str, ends: bool
    ):
        """There is one note of what sleeps: a second one would have the first forgotten."""
        on.hook(before)
        on.kernel.forget_writes()
        sleepers: list[int] = []

        def sleep(path, text, seconds, do):
            sleepers.append(5001 + len(sleepers))
            on.tree.write(f"proc/{sleepers[-1]}/stat", f"{sleepers[-1]} (x) D {'0 ' * 18}77 0\n")
            return sleepers[-1]

        def wake(sentence: str) -> None:
            if ends and "left alone" in sentence:
                (on.root / f"proc/{sleepers[0]}/stat").unlink(missing_ok=True)

        monkeypatch.setattr(timed_write, "write", sleep)
        on.listener = wake
        look = partial(on.hook, after)
        if ends:
            look()
            assert list(on.result.outcome.failed) == list(CLAIMED)
            assert on.status == (
                "waiting: the next hook goes on with 0000:83:00.1: left alone, as 0000:83:00.0 does"
                " not come loose (2 more: run the plan action)"
            )
        else:
            with pytest.raises(errors.StuckError, match=r"^0000:83:00\.0: "):
                look()
            with pytest.raises(errors.StuckError, match=r"^0000:83:00\.0: "):
                look()
        assert len(sleepers) == 1
        assert on.tree.read(stuck.PATH) == "0000:83:00.0 5001 77\n"
        assert not [each for each in on.kernel.writes() if "83:00.0" not in each]
        assert taken(on) == NATIVE

    def test_for_want_of_the_module_converges_later(self, on: World):
        on.tools.failing["modprobe"] = "Module vfio-pci not found"
        with pytest.raises(PassthroughError, match="Module vfio-pci not found"):
            on.hook(GPUS)
        assert on.drivers()["0000:83:00.0"] == "nouveau"
        assert taken(on) == NATIVE
        on.tools.failing.clear()
        on.tools.calls.clear()
        on.hook(GPUS)
        assert on.status == "active: gpu: 2 ready"
        assert on.tools.calls == ["load vfio"]


class TestNativeDriver:
    def test_that_was_unloaded_is_loaded_again_by_its_modalias(self, on: World):
        on.hook(GPUS)
        kernel_model.remove_driver(on.root, "snd_hda_intel")
        on.hook("gpu=10de:1bb0@83:00.0")
        modalias = on.tree.read("sys/bus/pci/devices/0000:84:00.1/modalias").strip()
        assert f"load {modalias}" in on.tools.calls
        assert on.drivers()["0000:84:00.1"] == "snd_hda_intel"

    def test_that_the_host_does_not_have_leaves_the_function_free(self, on: World):
        on.tree.function("0000:c1:00.0", "1d0f:efa1", 0x020000)
        on.tree.iommu_on()
        on.hook("x=1d0f:efa1")
        assert on.tree.driver_of("0000:c1:00.0") == "vfio-pci"
        on.hook("")
        assert on.tree.driver_of("0000:c1:00.0") is None
        assert on.result.outcome.failed == {}
        assert taken(on) == {}


def test_a_kernel_with_vfio_built_in_binds_too(make_world):
    world = make_world(ubuntu="22.04")
    world.turn_iommu_on()
    world.hook(GPUS)
    assert world.status == "active: gpu: 2 ready"
    assert world.drivers()["0000:85:00.0"] == "nouveau"
