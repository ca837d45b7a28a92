"""The unit's side of the relation with nrpe: it has its check installed and kept up to date."""

from __future__ import annotations

import logging

import ops

import dispatched
import roles
from passthrough.site import Site

logger = logging.getLogger(__name__)

ENDPOINT = roles.NRPE


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

    @property
    def check(self) -> dispatched.Check:
        """How the last `report` has left the check."""
        if not self._stored.related:
            return dispatched.Check.UNASKED
        return dispatched.Check.THERE if self._stored.published else dispatched.Check.WAITS

    def _write(self, done: dispatched.Done) -> bool:
        """Have the check on the host and give it its report; False where it cannot be had."""
        import checking

        try:
            return checking.write(self._site, done)
        except OSError as error:
            logger.error("the NRPE check is not up to date: %s", error)
            return False

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
