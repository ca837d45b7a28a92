"""An NRPE check that alarms when a host is no longer as it was configured.

A hook writes the result of ``verify`` into a file. nagios-nrpe-server runs the plugin, which
repeats that file, as an unprivileged user. Every charm of Charmed OpenStack has the interface
nrpe-external-master for this; the paths and the format follow
charmhelpers.contrib.charmsupport.nrpe and the README of the charm nrpe, which restarts its server
when the relation changes.
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

# Seconds. Juju's update-status-hook-interval is 5 minutes by default, and 60 at most.
MAX_AGE = 90 * 60

# By exit code of a Nagios plugin (the Nagios Plugin API).
_LABELS = ("OK", "WARNING", "CRITICAL")
_MAX_TEXT = 500


def monitors(application: str) -> str:
    """Give the value of ``monitors`` in the databag, by which the nrpe charm learns of the check.

    It is YAML in the form of JSON with sorted keys, so that it is the same bytes each time.
    """
    name = _name(application)
    checks = {name: {"command": f"check_{name}"}}
    return json.dumps({"monitors": {"remote": {"nrpe": checks}}, "version": "0.3"}, sort_keys=True)


def owned_files(application: str) -> tuple[str, str]:
    """Give the paths of the check's configuration and of its plugin, below the root."""
    name = _name(application)
    return (f"{CONFIGURATION}/check_{name}.cfg", f"{PLUGINS}/check_{name}")


def install(site: Site) -> bool:
    """Install the check where nagios-nrpe-server is installed.

    Returns:
        True if the check is there; False until the nrpe charm has installed the server.

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
    # The plugin comes first: a server that restarts in between must not find a command without it.
    files.ensure(root / plugin, renderer.render("nrpe-plugin.sh.j2", context), 0o755)
    files.ensure(root / configuration, renderer.render("nrpe-check.cfg.j2", context))
    return True


def remove(site: Site) -> None:
    """Remove the check, the configuration first.

    Raises:
        OSError: when a file cannot be removed.
    """
    root, application = site.root, site.application
    for path in (*owned_files(application), _report_path(application)):
        files.ensure(root / path, None)


def write_report(site: Site, code: int, text: str) -> None:
    """Write the report that the plugin repeats; below /run, so that it ends with a boot.

    Args:
        site: the host and the application.
        code: the plugin's exit code, 0 to 2.
        text: what the plugin prints; it is put on one line and cut after 500 characters.

    Raises:
        OSError: when the report cannot be written.
    """
    # Nagios takes what follows a "|" for performance data.
    text = " ".join(text.replace("|", "/").split())[:_MAX_TEXT]
    path = site.root / _report_path(site.application)
    files.ensure(path, f"{code}\n{_LABELS[code]}: {text}\n")
    os.utime(path)  # the plugin reads off its age when a hook last looked


def _name(application: str) -> str:
    return naming.name_for(application).replace("-", "_")


def _report_path(application: str) -> str:
    return f"{REPORTS}/{_name(application)}.nrpe"
