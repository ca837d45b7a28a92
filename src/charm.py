#!/usr/bin/env python3
"""The pci-passthrough charm: wiring between Juju and the passthrough package."""

import dataclasses
import enum
import fnmatch
import json
import logging
import os
from pathlib import Path
from typing import Any

import ops

from passthrough import (
    PassthroughError,
    host,
    inventory,
    migration,
    options,
    pci,
    rebind,
    reconcile,
    report,
    status,
    verify,
)

logger = logging.getLogger(__name__)

ROOT = Path("/")
# Juju hands an action's results over as command-line arguments: Linux takes 128 KiB in one.
MAX_RESULT = 120_000


class Role(enum.Enum):
    """What a unit is for; each value is the endpoint that leads to its principal."""

    COMPUTE = "juju-info"


class PciPassthroughCharm(ops.CharmBase):
    """Brings each host to what the options ask for; every hook does the same one thing."""

    def __init__(self, framework: ops.Framework):
        super().__init__(framework)
        self._result: reconcile.Result | None = None
        self._problem: Exception | None = None
        self._removed = False
        for event in (
            self.on.install,
            self.on.upgrade_charm,
            self.on.config_changed,
            self.on.start,
            self.on.update_status,
            self.on.juju_info_relation_joined,
            self.on.juju_info_relation_changed,
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
        if self._role() is Role.COMPUTE:
            self._reconcile()

    def _on_removal(self, _: ops.EventBase) -> None:
        self._removed = True
        result = reconcile.reconcile(
            ROOT, self.app.name, options.Options(), host.HostTools(), logger.info
        )
        for error in result.outcome.failed.values():
            logger.warning("left on vfio-pci until the next boot: %s", error)

    def _on_list_devices(self, event: ops.ActionEvent) -> None:
        pattern = event.params["match"]
        described = [
            row
            for row in inventory.describe(ROOT, pci.read(ROOT))
            if fnmatch.fnmatch(row["address"], pattern) or fnmatch.fnmatch(row["id"], pattern)
        ]
        self._answer(event, inventory.format_tree(described), {"devices": described})

    def _on_plan(self, event: ops.ActionEvent) -> None:
        survey = self._survey_for(event)
        if survey:
            leftovers = migration.find(ROOT)
            self._answer(
                event,
                report.plan_text(survey, leftovers),
                {"plan": report.describe_plan(survey, leftovers)},
            )

    def _on_rebind(self, event: ops.ActionEvent) -> None:
        survey = self._survey_for(event)
        if not survey:
            return
        try:
            done = rebind.rebind(ROOT, survey, event.params["address"], host.HostTools())
        except (PassthroughError, OSError) as error:
            event.fail(str(error))
            return
        self._answer(event, report.rebind_table(done), {"functions": report.describe_rebind(done)})
        failed = [str(error) for error in done.values() if error]
        if failed:
            event.fail("; ".join(failed))

    def _on_verify(self, event: ops.ActionEvent) -> None:
        survey = self._survey_for(event)
        if not survey:
            return
        checks = verify.verify(survey)
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
        elif self._role() is None:
            event.add_status(ops.WaitingStatus("waiting for a principal: integrate nova-compute"))
        else:
            event.add_status(self._compute_status())

    def _compute_status(self) -> ops.StatusBase:
        if not (self._result or self._problem):
            self._look()
        if self._problem or not self._result:
            return ops.BlockedStatus(str(self._problem))
        found = status.summarize(self._result.survey, self._result.outcome.failed)
        return ops.StatusBase.from_name(found.kind, found.message)

    def _reconcile(self) -> None:
        try:
            self._result = reconcile.reconcile(
                ROOT, self.app.name, self._options(), host.HostTools(), logger.info
            )
        except (PassthroughError, OSError) as error:
            logger.error("%s", error)
            self._problem = error

    def _look(self) -> None:
        """Work out the status of a dispatch that did not reconcile, such as an action."""
        try:
            survey = reconcile.survey(ROOT, self.app.name, self._options())
            self._result = reconcile.Result(survey)
        except (PassthroughError, OSError) as error:
            self._problem = error

    def _survey_for(self, event: ops.ActionEvent) -> reconcile.Survey | None:
        """Look at the host for an action, or fail the action with the reason."""
        try:
            return reconcile.survey(ROOT, self.app.name, self._options())
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
        principal = os.environ.get("JUJU_PRINCIPAL_UNIT", "").partition("/")[0]
        for role in Role:
            for relation in self.model.relations[role.value]:
                if relation.app.name == principal:
                    return role
        return None

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
