"""Done means that it is in the image: every kernel's is looked into, and put back if need be."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from harness import cpio, uses
from harness.constants import GPUS, INIT_TOP, KEPT, NATIVE, ONE, READY
from harness.hosttree import programs
from harness.world import World

from passthrough import enums
from passthrough.effects import images
from passthrough.effects.tools import nobody
from passthrough.host import generators
from passthrough.planning import boot_files
from passthrough.site import Site
from passthrough.system import commands, files

OLD = "6.5.0-9-generic"
SETTINGS = "etc/initramfs-tools/update-initramfs.conf"
DISK = "0000:02:00.0"
# All that boots the host. The caretaker, which gives back what vanishes, is there before.
BOOT_FILES = (
    *("boot", "usr/lib/dracut", "etc/default", "etc/dracut.conf.d", "etc/initramfs-tools"),
    *("etc/modprobe.d", "etc/modules-load.d", "etc/udev"),
)
FULL = "update-initramfs: failed for /boot/initrd.img-6.5.0-9-generic with 1."


@pytest.fixture
def on(world: World) -> World:
    """The world of a host with its IOMMU on, so that binding needs no reboot."""
    world.turn_iommu_on()
    return world


@pytest.fixture
def two(on: World) -> World:
    """The same with a second, older kernel."""
    on.tree.add_kernel(OLD)
    return on


def newest(world: World) -> Path:
    return programs.image_of(world.root, world.tree.release.kernel)


def oldest(world: World) -> Path:
    return programs.image_of(world.root, OLD)


def do_nothing(
    what: str, progress: Callable[[str], object], generator: Any = None, reached: Any = nobody
) -> None:
    """A tool that exits with 0."""
    progress(f"{what}: W: /boot is ro mounted")


class Stops:
    """update-initramfs with a disk that is full behind the first kernel's image."""

    def __init__(self, world: World):
        self.world, self.rebuild = world, world.tools.rebuild
        self.is_full = True
        world.tools.rebuild = self

    def __call__(
        self,
        what: str,
        progress: Callable[[str], object],
        generator: Any = None,
        reached: Any = nobody,
    ) -> None:
        if what == "initramfs" and self.is_full:
            self.world.tools.calls.append(f"rebuild {what}")
            release = self.world.tree.release.kernel
            programs.update_image(self.world.root, "update-initramfs", release)
            raise commands.CommandError(
                ("update-initramfs", "-u", "-k", "all"), "failed with exit code 1", (FULL,)
            )
        self.rebuild(what, progress, generator, reached)


def no_room(monkeypatch: pytest.MonkeyPatch, **free: int) -> None:
    """Let file systems have so many bytes free, by the folder's name."""
    real = images._free
    monkeypatch.setattr(images, "_free", lambda folder: free.get(folder.name, real(folder)))


class TestLook:
    def test_every_kernels_image_holds_the_claims(self, two: World):
        two.hook(GPUS)
        script = two.tree.read(INIT_TOP).encode()
        for image in (newest(two), oldest(two)):
            assert script in programs.read_initramfs(image).values()
        two.hook("")
        for image in (newest(two), oldest(two)):
            assert script not in programs.read_initramfs(image).values()

    def test_a_tool_that_does_nothing_has_not_rebuilt(self, on: World):
        on.tools.rebuild = do_nothing
        before = on.tree.snapshot(*BOOT_FILES)
        with pytest.raises(images.RebuildError) as caught:
            on.hook(GPUS)
        assert str(caught.value) == (
            f"/boot/{newest(on).name} lacks /{INIT_TOP}, although the rebuild of initramfs reported"
            " success; run update-initramfs -u -k all, and see what it says"
        )
        assert on.tree.snapshot(*BOOT_FILES) == before
        assert on.record().activated["initramfs"] == ""
        assert on.drivers() == {**NATIVE, **KEPT}

    def test_the_next_hook_rebuilds(self, on: World):
        real, on.tools.rebuild = on.tools.rebuild, do_nothing
        with pytest.raises(images.RebuildError):
            on.hook(GPUS)
        on.tools.rebuild = real
        on.hook(GPUS)
        assert on.status == "active: gpu: 2 ready"

    def test_a_removal_that_left_the_claim_in_an_image_fails(self, on: World):
        on.hook(GPUS)
        on.tools.rebuild = do_nothing
        with pytest.raises(images.RebuildError) as caught:
            on.leave()
        assert caught.value.fact.startswith(
            f"/boot/{newest(on).name} still holds /usr/lib/udev/rules.d/60-pci-passthrough.rules"
            " /scripts/init-top/pci-passthrough, although"
        )
        # What boots is what stands in /etc, and in the record.
        assert (on.root / INIT_TOP).exists()
        assert on.drivers() == READY
        on.kernel.reboot()
        assert on.drivers() == READY

    def test_one_kernel_that_is_left_out_counts(self, two: World):
        def rebuild(
            what: str, progress: object, generator: Any = None, reached: Any = nobody
        ) -> None:
            if what == "initramfs":
                release = two.tree.release.kernel
                programs.update_image(two.root, "update-initramfs", release)

        two.tools.rebuild = rebuild
        with pytest.raises(images.RebuildError, match=f"^/boot/initrd.img-{OLD} lacks /{INIT_TOP}"):
            two.hook(GPUS)
        assert newest(two).read_bytes() == oldest(two).read_bytes() == b""

    def test_an_image_without_a_kernel_boots_nothing(self, on: World):
        """Such as a backup, or what a kernel that was removed has left."""
        on.tree.write("boot/initrd.img-6.2.0-1-generic", "")
        on.tree.write(f"boot/{newest(on).name}.bak", "")
        on.hook(GPUS)
        assert on.status == "active: gpu: 2 ready"

    def test_of_two_applications_each_looks_for_its_own(self, on: World):
        on.hook(ONE)
        other = on.beside("more")
        other.hook("more=10de:1bb0@0000:84:00.0")
        assert other.status == "active: more: 1 ready"
        other.leave()
        assert on.hook().kind == "active"

    def test_of_two_applications_each_is_in_dracuts_image(self, make_world):
        world = make_world(ubuntu="26.04")
        world.turn_iommu_on()
        world.hook(ONE)
        other = world.beside("more")
        other.hook("more=10de:1bb0@0000:84:00.0")
        world.reboot()
        assert world.drivers() == READY

    def test_grub_cfg_that_is_not_written_is_not_rebuilt(self, on: World):
        rebuild = on.tools.rebuild

        def only_images(what: str, progress, generator: Any = None, reached: Any = nobody) -> None:
            if what == "initramfs":
                rebuild(what, progress, generator, reached)

        on.tools.rebuild = only_images
        with pytest.raises(images.RebuildError) as caught:
            on.hook(GPUS)
        assert str(caught.value) == (
            "/boot/grub/grub.cfg is as it was before, although the rebuild of grub reported"
            " success; run update-grub, and see what it says"
        )
        on.tools.rebuild = rebuild
        on.hook(GPUS)
        assert on.status == "active: gpu: 2 ready"

    @pytest.mark.parametrize(
        ("content", "said"),
        [
            (b"070701" + b"zz" * 60, "cannot be used: "),
            (cpio.archive({"init": b"x" * 4000})[:2000], "it ends in the middle of a file"),
            (cpio.image({"init": b"x" * 4000})[:-30], "cannot be used: "),
        ],
        ids=["no-header", "half-an-archive", "half-packed"],
    )
    def test_half_an_image_is_no_image(self, on: World, content: bytes, said: str):
        before = newest(on).read_bytes()

        def rebuild(
            what: str, progress: object, generator: Any = None, reached: Any = nobody
        ) -> None:
            newest(on).write_bytes(content)

        on.tools.rebuild = rebuild
        with pytest.raises(images.RebuildError, match=said):
            on.hook(GPUS)
        assert newest(on).read_bytes() == before


class TestCannotBeTold:
    """An ordinary host is not refused for what the charm cannot look into."""

    @pytest.mark.parametrize(
        ("content", "why"),
        [
            (b"\x00asm in a format of its own", "unknown compression"),
            (cpio.archive({"squash-root.img": b"hsqs"}), "has its files in squash-root.img"),
        ],
        ids=["format", "squashed"],
    )
    def test_an_image_that_was_written_counts_as_made(self, on: World, content: bytes, why: str):
        rebuild = on.tools.rebuild

        def pack(what: str, progress, generator: Any = None, reached: Any = nobody) -> None:
            rebuild(what, progress, generator, reached)
            if what == "initramfs":
                newest(on).write_bytes(content)

        on.tools.rebuild = pack
        on.hook(GPUS)
        assert on.status == "active: gpu: 2 ready"
        (said,) = [each for each in on.said if "cannot be told" in each]
        assert why in said

    def test_a_missing_program_is_no_fault(self, on: World, monkeypatch):
        rebuild = on.tools.rebuild

        def pack(what: str, progress, generator: Any = None, reached: Any = nobody) -> None:
            rebuild(what, progress, generator, reached)
            if what == "initramfs":
                newest(on).write_bytes(b"\x28\xb5\x2f\xfd and so on")

        on.tools.rebuild = pack
        monkeypatch.setenv("PATH", os.fspath(on.root / "nowhere"))
        # The made-up GRUB's shell is found by its path.
        on.hook(GPUS)
        assert on.status == "active: gpu: 2 ready"
        assert any("zstd is not installed" in each for each in on.said)

    def test_but_one_that_nobody_has_written_was_not_made(self, on: World):
        newest(on).write_bytes(b"\x00asm in a format of its own")
        on.tools.rebuild = do_nothing
        with pytest.raises(images.RebuildError, match="is as it was before, although the rebuild"):
            on.hook(GPUS)

    def test_a_host_without_images_is_told_so(self, on: World):
        newest(on).unlink()
        rebuild = on.tools.rebuild
        on.tools.rebuild = lambda what, progress, generator=None, reached=nobody: (
            None if what == "initramfs" else rebuild(what, progress, generator, reached)
        )
        on.hook(GPUS)
        assert on.status == "active: gpu: 2 ready"
        assert "what the images hold cannot be told: there is none on /boot" in on.said


class TestPutBack:
    """A rebuild that failed for one of several kernels."""

    def test_the_images_are_as_they_were(self, two: World):
        before = two.tree.snapshot(*BOOT_FILES)
        Stops(two)
        with pytest.raises(commands.CommandError, match="failed with exit code 1") as caught:
            two.hook(GPUS)
        assert "kept" not in str(caught.value)
        assert two.tree.snapshot(*BOOT_FILES) == before
        assert f"/boot/{newest(two).name}: put back" in two.said

    def test_no_boot_claims_what_nobody_claims(self, two: World):
        """The operator takes the item out, mounts the disk, and boots; no rebuild has come off."""
        Stops(two)
        for devices in (f"d=144d:a808@{DISK}", "", ""):
            with pytest.raises(commands.CommandError):
                two.hook(devices)
        uses.disk(two.tree, DISK, "nvme0n1", "259:0", "nvme/nvme0")
        uses.mount(two.tree, "259:0", "/srv", "/dev/nvme0n1")
        two.reboot()
        assert two.tree.driver_of(DISK) == "nvme"

    def test_once_there_is_room_all_of_them_claim(self, two: World):
        tool = Stops(two)
        with pytest.raises(commands.CommandError):
            two.hook(GPUS)
        tool.is_full = False
        two.hook(GPUS)
        assert two.status == "active: gpu: 2 ready"
        script = two.tree.read(INIT_TOP).encode()
        assert script in programs.read_initramfs(oldest(two)).values()

    def test_an_image_that_the_tool_removed_is_back(self, on: World):
        """Dracut removes an image that it cannot write to its end."""
        newest(on).write_bytes(b"070701 as it was")
        newest(on).chmod(0o600)

        def rebuild(
            what: str, progress: object, generator: Any = None, reached: Any = nobody
        ) -> None:
            newest(on).unlink()
            raise commands.CommandError(("dracut",), "failed with exit code 1")

        on.tools.rebuild = rebuild
        with pytest.raises(commands.CommandError):
            on.hook(GPUS)
        assert newest(on).read_bytes() == b"070701 as it was"
        assert newest(on).stat().st_mode & 0o777 == 0o600

    def test_without_an_error_a_missing_image_is_one(self, on: World):
        on.tools.rebuild = lambda what, progress, generator=None, reached=nobody: newest(
            on
        ).unlink()
        with pytest.raises(
            images.RebuildError, match=r"^/boot/initrd\.img-[^ ]* is gone, although"
        ):
            on.hook(GPUS)
        assert newest(on).exists()

    def test_the_generators_own_state_goes_back_with_it(self, two: World):
        """An update-initramfs that keeps checksums leaves an image alone that differs from its."""
        state = f"var/lib/initramfs-tools/{two.tree.release.kernel}"
        two.tree.write(state, "the old sum\n")
        stop = Stops(two)

        def rebuild(what: str, progress, generator: Any = None, reached: Any = nobody) -> None:
            two.tree.write(state, "the new sum\n")
            stop(what, progress, generator)

        two.tools.rebuild = rebuild
        with pytest.raises(commands.CommandError):
            two.hook(GPUS)
        assert two.tree.read(state) == "the old sum\n"

    def test_copies_stand_elsewhere_where_boot_is_small(self, two: World, monkeypatch):
        for image in (newest(two), oldest(two)):
            image.write_bytes(cpio.archive({"init": b"x" * 5000}))
        before = two.tree.snapshot(*BOOT_FILES)
        no_room(monkeypatch, boot=7000)
        seen: list[str] = []
        stop = Stops(two)

        def rebuild(what: str, progress, generator: Any = None, reached: Any = nobody) -> None:
            seen.extend(each.parent.name for each in two.root.rglob("*.kept"))
            stop(what, progress, generator)

        two.tools.rebuild = rebuild
        with pytest.raises(commands.CommandError):
            two.hook(GPUS)
        assert seen == ["pci-passthrough"] * 2
        assert two.tree.snapshot(*BOOT_FILES) == before
        assert not (two.root / "var/cache/pci-passthrough").exists()

    def test_without_room_for_copies_it_is_said_what_boots_with_what(self, two: World, monkeypatch):
        for image in (newest(two), oldest(two)):
            image.write_bytes(cpio.archive({"init": b"x" * 5000}))
        no_room(monkeypatch, **{"boot": 7000, "pci-passthrough": 0})
        Stops(two)
        with pytest.raises(images.RebuildError) as caught:
            two.hook(GPUS)
        assert str(caught.value) == (
            f"update-initramfs -u -k all failed with exit code 1: {FULL}; the former images could"
            f" not be put back: /boot/{newest(two).name} boots with the new files,"
            f" /boot/initrd.img-{OLD} with the former ones; make room on /boot, and do not reboot"
            " before the next hook has rebuilt them"
        )

    def test_a_copy_that_cannot_be_made_is_none(self, two: World, monkeypatch):
        def fail(*asked: object) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr(images.shutil, "copyfileobj", fail)
        Stops(two)
        with pytest.raises(images.RebuildError, match="could not be put back"):
            two.hook(GPUS)
        assert list(two.root.rglob("*.kept")) == []

    def test_an_image_that_cannot_be_put_back_is_told_of(self, two: World, monkeypatch):
        real = files.move_into_place

        def fail(new: Path, path: Path) -> None:
            if path.name.startswith("initrd"):
                raise OSError(errno.EIO, "Input/output error")
            real(new, path)

        monkeypatch.setattr(files, "move_into_place", fail)
        Stops(two)
        with pytest.raises(images.RebuildError, match="could not be put back"):
            two.hook(GPUS)
        said = f"/boot/{newest(two).name}: could not be put back: Input/output error"
        assert said in two.said

    def test_where_no_folder_can_be_looked_at_there_is_no_copy(self, tmp_path: Path):
        (tmp_path / "var").write_text("")
        (tmp_path / "boot").mkdir()
        assert images._find_room(tmp_path, [1 << 60]) is None

    def test_copies_that_a_kill_left_are_removed(self, ready: World):
        ready.tree.write("boot/.initrd.img-1.pci-passthrough.kept", "half")
        ready.tree.write("var/cache/pci-passthrough/.initrd.img-1.pci-passthrough.kept", "half")
        ready.hook()
        assert list(ready.root.rglob("*.kept")) == []
        assert not (ready.root / "var/cache/pci-passthrough").exists()


class TestObstacles:
    """What is known to keep a rebuild from its work is said before anything is changed."""

    def refuse(self, world: World, devices: str | None = GPUS) -> str:
        before = world.tree.snapshot(*BOOT_FILES)
        with pytest.raises(images.RebuildError) as caught:
            world.hook(devices) if devices is not None else world.leave()
        assert "rebuild initramfs" not in world.tools.calls
        assert world.tree.snapshot(*BOOT_FILES) == before
        return str(caught.value)

    @pytest.mark.parametrize(
        "text",
        [
            "update_initramfs=no\n",
            '# as it came\nupdate_initramfs=yes\n  update_initramfs="no" # by hand\n',
            "export update_initramfs='no'\nbackup_initramfs=no\n",
        ],
    )
    def test_update_initramfs_no(self, on: World, text: str):
        on.tree.write(SETTINGS, text)
        assert self.refuse(on) == (
            f"/{SETTINGS} says update_initramfs=no, so no image is made anew; set"
            " update_initramfs=yes there"
        )

    @pytest.mark.parametrize(
        "text",
        [
            "update_initramfs=yes\n",
            "update_initramfs=all\n",
            "update_initramfs=no\nupdate_initramfs=yes\n",
            "#update_initramfs=no\n",
            "backup_initramfs=no\n",
            "",
        ],
    )
    def test_what_says_otherwise_is_fine(self, on: World, text: str):
        on.tree.write(SETTINGS, text)
        on.hook(GPUS)
        assert on.status == "active: gpu: 2 ready"

    def test_of_a_removal(self, on: World):
        on.hook(GPUS)
        on.forget()
        on.tree.write(SETTINGS, "update_initramfs=no\n")
        assert "update_initramfs=no" in self.refuse(on, None)
        on.tree.write(SETTINGS, "update_initramfs=yes\n")
        on.leave()
        assert on.drivers() == {**NATIVE, **KEPT}

    def test_what_is_settled_is_not_refused(self, ready: World):
        ready.tree.write(SETTINGS, "update_initramfs=no\n")
        assert ready.hook().kind == "active"

    def test_settings_that_a_package_left_behind_are_nobodys(self, make_world):
        world = make_world(ubuntu="26.04")
        world.tree.write(SETTINGS, "update_initramfs=no\n")
        world.hook(GPUS)
        assert world.tools.calls[0] == "rebuild initramfs"

    def test_settings_that_dracuts_command_reads_count(self, make_world):
        world = make_world(ubuntu="26.04")
        world.tree.write("etc/dracut-update/update-initramfs.conf", "update_initramfs=no\n")
        path = world.root / "usr/sbin/update-initramfs"
        path.write_text(f"CONF=/etc/dracut-update/update-initramfs.conf\n{path.read_text()}")
        assert self.refuse(world).startswith("/etc/dracut-update/update-initramfs.conf says")

    def test_without_the_command_its_settings_are_nobodys(self, make_world):
        world = make_world(ubuntu="26.04")
        (world.root / "usr/sbin/update-initramfs").unlink()
        served = generators.GENERATORS
        world.tree.write(SETTINGS, "update_initramfs=no\n")
        assert generators.is_told_not_to(world.root, (generators.DRACUT,)) == ""
        assert generators.rebuild_command(world.root, served)[0] == "dracut"

    @pytest.mark.parametrize(
        ("mounts", "is_refused"),
        [
            ("/dev/sda2 /boot ext4 ro,relatime 0 0\n", True),
            ("/dev/sda2 /boot ext4 rw 0 0\n/dev/sda2 /boot ext4 nosuid,ro 0 0\n", True),
            ("/dev/sda2 /boot ext4 ro 0 0\n/dev/sda2 /boot ext4 rw 0 0\n", False),
            ("/dev/sda2 /boot ext4 rw,errors=remount-ro 0 0\n", False),
            ("/dev/sda1 /boot/efi vfat ro 0 0\n", False),
            ("overlay / overlay ro 0 0\nbroken\n", False),
        ],
    )
    def test_boot_read_only(self, on: World, mounts: str, is_refused: bool):
        on.tree.write("proc/mounts", mounts)
        if is_refused:
            assert self.refuse(on) == (
                "/boot is mounted read-only, so nothing can be rebuilt; mount it for writing: mount"
                " -o remount,rw /boot"
            )
        else:
            on.hook(GPUS)
            assert on.tools.calls[:2] == ["rebuild initramfs", "rebuild grub"]

    def test_no_room_for_an_image(self, on: World, monkeypatch):
        newest(on).write_bytes(bytes(3 << 20))
        no_room(monkeypatch, boot=2 << 20)
        assert self.refuse(on) == (
            "/boot has 2 MiB free, and an image takes 3 MiB; make room there, as by apt autoremove"
            " --purge of old kernels"
        )

    def test_grub_cfg_needs_no_room_and_no_update_initramfs(self, on: World, monkeypatch):
        on.tree.write(SETTINGS, "update_initramfs=no\n")
        no_room(monkeypatch, boot=0)
        assert images.find_obstacle(on.root, [enums.Rebuild.GRUB], None) is None
        assert images.find_obstacle(on.root, [], None) is None


def test_real_room_is_that_of_the_file_system(tmp_path: Path):
    found = os.statvfs(tmp_path)
    assert images._free(tmp_path) <= found.f_blocks * found.f_frsize


def test_every_file_in_an_image_bears_the_applications_mark(on: World):
    on.hook(GPUS, allow_unsafe_interrupts=True)
    site = Site(on.root, on.application)
    ours = images._read_ours(site)
    assert len([path for path, (_, needed) in ours.items() if needed]) == 2
    mark = boot_files.mark(on.application)
    assert [path for path, (content, _) in ours.items() if mark not in content[:512]] == []
