"""A set-up made by hand is recognised, explained, and left alone."""

from __future__ import annotations

import base64
import json
import os
import pathlib
import re

import pytest
import yaml
from harness import hosttree
from harness.constants import GPUS

from passthrough import cli, survey
from passthrough.config import options
from passthrough.host import pci
from passthrough.planning import boot_files
from passthrough.reporting import leftovers, plan_text
from passthrough.reporting import leftovers as hand_made
from passthrough.site import Site

# The page "PCI Passthrough" of the OpenStack Charm Guide (openstack/charm-guide, file
# doc/source/admin/compute/pci-passthrough.rst): what the operator puts into the model's
# cloudinit-userdata, and the two texts that he is told to encode with base64 for it.
GUIDE = """
postruncmd:
  - "update-initramfs -u > /root/initramfs-update.log"
  - "update-grub > /root/grub-update.log"
write_files:
  - path: /etc/initramfs-tools/modules
    content: pci_stub ids=10de:1bb0
  - path: /etc/modules
    content: |
      pci_stub
      vfio
      vfio_iommu_type1
      vfio_pci
  - path: /etc/rc.local
    encoding: b64
    permissions: '0755'
    content: $BASE64_ENCODED_RC_LOCAL
  - path: /etc/default/grub
    encoding: b64
    content: $BASE64_ENCODED_DEFAULT_GRUB
"""
GUIDE_RC_LOCAL = """\
vfiobind() {
    dev="$1"
    vendor=$(cat /sys/bus/pci/devices/$dev/vendor)
    device=$(cat /sys/bus/pci/devices/$dev/device)
    if [ -e /sys/bus/pci/devices/$dev/driver ]; then
            echo $dev > /sys/bus/pci/devices/$dev/driver/unbind
    fi
    echo $vendor $device > /sys/bus/pci/drivers/vfio-pci/new_id
}

vfiobind 0000:83:00.0
vfiobind 0000:84:00.0
"""
GUIDE_DEFAULT_GRUB = """\
GRUB_DEFAULT=0
GRUB_HIDDEN_TIMEOUT=0
GRUB_HIDDEN_TIMEOUT_QUIET=true
GRUB_TIMEOUT=10
GRUB_DISTRIBUTOR=`lsb_release -i -s 2> /dev/null || echo Debian`
GRUB_CMDLINE_LINUX_DEFAULT="intel_iommu=on vfio_iommu_type1.allow_unsafe_interrupts=1 \
modprobe.blacklist=nvidiafb,nouveau"
GRUB_CMDLINE_LINUX=""
"""


def run_cloud_init(root: pathlib.Path, userdata: str) -> None:
    """Do what cloud-init's write_files does, then leave behind what postruncmd's commands do."""
    data = yaml.safe_load(userdata)
    for entry in data["write_files"]:
        content = entry["content"].encode()
        if entry.get("encoding") == "b64":
            content = base64.b64decode(content)
        path = root / entry["path"].lstrip("/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        path.chmod(int(entry.get("permissions", "0644"), 8))
    for command in data["postruncmd"]:
        log = root / command.rpartition("> /")[2]
        log.parent.mkdir(parents=True, exist_ok=True)
        log.write_text("done\n", encoding="utf-8")


def encode(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


@pytest.fixture
def host(tmp_path: pathlib.Path) -> hosttree.HostTree:
    """The guide's compute host: two GPUs in use by guests, and a third one of the same model."""
    tree = hosttree.HostTree(tmp_path / "host")
    for bus in ("83", "84", "85"):
        tree.function(f"0000:{bus}:00.0", "10de:1bb0", 0x030000, driver="nouveau")
        tree.function(f"0000:{bus}:00.1", "10de:10f0", 0x040300, driver="snd_hda_intel")
    tree.iommu_on()
    return tree


@pytest.fixture
def by_hand(host: hosttree.HostTree) -> hosttree.HostTree:
    """The host after the guide's cloudinit-userdata."""
    userdata = GUIDE.replace("$BASE64_ENCODED_RC_LOCAL", encode(GUIDE_RC_LOCAL))
    userdata = userdata.replace("$BASE64_ENCODED_DEFAULT_GRUB", encode(GUIDE_DEFAULT_GRUB))
    run_cloud_init(host.root, userdata)
    return host


def decide(root: pathlib.Path, devices: str) -> survey.Decision:
    return survey.decide(
        options.parse({"devices": devices}), survey.look(Site(root, "pci-passthrough"))
    )


def snapshot(root: pathlib.Path) -> dict[str, tuple[bytes, int]]:
    return {
        str(path): (path.read_bytes(), path.stat().st_mtime_ns)
        for path in sorted(root.rglob("*"))
        if path.is_file() and not path.is_symlink()
    }


def find_one(root: pathlib.Path, path: str) -> leftovers.Leftover:
    found = [each for each in leftovers.find(root) if each.path == path]
    assert len(found) == 1, [each.path for each in leftovers.find(root)]
    return found[0]


def test_host_without_any_of_it_has_no_leftover(host: hosttree.HostTree):
    assert leftovers.find(host.root) == ()
    assert "left over" not in plan_text.plan_text(decide(host.root, "10de:1bb0@0000:83:00.0"))


def test_everything_of_the_guide_is_found_in_a_stable_order(by_hand: hosttree.HostTree):
    assert [each.path for each in leftovers.find(by_hand.root)] == [
        "/etc/rc.local",
        "/etc/initramfs-tools/modules",
        "/etc/modules",
        "/etc/default/grub",
        "/root/initramfs-update.log",
        "/root/grub-update.log",
    ]


def test_rc_local_can_be_deleted_whole(by_hand: hosttree.HostTree):
    found = find_one(by_hand.root, "/etc/rc.local")
    assert found.can_go
    assert found.advice == "delete the file"
    assert found.addresses == ("0000:83:00.0", "0000:84:00.0")
    assert [part.line for part in found.parts] == [*range(1, 10), 11, 12]
    assert "no #! line, so systemd cannot even start it" in found.reason


def test_initramfs_modules_lose_the_line_and_name_the_ids(by_hand: hosttree.HostTree):
    found = find_one(by_hand.root, "/etc/initramfs-tools/modules")
    assert found.parts == (leftovers.Part(1, "pci_stub ids=10de:1bb0"),)
    assert found.ids == ("10de:1bb0",)
    assert found.advice == "delete these lines"
    assert found.rebuild == "update-initramfs -u -k all"


def test_etc_modules_loses_its_four_lines(by_hand: hosttree.HostTree):
    found = find_one(by_hand.root, "/etc/modules")
    assert [part.text for part in found.parts] == [
        "pci_stub",
        "vfio",
        "vfio_iommu_type1",
        "vfio_pci",
    ]
    assert found.rebuild is None
    # The file is the package's own, which expects it to be there.
    assert not found.can_go


def test_overwritten_default_grub_is_told_from_an_edited_one(by_hand: hosttree.HostTree):
    found = find_one(by_hand.root, "/etc/default/grub")
    assert found.parts == (
        leftovers.Part(
            6,
            "intel_iommu=on vfio_iommu_type1.allow_unsafe_interrupts=1"
            " modprobe.blacklist=nvidiafb,nouveau",
        ),
    )
    assert not found.can_go
    assert "/usr/share/grub/default/grub" in found.advice
    assert "allow_unsafe_interrupts weakens the host" in found.reason
    assert found.rebuild == "update-grub"

    by_hand.write("etc/default/grub", f"# Run update-grub afterwards.\n{GUIDE_DEFAULT_GRUB}")
    assert "replaced" not in find_one(by_hand.root, "/etc/default/grub").advice


def test_plan_says_what_to_delete_and_touches_nothing(
    by_hand: hosttree.HostTree, capsys: pytest.CaptureFixture[str]
):
    before = snapshot(by_hand.root)
    assert cli.main(["--root", str(by_hand.root), "plan", "--devices", GPUS]) == 0
    printed = capsys.readouterr().out
    assert snapshot(by_hand.root) == before
    section = printed[printed.index("left over") :]
    assert section.startswith("left over from a set-up by hand (the charm deletes none of it):\n")
    for line in (
        "/etc/rc.local: delete the file",
        "  it binds through new_id",
        "/etc/modules: delete these lines",
        "  line 1: pci_stub ids=10de:1bb0",
        "  line 4: vfio_pci",
        "  line 6: intel_iommu=on vfio_iommu_type1.allow_unsafe_interrupts=1",
        "after that, run: update-initramfs -u -k all && update-grub",
    ):
        assert f"\n{line}" in section, section
    assert "before that" not in section, "everything it binds is claimed already"
    assert max(map(len, section.splitlines())) <= 80


def test_plan_says_what_to_claim_first(by_hand: hosttree.HostTree):
    """The guide's 84:00.0 would go back to nouveau, under the guests' feet."""
    leftovers = hand_made.find(by_hand.root)
    text = plan_text.plan_text(decide(by_hand.root, "10de:1bb0@0000:83:00.0"), leftovers)
    assert (
        "before that, claim what it binds, or the next boot leaves 0000:84:00.0 to the host's"
        " drivers (devices=10de:1bb0@0000:83:00.0,10de:1bb0@0000:84:00.0)"
    ) in re.sub(r"\n  ", " ", text)


def test_suggested_devices_are_accepted_and_leave_nothing_unclaimed(by_hand: hosttree.HostTree):
    leftovers = hand_made.find(by_hand.root)
    found = pci.read(by_hand.root)
    again = decide(by_hand.root, hand_made.suggest_devices(leftovers, found))
    assert hand_made.find_unclaimed(leftovers, found, again.outcome) == ()
    assert "0000:85:00.0" not in again.outcome.addresses


def test_ids_alone_suggest_every_card_of_the_model(by_hand: hosttree.HostTree):
    (by_hand.root / "etc/rc.local").unlink()
    leftovers = hand_made.find(by_hand.root)
    found = pci.read(by_hand.root)
    assert hand_made.suggest_devices(leftovers, found) == "10de:1bb0"
    nothing = decide(by_hand.root, "")
    assert hand_made.find_unclaimed(leftovers, found, nothing.outcome) == (
        "0000:83:00.0",
        "0000:84:00.0",
        "0000:85:00.0",
    )


def test_json_of_the_plan_holds_the_same(
    by_hand: hosttree.HostTree, capsys: pytest.CaptureFixture[str]
):
    command = ["--root", str(by_hand.root), "--json", "plan", "--devices", "10de:1bb0"]
    assert cli.main(command) == 0
    leftovers = json.loads(capsys.readouterr().out)["leftovers"]
    assert [each["path"] for each in leftovers][:1] == ["/etc/rc.local"]
    assert leftovers[1]["parts"] == [{"line": 1, "text": "pci_stub ids=10de:1bb0"}]


def test_what_the_charm_itself_writes_is_not_a_leftover(host: hosttree.HostTree):
    planned = decide(host.root, "10de:1bb0@0000:83:00.0").plan
    assert planned.files
    for change in planned.files:
        assert leftovers.OWN_HEADER in (change.file.content or "")
        host.write(change.file.path, change.file.content or "")
    assert leftovers.find(host.root) == ()
    assert {change.file.path for change in planned.files} <= {
        file.path for file in boot_files.owned_files("pci-passthrough")
    }


@pytest.mark.parametrize(
    ("path", "content", "parts", "can_go"),
    [
        pytest.param(
            "etc/rc.local",
            "#!/bin/sh -e\n# rc.local\n/usr/local/bin/vfiobind 0000:83:00.0 84:00.0\nexit 0\n",
            [(3, "/usr/local/bin/vfiobind 0000:83:00.0 84:00.0")],
            True,
            id="rc.local that calls a script",
        ),
        pytest.param(
            "etc/rc.local",
            "#!/bin/sh -e\nethtool -K eno1 lro off\nvfiobind 0000:83:00.0\n",
            [(3, "vfiobind 0000:83:00.0")],
            False,
            id="rc.local with work of its own",
        ),
        pytest.param(
            "etc/rc.local",
            "#!/bin/sh\nvfiobind() {\necho never closed\n/opt/start-database\n",
            [(2, "vfiobind() {")],
            False,
            id="function without an end",
        ),
        pytest.param(
            "etc/rc.local", "#!/bin/sh\n# vfiobind 0000:83:00.0\n", [], None, id="commented out"
        ),
        pytest.param("etc/rc.local", "", [], None, id="empty"),
        pytest.param(
            "etc/rc.local",
            "#!/bin/sh\necho 10de 1bb0 > /sys/bus/pci/drivers/pci-stub/new_id\n",
            [(2, "echo 10de 1bb0 > /sys/bus/pci/drivers/pci-stub/new_id")],
            True,
            id="without a function",
        ),
        pytest.param(
            "usr/local/sbin/vfiobind",
            f"#!/bin/sh\n{GUIDE_RC_LOCAL}",
            [],
            True,
            id="the script that rc.local calls",
        ),
        pytest.param(
            "etc/modules-load.d/gpu.conf",
            "# for guests\nvfio-pci\nbr_netfilter\n",
            [(2, "vfio-pci")],
            False,
            id="modules-load.d",
        ),
        pytest.param("etc/modules", "vfio_ccw\nloop\n", [], None, id="another vfio module"),
        pytest.param(
            "etc/modprobe.d/vfio.conf",
            "options vfio-pci ids=10de:1bb0,10de:10f0 disable_vga=1\n"
            "softdep nouveau pre: vfio-pci\n",
            [
                (1, "options vfio-pci ids=10de:1bb0,10de:10f0 disable_vga=1"),
                (2, "softdep nouveau pre: vfio-pci"),
            ],
            True,
            id="modprobe.d",
        ),
        pytest.param(
            "etc/modprobe.d/nvidia.conf", "blacklist nouveau\n", [], None, id="a mere blacklist"
        ),
        pytest.param(
            "etc/default/grub.d/50-vfio.cfg",
            'GRUB_CMDLINE_LINUX="$GRUB_CMDLINE_LINUX'
            ' amd_iommu=on iommu=pt vfio-pci.ids=10de:1bb0"\n',
            [(1, "amd_iommu=on iommu=pt vfio-pci.ids=10de:1bb0")],
            False,
            id="a GRUB drop-in",
        ),
        pytest.param(
            "etc/default/grub.d/10-x.cfg",
            'GRUB_CMDLINE_LINUX="$GRUB_CMDLINE_LINUX intel_iommu=off"\n',
            [],
            None,
            id="an IOMMU that somebody wants off",
        ),
        pytest.param(
            "etc/default/grub",
            '# GRUB_CMDLINE_LINUX="intel_iommu=on"\nGRUB_CMDLINE_LINUX_DEFAULT="quiet xiommu=pt"\n',
            [],
            None,
            id="a comment and another option",
        ),
    ],
)
def test_variations(
    host: hosttree.HostTree,
    path: str,
    content: str,
    parts: list[tuple[int, str]],
    can_go: bool | None,
):
    host.write(path, content)
    found = [each for each in leftovers.find(host.root) if each.path == f"/{path}"]
    if can_go is None:
        assert found == []
    else:
        assert [(part.line, part.text) for part in found[0].parts] == parts
        assert found[0].can_go is can_go


EARLY = """\
#!/bin/sh
PREREQ=""
prereqs() { echo "$PREREQ"; }
case $1 in prereqs) prereqs; exit 0;; esac
# never 0000:82:00.0
for dev in 0000:83:00.0 0000:83:00.1
do
 echo "vfio-pci" > /sys/bus/pci/devices/$dev/driver_override
 echo "$dev" > /sys/bus/pci/drivers/vfio-pci/bind
done
"""
ADDRESSES = ("0000:83:00.0", "0000:83:00.1")


class TestOtherGuides:
    """What other guides than the Charm Guide have an operator write."""

    @pytest.fixture
    def host(self, host: hosttree.HostTree) -> hosttree.HostTree:
        host.function("0000:82:00.0", "126f:2263", 0x010802, driver="nvme")
        return host

    @pytest.mark.parametrize(
        ("path", "text", "addresses", "ids"),
        [
            ("etc/initramfs-tools/scripts/init-top/vfio.sh", EARLY, ADDRESSES, ()),
            ("etc/initramfs-tools/scripts/local-top/x", EARLY, ADDRESSES, ()),
            ("usr/lib/dracut/modules.d/20vfio/vfio-pci-override.sh", EARLY, ADDRESSES, ()),
            ("usr/local/sbin/gpus", EARLY, ADDRESSES, ()),
            ("etc/libvirt/hooks/qemu", EARLY, ADDRESSES, ()),
            (
                "etc/systemd/system/gpus.service",
                "[Service]\nExecStart=driverctl --nosave set-override 0000:83:00.0 vfio-pci\n",
                ADDRESSES[:1],
                (),
            ),
            (
                "etc/rc.local",
                "#!/bin/sh\nDEVS='0000:83:00.0 83:00.1'\nfor d in $DEVS; do\n"
                "echo vfio-pci > /sys/bus/pci/devices/$d/driver_override\ndone\n",
                ADDRESSES,
                (),
            ),
            (
                "etc/rc.local",
                '#!/bin/sh\necho "10DE 1bb0" > "/sys/bus/pci/drivers/vfio-pci/new_id"\n',
                (),
                ("10de:1bb0",),
            ),
            ("etc/driverctl.d/0000:83:00.0", "vfio-pci\n", ADDRESSES[:1], ()),
            ("etc/driverctl.d/pci-0000:83:00.0", "vfio-pci\n", ADDRESSES[:1], ()),
            ("etc/driverctl.d/0000:83:00.0", "mlx5_vfio_pci\n", ADDRESSES[:1], ()),
            ("var/lib/cloud/scripts/per-boot/gpus", EARLY, ADDRESSES, ()),
            (
                "etc/cron.d/gpus",
                "@reboot root echo 0000:83:00.0 > /sys/bus/pci/drivers/vfio-pci/bind\n",
                ADDRESSES[:1],
                (),
            ),
            (
                "etc/crontab",
                "@reboot root driverctl set-override 0000:83:00.0 vfio-pci\n",
                ADDRESSES[:1],
                (),
            ),
            (
                "etc/tmpfiles.d/gpus.conf",
                "w /sys/bus/pci/devices/0000:83:00.0/driver_override - - - - vfio-pci\n",
                ADDRESSES[:1],
                (),
            ),
            ("etc/dpdk/interfaces", "pci 0000:83:00.0 vfio-pci\n", ADDRESSES[:1], ()),
            (
                "etc/modprobe.d/vfio.conf",
                "install vfio-pci echo vfio-pci > /sys/bus/pci/devices/0000:83:00.0/driver_override"
                "; modprobe -i vfio-pci\n",
                ADDRESSES[:1],
                (),
            ),
            (
                "etc/modprobe.d/vfio.conf",
                "install nvidia modprobe vfio-pci ids=10de:1bb0; modprobe -i nvidia\n",
                (),
                ("10de:1bb0",),
            ),
            (
                "etc/default/grub.d/x.cfg",
                "GRUB_CMDLINE_LINUX=\"$GRUB_CMDLINE_LINUX vfio-pci.ids='10de:1bb0,10de:10f0'\"\n",
                (),
                ("10de:10f0", "10de:1bb0"),
            ),
            (
                "etc/default/grub.d/x.cfg",
                'GRUB_CMDLINE_LINUX="$GRUB_CMDLINE_LINUX vfio-pci.ids=\\"10de:1bb0\\""\n',
                (),
                ("10de:1bb0",),
            ),
            (
                "etc/udev/rules.d/10-vfio.rules",
                'ACTION=="add", SUBSYSTEM=="pci", KERNEL=="0000:83:00.0", \\\n'
                '  ATTR{driver_override}="vfio-pci"\n',
                ADDRESSES[:1],
                (),
            ),
            (
                "etc/udev/rules.d/10-vfio.rules",
                'SUBSYSTEM=="pci", ATTR{vendor}=="0x10de", ATTR{device}=="0x1BB0",'
                ' ATTR{driver_override}="vfio-pci"\n',
                (),
                ("10de:1bb0",),
            ),
            (
                "etc/modprobe.d/vfio.conf",
                'options vfio-pci ids="10de:1bb0,10DE:10f0"\noptions vfio-pci disable_vga=1\n',
                (),
                ("10de:10f0", "10de:1bb0"),
            ),
            (
                "etc/modprobe.d/vfio.conf",
                "options vfio-pci \\\n  ids='10de:1bb0'\n",
                (),
                ("10de:1bb0",),
            ),
            (
                "etc/modprobe.d/vfio.conf",
                "alias pci:v000010DEd00001BB0sv*sd*bc*sc*i* vfio-pci\n",
                (),
                ("10de:1bb0",),
            ),
            (
                "etc/dracut.conf.d/vfio.conf",
                'add_drivers+=" vfio vfio_iommu_type1 vfio_pci "\n'
                'kernel_cmdline+=" rd.driver.pre=vfio-pci vfio-pci.ids=10de:1bb0 "\n',
                (),
                ("10de:1bb0",),
            ),
            ("etc/dracut.conf", 'force_drivers+=" vfio_pci "\n', (), ()),
            (
                "etc/kernel/cmdline",
                "root=ZFS=rpool quiet intel_iommu=on vfio-pci.ids=10de:1bb0\n",
                (),
                ("10de:1bb0",),
            ),
            (
                "etc/default/grub",
                'GRUB_CMDLINE_LINUX_DEFAULT="quiet splash \\\nintel_iommu=on \\\n'
                'vfio-pci.ids=10de:1bb0,10de:10f0"\n',
                (),
                ("10de:10f0", "10de:1bb0"),
            ),
            (
                "etc/default/grub.d/x.cfg",
                'GRUB_CMDLINE_LINUX_DEFAULT+=" vfio-pci.ids=10de:1bb0"\n',
                (),
                ("10de:1bb0",),
            ),
            (
                "etc/default/grub.d/x.cfg",
                'export GRUB_CMDLINE_LINUX=vfio-pci.ids=10de:1bb0 # "\n',
                (),
                ("10de:1bb0",),
            ),
            (
                "etc/default/grub.d/x.cfg",
                'GPUS=pci-stub.ids=10de:1bb0\nGRUB_CMDLINE_LINUX="$GRUB_CMDLINE_LINUX ${GPUS}"\n',
                (),
                ("10de:1bb0",),
            ),
        ],
    )
    def test_are_named_with_what_they_mean(
        self,
        host: hosttree.HostTree,
        path: str,
        text: str,
        addresses: tuple[str, ...],
        ids: tuple[str, ...],
    ):
        host.write(path, text)
        (found,) = leftovers.find(host.root)
        assert found.path == f"/{path}"
        assert (found.addresses, found.ids) == (addresses, ids)
        assert all(text.splitlines()[part.line - 1] for part in found.parts)

    @pytest.mark.parametrize(
        ("path", "text"),
        [
            ("etc/initramfs-tools/scripts/init-top/x", "#!/bin/sh\n# vfio-pci driver_override\n"),
            ("etc/initramfs-tools/scripts/init-top/x", "#!/bin/sh\nmodprobe vfio-pci\n"),
            ("usr/local/bin/tool", "#!/bin/sh\nlspci -nnk | grep vfio-pci\n"),
            ("usr/local/bin/tool", b"\x7fELF" + b"\0" * 4096),
            ("etc/systemd/system/x.service", "[Service]\nExecStart=/bin/true\n"),
            ("etc/driverctl.d/0000:83:00.0", "nvme\n"),
            ("etc/udev/rules.d/x.rules", 'SUBSYSTEM=="vfio", GROUP="kvm"\n'),
            ("etc/udev/rules.d/x.rules", '# ATTR{driver_override}="vfio-pci"\n'),
            ("etc/modprobe.d/x.conf", "install bnx2x /bin/true\n"),
            ("etc/dracut.conf.d/x.conf", 'add_drivers+=" nvme "\n'),
            ("etc/kernel/cmdline", "root=/dev/sda quiet\n"),
            ("etc/netplan/50-cloud-init.yaml", "network:\n  version: 2\n"),
            ("etc/default/grub.d/x.cfg", 'GRUB_CMDLINE_XEN="iommu=pt"\n'),
        ],
    )
    def test_are_told_from_what_is_somebody_elses(
        self, host: hosttree.HostTree, path: str, text: str | bytes
    ):
        host.write(path, text)
        assert leftovers.find(host.root) == ()

    @pytest.mark.parametrize(
        ("path", "text"),
        [
            ("etc/crontab", "0 0 * * * root driverctl list-devices\n"),
            ("etc/tmpfiles.d/x.conf", "d /run/vfio-pci 0755\n"),
            ("etc/dpdk/interfaces", "# pci 0000:83:00.0 vfio-pci\npci 0000:83:00.0 igb_uio\n"),
            ("etc/driverctl.d/0000:83:00.0", "nouveau\n"),
            ("etc/modprobe.d/x.conf", "install nouveau /bin/false\n"),
        ],
    )
    def test_are_not_what_binds_nothing_to_vfio(
        self, host: hosttree.HostTree, path: str, text: str
    ):
        host.write(path, text)
        assert leftovers.find(host.root) == ()

    def test_are_no_file_of_a_packages_to_delete(self, host: hosttree.HostTree):
        host.write("etc/crontab", "@reboot root driverctl set-override 0000:83:00.0 vfio-pci\n")
        assert find_one(host.root, "/etc/crontab").advice == "delete these lines"

    def test_have_modprobe_run_a_script_which_is_named_too(self, host: hosttree.HostTree):
        host.write("etc/modprobe.d/local.conf", "install vfio-pci /sbin/vfio-pci-override-vga.sh\n")
        host.write("sbin/vfio-pci-override-vga.sh", EARLY, 0o755)
        line, script = leftovers.find(host.root)
        assert (line.path, line.parts) == (
            "/etc/modprobe.d/local.conf",
            (leftovers.Part(1, "install vfio-pci /sbin/vfio-pci-override-vga.sh"),),
        )
        assert (script.path, script.addresses) == ("/sbin/vfio-pci-override-vga.sh", ADDRESSES)
        assert script.reason == "it binds devices for /etc/modprobe.d/local.conf"
        (host.root / "sbin/vfio-pci-override-vga.sh").unlink()
        assert [each.path for each in leftovers.find(host.root)] == ["/etc/modprobe.d/local.conf"]

    def test_load_the_driver_early_by_the_command_line(self, host: hosttree.HostTree):
        host.write(
            "etc/default/grub.d/x.cfg",
            'GRUB_CMDLINE_LINUX_DEFAULT="quiet rd.driver.pre=vfio-pci kvm.ignore_msrs=1"\n',
        )
        (found,) = leftovers.find(host.root)
        assert found.parts == (leftovers.Part(1, "rd.driver.pre=vfio-pci"),)

    def test_make_vfs_that_the_charm_does_not(self, host: hosttree.HostTree):
        host.write(
            "etc/netplan/60-vfs.yaml",
            "network:\n  ethernets:\n    eno1:\n      virtual-function-count: 8\n",
        )
        host.write(
            "etc/udev/rules.d/70-vfs.rules",
            'ACTION=="add", KERNEL=="eno1", ATTR{device/sriov_numvfs}="8"\n',
        )
        rule, plan = leftovers.find(host.root)
        assert [each.can_go for each in (rule, plan)] == [False, False]
        assert plan.parts == (leftovers.Part(4, "virtual-function-count: 8"),)
        assert (
            plan.advice
            == rule.advice
            == "keep it while the charm claims these VFs, or have vfs make them"
        )

    def test_are_not_hidden_by_the_addresses_of_one_file(self, host: hosttree.HostTree):
        host.write("etc/rc.local", GUIDE_RC_LOCAL.replace("vfiobind 0000:84:00.0\n", ""))
        host.write("etc/modprobe.d/vfio.conf", "options vfio-pci ids=126f:2263,10de:1bb0\n")
        found = leftovers.find(host.root)
        suggested = hand_made.suggest_devices(found, pci.read(host.root))
        assert suggested == "10de:1bb0@0000:83:00.0,126f:2263"
        decision = decide(host.root, "gpu=10de:1bb0@0000:83:00.0")
        assert hand_made.find_unclaimed(found, decision.host, decision.outcome) == ("0000:82:00.0",)
        text = re.sub(r"\n  ", " ", plan_text.plan_text(decision, found))
        assert "or the next boot leaves 0000:82:00.0 to the host's drivers" in text

    def test_say_by_which_option_what_they_set_stays(self, host: hosttree.HostTree):
        host.write(
            "etc/default/grub.d/x.cfg",
            'GRUB_CMDLINE_LINUX="intel_iommu=on,relax_rmrr iommu=pt intremap=no_x2apic_optout"\n',
        )
        (found,) = leftovers.find(host.root)
        assert found.advice.endswith(
            "; iommu-passthrough=true keeps iommu=pt,"
            " kernel-options keeps intel_iommu=on,relax_rmrr"
        )

    def test_of_another_charm_are_that_charms_to_change(self, host: hosttree.HostTree):
        host.write(
            "etc/default/grub.d/90-sysconfig.cfg",
            "# Juju generated file - do not edit manually\n"
            'GRUB_CMDLINE_LINUX_DEFAULT="$GRUB_CMDLINE_LINUX_DEFAULT intel_iommu=on"\n',
        )
        (found,) = leftovers.find(host.root)
        assert found.advice.startswith(
            "set them otherwise in the charm that writes this file (sysc"
        )

    def test_that_are_no_files_are_passed_over(self, host: hosttree.HostTree):
        os.mkfifo(host.root / "etc/modprobe.d/x.conf")
        (host.root / "etc/driverctl.d/0000:83:00.0").mkdir(parents=True)
        assert leftovers.find(host.root) == ()


def test_a_link_to_another_place_is_reported_once(host: hosttree.HostTree):
    """Debian and Ubuntu link modules-load.d/modules.conf to /etc/modules."""
    host.write("etc/modules", "vfio_pci\n")
    link = host.root / "etc/modules-load.d/modules.conf"
    link.parent.mkdir(exist_ok=True)
    link.unlink(missing_ok=True)
    link.symlink_to("../modules")
    assert [each.path for each in leftovers.find(host.root)] == ["/etc/modules"]


def test_ids_with_a_subsystem_name_the_model(host: hosttree.HostTree):
    host.write("etc/modprobe.d/v.conf", "options vfio-pci ids=10DE:1BB0:1043:85AA,8086:10d3\n")
    assert find_one(host.root, "/etc/modprobe.d/v.conf").ids == ("10de:1bb0", "8086:10d3")


def test_text_that_is_no_utf_8_is_read_all_the_same(host: hosttree.HostTree):
    host.write("etc/modules", b"# caf\xe9\nvfio_pci\n")
    assert find_one(host.root, "/etc/modules").parts == (leftovers.Part(2, "vfio_pci"),)
