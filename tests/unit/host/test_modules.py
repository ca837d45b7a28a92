"""Which modules the installed kernels name for a function."""

from __future__ import annotations

import pathlib

import pytest
from harness import hosttree
from harness.hosttree import kernel

from passthrough.host import modules

GPU = "pci:v000010DEd00001BB0sv00001AF4sd00001100bc03sc00i00"
NVSWITCH = "pci:v000010DEd000022A3sv000010DEsd00001796bc06sc80i00"
LINES = (
    "pci:v000010DEd*sv*sd*bc03sc*i* nouveau",
    "pci:v000010DEd*sv*sd*bc03sc00i00* nvidia",
    "pci:v000010DEd*sv*sd*bc06sc80i00* nvidia",
    "pci:v000010DEd*sv*sd*bc03sc*i* nvidia-drm",
    "pci:v00008086d000037C8sv*sd*bc*sc*i* qat_c62x",
    "pci:v*d*sv*sd*bc01sc08i02* nvme",
    "vfio_pci:v000015B3d0000101Esv*sd*bc*sc*i* mlx5_vfio_pci",
)


@pytest.fixture
def host(tmp_path: pathlib.Path) -> hosttree.HostTree:
    tree = hosttree.HostTree(tmp_path / "host")
    tree.aliases(*LINES)
    return tree


@pytest.mark.parametrize(
    ("modalias", "expected"),
    [
        (GPU, {"nouveau", "nvidia", "nvidia_drm"}),
        (NVSWITCH, {"nvidia"}),
        ("pci:v00008086d000037C8sv00008086sd00000000bc0Bsc40i00", {"qat_c62x"}),
        ("pci:v0000144Dd0000A808sv0000144Dsd0000A801bc01sc08i02", {"nvme"}),
        ("pci:v000015B3d0000101Esv000015B3sd00000058bc02sc00i00", set()),
        ("pci:v00001234d000011E8sv00001AF4sd00001100bc00scFFi00", set()),
        ("usb:v1D6Bp0002", set()),
        (None, set()),
    ],
    ids=["gpu", "nvswitch", "qat", "by-class", "vfio-rows", "unknown", "usb", "none"],
)
def test_are_those_whose_pattern_fits(host, modalias: str | None, expected: set[str]):
    assert modules.Aliases(host.root).of(modalias) == expected


def test_of_every_kernel_count(host: hosttree.HostTree):
    host.aliases("pci:v000010DEd00001BB0sv*sd*bc03sc*i* nova_core", kernel="7.1.0-1-generic")
    assert "nova_core" in modules.Aliases(host.root).of(GPU)
    assert "nouveau" in modules.Aliases(host.root).of(GPU)


def test_are_read_once_and_not_before_the_first_question(host: hosttree.HostTree):
    aliases = modules.Aliases(host.root)
    host.aliases("pci:v000010DEd*sv*sd*bc03sc*i* nova_core")
    assert aliases.of(GPU) == {"nova_core"}
    host.aliases(*LINES)
    assert aliases.of(GPU) == {"nova_core"}


def test_are_unknown_where_no_kernel_tells(tmp_path: pathlib.Path):
    tree = hosttree.HostTree(tmp_path / "host")
    aliases = modules.Aliases(tree.root)
    assert (aliases.known, aliases.of(GPU)) == (False, frozenset())
    tree.aliases(*LINES)
    assert modules.Aliases(tree.root).known
    assert not modules.Aliases.none().known


def test_a_name_is_compared_as_modprobe_does():
    assert modules.normalize("nvidia-drm") == "nvidia_drm"


VF = "pci:v000015B3d0000101Esv000015B3sd00000058bc02sc00i00"


class TestVfio:
    def test_the_row_with_the_fewest_wildcards_wins(self, host: hosttree.HostTree):
        host.aliases(
            "vfio_pci:v*d*sv*sd*bc*sc*i* vfio_pci",
            "vfio_pci:v000015B3d*sv*sd*bc*sc*i* family_vfio_pci",
            "vfio_pci:v000015B3d0000101Esv*sd*bc*sc*i* mlx5_vfio_pci",
            "vfio_pci:v000015B3d0000101Esv*sd*bc*sc*i* second_vfio_pci",
            "vfio_pci:v000015B3d00001019sv000015B3sd00000058bc02sc00i00 other_vfio_pci",
        )
        named = modules.Aliases(host.root).vfio_modules(VF)
        assert named == {host.release.kernel: "mlx5_vfio_pci"}

    def test_each_kernel_answers_the_oldest_first(self, host: hosttree.HostTree):
        host.variant("new-vfio-pci", "v000015B3d*sv*sd*bc*sc*i*", kernel="6.14.0-9-generic")
        host.aliases("pci:v*d*sv*sd*bc02sc*i* e1000", kernel="5.15.0-130-generic")
        assert list(modules.Aliases(host.root).vfio_modules(VF).items()) == [
            ("5.15.0-130-generic", "vfio_pci"),
            ("6.8.0-51-generic", "mlx5_vfio_pci"),
            ("6.14.0-9-generic", "new_vfio_pci"),
        ]

    @pytest.mark.parametrize("modalias", [GPU, "usb:v1D6Bp0002", None])
    def test_without_a_row_it_is_vfio_pci(self, host: hosttree.HostTree, modalias: str | None):
        named = modules.Aliases(host.root).vfio_modules(modalias)
        assert named == {host.release.kernel: "vfio_pci"}

    @pytest.mark.parametrize("name", ["$(reboot)", "a;b", "a)b", "x" * 65, "two words"])
    def test_names_that_no_script_may_hold_are_no_names(self, host, name: str):
        host.aliases(f"vfio_pci:v000015B3d*sv*sd*bc*sc*i* {name}")
        assert modules.Aliases(host.root).vfio_modules(VF) == {host.release.kernel: "vfio_pci"}

    @pytest.mark.parametrize("release", ["*", "$(reboot)", "a b", "-x", "6.8|6.9", "6.8)"])
    def test_nor_are_such_kernels(self, host: hosttree.HostTree, release: str):
        host.aliases(*LINES, kernel=release)
        assert list(modules.Aliases(host.root).vfio_modules(VF)) == [host.release.kernel]

    def test_a_driver_is_known_once_its_module_is_loaded(self, host: hosttree.HostTree):
        host.variant("xe-vfio-pci", "v00008086d*sv*sd*bc*sc*i*", module="xe_vfio_pci")
        aliases = modules.Aliases(host.root)
        assert aliases.driver_of("xe_vfio_pci") is None
        kernel.load(host.root, ["xe_vfio_pci"])
        assert aliases.driver_of("xe_vfio_pci") == "xe-vfio-pci"
        assert modules.Aliases.none().driver_of("xe_vfio_pci") is None

    def test_of_several_drivers_it_is_the_one_for_vfio(self, host: hosttree.HostTree):
        drivers = host.root / "sys/module/both/drivers"
        drivers.mkdir(parents=True)
        for name in ("pci:both", "pci:both-vfio", "platform:both"):
            (drivers / name).touch()
        assert modules.driver_of(host.root, "both") == "both-vfio"
        (drivers / "pci:both-vfio").unlink()
        assert modules.driver_of(host.root, "both") == "both"
