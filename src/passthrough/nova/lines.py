"""What Nova is told: aliases, device_specs, and the texts that carry them. Pure.

Source of the formats: Nova's nova/conf/pci.py, nova/pci/request.py and nova/pci/devspec.py. Every
value is a string, every object one line of JSON with sorted keys: the same input gives the same
bytes.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from passthrough import naming, pci_address
from passthrough.config import devices
from passthrough.host import pci
from passthrough.nova import release as nova_release
from passthrough.planning import templates

Fields = Mapping[str, str]

DIRECTORY = "etc/nova/nova.conf.d"
MODE = 0o640
GROUP = "nova"

SUBORDINATE_KEY = "subordinate_configuration"
FILTER = "PciPassthroughFilter"
# Without it Nova heeds no alias's numa_policy (nova/scheduler/filters/numa_topology_filter.py).
NUMA_FILTER = "NUMATopologyFilter"
_DEVICES = r"(?:device_spec|passthrough_whitelist|alias)\s*="


def path_of(application: str) -> str:
    """The drop-in of an application, below the root."""
    return f"{DIRECTORY}/{naming.name_for(application)}.conf"


def aliases(wanted: devices.Spec) -> tuple[Fields, ...]:
    """The aliases that a configuration asks for, each once, sorted by name and content.

    Each names its device type: without one Nova cannot compare two lines of the same alias, and
    refuses both.
    """
    return in_order(each for item in wanted.items for each in aliases_of(item))


def in_order(found: Iterable[Fields]) -> tuple[Fields, ...]:
    """Aliases, each once, sorted by name and content."""
    by_line = {to_line(each): each for each in found}
    return tuple(sorted(by_line.values(), key=_alias_order))


def aliases_of(item: devices.Item) -> tuple[Fields, ...]:
    """The aliases of one item: one for each of its names, which differ in nothing else."""
    return tuple(
        {
            "name": name,
            "vendor_id": item.vendor,
            "product_id": item.product,
            "device_type": item.alias_type,
            **nova_release.keys_of(item, nova_release.ALIAS),
        }
        for name in item.names
    )


def device_spec(
    function: pci.Function, item: devices.Item, *, is_unmanaged: bool = False
) -> Fields:
    """The device_spec that offers one function, and no other, on behalf of an item.

    Args:
        function: the function.
        item: what asks for it.
        is_unmanaged: whether libvirt is to leave its driver alone, where the item says nothing.
    """
    return {
        **({"managed": "no"} if is_unmanaged else {}),
        "vendor_id": function.vendor,
        "product_id": function.product,
        "address": function.address,
        **nova_release.keys_of(item, nova_release.DEVICE_SPEC),
    }


def missing_device_spec(address: str, item: devices.Item) -> Fields:
    """The device_spec of a function that is not there any more, as its item asks for it."""
    return {
        "vendor_id": item.vendor,
        "product_id": item.product,
        "address": address,
        **nova_release.keys_of(item, nova_release.DEVICE_SPEC),
    }


def kept_device_spec(address: str, identity: str, written: Mapping[str, object]) -> Fields:
    """The device_spec of a function without a claim, with the tags that the drop-in holds.

    Takes only keys and values that an item could have set, whoever has edited the drop-in since.

    Args:
        address: the function.
        identity: its ``vendor:product``.
        written: its device_spec in the drop-in.
    """
    vendor, _, product = identity.partition(":")
    tags = {
        name: value
        for name, allowed in nova_release.written_device_spec_keys().items()
        if isinstance(value := written.get(name), str) and re.fullmatch(allowed, value)
    }
    return {
        "vendor_id": vendor,
        "product_id": product,
        "address": address,
        **tags,
    }


def can_address(address: str) -> bool:
    """Tell whether Nova can take a function at ``address``."""
    return not pci_address.is_beyond_nova(address)


def device_spec_option(release: nova_release.Release) -> str:
    """The name of the option that holds device_specs in a release."""
    known = release.major >= nova_release.DEVICE_SPEC_SINCE
    return "device_spec" if known else "passthrough_whitelist"


class DropIn(NamedTuple):
    """What the drop-in on a compute host says.

    Attributes:
        application: the Juju application.
        release: the installed Nova.
        specs: the device_specs.
        aliases: the aliases.
        report_in_placement: whether Nova reports the devices to Placement.
    """

    application: str
    release: nova_release.Release
    specs: tuple[Fields, ...]
    aliases: tuple[Fields, ...]
    report_in_placement: bool

    def render(self, renderer: templates.Renderer, present: str | None = None) -> str | None:
        """Render the drop-in; None when it would hold no line.

        Args:
            renderer: gives the content.
            present: what the drop-in holds now; known to be right, it saves rendering.
        """
        lines = [f"{device_spec_option(self.release)} = {to_line(each)}" for each in self.specs]
        lines += [f"alias = {to_line(each)}" for each in self.aliases]
        if self.report_in_placement:
            lines.append("report_in_placement = true")
        if not lines:
            return None
        context = {
            "application": self.application,
            "lines": lines,
            "report_in_placement": self.report_in_placement,
        }
        return renderer.render("nova.conf.j2", context, present)


def without_devices(text: str) -> str:
    """Take the device_specs and aliases out of a drop-in's text, and leave the rest as it is.

    A line that begins with a blank goes on with the one before.
    """
    kept: list[str] = []
    drops = False
    for line in text.splitlines(keepends=True):
        drops = bool(re.match(_DEVICES, line)) or (drops and line[:1] in " \t")
        if not drops:
            kept.append(line)
    return "".join(kept)


def filters_for(wanted: Iterable[Fields]) -> tuple[str, ...]:
    """The scheduler's filters that aliases need."""
    return (FILTER, NUMA_FILTER) if any("numa_policy" in each for each in wanted) else (FILTER,)


def subordinate_configuration(
    published: Iterable[Fields], filters: Iterable[str] = (FILTER,)
) -> str:
    """The text that nova-cloud-controller's charm merges into its nova.conf.

    The charm's template prints the section DEFAULT alone; Nova reads ``pci_alias`` there as
    ``[pci] alias``. The charm appends the key beside the sections to ``enabled_filters``: flavors
    need the filters also where all aliases come from elsewhere.

    Args:
        published: the aliases.
        filters: what `filters_for` gave for all aliases, published or not.
    """
    pairs = [["pci_alias", to_line(each)] for each in published]
    file = {"sections": {"DEFAULT": pairs}, "additional_neutron_filters": ",".join(filters)}
    return json.dumps({"nova": {"/etc/nova/nova.conf": file}}, sort_keys=True)


def published_aliases(text: str | None) -> tuple[str, ...]:
    """The lines of the aliases in a text of `subordinate_configuration`; () for None.

    A text of another form, which another revision of the charm may have sent, has no lines.
    """
    if not text:
        return ()
    try:
        pairs = json.loads(text)["nova"]["/etc/nova/nova.conf"]["sections"]["DEFAULT"]
        return tuple(line for key, line in pairs if key == "pci_alias")
    except (ValueError, KeyError, TypeError):
        return ()


def to_line(fields: Fields) -> str:
    """Write one object as nova.conf holds it: JSON on one line, with sorted keys."""
    return json.dumps(fields, sort_keys=True)


def _alias_order(fields: Fields) -> tuple[str, str]:
    return fields["name"], to_line(fields)
