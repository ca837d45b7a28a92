"""The packed charm on a real Juju controller: deploy, integrate, configure, act, remove.

The machines are whatever the controller gives, on `localhost` LXD containers. There the charm can
show that it is installed, related and configured, and that it leaves a container alone; binding
devices is what the lab's tests are for.
"""

from __future__ import annotations

import asyncio
import json
import pathlib
import time
from collections.abc import Callable
from typing import Any

import pytest
import yaml
from pytest_operator.plugin import OpsTest

pytestmark = pytest.mark.asyncio

ROOT = pathlib.Path(__file__).resolve().parents[2]
APP = "pci-passthrough"
COMPUTE, CONTROLLER, MONITOR = "nova-compute", "nova-cloud-controller", "nrpe"
# Each endpoint of the charm and the stand-in's endpoint that it is integrated with.
ENDPOINTS = {
    "juju-info": f"{COMPUTE}:juju-info",
    "nova-cloud-controller": f"{CONTROLLER}:nova-vmware",
    "nova-pci": f"{CONTROLLER}:nova-pci",
    "nrpe-external-master": f"{COMPUTE}:nrpe-external-master",
}
MINUTES = 60

ACTIONS = yaml.safe_load((ROOT / "actions.yaml").read_text(encoding="utf-8"))


async def read_status(ops_test: OpsTest) -> dict[str, Any]:
    """The model's status as `juju status --format json` gives it."""
    code, stdout, stderr = await ops_test.juju("status", "--format", "json")
    assert code == 0, stderr
    return json.loads(stdout)


def find_subordinates(status: dict[str, Any], principal: str) -> dict[str, dict[str, Any]]:
    """The charm's units beside a principal application, by name."""
    units = status["applications"].get(principal, {}).get("units", {})
    return {
        name: unit
        for each in units.values()
        for name, unit in each.get("subordinates", {}).items()
        if name.startswith(f"{APP}/")
    }


async def wait_for(
    ops_test: OpsTest, wanted: Callable[[dict[str, Any]], bool], minutes: int = 15
) -> dict[str, Any]:
    """Wait until the model's status is as wanted; fail with the status as it is, or on an error."""
    deadline = time.monotonic() + minutes * MINUTES
    while True:
        status = await read_status(ops_test)
        if wanted(status):
            return status
        failed = [
            (name, unit["workload-status"])
            for application in status["applications"].values()
            for principal in application.get("units", {}).values()
            for name, unit in principal.get("subordinates", {}).items()
            if unit["workload-status"]["current"] == "error"
        ]
        assert not failed, failed
        assert time.monotonic() < deadline, json.dumps(status["applications"], indent=1)
        await asyncio.sleep(5)


def says(principal: str, state: str, text: str) -> Callable[[dict[str, Any]], bool]:
    """A condition: the charm's unit beside a principal is idle in a state, with such a message."""

    def is_so(status: dict[str, Any]) -> bool:
        units = find_subordinates(status, principal).values()
        return bool(units) and all(
            unit["workload-status"]["current"] == state
            and text in unit["workload-status"].get("message", "")
            and unit["juju-status"]["current"] == "idle"
            for unit in units
        )

    return is_so


async def unit_beside(ops_test: OpsTest, principal: str) -> str:
    """The name of the charm's unit beside a principal."""
    (name,) = find_subordinates(await read_status(ops_test), principal)
    return name


async def read_relation(ops_test: OpsTest, unit: str, endpoint: str) -> dict[str, Any]:
    """What a unit sees on one of its relations, as `juju show-unit` gives it."""
    code, stdout, stderr = await ops_test.juju("show-unit", unit, "--format", "json")
    assert code == 0, stderr
    relations = json.loads(stdout)[unit]["relation-info"]
    return next(relation for relation in relations if relation["endpoint"] == endpoint)


@pytest.mark.abort_on_fail
async def test_deploy_beside_two_principals(
    ops_test: OpsTest, packed_charm: pathlib.Path, stand_in_charm: pathlib.Path, base: str
):
    model = ops_test.model
    assert model is not None
    for name in (COMPUTE, CONTROLLER):
        await model.deploy(str(stand_in_charm), application_name=name, base=base)
    await model.deploy(str(packed_charm), application_name=APP, base=base, num_units=0)
    await model.integrate(f"{APP}:juju-info", ENDPOINTS["juju-info"])
    await wait_for(ops_test, says(COMPUTE, "blocked", "devices is not set"))


@pytest.mark.abort_on_fail
@pytest.mark.parametrize("endpoint", [name for name in ENDPOINTS if name != "juju-info"])
async def test_integrate(ops_test: OpsTest, endpoint: str):
    model = ops_test.model
    assert model is not None
    await model.integrate(f"{APP}:{endpoint}", ENDPOINTS[endpoint])
    await wait_for(ops_test, says(COMPUTE, "blocked", "devices is not set"))


@pytest.mark.abort_on_fail
async def test_bad_option_blocks_every_unit_and_names_the_item(ops_test: OpsTest):
    model = ops_test.model
    assert model is not None
    await model.applications[APP].set_config({"devices": "gpu=10de:zzzz"})
    for principal in (COMPUTE, CONTROLLER):
        await wait_for(ops_test, says(principal, "blocked", 'devices: item 1 "gpu=10de:zzzz"'))


@pytest.mark.abort_on_fail
async def test_alias_reaches_the_controllers(ops_test: OpsTest):
    """No machine has such a device; the controllers learn of the alias all the same."""
    model = ops_test.model
    assert model is not None
    await model.applications[APP].set_config({"devices": "gpu=fffe:fffe"})
    await wait_for(ops_test, says(COMPUTE, "active", "no matching device"))
    await wait_for(ops_test, says(CONTROLLER, "active", "gpu: published"))

    unit = await unit_beside(ops_test, CONTROLLER)
    stock = await read_relation(ops_test, f"{CONTROLLER}/0", "nova-vmware")
    payload = json.loads(stock["related-units"][unit]["data"]["subordinate_configuration"])
    section = payload["nova"]["/etc/nova/nova.conf"]["sections"]["DEFAULT"]
    assert [json.loads(value)["name"] for key, value in section if key == "pci_alias"] == ["gpu"]

    other = await read_relation(ops_test, f"{CONTROLLER}/0", "nova-pci")
    aliases = json.loads(other["application-data"]["aliases"])
    assert [alias["name"] for alias in aliases] == ["gpu"]


@pytest.mark.abort_on_fail
@pytest.mark.parametrize("principal", [COMPUTE, CONTROLLER])
@pytest.mark.parametrize("form", ["table", "json"])
@pytest.mark.parametrize("name", sorted(ACTIONS))
async def test_action(ops_test: OpsTest, name: str, form: str, principal: str):
    unit = await unit_beside(ops_test, principal)
    model = ops_test.model
    assert model is not None
    action = await (await model.units[unit].run_action(name, format=form)).wait()
    if name == "rebind" and action.status == "failed":
        # There is nothing to bind beside a controller, nor on a machine without an IOMMU.
        reason = "binds nothing" if principal == CONTROLLER else "the IOMMU is off"
        assert reason in action.data["message"]
        return
    assert action.status == "completed", action.data
    results = {key: text for key, text in action.results.items() if key != "return-code"}
    ((key, text),) = results.items()
    assert text
    assert (key == "table") is (form == "table")
    if form == "json":
        json.loads(text)


@pytest.mark.abort_on_fail
async def test_removal_leaves_nothing(ops_test: OpsTest):
    model = ops_test.model
    assert model is not None
    await model.remove_application(APP, block_until_done=True, timeout=15 * MINUTES)
    await wait_for(ops_test, lambda status: APP not in status["applications"])
    for unit in (f"{COMPUTE}/0", f"{CONTROLLER}/0"):
        command = "find /etc /usr/lib/dracut /var/lib/pci-passthrough -name '*pci-passthrough*'"
        code, stdout, stderr = await ops_test.juju(
            "exec", "--unit", unit, f"{command} 2>&1 || true"
        )
        assert code == 0, stderr
        found = [line for line in stdout.splitlines() if "No such file" not in line]
        assert found == []
