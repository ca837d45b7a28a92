"""Names from pci.ids, and bare ids where there are none."""

from __future__ import annotations

import pathlib

import pytest
from harness import made

from passthrough.host import pci_ids

PCI_IDS = """\
#
#\tList of PCI ID's
#
1002  Advanced Micro Devices, Inc. [AMD/ATI]
\t1bb0  Not the one of NVIDIA
10de  NVIDIA Corporation
\t1bb0  GP104GL [Quadro P5000]
\t\t10de 11b2  Quadro P5000
\t1db6  GV100GL [Tesla V100 PCIe 32GB]

10df  Emulex Corporation
\t1bb0  Not the one of NVIDIA either

# List of known device classes, subclasses and programming interfaces

C 02  Network controller
\t00  Ethernet controller
C 03  Display controller
\t00  VGA compatible controller
\t\t00  VGA controller
\t02  3D controller
C 10  Encryption controller
"""


@pytest.fixture(params=["misc", "hwdata"])
def root(request: pytest.FixtureRequest, tmp_path: pathlib.Path) -> pathlib.Path:
    path = tmp_path / f"usr/share/{request.param}/pci.ids"
    path.parent.mkdir(parents=True)
    path.write_text(PCI_IDS)
    return tmp_path


@pytest.mark.parametrize(
    ("identity", "name"),
    [
        ("10de:1bb0", "NVIDIA Corporation GP104GL [Quadro P5000]"),
        ("10de:ffff", "NVIDIA Corporation ffff"),
        ("1234:1bb0", "1234 1bb0"),
    ],
    ids=["known", "product-unknown", "vendor-unknown"],
)
def test_device_is_named_as_lspci_names_it(root: pathlib.Path, identity: str, name: str):
    function = made.function("0000:01:00.0", identity)
    assert pci_ids.look_up(root, [function]).device(function) == name


@pytest.mark.parametrize(
    ("class_code", "name"),
    [
        (0x030000, "VGA compatible controller"),
        (0x030200, "3D controller"),
        (0x038000, "Display controller"),
        (0x020000, "Ethernet controller"),
        (0x100000, "Encryption controller"),
        (0xFF0000, "class ff00"),
    ],
    ids=["vga", "3d", "subclass-unknown", "ethernet", "base-alone", "unknown"],
)
def test_kind_is_the_name_of_the_class(root: pathlib.Path, class_code: int, name: str):
    function = made.function("0000:01:00.0", class_code=class_code)
    assert pci_ids.look_up(root, [function]).kind(function) == name


def test_only_what_is_asked_for_is_kept(root: pathlib.Path):
    """The file has 40,000 lines; the host has a hundred functions."""
    known = pci_ids.look_up(root, [made.function("0000:01:00.0", "10de:1db6")])
    assert known.vendors == {"10de": "NVIDIA Corporation"}
    assert known.products == {("10de", "1db6"): "GV100GL [Tesla V100 PCIe 32GB]"}


def test_two_vendors_with_the_same_product_number_are_kept_apart(root: pathlib.Path):
    functions = [made.function("0000:01:00.0", each) for each in ("1002:1bb0", "10df:1bb0")]
    known = pci_ids.look_up(root, functions)
    assert [known.device(each) for each in functions] == [
        "Advanced Micro Devices, Inc. [AMD/ATI] Not the one of NVIDIA",
        "Emulex Corporation Not the one of NVIDIA either",
    ]


def test_without_pci_ids_the_ids_stand_for_the_names(tmp_path: pathlib.Path):
    function = made.function("0000:01:00.0")
    known = pci_ids.look_up(tmp_path, [function])
    assert known.device(function) == "10de 1bb0"
    assert known.kind(function) == "class 0300"


def test_bytes_that_are_not_utf8_do_not_stop_it(root: pathlib.Path):
    (path,) = root.glob("usr/share/*/pci.ids")
    path.write_bytes(b"8086  Int\xe9l\n" + PCI_IDS.encode())
    function = made.function("0000:01:00.0")
    assert pci_ids.look_up(root, [function]).device(function).startswith("NVIDIA")


def test_vendors_that_are_out_of_order_are_found(root: pathlib.Path):
    """Somebody has added to the file, at its end or its beginning."""
    (path,) = root.glob("usr/share/*/pci.ids")
    added = "10e0  Of the beginning\n\t0001  First\n"
    path.write_text(
        added + PCI_IDS.replace("10df  Emulex", "0abc  Late\n\t0002  Second\n10df  Emulex")
    )
    functions = [
        made.function("0000:01:00.0", each) for each in ("0abc:0002", "10de:1db6", "10e0:0001")
    ]
    known = pci_ids.look_up(root, functions)
    assert [known.device(each) for each in functions] == [
        "Late Second",
        "NVIDIA Corporation GV100GL [Tesla V100 PCIe 32GB]",
        "Of the beginning First",
    ]
    assert known.kind(functions[0]) == "VGA compatible controller"


def test_classes_are_named_where_a_vendor_was_added_behind_them(root: pathlib.Path):
    (path,) = root.glob("usr/share/*/pci.ids")
    path.write_text(PCI_IDS + "ff00  Of the end\n\t0001  Last\n")
    functions = [made.function("0000:01:00.0", each) for each in ("10de:1db6", "ff00:0001")]
    known = pci_ids.look_up(root, functions)
    assert known.device(functions[1]) == "Of the end Last"
    assert known.kind(functions[0]) == "VGA compatible controller"
