"""An NRPE check that goes off when a host is no longer as it was configured.

The hook writes what ``verify`` found into a file, and the plugin that nagios-nrpe-server runs, as
an unprivileged user, repeats it. nrpe-external-master is the interface that every charm of Charmed
OpenStack has for this; what is written where follows charmhelpers.contrib.charmsupport.nrpe and the
README of the charm nrpe, which restarts its server when the relation changes.
"""

from __future__ import annotations

import json
import os

from passthrough import naming
from passthrough.planning import templates
from passthrough.site import Site
from passthrough.system import files

CONFIGURATION = "etc/nagios/nrpe.d"
PLUGINS = "usr/local/lib/nagios/plugins"
REPORTS = "run/pci-passthrough"

# Juju's update-status-hook-interval is 5 minutes by default, and 60 at most.
MAX_AGE = 90 * 60

# By exit code of a Nagios plugin (the Nagios Plugin API).
_LABELS = ("OK", "WARNING", "CRITICAL")
_MAX_TEXT = 500


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


def install(site: Site) -> bool:
    """Have the check installed, if nagios-nrpe-server is.

    Returns:
        Whether the check is there; False until the nrpe charm has installed the server.

    Raises:
        OSError: when a file cannot be written.
    """
    root, application = site.root, site.application
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
    renderer = templates.Renderer()
    # The plugin comes first: a restart in between must not find a command without it.
    files.ensure(root / plugin, renderer.render("nrpe-plugin.sh.j2", context), 0o755)
    files.ensure(root / configuration, renderer.render("nrpe-check.cfg.j2", context))
    return True


def remove(site: Site) -> None:
    """Take the check away, the configuration first."""
    root, application = site.root, site.application
    for path in (*owned_files(application), _report_path(application)):
        files.ensure(root / path, None)


def write_report(site: Site, code: int, text: str) -> None:
    """Leave a report for the plugin, in memory: after a reboot there is none until a hook ran.

    Args:
        site: where.
        code: the plugin's exit code, 0 to 2.
        text: what it says.

    Raises:
        OSError: when it cannot be written.
    """
    # What follows a "|" is performance data to Nagios.
    text = " ".join(text.replace("|", "/").split())[:_MAX_TEXT]
    path = site.root / _report_path(site.application)
    files.ensure(path, f"{code}\n{_LABELS[code]}: {text}\n")
    os.utime(path)  # its age says when the host was looked at last


def _name(application: str) -> str:
    return naming.name_for(application).replace("-", "_")


def _report_path(application: str) -> str:
    return f"{REPORTS}/{_name(application)}.nrpe"
