#!/usr/bin/env python3
"""A charm that does with ops what tests/unit/test_standin.py wants to see through the stand-in."""

import json
import logging
import os
import subprocess

import ops

logger = logging.getLogger(__name__)


class TestCharm(ops.CharmBase):
    """Logs events with what surrounds them, publishes its `text` option, runs the hook tools."""

    def __init__(self, framework: ops.Framework):
        super().__init__(framework)
        for event in self.on.events().values():
            framework.observe(event, self._on_any)
        framework.observe(self.on.collect_unit_status, self._on_collect_status)
        framework.observe(self.on.exercise_action, self._on_exercise)
        framework.observe(self.on.greet_action, self._on_greet)
        framework.observe(self.on.give_up_action, self._on_give_up)
        framework.observe(self.on.crash_action, self._on_crash)

    def _on_any(self, event: ops.EventBase):
        if isinstance(event, (ops.ActionEvent, ops.LifecycleEvent, ops.CollectStatusEvent)):
            return
        seen = {name: value for name, value in sorted(os.environ.items()) if "JUJU_" in name}
        logger.info("environment %s", json.dumps(seen))
        if isinstance(event, ops.ConfigChangedEvent):
            print("printed by the hook")
        if isinstance(event, ops.RelationEvent) and not isinstance(event, ops.RelationBrokenEvent):
            self._publish(event.relation)
            self._log_relation(event)

    def _publish(self, relation: ops.Relation):
        text = str(self.config["text"])
        relation.data[self.unit]["unit-text"] = text
        if self.unit.is_leader():
            relation.data[self.app]["app-text"] = text

    def _log_relation(self, event: ops.RelationEvent):
        data = {unit.name: dict(event.relation.data[unit]) for unit in event.relation.units}
        if event.app and event.app is not self.app:
            data[event.app.name] = dict(event.relation.data[event.app])
        logger.info("relation %s", json.dumps(data, sort_keys=True))

    def _on_collect_status(self, event: ops.CollectStatusEvent):
        event.add_status(ops.ActiveStatus(f"text is {self.config['text']!r}"))

    def _on_exercise(self, event: ops.ActionEvent):
        self.unit.open_port("tcp", 80)
        self.unit.set_workload_version("1.2.3")
        self.app.status = ops.BlockedStatus("set by the leader")
        state = {"key": "value", "other": "thing"}
        subprocess.run(["state-set", "--file", "-"], input=json.dumps(state), text=True, check=True)
        subprocess.run(["state-delete", "other"], check=True)
        found = subprocess.run(
            ["state-get", "--format=json"], stdout=subprocess.PIPE, text=True, check=True
        )
        network = self.model.get_binding("controller")
        (relation,) = self.model.relations["controller"]
        event.log("half way")
        event.set_results(
            {
                "app-status": self.app.status.message,
                "config": json.dumps(dict(self.config), sort_keys=True),
                "leader": str(self.unit.is_leader()),
                "network": str(network.network.bind_address if network else None),
                "planned": str(self.app.planned_units()),
                "ports": str(sorted(f"{p.port}/{p.protocol}" for p in self.unit.opened_ports())),
                "own-app-data": relation.data[self.app].get("app-text", ""),
                "state": found.stdout.strip(),
                "status": {"name": self.unit.status.name, "message": self.unit.status.message},
                "model": relation.remote_model.uuid,
            }
        )

    def _on_greet(self, event: ops.ActionEvent):
        greeting = f"hello {event.params['who']}" * event.params["times"]
        loud = event.params["style"] == "loud"
        event.set_results({"greeting": greeting.upper() if loud else greeting})

    def _on_give_up(self, event: ops.ActionEvent):
        event.set_results({"tried": "yes"})
        event.fail("no way out")

    def _on_crash(self, event: ops.ActionEvent):
        raise RuntimeError("crashed")


if __name__ == "__main__":
    ops.main(TestCharm)
