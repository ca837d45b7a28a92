#!/usr/bin/env python3
"""The pci-passthrough charm: wiring between Juju and the passthrough package.

What an update-status with nothing to do can go without is imported where it is used: it runs beside
guests every few minutes, and imports are most of what the charm adds to it.
"""

from __future__ import annotations

import gc

if __name__ == "__main__":
    # What imports make is there to stay: no garbage is looked for until they are done.
    gc.disable()

import enum
import functools
import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING

import ops

import monitoring
from passthrough import pci_address
from passthrough import survey as surveying
from passthrough.config import options
from passthrough.errors import PassthroughError
from passthrough.nova import lines as nova_lines
from passthrough.planning import templates
from passthrough.reporting import status
from passthrough.state import settled
from passthrough.state import settled as settled_state

if TYPE_CHECKING:
    from charms.pci_passthrough.v0 import nova_pci

    import controller
    from passthrough import reboot, reconcile
    from passthrough.nova import offer as nova_offer
    from passthrough.nova import publication

logger = logging.getLogger(__name__)

ROOT = Path("/")


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
        self._published: publication.Publication | None = None
        self._verdict: reboot.Verdict | None = None
        self._problem: Exception | None = None
        self._removed = False
        self._left: tuple[str, ...] = ()
        self._is_settled = False
        self._monitoring = monitoring.Monitoring(self, ROOT)
        # said are the notes that are in the log already.
        self._stored.set_default(controller=False, said=[])
        for event in (
            self.on.install,
            self.on.upgrade_charm,
            self.on.config_changed,
            self.on.start,
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
        framework.observe(self.on.update_status, self._on_update_status)
        framework.observe(self.on.stop, self._on_removal)
        framework.observe(self.on.remove, self._on_removal)
        framework.observe(self.on.list_devices_action, self._on_action)
        framework.observe(self.on.plan_action, self._on_action)
        framework.observe(self.on.rebind_action, self._on_action)
        framework.observe(self.on.verify_action, self._on_action)
        framework.observe(self.on.collect_unit_status, self._on_collect_status)

    @property
    def is_controller(self) -> bool:
        """Whether the unit is beside a controller."""
        return self._role() is Role.CONTROLLER

    def wanted(self) -> options.Options:
        """Read the options; raises OptionError."""
        return options.parse(self.config)

    def survey(self) -> surveying.Survey:
        """Look at the host; raises as `surveying.survey` does."""
        return surveying.survey(ROOT, self.app.name, self.wanted())

    def survey_controller(self) -> publication.Publication:
        """Look at what the controller is sent; raises as `publication.survey` does."""
        relation = self._principal_relations(Role.CONTROLLER)[0]
        return self._controller.survey(relation, self.wanted())

    def publish_devices(self, offer: nova_offer.Offer) -> None:
        """Publish the device_specs of an offer."""
        from charms.pci_passthrough.v0 import nova_pci

        self._nova_pci.publish_device_specs(
            nova_pci.DeviceSpec(**each) for each in (*offer.device_specs, *offer.held)
        )

    def _on_change(self, _: ops.EventBase) -> None:
        role = self._role()
        try:
            settled.forget(ROOT, self.unit.name)  # this hook may fail at any point
            wanted = self.wanted()
            if self.unit.is_leader():
                self._publish_aliases(wanted)
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

    def _on_update_status(self, event: ops.EventBase) -> None:
        """Look whether all is as the last hook left it, and only otherwise do what any hook does.

        Juju tells of options, relations and leaders in hooks of their own, and nobody else writes
        our databags: what is new can only be on the host. Each hook tool saved is a process less
        on the host and, for status-set, a write less on Juju's controller. Looking changes
        nothing: an option whose config-changed is still to come is met in that hook.
        """
        found = self._look_again()
        if found and self._monitoring.refresh(found):
            self._is_settled = True
        else:
            self._on_change(event)

    def _look_again(self) -> surveying.Survey | None:
        """Survey the host; None unless it is as it was when the last hook was through."""
        try:
            known = settled.recall(ROOT, self.unit.name)
            if not known:
                return None
            wanted = options.parse(known.options)
            with templates.trusting(known.rendered):
                found = surveying.survey(ROOT, self.app.name, wanted)
                return found if status.settled(found) == known.settled else None
        except (PassthroughError, OSError):
            return None  # whoever looks next meets it too, and reports it

    def _remember(self) -> None:
        """Spare the next update-status its work, where this hook has left nothing to do.

        A dispatch that did not reconcile, such as an action, sets the status too, by what it has
        seen; whether that stays right nobody knows but the next hook.
        """
        try:
            result = None if self._problem else self._result
            settled = status.settled(result.survey) if result else ""
            if not settled:
                settled_state.forget(ROOT, self.unit.name)
                return
            found = settled_state.Memory(settled, dict(self.config), templates.learned())
            settled_state.keep(ROOT, self.unit.name, found)
        except OSError as error:
            logger.warning("the next update-status has to do all again: %s", error)

    def _on_removal(self, _: ops.EventBase) -> None:
        self._removed = True
        settled.forget(ROOT, self.unit.name)
        if self._stored.controller:
            return  # a unit beside a compute service may have the same host
        from passthrough import reconcile
        from passthrough.effects import tools

        nothing = options.Options()
        result = reconcile.reconcile(
            ROOT, self.app.name, nothing, tools.HostTools(), logger.info, leaving=True
        )
        for error in result.outcome.failed.values():
            logger.warning("left on vfio-pci until the next boot: %s", error)
        pending = [binding.address for binding in result.survey.plan.pending]
        for address in pending:
            logger.warning("%s: left on vfio-pci until the next boot for a guest", address)
        self._left = tuple(sorted({*result.outcome.failed, *pending}, key=pci_address.sort_key))

    def _on_action(self, event: ops.ActionEvent) -> None:
        import actions

        actions.answer(self, ROOT, event)

    def _on_collect_status(self, event: ops.CollectStatusEvent) -> None:
        if self._removed:
            event.add_status(ops.MaintenanceStatus(status.describe_removal(self._left)))
            return
        if self._is_settled:
            return  # the status that is set is still right
        self._remember()
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
            published = self._published or self.survey_controller()
            return status.summarize_controller(self.wanted(), published)
        from passthrough import reconcile
        from passthrough.effects import reboot_request

        result = self._result or reconcile.Result(self.survey())
        verdict = self._verdict or reboot_request.look(ROOT, result.survey)
        return status.summarize(result.survey, result.outcome.failed, verdict)

    def _reconcile(self, wanted: options.Options) -> None:
        from passthrough import reboot, reconcile
        from passthrough.effects import reboot_request, tools

        self._result = reconcile.reconcile(
            ROOT, self.app.name, wanted, tools.HostTools(), logger.info
        )
        self.publish_devices(self._result.survey.nova)
        self._log_once(self._result.survey.nova.notes)
        outcome = self._result.outcome
        for each in outcome.repaired:
            logger.warning("repaired: %s", each)
        self._verdict = reboot_request.arrange(ROOT, self._result.survey, outcome.failed)
        if self._verdict.action is reboot.Action.NOW:
            logger.warning("%s", self._verdict.message)
            self.unit.reboot()

    def _publish_aliases(self, wanted: options.Options) -> None:
        from charms.pci_passthrough.v0 import nova_pci

        aliases = nova_lines.aliases(wanted.devices)
        self._nova_pci.publish_aliases(nova_pci.Alias(**each) for each in aliases)

    @functools.cached_property
    def _nova_pci(self) -> nova_pci.NovaPciProvider:
        from charms.pci_passthrough.v0 import nova_pci

        return nova_pci.NovaPciProvider(self)

    @functools.cached_property
    def _controller(self) -> controller.Controller:
        import controller

        return controller.Controller(self, ROOT)

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


if __name__ == "__main__":
    gc.freeze()
    gc.enable()
    ops.main(PciPassthroughCharm)
