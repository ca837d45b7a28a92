"""The packed charm under Juju: installed, integrated, configured, asked, refreshed, removed.

One story on one model, so the first failure ends it. Where the machines are real and CARDS names a
model that a compute host has, its devices are bound and given back; what Juju and the charm say to
each other shows everywhere, on containers too. docs/how-to/try-on-your-hardware.md tells how.
"""

from __future__ import annotations

import json
import operator
import pathlib
import re
from collections.abc import Callable

import jubilant
import pytest
import yaml
from integration.cloud import (
    APP,
    BELOW,
    CARETAKER,
    COMPUTE,
    CONTROLLER,
    ENDPOINTS,
    MINUTES,
    OTHER,
    Cloud,
    beside,
    is_gone,
)
from jubilant.statustypes import UnitStatus

ROOT = pathlib.Path(__file__).resolve().parents[2]
ACTIONS = yaml.safe_load((ROOT / "actions.yaml").read_text(encoding="utf-8"))
# A model that no machine has.
ABSENT = "gpu=fffe:fffe"
ABSENT_HERE, READY, REBOOT = "no matching device", " ready", "reboot required"
UNSET = "devices is not set"
# What Juju takes and the charm refuses: the option, its value, the words of the status.
BAD_VALUES = {
    "devices": ("gpu=10de:zzzz", 'devices: item 1 "gpu=10de:zzzz"'),
    "kernel-options": ("init=/bin/sh", "kernel-options"),
    "reboot": ("sometimes", "reboot"),
}
# What Juju refuses itself: the option, its value, the words of the error.
REFUSED = {
    "no-such-option": ("x", "no-such-option"),
    "iommu-passthrough": ("perhaps", "iommu-passthrough"),
}


def wanted_devices(cloud: Cloud) -> str:
    return f"gpu={cloud.settings.card}" if cloud.settings.card else ABSENT


def settle(cloud: Cloud) -> None:
    """Wait until the compute hosts have what is asked for; reboot those that need it."""
    if not cloud.settings.card:
        cloud.wait_for(COMPUTE, "active", ABSENT_HERE)
        return

    status = cloud.wait(lambda status: is_settled(status, REBOOT), timeout=30 * MINUTES)
    for unit in status.apps[COMPUTE].units.values():
        if any(message.startswith(REBOOT) for message in messages(unit)):
            cloud.reboot(unit.machine)
    cloud.wait(is_settled)
    assert any("vfio" in driver for each in cloud.compute for driver in bound(cloud, each))


def messages(unit: UnitStatus) -> list[str]:
    """What the charm's units beside a principal's unit say."""
    below = unit.subordinates.items()
    return [each.workload_status.message for name, each in below if name.startswith(f"{APP}/")]


def is_settled(status: jubilant.Status, *others: str) -> bool:
    """Whether one compute host has its card ready, and each other one has, or has none.

    Args:
        status: of the model.
        others: beginnings of messages that will do as well as a card that is ready.
    """
    found = [messages(unit) for unit in status.apps[COMPUTE].units.values()]
    done = [any(READY in each or each.startswith(others) for each in said) for said in found]
    absent = [any(each == ABSENT_HERE for each in said) for said in found]
    units = beside(status, COMPUTE).values()
    idle = all(unit.juju_status.current == "idle" for unit in units)
    return any(done) and all(map(operator.or_, done, absent)) and idle


def bound(cloud: Cloud, machine: str) -> list[str]:
    """The drivers of the machine's cards of CARDS."""
    return cloud.drivers(machine, cloud.settings.card)


class TestInstall:
    def test_beside_nova_compute(self, cloud: Cloud):
        cloud.deploy(COMPUTE, num_units=len(cloud.compute), to=cloud.compute)
        cloud.deploy_charm()
        cloud.integrate("juju-info")
        cloud.wait_for(COMPUTE, "blocked", UNSET)

    @pytest.mark.parametrize("endpoint", [name for name in ENDPOINTS if name != "juju-info"])
    def test_endpoint(self, cloud: Cloud, endpoint: str):
        application = ENDPOINTS[endpoint].partition(":")[0]
        if application in BELOW:
            if cloud.makes_chains:
                pytest.skip("Juju 4.0 makes units without end of a relation of two subordinates")
            cloud.deploy(application)
            way = BELOW[application]
            cloud.juju.integrate(f"{application}:{way}", f"{COMPUTE}:{way}")
        else:
            cloud.deploy(application, to=[cloud.controller])
        cloud.integrate(endpoint)
        cloud.wait_for(COMPUTE, "blocked", UNSET)
        if application == CONTROLLER:
            cloud.wait_for(CONTROLLER, "blocked", UNSET)


class TestConfiguration:
    @pytest.mark.parametrize("option", BAD_VALUES)
    def test_a_bad_value_blocks_the_hosts_and_is_named(self, cloud: Cloud, option: str):
        value, words = BAD_VALUES[option]
        cloud.juju.config(APP, {option: value})
        cloud.wait_for(COMPUTE, "blocked", words)
        cloud.juju.config(APP, reset=option)
        cloud.wait_for(COMPUTE, "blocked", UNSET)

    @pytest.mark.parametrize("option", REFUSED)
    def test_juju_refuses(self, cloud: Cloud, option: str):
        value, words = REFUSED[option]
        with pytest.raises(jubilant.CLIError, match=words):
            cloud.juju.config(APP, {option: value})

    def test_an_alias_reaches_both_controllers(self, cloud: Cloud):
        """No machine has such a device; the controllers learn of the alias all the same."""
        cloud.juju.config(APP, {"devices": ABSENT})
        cloud.wait_for(COMPUTE, "active", ABSENT_HERE)
        cloud.wait_for(CONTROLLER, "active", "gpu: published")

        unit = cloud.unit_beside(CONTROLLER)
        (stock,) = relations(cloud, CONTROLLER, "nova-vmware")
        data = stock.related_units[unit].data
        payload = json.loads(data["subordinate_configuration"])
        section = payload["nova"]["/etc/nova/nova.conf"]["sections"]["DEFAULT"]
        aliases = [json.loads(value) for key, value in section if key == "pci_alias"]
        assert [alias["name"] for alias in aliases] == ["gpu"]

        (other,) = relations(cloud, OTHER, "nova-pci")
        assert [alias["name"] for alias in json.loads(other.app_data["aliases"])] == ["gpu"]


def relations(cloud: Cloud, application: str, endpoint: str) -> list:
    """What a unit of an application sees on an endpoint."""
    unit = min(cloud.juju.status().apps[application].units)
    found = cloud.juju.show_unit(unit).relation_info
    return [relation for relation in found if relation.endpoint == endpoint]


def run(cloud: Cloud, unit: str, action: str, **parameters: str) -> jubilant.Task:
    """Run an action to its end, whether it fails or not."""
    try:
        return cloud.juju.run(unit, action, parameters, wait=15 * MINUTES)
    except jubilant.TaskError as error:
        return error.task


class TestActions:
    @pytest.mark.parametrize("principal", [COMPUTE, CONTROLLER])
    @pytest.mark.parametrize("form", ["table", "json"])
    @pytest.mark.parametrize("name", sorted(ACTIONS))
    def test_answers_in_one_result(self, cloud: Cloud, name: str, form: str, principal: str):
        needs = ACTIONS[name].get("required", [])
        parameters = {"format": form, **dict.fromkeys(needs, "0000:00:00.0")}
        task = run(cloud, cloud.unit_beside(principal), name, **parameters)
        if needs:
            # Nothing is claimed at that address, and nothing is lent.
            reason = "binds nothing" if principal == CONTROLLER else " on this host| to this host"
            assert re.search(reason, task.message)
            assert not task.success
            return
        if name == "rebind" and not task.success:
            # There is nothing to bind beside a controller, nor on a machine without an IOMMU.
            reason = "binds nothing" if principal == CONTROLLER else "the IOMMU is off"
            assert reason in task.message
            return
        # verify is red where a machine cannot pass devices through, and its result says why.
        assert task.success or name == "verify"
        ((key, text),) = task.results.items()
        assert text
        assert (key == "table") is (form == "table")
        if form == "json":
            json.loads(text)

    def test_juju_refuses_a_parameter_that_is_none(self, cloud: Cloud):
        with pytest.raises((jubilant.CLIError, jubilant.TaskError, ValueError), match="colour"):
            cloud.juju.run(cloud.unit_beside(COMPUTE), "plan", {"colour": "red"})


def is_refreshed(status: jubilant.Status) -> bool:
    """Whether no unit of the charm has another revision than its application."""
    units = [*beside(status, COMPUTE).values(), *beside(status, CONTROLLER).values()]
    return not any(unit.upgrading_from for unit in units)


class TestLife:
    def test_the_hosts_get_what_is_asked_for(self, cloud: Cloud):
        cloud.juju.config(APP, {"devices": wanted_devices(cloud)})
        settle(cloud)

    def test_a_refresh_changes_nothing(self, cloud: Cloud):
        before = [cloud.state(machine) for machine in cloud.compute]
        revision = cloud.juju.status().apps[APP].charm_rev
        cloud.juju.refresh(APP, path=cloud.charm)
        cloud.wait(lambda status: status.apps[APP].charm_rev > revision and is_refreshed(status))
        settle(cloud)
        assert [cloud.state(machine) for machine in cloud.compute] == before

    def test_a_reboot_changes_nothing(self, cloud: Cloud):
        (machine, *_) = cloud.compute
        before = cloud.state(machine)
        cloud.reboot(machine)
        settle(cloud)
        assert cloud.state(machine) == before

    def test_verify_is_green_where_a_card_is_bound(self, cloud: Cloud):
        if not cloud.settings.card:
            pytest.skip("CARDS names no card, and without one there is nothing to verify")
        units = beside(cloud.juju.status(), COMPUTE).items()
        ready = [name for name, unit in units if READY in unit.workload_status.message]
        assert ready
        for name in ready:
            assert cloud.juju.run(name, "verify", wait=15 * MINUTES).success


def remove_relation(cloud: Cloud) -> Callable[[], None]:
    cloud.juju.remove_relation(f"{APP}:juju-info", ENDPOINTS["juju-info"])
    return lambda: cloud.integrate("juju-info")


def remove_principals(cloud: Cloud) -> Callable[[], None]:
    cloud.juju.remove_unit(*cloud.juju.status().apps[COMPUTE].units)

    def add() -> None:
        cloud.juju.add_unit(COMPUTE, num_units=len(cloud.compute), to=cloud.compute)

    return add


def remove_application(cloud: Cloud, *, force: bool = False) -> Callable[[], None]:
    cloud.juju.remove_application(APP, force=force)

    def deploy() -> None:
        cloud.wait(lambda status: APP not in status.apps)
        cloud.deploy_charm(devices=wanted_devices(cloud))
        cloud.integrate("juju-info")

    return deploy


# Each takes the charm off the compute hosts and gives what brings it back.
ROADS: dict[str, Callable[[Cloud], Callable[[], None]]] = {
    "remove-relation": remove_relation,
    "remove-unit-of-the-principal": remove_principals,
    "remove-application": remove_application,
    "remove-application-by-force": lambda cloud: remove_application(cloud, force=True),
}


class TestRemoval:
    @pytest.mark.parametrize("road", ROADS)
    def test_the_hosts_are_as_they_were_before(self, cloud: Cloud, road: str):
        back = ROADS[road](cloud)
        cloud.wait(is_gone, timeout=30 * MINUTES)
        for machine in cloud.compute:
            cloud.wait_for_state(machine, cloud.before[machine], CARETAKER)
        if road == list(ROADS)[-1]:
            return
        back()
        settle(cloud)
