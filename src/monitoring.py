"""The unit's side of the relation with nrpe: it has its check installed and kept up to date."""

import logging
from pathlib import Path

import ops

from passthrough import nrpe, reconcile, verify

logger = logging.getLogger(__name__)

ENDPOINT = "nrpe-external-master"


class Monitoring(ops.Object):
    """Tells the NRPE check what a hook found; does nothing while there is no such relation.

    Args:
        charm: the charm.
        root: ``/`` on a real unit.
    """

    def __init__(self, charm: ops.CharmBase, root: Path):
        super().__init__(charm, "monitoring")
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
        if not relations:
            return
        try:
            if not nrpe.install(self._root, self._application):
                return
            nrpe.write_report(self._root, self._application, _judge(result, problem))
        except OSError as error:
            logger.error("the NRPE check is not up to date: %s", error)
            return
        for relation in relations:
            self._publish(relation)

    def _publish(self, relation: ops.Relation) -> None:
        databag = relation.data[self._unit]
        # As charmhelpers has it: "primary" says whose unit gives the host its name in Nagios.
        wanted = {"monitors": nrpe.monitors(self._application), "primary": "False"}
        if any(databag.get(key) != value for key, value in wanted.items()):
            databag.update(wanted)

    def _on_broken(self, _: ops.RelationBrokenEvent) -> None:
        nrpe.remove(self._root, self._application)


def _judge(result: reconcile.Result | None, problem: Exception | None) -> nrpe.Report:
    if problem or not result:
        return nrpe.judge_problem(problem or RuntimeError("the hook did not look at the host"))
    return nrpe.judge(verify.verify(result.survey), result.survey.plan.reboot)
