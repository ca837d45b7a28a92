"""What a fleet costs its units and Juju's controller, by simulation.

Ways to tell a controller what the compute hosts have are played through on fleets of any size:
this charm's, a peer relation over which hosts report to each other, and one whitelist for all hosts
that an operator sets with ``juju config``. Every payload comes from the charm's own code.

The rules are Juju's (internal/worker/uniter in juju/juju): a unit that enters a relation runs
relation-created, then relation-joined and relation-changed for every unit of the other side that
it sees, and they the same for it; a change of a unit's databag runs relation-changed once on every
unit that sees it; a change of an option runs config-changed on every unit of the application. In a
container-scoped relation a unit sees its own principal alone. Juju may merge changes that follow
each other closely; here none is merged.

usage: python -m bench.fleet [--json]      prints the table
       python -m bench.fleet --write       writes docs/explanation/fleet-cost.{md,svg} anew
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import json
import pathlib
import sys
from collections.abc import Callable, Mapping
from typing import Any

from bench import markdown, plot
from passthrough.config import devices
from passthrough.host import pci
from passthrough.nova import lines as nova_lines

ROOT = pathlib.Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs/explanation/fleet-cost.md"

SIZES = (10, 100, 1_000, 10_000)
CONTROLLERS = 3
DEVICES_EACH = 8
_WANTED = "gpu=10de:1bb0"
_SPEC = devices.parse(_WANTED)
# install, leader-elected or leader-settings-changed, config-changed, start.
_LIFE = 4
# relation-created, relation-joined and relation-changed of the relation to its principal.
_PRINCIPAL = 3
_KINDS = 4  # of hosts, by the domain that their devices are in


@dataclasses.dataclass
class Tally:
    """What has happened so far.

    ``compute_hooks`` and ``controller_hooks`` are hook executions on units beside compute services
    and beside controllers, ``written`` and ``read`` the bytes of relation data, or of the option,
    that units sent to Juju's controller and were sent by it.
    """

    compute_hooks: int = 0
    controller_hooks: int = 0
    written: int = 0
    read: int = 0

    @property
    def hooks(self) -> int:
        """All hook executions."""
        return self.compute_hooks + self.controller_hooks


def device_specs(host: int) -> str:
    """What one host has to offer, as the relation nova-pci carries it."""
    return _device_specs(host % _KINDS)


@functools.lru_cache
def _device_specs(kind: int) -> str:
    functions = (
        pci.Function(f"{kind:04x}:{0x10 + number:02x}:00.0", "10de", "1bb0", 0x030000)
        for number in range(DEVICES_EACH)
    )
    return json.dumps([nova_lines.device_spec(each, _SPEC.items[0]) for each in functions])


def aliases() -> str:
    """What this charm sends to a nova-cloud-controller unit."""
    return nova_lines.subordinate_configuration(nova_lines.aliases(_SPEC))


def this_design(hosts: int) -> Tally:
    """Aliases follow from the configuration: no host tells another anything."""
    tally = Tally()
    payload = len(aliases())
    for _ in range(CONTROLLERS):
        tally.controller_hooks += _LIFE + _PRINCIPAL
        tally.written += payload
        tally.read += payload  # by its principal
    for _ in range(hosts):
        tally.compute_hooks += _LIFE + _PRINCIPAL
        tally.compute_hooks += 1  # start, after the reboot that turns the IOMMU on
    return tally


def with_nova_pci(hosts: int) -> Tally:
    """The same with the relation nova-pci, for controllers that are not the stock charm.

    Hosts see the controller's units and not each other.
    """
    tally = this_design(hosts)
    seen = 1 + 2 * CONTROLLERS  # relation-created; joined and changed for each of the other side
    tally.compute_hooks += hosts * seen
    tally.controller_hooks += CONTROLLERS * (1 + 2 * hosts)
    for host in range(hosts):
        payload = len(device_specs(host))
        tally.controller_hooks += CONTROLLERS  # when it has devices to offer, after its reboot
        tally.written += payload
        tally.read += payload * CONTROLLERS
    return tally


def peer_relation(hosts: int) -> Tally:
    """Every host reports its devices to every other, and to the units beside the controllers.

    All of them are units of one application, so a peer relation connects them all.
    """
    tally = Tally()
    compute = controllers = 0
    for number in range(CONTROLLERS + hosts):
        is_controller = number < CONTROLLERS
        others = compute + controllers
        # relation-created; joined and changed for each that is there; and they the same for it.
        own = _LIFE + _PRINCIPAL + 1 + 2 * others
        if is_controller:
            tally.controller_hooks += own + 2 * controllers
            tally.compute_hooks += 2 * compute
            controllers += 1
        else:
            tally.compute_hooks += own + 2 * compute
            tally.controller_hooks += 2 * controllers
            compute += 1
    # After its reboot a host has devices to report: start on it, relation-changed on all others.
    for host in range(hosts):
        payload = len(device_specs(host))
        tally.compute_hooks += 1 + (hosts - 1)
        tally.controller_hooks += CONTROLLERS
        tally.written += payload
        tally.read += payload * (hosts - 1 + CONTROLLERS)
    payload = len(aliases())
    tally.written += CONTROLLERS * payload
    tally.read += CONTROLLERS * payload
    return tally


def one_whitelist(hosts: int) -> Tally:
    """An operator adds each host's devices to one option of nova-compute when it is ready.

    Every unit of nova-compute runs config-changed each time, and reads the whole option.
    """
    tally = Tally()
    length = 0
    for host in range(hosts):
        tally.compute_hooks += _LIFE + 1  # and start after its reboot
        present = host + 1
        length += len(device_specs(host))
        tally.written += length  # juju config sends all of it
        tally.compute_hooks += present
        tally.read += present * length
    # pci-alias of nova-cloud-controller, once.
    payload = len(aliases())
    tally.controller_hooks += CONTROLLERS * (_LIFE + 1)
    tally.written += payload
    tally.read += CONTROLLERS * payload
    return tally


DESIGNS: Mapping[str, Callable[[int], Tally]] = {
    "this charm": this_design,
    "this charm with nova-pci": with_nova_pci,
    "a peer relation": peer_relation,
    "one whitelist": one_whitelist,
}


def simulate(sizes: tuple[int, ...] = SIZES) -> list[dict[str, Any]]:
    """Deploy fleets of each size in each way; one row for each."""
    return [
        {
            "design": name,
            "hosts": hosts,
            "compute-hooks": tally.compute_hooks,
            "controller-hooks": tally.controller_hooks,
            "hooks": tally.hooks,
            "bytes-written": tally.written,
            "bytes-read": tally.read,
        }
        for name, design in DESIGNS.items()
        for hosts in sizes
        for tally in [design(hosts)]
    ]


def format_rows(rows: list[dict[str, Any]]) -> str:
    """Lay `simulate`'s rows out as a Markdown table."""
    head = (
        "| way | hosts | hooks on compute units | hooks on controller units | bytes written |"
        " bytes read |\n| --- | ---: | ---: | ---: | ---: | ---: |"
    )
    lines = [
        f"| {row['design']} | {row['hosts']:,} | {row['compute-hooks']:,} |"
        f" {row['controller-hooks']:,} | {row['bytes-written']:,} | {row['bytes-read']:,} |"
        for row in rows
    ]
    return "\n".join([head, *lines])


def draw(rows: list[dict[str, Any]]) -> str:
    """Draw the hooks of the whole fleet over its size, as SVG."""
    series: dict[str, list[tuple[float, float]]] = {}
    for row in rows:
        series.setdefault(row["design"], []).append((row["hosts"], row["hooks"]))
    return plot.draw(series, "compute hosts", "hook executions until all are ready")


def pages(rows: list[dict[str, Any]]) -> dict[pathlib.Path, str]:
    """The page and its plot as they should be: each path and its text."""
    text = PAGE.read_text(encoding="utf-8")
    return {
        PAGE: markdown.fill(text, "fleet", format_rows(rows)),
        PAGE.with_suffix(".svg"): draw(rows),
    }


def main() -> int:
    """Print the table, or write the page."""
    parser = argparse.ArgumentParser(prog="python -m bench.fleet")
    how = parser.add_mutually_exclusive_group()
    how.add_argument("--json", action="store_true", help="print JSON instead of a table")
    how.add_argument("--write", action="store_true", help="write the page of the documentation")
    given = parser.parse_args()
    rows = simulate()
    if given.write:
        for path, text in pages(rows).items():
            path.write_text(text, encoding="utf-8")
            print(path.relative_to(ROOT))
    else:
        print(json.dumps(rows, indent=2) if given.json else format_rows(rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
