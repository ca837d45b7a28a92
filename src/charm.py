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
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

import ops

import dispatched
import monitoring
import publishing
import roles
import settling
from passthrough import reboot, survey
from passthrough.config import options
from passthrough.errors import NotOursError, PassthroughError, unexpected
from passthrough.reporting import status, words
from passthrough.site import Site
from passthrough.state import settled
from passthrough.system import lock

if TYPE_CHECKING:
    import controller
    import ownership
    from passthrough.nova import publication
    from passthrough.state import record

logger = logging.getLogger(__name__)

ROOT = Path("/")

# The hooks that can prove that a unit leaves.
_LEAVING = re.compile(r"^hooks/(?:stop|remove|.*-relation-(?:departed|broken))$")


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
        for event in (
            self.on.stop,
            self.on.remove,
            self.on.juju_info_relation_departed,
            self.on.juju_info_relation_broken,
            self.on.nova_cloud_controller_relation_departed,
            self.on.nova_cloud_controller_relation_broken,
            self.on.nova_pci_relation_departed,
            self.on.nrpe_external_master_relation_departed,
        ):
            framework.observe(event, self._on_leaving)
        framework.observe(self.on.update_status, self._on_update_status)
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

    @property
    def place(self) -> ownership.Place:
        """This unit on its host, as a record would name it."""
        import ownership
        from passthrough.state import record

        me = record.Owner(self.model.uuid or "", self.unit.name, roles.principal())
        return ownership.Place(me, self.charm_dir)

    def check_owner(self, present: record.Record) -> None:
        """See that this unit may change the host.

        Raises:
            PassthroughError: when it leaves; its principal is none that it is made for; or another
                unit of the application looks after the host.
        """
        import ownership

        place = self.place
        if ownership.leaves(place.charm):
            raise PassthroughError("this unit leaves the host")
        roles.check_place(self.model, place.agents)
        ownership.check(present.owner, place)

    def _on_change(self, event: ops.EventBase) -> None:
        if self._leaves(event):
            self._leave()
        else:
            self._change(patient=isinstance(event, ops.UpdateStatusEvent))

    def _leaves(self, event: ops.EventBase) -> bool:
        """Whether this unit leaves, by the mark of an earlier hook; a new principal ends that."""
        import ownership

        if not ownership.leaves(self.charm_dir):
            return False
        arrives = (ops.RelationCreatedEvent, ops.RelationJoinedEvent, ops.RelationChangedEvent)
        if isinstance(event, arrives) and roles.is_tie(event.relation):
            ownership.stay(self.charm_dir)
            return False
        return True

    def _change(self, facts: survey.Facts | None = None, *, patient: bool = False) -> None:
        """Do what every hook does.

        Args:
            facts: looked at while this run has the host's lock.
            patient: whether a rebuild that failed before is not tried again so soon.
        """
        role = None
        try:
            settled.forget(self.site.root, self.unit.name)  # this hook may fail at any point
            role = roles.of(self.model)
            roles.check_place(self.model, self.charm_dir.parent.parent)
            wanted = self.options()
            if self.unit.is_leader():
                self.publisher.aliases(wanted)
            if role is roles.Role.COMPUTE:
                self._reconcile(wanted, facts, patient=patient)
            elif role is roles.Role.CONTROLLER:
                self._publish(wanted)
        except NotOursError as error:
            self._log_once((str(error),))
            self._done = dispatched.Barred(error)
            return
        except Exception as error:
            self._done = dispatched.Failed(_tell(error))
        if role is roles.Role.COMPUTE:
            try:
                self._monitoring.report(self._done)
            except Exception as error:
                self._done = dispatched.Failed(_tell(error))
        if role:
            self._stored.controller = role is roles.Role.CONTROLLER

    def _on_update_status(self, event: ops.EventBase) -> None:
        """Look whether all is as the last hook left it, and only otherwise do what any hook does.

        Juju tells of options, relations and leaders in hooks of their own, and nobody else writes
        our databags: what is new can only be on the host. Each hook tool saved is a process less
        on the host and, for status-set, a write less on Juju's controller. Looking changes
        nothing: an option whose config-changed is still to come is met in that hook.
        """
        known = settling.recall(self.site, self.unit.name)
        if not known:
            self._on_change(event)
            return
        try:
            # What is seen here is what a run goes by that follows, so none may come in between.
            with lock.hold(self.site.root, f"a hook of {self.app.name}"):
                facts, decision = settling.look_again(self.site, known)
                if decision and self._monitoring.refresh(decision):
                    self._done = dispatched.Settled()
                else:
                    self._change(facts, patient=True)
        except Exception as error:
            self._done = dispatched.Failed(_tell(error))

    def _on_leaving(self, _: ops.EventBase) -> None:
        import leaving

        if leaving.proves(leaving.Hook.of(os.environ), self._remaining):
            self._leave()

    def _remaining(self) -> list[str]:
        """The ids of the relations that still lead to this unit's own principal."""
        ties = [each for role in roles.Role for each in roles.relations(self.model, role)]
        return [f"{each.name}:{each.id}" for each in ties]

    def _leave(self) -> None:
        from passthrough.state import record

        legacy = record.read(self.site).owner is None
        if self._stored.controller or (legacy and roles.is_misfit(self.place.agents)):
            self._done = dispatched.Removed()
            return  # a unit beside a compute service may have the same host
        import leaving

        try:
            keep = options.parse_keep(self.config.get(options.ON_REMOVAL))
        except (PassthroughError, ops.ModelError):
            keep = None
        self._done = leaving.leave(self.site, self.place, keep)

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
            case dispatched.Removed(left, stays):
                return status.Status(status.Kind.MAINTENANCE, status.describe_removal(left, stays))
            case _ if role is None:
                return self._summarize_unchanged(role)
            case dispatched.Failed(problem) | dispatched.Barred(problem):
                return status.summarize_failure(problem)
            case dispatched.Published(published):
                return status.summarize_controller(self.options(), published)
            case dispatched.Reconciled(result, verdict):
                return status.summarize(result.decision, result.outcome.failed, verdict)
            case _:
                return self._summarize_unchanged(role)

    def _summarize_unchanged(self, role: roles.Role | None) -> status.Status:
        """Sum up what is to be seen, where this dispatch changed nothing."""
        import ownership
        from passthrough.state import record

        if ownership.leaves(self.charm_dir):
            return status.Status(status.Kind.MAINTENANCE, status.describe_removal(()))
        roles.check_place(self.model, self.place.agents)
        if role is None:
            return status.Status(
                status.Kind.WAITING, "waiting for a principal: integrate nova-compute"
            )
        if role is roles.Role.CONTROLLER:
            return status.summarize_controller(self.options(), self.survey_controller())
        self.check_owner(record.read(self.site))
        seen = self._done
        decision = seen.decision if isinstance(seen, dispatched.Seen) else self.decide()
        verdict = reboot.foresee(decision, roles.principal())
        return status.summarize(decision, verdict=verdict, acted=False)

    def _reconcile(
        self, wanted: options.Options, facts: survey.Facts | None, *, patient: bool
    ) -> None:
        import telling
        from passthrough import reconcile
        from passthrough.effects import reboot_request, tools

        host_tools = telling.Telling(self.unit, tools.HostTools(), self.site.root)
        with lock.hold(self.site.root, f"a hook of {self.app.name}"):
            owner = self._claim_host()
            start = reconcile.Start(facts, owner, patient)
            result = reconcile.reconcile(self.site, wanted, host_tools, logger.info, start)
        self.publisher.devices(result.decision.nova)
        self._log_once(result.decision.nova.notes)
        for each in result.outcome.repaired:
            logger.warning("repaired: %s", each)
        verdict = reboot_request.arrange(
            result.decision, result.outcome.failed, host_tools, roles.principal()
        )
        self._done = dispatched.Reconciled(result, verdict)
        if verdict.action is reboot.Action.NOW:
            logger.warning("%s", words.verdict(verdict))
            try:
                self.unit.reboot()
            except Exception:
                reboot_request.resume(self.site, host_tools)
                raise

    def _claim_host(self) -> record.Owner:
        """Look after the host from now on, or wait for it; the host's lock is held."""
        import ownership
        from passthrough.state import record

        place = self.place
        try:
            self.check_owner(record.read(self.site))
        except ownership.OwnedError:
            ownership.wait(place)
            raise
        ownership.stop_waiting(place)
        return place.me

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


def main() -> None:
    """Run the hook or action that Juju asks for.

    In a unit that leaves, the host comes before anything that Juju answers: its tools may fail in
    the middle, and the hook may be the last. A failure of what comes behind stops nothing.
    """
    if not _LEAVING.search(os.environ.get("JUJU_DISPATCH_PATH", "")):
        ops.main(PciPassthroughCharm)
        return
    import leaving

    site = Site(ROOT, os.environ.get("JUJU_UNIT_NAME", "").partition("/")[0])
    if not leaving.give_back_first(site, os.environ):
        ops.main(PciPassthroughCharm)
        return
    try:
        ops.main(PciPassthroughCharm)
    except Exception as error:
        leaving.tell(site, f"all is done, and Juju was not told: {error}")


if __name__ == "__main__":
    garbage.resume()
    main()
