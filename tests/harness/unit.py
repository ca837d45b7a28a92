"""A unit of the charm as Juju runs it, through ops.testing, on a world.

    unit = Unit(world)
    assert unit.run(devices=GPUS).name == "blocked"
    assert unit.act("plan")["plan"]["rebuild"] == []

`harness.standin` does the same to the packed charm, as a process.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import types
from pathlib import Path
from typing import Any

import ops
import pytest
import yaml
from harness.constants import MODEL_UUID
from harness.world import World
from ops import testing
from scenario import _runtime

import asking
import charm
import quiet
from passthrough import survey
from passthrough.effects import tools as host_tools
from passthrough.site import Site
from passthrough.state import record, settled

_ROOT = Path(charm.__file__).parents[1]
DECLARED: dict[str, dict[str, Any]] = {
    part: yaml.safe_load((_ROOT / f"{name}.yaml").read_text())
    for part, name in (("meta", "metadata"), ("config", "config"), ("actions", "actions"))
}
PRINCIPAL = testing.SubordinateRelation("juju-info", remote_app_name="nova-compute")
NRPE = testing.SubordinateRelation("nrpe-external-master", remote_app_name="nrpe")
COS_AGENT = testing.SubordinateRelation("cos-agent", remote_app_name="opentelemetry-collector")
METRICS = testing.Relation("metrics-endpoint", remote_app_name="prometheus")
# Beside the host, not on it: Juju's folders are none of what a test compares.
AGENTS = ".juju/agents"
# ops.testing writes what the charm declares before every hook, for ops to read. JSON is YAML, and
# json takes 0.1 ms for what takes PyYAML 8, and 27 below coverage's tracer.
JSON_IS_YAML = types.SimpleNamespace(safe_dump=functools.partial(json.dumps, ensure_ascii=False))
HOOKS = ("install", "upgrade_charm", "config_changed", "start", "update_status")


def find_world(world: World, patch: pytest.MonkeyPatch) -> None:
    """Let every unit of the charm run on this world's host, with its tools."""
    patch.setattr(charm, "ROOT", world.root)
    patch.setattr(host_tools, "HostTools", lambda: world.tools)
    patch.setattr(_runtime, "yaml", JSON_IS_YAML)


class Unit:
    """A unit: what Juju keeps of it goes from one hook to the next.

    Args:
        world: where it runs; `find_world` takes it there.
        principal: the unit that it is beside.
        relations: the relations that Juju knows.
        leader: whether it is its application's leader.
        number: the unit's number; the folder of its agent is below `AGENTS`.
    """

    def __init__(
        self,
        world: World,
        principal: str = "nova-compute/0",
        relations: tuple[testing.RelationBase, ...] = (PRINCIPAL,),
        *,
        leader: bool = False,
        number: int = 0,
    ):
        self.world = world
        self._principal = principal
        charm_folder = world.root / AGENTS / f"unit-{world.application}-{number}/charm"
        charm_folder.mkdir(parents=True, exist_ok=True)
        self.context: testing.Context[charm.PciPassthroughCharm] = testing.Context(
            charm.PciPassthroughCharm,
            meta=DECLARED["meta"],
            config=DECLARED["config"],
            actions=DECLARED["actions"],
            principal_unit=principal,
            app_name=world.application,
            unit_id=number,
            charm_root=charm_folder,
        )
        model = testing.Model(name="standin", uuid=MODEL_UUID)
        self.state = testing.State(relations=relations, leader=leader, model=model)

    def run(
        self,
        event: str = "config_changed",
        relation: testing.RelationBase | None = None,
        **config: Any,
    ) -> ops.StatusBase:
        """Run a hook, with these options set from now on.

        Args:
            event: as ops spells it; one of a relation, such as ``relation_changed``, needs that.
            relation: the relation that the hook is of.
            config: options, as Python spells their names.

        Returns:
            The unit's status behind it.
        """
        self.configure(**config)
        subject = () if relation is None else (self.state.get_relation(relation.id),)

        def go_on(facts: survey.Facts | None = None) -> None:
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(charm.PciPassthroughCharm, "seen", facts)
                made = getattr(self.context.on, event)(*subject)
                self.state = self.context.run(made, self.state)

        way = quiet.HOOKS.get(f"hooks/{event.replace('_', '-')}")
        if way:
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(asking, "ask", self._answer)
                way(self._site, self.owner.unit, go_on)  # as the way in does, see `entry`
        else:
            go_on()
        return ops.StatusBase.from_name(self.state.unit_status.name, self.state.unit_status.message)

    def _answer(self, *command: str) -> object:
        """What the hook tools say where ops does not ask them."""
        assert command == ("config-get", "--format=json")
        defaults = {
            name: row["default"]
            for name, row in DECLARED["config"]["options"].items()
            if "default" in row
        }
        return {**defaults, **self.state.config}

    def configure(self, **config: Any) -> None:
        """Set options, for the hooks to come."""
        named = {name.replace("_", "-"): value for name, value in config.items()}
        self.replace(config={**self.state.config, **named})

    def relate(self, *relations: testing.RelationBase) -> None:
        """Let Juju know these relations and no other.

        Their own hooks come first, and whatever those do, the next hook does all again.
        """
        self.replace(relations=relations)
        settled.unsettle(self.world.root, self.owner.unit)

    def replace(self, **values: Any) -> None:
        """Change what Juju keeps, see `ops.testing.State`."""
        self.state = dataclasses.replace(self.state, **values)

    def act(self, name: str, **params: Any) -> dict[str, Any]:
        """Run an action; its results, structured parts parsed.

        One that only looks is asked for both formats, unless ``format`` names one.
        """
        both = "format" not in params and name != "rebind"
        results: dict[str, str] = {}
        for each in ({"format": "table"}, {"format": "json"}) if both else ({},):
            self.state = self.context.run(self._action(name, {**params, **each}), self.state)
            found = self.context.action_results or {}
            assert len(found) <= 1, "one result, of the kind that was asked for"
            results.update(found)
        return {key: text if key == "table" else json.loads(text) for key, text in results.items()}

    def act_in_vain(self, name: str, **params: Any) -> tuple[str, dict[str, Any]]:
        """Run an action that fails; the reason, and the results it gives all the same."""
        event = self._action(name, params)
        with pytest.raises(testing.ActionFailed) as caught:
            self.context.run(event, self.state)
        assert isinstance(caught.value.state, testing.State)
        self.state = caught.value.state
        return caught.value.message, self.context.action_results or {}

    @property
    def _site(self) -> Site:
        return Site(self.world.root, self.world.application)

    @property
    def owner(self) -> record.Owner:
        """The unit, as a record names an owner."""
        name = f"{self.context.app_name}/{self.context.unit_id}"
        return record.Owner(MODEL_UUID, name, self._principal)

    @property
    def status(self) -> str:
        """The unit's status, such as ``active: gpu: 2 ready``."""
        found = self.state.unit_status
        return f"{found.name}: {found.message}"

    def logged(self, level: str | None = None) -> list[str]:
        """What the hooks wrote to Juju's log, at this level or at any."""
        lines = self.context.juju_log
        return [line.message for line in lines if level in (None, line.level)]

    def databag(self, relation: testing.RelationBase) -> dict[str, str]:
        """What the unit has written to a relation."""
        return dict(self.state.get_relation(relation.id).local_unit_data)

    def _action(self, name: str, params: dict[str, Any]):
        """The action as Juju asks for it: with the defaults of the parameters left out."""
        declared = DECLARED["actions"][name].get("params", {})
        defaults = {key: row["default"] for key, row in declared.items() if "default" in row}
        return self.context.on.action(name, params={**defaults, **params})
