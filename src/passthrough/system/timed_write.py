"""Write to sysfs with a time limit.

A driver that shall release a busy device can sleep inside the kernel until the device is idle, and
no signal wakes the writer. So a child process writes, and the caller can go on without it.
"""

from __future__ import annotations

import errno
import os
import select
import signal
from collections.abc import Callable
from pathlib import Path

_FAILED = 255
_LAST_CHANCE = 100  # milliseconds in which a killed child ends, unless it sleeps in the kernel


def write(path: Path, text: str, seconds: float, do: Callable[[Path, str], object]) -> int | None:
    """Let a child process call ``do(path, text)``, and wait for it at most ``seconds``.

    Args:
        path: the file to write to.
        text: what to write.
        seconds: how long the write can take.
        do: writes the text to the path.

    Returns:
        None when the write was done, or the process id of the child that sleeps in the kernel.

    Raises:
        OSError: with the error of the write; ETIMEDOUT when the child could be killed in time, EIO
            when it ended otherwise.
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
    """Write as the child; never returns."""
    code = _FAILED
    try:
        # Close everything inherited. Juju reads its pipes to their end, and a child that hangs
        # would keep them open, and the lock held.
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
