"""The unit beside nova-cloud-controller: sends it aliases, and touches no file of the host."""

import logging
from pathlib import Path

import ops

from passthrough import nova, nova_controller, options

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
        # A nova_controller.Memory.
        self._stored.set_default(lines=[], seen="")

    def survey(
        self, relation: ops.Relation, wanted: options.Options
    ) -> nova_controller.Publication:
        """Look at Nova's files and decide what to send; changes nothing.

        Raises:
            OptionError: when the installed Nova does not know what an option asks for.
            OSError: when a file cannot be read.
        """
        sent = relation.data[self._unit].get(nova.SUBORDINATE_KEY)
        memory = nova_controller.Memory(tuple(self._stored.lines), str(self._stored.seen))
        return nova_controller.survey(self._root, wanted, sent, memory)

    def publish(
        self, relation: ops.Relation, wanted: options.Options
    ) -> nova_controller.Publication:
        """Send what `survey` decides, if that is not what was sent before."""
        published = self.survey(relation, wanted)
        databag = relation.data[self._unit]
        if databag.get(nova.SUBORDINATE_KEY) != published.payload:
            databag[nova.SUBORDINATE_KEY] = published.payload or ""
            logger.info("sent to %s: %s", relation.app.name, published.payload or "nothing")
        if list(self._stored.lines) != list(published.memory.lines):
            self._stored.lines = list(published.memory.lines)
        self._stored.seen = published.memory.seen
        return published
