"""The lab's exceptions, and how the end of a log is shown in it."""

import re

TERMINAL_CODES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|\r")


class LabError(Exception):
    """Something about the lab failed: the message says what, with the last lines of its log."""


class UnableError(LabError):
    """This host lacks what a machine needs: the message says what. In CI that is a failure."""


class StillError(LabError):
    """A machine is on but does nothing any more: whoever waits for it gives it up."""


def tail(text: str, lines: int = 30) -> str:
    """Return the last lines of a log that say something, indented, without colours."""
    plain = TERMINAL_CODES.sub("", text).splitlines()
    kept = [line.rstrip() for line in plain if line.strip()][-lines:]
    return "\n".join(f"    {line}" for line in kept) or "    (nothing)"
