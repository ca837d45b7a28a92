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
GH200, NVGRACE = "0009:01:00.0", "nvgrace_gpu_vfio_pci"
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


def grace_hopper(tmp_path: pathlib.Path, patch: pytest.MonkeyPatch) -> World:
    """A host with a card whose kernel names a variant of vfio-pci."""
    root = "0009:00:00.0"
    tree = hosttree.HostTree(tmp_path / "host", ubuntu="24.04", iommu_table="IORT")
    world = World.of(tree, patch)
    tree.write("proc/sys/kernel/osrelease", f"{tree.release.kernel}\n")
    tree.bridge(root, identity="10de:22b2")
    tree.function(GH200, "10de:2348", 0x030200, parent=root, driver="nvidia")
    tree.iommu_on({root: 10, GH200: 11})
    tree.variant(NVGRACE, "v000010DEd00002348sv*sd*bc*sc*i*")
    return world


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
        world = grace_hopper(tmp_path, monkeypatch)
        world.hook("gh200=10de:2348")
        world.hook()
        before = boot_files(world)
        world.forget()
        for _ in range(2):
            take(world, GH200)
            world.hook()
            assert boot_files(world) == before
            bring(world, GH200)
            world.hook()
        assert (rebuilds(world), boot_files(world)) == ([], before)
        assert world.tree.driver_of(GH200) == NVGRACE

    def test_of_a_type_that_its_item_names_neither(self, ready: World):
        """A function that is not there has no VFs that would tell of a PF."""
        card = "0000:87:00.0"
        ready.tree.function(
            card, "10de:2330", 0x030200, parent="0000:80:01.0", group=78, total_vfs=16
        )
        ready.hook("pf=10de:2330/PF")
        assert card in claims_at_boot(ready)
        before = boot_files(ready)
        ready.forget()
        take(ready, card)
        for _ in range(3):
            ready.hook()
        assert (rebuilds(ready), boot_files(ready)) == ([], before)


class TestWhatComesBackOnItsOwn:
    """The udev rule that stays, or the initramfs, has bound it before any hook sees it again."""

    @pytest.fixture
    def back(self, host: World) -> World:
        """The first card was away over two hooks, and is back."""
        take(host, *CARD)
        host.hook()
        host.hook()
        bring(host, *CARD)
        for each in CARD:
            host.tree.bind(each, "vfio-pci")
        return host

    def drivers(self, world: World) -> list[str | None]:
        return [world.tree.driver_of(each) for each in CARD]

    def test_is_given_back_where_the_unit_leaves(self, back: World):
        back.leave()
        assert self.drivers(back) == ["nouveau", "snd_hda_intel"]
        assert list(back.root.rglob("*pci-passthrough*")) == []

    def test_is_given_back_where_no_item_asks_for_it_any_more(self, back: World):
        back.hook(f"gpu={GPU_ID}@{SECOND}")
        assert self.drivers(back) == ["nouveau", "snd_hda_intel"]
        assert not {*CARD} & record.read(back.site).taken.keys()

    def test_has_the_driver_in_the_record_that_it_had_before(self, back: World):
        back.hook()
        known = record.read(back.site)
        assert [known.taken[each] for each in CARD] == ["nouveau", "snd_hda_intel"]
        assert known.identities[FIRST] == {"id": GPU_ID, "serial": ""}
        assert (known.missing, rebuilds(back)) == ({}, [])

    def test_is_left_to_another_application_that_has_it_by_then(self, back: World):
        """A run that stops in the middle would leave it in both records."""
        other = back.beside("other")
        other.hook(f"gpu={GPU_ID}@{FIRST}")
        assert FIRST in record.read(other.site).taken
        entered: list[str] = []
        real = record.Ledger.put

        def put(ledger: record.Ledger, known: record.Record) -> bool:
            entered.extend(known.taken if ledger.site == back.site else ())
            return real(ledger, known)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(record.Ledger, "put", put)
            back.hook()
            back.leave()
        assert FIRST not in entered
        assert self.drivers(back)[0] == "vfio-pci"

    def test_is_left_to_whoever_has_bound_another_card_there(self, back: World):
        with back.ledger() as ledger:
            known = ledger.present.shapes
            ledger.update(shapes={**known, FIRST: known[FIRST]._replace(modalias="pci:v")})
        back.leave()
        assert self.drivers(back) == ["vfio-pci", "snd_hda_intel"]

    def test_leaves_its_variant_too(self, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch):
        world = grace_hopper(tmp_path, monkeypatch)
        world.hook("gh200=10de:2348")
        take(world, GH200)
        world.hook()
        world.hook()
        bring(world, GH200)
        world.tree.bind(GH200, NVGRACE)
        world.hook()
        assert record.read(world.site).variants == {GH200: NVGRACE}
        world.leave()
        assert world.tree.driver_of(GH200) == "nvidia"


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
