#!/usr/bin/env python3
"""The smallest charm that configures Nova from ``nova_pci``: what a real one does, and no more."""

import ops
from charms.pci_passthrough.v0 import nova_pci


class RequirerCharm(ops.CharmBase):
    """Writes the aliases and the filter into ``nova.conf``; blocked when it cannot read them."""

    def __init__(self, framework: ops.Framework):
        super().__init__(framework)
        self.nova_pci = nova_pci.NovaPciRequirer(self)
        framework.observe(self.nova_pci.on.changed, self._on_changed)
        framework.observe(self.on.collect_unit_status, self._on_collect_status)

    def _on_changed(self, _: nova_pci.NovaPciChangedEvent) -> None:
        try:
            aliases = self.nova_pci.aliases()
        except nova_pci.DataError:
            return  # the status says it; what was configured stays
        lines = ["[pci]", *(f"alias = {alias.to_json()}" for alias in aliases)]
        if aliases:
            lines += ["[filter_scheduler]", f"enabled_filters = {nova_pci.SCHEDULER_FILTER}"]
        (self.charm_dir / "nova.conf").write_text("\n".join([*lines, ""]))

    def _on_collect_status(self, event: ops.CollectStatusEvent) -> None:
        try:
            aliases = len(self.nova_pci.aliases())
            devices = sum(len(specs) for specs in self.nova_pci.device_specs().values())
        except nova_pci.DataError as error:
            event.add_status(ops.BlockedStatus(str(error)))
        else:
            event.add_status(ops.ActiveStatus(f"{aliases} aliases, {devices} devices"))


if __name__ == "__main__":
    ops.main(RequirerCharm)
