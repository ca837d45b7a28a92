"""Variants of vfio-pci through a unit's life: the driver that the kernel names for a function."""

from __future__ import annotations

import json
import pathlib

import pytest
from harness import hosttree
from harness.world import World

from passthrough import rebind
from passthrough.errors import BindError, InUseError
from passthrough.nova import lines as nova_lines
from passthrough.reporting.status import Kind, Status

GPU, ROOT = "0009:01:00.0", "0009:00:00.0"
ROW = "v000010DEd00002348sv*sd*bc*sc*i*"
NVGRACE = "nvgrace_gpu_vfio_pci"
DEVICES = "gh200=10de:2348"
PINNED = "[{alias: gh200, id: '10de:2348', driver: vfio-pci}]"
OTHER_KERNEL = "7.1.0-1-generic"
NOT_ON_IT = f"{GPU} is on vfio-pci, and not on {NVGRACE}"


@pytest.fixture
def host(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> World:
    """A Grace Hopper on its native driver, whose kernel names no variant yet; its IOMMU is on."""
    tree = hosttree.HostTree(tmp_path / "host", ubuntu="24.04", iommu_table="IORT")
    world = World.of(tree, monkeypatch)
    tree.write("proc/sys/kernel/osrelease", f"{tree.release.kernel}\n")
    tree.bridge(ROOT, identity="10de:22b2")
    tree.function(GPU, "10de:2348", 0x030200, parent=ROOT, driver="nvidia")
    tree.iommu_on({ROOT: 10, GPU: 11})
    return world


@pytest.fixture
def named(host: World) -> World:
    """The same, whose kernel names a variant."""
    host.tree.variant(NVGRACE, ROW)
    return host


def ask(world: World) -> dict[str, BindError | None]:
    return rebind.rebind(world.decide(), rebind.Chosen(), world.tools, world.said.append)


def boot_script(world: World) -> str:
    return world.tree.read("etc/initramfs-tools/scripts/init-top/pci-passthrough")


class TestAuto:
    def test_a_free_function_gets_the_variant_and_gives_it_back(self, named: World):
        assert named.hook(DEVICES) == Status(Kind.ACTIVE, "gh200: 1 ready")
        assert named.tree.driver_of(GPU) == NVGRACE
        assert f"load vfio {NVGRACE}" in named.tools.calls
        assert f"{GPU}: bound to {NVGRACE}" in named.said
        assert named.record().variants == {GPU: NVGRACE}
        named.hook()
        assert not named.decide().plan.changes_host
        named.reboot()
        assert named.tree.driver_of(GPU) == NVGRACE
        named.hook("")
        assert named.tree.driver_of(GPU) == "nvidia"
        assert named.record().is_empty

    def test_the_drivers_name_is_the_kernels(self, host: World):
        """xe_vfio_pci registers xe-vfio-pci."""
        host.tree.variant("xe-vfio-pci", ROW, module="xe_vfio_pci")
        assert host.decide(DEVICES).plan.bind[0].target == "xe_vfio_pci"  # not to be known yet
        host.hook(DEVICES)
        assert host.tree.driver_of(GPU) == "xe-vfio-pci"
        assert host.record().variants == {GPU: "xe_vfio_pci"}
        host.reboot()
        assert host.tree.driver_of(GPU) == "xe-vfio-pci"
        assert not host.decide().plan.changes_host
        host.leave()
        assert host.tree.driver_of(GPU) == "nvidia"

    def test_where_its_probe_fails_it_is_vfio_pci_and_told(self, named: World):
        named.kernel.fail_probe(GPU, NVGRACE)
        status = named.hook(DEVICES)
        assert status == Status(Kind.ACTIVE, f"gh200: 1 ready; {NOT_ON_IT} (rebind tries that)")
        assert f"{GPU}: bound to vfio-pci, as {NVGRACE} did not take it" in named.said
        assert named.shown(f"vfio-driver {GPU}") == f"ok: {NOT_ON_IT} (rebind tries that)"
        named.forget()
        assert named.hook() == status
        assert named.kernel.writes() == [], "it is bound, so nothing tries again"
        named.reboot()
        assert named.tree.driver_of(GPU) == "vfio-pci"
        named.kernel.relent()
        named.reboot()
        assert named.tree.driver_of(GPU) == NVGRACE

    def test_a_module_that_cannot_be_loaded_leaves_it_to_vfio_pci(self, named: World):
        (named.root / f".made/variants/{NVGRACE}").unlink()
        named.hook(DEVICES)
        assert named.tree.driver_of(GPU) == "vfio-pci"

    def test_the_native_driver_comes_back_where_nothing_takes_it(self, named: World):
        named.kernel.fail_probe(GPU, NVGRACE, "vfio-pci")
        named.hook(DEVICES)
        assert named.tree.driver_of(GPU) == "nvidia"
        assert f"{NVGRACE} did not take it" in str(named.result.outcome.failed[GPU])

    def test_what_is_bound_stays_where_it_is(self, host: World):
        """A refresh, or a kernel package, that brings a variant moves nothing; a boot does."""
        host.hook(DEVICES)
        assert host.tree.driver_of(GPU) == "vfio-pci"
        host.tree.variant(NVGRACE, ROW)
        host.forget()
        assert host.hook().message == f"gh200: 1 ready; {NOT_ON_IT} (rebind tries that)"
        assert host.kernel.writes() == []
        assert host.tree.driver_of(GPU) == "vfio-pci"
        host.reboot()
        assert host.tree.driver_of(GPU) == NVGRACE
        assert host.hook().message == "gh200: 1 ready"
        host.hook("")
        assert host.tree.driver_of(GPU) == "nvidia"

    def test_a_rebind_moves_it(self, host: World):
        host.hook(DEVICES)
        host.tree.variant(NVGRACE, ROW)
        host.hook()
        assert ask(host) == {GPU: None}
        assert host.tree.driver_of(GPU) == NVGRACE
        assert f"{GPU}: bound to {NVGRACE}" in host.said
        assert ask(host) == {GPU: None}, "and binds it anew there"
        assert host.hook().message == "gh200: 1 ready"

    def test_but_not_from_under_a_guest(self, host: World):
        host.hook(DEVICES)
        host.tree.variant(NVGRACE, ROW)
        host.hook()
        host.kernel.hold(GPU)
        assert isinstance(ask(host)[GPU], InUseError)
        assert host.tree.driver_of(GPU) == "vfio-pci"

    def test_what_a_guest_holds_on_a_variant_is_given_back_behind_it(self, named: World):
        named.hook(DEVICES)
        guest = named.kernel.hold(GPU)
        assert named.hook("").kind is Kind.BLOCKED
        assert named.tree.driver_of(GPU) == NVGRACE
        assert named.record().variants == {GPU: NVGRACE}
        named.kernel.close(guest)
        named.hook()
        assert named.tree.driver_of(GPU) == "nvidia"
        assert named.record().is_empty

    def test_what_libvirt_has_moved_stays_and_is_given_back(self, host: World):
        """Libvirt from 10.0 on takes a managed function from vfio-pci to the variant."""
        host.hook(DEVICES)
        host.tree.variant(NVGRACE, ROW)
        host.hook()
        files = host.tree.snapshot("etc", "boot")
        host.tree.bind(GPU, NVGRACE)
        assert host.hook().message == "gh200: 1 ready"
        assert host.tree.snapshot("etc", "boot") == files
        host.hook("")
        assert host.tree.driver_of(GPU) == "nvidia"

    def test_what_somebody_else_put_there_is_left_there(self, named: World):
        named.tree.bind(GPU, NVGRACE)
        assert named.hook(DEVICES).message == "gh200: 1 ready"
        assert named.record().variants == {}
        assert f"variant {GPU} {NVGRACE}" in boot_script(named), "a boot gives it the same"
        named.hook("")
        assert named.tree.driver_of(GPU) == NVGRACE

    def test_several_kinds_of_variants(self, named: World):
        """A VF of mlx5 and one that has a variant of no kernel's, beside the GPU."""
        tree = named.tree
        tree.bridge("0000:3a:00.0")
        for address, identity in (("0000:3b:00.0", "15b3:101e"), ("0000:3b:00.1", "15b3:1018")):
            tree.function(address, identity, 0x020000, parent="0000:3a:00.0")
        tree.iommu_on({ROOT: 10, GPU: 11, "0000:3b:00.0": 12, "0000:3b:00.1": 13})
        tree.variant("mlx5_vfio_pci", "v000015B3d0000101Esv*sd*bc*sc*i*")
        named.hook(f"{DEVICES}, vf=15b3:101e, plain=15b3:1018")
        assert tree.driver_of("0000:3b:00.0") == "mlx5_vfio_pci"
        assert tree.driver_of("0000:3b:00.1") == "vfio-pci"
        assert tree.driver_of(GPU) == NVGRACE
        hook = tree.read("etc/initramfs-tools/hooks/pci-passthrough")
        assert "vfio_pci mlx5_vfio_pci nvgrace_gpu_vfio_pci\n" in hook
        named.hook("")
        assert tree.driver_of("0000:3b:00.0") is None
        assert named.record().is_empty

    def test_a_group_may_have_both(self, named: World):
        """VFIO gives a guest a group whose members are on several of its drivers."""
        sound = "0009:01:00.1"
        named.tree.function(sound, "10de:22ba", 0x040300, parent=ROOT, driver="snd_hda_intel")
        named.tree.iommu_on({ROOT: 10, GPU: 11, sound: 11})
        assert named.hook(DEVICES).message == "gh200: 1 ready"
        assert named.tree.driver_of(GPU) == NVGRACE
        assert named.tree.driver_of(sound) == "vfio-pci"


class TestKernels:
    def test_each_kernel_has_its_own_answer(self, named: World):
        named.tree.aliases("pci:v*d*sv*sd*bc03sc*i* nova_core", kernel="5.15.0-9-generic")
        named.hook(DEVICES)
        script = boot_script(named)
        assert f"5.15.0-9-generic)\n    ;;\n*)\n    variant {GPU} {NVGRACE}\n    ;;" in script

    def test_a_kernel_that_changes_the_answer_is_followed(self, named: World):
        named.hook(DEVICES)
        named.forget()
        named.tree.aliases("vfio_pci:v*d*sv*sd*bc*sc*i* vfio_pci", kernel=OTHER_KERNEL)
        assert named.decide().plan.rebuild == ("initramfs",)
        named.hook()
        assert named.tools.calls == ["rebuild initramfs"]
        script = boot_script(named)
        assert f"{named.tree.release.kernel})\n    variant {GPU} {NVGRACE}\n    ;;\n*)\n" in script
        assert named.tree.driver_of(GPU) == NVGRACE, "what is bound stays"
        named.reboot()
        assert named.tree.driver_of(GPU) == NVGRACE

    def test_and_one_that_does_not_costs_nothing(self, named: World):
        named.hook(DEVICES)
        named.tree.variant(NVGRACE, ROW, kernel=OTHER_KERNEL)
        assert not named.decide().plan.changes_host

    def test_a_kernel_before_variants_boots_with_vfio_pci(self, named: World):
        named.tree.variant(NVGRACE, ROW, kernel=OTHER_KERNEL)
        named.tree.aliases("pci:v* none")
        named.hook(DEVICES)
        assert named.tree.driver_of(GPU) == "vfio-pci"
        assert named.record().variants == {GPU: NVGRACE}, "the other kernel's"
        named.reboot()
        assert named.tree.driver_of(GPU) == "vfio-pci"


class TestPinned:
    def test_vfio_pci_is_pinned_now_and_at_boot(self, named: World):
        assert named.hook(PINNED).message == "gh200: 1 ready"
        assert named.tree.driver_of(GPU) == "vfio-pci"
        assert NVGRACE not in boot_script(named)
        assert named.record().variants == {}
        assert named.shown(f"vfio-driver {GPU}") == f"ok: {NOT_ON_IT} (its item says so)"

    @pytest.mark.parametrize("is_named", [True, False])
    def test_it_is_moved_from_a_variant(self, named: World, is_named: bool):
        if not is_named:
            named.tree.aliases("pci:v* none")
        named.tree.bind(GPU, NVGRACE)
        named.hook(DEVICES)
        named.hook(PINNED)
        assert named.tree.driver_of(GPU) == "vfio-pci"

    def test_once_no_guest_has_it(self, named: World):
        named.hook(DEVICES)
        guest = named.kernel.hold(GPU)
        status = named.hook(PINNED)
        assert status.kind is Kind.BLOCKED
        assert "a guest holds it" in status.message
        assert named.tree.driver_of(GPU) == NVGRACE
        named.kernel.close(guest)
        assert named.hook().message == "gh200: 1 ready"
        assert named.tree.driver_of(GPU) == "vfio-pci"

    def test_a_variant_that_no_kernel_names(self, host: World):
        host.tree.variant("acme_vfio_pci")
        host.hook("[{alias: gh200, id: '10de:2348', driver: acme_vfio_pci}]")
        assert host.tree.driver_of(GPU) == "acme_vfio_pci"
        host.reboot()
        assert host.tree.driver_of(GPU) == "acme_vfio_pci"
        host.hook("")
        assert host.tree.driver_of(GPU) == "nvidia"

    def test_nothing_else_will_do(self, host: World):
        host.tree.variant("acme_vfio_pci")
        host.kernel.fail_probe(GPU, "acme_vfio_pci")
        host.hook("[{alias: gh200, id: '10de:2348', driver: acme_vfio_pci}]")
        assert host.tree.driver_of(GPU) == "nvidia"
        assert "acme_vfio_pci did not take it" in str(host.result.outcome.failed[GPU])
        host.reboot()
        assert host.tree.driver_of(GPU) == "vfio-pci", "the host does not get it"
        host.hook()
        assert host.tree.driver_of(GPU) == "vfio-pci"
        host.kernel.relent()
        host.hook()
        assert host.tree.driver_of(GPU) == "acme_vfio_pci"

    def test_a_module_that_is_not_there_is_told(self, host: World):
        host.hook("[{alias: gh200, id: '10de:2348', driver: acme_vfio_pci}]")
        assert host.tree.driver_of(GPU) == "nvidia"
        assert str(host.result.outcome.failed[GPU]).startswith(
            f"{GPU}: the kernel shows no driver of acme_vfio_pci: see modprobe acme_vfio_pci"
        )


class TestNova:
    @pytest.fixture
    def specs(self, named: World):
        def offer(version: str, devices: str = DEVICES) -> dict[str, str]:
            named.tree.install_nova(version=version)
            named.hook(devices)
            (spec,) = named.decide().nova.device_specs
            text = (named.root / nova_lines.path_of(named.application)).read_text()
            assert json.dumps(spec, sort_keys=True) in text
            return dict(spec)

        return offer

    @pytest.mark.parametrize(
        ("version", "managed"), [("3:33.0.0-0ubuntu1", "no"), ("3:29.2.0-0ubuntu1", None)]
    )
    def test_libvirt_leaves_it_alone_where_nova_can_say_so(self, specs, version, managed):
        assert specs(version).get("managed") == managed

    def test_the_item_has_the_last_word(self, specs):
        item = "[{alias: gh200, id: '10de:2348', managed: true}]"
        assert specs("3:33.0.0-0ubuntu1", item)["managed"] == "yes"

    def test_a_function_without_a_variant_is_offered_as_before(self, named: World, specs):
        named.tree.aliases("pci:v* none")
        assert "managed" not in specs("3:33.0.0-0ubuntu1")

    @pytest.mark.parametrize("theirs", [{}, {"managed": "no"}])
    def test_the_same_in_another_file_is_no_contradiction(self, named: World, theirs):
        named.tree.install_nova(version="3:33.0.0-0ubuntu1")
        spec = {"vendor_id": "10de", "product_id": "2348", **theirs}
        named.tree.write("etc/nova/nova.conf", f"[pci]\ndevice_spec = {json.dumps(spec)}\n")
        named.hook(DEVICES)
        assert named.decide().nova.problems == ()
