"""Settings and fixtures of the unit tests."""

from __future__ import annotations

import copy
import itertools
import os
import pathlib
import subprocess
import tempfile
from collections.abc import Callable, Iterator

import hypothesis
import pytest
from harness import fakekernel, hosttree

# A noisy machine must not fail a property for its time; a failure must be the same for everybody.
hypothesis.settings.register_profile(
    "unit",
    deadline=None,
    derandomize=True,
    max_examples=100,
    suppress_health_check=[hypothesis.HealthCheck.too_slow],
)
hypothesis.settings.load_profile("unit")

IN_MEMORY = "/dev/shm"
KINDS: dict[pathlib.Path, hosttree.HostTree] = {}


@pytest.fixture(scope="session")
def charm_root() -> pathlib.Path:
    """The checkout, laid out as the charm is."""
    return pathlib.Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session")
def in_memory() -> Iterator[pathlib.Path]:
    """A directory for made-up hosts, of hundreds of files each: in memory where that may be."""
    parent = IN_MEMORY if os.access(IN_MEMORY, os.W_OK) else None
    with tempfile.TemporaryDirectory(dir=parent, prefix="hosts-") as place:
        yield pathlib.Path(place)


@pytest.fixture
def make_host(in_memory: pathlib.Path) -> Iterator[Callable[..., hosttree.HostTree]]:
    """Build hosts as `fakekernel.build_host` does; each kind is built once and copied then."""
    with tempfile.TemporaryDirectory(dir=in_memory) as place:
        numbers = itertools.count()

        def make(ready: bool = False, **values: object) -> hosttree.HostTree:
            name = ",".join([f"ready={ready}", *(f"{key}={values[key]}" for key in sorted(values))])
            kind = in_memory / name
            if kind not in KINDS:
                built = fakekernel.build_host(kind, **values)
                if ready:
                    fakekernel.make_ready(built)
                KINDS[kind] = built
            tree = copy.deepcopy(KINDS[kind])
            tree.root = pathlib.Path(place, str(next(numbers)))
            subprocess.run(["cp", "-a", kind, tree.root], check=True)
            return tree

        yield make


@pytest.fixture
def tree(
    make_host: Callable[..., hosttree.HostTree], request: pytest.FixtureRequest
) -> hosttree.HostTree:
    """The issue's host, see `fakekernel.build_host`.

    With a test that also asks for a fixture ``ready``, the charm has been there and the host has
    rebooted: its devices are on vfio-pci.
    """
    return make_host(ready="ready" in request.fixturenames)


@pytest.fixture
def kernel(tree: hosttree.HostTree, monkeypatch: pytest.MonkeyPatch) -> fakekernel.FakeKernel:
    """The kernel of `tree`: it answers to what is written to its /sys."""
    return fakekernel.FakeKernel(tree, monkeypatch)


@pytest.fixture
def tools(tree: hosttree.HostTree) -> fakekernel.FakeTools:
    """The tools of `tree`."""
    return fakekernel.FakeTools(tree)
