"""Settings and fixtures of the unit tests."""

from __future__ import annotations

import copy
import itertools
import os
import pathlib
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from typing import Any

import hypothesis
import ops
import pytest
from harness import constants, fakekernel, hosttree
from harness import unit as units
from harness import world as worlds
from harness.unit import Unit
from harness.world import World

from passthrough import reconcile

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
    """Build hosts as `harness.world.build_host` does; each kind is built once and copied then."""
    with tempfile.TemporaryDirectory(dir=in_memory) as place:
        numbers = itertools.count()

        def make(ready: bool = False, **values: object) -> hosttree.HostTree:
            name = ",".join([f"ready={ready}", *(f"{key}={values[key]}" for key in sorted(values))])
            kind = in_memory / name
            if kind not in KINDS:
                built = worlds.build_host(kind, **values)
                if ready:
                    with pytest.MonkeyPatch.context() as patch:
                        World.of(built, patch).make_ready()
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
    """The issue's host, see `harness.world.build_host`.

    With a test that also asks for a fixture ``ready`` or ``ready_unit``, the charm has been there
    and the host has rebooted: its devices are on vfio-pci.
    """
    return make_host(ready=not {"ready", "ready_unit"}.isdisjoint(request.fixturenames))


@pytest.fixture
def kernel(tree: hosttree.HostTree, monkeypatch: pytest.MonkeyPatch) -> fakekernel.FakeKernel:
    """The kernel of `tree`: it answers to what is written to its /sys."""
    return fakekernel.FakeKernel(tree, monkeypatch)


@pytest.fixture
def tools(tree: hosttree.HostTree) -> fakekernel.FakeTools:
    """The tools of `tree`."""
    return fakekernel.FakeTools(tree)


@pytest.fixture
def world(kernel: fakekernel.FakeKernel, tools: fakekernel.FakeTools) -> World:
    """The world of `tree`, whose kernel and tools answer."""
    return World(kernel, tools)


@pytest.fixture
def make_world(
    make_host: Callable[..., hosttree.HostTree], monkeypatch: pytest.MonkeyPatch
) -> Callable[..., World]:
    """Build worlds on hosts as `make_host` builds them."""
    return lambda **values: World.of(make_host(**values), monkeypatch)


@pytest.fixture
def ready(world: World) -> World:
    """A world that has its devices: configured with `constants.GPUS`, rebooted, settled."""
    world.config = {"devices": constants.GPUS}
    return world


@pytest.fixture
def unit(world: World, monkeypatch: pytest.MonkeyPatch) -> Unit:
    """A unit of the charm beside nova-compute/0, on `world`."""
    units.find_world(world, monkeypatch)
    return Unit(world)


@pytest.fixture
def ready_unit(unit: Unit) -> Unit:
    """A unit of the charm that has its devices: configured, rebooted, started."""
    unit.configure(devices=constants.GPUS)
    return unit


@pytest.fixture
def settled(ready_unit: Unit) -> Unit:
    """A unit that has its devices, after a hook that found nothing left to do."""
    assert ready_unit.run("config_changed") == ops.ActiveStatus("gpu: 2 ready")
    return ready_unit


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """One entry for each time that a hook does what every hook does."""
    found: list[str] = []
    real = reconcile.reconcile

    def counted(*values: Any, **named: Any) -> reconcile.Result:
        found.append("reconcile")
        return real(*values, **named)

    monkeypatch.setattr(reconcile, "reconcile", counted)
    return found
