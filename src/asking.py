"""Ask Juju's hook tools where ops is not imported, or may fail: each question is one process."""

from __future__ import annotations

import json

from passthrough.system import commands

# Seconds; a hook tool answers within one, or never.
_TIMEOUT = 30.0


def ask(*command: str) -> object:
    """Run a hook tool.

    Args:
        command: the tool and its arguments, ``--format=json`` among them where it answers.

    Returns:
        Its answer; None where it has none, or cannot be had.
    """
    try:
        return json.loads("\n".join(commands.run(command, _TIMEOUT)) or "null")
    except (commands.CommandError, ValueError):
        return None
