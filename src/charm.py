#!/usr/bin/env python3
"""The pci-passthrough charm: wiring between Juju and the passthrough package."""

import dataclasses
import enum
import fnmatch
import json
import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import ops
from charms.pci_passthrough.v0 import nova_pci

import controller
import monitoring
from passthrough import (
    PassthroughError,
    host,
    inventory,
    lock,
    migration,
    nova,
    nova_compute,
    nova_controller,
    nova_offer,
    nova_report,
    nova_verify,
    options,
    pci,
    rebind,
    reboot,
    reconcile,
    report,
    status,
    verify,
    vfio,
)

logger = logging.getLogger(__name__)

ROOT = Path("/")
# Juju hands an action's results over as command-line arguments: Linux takes 128 KiB in one.
MAX_RESULT = 120_000

T = TypeVar("T")


class Role(enum.Enum):
    """What a unit is for; each value is the endpoint that leads to its principal."""

    COMPUTE = "juju-info"
    CONTROLLER = "nova-cloud-controller"


class PciPassthroughCharm(ops.CharmBase):
    """Brings each unit to what the options ask for; every hook does the same one thing."""

    _stored = ops.StoredState()

    def __init__(self, framework: ops.Framework):
        super().__init__(framework)
        self._result: reconcile.Result | None = None
        self._published: nova_controller.Publication | None = None
        self._verdict: reboot.Verdict | None = None
        self._problem: Exception | None = None
        self._removed = False
        self._nova_pci = nova_pci.NovaPciProvider(self)
        self._controller = controller.Controller(self, ROOT)
        self._monitoring = monitoring.Monitoring(self, ROOT)
        # said are the notes that are in the log already.
        self._stored.set_default(controller=False, said=[])
        for event in (
            self.on.install,
            self.on.upgrade_charm,
            self.on.config_changed,
            self.on.start,
            self.on.update_status,
            self.on.leader_elected,
            self.on.juju_info_relation_joined,
            self.on.juju_info_relation_changed,
            self.on.nova_cloud_controller_relation_joined,
            self.on.nova_cloud_controller_relation_changed,
            self.on.nova_pci_relation_created,
            self.on.nrpe_external_master_relation_joined,
            self.on.nrpe_external_master_relation_changed,
        ):
            framework.observe(event, self._on_change)
        framework.observe(self.on.stop, self._on_removal)
        framework.observe(self.on.remove, self._on_removal)
        framework.observe(self.on.list_devices_action, self._on_list_devices)
        framework.observe(self.on.plan_action, self._on_plan)
        framework.observe(self.on.rebind_action, self._on_rebind)
        framework.observe(self.on.verify_action, self._on_verify)
        framework.observe(self.on.collect_unit_status, self._on_collect_status)

    def _on_change(self, _: ops.EventBase) -> None:
        role = self._role()
        try:
            wanted = self._options()
            if self.unit.is_leader():
                aliases = nova.aliases(wanted.devices)
                self._nova_pci.publish_aliases(nova_pci.Alias(**each) for each in aliases)
            if role is Role.COMPUTE:
                self._reconcile(wanted)
            elif role is Role.CONTROLLER:
                self._publish(wanted)
        except (PassthroughError, OSError) as error:
            logger.error("%s", error)
            self._problem = error
        if role is Role.COMPUTE:
            self._monitoring.report(self._result, self._problem)
        if role:
            self._stored.controller = role is Role.CONTROLLER

    def _on_removal(self, _: ops.EventBase) -> None:
        self._removed = True
        if self._stored.controller:
            return  # a unit beside a compute service may have the same host
        nothing = options.Options()
        result = reconcile.reconcile(
            ROOT, self.app.name, nothing, host.HostTools(), logger.info, leaving=True
        )
        for error in result.outcome.failed.values():
            logger.warning("left on vfio-pci until the next boot: %s", error)
        for binding in result.survey.plan.pending:
            logger.warning("%s: left on vfio-pci until the next boot for a guest", binding.address)

    def _on_list_devices(self, event: ops.ActionEvent) -> None:
        pattern = event.params["match"]
        described = [
            row
            for row in inventory.describe(ROOT, pci.read(ROOT))
            if fnmatch.fnmatch(row["address"], pattern) or fnmatch.fnmatch(row["id"], pattern)
        ]
        self._answer(event, inventory.format_tree(described), {"devices": described})

    def _on_plan(self, event: ops.ActionEvent) -> None:
        if self._role() is Role.CONTROLLER:
            published = self._attempt(event, self._survey_controller)
            if published:
                described = nova_report.describe_publication(published)
                text = nova_report.publication_text(published)
                self._answer(event, text, {"plan": {"nova": described}})
            return
        survey = self._attempt(event, self._survey)
        if survey:
            leftovers = migration.find(ROOT)
            self._answer(
                event,
                report.plan_text(survey, leftovers),
                {"plan": report.describe_plan(survey, leftovers)},
            )

    def _on_rebind(self, event: ops.ActionEvent) -> None:
        if self._role() is Role.CONTROLLER:
            event.fail("this unit is beside nova-cloud-controller and binds nothing")
            return
        done = self._attempt(event, lambda: self._rebind(event))
        if done is None:
            return
        self._answer(event, report.rebind_table(done), {"functions": report.describe_rebind(done)})
        failed = [str(error) for error in done.values() if error]
        if failed:
            event.fail("; ".join(failed))

    def _on_verify(self, event: ops.ActionEvent) -> None:
        checks = self._attempt(event, self._verify)
        if not checks:
            return
        self._answer(
            event,
            report.checks_table(checks),
            {"checks": [dataclasses.asdict(check) for check in checks]},
        )
        failed = [check.name for check in checks if check.status == verify.FAIL]
        if failed:
            event.fail(f"{len(failed)} of {len(checks)} checks failed: {', '.join(failed)}")

    def _on_collect_status(self, event: ops.CollectStatusEvent) -> None:
        if self._removed:
            event.add_status(ops.MaintenanceStatus("everything given back"))
            return
        role = self._role()
        if role is None:
            event.add_status(ops.WaitingStatus("waiting for a principal: integrate nova-compute"))
            return
        found = self._problem and status.Status(status.BLOCKED, str(self._problem))
        try:
            found = found or self._summarize(role)
        except (PassthroughError, OSError) as error:
            found = status.Status(status.BLOCKED, str(error))
        event.add_status(ops.StatusBase.from_name(found.kind, found.message))

    def _summarize(self, role: Role) -> status.Status:
        """Sum up what this dispatch did, or what is to be seen where it did nothing."""
        if role is Role.CONTROLLER:
            published = self._published or self._survey_controller()
            return status.summarize_controller(self._options(), published)
        result = self._result or reconcile.Result(self._survey())
        verdict = self._verdict or reboot.look(ROOT, result.survey)
        return status.summarize(result.survey, result.outcome.failed, verdict)

    def _reconcile(self, wanted: options.Options) -> None:
        self._result = reconcile.reconcile(
            ROOT, self.app.name, wanted, host.HostTools(), logger.info
        )
        self._publish_devices(self._result.survey.nova)
        self._log_once(self._result.survey.nova.notes)
        for each in self._result.outcome.repaired:
            logger.warning("repaired: %s", each)
        self._verdict = reboot.arrange(ROOT, self._result.survey)
        if self._verdict.action is reboot.Action.NOW:
            logger.warning("%s", self._verdict.message)
            self.unit.reboot()

    def _rebind(self, event: ops.ActionEvent) -> dict[str, vfio.BindError | None]:
        address, tools = event.params["address"], host.HostTools()
        with lock.hold(ROOT, f"the rebind action of {self.app.name}"):
            done = rebind.rebind(ROOT, self._survey(), address, tools, event.log)
            offer = self._survey().nova
            nova_compute.apply(ROOT, self.app.name, offer, tools, event.log)
        self._publish_devices(offer)
        return done

    def _publish_devices(self, offer: nova_offer.Offer) -> None:
        self._nova_pci.publish_device_specs(
            nova_pci.DeviceSpec(**each) for each in (*offer.device_specs, *offer.held)
        )

    def _publish(self, wanted: options.Options) -> None:
        relation = self._principal_relations(Role.CONTROLLER)[0]
        self._published = self._controller.publish(relation, wanted)
        self._log_once(self._published.notes)

    def _log_once(self, notes: tuple[str, ...]) -> None:
        said = list(self._stored.said)  # pyright: ignore[reportArgumentType]
        for note in notes:
            if note not in said:
                logger.warning("%s", note)
        if said != list(notes):
            self._stored.said = list(notes)

    def _survey(self) -> reconcile.Survey:
        return reconcile.survey(ROOT, self.app.name, self._options())

    def _survey_controller(self) -> nova_controller.Publication:
        relation = self._principal_relations(Role.CONTROLLER)[0]
        return self._controller.survey(relation, self._options())

    def _verify(self) -> tuple[verify.Check, ...]:
        if self._role() is not Role.CONTROLLER:
            return verify.verify(self._survey())
        aliases = nova.aliases(self._options().devices)
        return nova_verify.check_controller(self._survey_controller(), aliases)

    @staticmethod
    def _attempt(event: ops.ActionEvent, question: Callable[[], T]) -> T | None:
        """Ask for an action, or fail the action with the reason."""
        try:
            return question()
        except (PassthroughError, OSError) as error:
            event.fail(str(error))
            return None

    def _options(self) -> options.Options:
        return options.parse(self.config)

    def _role(self) -> Role | None:
        """The unit's role follows from its principal.

        A relation id alone says nothing: one application can have units of both kinds, and each
        sees the ids of both endpoints.
        """
        for role in Role:
            if self._principal_relations(role):
                return role
        return None

    def _principal_relations(self, role: Role) -> list[ops.Relation]:
        principal = os.environ.get("JUJU_PRINCIPAL_UNIT", "").partition("/")[0]
        relations = self.model.relations[role.value]
        return [each for each in relations if each.active and each.app.name == principal]

    @staticmethod
    def _answer(event: ops.ActionEvent, table: str, data: dict[str, Any]) -> None:
        results = {"table": table}
        results.update({key: json.dumps(value, sort_keys=True) for key, value in data.items()})
        too_long = [key for key, value in results.items() if len(value.encode()) > MAX_RESULT]
        if too_long:
            event.fail(
                f"{' and '.join(too_long)}: more than Juju carries in one result; narrow the"
                " question (match=), or run pci-passthrough --json on the host"
            )
        event.set_results({key: results[key] for key in results if key not in too_long})


if __name__ == "__main__":
    ops.main(PciPassthroughCharm)
