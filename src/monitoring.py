"""The unit's side of the relation with nrpe: it has its check installed and kept up to date."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING

import ops

if TYPE_CHECKING:
    from passthrough import reconcile
    from passthrough import survey as surveying
    from passthrough.reporting import alarm

logger = logging.getLogger(__name__)

ENDPOINT = "nrpe-external-master"


class Monitoring(ops.Object):
    """Tells the NRPE check what a hook found; does nothing while there is no such relation.

    Most units have none, and need not import any of it.

    Args:
        charm: the charm.
        root: ``/`` on a real unit.
    """

    _stored = ops.StoredState()

    def __init__(self, charm: ops.CharmBase, root: Path):
        super().__init__(charm, "monitoring")
        # Whether nrpe is related, and whether it has been told of the check.
        self._stored.set_default(related=False, published=False)
        self._root = root
        self._application = charm.app.name
        self._unit = charm.unit
        self.framework.observe(charm.on[ENDPOINT].relation_broken, self._on_broken)

    def report(self, result: reconcile.Result | None, problem: Exception | None) -> None:
        """Have the check installed, and leave it what the hook found.

        A check that cannot be kept up to date fails no hook: it grows old, and says so itself.

        Args:
            result: what the hook did, or None where it was kept from it.
            problem: what kept it.
        """
        relations = [each for each in self.model.relations[ENDPOINT] if each.active]
        published = bool(relations) and self._write(result, problem)
        for relation in relations if published else ():
            self._publish(relation)
        self._remember(bool(relations), published)

    def refresh(self, survey: surveying.Survey) -> bool:
        """Do what `report` does of a survey, without asking Juju for anything.

        Returns:
            Whether that was enough; otherwise `report` has to be called.
        """
        if not self._stored.related:
            return True
        from passthrough import reconcile

        return bool(self._stored.published) and self._write(reconcile.Result(survey), None)

    def _write(self, result: reconcile.Result | None, problem: Exception | None) -> bool:
        """Have the check on the host and give it its report; False where it cannot be had."""
        from passthrough.effects import nrpe

        try:
            if not nrpe.install(self._root, self._application):
                return False
            nrpe.write_report(self._root, self._application, *_judge(result, problem))
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
        wanted = {"monitors": nrpe.monitors(self._application), "primary": "False"}
        if any(databag.get(key) != value for key, value in wanted.items()):
            databag.update(wanted)

    def _on_broken(self, _: ops.RelationBrokenEvent) -> None:
        from passthrough.effects import nrpe

        if any(each.active for each in self.model.relations[ENDPOINT]):
            return  # another nrpe is related, and it has the same check
        nrpe.remove(self._root, self._application)
        self._remember(related=False, published=False)


def _judge(result: reconcile.Result | None, problem: Exception | None) -> alarm.Report:
    from passthrough.reporting import alarm
    from passthrough.reporting.verify import checklist

    if problem or not result:
        return alarm.judge_problem(problem or RuntimeError("the hook did not look at the host"))
    return alarm.judge(checklist.verify(result.survey), result.survey.plan.reboot)
