"""Run a command to its end: no shell, a time limit, and its last words in the error."""

from __future__ import annotations

import collections
import logging
import os
import selectors
import subprocess
import time
from collections.abc import Callable
from typing import IO, cast

from passthrough.errors import PassthroughError

logger = logging.getLogger(__name__)

_TAIL_LINES = 8
_CHUNK = 1 << 16


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


def _ignore(line: str) -> None:
    """Take a line that nobody asks for before the command has ended."""


def run(
    command: tuple[str, ...],
    timeout: float,
    descriptors: tuple[int, ...] = (),
    heed: Callable[[str], object] = _ignore,
) -> tuple[str, ...]:
    """Run a command to its end, without a shell and without input; log what it prints.

    Args:
        command: the program, found on PATH, and its arguments.
        timeout: seconds after which the command is killed.
        descriptors: open files that the command inherits.
        heed: takes each line as soon as the command has printed it whole.

    Returns:
        The last lines that the command printed on either output.

    Raises:
        CommandError: when the program is missing or cannot be started, when it fails, and when it
            takes longer than ``timeout``.
    """
    try:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            pass_fds=descriptors,
        )
    except FileNotFoundError as error:
        raise CommandError(command, "is not installed on this host") from error
    except OSError as error:
        raise not_started(command, error) from error
    output = bytearray()
    with process:
        try:
            _follow(process, time.monotonic() + timeout, output, heed)
        except TimeoutError as error:
            process.kill()
            raise CommandError(
                command, f"was killed after {timeout:.0f} s", _tail(output)
            ) from error
        except BaseException:
            process.kill()
            raise
    for line in output.decode("utf-8", "replace").splitlines():
        logger.debug("%s: %s", command[0], line)
    tail = _tail(output)
    if process.returncode:
        what = f"failed with exit code {process.returncode}"
        raise CommandError(command, what, tail, process.returncode)
    return tail


def _follow(
    process: subprocess.Popen[bytes],
    deadline: float,
    output: bytearray,
    heed: Callable[[str], object],
) -> None:
    """Read what a process prints until it has ended.

    Args:
        process: whose output is a pipe.
        deadline: on the monotonic clock.
        output: takes what was read.
        heed: takes each line that is whole.

    Raises:
        TimeoutError: when the process has not ended by then.
    """
    pipe = cast("IO[bytes]", process.stdout).fileno()
    begun = b""
    with selectors.DefaultSelector() as waiting:
        waiting.register(pipe, selectors.EVENT_READ)
        while True:
            left = deadline - time.monotonic()
            if left <= 0 or not waiting.select(left):
                raise TimeoutError
            chunk = os.read(pipe, _CHUNK)
            if not chunk:
                break
            output += chunk
            *lines, begun = (begun + chunk).split(b"\n")
            for line in lines:
                heed(line.decode("utf-8", "replace"))
    try:
        process.wait(max(deadline - time.monotonic(), 0.0))
    except subprocess.TimeoutExpired as error:
        raise TimeoutError from error


def not_started(command: tuple[str, ...], error: OSError) -> CommandError:
    """Make the error for a program that is there and that the kernel does not start.

    Args:
        command: the program and its arguments.
        error: the kernel's reason, such as that nobody may execute the file.
    """
    return CommandError(command, f"cannot be started: {error.strerror}")


def _tail(output: bytearray) -> tuple[str, ...]:
    lines = output.decode("utf-8", "replace").splitlines()
    return tuple(collections.deque((line.strip() for line in lines if line.strip()), _TAIL_LINES))
