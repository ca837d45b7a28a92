"""Fixtures of the integration tests; `make integration` runs them where a controller is.

They read three variables: MACHINES, the machines to add, such as ``ssh:ubuntu@a ssh:ubuntu@b``;
CARDS, a model of card to bind, such as ``10de:1bb0``; PCI_PASSTHROUGH_BASE, the machines' base.
"""

from __future__ import annotations

import json
import os
import pathlib
import secrets
import shutil
from collections.abc import Iterator, Mapping

import jubilant
import pytest
from harness.standin import charms
from integration.cloud import Cloud, Settings


@pytest.fixture(scope="session")
def settings() -> Settings:
    """What the operator asks for."""
    return Settings(
        # The base whose Python the packed charm is for.
        base=os.environ.get("PCI_PASSTHROUGH_BASE", "ubuntu@24.04"),
        machines=tuple(os.environ.get("MACHINES", "").split()),
        card=os.environ.get("CARDS", ""),
        delay=float(os.environ.get("PCI_PASSTHROUGH_DELAY", "5")),
    )


@pytest.fixture(scope="session")
def stand_ins(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, pathlib.Path]:
    """The charms that stand in for those that ours is integrated with, packed, by their names."""
    place = tmp_path_factory.mktemp("charms")
    return {name: charms.pack(name, place) for name in charms.NAMES}


@pytest.fixture(scope="module")
def juju(request: pytest.FixtureRequest) -> Iterator[jubilant.Juju]:
    """A model of its own: pytest-operator makes it where it can, else jubilant."""
    client = jubilant.Juju(wait_timeout=15 * 60)
    given = request.config.getoption("--model", None)
    if _has_an_api_for_libjuju(client) and shutil.which("charmcraft"):
        client.model = request.getfixturevalue("ops_test").model_full_name
        yield client
        return
    if given:
        client.model = given
    else:
        client.add_model(f"pci-passthrough-{secrets.token_hex(4)}")
    yield client
    if request.session.testsfailed:
        print(client.debug_log(limit=500))
    if not given and not request.config.getoption("--keep-models", default=False):
        client.destroy_model(str(client.model), destroy_storage=True, force=True)


def _has_an_api_for_libjuju(client: jubilant.Juju) -> bool:
    """Whether pytest-operator can make a model: libjuju asks the API, and knows Juju 3 alone."""
    answer = client.cli("show-controller", "--format", "json", include_model=False)
    (controller,) = json.loads(answer).values()
    details = controller["details"]
    return details["agent-version"].startswith("3.") and bool(details["api-endpoints"])


@pytest.fixture(scope="module")
def cloud(
    juju: jubilant.Juju,
    settings: Settings,
    stand_ins: Mapping[str, pathlib.Path],
    packed_charm: pathlib.Path,
) -> Cloud:
    """The machines, before anything else is on them; a keeper on each has Juju leave them to us."""
    found = Cloud(juju, settings, stand_ins, packed_charm)
    found.add_machines()
    return found
