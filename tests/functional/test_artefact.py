"""What `make pack` puts into the charm, and that it runs by itself."""

from __future__ import annotations

import os
import pathlib
import re
import subprocess
import sys
import zipfile

import jinja2
import packaging.markers
import pytest
import sbom

ROOT = pathlib.Path(__file__).resolve().parents[2]
TEMPLATES = ROOT / "templates"
PYTHON = f"python{sys.version_info.major}.{sys.version_info.minor}"
SYSTEM_PYTHON = pathlib.Path(sys.base_prefix, "bin", PYTHON)
SITE_PACKAGES = f"venv/lib/{PYTHON}/site-packages/"

# charmcraft writes dispatch, manifest.yaml and the three copies of the YAML files at the top.
TOP_FILES = {
    "LICENSE",
    "actions.yaml",
    "config.yaml",
    "dispatch",
    "icon.svg",
    "manifest.yaml",
    "metadata.yaml",
}
# lib/ is there from the charm's first library on.
HAS_LIBRARY = any(path.is_file() for path in (ROOT / "lib").rglob("*.py"))
SHIPPED_DIRECTORIES = ("bin", *(["lib"] if HAS_LIBRARY else []), "share", "src", "templates")

# Run with the charm's packages alone: import all there is, print what came from where.
IMPORT_EVERYTHING = """
import importlib, importlib.metadata, pathlib, sys
site = sys.argv[1]
sys.path.insert(0, site)
for distribution in importlib.metadata.distributions(path=[site]):
    tops = {file.parts[0].removesuffix(".py") for file in distribution.files or ()}
    names = sorted(name for name in tops if name.isidentifier() and name != "__pycache__")
    for name in names:
        importlib.import_module(name)
    print(distribution.metadata["Name"], distribution.version, *names)
"""


def shipped_files(directory: str) -> set[str]:
    """Return the files of the checkout's `directory`, as their names in the charm."""
    return {
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / directory).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }


def locked_packages() -> dict[str, str]:
    """Return name → version from the lock of the charm's own dependencies, for this Python."""
    lock = (ROOT / "requirements" / "charm.txt").read_text(encoding="utf-8")
    lines = re.findall(r"(?m)^([a-z0-9-]+)==(\S+)(?: ; (.*?))? \\$", lock)
    return {
        name: version
        for name, version, marker in lines
        if not marker or packaging.markers.Marker(marker).evaluate()
    }


@pytest.fixture(scope="module")
def names(packed_charm: pathlib.Path) -> list[str]:
    """Every file in the charm."""
    with zipfile.ZipFile(packed_charm) as archive:
        return archive.namelist()


@pytest.fixture(scope="module")
def unpacked(packed_charm: pathlib.Path, tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """The charm unpacked with its modes, as a unit agent does."""
    target = tmp_path_factory.mktemp("charm")
    with zipfile.ZipFile(packed_charm) as archive:
        for item in archive.infolist():
            path = pathlib.Path(archive.extract(item, target))
            path.chmod(item.external_attr >> 16)
    return target


def test_top_level_holds_what_juju_reads_and_nothing_else(names: list[str]):
    assert {name for name in names if "/" not in name} == TOP_FILES
    assert {name.split("/")[0] for name in names if "/" in name} == {
        *SHIPPED_DIRECTORIES,
        "venv",
        "compiled",
    }


def test_its_bill_of_materials_names_each_package_that_it_carries(packed_charm: pathlib.Path):
    found = sbom.describe(packed_charm)
    assert {each["name"]: each["version"] for each in found["components"]} == locked_packages()


@pytest.mark.parametrize("directory", SHIPPED_DIRECTORIES)
def test_directory_is_shipped_whole_and_unmixed(names: list[str], directory: str):
    packed = {name for name in names if name.startswith(f"{directory}/")}
    assert packed == shipped_files(directory)
    assert packed


def test_every_template_is_there_as_a_module_too(names: list[str]):
    compiled = [name.split("/") for name in names if name.startswith("compiled/")]
    assert len({folder for _, folder, _ in compiled}) == 1
    modules = {jinja2.ModuleLoader.get_module_filename(path.name) for path in TEMPLATES.iterdir()}
    assert {module for _, _, module in compiled} == modules


def test_no_hook_compiles_a_template(unpacked: pathlib.Path):
    """The modules are of the very templates and the very Jinja of the charm."""
    program = (
        "import jinja2; from passthrough.planning import templates; "
        "found = templates._environment().loader; assert isinstance(found, jinja2.ModuleLoader)"
    )
    path = os.pathsep.join([str(unpacked / "src"), str(unpacked / SITE_PACKAGES)])
    command = [SYSTEM_PYTHON, "-S", "-B", "-c", program]
    subprocess.run(command, env={"PYTHONPATH": path}, check=True)


@pytest.mark.parametrize(
    "name", ["LICENSE", "actions.yaml", "config.yaml", "icon.svg", "metadata.yaml"]
)
def test_file_is_shipped_as_it_is(unpacked: pathlib.Path, name: str):
    assert (unpacked / name).read_bytes() == (ROOT / name).read_bytes()


def test_nothing_was_left_by_tools(names: list[str]):
    stray = re.compile(r"(^|/)(__pycache__|\.[^/]+|pip|pbr|tests?)(/|$)|\.py[co]$|~$")
    assert [name for name in names if stray.search(name)] == []


def test_venv_holds_the_locked_packages_for_this_python(unpacked: pathlib.Path):
    """Every package of the lock, at its version, imports with nothing else on the path."""
    result = subprocess.run(
        [SYSTEM_PYTHON, "-I", "-S", "-B", "-c", IMPORT_EVERYTHING, unpacked / SITE_PACKAGES],
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    rows = [line.split() for line in result.stdout.splitlines()]
    installed = {row[0].lower().replace("_", "-"): row[1] for row in rows}
    assert installed == locked_packages()
    assert [row for row in rows if len(row) < 3] == [], "a distribution without a module"


def test_yaml_is_the_compiled_one(names: list[str]):
    compiled = [name for name in names if name.endswith(".so")]
    assert any(name.startswith(f"{SITE_PACKAGES}yaml/_yaml.cpython") for name in compiled)


@pytest.mark.parametrize("name", ["dispatch", "bin/pci-passthrough"])
def test_program_is_executable(unpacked: pathlib.Path, name: str):
    assert os.access(unpacked / name, os.X_OK)


@pytest.mark.parametrize("origin", ["charm", "checkout"])
def test_command_line_runs_by_itself(unpacked: pathlib.Path, tmp_path: pathlib.Path, origin: str):
    """Through a symlink, from another directory, with no environment but PATH."""
    home = {"charm": unpacked, "checkout": ROOT}[origin]
    link = tmp_path / "pci-passthrough"
    link.symlink_to(home / "bin" / "pci-passthrough")
    result = subprocess.run(
        [SYSTEM_PYTHON, "-B", link, "--help"],
        cwd=tmp_path,
        env={"PATH": os.defpath},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert "usage: pci-passthrough" in result.stdout


def test_variant_for_another_python_differs_in_its_packages_only(
    packed_charm: pathlib.Path, names: list[str]
):
    other = "3.12" if PYTHON != "python3.12" else "3.11"
    command = [str(ROOT / "scripts" / "pack"), "--python-version", other]
    result = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    variant = pathlib.Path(result.stdout.strip())
    assert variant != packed_charm
    with zipfile.ZipFile(variant) as archive:
        variant_names = archive.namelist()

    packages = [name for name in variant_names if name.startswith("venv/lib/")]
    assert {name.split("/")[2] for name in packages} == {f"python{other}"}
    assert {name for name in variant_names if name not in packages} == {
        name for name in names if not name.startswith("venv/lib/")
    }
    tag = f".cpython-{other.replace('.', '')}-"
    modules = [name for name in packages if name.endswith(".so")]
    assert modules
    assert all(tag in name for name in modules)


@pytest.mark.parametrize("version", ["3.11", "3.12"])
def test_distutils_is_there_where_python_has_none(version: str):
    """Python 3.12 has it no more, charmhelpers imports it, setuptools brings it back."""
    command = [str(ROOT / "scripts" / "pack"), "--python-version", version]
    result = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    with zipfile.ZipFile(result.stdout.strip()) as archive:
        files = {name.rpartition("/")[2] for name in archive.namelist()}
    assert ("distutils-precedence.pth" in files) == (version == "3.12")
