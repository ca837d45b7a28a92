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
        command: the program and its arguments.
        tail: the last lines that the command printed.
        code: the exit code; None when the command did not run to its end.
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
    """Run a command to its end, without a shell and without input; log what it prints.

    Args:
        command: the program, found on PATH, and its arguments.
        timeout: seconds after which the command is killed.
        descriptors: open files that the command inherits.

    Returns:
        The last lines that the command printed on either output.

    Raises:
        CommandError: when the program is missing or cannot be started, when it fails, and when it
            takes longer than ``timeout``.
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
    """Make the error for a program that is there and that the kernel does not start.

    Args:
        command: the program and its arguments.
        error: the kernel's reason, such as that nobody may execute the file.
    """
    return CommandError(command, f"cannot be started: {error.strerror}")


def _tail(output: bytes | None) -> tuple[str, ...]:
    lines = (output or b"").decode("utf-8", "replace").splitlines()
    return tuple(collections.deque((line.strip() for line in lines if line.strip()), _TAIL_LINES))
