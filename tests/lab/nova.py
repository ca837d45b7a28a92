"""What the real Nova in a machine of the lab makes of that machine."""

import json
import pathlib
from typing import Any

from lab import guest, unit

SERVICE = "nova-compute"
PROBE = pathlib.Path(__file__).parents[1] / "functional" / "nova_probe.py"
PROBE_INSIDE = f"{unit.LIBRARY}/{PROBE.name}"


def read_arguments(host: guest.Guest) -> list[str]:
    """Return what nova-compute is started with, but for its program."""
    return host.run([f"/etc/init.d/{SERVICE}", "show-args"]).stdout.split()[1:]


def ask(host: guest.Guest, **case: Any) -> dict[str, Any]:
    """Have Nova look at the machine as nova-compute would: its user, its command line.

    Args:
        host: the machine.
        case: what else to ask, as nova_probe.py tells.
    """
    host.put(PROBE, PROBE_INSIDE)
    asked = {"program": SERVICE, "arguments": read_arguments(host), "driver": True, **case}
    host.write("/run/question", json.dumps(asked))
    command = f"runuser -u nova -- python3 {PROBE_INSIDE} </run/question"
    return json.loads(host.run(command).stdout)
