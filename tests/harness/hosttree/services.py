"""A made-up host's systemd services: as much of systemctl and invoke-rc.d as a charm asks of them.

Each service is a file below ``.made/services``, and so is a timer that was started; starting one
gives it another invocation id, as systemd does (systemd.exec(5), INVOCATION_ID).
"""

from __future__ import annotations

import json
import os
import pathlib
import subprocess
import sys
import uuid
from collections.abc import Sequence

SERVICES = ".made/services"
UNITS = "etc/systemd/system"
POLICY = "usr/sbin/policy-rc.d"
# Debian's policy-rc.d interface: "action forbidden by policy"; invoke-rc.d's "unknown initscript".
_DENIED, _UNKNOWN = 101, 100
_NOT_LOADED = 5  # systemctl(1): the unit is not loaded


def set_state(root: pathlib.Path, name: str, *, active: bool) -> None:
    """Let a service exist and be active (newly started) or inactive."""
    invocation = uuid.uuid4().hex if active else ""
    path = root / SERVICES / name
    path.parent.mkdir(parents=True, exist_ok=True)
    state = {"ActiveState": "active" if active else "inactive", "InvocationID": invocation}
    path.write_text(json.dumps(state))


def state(root: pathlib.Path, name: str) -> dict[str, str]:
    """ActiveState and InvocationID; a service that is not there is inactive, as systemd says."""
    path = root / SERVICES / name.removesuffix(".service")
    if not path.exists():
        return {"ActiveState": "inactive", "InvocationID": ""}
    return json.loads(path.read_text())


def systemctl(root: pathlib.Path, args: Sequence[str]) -> int:
    """Imitate show, is-active, start, restart, try-restart and stop; anything else does nothing."""
    words = [arg for arg in args if not arg.startswith("-")]
    if len(words) < 2:
        return 0
    verb, *names = words
    if verb == "show":
        return _show(root, args, names)
    if verb == "is-active":
        states = [state(root, name)["ActiveState"] for name in names]
        print("\n".join(states))
        return 0 if "active" in states else 3
    if verb in ("start", "restart", "try-restart", "stop"):
        return max(_change(root, verb, name.removesuffix(".service")) for name in names)
    return 0


def _show(root: pathlib.Path, args: Sequence[str], names: Sequence[str]) -> int:
    wanted = [arg.partition("=")[2].split(",") for arg in args if arg.startswith("--property=")]
    for name in names:
        for key, value in state(root, name).items():
            if not wanted or key in wanted[0]:
                print(f"{key}={value}")
    return 0


def _change(root: pathlib.Path, verb: str, name: str) -> int:
    known = (root / SERVICES / name).exists()  # also while its file is gone
    if not known and (verb == "stop" or not (root / UNITS / name).exists()):
        print(f"Failed to {verb} {name}.service: Unit not found.", file=sys.stderr)
        return _NOT_LOADED
    if verb != "try-restart" or state(root, name)["ActiveState"] == "active":
        set_state(root, name, active=verb != "stop")
    return 0


def invoke_rc_d(root: pathlib.Path, args: Sequence[str]) -> int:
    """Imitate ``invoke-rc.d [--disclose-deny] SERVICE ACTION``, with the host's policy-rc.d."""
    name, action = [arg for arg in args if not arg.startswith("-")]
    policy = root / POLICY
    if os.access(policy, os.X_OK):
        done = subprocess.run([str(policy), name, action], check=False)
        if done.returncode == _DENIED:
            print(f"invoke-rc.d: policy-rc.d denied execution of {action}.")
            return _DENIED if "--disclose-deny" in args else 0
    if not (root / SERVICES / name).exists():
        print(f"invoke-rc.d: unknown initscript, /etc/init.d/{name} not found.", file=sys.stderr)
        return _UNKNOWN
    return _change(root, action, name)
