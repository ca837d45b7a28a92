"""What flavors and images need so that guests get what a host offers, ready to paste."""

from __future__ import annotations

from typing import Any

from passthrough.planning import claims
from passthrough.survey import Decision

# A graphics card or an accelerator wants PCI Express, and 64-bit BARs as large as OVMF maps them
# (https://docs.openstack.org/glance/latest/admin/useful-image-properties.html).
_FOR_LARGE_BARS = {"hw_machine_type": "q35", "hw_firmware_type": "uefi"}


def describe(decision: Decision) -> list[dict[str, Any]]:
    """Describe what asks for one device of each alias that the host is to offer.

    Args:
        decision: the host; an alias that it has no device for has no entry.

    Returns:
        One entry a name, in the order of Nova's aliases: the flavor's properties, and those of an
        image, which are none where any image will do.
    """
    found: list[dict[str, Any]] = []
    for name in dict.fromkeys(alias["name"] for alias in decision.nova_planned.aliases):
        claimed = [claim for claim in decision.claims if _is_for(claim, name)]
        if claimed:
            large = any(_has_large_bars(claim) for claim in claimed)
            found.append(
                {
                    "alias": name,
                    "properties": {"pci_passthrough:alias": f"{name}:1"},
                    "image-properties": dict(_FOR_LARGE_BARS) if large else {},
                }
            )
    return found


def sections(decision: Decision) -> list[str]:
    """Lay it out as commands, each on a line however long, so that a terminal's copy is whole."""
    asked = describe(decision)
    lines = [
        f"openstack flavor set FLAVOR --property {_spell(each['properties'])}" for each in asked
    ]
    images = {_spell(each["image-properties"]): None for each in asked}
    lines += [f"openstack image set IMAGE --property {each}" for each in images if each]
    return ["\n".join(["for guests:", *lines])] if lines else []


def _spell(properties: dict[str, str]) -> str:
    return " --property ".join(f"{name}={value}" for name, value in properties.items())


def _is_for(claim: claims.Claim, alias: str) -> bool:
    return claim.companion_of is None and alias in claim.item.names


def _has_large_bars(claim: claims.Claim) -> bool:
    return claim.function.is_display or claim.function.is_accelerator
