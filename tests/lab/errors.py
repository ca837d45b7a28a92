"""The lab's one exception."""


class LabError(Exception):
    """Something about the lab failed: the message says what, with the last lines of its log."""


def tail(text: str, lines: int = 30) -> str:
    """Return the last lines of a log, indented, as they stand below an error's first line."""
    kept = text.replace("\r", "").rstrip().splitlines()[-lines:]
    return "\n".join(f"    {line}" for line in kept) or "    (nothing)"
