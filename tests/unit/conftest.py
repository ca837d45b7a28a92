"""Settings and fixtures of the unit tests."""

from __future__ import annotations

import pathlib

import hypothesis
import pytest

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
