"""The contracts of pyproject.toml: `make lint` names the import that breaks one, and no other.

And the page of the rooms: its picture and its tables show the package as it is.
"""

from __future__ import annotations

import ast
import dataclasses
import os
import pathlib
import re
import shutil
import subprocess
import sys
from xml.etree import ElementTree

import pytest
import rooms
from importlinter import api

REPOSITORY = pathlib.Path(__file__).resolve().parents[2]
PACKAGE = REPOSITORY / "src/passthrough"
CONTRACTS = {
    contract["id"]: contract
    for contract in api.read_configuration(str(REPOSITORY / "pyproject.toml"))["contracts_options"]
}
# What reads or writes below a path, without an import that a contract could forbid.
TOUCHES = re.compile(
    "chmod|exists|glob|hardlink_to|is_(block_device|char_device|dir|fifo|file|mount|socket|symlink)"
    "|iterdir|lstat|mkdir|open|read_bytes|read_text|readlink|rglob|rmdir|samefile|stat|symlink_to"
    "|touch|unlink|write_bytes|write_text"
)


@pytest.fixture
def copy(tmp_path: pathlib.Path) -> pathlib.Path:
    """A copy of the package, with the contracts beside it."""
    shutil.copy(REPOSITORY / "pyproject.toml", tmp_path)
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(PACKAGE, tmp_path / "src/passthrough", ignore=ignored)
    return tmp_path


def lint(copy: pathlib.Path) -> tuple[int, str]:
    program = pathlib.Path(sys.executable).with_name("lint-imports")
    done = subprocess.run(
        [program, "--no-logo", "--no-cache"],
        cwd=copy,
        env=os.environ | {"PYTHONPATH": "src", "COLUMNS": "200"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    return done.returncode, done.stdout


def plant(copy: pathlib.Path, module: str, line: str) -> None:
    """Append ``line`` to a module, which is made where there is none."""
    with (copy / "src/passthrough" / module).open("a", encoding="utf-8") as file:
        file.write(f"\n{line}\n")


def broken(output: str) -> list[str]:
    return [key for key, each in CONTRACTS.items() if f"{each['name']} BROKEN" in output]


def test_the_package_keeps_every_contract(copy: pathlib.Path) -> None:
    code, output = lint(copy)
    assert code == 0, output
    assert f"Contracts: {len(CONTRACTS)} kept, 0 broken." in output


@pytest.mark.parametrize(
    ("contract", "module", "line", "shown"),
    [
        pytest.param(
            "layers",
            "host/machine.py",
            "from passthrough.planning import plan",
            "passthrough.host.machine -> passthrough.planning.plan",
            id="a room imports one above it",
        ),
        pytest.param(
            "layers",
            "system/lock.py",
            "def late():\n    from passthrough.state import record",
            "passthrough.system.lock -> passthrough.state.record",
            id="it does so inside a function",
        ),
        pytest.param(
            "layers",
            "effects/apply.py",
            "from passthrough.reporting import tables",
            "passthrough.effects.apply -> passthrough.reporting.tables",
            id="effects and reporting know each other",
        ),
        pytest.param(
            "layers",
            "attic/__init__.py",
            "",
            "passthrough.attic",
            id="a room has no place among the layers",
        ),
        pytest.param(
            "uses",
            "host/uses/network.py",
            "from passthrough.host.uses import storage",
            "passthrough.host.uses.network -> passthrough.host.uses.storage",
            id="one list of uses imports another",
        ),
        pytest.param(
            "uses",
            "host/uses/sound.py",
            "from passthrough.host.uses import console, kinds",
            "passthrough.host.uses.sound -> passthrough.host.uses.console",
            id="so does a new one, which nobody wrote into the contract",
        ),
        pytest.param(
            "pure",
            "planning/guards.py",
            "import os",
            "passthrough.planning.guards -> os",
            id="a guard reads for itself",
        ),
        pytest.param(
            "pure",
            "nova/lines.py",
            "from passthrough.system import commands",
            "passthrough.nova.lines -> passthrough.system.commands",
            id="what Nova is told runs a command",
        ),
        pytest.param(
            "pure",
            "reporting/tables.py",
            "def width():\n    import subprocess",
            "passthrough.reporting.tables -> subprocess",
            id="a table asks a program",
        ),
        pytest.param(
            "juju",
            "naming.py",
            "import ops",
            "passthrough.naming -> ops",
            id="the package learns of Juju",
        ),
        pytest.param(
            "juju",
            "cli.py",
            "def run():\n    import charm",
            "passthrough.cli -> charm",
            id="the package imports what is built upon it",
        ),
    ],
)
def test_a_planted_import_breaks_its_contract_alone(
    copy: pathlib.Path, contract: str, module: str, line: str, shown: str
) -> None:
    (copy / "src/passthrough" / module).parent.mkdir(exist_ok=True)
    plant(copy, module, line)
    code, output = lint(copy)
    assert code == 1, output
    assert broken(output) == [contract], output
    assert shown in output


def test_a_type_may_come_from_above(copy: pathlib.Path) -> None:
    line = "if TYPE_CHECKING:\n    from passthrough.planning import plan"
    plant(copy, "host/pci.py", line)
    code, output = lint(copy)
    assert code == 0, output


def test_an_exception_that_nothing_needs_any_more_is_refused(copy: pathlib.Path) -> None:
    reader = copy / "src/passthrough/reporting/leftovers.py"
    content = reader.read_text(encoding="utf-8")
    reader.write_text(content.replace("from pathlib import Path\n", ""), encoding="utf-8")
    code, output = lint(copy)
    assert code == 1
    assert "passthrough.reporting.leftovers -> pathlib" in output


def test_everything_beside_the_package_is_out_of_its_reach() -> None:
    beside = {path.stem for path in (REPOSITORY / "src").glob("*.py")}
    libraries = {path.name for path in (REPOSITORY / "lib").iterdir()}
    assert set(CONTRACTS["juju"]["forbidden_modules"]) == beside | libraries | {"ops"}


def test_make_lint_holds_the_contracts() -> None:
    done = subprocess.run(
        ["make", "--dry-run", "lint"], cwd=REPOSITORY, capture_output=True, text=True, check=True
    )
    assert "lint-imports" in done.stdout


# A path that is handed in can be read without an import


def test_only_the_named_readers_touch_a_path() -> None:
    exceptions = {each.split(" -> ")[0] for each in CONTRACTS["pure"]["ignore_imports"]}
    found = {
        name: calls
        for source in CONTRACTS["pure"]["source_modules"]
        for path in (REPOSITORY / "src" / source.replace(".", "/")).rglob("*.py")
        if (calls := touches(path.read_text(encoding="utf-8")))
        if (name := ".".join(path.relative_to(REPOSITORY / "src").with_suffix("").parts))
        not in exceptions
    }
    assert not found


@pytest.mark.parametrize("call", ["open('/etc/fstab')", "(root / 'proc').iterdir()", "at.exists()"])
def test_a_call_that_touches_a_path_is_seen(call: str) -> None:
    assert touches(f"def find(root, at):\n    return {call}\n")


def test_a_call_that_only_names_a_path_is_not() -> None:
    assert not touches(
        "def find(root, text):\n    return (root / 'a').name, text.replace('a', 'b')\n"
    )


def touches(source: str) -> list[str]:
    """The calls of a module that read or write below a path."""
    called = [node.func for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call)]
    return [
        ast.unparse(function)
        for function in called
        if (isinstance(function, ast.Attribute) and TOUCHES.fullmatch(function.attr))
        or (isinstance(function, ast.Name) and function.id == "open")
    ]


# The picture, and the page around it


@pytest.fixture(scope="module")
def house() -> rooms.House:
    return rooms.read()


def test_the_picture_is_as_the_imports_are():
    assert rooms.find_outdated() == [], "make reference"


def test_the_picture_is_outdated_when_a_module_is_new(
    house: rooms.House, monkeypatch: pytest.MonkeyPatch
):
    modules = {**house.modules, "nova": (*house.modules["nova"], "quotas")}
    monkeypatch.setattr(rooms, "read", lambda: dataclasses.replace(house, modules=modules))
    assert rooms.find_outdated() == [rooms.PICTURE]
    assert rooms.main(["--check"]) == 1


def test_an_arrow_that_others_lead_around_is_left_out():
    imports = {"top": {"middle", "bottom"}, "middle": {"bottom"}, "bottom": {"errors"}}
    house = rooms.House(
        layers=(("top",), ("middle",), ("bottom",)),
        values=("errors",),
        modules=dict.fromkeys(imports, ()),
        imports={
            **{room: frozenset(each) for room, each in imports.items()},
            "errors": frozenset(),
        },
        pure=frozenset(),
    )
    assert rooms.find_arrows(house) == [("top", "middle"), ("middle", "bottom")]


def test_every_arrow_of_the_picture_leads_down(house: rooms.House):
    row = {room: index for index, layer in enumerate(house.layers) for room in layer}
    arrows = rooms.find_arrows(house)
    assert arrows
    assert [(room, other) for room, other in arrows if row[room] >= row[other]] == []


def test_the_picture_has_every_module_and_no_two_boxes_overlap(house: rooms.House):
    tree = ElementTree.fromstring(rooms.draw(house))  # noqa: S314 - drawn a moment ago, by us
    svg = "{http://www.w3.org/2000/svg}"
    shown = {word for text in tree.iter(f"{svg}text") for word in (text.text or "").split()}
    named = {part for names in house.modules.values() for name in names for part in name.split(".")}
    assert named - {word.rstrip("/") for word in shown} == set()

    page, *boxes = [
        tuple(float(each.get(key, 0)) for key in ("x", "y", "width", "height"))
        for each in tree.iter(f"{svg}rect")
    ]
    for x, y, width, height in boxes:
        assert x > 0
        assert x + width < page[2]
        assert y + height < page[3]
        beside = [
            other
            for other in boxes
            if other[0] < x + width and x < other[0] + other[2]
            if other[1] < y + height and y < other[1] + other[3]
        ]
        assert beside == [(x, y, width, height)]


def test_the_page_says_what_every_room_is_for(house: rooms.House):
    _, block = page().split("<!-- checked: rooms -->\n")
    rows = re.findall(r"(?m)^\| `(\w+)` \| .+ \|$", block.split("\n\n")[0])
    assert sorted(rows) == sorted({*house.modules, *house.values} - {rooms.WIRING}), "and no other"


def test_the_page_sends_nobody_to_a_file_that_is_not_there():
    named = re.findall(r"`([a-z_/]+\.py)`", page())
    assert named
    assert [name for name in named if not (PACKAGE / name).is_file()] == []


def page() -> str:
    return (REPOSITORY / "docs/explanation/architecture.md").read_text(encoding="utf-8")
