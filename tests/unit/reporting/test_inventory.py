"""The list of PCI functions: a tree of IOMMU groups that fits a terminal."""

from __future__ import annotations

import os
import pathlib
import pty
import subprocess
import sys

import pytest
from harness import hosttree

from passthrough.host import pci
from passthrough.reporting import inventory, inventory_tree, tables

PCI_IDS = """\
10de  NVIDIA Corporation
\t10f0  GP104 High Definition Audio Controller
\t1bb0  GP104GL [Quadro P5000]
8086  Intel Corporation
\t1572  Ethernet Controller X710 for 10GbE SFP+
\t8d02  C610/X99 series chipset 6-Port SATA Controller [AHCI mode]
C 03  Display controller
\t00  VGA compatible controller
"""


def describe(tree: hosttree.HostTree) -> list[dict]:
    return list(inventory.describe(tree.root, pci.read(tree.root)))


@pytest.fixture
def host(tmp_path: pathlib.Path) -> hosttree.HostTree:
    """Two cards in groups of their own, two NICs behind one bridge, a disk controller."""
    tree = hosttree.HostTree(tmp_path / "host")
    tree.write("usr/share/misc/pci.ids", PCI_IDS)
    tree.function("0000:00:1f.2", "8086:8d02", 0x010601, driver="ahci")
    tree.bridge("0000:00:1c.0")
    for address in ("0000:03:00.0", "0000:03:01.0"):
        tree.function(address, "8086:1572", 0x020000, parent="0000:00:1c.0", driver="i40e")
    for bus in ("83", "84"):
        tree.function(f"0000:{bus}:00.0", "10de:1bb0", 0x030000, driver="nouveau")
        tree.function(f"0000:{bus}:00.1", "10de:10f0", 0x040300, driver="snd_hda_intel")
    return tree


GROUPS = {
    "0000:00:1f.2": 7,
    "0000:00:1c.0": 3,
    "0000:03:00.0": 3,
    "0000:03:01.0": 3,
    "0000:83:00.0": 141,
    "0000:83:00.1": 141,
    "0000:84:00.0": 12,
}


def table_of(text: str) -> list[str]:
    return text.partition("\n\n")[0].splitlines()


def test_groups_are_joined_and_in_the_order_of_their_numbers(host: hosttree.HostTree):
    host.iommu_on(GROUPS)
    assert [line[:23] for line in table_of(inventory_tree.format_tree(describe(host)))] == [
        "GROUP   ADDRESS       I",
        "    3 ┬ 0000:00:1c.0  8",
        "      ├ 0000:03:00.0  8",
        "      └ 0000:03:01.0  8",
        "    7 ─ 0000:00:1f.2  8",
        "   12 ─ 0000:84:00.0  1",
        "  141 ┬ 0000:83:00.0  1",
        "      └ 0000:83:00.1  1",
        "    -   0000:84:00.1  1",
    ]


def test_without_an_iommu_nothing_is_joined(host: hosttree.HostTree):
    lines = table_of(inventory_tree.format_tree(describe(host)))[1:]
    assert [line[:8] for line in lines] == ["    -   "] * 8
    addresses = [line.split()[1] for line in lines]
    assert addresses == sorted(addresses)


def test_a_group_of_which_a_part_is_shown_is_closed(host: hosttree.HostTree):
    host.iommu_on(GROUPS)
    shown = [row for row in describe(host) if row["address"].startswith("0000:03")]
    assert [line[:20] for line in table_of(inventory_tree.format_tree(shown))[1:]] == [
        "    3 ┬ 0000:03:00.0",
        "      └ 0000:03:01.0",
    ]


def test_models_are_named_by_what_is_on_the_box(host: hosttree.HostTree):
    models = {row["address"]: row["model"] for row in describe(host)}
    assert models["0000:83:00.0"] == "Quadro P5000"
    assert models["0000:03:00.0"] == "Ethernet Controller X710 for 10GbE SFP+"
    # A remark in brackets is no name on a box.
    assert models["0000:00:1f.2"] == "C610/X99 series chipset 6-Port SATA Controller [AHCI mode]"


def test_an_unknown_product_is_named_by_its_class(tmp_path: pathlib.Path):
    tree = hosttree.HostTree(tmp_path / "host")
    tree.write("usr/share/misc/pci.ids", PCI_IDS)
    tree.function("0000:83:00.0", "10de:9999", 0x030000)
    assert describe(tree)[0]["model"] == "VGA compatible controller"


def test_every_line_fits_80_columns_and_the_whole_name_is_in_the_data(host: hosttree.HostTree):
    host.iommu_on(GROUPS)
    described = describe(host)
    for row in described:
        row["numa-node"] = int(row["address"][5], 16)
        row["driver"] = "a-driver-with-a-very-long-name"
    text = inventory_tree.format_tree(described)
    assert "NUMA" in text
    assert max(map(len, text.splitlines())) <= 80
    assert "…" in text
    names = [row["name"] for row in described]
    assert "Intel Corporation C610/X99 series chipset 6-Port SATA Controller [AHCI mode]" in names


def test_numa_is_shown_only_where_there_are_several_nodes(host: hosttree.HostTree):
    described = describe(host)
    assert "NUMA" not in inventory_tree.format_tree(described)
    described[0]["numa-node"] = 1
    assert "NUMA" in inventory_tree.format_tree(described)


def test_reasons_stand_below_once_with_their_addresses(host: hosttree.HostTree):
    described = describe(host)
    for row in described:
        row["reason"], row["claimable"] = "is a spare", False
    notes = inventory_tree.format_tree(described).partition("\n\n")[2]
    assert " ".join(notes.split()) == (
        "not claimable: 0000:00:1c.0 0000:00:1f.2 0000:03:00.0 0000:03:01.0 and 4 more: is a spare"
    )


def test_example_is_a_display_and_can_be_pasted(host: hosttree.HostTree):
    notes = " ".join(inventory_tree.format_tree(describe(host)).partition("\n\n")[2].split())
    assert "such as 10de:1bb0@0000:83:00.0; ID alone" in notes


def test_nothing_to_show_is_said():
    assert inventory_tree.format_tree([]) == "no such PCI function on this host"


def test_colour_changes_no_column(host: hosttree.HostTree):
    host.bind("0000:83:00.0", "vfio-pci")
    painted = inventory_tree.format_tree(describe(host), tables.Style(colour=True))
    plain = inventory_tree.format_tree(describe(host))
    for code in ("\x1b[32m", "\x1b[2m", "\x1b[36m", "\x1b[0m"):
        assert code in painted
        painted = painted.replace(code, "")
    assert painted == plain


# On a terminal


def list_on_a_terminal(root: pathlib.Path, **environment: str) -> str:
    """Run the command line with a pseudo-terminal as its output."""
    program = pathlib.Path(inventory.__file__).parents[3] / "bin" / "pci-passthrough"
    ours, theirs = pty.openpty()
    with os.fdopen(ours, "rb", buffering=0) as terminal:
        with os.fdopen(theirs, "wb"):
            process = subprocess.Popen(
                [sys.executable, program, "--root", root, "list"],
                stdout=theirs,
                env={"PATH": os.defpath, "PYTHONUTF8": "1", "COLUMNS": "80", **environment},
            )
        shown = b""
        while True:
            try:
                piece = terminal.read(4096)
            except OSError:  # EIO: the other end is closed
                break
            if not piece:
                break
            shown += piece
    assert process.wait() == 0
    return shown.decode()


@pytest.mark.parametrize(
    ("environment", "is_coloured"),
    [
        pytest.param({"TERM": "xterm"}, True, id="a terminal"),
        pytest.param({"TERM": "xterm", "NO_COLOR": "1"}, False, id="NO_COLOR"),
        pytest.param({"TERM": "xterm", "NO_COLOR": ""}, True, id="an empty NO_COLOR"),
        pytest.param({"TERM": "dumb"}, False, id="a dumb terminal"),
    ],
)
def test_colour_is_for_terminals_that_want_it(
    host: hosttree.HostTree, environment: dict[str, str], is_coloured: bool
):
    assert ("\x1b[" in list_on_a_terminal(host.root, **environment)) is is_coloured


def test_a_wide_terminal_is_used(host: hosttree.HostTree):
    name = "GP104 High Definition Audio Controller"
    assert name not in list_on_a_terminal(host.root, TERM="dumb")
    assert name in list_on_a_terminal(host.root, TERM="dumb", COLUMNS="120")


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_a_pipe_that_cannot_carry_the_lines_gets_lines_of_ascii(
    host: hosttree.HostTree, encoding: str
):
    program = pathlib.Path(inventory.__file__).parents[3] / "bin" / "pci-passthrough"
    host.iommu_on(GROUPS)
    done = subprocess.run(
        [sys.executable, program, "--root", host.root, "list"],
        env={"PATH": os.defpath, "PYTHONIOENCODING": encoding},
        stdout=subprocess.PIPE,
        check=True,
    )
    assert b"    3 + 0000:00:1c.0" in done.stdout
    assert b"?" not in done.stdout
