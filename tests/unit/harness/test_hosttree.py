"""Tests of the made-up hosts: a host that no kernel would show proves nothing about the charm."""

import errno
import struct

import pytest
from harness import hosttree
from harness.hosttree import kernel, programs, services

from passthrough.host import machine, pci

GPU, AUDIO = "0000:83:00.0", "0000:83:00.1"


@pytest.fixture
def tree(tmp_path):
    tree = hosttree.HostTree(tmp_path / "host")
    tree.bridge("0000:80:01.0")
    for address, identity, class_code, driver in (
        (GPU, "10de:1bb0", 0x030000, "nouveau"),
        (AUDIO, "10de:10f0", 0x040300, "snd_hda_intel"),
    ):
        tree.function(address, identity, class_code, driver=driver, parent="0000:80:01.0", numa=1)
    return tree


def store(tree, path, text):
    """Write as the charm does, below /sys/bus/pci, and let the kernel's model answer."""
    kernel.store(tree.root, f"sys/bus/pci/{path}", text.encode())


class TestShape:
    def test_what_the_charm_reads(self, tree):
        tree.iommu_on({GPU: 17, AUDIO: 17})
        function = pci.read(tree.root).functions[GPU]
        assert (function.id, function.class_code, function.driver) == (
            "10de:1bb0",
            0x030000,
            "nouveau",
        )
        assert (function.group, function.numa_node) == (17, 1)
        assert tree.directory(GPU).resolve().parent.name == "0000:80:01.0"
        assert {each.address for each in pci.read(tree.root).groups[17]} == {GPU, AUDIO}

    def test_uevent_and_modalias(self, tree):
        alias = "pci:v000010DEd00001BB0sv00001AF4sd00001100bc03sc00i00"
        assert (tree.directory(GPU) / "uevent").read_text() == (
            "DRIVER=nouveau\nPCI_CLASS=30000\nPCI_ID=10DE:1BB0\nPCI_SUBSYS_ID=1AF4:1100\n"
            f"PCI_SLOT_NAME={GPU}\nMODALIAS={alias}\n"
        )
        assert (tree.directory(GPU) / "modalias").read_text() == f"{alias}\n"

    def test_configuration_space(self, tree):
        header = (tree.directory(GPU) / "config").read_bytes()
        assert struct.unpack_from("<HH", header) == (0x10DE, 0x1BB0)
        assert header[0x0E] == 0x80, "a function beside it makes it a multifunction device"
        bridge = (tree.directory("0000:80:01.0") / "config").read_bytes()
        assert bridge[0x0E] & 0x7F == 1
        assert tuple(bridge[0x18:0x1B]) == (0x80, 0x83, 0x83)

    def test_only_vga_functions_tell_of_the_console(self, tree):
        tree.function("0000:00:02.0", "1234:1111", 0x030000, boot_vga=True)
        assert (tree.directory("0000:00:02.0") / "boot_vga").read_text() == "1\n"
        assert (tree.directory(GPU) / "boot_vga").read_text() == "0\n"
        assert not (tree.directory(AUDIO) / "boot_vga").exists()

    def test_virtual_functions(self, tree):
        tree.function("0000:04:00.0", "8086:10c9", 0x020000, driver="igb", total_vfs=7)
        tree.virtual_functions("0000:04:00.0", ["0000:04:10.0", "0000:04:10.2"], "8086:10ca")
        functions = pci.read(tree.root).functions
        assert (functions["0000:04:00.0"].total_vfs, functions["0000:04:00.0"].num_vfs) == (7, 2)
        assert functions["0000:04:10.2"].physfn == "0000:04:00.0"
        assert (tree.directory("0000:04:00.0") / "virtfn1").resolve().name == "0000:04:10.2"

    def test_network_interfaces(self, tree):
        tree.function("0000:03:00.0", "8086:10d3", 0x020000, driver="e1000e")
        tree.nic("0000:03:00.0", "eth0", mac="52:54:00:00:00:01", up=True)
        by_class = tree.root / "sys/class/net/eth0"
        assert (by_class / "operstate").read_text() == "up\n"
        assert (by_class / "device").resolve() == tree.directory("0000:03:00.0")

    @pytest.mark.parametrize("table", ["DMAR", "IVRS", None])
    def test_acpi_tables_are_whole(self, tmp_path, table):
        tree = hosttree.HostTree(tmp_path / "h", iommu_table=table)
        assert machine.read(tree.root).iommu_table == table
        tables = tree.root / "sys/firmware/acpi/tables"
        if table:
            content = (tables / table).read_bytes()
            assert struct.unpack_from("<I", content, 4) == (len(content),)
            assert sum(content) & 0xFF == 0, "the checksum makes all bytes add up to zero"

    @pytest.mark.parametrize(
        ("options", "generator", "grub"),
        [
            ({"ubuntu": "24.04"}, "initramfs-tools", True),
            ({"ubuntu": "26.04"}, "dracut", True),
            ({"generator": None, "grub": False}, None, False),
        ],
    )
    def test_kinds_of_host(self, tmp_path, options, generator, grub):
        found = machine.read(hosttree.HostTree(tmp_path / "h", **options).root)
        assert (found.generator and found.generator.name, found.has_grub) == (generator, grub)


class TestKernel:
    """What a write to sysfs does: errors are those of drivers/base/bus.c."""

    def bind_to_vfio(self, tree, address):
        store(tree, f"devices/{address}/driver_override", "vfio-pci")
        store(tree, f"drivers/{tree.driver_of(address)}/unbind", address)
        store(tree, "drivers_probe", address)

    def test_the_way_to_vfio_and_back(self, tree):
        tree.iommu_on()
        assert kernel.load(tree.root, ["vfio_pci"])
        self.bind_to_vfio(tree, GPU)
        assert tree.driver_of(GPU) == "vfio-pci"
        group = (tree.directory(GPU) / "iommu_group").resolve().name
        assert (tree.root / "dev/vfio" / group).exists()
        store(tree, f"devices/{GPU}/driver_override", "\n")
        assert tree.driver_of(GPU) == "vfio-pci", "an override does not unbind"
        store(tree, "drivers/vfio-pci/unbind", GPU)
        assert not (tree.root / "dev/vfio" / group).exists()
        store(tree, "drivers_probe", GPU)
        assert tree.driver_of(GPU) == "nouveau"
        assert (tree.directory(GPU) / "driver_override").read_text() == "(null)\n"

    def test_vfio_takes_nothing_without_an_iommu(self, tree):
        kernel.load(tree.root, ["vfio-pci"])
        self.bind_to_vfio(tree, GPU)
        assert tree.driver_of(GPU) is None

    def test_vfio_takes_nothing_while_it_is_not_loaded(self, tree):
        tree.iommu_on()
        self.bind_to_vfio(tree, GPU)
        assert tree.driver_of(GPU) is None
        kernel.load(tree.root, ["vfio-pci"])
        assert tree.driver_of(GPU) == "vfio-pci", "a driver that is registered looks for devices"

    @pytest.mark.parametrize(
        ("path", "text", "number"),
        [
            ("drivers/snd_hda_intel/unbind", GPU, errno.ENODEV),
            ("drivers/nouveau/bind", GPU, errno.ENODEV),
            ("drivers_probe", "0000:99:00.0", errno.EINVAL),
            (f"devices/{GPU}/driver_override", "x" * 5000, errno.EINVAL),
            ("rescan", "1", errno.EIO),
        ],
    )
    def test_refusals(self, tree, path, text, number):
        with pytest.raises(OSError, check=lambda error: error.errno == number):
            store(tree, path, text)

    def test_modprobe_by_alias_heeds_blacklists(self, tree):
        tree.bind(GPU, None)
        kernel.remove_driver(tree.root, "nouveau")
        alias = (tree.directory(GPU) / "modalias").read_text().strip()
        tree.write("etc/modprobe.d/x.conf", "blacklist nouveau\n")
        assert kernel.load(tree.root, [alias])
        assert tree.driver_of(GPU) is None
        assert kernel.load(tree.root, ["nouveau"])
        assert tree.driver_of(GPU) == "nouveau"
        assert not kernel.load(tree.root, ["no-such-module"])


class TestHotplug:
    @pytest.mark.parametrize("iommu", [False, True], ids=["no-iommu", "iommu"])
    def test_what_was_unplugged_comes_back_on_its_native_driver(self, tree, iommu):
        kernel.load(tree.root, ["vfio-pci"])
        if iommu:
            tree.iommu_on({GPU: 17, AUDIO: 17, "0000:80:01.0": 3})
            tree.bind(GPU, "vfio-pci")
        tree.unplug(GPU)
        found = pci.read(tree.root)
        assert (set(found.functions), tree.unplugged) == ({AUDIO, "0000:80:01.0"}, (GPU,))
        assert [each.address for each in found.groups.get(17, ())] == ([AUDIO] if iommu else [])
        tree.plug(GPU)
        found = pci.read(tree.root).functions[GPU]
        assert (found.driver, found.override) == ("nouveau", None)
        assert found.group == (17 if iommu else None)
        assert tree.directory(GPU).resolve().parent.name == "0000:80:01.0"
        assert tree.unplugged == ()

    def test_a_whole_card_takes_its_group_along(self, tree):
        tree.iommu_on({GPU: 17, AUDIO: 17, "0000:80:01.0": 3})
        for address in (GPU, AUDIO):
            tree.unplug(address)
        assert list(pci.read(tree.root).groups) == [3]
        for address in (GPU, AUDIO):
            tree.plug(address)
        assert list(pci.read(tree.root).groups) == [3, 4]

    def test_a_boot_does_without_it(self, tree):
        tree.unplug(GPU)
        tree.power_cycle()
        tree.load_natives()
        assert set(pci.read(tree.root).functions) == {AUDIO, "0000:80:01.0"}


class TestReboot:
    def test_the_command_line_comes_from_grub(self, tree):
        text = 'GRUB_CMDLINE_LINUX_DEFAULT="$GRUB_CMDLINE_LINUX_DEFAULT iommu=pt"\n'
        tree.write("etc/default/grub.d/95-x.cfg", text)
        tree.power_cycle()
        assert "iommu=pt" not in tree.read("proc/cmdline")
        programs.update_grub(tree.root)
        tree.power_cycle()
        assert tree.read("proc/cmdline").endswith(" ro quiet splash iommu=pt\n")

    @pytest.mark.parametrize(
        ("ubuntu", "table", "options", "on"),
        [
            ("22.04", "DMAR", "", False),
            ("22.04", "DMAR", "intel_iommu=on", True),
            ("24.04", "DMAR", "", True),
            ("24.04", "DMAR", "intel_iommu=off", False),
            ("22.04", "IVRS", "", True),
            ("24.04", None, "intel_iommu=on", False),
        ],
    )
    def test_when_the_iommu_is_on(self, tmp_path, ubuntu, table, options, on):
        tree = hosttree.HostTree(tmp_path / "h", ubuntu=ubuntu, iommu_table=table)
        tree.function(GPU, "10de:1bb0", 0x030000, driver="nouveau")
        tree.write("boot/grub/grub.cfg", f"linux /vmlinuz root=x {options}\n")
        tree.power_cycle()
        assert pci.read(tree.root).has_groups is on

    def test_only_drivers_of_the_kernel_image_have_bound(self, tree):
        tree.function("0000:00:14.0", "8086:a0ed", 0x0C0330, driver="xhci_hcd", built_in=True)
        tree.bind(GPU, "vfio-pci")
        tree.power_cycle()
        assert tree.driver_of("0000:00:14.0") == "xhci_hcd"
        assert tree.driver_of("0000:80:01.0") == "pcieport"
        assert (tree.driver_of(GPU), pci.read(tree.root).functions[GPU].override) == (None, None)
        tree.load_natives()
        assert (tree.driver_of(GPU), tree.driver_of(AUDIO)) == ("nouveau", "snd_hda_intel")

    def test_the_initramfs_holds_what_was_there_when_it_was_built(self, tree):
        assert programs.list_initramfs(tree.root) == []
        tree.write("etc/initramfs-tools/scripts/init-top/x", "")
        programs.update_initramfs(tree.root, "update-initramfs")
        tree.write("etc/initramfs-tools/scripts/init-top/y", "")
        names = programs.list_initramfs(tree.root)
        assert "scripts/init-top/x" in names
        assert "scripts/init-top/y" not in names


class TestServices:
    def show(self, tree, capfd):
        services.systemctl(tree.root, ["show", "--property=InvocationID", "nova-compute.service"])
        return capfd.readouterr().out

    def test_a_restart_is_another_invocation(self, tree, capfd):
        tree.install_nova()
        before = self.show(tree, capfd)
        assert before.startswith("InvocationID=")
        assert services.invoke_rc_d(tree.root, ["nova-compute", "restart"]) == 0
        assert self.show(tree, capfd) != before

    def test_the_policy_layer_has_the_last_word(self, tree, capfd):
        tree.install_nova()
        tree.write("usr/sbin/policy-rc.d", "#!/bin/sh\nexit 101\n", mode=0o755)
        before = self.show(tree, capfd)
        assert services.invoke_rc_d(tree.root, ["nova-compute", "restart"]) == 0
        args = ["--disclose-deny", "nova-compute", "restart"]
        assert services.invoke_rc_d(tree.root, args) == 101
        capfd.readouterr()
        assert self.show(tree, capfd) == before

    def test_a_service_that_is_not_there(self, tree, capfd):
        assert services.systemctl(tree.root, ["restart", "nova-compute"]) == 5
        assert services.systemctl(tree.root, ["is-active", "nova-compute"]) == 3
        assert "inactive" in capfd.readouterr().out


def test_the_example_host_reads_like_a_compute_host(tmp_path):
    tree = hosttree.compute_host(tmp_path / "h")
    host = pci.read(tree.root)
    displays = [each for each in host.functions.values() if each.id == "10de:1bb0"]
    assert [each.address for each in displays] == ["0000:83:00.0", "0000:84:00.0", "0000:85:00.0"]
    assert {each.driver for each in displays} == {"nouveau"}
    assert not host.has_groups
