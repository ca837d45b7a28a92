"""Hosts that people have reported in the open, from their /sys on: what the charm makes of them.

Each names the report. A report is one of a kind: its neighbours stand beside it.
"""

from __future__ import annotations

import dataclasses
import itertools
import pathlib
from collections.abc import Callable
from typing import Any

import pytest
from harness import hosttree, made
from harness.world import World

from passthrough import errors, rebind, survey
from passthrough.host import pci
from passthrough.reporting import inventory, words
from passthrough.reporting.status import Kind, Status
from passthrough.reporting.verify import checklist
from passthrough.state import record

DENIED = "vfio-pci.disable_denylist=1"
MODPROBE = "etc/modprobe.d/pci-passthrough.conf"

Hosts = Callable[..., World]


@pytest.fixture
def hosts(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> Hosts:
    """Make worlds whose hosts have no PCI function yet."""
    numbers = itertools.count()

    def make(**values: Any) -> World:
        tree = hosttree.HostTree(tmp_path / str(next(numbers)), **{"ubuntu": "22.04", **values})
        return World.of(tree, monkeypatch)

    return make


def card(world: World, address: str, identity: str, class_code: int, **values: Any) -> None:
    """A card below a root port of its own."""
    above = f"0000:{int(address[5:7], 16) - 1:02x}:01.0"
    world.tree.bridge(above)
    world.tree.function(address, identity, class_code, parent=above, **values)


def claimed(world: World, devices: str, **config: object) -> list[str]:
    """The functions that a configuration claims, companions too."""
    return list(world.decide(devices, **config).outcome.addresses)


def refused(world: World, devices: str, **config: object) -> list[str]:
    """Why a configuration does not claim what it asks for."""
    return [words.refusal(each) for each in world.decide(devices, **config).refusals]


def kept_off(world: World, devices: str, **config: object) -> list[str]:
    """The modules that modprobe.d would keep off."""
    changes = world.decide(devices, **config).plan.files
    lines = [
        line
        for change in changes
        if change.file.path == MODPROBE
        for line in (change.file.content or "").splitlines()
    ]
    return [line.removeprefix("blacklist ") for line in lines if line.startswith("blacklist ")]


class TestHgx:
    """bigstack-oss/cubecos #259: eight GPUs, four NVSwitches in one group, on nvidia-nvswitch.

    The host's fabric manager needs the switches, and the module nvidia with them.
    """

    GPUS = ("18", "2a", "3a", "5d", "9a", "ab", "ba", "db")

    @pytest.fixture
    def host(self, hosts: Hosts) -> World:
        world = hosts()
        groups = {}
        for number, bus in enumerate(self.GPUS):
            card(world, f"0000:{bus}:00.0", "10de:2335", 0x030200, driver="nvidia")
            groups[f"0000:{bus}:00.0"] = 50 + number
        world.tree.bridge("0000:04:00.0")
        groups["0000:04:00.0"] = 114
        for bus in ("05", "06", "07", "08"):
            address = f"0000:{bus}:00.0"
            world.tree.function(
                address, "10de:22a3", 0x068000, parent="0000:04:00.0", driver="nvidia-nvswitch"
            )
            groups[address] = 114
        world.tree.module("nvidia", "nvidia", "nvidia-nvswitch")
        world.tree.iommu_on(groups)
        return world

    def test_the_switches_that_stay_keep_their_module(self, host: World):
        assert kept_off(host, "h200=10de:2335") == ["nouveau", "nvidia_drm", "nvidiafb"]

    def test_so_they_do_while_they_have_no_driver_yet(self, host: World):
        host.tree.aliases("pci:v000010DEd*sv*sd*bc06sc80i00* nvidia")
        for bus in ("05", "06", "07", "08"):
            host.tree.bind(f"0000:{bus}:00.0", None)
        assert "nvidia" not in kept_off(host, "h200=10de:2335")

    @pytest.mark.parametrize("named", [True, False], ids=["aliases", "no-aliases"])
    def test_so_they_do_where_the_kernel_does_not_show_it(self, host: World, named: bool):
        """A driver of which no module is told: whatever its modalias names may be needed."""
        if named:
            host.tree.aliases("pci:v000010DEd*sv*sd*bc06sc80i00* nvidia")
        for driver in ("nvidia", "nvidia-nvswitch"):
            (host.root / f"sys/bus/pci/drivers/{driver}/module").unlink()
        assert "nvidia" not in kept_off(host, "h200=10de:2335")
        with pytest.raises(
            errors.OptionError, match=r"nvidia-nvswitch \(module nvidia\); it is not claimed"
        ):
            host.decide("h200=10de:2335", blacklist_drivers="nvidia")

    def test_the_module_is_not_taken_from_them_by_name(self, host: World):
        with pytest.raises(errors.OptionError) as caught:
            host.decide("h200=10de:2335", blacklist_drivers="nvidia")
        assert str(caught.value).startswith(
            'blacklist-drivers: item "nvidia": 0000:05:00.0 (10de:22a3) is on nvidia-nvswitch'
            " (module nvidia); it is not claimed"
        )

    def test_they_go_to_guests_where_the_operator_says_so(self, host: World):
        items = '[{alias: h200, id: "10de:2335"}, {alias: nvs, id: "10de:22a3", %s}]'
        assert len(claimed(host, items % "allow-in-use: true")) == 12
        assert "nvidia" in kept_off(host, items % "allow-in-use: true")


@pytest.mark.parametrize(
    ("driver", "module", "identity", "class_code"),
    [
        ("c6xx", "qat_c62x", "8086:37c8", 0x0B4000),
        ("4xxx", "qat_4xxx", "8086:4940", 0x0B4000),
        ("nvidia-gpu", "i2c_nvidia_gpu", "10de:1aed", 0x0C8000),
        ("serial", "8250_pci", "1b36:0002", 0x070002),
        ("megaraid_sas", "megaraid_sas", "1000:005d", 0x010400),
    ],
)
def test_a_module_is_not_a_driver(hosts: Hosts, driver, module, identity, class_code):
    """intel/QAT_Engine #104, intel-device-plugins #1645: qat_c62x is c6xx in sysfs."""
    world = hosts()
    for bus in ("82", "84"):
        card(world, f"0000:{bus}:00.0", identity, class_code, driver=driver)
    world.tree.module(module, driver)
    world.tree.iommu_on()
    item = f"x={identity}@0000:82:00.0"
    with pytest.raises(errors.OptionError, match=f'item "{module}": 0000:84:00.0'):
        world.decide(item, blacklist_drivers=module, kernel_options=DENIED)
    both = kept_off(world, f"x={identity}", blacklist_drivers=module, kernel_options=DENIED)
    assert both == [module]


class TestSharedId:
    """bigstack-oss/cubecos #312: RTX PRO 6000, whose 48 VFs have the PF's own id.

    They are on the driver nvidia, and vGPUs are cut from them.
    """

    VFS = (
        *(f"0001:04:00.{number}" for number in range(2, 8)),
        *(f"0001:04:01.{number}" for number in range(8)),
    )

    @pytest.fixture
    def host(self, hosts: Hosts) -> World:
        world = hosts(ubuntu="24.04", iommu_table="IVRS")
        world.tree.install_nova(version="3:31.0.0-0ubuntu1")
        world.tree.bridge("0001:00:01.0")
        groups = {"0001:00:01.0": 1}
        for number, bus in enumerate(("04", "c8")):
            address = f"0001:{bus}:00.0"
            world.tree.function(
                address,
                "10de:2bb5",
                0x030200,
                parent="0001:00:01.0",
                driver="nvidia",
                total_vfs=48,
            )
            groups[address] = 10 + number
        world.tree.virtual_functions("0001:04:00.0", list(self.VFS), "10de:2bb5", driver="nvidia")
        for number, address in enumerate(self.VFS):
            groups[address] = 100 + number
            types = world.tree.directory(address) / "nvidia/creatable_vgpu_types"
            types.parent.mkdir()
            types.write_text("ID    : vGPU Name\n1518  : NVIDIA RTX Pro 6000 Blackwell DC-2B\n")
        world.tree.iommu_on(groups)
        return world

    @pytest.mark.parametrize(
        "item", ["gpu=10de:2bb5/PF", '[{alias: gpu, id: "10de:2bb5", device-type: type-PF}]']
    )
    def test_the_card_without_vfs_goes_to_guests_and_no_vf_does(self, host: World, item: str):
        assert claimed(host, item) == ["0001:c8:00.0"]
        (refusal,) = host.decide(item).refusals
        assert (refusal.rule, refusal.address) == ("vfs-in-use", "0001:04:00.0")

    def test_the_vfs_go_where_they_are_asked_for(self, host: World):
        assert claimed(host, "vgpu=10de:2bb5/VF@0001:04:01.*") == list(self.VFS[6:])

    def test_without_the_type_nothing_is_done(self, host: World):
        assert host.hook("gpu=10de:2bb5").message.endswith(
            ": 0001:04:00.0 is SR-IOV capable, so alias gpu (type-PCI)"
            " never matches it; write the item as gpu=10de:2bb5/PF"
        )
        assert host.tools.calls == []
        assert host.tree.driver_of("0001:c8:00.0") == "nvidia"


def test_an_alias_of_two_types_is_asked_to_be_two(hosts: Hosts):
    """The advice, pasted, is taken: Nova wants one type for an alias."""
    world = hosts()
    card(world, "0000:83:00.0", "10de:2330", 0x030200, driver="nvidia", total_vfs=32)
    card(world, "0000:85:00.0", "10de:1db4", 0x030200, driver="nvidia")
    world.tree.iommu_on()
    for first, second in (("g=10de:2330", "g=10de:1db4"), ("g|h=10de:2330", "h=10de:1db4")):
        (said,) = refused(world, f"{first}, {second}")
        asked = said.rpartition("an alias has one type: ")[2]
        assert asked == "g-pf=10de:2330/PF"
        assert claimed(world, f"{asked}, {second}") == ["0000:83:00.0", "0000:85:00.0"]
    # Where nothing else has the alias, the type is all that it needs.
    (said,) = refused(world, "g=10de:2330, other=10de:1db4")
    assert said.endswith("; write the item as g=10de:2330/PF")


class TestDenylist:
    """intel-device-plugins-for-kubernetes #517: vfio-pci refuses QAT of the first generation."""

    CARDS = ("0000:b1:00.0", "0000:b3:00.0")

    @pytest.fixture
    def host(self, hosts: Hosts) -> World:
        world = hosts()
        for address in self.CARDS:
            card(world, address, "8086:37c8", 0x0B4000, driver="c6xx", total_vfs=16)
        world.tree.iommu_on()
        world.tree.set_command_line("quiet splash intel_iommu=on")
        return world

    def test_the_way_out_is_said_before_anything_is_done(self, host: World):
        said = host.hook("qat=8086:37c8/PF")
        assert said.kind == "blocked"
        assert said.message.startswith(
            "devices: item 1 qat=8086:37c8/PF: 0000:b1:00.0 is on vfio-pci's denylist"
        )
        assert f"kernel-options={DENIED}" in said.message
        assert host.tools.calls == []

    def test_with_the_way_out_one_reboot_brings_the_devices(self, host: World):
        said = host.hook("qat=8086:37c8/PF", kernel_options=DENIED)
        assert said.message.startswith(f"reboot required: the running kernel lacks {DENIED}")
        # No driver is asked to let go for a probe that would fail.
        assert {host.tree.driver_of(each) for each in self.CARDS} == {"c6xx"}
        host.reboot()
        assert host.hook().message == "qat: 2 ready"

    @pytest.mark.parametrize(
        ("line", "option", "lifted"),
        [
            ("", "vfio_pci.disable_denylist", True),
            ("", "vfio-pci.disable_denylist=Y", True),
            ("", "vfio-pci.disable_denylist=on", True),
            ("vfio-pci.disable_denylist", "", True),
            ("vfio_pci.disable_denylist=yes", "", True),
            ("", "vfio-pci.disable_denylist=0", False),
            ("vfio-pci.disable_denylist=off", "", False),
            ("vfio-pci.disable_denylist=0 vfio-pci.disable_denylist=1", "", True),
            ("vfio-pci.disable_denylist=1", "vfio_pci.disable_denylist=0", False),
        ],
    )
    def test_the_way_out_as_the_kernel_reads_it(
        self, host: World, line: str, option: str, lifted: bool
    ):
        host.tree.set_command_line(f"quiet splash intel_iommu=on {line}")
        found = claimed(host, "qat=8086:37c8/PF", kernel_options=option)
        assert found == (list(self.CARDS) if lifted else [])

    def test_a_host_that_has_lifted_it_needs_no_option(self, host: World):
        host.tree.write("sys/module/vfio_pci/parameters/disable_denylist", "Y\n")
        assert claimed(host, "qat=8086:37c8/PF") == list(self.CARDS)

    @pytest.mark.parametrize("identity", ["8086:4940", "8086:37c7"])
    def test_its_neighbours_are_not_on_it(self, hosts: Hosts, identity: str):
        world = hosts()
        card(world, "0000:b1:00.0", identity, 0x0B4000, driver="4xxx", total_vfs=16)
        world.tree.iommu_on()
        assert claimed(world, f"qat={identity}/PF") == ["0000:b1:00.0"]


class TestReservedRegions:
    """harvester #7340: ineligible for IOMMU domain attach due to platform RMRR requirement."""

    MSI = "0x00000000fee00000 0x00000000feefffff msi\n"

    def host(self, hosts: Hosts, kind: str) -> World:
        world = hosts()
        card(world, "0000:04:00.0", "14e4:1657", 0x020000, driver="tg3")
        world.tree.iommu_on({"0000:04:00.0": 40})
        region = f"0x00000000bdffd000 0x00000000bdffffff {kind}\n"
        world.tree.write("sys/kernel/iommu_groups/40/reserved_regions", region + self.MSI)
        return world

    def test_a_direct_region_keeps_a_device_from_every_guest(self, hosts: Hosts):
        world = self.host(hosts, "direct")
        (refusal,) = world.decide("nic=14e4:1657").refusals
        assert (refusal.rule, refusal.blocking) == ("reserved-region", True)
        assert "RMRR" in words.refusal(refusal)
        assert claimed(world, "nic=14e4:1657") == []
        rows = {row["address"]: row for row in inventory.describe(world.root, pci.read(world.root))}
        assert not rows["0000:04:00.0"]["claimable"]

    @pytest.mark.parametrize("kind", ["direct-relaxable", "reserved"])
    def test_another_one_does_not(self, hosts: Hosts, kind: str):
        assert claimed(self.host(hosts, kind), "nic=14e4:1657") == ["0000:04:00.0"]

    def test_what_an_older_charm_has_claimed_stays_and_is_not_offered(self, hosts: Hosts):
        world = self.host(hosts, "direct")
        taken = {"0000:04:00.0": "tg3"}
        known = record.Record(taken=taken, inherited=frozenset(taken))
        world.tree.bind("0000:04:00.0", "vfio-pci")
        facts = dataclasses.replace(survey.look(world.site), record=known)
        found = survey.decide(made.wanted("nic=14e4:1657"), facts)
        assert found.outcome.addresses == ("0000:04:00.0",)
        assert found.plan.record.inherited == taken.keys()
        assert found.nova.device_specs == ()


class TestOneGroup:
    """Several devices on offer in one group, of which one guest at a time can have any."""

    def test_pairs_of_gpus_behind_a_switch_count_once(self, hosts: Hosts):
        """Quansight/open-gpu-server #7: six V100, two to a group each."""
        world = hosts(iommu_table="IVRS")
        groups = {}
        for number, pair in enumerate((("27", "28"), ("43", "44"), ("c3", "c4"))):
            for bus in pair:
                card(world, f"0000:{bus}:00.0", "10de:1db4", 0x030200, driver="vfio-pci")
                groups[f"0000:{bus}:00.0"] = 30 + number
        world.tree.iommu_on(groups)
        found = world.decide("v100=10de:1db4")
        assert found.nova.notes[0] == (
            "0000:27:00.0 0000:28:00.0 share IOMMU group 30: one guest at a time can have any"
        )
        assert len(found.nova.notes) == 3
        assert world.hook("v100=10de:1db4").message.startswith(
            "v100: 6 ready (3 at once, one guest a group); 0000:27:00.0 0000:28:00.0 share"
        )

    @pytest.fixture
    def gpu(self, hosts: Hosts) -> World:
        world = hosts()
        world.tree.install_nova()
        card(world, "0000:01:00.0", "10de:1c82", 0x030000, driver="vfio-pci")
        world.tree.function("0000:01:00.1", "10de:0fb9", 0x040300, driver="vfio-pci")
        world.tree.iommu_on({"0000:01:00.0": 1, "0000:01:00.1": 1})
        return world

    @pytest.mark.parametrize(
        "items",
        [
            "gpu=10de:1c82, gpu=10de:0fb9",
            "gpu=10de:1c82, 10de:0fb9",
            "gpu|card=10de:1c82, card|x=10de:0fb9",
        ],
    )
    def test_the_sound_of_a_card_under_its_alias_is_a_mistake(self, gpu: World, items: str):
        """kata-containers #10622: Nova may give a guest the sound for its GPU."""
        (problem,) = gpu.decide(items).nova.problems
        assert words.sentence(problem).endswith(
            ": 0000:01:00.1 is a part of a card that item 1 asks for; a guest that gets it"
            " alone keeps the card from every other: take the item out, as what belongs to a card"
            " goes along by itself"
        )

    def test_so_it_is_before_any_iommu_is_on(self, hosts: Hosts):
        """Said first: not only behind the reboot that this would cost."""
        world = hosts()
        world.tree.install_nova()
        card(world, "0000:01:00.0", "10de:1c82", 0x030000, driver="nouveau")
        world.tree.function("0000:01:00.1", "10de:0fb9", 0x040300, driver="snd_hda_intel")
        for items in ("gpu=10de:1c82, gpu=10de:0fb9", "gpu=10de:0fb9, gpu=10de:1c82"):
            (problem,) = world.decide(items).nova.problems
            assert problem.subject == "0000:01:00.1"
        found = world.decide("gpu=10de:1c82, sound=10de:0fb9").nova
        assert (found.problems, found.notes) == ((), ())

    def test_under_an_alias_of_its_own_it_is_noted(self, gpu: World):
        found = gpu.decide("gpu=10de:1c82, sound=10de:0fb9").nova
        assert (found.problems, len(found.notes)) == ((), 1)

    def test_alone_the_card_is_all_there_is(self, gpu: World):
        found = gpu.decide("gpu=10de:1c82").nova
        assert (found.problems, found.notes) == ((), ())


class TestCompanions:
    """Functions of another kind, of the same slot and group."""

    def x710(self, hosts: Hosts, *groups: int) -> World:
        """ndn-dpdk #63: the ports of one card have two ids."""
        world = hosts(iommu_table="IVRS")
        world.tree.bridge("0000:40:01.1")
        for number, identity in enumerate(("15ff", "15ff", "104e", "104e")):
            world.tree.function(
                f"0000:44:00.{number}",
                f"8086:{identity}",
                0x020000,
                parent="0000:40:01.1",
                driver="i40e",
                total_vfs=32,
            )
        world.tree.iommu_on({f"0000:44:00.{n}": group for n, group in enumerate(groups)})
        return world

    def test_another_port_of_a_nic_is_none_whatever_its_id(self, hosts: Hosts):
        world = self.x710(hosts, 50, 51, 52, 53)
        assert claimed(world, "sfp=8086:104e/PF") == ["0000:44:00.2", "0000:44:00.3"]

    @pytest.mark.parametrize("allow", ["true", "false"])
    def test_a_refusal_for_the_group_does_not_ask_for_what_was_asked(self, hosts: Hosts, allow):
        world = self.x710(hosts, 44, 44, 44, 44)
        item = f"[{{alias: sfp, id: '8086:104e', device-type: type-PF, allow-in-use: {allow}}}]"
        reasons = refused(world, item)
        assert claimed(world, item) == []
        assert "0000:44:00.0 (8086:15ff, i40e), 0000:44:00.1 (8086:15ff, i40e)" in reasons[0]
        assert not any("companions: false" in each for each in reasons)
        assert not any(
            "with 0000:44:00.2" in each or "with 0000:44:00.3" in each for each in reasons
        )

    def test_an_fpgas_management_function_stays(self, hosts: Hosts):
        """Xilinx/XRT #2828: the user function in the guest, its own group."""
        world = hosts()
        card(world, "0000:af:00.0", "10ee:5004", 0x120000, driver="xclmgmt")
        world.tree.function("0000:af:00.1", "10ee:5005", 0x120000, driver="xocl")
        world.tree.iommu_on({"0000:af:00.0": 51, "0000:af:00.1": 52})
        assert claimed(world, "u250=10ee:5005") == ["0000:af:00.1"]

    @pytest.mark.parametrize(("group", "along"), [(2, 4), (3, 1)], ids=["one-group", "apart"])
    def test_a_gpus_other_functions_go_along_within_their_group(self, hosts: Hosts, group, along):
        """ultimate-macOS-KVM #213: GPU, audio, USB and UCSI."""
        world = hosts()
        card(world, "0000:01:00.0", "10de:2184", 0x030000, driver="nouveau")
        for number, (identity, code) in enumerate(
            (("10de:1aeb", 0x040300), ("10de:1aec", 0x0C0330), ("10de:1aed", 0x0C8000)), 1
        ):
            world.tree.function(f"0000:01:00.{number}", identity, code)
        groups = {f"0000:01:00.{number}": group for number in range(1, 4)}
        world.tree.iommu_on({"0000:01:00.0": 2, **groups})
        assert len(claimed(world, "gpu=10de:2184")) == along

    def test_what_an_older_charm_took_along_stays(self, hosts: Hosts):
        world = self.x710(hosts, 50, 51, 52, 53)
        taken = dict.fromkeys((f"0000:44:00.{number}" for number in range(4)), "i40e")
        known = record.Record(taken=taken, inherited=frozenset(taken))
        facts = dataclasses.replace(survey.look(world.site), record=known)
        found = survey.decide(made.wanted("sfp=8086:104e/PF"), facts)
        assert (found.outcome.addresses, found.plan.release) == (tuple(taken), ())
        assert found.plan.record.inherited == {"0000:44:00.0", "0000:44:00.1"}


class TestVariants:
    """dra-driver-nvidia-gpu #1199: Grace Hopper needs nvgrace_gpu_vfio_pci."""

    GPU = "0009:01:00.0"

    @pytest.fixture
    def host(self, hosts: Hosts) -> World:
        world = hosts(ubuntu="24.04", iommu_table="IORT")
        world.tree.install_nova()
        world.tree.bridge("0009:00:00.0", identity="10de:22b2")
        world.tree.function(self.GPU, "10de:2348", 0x030200, parent="0009:00:00.0")
        world.tree.iommu_on({"0009:00:00.0": 10, self.GPU: 11})
        world.tree.bind(self.GPU, "nvgrace_gpu_vfio_pci")
        (world.tree.directory(self.GPU) / "driver_override").write_text("nvgrace_gpu_vfio_pci\n")
        (world.tree.directory(self.GPU) / "vfio-dev/vfio0").mkdir(parents=True)
        return world

    def test_a_function_on_a_variant_is_ready_and_stays_there(self, host: World):
        assert host.decide("gh200=10de:2348").plan.bind == ()
        assert host.hook("gh200=10de:2348").message == "gh200: 1 ready"
        assert host.tree.driver_of(self.GPU) == "nvgrace_gpu_vfio_pci"
        assert [each["address"] for each in host.decide().nova.device_specs] == [self.GPU]

    def test_neither_does_a_boot_move_it(self, host: World):
        host.hook("gh200=10de:2348")
        files = host.tree.snapshot("etc/udev", "etc/initramfs-tools")
        assert files
        texts = [each for _, each in files.values() if isinstance(each, bytes)]
        assert not any(self.GPU.encode() in each for each in texts)

    def test_nor_does_a_rebind(self, host: World):
        host.hook("gh200=10de:2348")
        done = rebind.rebind(
            host.decide(), rebind.Chosen(), host.tools, progress=lambda sentence: None
        )
        assert done == {self.GPU: None}
        assert host.tree.driver_of(self.GPU) == "nvgrace_gpu_vfio_pci"

    def test_nor_does_what_its_override_says(self, host: World):
        host.tree.bind(self.GPU, None)
        (host.tree.directory(self.GPU) / "driver_override").write_text("nvgrace_gpu_vfio_pci\n")
        assert host.decide("gh200=10de:2348").plan.bind == ()

    def test_it_keeps_its_driver_when_it_is_claimed_no_more(self, host: World):
        host.hook("gh200=10de:2348")
        host.hook("")
        assert host.tree.driver_of(self.GPU) == "nvgrace_gpu_vfio_pci"


def test_what_is_behind_intel_vmd_is_told_so(hosts: Hosts):
    """open-mpi/hwloc #354: NVMe at 10000:01:00.0; Nova takes no domain above ffff."""
    world = hosts()
    card(world, "0000:d8:00.0", "8086:0a54", 0x010802, driver="nvme")
    world.tree.function("10000:01:00.0", "8086:0a54", 0x010802, driver="nvme")
    world.tree.iommu_on({"0000:d8:00.0": 1, "10000:01:00.0": 2})
    found = world.decide("nvme=8086:0a54")
    assert found.outcome.addresses == ("0000:d8:00.0",)
    (refusal,) = found.refusals
    assert (refusal.rule, refusal.address) == ("pci-domain", "10000:01:00.0")
    assert "is behind Intel VMD, and Nova takes no PCI domain above ffff" in words.refusal(refusal)


VMD = "PCI domains above ffff are Intel VMD's, and Nova takes none of them"


def test_an_address_behind_intel_vmd_is_told_so_wherever_one_is_given(hosts: Hosts):
    world = hosts()
    world.tree.function("0000:64:00.5", "8086:201d", 0x010400, driver="vmd")
    world.tree.function("10000:01:00.0", "8086:0a54", 0x010802, driver="nvme")
    world.tree.iommu_on({"0000:64:00.5": 40, "10000:01:00.0": 40})
    (refusal,) = world.decide("nvme=8086:0a54@10000:02:00.0").refusals
    assert words.refusal(refusal).endswith(f"10000:02:00.0 is not in this host ({VMD})")
    rows = {row["address"]: row for row in inventory.describe(world.root, pci.read(world.root))}
    assert rows["10000:01:00.0"]["reason"].startswith("is behind Intel VMD")
    with pytest.raises(rebind.RebindError) as in_vain:
        rebind.rebind(world.decide(), rebind.Chosen("10000:01:00.0"), world.tools)
    assert VMD in str(in_vain.value)
    (refusal,) = world.decide("nvme=8086:0a53@10000:01:00.0").refusals
    assert VMD in words.refusal(refusal)
    for item in ("8086:0a54", "vmd=8086:201d"):  # one without an alias, and the controller itself
        (refusal,) = world.decide(item).refusals
        assert words.refusal(refusal).endswith(
            "; what is behind Intel VMD shares its controller's group: turn VMD off in the"
            " firmware's settings"
        )
    for text in ("10000:01:00.0", "10000:01:00.0 Non-Volatile memory [0108]: Intel [8086:0a54]"):
        with pytest.raises(errors.OptionError) as caught:
            world.decide(text)
        assert VMD in str(caught.value)
    # To leave one out is what the message asks for, so that is taken as it is.
    item = "- {id: 8086:0a54, alias: nvme, exclude: '10000:*:*.*'}"
    assert [each.rule for each in world.decide(item).refusals] == ["absent"]
    given = world.decide("nvme=8086:0a54", host_exceptions="made-up=10000:01:00.0")
    assert [each.rule for each in given.refusals] == ["excepted"]


class TestHostExceptions:
    """What single hosts leave out, whatever the application's one option asks for."""

    HERE = "made-up=83:00.0"

    @pytest.fixture
    def host(self, hosts: Hosts) -> World:
        world = hosts()
        for bus in ("83", "84"):
            card(world, f"0000:{bus}:00.0", "10de:1bb0", 0x030000, driver="nouveau")
            world.tree.function(f"0000:{bus}:00.1", "10de:10f0", 0x040300, driver="snd_hda_intel")
        world.tree.iommu_on({f"0000:{b}:00.{n}": int(b) for b in ("83", "84") for n in (0, 1)})
        return world

    @pytest.mark.parametrize(
        "item", ["gpu=10de:1bb0", "gpu=10de:1bb0@8[34]:00.0", "- {id: 10de:1bb0, alias: gpu}"]
    )
    def test_a_card_stays_and_its_sound_with_it(self, host: World, item: str):
        found = host.decide(item, host_exceptions=self.HERE)
        assert found.outcome.addresses == ("0000:84:00.0", "0000:84:00.1")
        assert refused(host, item, host_exceptions=self.HERE) == [
            f"devices: {found.options.devices.items[0].label}: 0000:83:00.0 is left out on this"
            " host by host-exceptions"
        ]
        assert found.outcome.blocking == ()
        said = host.hook(item, host_exceptions=self.HERE)
        assert said.message == "gpu: 1 ready; left out by host-exceptions: 0000:83:00.0"

    def test_an_item_that_names_its_address_is_no_mistake_here(self, host: World):
        item = "gpu=10de:1bb1@0000:83:00.0, gpu=10de:1bb0@0000:84:00.0, gpu=10de:1bb0@83:00.0"
        found = host.decide(item, host_exceptions=self.HERE)
        assert found.outcome.addresses == ("0000:84:00.0", "0000:84:00.1")
        assert [(each.rule, each.item.position) for each in found.refusals] == [("excepted", 3)]

    @pytest.mark.parametrize("text", ["other=*:83:00.*", "made-up=99:00.0"])
    def test_another_hosts_or_another_address_does_nothing(self, host: World, text: str):
        assert len(claimed(host, "gpu=10de:1bb0", host_exceptions=text)) == 4
        assert refused(host, "gpu=10de:1bb0", host_exceptions=text) == []

    def test_where_all_is_left_out_nothing_matches(self, host: World):
        said = host.hook("gpu=10de:1bb0", host_exceptions="made-up.maas=*:*.*")
        assert said == Status(
            Kind.ACTIVE,
            "no matching device; left out by host-exceptions: 0000:83:00.0, 0000:84:00.0",
        )

    def test_what_was_claimed_is_given_back(self, host: World):
        host.hook("gpu=10de:1bb0")
        host.hook("gpu=10de:1bb0", host_exceptions=self.HERE)
        assert host.tree.driver_of("0000:83:00.0") == "nouveau"
        assert host.tree.driver_of("0000:84:00.0") == "vfio-pci"
        host.hook("gpu=10de:1bb0")
        assert host.tree.driver_of("0000:83:00.0") == "vfio-pci"

    def test_a_part_of_a_group_is_told_what_it_costs(self, host: World):
        for config in (
            {"devices": "gpu=10de:1bb0", "host_exceptions": "made-up=83:00.1"},
            {"devices": "[{alias: gpu, id: '10de:1bb0', exclude: '83:00.1'}]"},
        ):
            (refusal,) = host.decide(**config).refusals
            assert refusal.rule == "group-not-viable"
            assert words.refusal(refusal).endswith(
                "shares IOMMU group 83 with 0000:83:00.1 (10de:10f0, snd_hda_intel); leave out the"
                " whole group, or 0000:83:00.1 no more"
            )

    def test_a_host_without_a_name_is_left_alone(self, host: World):
        host.tree.write("proc/sys/kernel/hostname", "\n")
        with pytest.raises(errors.OptionError, match="does not tell its name"):
            host.hook("gpu=10de:1bb0", host_exceptions=self.HERE)
        assert len(claimed(host, "gpu=10de:1bb0")) == 4

    def test_list_tells_it(self, host: World):
        left_out = {"0000:83:00.0"}.__contains__
        found = inventory.describe(host.root, pci.read(host.root), excepts=left_out)
        rows = {row["address"]: row for row in found}
        assert not rows["0000:83:00.0"]["claimable"]
        assert rows["0000:83:00.0"]["reason"] == "is left out on this host by host-exceptions"
        assert rows["0000:84:00.0"]["claimable"]

    @pytest.mark.parametrize(
        "config",
        [
            {"devices": "- {id: 10de:2bb5, exclude: 0001:04:00.0}"},
            {"devices": "10de:2bb5", "host_exceptions": "made-up=0001:04:00.0"},
        ],
        ids=["exclude", "host-exceptions"],
    )
    def test_a_pf_that_is_left_out_brings_no_vf_in_its_place(self, hosts: Hosts, config):
        world = hosts()
        world.tree.function("0001:04:00.0", "10de:2bb5", 0x030200, driver="nvidia", total_vfs=4)
        world.tree.virtual_functions("0001:04:00.0", ["0001:04:00.4"], "10de:2bb5")
        world.tree.iommu_on({"0001:04:00.0": 1, "0001:04:00.4": 2})
        assert world.decide(**config).outcome.addresses == ()


class TestDevname:
    """risuorg/risu #109: devname in a device_spec of somebody else's is the PF and its VFs."""

    WAYS = (
        '[DEFAULT]\npci_passthrough_whitelist=[{"devname": "ens1f0", "physical_network": "p1"},'
        '{"devname": "ens1f1", "physical_network": "p2"}]\n',
        '[pci]\npassthrough_whitelist={"devname":"ens1f0","physical_network":"p1","trusted":"1"}\n',
        '[pci]\ndevice_spec = {"address": "0000:3b:00.0", "physical_network": "p1"}\n',
        '[pci]\ndevice_spec = {"address": "*:3b:02.*", "physical_network": "p1"}\n',
        '[pci]\ndevice_spec = {"product_id": "154C", "physical_network": null}\n',
    )

    def host(self, hosts: Hosts, conf: str) -> World:
        world = hosts()
        world.tree.install_nova()
        card(world, "0000:3b:00.0", "8086:1572", 0x020000, driver="i40e", total_vfs=64)
        world.tree.nic("0000:3b:00.0", "ens1f0", mac="52:54:00:00:00:01", up=True)
        vfs = ["0000:3b:02.0", "0000:3b:02.1"]
        world.tree.virtual_functions("0000:3b:00.0", vfs, "8086:154c", driver="vfio-pci")
        world.tree.iommu_on({"0000:3b:00.0": 2, vfs[0]: 3, vfs[1]: 4})
        world.tree.write("etc/nova/nova.conf", conf, 0o640)
        return world

    @pytest.mark.parametrize("conf", WAYS)
    def test_is_told_where_it_says_something_else(self, hosts: Hosts, conf: str):
        problems = self.host(hosts, conf).decide("vf=8086:154c/VF").nova.problems
        assert any("is offered to Nova by" in words.sentence(each) for each in problems)

    @pytest.mark.parametrize("name", ["ens1f1", "../../x", "lo"])
    def test_of_another_interface_is_nobodys_business(self, hosts: Hosts, name: str):
        conf = f'[pci]\ndevice_spec = {{"devname": "{name}", "physical_network": "p1"}}\n'
        assert self.host(hosts, conf).decide("vf=8086:154c/VF").nova.problems == ()

    def test_with_the_same_network_it_is_a_note(self, hosts: Hosts):
        conf = '[pci]\ndevice_spec = {"devname": "ens1f0", "physical_network": "p1"}\n'
        item = '[{alias: vf, id: "8086:154c", device-type: type-VF, physical-network: p1}]'
        found = self.host(hosts, conf).decide(item).nova
        assert (found.problems, len(found.notes)) == ((), 1)


@pytest.mark.parametrize(
    ("asked", "hint"),
    [
        ("10de:1bb1", "; did you mean 10de:1bb0 (0000:83:00.0)?"),
        ("10de:2bb0", "; did you mean 10de:1bb0 (0000:83:00.0)?"),
        ("10de:2bb1", ""),
        ("10df:1bb0", ""),
        ("8086:1573", ""),
    ],
    ids=["last-digit", "first-digit", "two-digits", "vendor", "a-family"],
)
def test_a_near_miss_is_asked_about(hosts: Hosts, asked: str, hint: str):
    world = hosts()
    card(world, "0000:83:00.0", "10de:1bb0", 0x030000, driver="nouveau")
    for bus, identity in (("3b", "8086:1572"), ("3d", "8086:1574")):
        card(world, f"0000:{bus}:00.0", identity, 0x020000, driver="i40e")
    world.tree.iommu_on()
    said = world.hook(f"gpu={asked}")
    assert said == Status(Kind.ACTIVE, f"no matching device{hint}")
    (check,) = checklist.CHECKS[0](world.decide())
    assert check.seen == f"none to claim{hint}"
