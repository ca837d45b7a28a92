"""A card that is away for a while costs no rebuild: the boot files keep its claim meanwhile."""

from __future__ import annotations

import dataclasses
import pathlib

import pytest
from harness import hosttree, made
from harness.constants import CLAIMED, GPU_ID, GPUS
from harness.world import World

from passthrough.planning import away
from passthrough.state import record
from passthrough.state.record import Shape
from passthrough.system import procfs

FIRST, AUDIO, SECOND = CLAIMED[:3]
CARD = (FIRST, AUDIO)
REBUILDS = ("rebuild initramfs", "rebuild grub")


@pytest.fixture
def host(ready: World) -> World:
    """Both GPUs are claimed, and what was done before is forgotten."""
    ready.hook()
    ready.forget()
    return ready


def take(world: World, *addresses: str) -> None:
    for each in addresses:
        world.tree.unplug(each)


def bring(world: World, *addresses: str) -> None:
    for each in addresses:
        world.tree.plug(each)


def rebuilds(world: World) -> list[str]:
    return [each for each in world.tools.calls if each in REBUILDS]


def boot_files(world: World) -> dict[str, object]:
    """What a boot goes by; a snapshot has the drivers beside the files."""
    found = world.snapshot("etc", "boot")
    return {path: found[path] for path in found if "/" in path}


def claims_at_boot(world: World) -> str:
    return world.tree.read("etc/udev/rules.d/60-pci-passthrough.rules")


class TestASlotThatFlaps:
    def test_four_flaps_rebuild_nothing(self, host: World):
        before = boot_files(host)
        for _ in range(4):
            take(host, *CARD)
            host.hook()
            assert host.status.startswith(f"active: sick: {FIRST} is missing")
            assert boot_files(host) == before
            assert not host.decide().plan.changes_host
            bring(host, *CARD)
            host.hook()
            assert boot_files(host) == before
        assert rebuilds(host) == []
        assert {host.tree.driver_of(each) for each in CARD} == {"vfio-pci"}

    def test_of_the_only_card_neither(self, host: World):
        """Its vendor's display drivers stay off, on the kernel's command line too."""
        host.hook(f"gpu={GPU_ID}")
        assert "modprobe.blacklist=nouveau" in host.tree.read("boot/grub/grub.cfg")
        there = host.decide().outcome.addresses
        host.forget()
        before = boot_files(host)
        for _ in range(4):
            take(host, *there)
            host.hook()
            assert boot_files(host) == before
            bring(host, *there)
            host.hook()
        assert set(CLAIMED) <= set(there)
        assert (rebuilds(host), boot_files(host)) == ([], before)

    def test_over_a_boot_neither(self, host: World):
        take(host, *CARD)
        host.hook()
        host.reboot()
        host.hook()
        bring(host, *CARD)
        host.reboot()
        host.hook()
        assert rebuilds(host) == []
        assert host.status == "active: gpu: 2 ready"

    def test_on_a_variant_neither(self, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch):
        gpu, root = "0009:01:00.0", "0009:00:00.0"
        tree = hosttree.HostTree(tmp_path / "host", ubuntu="24.04", iommu_table="IORT")
        world = World.of(tree, monkeypatch)
        tree.write("proc/sys/kernel/osrelease", f"{tree.release.kernel}\n")
        tree.bridge(root, identity="10de:22b2")
        tree.function(gpu, "10de:2348", 0x030200, parent=root, driver="nvidia")
        tree.iommu_on({root: 10, gpu: 11})
        tree.variant("nvgrace_gpu_vfio_pci", "v000010DEd00002348sv*sd*bc*sc*i*")
        world.hook("gh200=10de:2348")
        world.hook()
        before = boot_files(world)
        world.forget()
        for _ in range(2):
            take(world, gpu)
            world.hook()
            assert boot_files(world) == before
            bring(world, gpu)
            world.hook()
        assert (rebuilds(world), boot_files(world)) == ([], before)
        assert tree.driver_of(gpu) == "nvgrace_gpu_vfio_pci"


class TestWhatIsNotAskedFor:
    """The boot files never claim what an operator has taken out of the options."""

    @pytest.fixture
    def gone(self, host: World) -> World:
        """The first card is away."""
        take(host, *CARD)
        host.hook()
        assert FIRST in claims_at_boot(host)
        assert AUDIO in claims_at_boot(host)
        return host

    @pytest.mark.parametrize(
        ("devices", "stays"),
        [
            (f"gpu={GPU_ID}@{SECOND}", ()),
            ("", ()),
            (f'[{{"id": "{GPU_ID}", "alias": "gpu", "exclude": ["{FIRST}"]}}]', ()),
            (
                f'[{{"id": "{GPU_ID}", "alias": "gpu", "companions": false,'
                f' "address": ["{FIRST}", "{SECOND}"]}}]',
                (FIRST,),
            ),
            (
                f'[{{"id": "{GPU_ID}", "alias": "gpu", "exclude": ["{AUDIO}"],'
                f' "address": ["{FIRST}", "{SECOND}"]}}]',
                (FIRST,),
            ),
            (f"pf={GPU_ID}/PF@{FIRST}, gpu={GPU_ID}/PCI@{SECOND}", ()),
        ],
        ids=[
            "another-address",
            "nothing",
            "excluded",
            "no-companions",
            "companion-excluded",
            "another-type",
        ],
    )
    def test_goes_at_once(self, gone: World, devices: str, stays: tuple[str, ...]):
        gone.hook(devices)
        path = gone.root / "etc/udev/rules.d/60-pci-passthrough.rules"
        text = path.read_text() if path.exists() else ""
        assert [each for each in CARD if each in text] == list(stays)
        known = record.read(gone.site).shapes
        assert [each for each in CARD if each in known] == list(stays)
        assert rebuilds(gone)[0] == "rebuild initramfs"

    def test_stays_where_another_item_asks_for_it(self, gone: World):
        gone.hook(f"first={GPU_ID}/PCI@{FIRST}, gpu={GPU_ID}/PCI@{SECOND}")
        assert [each for each in CARD if each in claims_at_boot(gone)] == list(CARD)
        assert rebuilds(gone) == []

    def test_what_the_host_leaves_out_goes_too(self, gone: World):
        name = procfs.host_name_if_there(gone.root)
        gone.hook(GPUS, host_exceptions=f"{name}={FIRST}")
        assert FIRST not in claims_at_boot(gone)

    def test_nothing_is_left_where_the_unit_leaves(self, gone: World):
        gone.leave()
        assert list(gone.root.rglob("*pci-passthrough*")) == []

    def test_nor_where_all_are_away(self, gone: World):
        take(gone, *CLAIMED[2:])
        gone.hook()
        assert rebuilds(gone) == []
        gone.leave()
        assert list(gone.root.rglob("*pci-passthrough*")) == []

    def test_another_card_in_its_place_is_not_claimed(self, gone: World):
        gone.tree.function(FIRST, "10de:20b5", 0x030200, parent="0000:80:01.0", group=77)
        gone.hook()
        assert FIRST not in claims_at_boot(gone)


class TestTheRecord:
    def test_of_a_former_charm_knows_no_shape(self, host: World):
        """The card's first absence costs a rebuild then, as it did before."""
        with host.ledger() as ledger:
            ledger.update(shapes={})
        take(host, *CARD)
        host.hook()
        assert rebuilds(host) == ["rebuild initramfs"]
        assert FIRST not in claims_at_boot(host)

    @pytest.mark.parametrize(
        "modalias",
        [
            "",
            "pci:v",
            "usb:v000010DEd00001BB0sv00001AF4sd00001100bc03sc00i00",
            "pci:v000010DEd00001BB0sv00001AF4sd00001100bc03sc00i00\n",
            "pci:v000010ded00001bb0sv00001af4sd00001100bc03sc00i00",
        ],
    )
    def test_that_names_no_card_claims_none(self, host: World, modalias: str):
        with host.ledger() as ledger:
            ledger.update(shapes={FIRST: Shape(modalias)})
        take(host, *CARD)
        host.hook()
        assert FIRST not in claims_at_boot(host)

    def test_is_read_as_it_was_written(self, host: World):
        found = record.read(host.site).shapes
        assert found[AUDIO].companion_of == FIRST
        assert found[FIRST].modalias.startswith("pci:v000010DEd00001BB0")
        assert found == host.decide().plan.record.shapes

    def test_without_shapes_is_the_same_record(self, host: World):
        known = record.read(host.site)
        assert dataclasses.replace(known, shapes={}) == known


def test_a_vf_has_no_shape():
    vf = made.function("0000:3b:10.0", "8086:10ca", made.ETHERNET, physfn="0000:3b:00.0")
    (claim,) = made.decide("vf=8086:10ca/VF", vf).claims
    assert away.shapes([claim]) == {}


def test_what_somebody_else_has_put_on_a_variant_has_no_shape():
    (claim,) = made.decide(f"gpu={GPU_ID}", made.function(FIRST, GPU_ID, 0x030000)).claims
    left = dataclasses.replace(claim, vfio=claim.vfio._replace(is_left=True))
    assert list(away.shapes([claim])) == [FIRST]
    assert away.shapes([left]) == {}
