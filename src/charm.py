#!/usr/bin/env python3
"""The pci-passthrough charm: wiring between Juju and the passthrough package.

What an update-status with nothing to do can go without is imported where it is used: it runs beside
guests every few minutes, and imports are most of what the charm adds to it.
"""

from __future__ import annotations

import garbage

if __name__ == "__main__":
    garbage.pause()

import functools
import logging
from pathlib import Path
from typing import TYPE_CHECKING

import ops

import dispatched
import monitoring
import publishing
import roles
import settling
from passthrough import pci_address, reboot, survey
from passthrough.config import options
from passthrough.errors import PassthroughError, unexpected
from passthrough.reporting import status, words
from passthrough.site import Site
from passthrough.state import settled
from passthrough.system import lock

if TYPE_CHECKING:
    import controller
    from passthrough.nova import publication

logger = logging.getLogger(__name__)

ROOT = Path("/")


def _tell(error: Exception) -> Exception:
    """Log an error that ends a hook's work, and give the one that the status tells of.

    None leaves the hook: Juju's error state shows an operator no sentence, stops the unit's other
    hooks, and what was done up to there is safe to be gone on from. But for `stop` and `remove`,
    after which nobody would.
    """
    if isinstance(error, (PassthroughError, OSError)):
        logger.error("%s", error)
        return error
    logger.error("unexpected, and a mistake in this charm: %s", error, exc_info=error)
    return unexpected(error)


class PciPassthroughCharm(ops.CharmBase):
    """Brings each unit to what the options ask for; every hook does the same one thing."""

    _stored = ops.StoredState()

    def __init__(self, framework: ops.Framework):
        super().__init__(framework)
        self.site = Site(ROOT, self.app.name)
        self.publisher = publishing.Publisher(self)
        self._done: dispatched.Done = dispatched.Nothing()
        self._monitoring = monitoring.Monitoring(self, self.site)
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
        return roles.of(self.model) is roles.Role.CONTROLLER

    def options(self) -> options.Options:
        """Read the options; raises OptionError."""
        return options.parse(self.config)

    def decide(self) -> survey.Decision:
        """Look at the host; raises as `survey.look` and `survey.decide` do."""
        return survey.decide(self.options(), survey.look(self.site))

    def survey_controller(self) -> publication.Publication:
        """Look at what the controller is sent; raises as `publication.survey` does."""
        return self._controller.survey(
            roles.relations(self.model, roles.Role.CONTROLLER)[0], self.options()
        )

    def _on_change(self, _: ops.EventBase) -> None:
        self._change()

    def _change(self, facts: survey.Facts | None = None) -> None:
        """Do what every hook does; ``facts`` were looked at while this run has the host's lock."""
        role = None
        try:
            settled.forget(self.site.root, self.unit.name)  # this hook may fail at any point
            role = roles.of(self.model)
            wanted = self.options()
            if self.unit.is_leader():
                self.publisher.aliases(wanted)
            if role is roles.Role.COMPUTE:
                self._reconcile(wanted, facts)
            elif role is roles.Role.CONTROLLER:
                self._publish(wanted)
        except Exception as error:
            self._done = dispatched.Failed(_tell(error))
        if role is roles.Role.COMPUTE:
            try:
                self._monitoring.report(self._done)
            except Exception as error:
                self._done = dispatched.Failed(_tell(error))
        if role:
            self._stored.controller = role is roles.Role.CONTROLLER

    def _on_update_status(self, _: ops.EventBase) -> None:
        """Look whether all is as the last hook left it, and only otherwise do what any hook does.

        Juju tells of options, relations and leaders in hooks of their own, and nobody else writes
        our databags: what is new can only be on the host. Each hook tool saved is a process less
        on the host and, for status-set, a write less on Juju's controller. Looking changes
        nothing: an option whose config-changed is still to come is met in that hook.
        """
        known = settling.recall(self.site, self.unit.name)
        if not known:
            self._change()
            return
        try:
            # What is seen here is what a run goes by that follows, so none may come in between.
            with lock.hold(self.site.root, f"a hook of {self.app.name}"):
                facts, decision = settling.look_again(self.site, known)
                if decision and self._monitoring.refresh(decision):
                    self._done = dispatched.Settled()
                else:
                    self._change(facts)
        except Exception as error:
            self._done = dispatched.Failed(_tell(error))

    def _on_removal(self, _: ops.EventBase) -> None:
        self._done = dispatched.Removed()
        settled.forget(self.site.root, self.unit.name)
        if self._stored.controller:
            return  # a unit beside a compute service may have the same host
        from passthrough import reconcile
        from passthrough.effects import tools

        nothing = options.Options(leaving=True)
        result = reconcile.reconcile(self.site, nothing, tools.HostTools(), logger.info)
        for error in result.outcome.failed.values():
            logger.warning("left on vfio-pci until the next boot: %s", error)
        pending = [binding.address for binding in result.decision.plan.pending]
        for address in pending:
            logger.warning("%s: left on vfio-pci until the next boot for a guest", address)
        left = sorted({*result.outcome.failed, *pending}, key=pci_address.sort_key)
        self._done = dispatched.Removed(tuple(left))

    def _on_action(self, event: ops.ActionEvent) -> None:
        import actions

        try:
            self._done = actions.answer(self, event)
        except Exception as error:
            told = _tell(error)
            event.fail(str(told))
            self._done = dispatched.Failed(told)

    def _on_collect_status(self, event: ops.CollectStatusEvent) -> None:
        if isinstance(self._done, dispatched.Settled):
            return
        try:
            if not isinstance(self._done, dispatched.Removed):
                settling.remember(self.site, self.unit.name, self.config, self._done)
            found = self._summarize()
        except Exception as error:
            found = status.Status(status.Kind.BLOCKED, str(_tell(error)))
        event.add_status(ops.StatusBase.from_name(found.kind, found.message))

    def _summarize(self) -> status.Status:
        """Sum up what this dispatch did, or what is to be seen where it did nothing."""
        role = roles.of(self.model)
        match self._done:
            case dispatched.Removed(left):
                return status.Status(status.Kind.MAINTENANCE, status.describe_removal(left))
            case _ if role is None:
                return status.Status(
                    status.Kind.WAITING, "waiting for a principal: integrate nova-compute"
                )
            case dispatched.Failed(problem):
                return status.Status(status.Kind.BLOCKED, str(problem))
            case dispatched.Published(published):
                return status.summarize_controller(self.options(), published)
            case _ if role is roles.Role.CONTROLLER:
                return status.summarize_controller(self.options(), self.survey_controller())
            case dispatched.Reconciled(result, verdict):
                return status.summarize(result.decision, result.outcome.failed, verdict)
            case dispatched.Seen(decision):
                return status.summarize(decision, verdict=reboot.foresee(decision))
            case _:
                decision = self.decide()
                return status.summarize(decision, verdict=reboot.foresee(decision))

    def _reconcile(self, wanted: options.Options, facts: survey.Facts | None) -> None:
        from passthrough import reconcile
        from passthrough.effects import reboot_request, tools

        result = reconcile.reconcile(self.site, wanted, tools.HostTools(), logger.info, facts=facts)
        self.publisher.devices(result.decision.nova)
        self._log_once(result.decision.nova.notes)
        for each in result.outcome.repaired:
            logger.warning("repaired: %s", each)
        verdict = reboot_request.arrange(result.decision, result.outcome.failed)
        self._done = dispatched.Reconciled(result, verdict)
        if verdict.action is reboot.Action.NOW:
            logger.warning("%s", words.verdict(verdict))
            self.unit.reboot()

    @functools.cached_property
    def _controller(self) -> controller.Controller:
        import controller

        return controller.Controller(self, self.site.root)

    def _publish(self, wanted: options.Options) -> None:
        published = self._controller.publish(
            roles.relations(self.model, roles.Role.CONTROLLER)[0], wanted
        )
        self._done = dispatched.Published(published)
        self._log_once(published.notes)

    def _log_once(self, notes: tuple[str, ...]) -> None:
        said = list(self._stored.said)  # pyright: ignore[reportArgumentType]
        for note in notes:
            if note not in said:
                logger.warning("%s", note)
        if said != list(notes):
            self._stored.said = list(notes)


if __name__ == "__main__":
    garbage.resume()
    ops.main(PciPassthroughCharm)
