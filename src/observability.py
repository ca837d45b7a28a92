"""The unit's side of the relations with collectors of metrics: cos-agent and metrics-endpoint.

The exporter is on the host while one of them is there, or the option metrics asks for it. All that
it takes is imported then, and by no other unit.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import ops

import dispatched
import roles
from passthrough.errors import OptionError, PassthroughError
from passthrough.host import exporter_files
from passthrough.site import Site

if TYPE_CHECKING:
    from passthrough.config import options
    from passthrough.reporting import status

logger = logging.getLogger(__name__)

_ENDPOINTS = (roles.COS_AGENT, roles.METRICS_ENDPOINT)


class Observability(ops.Object):
    """Keeps the exporter on the host, and tells collectors of it.

    A unit asks Juju for these relations from its first hook of one on: each question is a process.

    Args:
        charm: the charm.
        site: the application on this host.
    """

    _stored = ops.StoredState()

    def __init__(self, charm: ops.CharmBase, site: Site):
        super().__init__(charm, "observability")
        self._stored.set_default(related=False)
        self._charm, self._site, self._unit = charm, site, charm.unit
        self._problem = ""
        for endpoint in _ENDPOINTS:
            events = charm.on[endpoint]
            for event in (events.relation_created, events.relation_joined, events.relation_changed):
                self.framework.observe(event, self._on_related)
            self.framework.observe(events.relation_broken, self._on_broken)

    def report(self, done: dispatched.Done) -> None:
        """Have the exporter as it is asked for, and leave it what the hook found.

        Metrics that cannot be had fail no hook: the log says why, and the status.

        Args:
            done: what the hook did.
        """
        relations = self._relations()
        try:
            wanted = self._metrics()
            if wanted.are_wanted or relations:
                self._keep(done, wanted, relations)
            elif self._is_there(done):
                self._remove()
        except (PassthroughError, OSError, ValueError) as error:
            logger.error("the metrics are not up to date: %s", error)
            self._problem = str(error)

    def lead(self) -> None:
        """Tell Prometheus what all units have in common; only the leader may."""
        relations = self._of(roles.METRICS_ENDPOINT)
        if not relations:
            return
        try:
            port = self._metrics().port
        except OptionError:
            return  # the status says it, and what was told stays
        import cos

        told = cos.scrape_application(self._topology(), port)
        for relation in relations:
            _publish(relation.data[self._charm.app], told)

    def hold_back(self, check: dispatched.Check) -> dispatched.Check:
        """Have the next update-status try again where the metrics are not up to date."""
        return dispatched.Check.WAITS if self._problem else check

    def add(self, found: status.Status) -> status.Status:
        """Say in a unit's status why the metrics are not up to date."""
        if self._problem and found.kind == "active":
            return found._replace(message=f"{found.message}; no metrics: {self._problem}")
        return found

    def _keep(
        self, done: dispatched.Done, wanted: options.Metrics, relations: list[ops.Relation]
    ) -> None:
        import metering

        listen = metering.Listen(wanted.port, self._own_address(relations))
        metering.install(self._site, listen)
        metering.write(self._site, done)
        self._tell(relations, wanted.port)

    def _tell(self, relations: list[ops.Relation], port: int) -> None:
        if not relations:
            return
        import cos

        for relation in relations:
            if relation.name == roles.COS_AGENT:
                told = cos.agent_unit(self._topology(), port)
            else:
                told = cos.scrape_unit(self._unit.name, self._advertised(relation))
            _publish(relation.data[self._unit], told)

    def _is_there(self, done: dispatched.Done) -> bool:
        if isinstance(done, dispatched.Reconciled) and done.result.decision.facts.record.exporter:
            return True
        # A former charm, put back for a while, has forgotten that it is there.
        return exporter_files.is_installed(self._site.root, self._site.application)

    def _remove(self) -> None:
        import metering

        metering.remove(self._site)

    def _metrics(self) -> options.Metrics:
        from passthrough.config import options

        return options.parse_metrics(self._charm.config)

    def _relations(self) -> list[ops.Relation]:
        return [each for endpoint in _ENDPOINTS for each in self._of(endpoint)]

    def _of(self, endpoint: str) -> list[ops.Relation]:
        if not self._stored.related:
            return []
        return [each for each in self.model.relations[endpoint] if each.active]

    def _own_address(self, relations: list[ops.Relation]) -> str:
        """Where a Prometheus elsewhere reaches the exporter; empty where none asks."""
        asking = [each for each in relations if each.name == roles.METRICS_ENDPOINT]
        if not asking:
            return ""
        binding = self.model.get_binding(asking[0])
        return str(binding.network.bind_address or "") if binding else ""

    def _advertised(self, relation: ops.Relation) -> str:
        binding = self.model.get_binding(relation)
        network = binding.network if binding else None
        return str(network.ingress_address or network.bind_address or "") if network else ""

    def _topology(self) -> dict[str, str]:
        return {
            "model": self.model.name,
            "model_uuid": self.model.uuid or "",
            "application": self._charm.app.name,
            "unit": self._unit.name,
            "charm_name": self._charm.meta.name,
        }

    def _on_related(self, _: ops.EventBase) -> None:
        if not self._stored.related:
            self._stored.related = True

    def _on_broken(self, _: ops.RelationBrokenEvent) -> None:
        if not self._relations():
            self._stored.related = False
        import ownership
        from passthrough.state import record

        me = record.Owner(self.model.uuid or "", self._unit.name)
        is_mine = roles.of(self.model) is roles.Role.COMPUTE
        if (
            not is_mine
            or ownership.leaves(self._charm.charm_dir)
            or ownership.belongs_to_another(self._site, me)
        ):
            return
        if exporter_files.is_installed(self._site.root, self._site.application):
            self.report(dispatched.Nothing())


def _publish(databag: ops.RelationDataContent, wanted: dict[str, str]) -> None:
    """Write what differs."""
    if any(databag.get(key) != value for key, value in wanted.items()):
        databag.update(wanted)
