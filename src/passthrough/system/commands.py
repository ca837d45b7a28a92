"""Run a command to its end: no shell, a time limit, and its last words in the error."""

from __future__ import annotations

import collections
import logging
import subprocess

from passthrough.errors import PassthroughError

logger = logging.getLogger(__name__)

_TAIL_LINES = 8


class CommandError(PassthroughError):
    """A command on the host failed.

    Attributes:
        command: its words.
        tail: the last lines that it printed.
        code: its exit code; None when it did not run to its end.
    """

    def __init__(
        self,
        command: tuple[str, ...],
        what: str,
        tail: tuple[str, ...] = (),
        code: int | None = None,
    ):
        self.command = command
        self.tail = tail
        self.code = code
        said = f": {' | '.join(tail)}" if tail else ""
        super().__init__(f"{' '.join(command)} {what}{said}")


def run(
    command: tuple[str, ...], timeout: float, descriptors: tuple[int, ...] = ()
) -> tuple[str, ...]:
    """Run a command to its end, logging what it prints.

    Args:
        command: the program, found on PATH, and its arguments; no shell is involved.
        timeout: seconds after which it is killed.
        descriptors: open files that it inherits.

    Returns:
        The last lines it printed.

    Raises:
        CommandError: when it is missing, cannot be started, fails or takes too long.
    """
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=timeout,
            check=False,
            pass_fds=descriptors,
        )
    except FileNotFoundError as error:
        raise CommandError(command, "is not installed on this host") from error
    except OSError as error:
        raise not_started(command, error) from error
    except subprocess.TimeoutExpired as error:
        raise CommandError(
            command, f"was killed after {timeout:.0f} s", _tail(error.output)
        ) from error
    for line in done.stdout.decode("utf-8", "replace").splitlines():
        logger.debug("%s: %s", command[0], line)
    tail = _tail(done.stdout)
    if done.returncode:
        what = f"failed with exit code {done.returncode}"
        raise CommandError(command, what, tail, done.returncode)
    return tail


def not_started(command: tuple[str, ...], error: OSError) -> CommandError:
    """What the kernel has against a program that is there, such as that nobody may execute it."""
    return CommandError(command, f"cannot be started: {error.strerror}")


def _tail(output: bytes | None) -> tuple[str, ...]:
    lines = (output or b"").decode("utf-8", "replace").splitlines()
    return tuple(collections.deque((line.strip() for line in lines if line.strip()), _TAIL_LINES))
