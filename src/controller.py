"""The unit beside nova-cloud-controller: sends it aliases, and touches no file of the host."""

import logging
from pathlib import Path

import ops

import roles
from passthrough.config import options
from passthrough.nova import lines as nova_lines
from passthrough.nova import publication

logger = logging.getLogger(__name__)


class Controller(ops.Object):
    """Keeps this unit's own databag on the relation to its principal.

    The other side's databag holds Keystone credentials: it is never read.

    Args:
        charm: the charm.
        root: ``/`` on a real unit.
    """

    _stored = ops.StoredState()

    def __init__(self, charm: ops.CharmBase, root: Path):
        super().__init__(charm, "controller")
        self._root = root
        self._unit = charm.unit
        # A publication.Memory.
        self._stored.set_default(lines=[], seen="")

    @property
    def _relation(self) -> ops.Relation:
        return roles.relations(self.model, roles.Role.CONTROLLER)[0]

    def survey(self, wanted: options.Options) -> publication.Publication:
        """Look at Nova's files and decide what to send; changes nothing.

        Raises:
            OptionError: when the installed Nova does not know what an option asks for.
            OSError: when a file cannot be read.
        """
        sent = self._relation.data[self._unit].get(nova_lines.SUBORDINATE_KEY)
        memory = publication.Memory(tuple(self._stored.lines), str(self._stored.seen))
        return publication.survey(self._root, wanted, sent, memory)

    def publish(self, wanted: options.Options) -> publication.Publication:
        """Send what `survey` decides, if that is not what was sent before."""
        published = self.survey(wanted)
        relation = self._relation
        databag = relation.data[self._unit]
        if databag.get(nova_lines.SUBORDINATE_KEY) != published.payload:
            databag[nova_lines.SUBORDINATE_KEY] = published.payload or ""
            logger.info("sent to %s: %s", relation.app.name, published.payload or "nothing")
        if list(self._stored.lines) != list(published.memory.lines):
            self._stored.lines = list(published.memory.lines)
        self._stored.seen = published.memory.seen
        return published
