"""The options as plain values, for digests that outlive a refresh of the charm. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

from passthrough.config.devices import KEYS, Item
from passthrough.config.options import Options

# Raise it when the same options get another spelling; then no digest of before matches any more.
VERSION = 2


def spell(wanted: Options) -> dict[str, Any]:
    """Spell options out by the names that an operator gives them.

    Options that have their default are left out, so that an option that a later revision adds
    changes no digest until somebody sets it.
    """
    return _differences(_options(wanted), _options(Options()))


def _options(wanted: Options) -> dict[str, Any]:
    named = wanted.blacklist_drivers
    return {
        "devices": [spell_item(item) for item in wanted.devices.items],
        "iommu": "auto" if wanted.iommu else "off",  # manual is another word for it
        "iommu-passthrough": wanted.iommu_passthrough,
        "allow-unsafe-interrupts": wanted.allow_unsafe_interrupts,
        "blacklist-drivers": "auto" if named is None else list(named),
        "kernel-options": list(wanted.kernel_options),
        "report-in-placement": wanted.report_in_placement,
        "reboot": "when-idle" if wanted.reboot_when_idle else "manual",
        "on-removal": "keep" if wanted.keep else "restore",
        "host-exceptions": [f"{each.host}={each.address}" for each in wanted.host_exceptions],
    }


def spell_item(item: Item) -> dict[str, Any]:
    """Spell an item of ``devices`` out by the keys of its YAML form, without its position."""
    return _differences(_keys(item), _keys(Item(position=0, vendor="", product="")))


def _keys(item: Item) -> dict[str, Any]:
    given = {key: getattr(item, field) for key, (field, _) in KEYS.items()}
    return {key: _plain(one) for key, one in given.items()}


def _plain(value: object) -> object:
    return list(cast("tuple[object, ...]", value)) if isinstance(value, tuple) else value


def _differences(found: Mapping[str, Any], default: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in found.items() if value != default[name]}


def spell_as_first_release(wanted: Options) -> str:
    """Spell options out as 52ee0af did, by Python's `repr` of its own classes.

    Frozen: records hold digests of it. It has no later options: setting one of them leaves the
    digest the same, which costs no reboot.
    """
    items = [
        f"Item(position={item.position!r}, vendor={item.vendor!r}, product={item.product!r},"
        f" addresses={item.addresses!r}, alias={item.alias!r}, device_type={item.device_type!r},"
        f" numa_policy={item.numa_policy!r}, resource_class={item.resource_class!r},"
        f" traits={item.traits!r}, live_migratable={item.live_migratable!r},"
        f" managed={item.managed!r}, companions={item.companions!r},"
        f" allow_in_use={item.allow_in_use!r})"
        for item in wanted.devices.items
    ]
    listed = f"({items[0]},)" if len(items) == 1 else f"({', '.join(items)})"
    return (
        f"Options(devices=Spec(items={listed}), iommu={wanted.iommu!r},"
        f" iommu_passthrough={wanted.iommu_passthrough!r},"
        f" allow_unsafe_interrupts={wanted.allow_unsafe_interrupts!r},"
        f" blacklist_drivers={wanted.blacklist_drivers!r},"
        f" kernel_options={wanted.kernel_options!r},"
        f" report_in_placement={wanted.report_in_placement!r},"
        f" reboot_when_idle={wanted.reboot_when_idle!r})"
    )
