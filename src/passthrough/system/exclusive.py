"""Ask the kernel whether somebody has a block device, and keep it from everybody meanwhile.

The kernel lets one holder at a time have a disk, or its partitions, exclusively (open(2), O_EXCL
without O_CREAT; bd_may_claim() in block/bdev.c): a mount in any namespace or in none, a journal or
log of a file system elsewhere, md, device-mapper, swap, an export. The open is for reading alone,
so udev, which watches for writers, sees no change.

The open can sleep on a path that is dead, and no signal wakes it then. So a child process opens,
and the caller goes on without it.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import select
import signal
import stat
import time
from collections.abc import Generator, Iterator, Mapping, Sequence
from typing import NamedTuple

# Seconds in which the child ends that is told to, and in which a killed one does.
_END, _LAST_CHANCE = 2.0, 0.1


class Device(NamedTuple):
    """A block device to open.

    Attributes:
        path: its node.
        number: its device number as sysfs spells it, ``259:0``; a node with another one is not it.
        keep: whether it stays open. Whoever has a disk keeps its partitions from being opened, too,
            even by itself, so they are only asked for, before it.
    """

    path: str
    number: str
    keep: bool


@contextlib.contextmanager
def hold(devices: Sequence[Device], seconds: float) -> Generator[Mapping[str, int]]:
    """Open block devices exclusively, and keep them open while the block runs.

    Args:
        devices: which ones, in the order in which they are opened.
        seconds: how long all of it can take.

    Yields:
        The node of each device that could not be opened → its error number: EBUSY where somebody
        has it, ETIMEDOUT where the kernel has not answered in time, ENOTBLK for a node that is not
        the device's. The kernel keeps a node for each device that is there, so one without has
        gone, and nobody has it.
    """
    if not devices:
        yield {}
        return
    answers, telling = os.pipe()
    waiting, ending = os.pipe()
    child = os.fork()
    if child == 0:
        _serve(devices, telling, waiting)
    os.close(telling)
    os.close(waiting)
    try:
        errors = _listen(answers, len(devices), seconds)
        yield {each.path: error for each, error in zip(devices, errors, strict=True) if error}
    finally:
        os.close(answers)
        os.close(ending)
        _end(child)


def _listen(answers: int, number: int, seconds: float) -> list[int]:
    """Collect the child's answers: an error number or 0 for each device."""
    end = time.monotonic() + seconds
    told = b""
    missing = errno.ETIMEDOUT
    poll = select.poll()
    poll.register(answers, select.POLLIN)
    while told.count(b"\n") < number:
        left = end - time.monotonic()
        if left <= 0 or not poll.poll(left * 1000):
            break
        chunk = os.read(answers, 4096)
        if not chunk:
            missing = errno.EIO  # the child has ended
            break
        told += chunk
    errors = [int(line) for line in told.split(b"\n")[:-1]]
    return errors + [missing] * (number - len(errors))


def _end(child: int) -> None:
    """Let the child end, which closes what it has open; one that sleeps in the kernel is left."""
    handle = os.pidfd_open(child)
    try:
        poll = select.poll()
        poll.register(handle, select.POLLIN)
        if not poll.poll(_END * 1000):
            os.kill(child, signal.SIGKILL)
            if not poll.poll(_LAST_CHANCE * 1000):
                return
        os.waitpid(child, 0)
    finally:
        os.close(handle)


def _serve(devices: Sequence[Device], telling: int, waiting: int) -> None:
    """Open as the child, tell, and wait until the caller is done; never returns."""
    try:
        telling, waiting = (fcntl.fcntl(each, fcntl.F_DUPFD, 3) for each in (telling, waiting))
        # Close everything inherited. Juju reads its pipes to their end, and a child that hangs
        # would keep them open, and the lock held.
        null = os.open(os.devnull, os.O_RDWR)
        for standard in range(3):
            os.dup2(null, standard)
        low, high = sorted((telling, waiting))
        os.closerange(3, low)
        os.closerange(low + 1, high)
        os.closerange(high + 1, os.sysconf("SC_OPEN_MAX"))
        for answer in _open(devices):
            os.write(telling, b"%d\n" % answer)
        os.read(waiting, 1)  # returns when the caller closes its end, or ends
    finally:
        os._exit(0)


def _open(devices: Sequence[Device]) -> Iterator[int]:
    for device in devices:
        try:
            found = os.stat(device.path)
            number = f"{os.major(found.st_rdev)}:{os.minor(found.st_rdev)}"
            if not stat.S_ISBLK(found.st_mode) or number != device.number:
                yield errno.ENOTBLK
                continue
            handle = os.open(device.path, os.O_RDONLY | os.O_EXCL | os.O_CLOEXEC)
        except FileNotFoundError:
            yield 0
        except OSError as error:
            yield error.errno or errno.EIO
        else:
            if not device.keep:
                os.close(handle)
            yield 0
