"""The few commands the charm runs on the host.

charmhelpers stays behind this door, and is imported only when it is used: it asks for the
distribution at import time and refuses any but Ubuntu and CentOS.
"""

from __future__ import annotations

import logging
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Protocol

from passthrough import enums
from passthrough.host import generators
from passthrough.system import commands, files, lock

logger = logging.getLogger(__name__)

BOOT = Path("/boot")
GRUB_CONFIG = BOOT / "grub/grub.cfg"
_UPDATE_GRUB = ("update-grub",)

# A hung package trigger must not hold the machine's hook lock for ever.
REBUILD_TIMEOUT = 3600.0
SERVICE_TIMEOUT = 300.0
MODPROBE_TIMEOUT = 300.0
# Debian's policy-rc.d interface: "action not allowed".
_POLICY_DENIED = 101


class Tools(Protocol):
    """What applying a plan needs of the host beyond reading and writing files."""

    def rebuild(
        self,
        what: enums.Rebuild,
        progress: Callable[[str], object],
        generator: generators.Generator | None = None,
    ) -> None:
        """Rebuild the initramfs of every kernel, or GRUB's configuration.

        Args:
            what: which of the two.
            progress: told, in words, when it begins and when it is done.
            generator: makes the initramfs. None where that cannot be told: what is installed serves
                then, since the files of claims that are gone must not stay in it.

        Raises:
            CommandError: when that fails.
            OSError: when the disk does not take what was made.
        """

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

    def rebuild(
        self,
        what: enums.Rebuild,
        progress: Callable[[str], object],
        generator: generators.Generator | None = None,
    ) -> None:
        """Rebuild the initramfs of every kernel, or GRUB's configuration."""
        served = (generator,) if generator else generators.GENERATORS
        command = _UPDATE_GRUB if what is enums.Rebuild.GRUB else _choose_rebuild(served)
        started = time.monotonic()
        progress(f"{' '.join(command)}: running")
        if what is enums.Rebuild.GRUB:
            _update_grub(command)
        else:
            commands.run(command, REBUILD_TIMEOUT, lock.descriptors())
            _settle_images({each.image_prefix for each in served})
        progress(f"{' '.join(command)}: done in {time.monotonic() - started:.0f} s")

    def load_vfio(self) -> None:
        """Load vfio-pci and the IOMMU backend, where the kernel has them as modules."""
        for module in ("vfio_iommu_type1", "vfio-pci"):
            try:
                _modprobe(module)
            except commands.CommandError:
                # charmhelpers lets modprobe's words go by; a second attempt keeps them.
                commands.run(("modprobe", module), MODPROBE_TIMEOUT)

    def load_native(self, modalias: str) -> None:
        """Load what the modalias names; modprobe leaves out what modprobe.d blacklists."""
        try:
            _modprobe(modalias)
        except commands.CommandError as error:
            logger.info("no native driver was loaded: %s", error)

    def running(self, service: str) -> str | None:
        """Give systemd's invocation id of a service that is up or coming up."""
        command = ("systemctl", "show", "--property=ActiveState,InvocationID", f"{service}.service")
        shown = dict(
            line.split("=", 1) for line in commands.run(command, SERVICE_TIMEOUT) if "=" in line
        )
        if shown.get("ActiveState") not in ("active", "activating", "reloading"):
            return None
        return shown.get("InvocationID") or "unknown"

    def restart(self, service: str) -> bool:
        """Restart a service as a package would: policy-rc.d has the last word.

        That is how a paused unit stays paused, and how OpenStack's charms defer restarts.
        """
        command = ("invoke-rc.d", "--disclose-deny", service, "restart")
        try:
            commands.run(command, SERVICE_TIMEOUT)
        except commands.CommandError as error:
            if error.code == _POLICY_DENIED:
                return False
            raise
        return True


def _update_grub(command: tuple[str, ...]) -> None:
    """Have a new grub.cfg made beside the old one, and put it in its place when it is whole.

    By itself grub-mkconfig writes over grub.cfg (``cat ${grub_cfg}.new > ${grub_cfg}``): a power
    cut or a full disk at that moment leaves a host that does not boot.
    """
    target = Path(os.path.realpath(GRUB_CONFIG))
    made = target.with_name(f"{target.name}.pci-passthrough")
    made.unlink(missing_ok=True)
    try:
        commands.run((*command, f"--output={made}"), REBUILD_TIMEOUT, lock.descriptors())
        # An update-grub that somebody has replaced may know no --output; it did it all itself.
        if made.exists():
            files.move_into_place(made, target)
    finally:
        for left in (made, made.with_name(f"{made.name}.new")):
            left.unlink(missing_ok=True)


def _choose_rebuild(served: Iterable[generators.Generator]) -> tuple[str, ...]:
    """The first installed command that rebuilds the images; the first of all where none is."""
    commands_known = [command for each in served for command in each.rebuilds]
    return next((each for each in commands_known if shutil.which(each[0])), commands_known[0])


def _settle_images(prefixes: Iterable[str]) -> None:
    """Wait until every image on /boot is on the disk, where GRUB finds it, too.

    The caller is about to record that it is.

    Args:
        prefixes: what the images' names begin with.
    """
    found = (each for prefix in prefixes for each in BOOT.glob(f"{prefix}*"))
    images = {each.resolve() for each in found if each.is_file()}
    for path in images:
        files.settle(path)
    for directory in {path.parent for path in images}:
        files.checkpoint(directory)


def _modprobe(name: str) -> None:
    # charmhelpers has no types, and nobody else has written any.
    from charmhelpers.core import kernel  # pyright: ignore[reportMissingTypeStubs]

    try:
        kernel.modprobe(name, persist=False)  # pyright: ignore[reportUnknownMemberType]
    except subprocess.CalledProcessError as error:
        raise commands.CommandError(
            ("modprobe", name), f"failed with exit code {error.returncode}"
        ) from error
    except FileNotFoundError as error:
        raise commands.CommandError(("modprobe", name), "is not installed on this host") from error
    except OSError as error:
        raise commands.not_started(("modprobe", name), error) from error
