"""Tell a Nova controller which PCI devices its compute hosts offer (interface ``nova_pci``).

The pci-passthrough charm binds PCI devices of compute hosts for use by guests. Stock
nova-cloud-controller learns of them through ``nova-vmware``; this library is for every other charm
that configures nova-api and nova-scheduler.

## Requirer: a charm that configures Nova

Fetch the library and declare the endpoint in ``charmcraft.yaml`` (or ``metadata.yaml``)::

    charmcraft fetch-lib charms.pci_passthrough.v0.nova_pci

    requires:
      nova-pci:
        interface: nova_pci
        optional: true

Observe the one event and write what it brings into ``nova.conf``::

    from charms.pci_passthrough.v0 import nova_pci

    class NovaCharm(ops.CharmBase):
        def __init__(self, framework):
            super().__init__(framework)
            self.nova_pci = nova_pci.NovaPciRequirer(self)
            framework.observe(self.nova_pci.on.changed, self._on_nova_pci_changed)

        def _on_nova_pci_changed(self, event):
            try:
                aliases = self.nova_pci.aliases()
            except nova_pci.DataError as error:
                ...  # set a blocked status; configure nothing
            lines = [f"alias = {alias.to_json()}" for alias in aliases]      # [pci], each a line
            filters = [nova_pci.SCHEDULER_FILTER] if aliases else []         # [filter_scheduler]

``device_specs()`` gives, for each unit on a compute host, what nova-compute there should have as
``[pci] device_spec``. The pci-passthrough charm writes that into nova-compute's configuration
itself; it is here for controllers that show, count or check it.

## Provider: a charm that offers devices

    provides:
      nova-pci:
        interface: nova_pci
        optional: true

    self.nova_pci = nova_pci.NovaPciProvider(self)
    if self.unit.is_leader():
        self.nova_pci.publish_aliases([nova_pci.Alias("gpu", "10de", "1bb0")])
    self.nova_pci.publish_device_specs([nova_pci.DeviceSpec("10de", "1bb0", "0000:83:00.0")])

Call them in every hook: data is written only when it differs, to every relation of the endpoint.

## The data

Every key of both databags is optional. Values are JSON. Arrays are sorted, so that the same
configuration gives the same bytes.

==================  ============================================================================
key                 value
==================  ============================================================================
application databag, written by the leader
------------------------------------------------------------------------------------------------
``version``         the version of this schema: 1
``aliases``         an array of objects, see `Alias`
unit databag, written by each unit on a compute host
------------------------------------------------------------------------------------------------
``version``         the version of this schema: 1
``device_specs``    an array of objects, see `DeviceSpec`
==================  ============================================================================

The objects hold strings alone, by Nova's own names (its ``nova/conf/pci.py`` describes them). One
with a key that this version does not know is refused, never half understood: a key narrows what an
alias stands for. Such keys come with a higher ``version``.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, TypeVar, cast

import ops

# There is no LIBID: Charmhub gives one out when a library is registered, and this one is not yet.
LIBAPI = 0
LIBPATCH = 2

SCHEMA_VERSION = 1
DEFAULT_RELATION_NAME = "nova-pci"
# What nova-scheduler's enabled_filters must contain for any alias to be scheduled.
SCHEDULER_FILTER = "PciPassthroughFilter"

_ID = re.compile(r"[0-9a-f]{4}")
_ADDRESS = re.compile(r"[0-9a-f]{4,8}:[0-9a-f]{2}:[01][0-9a-f]\.[0-7]")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,255}")
_WORDS = re.compile(r"[A-Za-z0-9_,.-]{1,65536}")
_DEVICE_TYPES = ("type-PCI", "type-PF", "type-VF")
_NUMA_POLICIES = ("legacy", "preferred", "required", "socket")
_BOOLEANS = ("yes", "no")
_TRUE_OR_FALSE = ("true", "false")
_NETWORK = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.:-]{0,63}")


class DataError(Exception):
    """What the other side sent is not what this version of the library understands.

    The message names the application or unit, the key and the reason.
    """


class _Object:
    """Both kinds of object: dataclasses whose fields are strings, by Nova's names."""

    def to_dict(self) -> dict[str, str]:
        """The fields that are set, by Nova's names."""
        fields = dataclasses.asdict(self)  # pyright: ignore[reportArgumentType]
        return {name: value for name, value in fields.items() if value is not None}

    def to_json(self) -> str:
        """One line of JSON with sorted keys, as it stands in ``nova.conf``."""
        return json.dumps(self.to_dict(), sort_keys=True)


@dataclasses.dataclass(frozen=True)
class Alias(_Object):
    """A name that flavors ask for (``pci_passthrough:alias``) and a model that stands for it.

    Several with one name are alternatives. ``vendor_id`` and ``product_id`` are four lower-case
    hex digits; ``device_type`` is type-PCI, type-PF or type-VF; ``numa_policy`` is legacy,
    preferred, required or socket; ``traits`` are separated by commas; ``live_migratable`` is yes or
    no. None leaves a key out.

    Raises:
        ValueError: for any other value.
    """

    name: str
    vendor_id: str
    product_id: str
    device_type: str = "type-PCI"
    numa_policy: str | None = None
    resource_class: str | None = None
    traits: str | None = None
    live_migratable: str | None = None

    def __post_init__(self):
        _check_pattern("name", self.name, _NAME)
        _check_ids(self.vendor_id, self.product_id)
        _check_choice("device_type", self.device_type, _DEVICE_TYPES)
        if self.numa_policy is not None:
            _check_choice("numa_policy", self.numa_policy, _NUMA_POLICIES)
        _check_tags(self.resource_class, self.traits, self.live_migratable)


@dataclasses.dataclass(frozen=True)
class DeviceSpec(_Object):
    """One PCI function that a compute host offers.

    ``address`` is exact, such as ``0000:83:00.0``; ``managed`` and ``one_time_use`` are yes or no;
    ``trusted`` is true or false; ``physical_network`` is a name; the other fields are as in
    `Alias`.

    Raises:
        ValueError: for any other value.
    """

    vendor_id: str
    product_id: str
    address: str
    resource_class: str | None = None
    traits: str | None = None
    live_migratable: str | None = None
    managed: str | None = None
    physical_network: str | None = None
    trusted: str | None = None
    one_time_use: str | None = None

    def __post_init__(self):
        _check_ids(self.vendor_id, self.product_id)
        _check_pattern("address", self.address, _ADDRESS)
        _check_tags(self.resource_class, self.traits, self.live_migratable)
        if self.managed is not None:
            _check_choice("managed", self.managed, _BOOLEANS)
        if self.physical_network is not None:
            _check_pattern("physical_network", self.physical_network, _NETWORK)
        if self.trusted is not None:
            _check_choice("trusted", self.trusted, _TRUE_OR_FALSE)
        if self.one_time_use is not None:
            _check_choice("one_time_use", self.one_time_use, _BOOLEANS)


class NovaPciProvider(ops.Object):
    """The side that offers devices.

    Args:
        charm: the charm whose endpoint it is.
        relation_name: the endpoint.
    """

    def __init__(self, charm: ops.CharmBase, relation_name: str = DEFAULT_RELATION_NAME):
        super().__init__(charm, relation_name)
        self._charm = charm
        self._relation_name = relation_name

    def publish_aliases(self, aliases: Iterable[Alias]) -> bool:
        """Publish aliases for the whole application; only its leader may.

        Returns:
            True if anything was written.
        """
        return self._publish(self._charm.app, "aliases", aliases)

    def publish_device_specs(self, device_specs: Iterable[DeviceSpec]) -> bool:
        """Publish what this unit's host offers.

        Returns:
            True if anything was written.
        """
        return self._publish(self._charm.unit, "device_specs", device_specs)

    def _publish(
        self, owner: ops.Application | ops.Unit, key: str, objects: Iterable[_Object]
    ) -> bool:
        lines = sorted({each.to_json() for each in objects})
        wanted = {"version": str(SCHEMA_VERSION), key: f"[{', '.join(lines)}]"}
        changed = False
        for relation in self.model.relations[self._relation_name]:
            if not relation.active:
                continue
            databag = relation.data[owner]
            for name, value in wanted.items():
                if databag.get(name) != value:
                    databag[name] = value
                    changed = True
        return changed


class NovaPciChangedEvent(ops.RelationEvent):
    """Aliases or device_specs changed, or a provider went away."""


class NovaPciRequirerEvents(ops.ObjectEvents):
    """The events of `NovaPciRequirer`."""

    changed = ops.EventSource(NovaPciChangedEvent)


class NovaPciRequirer(ops.Object):
    """The side that configures Nova's controller.

    Args:
        charm: the charm whose endpoint it is.
        relation_name: the endpoint.
    """

    on = NovaPciRequirerEvents()  # pyright: ignore[reportAssignmentType]

    def __init__(self, charm: ops.CharmBase, relation_name: str = DEFAULT_RELATION_NAME):
        super().__init__(charm, relation_name)
        self._relation_name = relation_name
        events = charm.on[relation_name]
        for event in (
            events.relation_changed,
            events.relation_departed,
            events.relation_broken,
        ):
            self.framework.observe(event, self._on_relation_event)

    def aliases(self) -> tuple[Alias, ...]:
        """Every alias of every provider, each once, sorted by name and content.

        Raises:
            DataError: when a provider sent something else.
        """
        found = {
            alias
            for relation in self._relations()
            for alias in _read(relation.data[relation.app], relation.app.name, "aliases", Alias)
        }
        return tuple(sorted(found, key=lambda alias: (alias.name, alias.to_json())))

    def device_specs(self) -> dict[str, tuple[DeviceSpec, ...]]:
        """What each unit on a compute host offers: unit name → device_specs by address.

        Raises:
            DataError: when a unit sent something else.
        """
        found: dict[str, tuple[DeviceSpec, ...]] = {}
        for relation in self._relations():
            for unit in relation.units:
                databag = relation.data[unit]
                if "device_specs" in databag:  # a unit beside a controller has none
                    specs = _read(databag, unit.name, "device_specs", DeviceSpec)
                    found[unit.name] = tuple(sorted(specs, key=lambda spec: spec.address))
        return {name: found[name] for name in sorted(found)}

    def _relations(self) -> Iterator[ops.Relation]:
        for relation in self.model.relations[self._relation_name]:
            if relation.active:
                yield relation

    def _on_relation_event(self, event: ops.RelationEvent) -> None:
        self.on.changed.emit(event.relation, event.app, event.unit)


_T = TypeVar("_T", Alias, DeviceSpec)


def _read(databag: Mapping[str, str], sender: str, key: str, kind: type[_T]) -> list[_T]:
    version = databag.get("version", str(SCHEMA_VERSION))
    if version != str(SCHEMA_VERSION):
        raise DataError(
            f"{sender}: schema version {version!a:.60}, and this library knows {SCHEMA_VERSION};"
            " fetch a newer one"
        )
    try:
        loaded: object = json.loads(databag.get(key, "[]"))
        if not isinstance(loaded, list):
            raise TypeError("not an array")
        return [kind(**row) for row in cast("list[Any]", loaded)]
    except (TypeError, ValueError, RecursionError) as error:
        raise DataError(f"{sender}: {key}: {_show(error)}") from error


def _show(error: Exception) -> str:
    """An error's text on one line: Python repeats an unknown key as it came from the other side."""
    shown = (each if each.isprintable() else ascii(each)[1:-1] for each in str(error)[:300])
    return "".join(shown)


def _check_ids(vendor_id: str, product_id: str) -> None:
    _check_pattern("vendor_id", vendor_id, _ID)
    _check_pattern("product_id", product_id, _ID)


def _check_tags(
    resource_class: str | None, traits: str | None, live_migratable: str | None
) -> None:
    for name, value in (("resource_class", resource_class), ("traits", traits)):
        if value is not None:
            _check_pattern(name, value, _WORDS)
    if live_migratable is not None:
        _check_choice("live_migratable", live_migratable, _BOOLEANS)


def _check_pattern(name: str, value: object, pattern: re.Pattern[str]) -> None:
    if not isinstance(value, str) or not pattern.fullmatch(value):
        raise ValueError(f"{name} cannot be {value!a:.60}")


def _check_choice(name: str, value: object, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ValueError(f"{name} cannot be {value!a:.60}; it is one of {', '.join(choices)}")
