#!/usr/bin/env python3
"""The pci-passthrough charm: wiring between Juju and the passthrough package.

What a hook with nothing to do can go without is imported where it is used: imports are most of what
it costs.
"""

from __future__ import annotations

from pathlib import Path

ROOT = Path("/")

if __name__ == "__main__":
    import sys

    import garbage

    garbage.pause()
    import entry

    # It imports this file by its name where the hook needs it, and ops: one with nothing new does
    # not, and Python keeps no bytecode of a program itself.
    sys.exit(entry.run(ROOT))

import functools
import logging
import os
from typing import TYPE_CHECKING, ClassVar

import ops

import dispatched
import monitoring
import observability
import publishing
import roles
import settling
from passthrough import reboot, survey
from passthrough.config import options
from passthrough.errors import NotOursError
from passthrough.reporting import status
from passthrough.site import Site
from passthrough.state import settled

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    import controller
    import ownership
    from passthrough.nova import publication

logger = logging.getLogger(__name__)


class PciPassthroughCharm(ops.CharmBase):
    """Brings each unit to what the options ask for; every hook does the same one thing.

    ``seen`` is what the way in has looked at, see `quiet`, while it holds the host's lock.
    """

    seen: ClassVar[survey.Facts | None] = None
    _stored = ops.StoredState()

    def __init__(self, framework: ops.Framework):
        super().__init__(framework)
        self.site = Site(ROOT, self.app.name)
        self.publisher = publishing.Publisher(self)
        self._done: dispatched.Done = dispatched.Nothing()
        self._monitoring = monitoring.Monitoring(self, self.site)
        self._observability = observability.Observability(self, self.site)
        # said are the notes that are in the log already.
        self._stored.set_default(controller=False, said=[])
        on = self.on
        for event in (on.install, on.upgrade_charm, on.config_changed, on.start, on.leader_elected):
            framework.observe(event, self._on_change)
        framework.observe(on[roles.NOVA_PCI].relation_created, self._on_change)
        asking = (*roles.TIES, *roles.CHAINS, roles.METRICS_ENDPOINT)
        for endpoint in asking:
            framework.observe(on[endpoint].relation_joined, self._on_change)
            framework.observe(on[endpoint].relation_changed, self._on_change)
        for endpoint in (*asking, roles.NOVA_PCI):
            framework.observe(on[endpoint].relation_departed, self._on_leaving)
        for event in (on.stop, on.remove, *(on[each].relation_broken for each in roles.TIES)):
            framework.observe(event, self._on_leaving)
        framework.observe(on.update_status, self._on_update_status)
        for action in self.meta.actions:
            framework.observe(getattr(on, f"{action.replace('-', '_')}_action"), self._on_action)
        framework.observe(on.collect_unit_status, self._on_collect_status)
        framework.observe(framework.on.commit, self._on_commit)

    @property
    def is_controller(self) -> bool:
        """Whether the unit is beside a controller."""
        return roles.of(self.model) is roles.Role.CONTROLLER

    def options(self, tried: Mapping[str, Any] | None = None) -> options.Options:
        """Read the options, those that are tried in place of what is set; raises OptionError."""
        return options.parse({**self.config, **(tried or {})})

    def decide(self, tried: Mapping[str, Any] | None = None) -> survey.Decision:
        """Look at the host; raises as `survey.look` and `survey.decide` do."""
        return survey.decide(self.options(tried), survey.look(self.site))

    def survey_controller(self, tried: Mapping[str, Any] | None = None) -> publication.Publication:
        """Look at what the controller is sent; raises as `publication.survey` does."""
        return self._controller.survey(self.options(tried))

    @property
    def place(self) -> ownership.Place:
        """This unit on its host, as a record would name it."""
        import ownership
        from passthrough.state import record

        me = record.Owner(self.model.uuid or "", self.unit.name, roles.principal())
        return ownership.Place(me, self.charm_dir)

    def _on_change(self, event: ops.EventBase) -> None:
        import ownership

        patient = isinstance(event, ops.UpdateStatusEvent)
        if not ownership.still_leaves(self.charm_dir, event):
            self._change(self.seen, patient=patient)
        elif not patient:
            self._leave()
        else:
            try:
                self._leave(patient=True)
            except Exception as error:  # Juju would run a hook that fails again, at once
                self._done = dispatched.fail(error)

    def change(self) -> dispatched.Done:
        """Do what every hook does, for an action: Juju lets none reboot the host."""
        self._change(may_reboot=False)
        return self._done

    def _change(
        self, facts: survey.Facts | None = None, *, patient: bool = False, may_reboot: bool = True
    ) -> None:
        """Do what every hook does.

        Args:
            facts: looked at while this run has the host's lock.
            patient: whether a rebuild that failed before is not tried again so soon.
            may_reboot: whether Juju can be asked for a reboot.
        """
        role = None
        try:
            settled.unsettle(self.site.root, self.unit.name)  # this hook may fail at any point
            role = roles.of(self.model)
            roles.check_place(self.model, self.place.agents)
            wanted = self.options()
            if self.unit.is_leader():
                self.publisher.aliases(wanted)
                self._observability.lead()
            if role is roles.Role.COMPUTE:
                self._reconcile(wanted, facts, patient=patient, may_reboot=may_reboot)
            elif role is roles.Role.CONTROLLER:
                self._publish(wanted)
        except NotOursError as error:
            self._log_once((str(error),))
            self._done = dispatched.Barred(error)
            return
        except Exception as error:
            self._done = dispatched.fail(error)
        if role is roles.Role.COMPUTE:
            try:
                self._monitoring.report(self._done)
                self._observability.report(self._done)
            except Exception as error:
                self._done = dispatched.fail(error)
        if role:
            self._stored.controller = role is roles.Role.CONTROLLER

    def _on_update_status(self, event: ops.EventBase) -> None:
        """Do what every hook does: the way in has found that something is new, see `quiet`."""
        if self.seen:
            self._change(self.seen, patient=True)
        else:
            self._on_change(event)

    def _on_leaving(self, _: ops.EventBase) -> None:
        import leaving

        if leaving.proves(leaving.Hook.of(os.environ), lambda: roles.ties(self.model)):
            self._leave()

    def _leave(self, *, patient: bool = False) -> None:
        from passthrough.state import record

        legacy = record.read(self.site).owner is None
        if self._stored.controller or (legacy and roles.is_misfit(self.place.agents)):
            self._done = dispatched.Removed()  # a compute unit may have the same host
        else:
            import leaving

            keep = leaving.keeps(self.config)
            self._done = leaving.leave(self.site, self.place, keep, patient=patient)

    def _on_action(self, event: ops.ActionEvent) -> None:
        import actions

        try:
            self._done = actions.answer(self, event)
        except Exception as error:
            self._done = dispatched.fail(error)
            event.fail(str(self._done.problem))

    def _on_collect_status(self, event: ops.CollectStatusEvent) -> None:
        import summary

        try:
            if not isinstance(self._done, (dispatched.Removed, dispatched.Reconciled)):
                self._remember()
            found = self._observability.add(summary.summarize(self, self._done))
        except Exception as error:
            self._done = dispatched.fail(error)
            found = status.summarize_failure(self._done.problem)
        event.add_status(ops.StatusBase.from_name(found.kind, found.message))

    def _on_commit(self, _: ops.EventBase) -> None:
        """Settle the unit once its status is set: until then the next hook has to do it."""
        try:
            if isinstance(self._done, dispatched.Reconciled):
                self._remember()
        except Exception as error:
            dispatched.fail(error)  # it stays unsettled

    def _remember(self) -> None:
        check = self.publisher.hold_back(self._observability.hold_back(self._monitoring.check))
        settling.remember(self.site, self.unit.name, self.config, self._done, check)

    def _reconcile(self, wanted: options.Options, facts: survey.Facts | None, **how: bool) -> None:
        import hosting

        self._done = done = hosting.reconcile(self, wanted, facts, **how)
        self._log_once(done.result.decision.nova.notes)
        if done.verdict.action is reboot.Action.NOW:
            hosting.reboot(self, done.verdict)

    @functools.cached_property
    def _controller(self) -> controller.Controller:
        import controller

        return controller.Controller(self, self.site.root)

    def _publish(self, wanted: options.Options) -> None:
        published = self._controller.publish(wanted)
        self._done = dispatched.Published(published)
        self._log_once(published.notes)

    def _log_once(self, notes: tuple[str, ...]) -> None:
        said = list(self._stored.said)  # pyright: ignore[reportArgumentType]
        for note in notes:
            if note not in said:
                logger.warning("%s", note)
        if said != list(notes):
            self._stored.said = list(notes)
