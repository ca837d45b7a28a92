"""The checks of kernel, boot images and guests: what each sees, when it fails, and the way out."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from harness import cpio, missing, uses
from harness.constants import APPLICATION, GPUS, INIT_TOP
from harness.hosttree import kernel as model
from harness.world import World

from passthrough import reboot, survey
from passthrough.host import initramfs, watch
from passthrough.reporting.verify import checklist, result
from passthrough.reporting.verify import host as host_checks
from passthrough.site import Site
from passthrough.state import record

VFIO_MODULE = "usr/lib/modules/6.8.0-51-generic/kernel/drivers/vfio/pci/vfio-pci.ko.zst"


def need_zstd() -> None:
    if not shutil.which("zstd"):
        missing.skip("zstd is not installed")


@pytest.fixture
def host(world: World) -> World:
    """The world of a host that is ready, with an image in the place of the made-up one."""
    world.tree.write("proc/sys/kernel/osrelease", f"{world.tree.release.kernel}\n")
    world.make_ready()
    build_image(world)
    return world


def image_of(world: World) -> Path:
    return world.root / f"boot/initrd.img-{world.tree.release.kernel}"


def build_image(world: World, *left_out: str, **more: bytes) -> None:
    """Write an image in the place of the made-up one."""
    files = {
        "scripts/init-top/pci-passthrough": world.tree.read(INIT_TOP).encode(),
        VFIO_MODULE: b"module",
        **more,
    }
    kept = {name: files[name] for name in files if name not in left_out}
    image_of(world).write_bytes(cpio.image(kept))


@pytest.fixture
def image_check(host: World) -> str:
    return f"initramfs-content /boot/{image_of(host).name}"


class TestCaretaker:
    """Whether somebody would give back what a unit that vanished has left."""

    PROGRAM = watch.program_path(APPLICATION)
    TIMER = watch.timer_path(APPLICATION)

    def test_it_is_enabled_and_of_this_revision(self, host: World):
        assert host.shown("caretaker") == (
            "ok: its timer is enabled, and its program is this revision's"
        )

    @pytest.mark.parametrize("path", watch.owned_files(APPLICATION))
    def test_a_file_is_missing(self, host: World, path: str):
        (host.root / path).unlink()
        assert host.shown("caretaker") == f"fail: lacks /{path} -> run the action reconcile"

    @pytest.mark.parametrize("path", watch.owned_files(APPLICATION))
    def test_a_file_is_another_revisions(self, host: World, path: str):
        with (host.root / path).open("a") as file:
            file.write("#\n")
        assert host.shown("caretaker") == (
            f"fail: is not this revision's: /{path} -> run the action reconcile"
        )
        host.hook()
        assert host.checks()["caretaker"].status == result.OK, "the way out is one"

    def test_its_timer_has_not_started(self, host: World):
        (host.root / self.TIMER).unlink()
        host.tools.failing["systemctl"] = "bus is gone"
        host.hook()
        assert host.shown("caretaker") == (
            "fail: its timer has not started -> run the action reconcile; if it stays so, see"
            " systemctl status pci-passthrough-caretaker.timer"
        )
        host.tools.failing.clear()
        host.hook()
        assert host.checks()["caretaker"].status == result.OK

    def test_it_is_turned_off(self, host: World):
        (host.root / self.PROGRAM).unlink()
        (host.root / watch.SWITCH).touch()
        assert host.shown("caretaker") == "ok: turned off: /etc/pci-passthrough.keep is there"
        with host.ledger() as ledger:
            ledger.update(keep=True)
        assert host.shown("caretaker") == "ok: does nothing: on-removal is keep"

    def test_nothing_is_looked_after(self, world: World):
        assert "caretaker" not in world.checks(devices=GPUS), "the first hook brings it"


def test_a_host_that_is_ready_is_green(host: World, image_check: str):
    checks = host.checks()
    assert {name: each.status for name, each in checks.items() if each.status != result.OK} == {}
    assert {
        "devices",
        "iommu",
        "boot-files",
        "initramfs",
        "grub",
        "command-line",
        "driver 0000:83:00.0",
        "driver 0000:83:00.1",
        "interrupt-remapping",
        "vfio-modules",
        "noiommu",
        "lockdown",
        image_check,
        "grub.cfg",
    } <= set(checks)
    assert any(name.startswith("group ") for name in checks)


def test_a_host_that_waits_for_its_reboot_says_so(world: World):
    world.hook(GPUS)
    found = world.checks()
    assert found["iommu"].status == result.FAIL
    assert found["command-line"].status == result.FAIL
    assert "interrupt-remapping" not in found


class TestInterrupts:
    @pytest.mark.parametrize(
        ("table", "unsafe", "shown"),
        [
            ("  8: 0 IR-IO-APIC 8-edge rtc0\n 24: 0 IR-PCI-MSI 1 nvme\n", False, "ok: on"),
            (
                "  8: 0 IO-APIC 8-edge rtc0\n",
                False,
                "fail: off, so vfio refuses every guest -> turn interrupt remapping (and x2APIC)"
                " on in the firmware's settings; where it has none, and for trusted guests alone,"
                " set allow-unsafe-interrupts=true",
            ),
            (
                "  8: 0 IO-APIC 8-edge rtc0\n",
                True,
                "ok: off, and allow_unsafe_interrupts is set: a guest can attack the host with it",
            ),
            ("  9: 0 GICv3 25 arch_timer\n", False, "ok: the kernel shows none to remap (not an"),
        ],
        ids=["on", "off", "off-and-allowed", "arm"],
    )
    def test_are_remapped(self, host: World, table: str, unsafe: bool, shown: str):
        host.tree.write("proc/interrupts", table)
        host.tree.write(
            "sys/module/vfio_iommu_type1/parameters/allow_unsafe_interrupts",
            "Y\n" if unsafe else "N\n",
        )
        assert host.shown("interrupt-remapping").startswith(shown)


class TestKernel:
    def test_without_vfio_pci(self, host: World):
        model.remove_driver(host.root, "vfio-pci")
        assert host.shown("vfio-modules") == (
            "fail: vfio-pci is not loaded -> run modprobe vfio-pci and see dmesg"
        )
        host.tree.write("sys/kernel/security/lockdown", "none [integrity] confidentiality\n")
        assert host.shown("vfio-modules").endswith("lockdown is integrity: modules must be signed")

    def test_with_vfio_pci_built_in(self, make_world):
        host = make_world(ubuntu="22.04")
        host.tree.write("proc/sys/kernel/osrelease", f"{host.tree.release.kernel}\n")
        host.hook(GPUS)
        build_image(host, VFIO_MODULE)
        assert host.shown("vfio-modules") == "ok: vfio-pci is built into the kernel"
        assert host.shown(f"initramfs-content /boot/{image_of(host).name}").startswith("ok: ")

    @pytest.mark.parametrize(
        ("text", "shown"),
        [
            (None, "ok: the kernel has none"),
            ("[none] integrity confidentiality\n", "ok: none"),
            ("none [integrity] confidentiality\n", "ok: integrity: only signed modules load"),
        ],
    )
    def test_lockdown(self, host: World, text: str | None, shown: str):
        if text:
            host.tree.write("sys/kernel/security/lockdown", text)
        assert host.shown("lockdown") == shown

    def test_noiommu_is_a_failure(self, host: World):
        assert host.shown("noiommu") == "ok: off"
        host.tree.write("sys/module/vfio/parameters/enable_unsafe_noiommu_mode", "Y\n")
        assert host.shown("noiommu").startswith("fail: vfio's enable_unsafe_noiommu_mode is on")


class TestImage:
    @pytest.mark.parametrize("compression", list(cpio.COMPRESSIONS))
    def test_is_read_whatever_packed_it(self, tmp_path: Path, compression: str):
        if compression == "zstd":
            need_zstd()
        files = {"scripts/init-top/x": b"#!/bin/sh\n", VFIO_MODULE: os.urandom(300_001)}
        path = tmp_path / "initrd.img"
        path.write_bytes(cpio.image(files, compression))
        assert initramfs.read(path, [b"#!/bin/sh\n", b"something else"]) == initramfs.Contents(
            frozenset({initramfs.digest(b"#!/bin/sh\n")}), True
        )
        assert initramfs.read(path, []) == initramfs.Contents(frozenset(), True)

    def test_without_our_script(self, host: World, image_check: str):
        build_image(host, "scripts/init-top/pci-passthrough")
        assert host.shown(image_check) == (
            f"fail: lacks /{INIT_TOP} as they are now -> run update-initramfs -u -k all, and see"
            " what it says"
        )

    def test_with_an_older_script(self, host: World, image_check: str):
        build_image(host, **{"scripts/init-top/pci-passthrough": b"#!/bin/sh\n# older\n"})
        assert host.checks()[image_check].status == result.FAIL

    def test_without_the_module_of_a_variant(self, host: World, image_check: str):
        host.tree.variant("acme-vfio-pci", "v000010DEd00001BB0sv*sd*bc*sc*i*")
        host.hook()
        build_image(host)
        assert host.shown(image_check) == (
            "fail: holds no module acme_vfio_pci, so this kernel boots with vfio-pci -> see modinfo"
            " -k 6.8.0-51-generic acme_vfio_pci, then run update-initramfs -u -k all"
        )
        build_image(host, **{VFIO_MODULE.replace("vfio-pci", "acme-vfio-pci"): b"module"})
        assert host.shown(image_check) == "ok: holds our files and vfio-pci and acme_vfio_pci"

    def test_without_the_module(self, host: World, image_check: str):
        build_image(host, VFIO_MODULE)
        assert host.shown(image_check).startswith("fail: holds our files and no vfio-pci module")

    @pytest.mark.parametrize(
        ("content", "problem"),
        [
            (b"not an image", "is not an initramfs: unknown compression"),
            (
                cpio.image({"a": bytes(range(256)) * 40}, "none")[:-2000],
                "is not an initramfs: it ends",
            ),
            (b"070701" + b"zz" * 60, "is not an initramfs: "),
            (cpio.archive({"x" * 5000: b""}), "is not an initramfs: a name of 5001 bytes"),
        ],
        ids=["text", "cut", "no-numbers", "long-name"],
    )
    def test_that_cannot_be_read_is_unknown(
        self, host: World, image_check: str, content: bytes, problem: str
    ):
        image_of(host).write_bytes(content)
        assert host.shown(image_check).startswith(f"unknown: /boot/{image_of(host).name} {problem}")

    def test_whose_program_is_missing_is_unknown(self, host: World, image_check: str, monkeypatch):
        image_of(host).write_bytes(b"\x28\xb5\x2f\xfd" + b"x" * 100)
        monkeypatch.setenv("PATH", "/nonexistent")
        assert host.shown(image_check) == (
            f"unknown: /boot/{image_of(host).name}: zstd is not installed"
        )

    def test_that_its_program_refuses_is_unknown(self, host: World, image_check: str):
        need_zstd()
        image_of(host).write_bytes(b"\x28\xb5\x2f\xfd" + b"x" * 100)
        assert host.shown(image_check).startswith(f"unknown: /boot/{image_of(host).name}: zstd: ")

    def test_its_way_out_is_the_generators_own_command(self, make_world):
        """Debian's dracut ships no update-initramfs."""
        world = make_world(ubuntu="26.04")
        world.tree.write("proc/sys/kernel/osrelease", f"{world.tree.release.kernel}\n")
        world.make_ready()
        (world.root / "usr/sbin/update-initramfs").unlink()
        image_of(world).write_bytes(cpio.image({}))
        shown = world.shown(f"initramfs-content /boot/{image_of(world).name}")
        assert shown.endswith("-> run dracut --force --regenerate-all, and see what it says")

    def test_that_grub_boots_is_read_beside_the_running_ones(self, host: World):
        old = image_of(host).with_name("initrd.img-6.5.0-old")
        shutil.copy(image_of(host), old)
        grub_cfg = host.tree.read("boot/grub/grub.cfg")
        host.tree.write("boot/grub/grub.cfg", grub_cfg.replace(image_of(host).name, old.name))
        found = [name for name in host.checks() if name.startswith("initramfs-content ")]
        assert found == [
            f"initramfs-content /boot/{old.name}",
            f"initramfs-content /boot/{image_of(host).name}",
        ]

    def test_is_not_found(self, host: World):
        image_of(host).unlink()
        assert host.shown("initramfs-content") == "unknown: no image was found below /boot"


class TestCache:
    @pytest.fixture
    def reads(self, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
        found: list[Path] = []
        real = initramfs.read

        def count(image: Path, wanted: object) -> initramfs.Contents:
            found.append(image)
            return real(image, wanted)  # type: ignore[arg-type]

        monkeypatch.setattr(initramfs, "read", count)
        return found

    def test_an_image_is_unpacked_once(self, host: World, reads: list[Path]):
        first = host.checks()
        assert len(reads) == 1
        assert host.checks() == first
        assert len(reads) == 1

    def test_a_new_image_or_another_question_is_looked_at(self, host: World, reads: list[Path]):
        host.checks()
        build_image(host, "scripts/init-top/pci-passthrough")
        assert result.has_failed(tuple(host.checks().values()))
        assert len(reads) == 2
        host.tree.write(INIT_TOP, "#!/bin/sh\n", mode=0o755)
        host.checks()
        assert len(reads) == 3

    def test_is_for_root_alone_and_stays_small(self, host: World):
        for number in range(20):
            initramfs.look_up(host.root, image_of(host), [b"%d" % number])
        path = host.root / initramfs.CACHE
        assert path.stat().st_mode & 0o777 == 0o600
        assert path.stat().st_size < 5000

    @pytest.mark.parametrize(
        "kept", ["{broken", "[]", "null", '{"boot/initrd.img": {}}', '{"format": 3, "answers": 1}']
    )
    def test_that_is_damaged_or_of_another_revision_is_written_anew(
        self, host: World, reads: list[Path], kept: str
    ):
        host.tree.write(initramfs.CACHE, kept)
        host.checks()
        host.checks()
        assert len(reads) == 1

    def test_a_hook_never_reads_an_image(self, host: World, reads: list[Path]):
        host.hook()
        assert reads == []


class TestGrub:
    def test_that_lacks_our_options_names_why(self, host: World):
        host.tree.write("etc/default/grub.d/99-z.cfg", "GRUB_CMDLINE_LINUX_DEFAULT=quiet\n")
        host.tools.rebuild("grub", lambda said: None)
        found = host.checks()["grub.cfg"]
        assert found.status == result.FAIL
        assert found.seen == "/boot/grub/grub.cfg boots 'Ubuntu' without intel_iommu=on"
        assert found.fix.startswith("/etc/default/grub.d/99-z.cfg sets GRUB_CMDLINE_LINUX_DEFAULT")

    def test_whose_title_has_a_colon_is_named_whole(self, host: World):
        text = host.tree.read("boot/grub/grub.cfg").replace("'Ubuntu'", "'Ubuntu: main; 2nd'")
        host.tree.write("boot/grub/grub.cfg", text.replace(" intel_iommu=on", ""))
        found = host.checks()["grub.cfg"]
        assert found.seen == (
            "/boot/grub/grub.cfg boots 'Ubuntu: main; 2nd' without intel_iommu=on"
        )
        assert found.fix == (
            "run update-grub, and see which entry GRUB_DEFAULT names in /etc/default/grub"
        )

    def test_whose_later_option_wins_says_how_to_mend_it(self, host: World):
        """Both stand on the line; the fault and the way out stand in two fields, not in one."""
        text = host.tree.read("boot/grub/grub.cfg")
        host.tree.write(
            "boot/grub/grub.cfg", text.replace("intel_iommu=on", "intel_iommu=on intel_iommu=off")
        )
        assert host.checks()["grub.cfg"] == result.Check(
            "grub.cfg",
            result.FAIL,
            "/boot/grub/grub.cfg boots 'Ubuntu' with intel_iommu=off after intel_iommu=on, and the"
            " last one counts",
            "take intel_iommu=off out of /etc/default/grub, then run update-grub",
        )

    def test_that_is_not_rebuilt_yet(self, host: World):
        host.tree.write("etc/default/grub.d/95-pci-passthrough.cfg", "# edited\n")
        assert host.shown("grub.cfg").startswith("fail: not rebuilt since its files changed")


class TestGuests:
    def test_that_hold_a_device_are_named(self, host: World):
        host.kernel.hold("0000:83:00.0", process=4711)
        host.tree.write("proc/4711/cmdline", "qemu\0-name\0guest=instance-1,x=y\0")
        assert host.shown("in-use 0000:83:00.0") == "ok: held by instance-1 (4711)"
        assert host.shown("in-use 0000:83:00.1") == "ok: held by instance-1 (4711)"
        assert "in-use 0000:84:00.0" not in host.checks()

    def test_that_hold_what_is_not_claimed_any_more(self, host: World):
        host.kernel.hold("0000:84:00.0", process=4711)
        host.config["devices"] = "gpu=10de:1bb0@83:00.0"
        assert host.shown("in-use 0000:84:00.0") == (
            "fail: not claimed any more, and held by process 4711 -> stop or migrate the guest;"
            " the next hook then gives the device back"
        )


class TestAllowInUse:
    DEVICES = "- {id: 10de:1bb0, address: '83:00.0', allow-in-use: true}"

    def test_is_shown_with_what_it_sets_aside(self, world: World):
        world.config["devices"] = self.DEVICES
        uses.disk(world.tree, "0000:83:00.1", "sdz", "8:240")
        uses.swap(world.tree, "/dev/sdz")
        assert world.shown("allow-in-use 0000:83:00.1") == "ok: it holds swap space: sdz"
        assert world.shown("allow-in-use 0000:83:00.0") == "ok: no guard has anything against it"

    def test_names_a_mount_point_whole(self, world: World):
        world.config["devices"] = self.DEVICES
        uses.disk(world.tree, "0000:83:00.1", "sdz", "8:240")
        uses.mount(world.tree, "8:240", "/srv/a;\\040b", "/dev/sdz")
        assert world.shown("allow-in-use 0000:83:00.1") == (
            'ok: it holds a mounted file system: "/srv/a; b" on sdz'
        )


def test_a_variant_that_a_pinned_function_is_not_on_is_told(world: World):
    world.tree.variant("acme_vfio_pci", "v000010DEd00001BB0sv*sd*bc*sc*i*")
    world.tree.write("proc/sys/kernel/osrelease", f"{world.tree.release.kernel}\n")
    world.turn_iommu_on()
    world.hook("- {id: 10de:1bb0, address: '83:00.0', driver: vfio-pci}")
    assert world.shown("vfio-driver 0000:83:00.0") == (
        "ok: 0000:83:00.0 is on vfio-pci, and not on acme_vfio_pci (its item says so)"
    )


def test_a_boot_with_the_switch_is_a_failure(host: World):
    assert "switch" not in host.checks()
    host.tree.set_command_line("quiet intel_iommu=on pci-passthrough=off")
    assert host.shown("switch") == (
        "fail: the kernel was started with pci-passthrough=off, so nothing is claimed in this boot"
        " -> reboot without pci-passthrough=off"
    )


def test_a_kernel_option_that_left_the_list_is_named(host: World):
    assert "kernel-options" not in host.checks()
    path = "etc/default/grub.d/95-pci-passthrough.cfg"
    host.tree.write(path, host.tree.read(path).replace('=on"', '=on net.ifnames=0"'))
    host.config["kernel_options"] = "net.ifnames=0"
    assert host.shown("kernel-options") == (
        "ok: kernel-options: net.ifnames=0 is taken no more, and stays while it is set: move it"
        " into a file of your own in /etc/default/grub.d"
    )


def test_a_reboot_that_did_not_help_is_a_failure(host: World):
    host.config["reboot"] = "when-idle"
    host.hook()
    asked = record.Reboot(reboot.key(host.decide()), "an earlier boot")
    with record.open(host.site) as ledger:
        ledger.update(reboot=asked)
    assert "reboot" not in host.checks()
    host.tree.bind("0000:83:00.0", "nouveau")
    assert host.shown("reboot").startswith("fail: the reboot did not help: ")


def test_checks_have_names_of_their_own(host: World):
    names = [each.name for each in checklist.verify(host.decide())]
    assert len(set(names)) == len(names)
    assert len(host_checks.CHECKS) == len(set(host_checks.CHECKS))


def test_another_tree_is_only_read_and_written_inside(host: World, tmp_path: Path):
    """What --root promises: the answers come from that tree, and the cache stays in it."""
    copy = tmp_path / "copy"
    subprocess.run(["cp", "-a", host.root, copy], check=True)
    before = host.tree.snapshot("etc", "boot", "run", "var")
    model.remove_driver(copy, "vfio-pci")
    decision = survey.decide(host.wanted, survey.look(Site(copy, host.application)))
    found: Callable[[str], bool] = {
        each.name: each.status == result.FAIL for each in checklist.verify(decision)
    }.__getitem__
    assert found("vfio-modules")
    assert (copy / initramfs.CACHE).exists()
    assert host.tree.snapshot("etc", "boot", "run", "var") == before


def test_a_variant_that_has_not_taken_a_function_is_told(host: World):
    host.tree.variant("acme-vfio-pci", "v000010DEd00001BB0sv*sd*bc*sc*i*")
    found = host.checks()
    assert found["vfio-driver 0000:83:00.0"] == result.Check(
        "vfio-driver 0000:83:00.0",
        result.OK,
        "0000:83:00.0 is on vfio-pci, and not on acme_vfio_pci (rebind tries that)",
    )
    assert "vfio-driver 0000:83:00.1" not in found
