"""Boot a machine of the table on the image that its row names."""

import contextlib
from collections.abc import Iterator
from typing import Protocol

from lab import guest, image, images, progress
from lab import machine as machines

INITRAMFS_TOOLS = "initramfs-tools"
# zstd costs nine times as much at level 9, which initramfs-tools takes by itself, as at level 1. It
# is set here and not in rootfs/: no image of a cache is built anew. A power cut leaves it there.
FAST_IMAGES = "echo COMPRESSLEVEL=1 >/etc/initramfs-tools/conf.d/lab-level.conf && sync"


class Boot(Protocol):
    """What the fixture `boot` is: `boot` below, with the session's progress."""

    def __call__(
        self, machine: machines.Machine, *, disk_cache: str = guest.FORGETFUL
    ) -> contextlib.AbstractContextManager[guest.Guest]:
        """Boot the machine for as long as the block runs."""
        ...


@contextlib.contextmanager
def boot(
    machine: machines.Machine, steps: progress.Progress, *, disk_cache: str = guest.FORGETFUL
) -> Iterator[guest.Guest]:
    """Boot a machine as `guest.boot` does, its image built first when the cache has none.

    Yields:
        The guest, ready.

    Raises:
        LabError: a tool of the host is missing, the image cannot be built, or it does not boot.
    """
    kind = images.IMAGES[machine.image]
    built = image.ensure(kind, steps)
    with guest.boot(machine, built.disk, built.key, steps, disk_cache=disk_cache) as host:
        if INITRAMFS_TOOLS in kind.trees:
            host.run(FAST_IMAGES)
        yield host
