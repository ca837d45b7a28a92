"""Install the exporter of metrics on the host, and take it away again."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from passthrough.host import exporter_files, watch
from passthrough.state import look, record
from passthrough.system import commands, files

if TYPE_CHECKING:
    from passthrough.effects.tools import Tools
    from passthrough.planning.exporting import Listen

logger = logging.getLogger(__name__)


def install(ledger: record.Ledger, listen: Listen, tools: Tools) -> None:
    """Bring the exporter to what this revision of the charm has, and have systemd listen.

    The record names it before its first file, so that whoever gives back takes it away, and says
    what listens only afterwards: the next hook makes up for a crash in between.

    Args:
        ledger: the application's record, opened under the host's lock.
        listen: where it listens.
        tools: start sockets.

    Raises:
        CommandError: when systemd does not listen, as where the port is another's.
        ValueError: when the unit's own address is none.
        OSError: when a file or the record cannot be written.
    """
    from passthrough.planning import caretaking, exporting  # not for whoever only takes it away

    site = ledger.site
    wanted = exporting.contents(site.application, listen)
    fingerprint = caretaking.fingerprint(wanted)
    known = ledger.present.exporter
    if known != fingerprint:
        ledger.update(exporter=record.NOT_LISTENING)
    changed = [path for path, text in wanted.items() if files.ensure(site.root / path, text)]
    if not changed and known == fingerprint:
        return
    tools.start_socket(exporter_files.unit_name(site.application))
    ledger.update(exporter=fingerprint)
    logger.info("the exporter listens on %s", " and ".join(listen.addresses))


def remove(ledger: record.Ledger, tools: Tools) -> None:
    """Take the exporter away, and what it tells; does nothing where there is none.

    Args:
        ledger: the application's record, opened under the host's lock.
        tools: stop sockets.

    Raises:
        OSError: when a file cannot be removed, or the record cannot be written.
    """
    site = ledger.site
    owned = [site.root / path for path in reversed(exporter_files.owned_files(site.application))]
    files.sweep(owned)
    found = [path for path in owned if files.ensure(path, None)]
    look.forget(site)
    if not (found or ledger.present.exporter):
        return
    for folder in (watch.BOOT, watch.PROGRAMS):
        files.drop_empty(site.root / folder)
    try:
        tools.stop_socket(exporter_files.unit_name(site.application))
    except commands.CommandError as error:
        logger.warning("the exporter's socket ends with this boot: %s", error)
    ledger.update(exporter="")
    logger.info("/%s: removed", exporter_files.program_path(site.application))
