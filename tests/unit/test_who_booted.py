"""What decides how the host starts: its boot loader, its command line, and whose options win."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from harness import hosttree
from harness.constants import GPUS, GRUB, READY
from harness.world import World

from passthrough.host import machine
from passthrough.planning import prerequisites
from passthrough.reporting.verify import checklist

LOADER_INFO = "sys/firmware/efi/efivars/LoaderInfo-4a67b082-0a4c-41cf-b6c7-440b29bb8c4f"
APPEND = 'GRUB_CMDLINE_LINUX_DEFAULT="${{GRUB_CMDLINE_LINUX_DEFAULT}} {}"\n'
MakeWorld = Callable[..., World]


def start_with(world: World, options: str) -> World:
    """Let GRUB's settings hold these options, and the running kernel be started with them."""
    world.tree.write(
        "etc/default/grub", f'# of the package\nGRUB_CMDLINE_LINUX_DEFAULT="quiet {options}"\n'
    )
    world.tools.rebuild("grub", lambda said: None)
    world.reboot()
    return world


def refusal(world: World, **config: object) -> str:
    """Why the first hook refuses the host, which it leaves as it was."""
    before = world.tree.snapshot("etc", "var", "boot")
    world.forget()
    with pytest.raises(prerequisites.UnsupportedHostError) as caught:
        world.hook(GPUS, **config)
    assert world.tree.snapshot("etc", "var", "boot") == before
    assert world.tools.calls == []
    assert world.kernel.writes() == []
    return str(caught.value)


class TestAnIommuThatIsLeftOff:
    @pytest.mark.parametrize(
        ("table", "options", "token"),
        [
            ("DMAR", "iommu=off", "iommu=off"),
            ("DMAR", "iommu=off intel_iommu=on", "iommu=off"),
            ("DMAR", "intel_iommu=on iommu=off", "iommu=off"),
            ("DMAR", "intel_iommu=on iommu=pt,off", "iommu=pt,off"),
            ("IVRS", "amd_iommu=off", "amd_iommu=off"),
            ("IVRS", "amd_iommu=off amd_iommu=on", "amd_iommu=off"),
            ("IVRS", "iommu=off iommu=pt", "iommu=off"),
        ],
    )
    def test_is_refused_with_the_option_and_its_file(
        self, make_world: MakeWorld, table: str, options: str, token: str
    ):
        world = start_with(make_world(iommu_table=table), options)
        assert refusal(world) == (
            f"the running kernel has no active IOMMU: it was started with {token}; take {token}"
            " out of /etc/default/grub, then run update-grub and reboot. Nothing was changed"
        )

    def test_by_a_drop_in_names_the_drop_in(self, world: World):
        world.tree.write("etc/default/grub.d/99-x.cfg", APPEND.format("iommu=off"))
        start_with(world, "intel_iommu=on")
        assert "take iommu=off out of /etc/default/grub.d/99-x.cfg, then" in refusal(world)

    def test_by_a_word_of_another_variable_names_the_file(self, world: World):
        world.tree.write(
            "etc/default/grub.d/50-x.cfg", 'MINE="iommu=off"\n' + APPEND.format("$MINE")
        )
        start_with(world, "intel_iommu=on")
        assert "take iommu=off out of /etc/default/grub.d/50-x.cfg, then" in refusal(world)

    def test_that_the_next_boot_brings_is_told_before_anything_is_written(self, world: World):
        world.tree.write("etc/default/grub.d/50-x.cfg", APPEND.format("iommu=off"))
        assert refusal(world) == (
            "the next boot would leave the IOMMU off: GRUB's settings hold iommu=off; take"
            " iommu=off out of /etc/default/grub.d/50-x.cfg, then run update-grub. Nothing was"
            " changed"
        )

    def test_that_somebody_has_mended_asks_for_the_reboot(self, world: World):
        start_with(world, "iommu=off")
        world.tree.write("etc/default/grub", 'GRUB_CMDLINE_LINUX_DEFAULT="quiet"\n')
        world.tools.rebuild("grub", lambda said: None)
        said = refusal(world)
        assert "started with iommu=off; reboot, as GRUB does not start it with iommu=off" in said
        world.reboot()
        world.hook(GPUS)
        world.reboot()
        assert world.hook().message == "gpu: 2 ready"

    def test_while_the_devices_are_in_use_is_told_and_takes_nothing_away(self, ready: World):
        ready.tree.write("etc/default/grub.d/99-x.cfg", APPEND.format("iommu=off"))
        ready.tools.rebuild("grub", lambda said: None)
        said = ready.hook()
        assert said.kind == "blocked"
        assert said.message == (
            "/boot/grub/grub.cfg boots 'Ubuntu' with iommu=off, and nothing turns the IOMMU on"
            " again; take iommu=off out of /etc/default/grub.d/99-x.cfg, then run update-grub"
        )
        assert ready.drivers() == READY

    @pytest.mark.parametrize("options", ["intel_iommu=off", "intel_iommu=off,sm_off", "quiet"])
    def test_by_intels_own_option_takes_one_reboot(self, make_world: MakeWorld, options: str):
        world = start_with(make_world(ubuntu="22.04"), options)
        world.hook(GPUS)
        assert world.status == (
            "blocked: reboot required: the IOMMU is off until the kernel starts with intel_iommu=on"
        )
        world.reboot()
        assert world.hook().message == "gpu: 2 ready"

    def test_by_an_option_of_another_vendor_is_none(self, world: World):
        start_with(world, "amd_iommu=off")
        world.hook(GPUS)
        world.reboot()
        assert world.hook().message == "gpu: 2 ready"

    def test_with_its_tables_hidden_names_the_option(self, make_world: MakeWorld):
        world = start_with(make_world(iommu_table=None), "acpi=off")
        said = refusal(world)
        assert "started with acpi=off" in said
        assert "enable" not in said

    @pytest.mark.parametrize(
        ("table", "name"), [("IORT", "the SMMU"), ("IVRS", "AMD-Vi (IOMMU)"), ("DMAR", "VT-d")]
    )
    def test_by_nothing_on_the_line_is_the_firmwares(
        self, make_world: MakeWorld, table: str, name: str
    ):
        world = start_with(make_world(iommu_table=table), "intel_iommu=on,sm_on")
        world.tree.iommu_off()
        said = refusal(world)
        assert f"check {name} in the firmware's settings" in said
        assert "amd_iommu" not in said
        assert ("intel_iommu" in said) is (table == "DMAR")


class TestAKernelThatGrubDidNotBoot:
    LINE = r"initrd=\EFI\ubuntu\initrd.img-5.15.0 root=ZFS=rpool/ROOT/ubuntu boot=zfs quiet"

    def start(self, world: World, loader: str = "") -> World:
        world.tree.write("proc/cmdline", self.LINE + "\n")
        if loader:
            content = b"\x06\0\0\0" + loader.encode("utf-16-le") + b"\0\0"
            world.tree.write(LOADER_INFO, content)
        return world

    @pytest.mark.parametrize(
        ("loader", "named"),
        [
            ("systemd-boot 255", "systemd-boot 255"),
            ("", "another boot loader"),
            ("\u202e", "\\u202e"),
        ],
    )
    def test_is_told_before_anything_is_written(self, world: World, loader: str, named: str):
        self.start(world, loader)
        said = (
            "this host does not boot with GRUB, so its kernel command line cannot be set:"
            f" {named} started its kernel, which has no BOOT_IMAGE=; add intel_iommu=on by its"
            " boot loader's own means. Nothing was changed"
        )
        assert refusal(world) == said
        assert refusal(world) == said, "the next hook says the same"

    def test_is_told_by_verify_of_the_command_line(self, world: World):
        self.start(world, "systemd-boot 255")
        with pytest.raises(prerequisites.UnsupportedHostError) as caught:
            world.decide(GPUS)
        (check,) = checklist.refused(caught.value)
        assert (check.name, check.status) == ("command-line", "fail")
        assert "systemd-boot 255 started its kernel" in check.seen

    def test_with_its_options_set_by_hand_is_served_without_grub(self, world: World):
        self.start(world, "systemd-boot 255")
        world.tree.write("proc/cmdline", f"{self.LINE} intel_iommu=on\n")
        world.tree.iommu_on()
        assert world.hook(GPUS).message == "gpu: 2 ready"
        assert not (world.root / GRUB).exists()
        assert "rebuild grub" not in world.tools.calls
        assert "was not booted by GRUB (systemd-boot 255 started it)" in world.shown("grub.cfg")

    def test_on_a_host_that_grub_has_served_before_was_started_by_kexec(self, ready: World):
        ready.tree.write("proc/cmdline", f"{self.LINE} intel_iommu=on\n")
        before = ready.tree.snapshot("etc", "var", "boot")
        assert ready.hook().message == "gpu: 2 ready"
        assert ready.tree.snapshot("etc", "var", "boot") == before

    def test_but_another_that_names_itself_is_not_grub_whatever_the_record_says(self, ready: World):
        self.start(ready, "systemd-boot 255")
        ready.hook()
        assert not (ready.root / GRUB).exists()
        assert ready.drivers() == READY

    @pytest.mark.parametrize("line", ["", "BOOT_IMAGE=/vmlinuz ro", "ro BOOT_IMAGE=(hd0)/vmlinuz"])
    def test_is_none_where_grub_did_or_nobody_tells(self, tree: hosttree.HostTree, line: str):
        tree.write("proc/cmdline", line)
        found = machine.read(tree.root)
        assert found.other_loader == ""
        assert found.boots_by_grub

    def test_is_none_where_grub_names_itself(self, world: World):
        self.start(world, "GRUB 2.12")
        assert machine.read(world.root).boots_by_grub

    def test_is_told_without_a_name_where_the_variable_cannot_be_read(self, world: World):
        self.start(world)
        (world.root / LOADER_INFO).mkdir(parents=True)
        assert machine.read(world.root).other_loader == machine.UNNAMED


class TestOptionsOfOthers:
    SYSCONFIG = (
        "# Juju generated file - do not edit manually\n"
        'GRUB_CMDLINE_LINUX_DEFAULT="$GRUB_CMDLINE_LINUX_DEFAULT isolcpus=4-7"\n'
        'GRUB_CMDLINE_LINUX_DEFAULT="$GRUB_CMDLINE_LINUX_DEFAULT intel_iommu=on iommu=pt"\n'
        "GRUB_TERMINAL=serial\n"
    )

    def test_that_have_turned_the_iommu_on_spare_the_reboot(self, make_world: MakeWorld):
        world = make_world(ubuntu="22.04")
        world.tree.write("etc/default/grub.d/90-sysconfig.cfg", self.SYSCONFIG)
        start_with(world, "splash")
        assert world.hook(GPUS).message == "gpu: 2 ready"

    @pytest.mark.parametrize(
        "later", ["intel_iommu=igfx_off", "intel_iommu=on,sm_on", "intel_iommu=strict", "iommu=pt"]
    )
    def test_that_leave_ours_in_force_block_nothing(self, world: World, later: str):
        world.tree.write("etc/default/grub.d/iommu.cfg", APPEND.format(later))
        world.hook(GPUS)
        assert world.status.startswith("blocked: reboot required: ")
        world.reboot()
        assert world.hook().message == "gpu: 2 ready"

    @pytest.mark.parametrize("later", ["intel_iommu=off", "intel_iommu=sm_on,off"])
    def test_that_revoke_ours_are_named_with_their_file(self, world: World, later: str):
        world.tree.write("etc/default/grub.d/iommu.cfg", APPEND.format(later))
        world.hook(GPUS)
        assert f"take {later} out of /etc/default/grub.d/iommu.cfg, then" in world.status

    def test_that_an_operator_has_set_with_more_parts_ask_for_no_reboot(
        self, make_world: MakeWorld
    ):
        """Public reports have this line on hosts whose firmware insists on its own memory."""
        line = "intel_iommu=on,relax_rmrr iommu=pt intremap=no_x2apic_optout"
        world = start_with(make_world(ubuntu="22.04"), line)
        assert world.decide(GPUS).plan.reboot == ()
        assert world.hook(GPUS, iommu_passthrough=True).message == "gpu: 2 ready"

    @pytest.mark.parametrize(
        "text",
        [
            'GRUB_CMDLINE_LINUX_DEFAULT="console=ttyS0 iommu=pt"\n',
            'export GRUB_CMDLINE_LINUX_DEFAULT="a \\\n b"\n',
            "unset GRUB_CMDLINE_LINUX_DEFAULT\n",
        ],
    )
    def test_that_set_the_line_outright_are_named(self, world: World, text: str):
        world.tree.write("etc/default/grub.d/99-local.cfg", text)
        world.hook(GPUS)
        assert "/etc/default/grub.d/99-local.cfg sets GRUB_CMDLINE_LINUX_DEFAULT outright" in (
            world.status
        )

    @pytest.mark.parametrize(
        "text",
        [
            'KEPT="$GRUB_CMDLINE_LINUX_DEFAULT"\nGRUB_CMDLINE_LINUX_DEFAULT="a $KEPT"\n',
            'GRUB_CMDLINE_LINUX_DEFAULT="a \\\n${GRUB_CMDLINE_LINUX_DEFAULT:-b}"\n',
            'export GRUB_CMDLINE_LINUX="a"\n',
        ],
    )
    def test_that_keep_ours_are_not(self, world: World, text: str):
        world.tree.write("etc/default/grub.d/99-local.cfg", text)
        world.hook(GPUS)
        assert world.status.startswith("blocked: reboot required: ")


@pytest.mark.parametrize(
    ("line", "check", "shown"),
    [
        (
            "intremap=off",
            "interrupt-remapping",
            "fail: off, so vfio refuses every guest: the kernel was started with intremap=off ->"
            " take intremap=off off the kernel's command line, and reboot",
        ),
        (
            "module_blacklist=vfio_pci",
            "vfio-modules",
            "fail: vfio-pci is not loaded; the kernel was started with module_blacklist=vfio_pci"
            " -> take module_blacklist=vfio_pci off the kernel's command line, or run modprobe"
            " vfio-pci and see dmesg",
        ),
        (
            "vfio.enable_unsafe_noiommu_mode=1",
            "noiommu",
            "fail: vfio's enable_unsafe_noiommu_mode is on: guests could write to all of the"
            " memory; the kernel was started with vfio.enable_unsafe_noiommu_mode=1 -> take"
            " vfio.enable_unsafe_noiommu_mode=1 off the kernel's command line, and reboot",
        ),
    ],
)
def test_a_check_that_fails_names_the_option_that_causes_it(
    ready: World, line: str, check: str, shown: str
):
    ready.tree.set_command_line(f"quiet intel_iommu=on {line}")
    ready.tree.write("proc/interrupts", "  8: 0 IO-APIC 8-edge rtc0\n")
    ready.tree.write("sys/module/vfio/parameters/enable_unsafe_noiommu_mode", "Y\n")
    (ready.root / "sys/bus/pci/drivers/vfio-pci").rename(ready.root / "sys/bus/pci/drivers/x")
    assert ready.shown(check) == shown


def test_a_check_of_the_iommu_names_what_turned_it_off(world: World):
    world.hook(GPUS)
    assert world.shown("iommu") == (
        "fail: no IOMMU groups -> reboot, as this kernel was started with intel_iommu=off; then"
        " check the firmware's settings"
    )
