"""The host box keeps what runs in it away from this machine, and answers as a host would."""

import os
import pathlib
import re
import stat
import tempfile

import pytest
from harness import hostbox, hosttree, standin

GPU = "0000:83:00.0"
# Mode and form of the attributes as Linux 6 shows them, read on real machines; N is a number.
RECORDED = {
    "class": (0o444, "0xN\n"),
    "device": (0o444, "0xN\n"),
    "driver_override": (0o644, "(null)\n"),
    "enable": (0o644, "N\n"),
    "irq": (0o444, "N\n"),
    "local_cpulist": (0o444, "N-N\n"),
    "modalias": (0o444, "pci:vNdNsvNsdNbcNscNiN\n"),
    "msi_bus": (0o644, "N\n"),
    "numa_node": (0o644, "N\n"),
    "revision": (0o444, "0xN\n"),
    "subsystem_device": (0o444, "0xN\n"),
    "subsystem_vendor": (0o444, "0xN\n"),
    "uevent": (
        0o644,
        "DRIVER=X\nPCI_CLASS=N\nPCI_ID=N:N\nPCI_SUBSYS_ID=N:N\nPCI_SLOT_NAME=N:N:N.N\n"
        "MODALIAS=pci:vNdNsvNsdNbcNscNiN\n",
    ),
    "vendor": (0o444, "0xN\n"),
}
MODALIAS = re.compile(r"pci:v[0-9A-F]{8}d[0-9A-F]{8}sv[0-9A-F]{8}sd[0-9A-F]{8}bc..sc..i..")


def form(text):
    """A sysfs text with its numbers and names taken out."""
    text = MODALIAS.sub("pci:vNdNsvNsdNbcNscNiN", text)
    text = re.sub(r"DRIVER=.*", "DRIVER=X", text)
    return re.sub(r"(?<=0x)[0-9a-f]+|(?<=[=:.])[0-9A-F]+\b|(?<![\w])-?\d+\b|(?<=:)\d+", "N", text)


def shape(device):
    """Mode and form of the attributes of a function's directory."""
    return {
        name: (stat.S_IMODE((device / name).stat().st_mode), form((device / name).read_text()))
        for name in RECORDED
        if (device / name).exists()
    }


class TestShape:
    def test_of_the_made_up_functions(self, host):
        assert shape(host.directory(GPU)) == RECORDED

    def test_of_this_machines_functions(self):
        """What was recorded holds here too; a machine without PCI has nothing to compare."""
        for link in sorted(pathlib.Path("/sys/bus/pci/devices").glob("*")):
            found = shape(link)
            if not (link / "driver").exists():
                found["uevent"] = (found["uevent"][0], "DRIVER=X\n" + found["uevent"][1])
            for name in ("driver_override", "local_cpulist"):  # may be set; may be one CPU
                found.pop(name)
            assert found == {name: RECORDED[name] for name in found}
            assert re.fullmatch(r"(\.\./){3}devices/pci[^/]+/(.*/)?[^/]+", os.readlink(link))

    def test_links_are_relative_as_in_sysfs(self, host):
        host.iommu_on()
        device = host.root / "sys/bus/pci/devices" / GPU
        assert os.readlink(device) == f"../../../devices/pci0000:80/0000:80:01.0/{GPU}"
        assert os.readlink(device / "driver") == "../../../../bus/pci/drivers/nouveau"
        group = os.readlink(device / "iommu_group")
        assert re.fullmatch(r"\.\./\.\./\.\./\.\./kernel/iommu_groups/\d+", group)
        listed = host.root / "sys/bus/pci/drivers/nouveau" / GPU
        assert os.readlink(listed) == f"../../../../devices/pci0000:80/0000:80:01.0/{GPU}"


class TestIsolation:
    def test_writes_land_in_the_tree(self, box, host):
        for path in ("/etc/x", "/boot/x", "/run/x", "/var/lib/x", "/usr/lib/modules/x"):
            done = box.run(["sh", "-c", f"echo inside > {path}"])
            assert done.returncode == 0, done.stderr
            assert host.read(path.lstrip("/")) == "inside\n"
            assert not os.path.exists(path)

    def test_the_rest_of_this_machine_is_read_only(self, box):
        here = pathlib.Path(__file__).parent
        # The temporary directory is the exception, and a checkout may lie in it.
        checkout = () if here.is_relative_to(tempfile.gettempdir()) else (str(here),)
        for directory in ("/", "/usr", "/opt", "/var", "/root", *checkout):
            done = box.run(["touch", f"{directory}/hostbox-was-here"])
            # Where the test is not run as root, file modes may refuse first.
            assert re.search("Read-only file system|Permission denied", done.stderr), directory

    def test_the_made_up_host_is_what_it_says(self, box, host):
        script = (
            "cat /proc/cmdline; . /etc/os-release; echo $ID $VERSION_ID; ls /sys/bus/pci/devices"
        )
        cmdline, release, *devices = box.run(["sh", "-c", script]).stdout.splitlines()
        assert cmdline + "\n" == host.read("proc/cmdline")
        assert release == "ubuntu 22.04"
        assert devices == sorted(os.listdir(host.root / "sys/bus/pci/devices"))
        host.set_command_line("changed later")
        assert "changed later" in box.run(["cat", "/proc/cmdline"]).stdout

    def test_what_goes_and_comes_in_the_tree_is_seen_at_once(self, box, host):
        name = f"sys/bus/pci/devices/{GPU}"
        link, target = host.root / name, os.readlink(host.root / name)
        for _ in range(2):
            assert box.run(["cat", f"/{name}/vendor"]).stdout == host.read(f"{name}/vendor")
            assert GPU in box.run(["ls", "/sys/bus/pci/devices"]).stdout
            link.unlink()
            assert box.run(["test", "-e", f"/{name}"]).returncode == 1
            assert GPU not in box.run(["ls", "/sys/bus/pci/devices"]).stdout
            link.symlink_to(target)

    def test_processes_and_network_are_its_own(self, box):
        shown = box.run(["sh", "-c", "echo /proc/[0-9]*; ls /sys/class/net; wc -l < /proc/net/dev"])
        processes, *interfaces, lines = shown.stdout.splitlines()
        assert len(processes.split()) < 10
        assert interfaces == ["ens1", "ens2"]
        assert lines == "3", "two lines of heading and lo"

    def test_nothing_is_left_behind(self, host, tmp_path):
        before = pathlib.Path("/proc/self/mountinfo").read_text()
        with hostbox.Box(host, tmp_path / "left") as box:
            box.run(["sh", "-c", "sleep 60 >/dev/null 2>&1 & echo 1 > /etc/x"])
        assert pathlib.Path("/proc/self/mountinfo").read_text() == before
        running = [path.read_bytes() for path in pathlib.Path("/proc").glob("[0-9]*/cmdline")]
        assert not [line for line in running if str(tmp_path / "left").encode() in line]
        with pytest.raises(hostbox.BoxError, match="not started"):
            box.run(["true"])

    def test_a_charm_runs_in_it(self, box, host, tmp_path):
        agent = self.deploy(
            box,
            tmp_path,
            'juju-log -- "$(pwd) $(cat /etc/hostname)"; touch made; echo x >/etc/made',
        )
        directory = agent.unit_directory() / "charm"
        assert agent.log()[0].message == f"{directory} made-up"
        assert (directory / "made").exists()
        assert host.read("etc/made") == "x\n"

    def test_a_killed_hook_takes_its_children_in_the_box_along(self, box, tmp_path):
        agent = self.deploy(box, tmp_path, "sleep 61 & juju-reboot --now; sleep 62")
        assert agent.reboot_due() == "now"
        processes = box.run(["sh", "-c", "cat /proc/[0-9]*/cmdline | tr '\\0' ' '"]).stdout
        assert "hostbox/init.py" in processes
        assert "sleep 6" not in processes

    @staticmethod
    def deploy(box, tmp_path, script):
        charm = tmp_path / "charm"
        charm.mkdir()
        (charm / "metadata.yaml").write_text("name: c\n")
        (charm / "dispatch").write_text(f"#!/bin/sh\n{script}\n")
        (charm / "dispatch").chmod(0o755)
        agent = standin.Agent(tmp_path / "agent", command_prefix=box.command_prefix)
        agent.deploy(charm)
        return agent


class TestSysfs:
    """The kernel answers before the write returns: tests/unit/test_hosttree.py has the rules."""

    SCRIPT = """
import errno, os, sys
def write(path, text):
    try:
        with open("/sys/bus/pci/" + path, "wb", buffering=0) as file:
            file.write(text.encode())
    except OSError as error:
        return errno.errorcode[error.errno]
def driver(address):
    link = f"/sys/bus/pci/devices/{address}/driver"
    return os.path.basename(os.readlink(link)) if os.path.islink(link) else None
gpu = sys.argv[1]
"""

    def python(self, box, script, *args):
        done = box.run(["python3", "-c", self.SCRIPT + script, *args])
        assert done.returncode == 0, done.stderr
        return done.stdout.split()

    def test_a_driver_binds_before_the_write_returns(self, box, host):
        host.iommu_on()
        script = """
write(f"devices/{gpu}/driver_override", "vfio-pci")
write(f"devices/{gpu}/driver/unbind", gpu)
print(driver(gpu))
write("drivers_probe", gpu)
print(driver(gpu), os.path.exists("/dev/vfio/" + sys.argv[2]))
"""
        group = (host.directory(GPU) / "iommu_group").resolve().name
        assert self.python(box, script, GPU, group) == ["None", "vfio-pci", "True"]
        assert host.driver_of(GPU) == "vfio-pci"

    def test_errors_are_the_kernels(self, box):
        script = """
print(write("drivers/e1000e/unbind", gpu), write("drivers_probe", "0000:ff:00.0"))
print(write(f"devices/{gpu}/vendor", "0"))
for call in (lambda: open("/sys/bus/pci/drivers_probe"), lambda: os.mkdir("/sys/x")):
    try:
        call()
    except OSError as error:
        print(errno.errorcode[error.errno])
"""
        assert self.python(box, script, GPU) == ["ENODEV", "EINVAL", "EACCES", "EACCES", "EPERM"]

    def test_attributes_read_as_one_page(self, box):
        script = """
path = f"/sys/bus/pci/devices/{gpu}/"
print(os.stat(path + "vendor").st_size, open(path + "vendor").read())
print(len(open(path + "config", "rb").read()), "driver" in os.listdir(path))
"""
        assert self.python(box, script, GPU) == ["4096", "0x10de", "4096", "True"]

    def test_what_is_not_modelled_ends_the_test(self, host, tmp_path):
        box = hostbox.Box(host, tmp_path / "strict")
        with pytest.raises(hostbox.BoxError, match="sys/bus/pci/rescan"), box:
            box.run(["sh", "-c", "echo 1 > /sys/bus/pci/rescan"])


class TestPrograms:
    def test_runs_are_recorded_and_imitated(self, box, host):
        text = 'GRUB_CMDLINE_LINUX_DEFAULT="$GRUB_CMDLINE_LINUX_DEFAULT iommu=pt"\n'
        host.write("etc/default/grub.d/95-x.cfg", text)
        assert box.run(["update-grub"]).returncode == 0
        assert "quiet splash iommu=pt\n" in host.read("boot/grub/grub.cfg")
        assert box.run(["modprobe", "-q", "no-such-module"]).returncode == 1
        recorded = [(call.name, call.args, call.exit_code) for call in box.calls()]
        assert recorded == [("update-grub", (), 0), ("modprobe", ("-q", "no-such-module"), 1)]
        box.forget_calls()
        assert box.calls() == []

    def test_a_program_can_be_told_to_fail(self, box, host):
        before = host.read("boot/grub/grub.cfg")
        host.write("etc/default/grub.d/95-x.cfg", "GRUB_CMDLINE_LINUX=x\n")
        box.stub("update-grub", exit_code=3, stderr="no space left\n")
        done = box.run(["update-grub"])
        assert (done.returncode, done.stderr) == (3, "no space left\n")
        assert host.read("boot/grub/grub.cfg") == before
        box.stub("update-grub")
        assert box.run(["update-grub"]).returncode == 0
        assert [call.exit_code for call in box.calls("update-grub")] == [3, 0]

    @pytest.mark.parametrize(
        ("options", "present"),
        [
            ({"ubuntu": "22.04"}, {"update-initramfs", "update-grub"}),
            ({"ubuntu": "26.04"}, {"dracut", "update-initramfs", "update-grub"}),
            ({"generator": None, "grub": False}, set()),
        ],
        ids=["initramfs-tools", "dracut", "neither"],
    )
    def test_what_the_host_lacks_is_hidden(self, tmp_path, options, present):
        tree = hosttree.HostTree(tmp_path / "h", **options)
        with hostbox.Box(tree, tmp_path / "box") as box:
            names = ["dracut", "update-initramfs", "update-grub"]
            found = box.run(["sh", "-c", 'for n; do command -v "$n"; done', "sh", *names]).stdout
        assert {pathlib.Path(line).name for line in found.splitlines()} == present

    def test_a_held_file_is_seen_by_its_path_in_the_box(self, box, host):
        host.write("dev/vfio/17", "")
        listing = 'ls -l /proc/"$0"/fd'
        with box.holding("/dev/vfio/17") as process:
            assert "-> /dev/vfio/17" in box.run(["sh", "-c", listing, str(process)]).stdout
        assert box.run(["sh", "-c", listing, str(process)]).returncode != 0


class TestReboot:
    SCRIPT = f"""#!/bin/sh
echo "from the initramfs" >/dev/kmsg
echo vfio-pci >/sys/bus/pci/devices/{GPU}/driver_override
modprobe vfio-pci
echo {GPU} >/sys/bus/pci/drivers_probe
echo "done" >/dev/kmsg
"""

    def test_runs_what_the_initramfs_holds(self, box, host):
        host.write("etc/default/grub.d/95-x.cfg", "GRUB_CMDLINE_LINUX=intel_iommu=on\n")
        host.write("etc/initramfs-tools/scripts/init-top/claim", self.SCRIPT, mode=0o755)
        box.reboot()
        assert host.driver_of(GPU) == "nouveau", "nothing was rebuilt yet"
        box.run(["update-grub"])
        box.run(["update-initramfs", "-u"])
        (run,) = box.reboot()
        assert run.returncode == 0, run.stderr
        assert host.kernel_log() == ["from the initramfs", "done"]
        assert host.driver_of(GPU) == "vfio-pci"
        assert host.driver_of("0000:84:00.0") == "nouveau"
