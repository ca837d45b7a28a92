"""The unit's side of the relation with nrpe: it has its check installed and kept up to date."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import ops

import dispatched
from passthrough import survey
from passthrough.site import Site

if TYPE_CHECKING:
    from passthrough.reporting import alarm

logger = logging.getLogger(__name__)

ENDPOINT = "nrpe-external-master"


class Monitoring(ops.Object):
    """Tells the NRPE check what a hook found; does nothing while there is no such relation.

    Most units have none, and need not import any of it.

    Args:
        charm: the charm.
        site: the application on this host.
    """

    _stored = ops.StoredState()

    def __init__(self, charm: ops.CharmBase, site: Site):
        super().__init__(charm, "monitoring")
        # Whether nrpe is related, and whether it has been told of the check.
        self._stored.set_default(related=False, published=False)
        self._site = site
        self._unit = charm.unit
        self.framework.observe(charm.on[ENDPOINT].relation_broken, self._on_broken)

    def report(self, done: dispatched.Done) -> None:
        """Have the check installed, and leave it what the hook found.

        A check that cannot be kept up to date fails no hook: it grows old, and says so itself.

        Args:
            done: what the hook did.
        """
        relations = [each for each in self.model.relations[ENDPOINT] if each.active]
        published = bool(relations) and self._write(done)
        for relation in relations if published else ():
            self._publish(relation)
        self._remember(bool(relations), published)

    def refresh(self, decision: survey.Decision) -> bool:
        """Do what `report` does, of a host that is as it should be, without asking Juju.

        Returns:
            Whether that was enough; otherwise `report` has to be called.
        """
        if not self._stored.related:
            return True
        return bool(self._stored.published) and self._write(dispatched.Seen(decision))

    def _write(self, done: dispatched.Done) -> bool:
        """Have the check on the host and give it its report; False where it cannot be had."""
        from passthrough.effects import nrpe

        try:
            if not nrpe.install(self._site):
                return False
            nrpe.write_report(self._site, *_judge(done))
        except OSError as error:
            logger.error("the NRPE check is not up to date: %s", error)
            return False
        return True

    def _remember(self, related: bool, published: bool) -> None:
        if (self._stored.related, self._stored.published) != (related, published):
            self._stored.related, self._stored.published = related, published

    def _publish(self, relation: ops.Relation) -> None:
        from passthrough.effects import nrpe

        databag = relation.data[self._unit]
        # As charmhelpers has it: "primary" says whose unit gives the host its name in Nagios.
        wanted = {"monitors": nrpe.monitors(self._site.application), "primary": "False"}
        if any(databag.get(key) != value for key, value in wanted.items()):
            databag.update(wanted)

    def _on_broken(self, _: ops.RelationBrokenEvent) -> None:
        from passthrough.effects import nrpe

        if any(each.active for each in self.model.relations[ENDPOINT]):
            return  # another nrpe is related, and it has the same check
        import ownership
        from passthrough.state import record

        me = record.Owner(self.model.uuid or "", self._unit.name)
        if ownership.belongs_to_another(self._site, me):
            return  # so does the check
        try:
            nrpe.remove(self._site)
        except OSError as error:
            logger.error("the NRPE check stays on the host: %s", error)
        self._remember(related=False, published=False)


def _judge(done: dispatched.Done) -> alarm.Report:
    from passthrough.reporting import alarm
    from passthrough.reporting.verify import checklist

    match done:
        case dispatched.Reconciled(result):
            decision = result.decision
        case dispatched.Seen(decision):
            pass
        case dispatched.Failed(problem):
            return alarm.judge_problem(problem)
        case _:
            return alarm.judge_problem(RuntimeError("the hook did not look at the host"))
    return alarm.judge(checklist.verify(decision), decision.plan.reboot)
