"""The contracts of pyproject.toml: `make lint` names the import that breaks one, and no other."""

from __future__ import annotations

import ast
import os
import pathlib
import re
import shutil
import subprocess
import sys

import pytest
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
