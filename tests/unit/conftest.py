"""Settings and fixtures of the unit tests."""

from __future__ import annotations

import pathlib

import hosttree
import hypothesis
import pytest
from unit import fakekernel

# A noisy machine must not fail a property for its time; a failure must be the same for everybody.
hypothesis.settings.register_profile(
    "unit",
    deadline=None,
    derandomize=True,
    max_examples=100,
    suppress_health_check=[hypothesis.HealthCheck.too_slow],
)
hypothesis.settings.load_profile("unit")


@pytest.fixture(scope="session")
def charm_root() -> pathlib.Path:
    """The checkout, laid out as the charm is."""
    return pathlib.Path(__file__).resolve().parents[2]


@pytest.fixture
def tree(tmp_path: pathlib.Path) -> hosttree.HostTree:
    """The issue's host, see `fakekernel.build_host`."""
    return fakekernel.build_host(tmp_path / "host")


@pytest.fixture
def kernel(tree: hosttree.HostTree, monkeypatch: pytest.MonkeyPatch) -> fakekernel.FakeKernel:
    """The kernel of `tree`: it answers to what is written to its /sys."""
    return fakekernel.FakeKernel(tree, monkeypatch)


@pytest.fixture
def tools(tree: hosttree.HostTree) -> fakekernel.FakeTools:
    """The tools of `tree`."""
    return fakekernel.FakeTools(tree)
