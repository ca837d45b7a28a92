"""Say something in the host's journal, for those who can no longer read Juju's log.

systemd-journald listens where syslog did, and any other syslog daemon does too.
"""

from __future__ import annotations

import os
import socket
from pathlib import Path

_SOCKET = "dev/log"
# RFC 5424, section 6.2.1: facility 3 is the system's daemons, severity 5 is notice.
_PRIORITY = 3 * 8 + 5
_SECONDS = 2.0


def say(root: Path, who: str, text: str) -> bool:
    """Send one line.

    Args:
        root: ``/`` on a real host.
        who: says it, without a colon.
        text: the line.

    Returns:
        True if somebody listens there.
    """
    message = f"<{_PRIORITY}>{who}[{os.getpid()}]: {text}"
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
            sender.settimeout(_SECONDS)
            sender.connect(os.fspath(root / _SOCKET))
            sender.send(message.encode("utf-8", "replace"))
    except OSError:
        return False
    return True
