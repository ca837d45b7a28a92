"""What is told to a controller of another charm, over the relation nova-pci."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

import ops

import dispatched
import roles
from passthrough.config import options
from passthrough.nova import lines as nova_lines
from passthrough.nova import offer as nova_offer

if TYPE_CHECKING:
    from charms.pci_passthrough.v0 import nova_pci


class Publisher:
    """Publishes through the charm library, which is imported where somebody is related."""

    def __init__(self, charm: ops.CharmBase):
        self._charm = charm
        self._has_told = False

    def devices(self, offer: nova_offer.Offer) -> None:
        """Publish the device_specs of a unit's offer."""
        if not self._is_asked:
            return
        from charms.pci_passthrough.v0 import nova_pci

        specs = (*offer.device_specs, *offer.held)
        told = self._library.publish_device_specs(nova_pci.DeviceSpec(**each) for each in specs)
        self._has_told |= told

    def aliases(self, wanted: options.Options) -> None:
        """Publish the application's aliases; only the leader may."""
        if not self._is_asked:
            return
        from charms.pci_passthrough.v0 import nova_pci

        found = nova_lines.aliases(wanted.devices)
        told = self._library.publish_aliases(nova_pci.Alias(**each) for each in found)
        self._has_told |= told

    def hold_back(self, check: dispatched.Check) -> dispatched.Check:
        """Have the next hook ask again where this one has told anything.

        Juju drops all of it where it cannot take it behind the hook's end, and runs the hook again.
        """
        return dispatched.Check.WAITS if self._has_told else check

    @property
    def _is_asked(self) -> bool:
        return bool(self._charm.model.relations[roles.NOVA_PCI])

    @functools.cached_property
    def _library(self) -> nova_pci.NovaPciProvider:
        from charms.pci_passthrough.v0 import nova_pci

        return nova_pci.NovaPciProvider(self._charm)
