"""An NRPE check that goes off when a host is no longer as it was configured.

The hook writes what ``verify`` found into a file, and the plugin that nagios-nrpe-server runs, as
an unprivileged user, repeats it. nrpe-external-master is the interface that every charm of Charmed
OpenStack has for this; what is written where follows charmhelpers.contrib.charmsupport.nrpe and the
README of the charm nrpe, which restarts its server when the relation changes.
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Iterable
from pathlib import Path

from passthrough import boot, check, files, render

CONFIGURATION = "etc/nagios/nrpe.d"
PLUGINS = "usr/local/lib/nagios/plugins"
REPORTS = "run/pci-passthrough"

# Juju's update-status-hook-interval is 5 minutes by default, and 60 at most.
MAX_AGE = 90 * 60

# Exit codes of a Nagios plugin (the Nagios Plugin API).
_OK, _WARNING, _CRITICAL = 0, 1, 2
_LABELS = {_OK: "OK", _WARNING: "WARNING", _CRITICAL: "CRITICAL"}
_MAX_TEXT = 500


@dataclasses.dataclass(frozen=True)
class Report:
    """What the check says: the exit code of a Nagios plugin, and one line of text."""

    code: int
    text: str


def monitors(application: str) -> str:
    """The value of ``monitors`` in the unit's databag, by which the nrpe charm learns of the check.

    It is YAML that happens to be JSON: the same bytes each time.
    """
    name = _name(application)
    checks = {name: {"command": f"check_{name}"}}
    return json.dumps({"monitors": {"remote": {"nrpe": checks}}, "version": "0.3"}, sort_keys=True)


def owned_files(application: str) -> tuple[str, str]:
    """The files that the check consists of, below the root: its configuration and its plugin."""
    name = _name(application)
    return (f"{CONFIGURATION}/check_{name}.cfg", f"{PLUGINS}/check_{name}")


def install(root: Path, application: str) -> bool:
    """Have the check installed, if nagios-nrpe-server is.

    Returns:
        Whether the check is there; False until the nrpe charm has installed the server.

    Raises:
        OSError: when a file cannot be written.
    """
    if not (root / CONFIGURATION).is_dir():
        return False
    configuration, plugin = owned_files(application)
    context = {
        "application": application,
        "check": _name(application),
        "plugin": plugin,
        "report": _report_path(application),
        "max_age": MAX_AGE,
    }
    # The plugin comes first: a restart in between must not find a command without it.
    files.ensure(root / plugin, render.render("nrpe-plugin.sh.j2", context), 0o755)
    files.ensure(root / configuration, render.render("nrpe-check.cfg.j2", context))
    return True


def remove(root: Path, application: str) -> None:
    """Take the check away, the configuration first."""
    for path in (*owned_files(application), _report_path(application)):
        files.ensure(root / path, None)


def judge(checks: Iterable[check.Check], reboot_reasons: Iterable[str] = ()) -> Report:
    """Turn checks into a report.

    Args:
        checks: what ``verify`` found; one that could not be made out is no fault.
        reboot_reasons: what the running kernel lacks until a reboot. What fails meanwhile is
            expected, and a warning; otherwise a failed check means that the host has drifted.
    """
    checks = tuple(checks)
    failed = [each for each in checks if each.status == check.FAIL]
    reasons = "; ".join(reboot_reasons)
    if not failed:
        return Report(_OK, f"{len(checks)} checks passed")
    if reasons:
        return Report(_WARNING, f"reboot required: {reasons}")
    seen = "; ".join(f"{each.name}: {each.seen}" for each in failed)
    return Report(_CRITICAL, f"{len(failed)} of {len(checks)} checks failed: {seen}")


def judge_problem(problem: Exception) -> Report:
    """Report what kept the charm from checking the host at all."""
    return Report(_CRITICAL, str(problem))


def write_report(root: Path, application: str, report: Report) -> None:
    """Leave a report for the plugin, in memory: after a reboot there is none until a hook ran.

    Raises:
        OSError: when it cannot be written.
    """
    # What follows a "|" is performance data to Nagios.
    text = " ".join(report.text.replace("|", "/").split())[:_MAX_TEXT]
    path = root / _report_path(application)
    files.ensure(path, f"{report.code}\n{_LABELS[report.code]}: {text}\n")
    os.utime(path)  # its age says when the host was looked at last


def _name(application: str) -> str:
    return boot.name_for(application).replace("-", "_")


def _report_path(application: str) -> str:
    return f"{REPORTS}/{_name(application)}.nrpe"
