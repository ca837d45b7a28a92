"""Hosts that people have reported in the open, from their /sys on: what the charm makes of them.

Each names the report. A report is one of a kind: its neighbours stand beside it.
"""

from __future__ import annotations

import itertools
import pathlib
from collections.abc import Callable
from typing import Any

import pytest
from harness import hosttree
from harness.world import World

from passthrough import errors
from passthrough.reporting import words

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

    def test_the_module_is_not_taken_from_them_by_name(self, host: World):
        with pytest.raises(errors.OptionError) as caught:
            host.decide("h200=10de:2335", blacklist_drivers="nvidia")
        assert str(caught.value).startswith(
            'blacklist-drivers: item "nvidia": 0000:05:00.0 (10de:22a3) is on nvidia-nvswitch of'
            " the module nvidia and not claimed"
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
        world.decide(item, blacklist_drivers=module)
    both = f"x={identity}"
    assert kept_off(world, both, blacklist_drivers=module) == [module]


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
            ": 0001:04:00.0 is SR-IOV capable, so Nova calls it type-PF and alias gpu (type-PCI)"
            " never matches it; write the item as gpu=10de:2bb5/PF"
        )
        assert host.tools.calls == []
        assert host.tree.driver_of("0001:c8:00.0") == "nvidia"
