"""The few commands the charm runs on the host.

charmhelpers stays behind this door, and is imported only when it is used: it asks for the
distribution at import time and refuses any but Ubuntu and CentOS.
"""

from __future__ import annotations

import collections
import logging
import os
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from passthrough import PassthroughError, files, lock

logger = logging.getLogger(__name__)

BOOT = Path("/boot")
GRUB_CONFIG = BOOT / "grub/grub.cfg"

# A hung package trigger must not hold the machine's hook lock for ever.
REBUILD_TIMEOUT = 3600.0
SERVICE_TIMEOUT = 300.0
MODPROBE_TIMEOUT = 300.0
# Debian's policy-rc.d interface: "action not allowed".
_POLICY_DENIED = 101
_TAIL_LINES = 8
# The first of these that is installed rebuilds the initramfs of every kernel: an older one that is
# booted by hand must bind too. Ubuntu's dracut has an update-initramfs of its own, Debian's none.
_INITRAMFS_REBUILDS = (
    ("update-initramfs", "-u", "-k", "all"),
    ("dracut", "--force", "--regenerate-all"),
)


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


class Tools(Protocol):
    """What applying a plan needs of the host beyond reading and writing files."""

    def rebuild(self, what: str, progress: Callable[[str], object]) -> None:
        """Rebuild ``initramfs`` or ``grub``; raise CommandError when that fails."""

    def load_vfio(self) -> None:
        """Load the vfio modules; raise CommandError when the kernel has none."""

    def load_native(self, modalias: str) -> None:
        """Load the native driver of a modalias, if the host has one that is not blacklisted.

        The driver's own name serves too, and a blacklist does not count for it then.
        """

    def running(self, service: str) -> str | None:
        """Name this run of a service: another value after every start, None while it is down."""

    def restart(self, service: str) -> bool:
        """Restart a service; False when the policy layer denied it, CommandError when it failed."""
        raise NotImplementedError


class HostTools:
    """`Tools` for the machine this runs on."""

    def rebuild(self, what: str, progress: Callable[[str], object]) -> None:
        """Rebuild ``initramfs`` (of every kernel) or ``grub``'s configuration."""
        if what == "grub":
            command = ("update-grub",)
        else:
            found = (each for each in _INITRAMFS_REBUILDS if shutil.which(each[0]))
            command = next(found, _INITRAMFS_REBUILDS[0])
        started = time.monotonic()
        progress(f"{' '.join(command)}: running")
        if what == "grub":
            _update_grub(command)
        else:
            run(command, REBUILD_TIMEOUT, lock.descriptors())
            _settle_initramfs()
        progress(f"{' '.join(command)}: done in {time.monotonic() - started:.0f} s")

    def load_vfio(self) -> None:
        """Load vfio-pci and the IOMMU backend, where the kernel has them as modules."""
        for module in ("vfio_iommu_type1", "vfio-pci"):
            try:
                _modprobe(module)
            except CommandError:
                # charmhelpers lets modprobe's words go by; a second attempt keeps them.
                run(("modprobe", module), MODPROBE_TIMEOUT)

    def load_native(self, modalias: str) -> None:
        """Load what the modalias names; modprobe leaves out what modprobe.d blacklists."""
        try:
            _modprobe(modalias)
        except CommandError as error:
            logger.info("no native driver was loaded: %s", error)

    def running(self, service: str) -> str | None:
        """Give systemd's invocation id of a service that is up or coming up."""
        command = ("systemctl", "show", "--property=ActiveState,InvocationID", f"{service}.service")
        shown = dict(line.split("=", 1) for line in run(command, SERVICE_TIMEOUT) if "=" in line)
        if shown.get("ActiveState") not in ("active", "activating", "reloading"):
            return None
        return shown.get("InvocationID") or "unknown"

    def restart(self, service: str) -> bool:
        """Restart a service as a package would: policy-rc.d has the last word.

        That is how a paused unit stays paused, and how OpenStack's charms defer restarts.
        """
        command = ("invoke-rc.d", "--disclose-deny", service, "restart")
        try:
            run(command, SERVICE_TIMEOUT)
        except CommandError as error:
            if error.code == _POLICY_DENIED:
                return False
            raise
        return True


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
        raise _not_started(command, error) from error
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


def _update_grub(command: tuple[str, ...]) -> None:
    """Have a new grub.cfg made beside the old one, and put it in its place when it is whole.

    By itself grub-mkconfig writes over grub.cfg (``cat ${grub_cfg}.new > ${grub_cfg}``): a power
    cut or a full disk at that moment leaves a host that does not boot.
    """
    target = Path(os.path.realpath(GRUB_CONFIG))
    made = target.with_name(f"{target.name}.pci-passthrough")
    made.unlink(missing_ok=True)
    try:
        run((*command, f"--output={made}"), REBUILD_TIMEOUT, lock.descriptors())
        # An update-grub that somebody has replaced may know no --output; it did it all itself.
        if made.exists():
            files.move_into_place(made, target)
    finally:
        for left in (made, made.with_name(f"{made.name}.new"), files.former_of(target)):
            left.unlink(missing_ok=True)


def _settle_initramfs() -> None:
    """Wait until every initramfs is on the disk, where GRUB finds it, too.

    The caller is about to record that it is.
    """
    images = {each.resolve() for each in BOOT.glob("initr*") if each.is_file()}
    for path in images:
        files.settle(path)
    for directory in {path.parent for path in images}:
        files.checkpoint(directory)


def _tail(output: bytes | None) -> tuple[str, ...]:
    lines = (output or b"").decode("utf-8", "replace").splitlines()
    return tuple(collections.deque((line.strip() for line in lines if line.strip()), _TAIL_LINES))


def _modprobe(name: str) -> None:
    from charmhelpers.core import kernel

    try:
        kernel.modprobe(name, persist=False)
    except subprocess.CalledProcessError as error:
        raise CommandError(
            ("modprobe", name), f"failed with exit code {error.returncode}"
        ) from error
    except FileNotFoundError as error:
        raise CommandError(("modprobe", name), "is not installed on this host") from error
    except OSError as error:
        raise _not_started(("modprobe", name), error) from error


def _not_started(command: tuple[str, ...], error: OSError) -> CommandError:
    """What the kernel has against a program that is there, such as that nobody may execute it."""
    return CommandError(command, f"cannot be started: {error.strerror}")
