"""A write to sysfs that may block for ever, with an end to the waiting.

A driver that is asked to let go of a busy device can sleep inside the kernel until it is idle, and
no signal wakes it. The write is made by a child process, so that the caller goes on without it.
"""

from __future__ import annotations

import errno
import os
import select
import signal
from collections.abc import Callable
from pathlib import Path

_FAILED = 255
_LAST_CHANCE = 100  # milliseconds for a killed child to end


def write(path: Path, text: str, seconds: float, do: Callable[[Path, str], object]) -> int | None:
    """Let a child process call ``do(path, text)``, and wait for it at most ``seconds``.

    Returns:
        None when it was done, or the process id of the child that still waits in the kernel.

    Raises:
        OSError: what the write itself failed with.
    """
    child = os.fork()
    if child == 0:
        _run(path, text, do)
    handle = os.pidfd_open(child)
    try:
        waiter = select.poll()
        waiter.register(handle, select.POLLIN)
        if not waiter.poll(seconds * 1000):
            os.kill(child, signal.SIGKILL)
            if not waiter.poll(_LAST_CHANCE):
                return child
            os.waitpid(child, 0)
            raise OSError(errno.ETIMEDOUT, f"not done after {seconds:.0f} s", str(path))
    finally:
        os.close(handle)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if code == _FAILED or code < 0:
        raise OSError(errno.EIO, f"the writing process ended with code {code}", str(path))
    if code:
        raise OSError(code, os.strerror(code), str(path))
    return None


def _run(path: Path, text: str, do: Callable[[Path, str], object]) -> None:
    """What the child does; it never returns."""
    code = _FAILED
    try:
        # A child that hangs must not hold what it inherited: the pipes that Juju reads to their
        # end, and the lock.
        null = os.open(os.devnull, os.O_RDWR)
        for standard in range(3):
            os.dup2(null, standard)
        os.closerange(3, os.sysconf("SC_OPEN_MAX"))
        do(path, text)
        code = 0
    except OSError as error:
        code = error.errno if error.errno and error.errno < _FAILED else _FAILED
    finally:
        os._exit(code)
