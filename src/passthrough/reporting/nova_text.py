"""What the action ``plan`` shows of Nova: text for people and plain values for programs."""

from __future__ import annotations

from typing import Any

from passthrough.nova import lines as nova_lines
from passthrough.nova import offer as nova_offer
from passthrough.nova import publication
from passthrough.reporting import tables, words


def describe_offer(offer: nova_offer.Offer) -> dict[str, Any]:
    """Describe what a compute host offers, in plain values."""
    release = offer.facts.release
    return {
        "release": str(release) if release else None,
        "device-specs": [dict(each) for each in (*offer.device_specs, *offer.held)],
        "aliases": [dict(each) for each in offer.aliases],
        "restart": not offer.read,
        "problems": [words.sentence(each) for each in offer.problems],
        "notes": list(offer.notes),
    }


def offer_steps(offer: nova_offer.Offer) -> list[str]:
    """List what there is to do and to know about Nova on a compute host, in sentences.

    The drop-in's diff is not among them.
    """
    steps = [f"not for Nova: {words.sentence(each)}" for each in offer.problems]
    steps += [f"note: {note}" for note in offer.notes]
    if not offer.read:
        steps.append("restart: nova-compute, if it runs and the policy layer agrees")
    return steps


def describe_publication(published: publication.Publication) -> dict[str, Any]:
    """Describe what the charm sends to a controller, in plain values."""
    return {
        "release": str(published.release) if published.release else None,
        "aliases": [dict(each) for each in published.aliases],
        "subordinate-configuration": published.payload,
        "problems": [words.sentence(each) for each in published.problems],
        "notes": list(published.notes),
    }


def publication_text(published: publication.Publication, style: tables.Style = tables.PLAIN) -> str:
    """Lay out for a person what the charm sends to a controller."""
    lines: list[str] = []
    if published.payload:
        lines.append("nova-cloud-controller is sent, for its nova.conf:")
        lines += [f"pci_alias = {nova_lines.to_line(each)}" for each in published.aliases]
        lines.append(f"enabled_filters gets {', '.join(published.filters)}")
    lines += [f"not published: {words.sentence(each)}" for each in published.problems]
    lines += [f"note: {note}" for note in published.notes]
    return "\n".join(tables.wrap(line, style) for line in lines) or "nothing to publish"
