"""Fixtures of the functional tests: the packed charm on a made-up host."""

from __future__ import annotations

import contextlib
import pathlib
import sys
from collections.abc import Iterator

import pytest
import yaml
from functional import nova_client
from harness import hostbox, hosttree, standin
from harness.standin import command

ROOT = pathlib.Path(__file__).resolve().parents[2]
# A few tests of minutes each: begun last, they would leave the other processors idle at the end.
FIRST = "test_integration.py"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the longest file; all the rest stays in its order."""
    items.sort(key=lambda item: item.path.name != FIRST)


@pytest.fixture
def host(tmp_path: pathlib.Path) -> hosttree.HostTree:
    """A compute host as `hosttree.compute_host` makes it, with Nova installed.

    A test that needs another one overrides this fixture; `box` and `agent` take what it gives.
    """
    tree = hosttree.compute_host(tmp_path / "host")
    tree.install_nova()
    return tree


@pytest.fixture
def box(host: hosttree.HostTree, tmp_path: pathlib.Path) -> Iterator[hostbox.Box]:
    """`host`, running: what is started in it sees nothing of this machine but its programs."""
    with hostbox.Box(host, tmp_path / "box", writable=[tmp_path]) as started:
        yield started


@pytest.fixture
def manner() -> str:
    """Whose manner the agents have; a test of what differs overrides it with both."""
    return standin.JUJU_3


@pytest.fixture
def agent(box: hostbox.Box, tmp_path: pathlib.Path, manner: str) -> standin.Agent:
    """The unit agents of that host."""
    # The charm's packages are for this Python, which need not be the first on the system's PATH.
    python = tmp_path / "python" / "python3"
    python.parent.mkdir()
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    python.symlink_to(pathlib.Path(sys.base_prefix, "bin", version))
    return standin.Agent(
        tmp_path / "agent",
        command_prefix=box.command_prefix,
        path_prefix=[str(python.parent)],
        manner=manner,
        light_tools=True,
        compiled=True,
    )


@pytest.fixture
def juju(
    agent: standin.Agent,
    box: hostbox.Box,
    packed_charm: pathlib.Path,
    tmp_path: pathlib.Path,
) -> Iterator[command.Command]:
    """The ``juju`` command over these agents; machine 0 is `box`, each other a host like it."""
    platforms = yaml.safe_load((ROOT / "charmcraft.yaml").read_text(encoding="utf-8"))["platforms"]
    bases = sorted({name.rpartition(":")[0] for name in platforms})
    with contextlib.ExitStack() as boxes:

        def make(number: str) -> hostbox.Box:
            if number == "0":
                return box
            tree = hosttree.compute_host(tmp_path / f"host-{number}")
            place = tmp_path / f"box-{number}"
            return boxes.enter_context(hostbox.Box(tree, place, writable=[tmp_path]))

        place = tmp_path / "client"
        place.mkdir()
        yield command.Command(agent, packed_charm, bases, make, place)


@pytest.fixture(scope="session")
def nova() -> Iterator[nova_client.NovaClient]:
    """The real Nova, for questions about configuration files."""
    with nova_client.NovaClient() as client:
        yield client
