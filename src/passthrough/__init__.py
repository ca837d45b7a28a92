"""PCI passthrough on an OpenStack compute host, without any knowledge of Juju.

Every function that touches the machine takes a ``root`` (``/`` on a real host), so the whole
package also works on a copy of another machine's ``/sys``, ``/proc`` and ``/etc``.
"""

# As typing.TYPE_CHECKING, for what a person's `list` imports: typing takes as long to import as a
# small host takes to be listed.
TYPE_CHECKING = False
