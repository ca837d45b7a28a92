"""The few commands that the charm runs on the host.

Only this module uses charmhelpers, and imports it where it is used: charmhelpers looks at the
distribution when it is imported, and refuses any but Ubuntu and CentOS.
"""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Protocol

from passthrough import enums
from passthrough.host import generators, grub
from passthrough.system import commands, files, lock

logger = logging.getLogger(__name__)

BOOT = Path("/boot")
GRUB_CONFIG = BOOT / "grub/grub.cfg"

# Seconds. A package trigger that hangs must not hold the machine's hook lock for ever.
REBUILD_TIMEOUT = 3600.0
SERVICE_TIMEOUT = 300.0
MODPROBE_TIMEOUT = 300.0
SETTLE_TIMEOUT = 120.0
# Debian's policy-rc.d interface: "action not allowed".
_POLICY_DENIED = 101


def nobody(kernel: str) -> None:
    """Take the kernel that a rebuild comes to, where nobody asks for it."""


class Tools(Protocol):
    """What applying a plan needs of the host beyond reading and writing files."""

    def rebuild(
        self,
        what: enums.Rebuild,
        progress: Callable[[str], object],
        generator: generators.Generator | None = None,
        reached: Callable[[str], object] = nobody,
    ) -> None:
        """Rebuild the initramfs of every kernel, or GRUB's configuration.

        Args:
            what: which of the two.
            progress: takes a sentence when the rebuild begins and when it is done.
            generator: makes the initramfs. None where that cannot be told: any installed command
                serves then, so that removed claims do not stay in the image.
            reached: takes the release of each kernel when its image is begun.

        Raises:
            CommandError: when the rebuild fails.
            OSError: when the disk does not take the result.
        """

    def load_vfio(self, variants: Iterable[str] = ()) -> None:
        """Load the vfio modules.

        Args:
            variants: modules of variants of vfio-pci to load, too. One that cannot be loaded is no
                error: the kernel then shows no driver of it.

        Raises:
            CommandError: when modprobe fails, as where the kernel has none.
        """

    def load_native(self, modalias: str) -> None:
        """Load the native driver, if the host has one.

        Args:
            modalias: the function's modalias, or the driver's own name. A blacklist keeps modprobe
                from loading by modalias, but not by name.
        """

    def running(self, service: str) -> str | None:
        """Name this run of a service: another value after every start, None while it is down.

        Raises:
            CommandError: when systemd does not answer.
        """

    def restart(self, service: str) -> bool:
        """Restart a service.

        Returns:
            False when the policy layer denied the restart.

        Raises:
            CommandError: when the restart fails.
        """
        raise NotImplementedError

    def start_timer(self, name: str) -> None:
        """Have systemd read its units again, and start a timer, or start it anew.

        Raises:
            CommandError: when systemd does not.
        """

    def stop_timer(self, name: str) -> None:
        """Stop a timer whose file is gone, and have systemd read its units again.

        Raises:
            CommandError: when systemd does not.
        """

    def start_socket(self, name: str) -> None:
        """Have systemd read its units again, and listen on a socket, or listen anew.

        Raises:
            CommandError: when systemd does not, as where a port is another's.
        """

    def stop_socket(self, name: str) -> None:
        """Stop a socket whose file is gone, with its service, and have systemd read its units.

        Raises:
            CommandError: when systemd does not.
        """

    def settle_devices(self) -> None:
        """Wait until udev has done all that devices which came have it do.

        Raises:
            CommandError: when it does not come to an end.
        """

    def reload_udev(self) -> None:
        """Have udev read its rules again, before it looks at any other device.

        Raises:
            CommandError: when it does not.
        """

    def stop(self, service: str) -> None:
        """Stop a service until it is started, or until the next boot.

        Raises:
            CommandError: when it does not stop.
        """

    def start(self, service: str) -> None:
        """Start a service that was stopped.

        Raises:
            CommandError: when it does not start.
        """


class HostTools:
    """`Tools` for the machine this runs on."""

    def rebuild(
        self,
        what: enums.Rebuild,
        progress: Callable[[str], object],
        generator: generators.Generator | None = None,
        reached: Callable[[str], object] = nobody,
    ) -> None:
        """Rebuild the initramfs of every kernel, or GRUB's configuration."""

        def heed(line: str) -> None:
            kernel = generators.find_reached(line)
            if kernel:
                reached(kernel)

        served = generators.served_by(generator)
        command = grub.UPDATE_GRUB if what is enums.Rebuild.GRUB else _choose_rebuild(served)
        started = time.monotonic()
        progress(f"{' '.join(command)}: running")
        if what is enums.Rebuild.GRUB:
            _update_grub(command)
        else:
            commands.run(command, REBUILD_TIMEOUT, lock.descriptors(), heed)
            _settle_images({each.image_prefix for each in served})
        progress(f"{' '.join(command)}: done in {time.monotonic() - started:.0f} s")

    def load_vfio(self, variants: Iterable[str] = ()) -> None:
        """Load vfio-pci and the IOMMU backend, where the kernel has them as modules."""
        for module in ("vfio_iommu_type1", "vfio-pci"):
            try:
                _modprobe(module)
            except commands.CommandError:
                # charmhelpers drops modprobe's output; a second attempt keeps it in the error.
                commands.run(("modprobe", module), MODPROBE_TIMEOUT)
        for module in variants:
            try:
                _modprobe(module)
            except commands.CommandError as error:
                logger.warning("a variant of vfio-pci was not loaded: %s", error)

    def load_native(self, modalias: str) -> None:
        """Load what the modalias names, except what modprobe.d blacklists; log why not."""
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

        By it a paused unit stays paused, and OpenStack's charms defer restarts.
        """
        command = ("invoke-rc.d", "--disclose-deny", service, "restart")
        try:
            commands.run(command, SERVICE_TIMEOUT)
        except commands.CommandError as error:
            if error.code == _POLICY_DENIED:
                return False
            raise
        return True

    def start_timer(self, name: str) -> None:
        """Have systemd read its units again, and start a timer, or start it anew."""
        commands.run(("systemctl", "daemon-reload"), SERVICE_TIMEOUT)
        commands.run(("systemctl", "restart", f"{name}.timer"), SERVICE_TIMEOUT)

    def stop_timer(self, name: str) -> None:
        """Stop a timer whose file is gone, and have systemd read its units again."""
        commands.run(("systemctl", "stop", f"{name}.timer"), SERVICE_TIMEOUT)
        commands.run(("systemctl", "daemon-reload"), SERVICE_TIMEOUT)

    def start_socket(self, name: str) -> None:
        """Have systemd read its units again, and listen on a socket, or listen anew."""
        commands.run(("systemctl", "daemon-reload"), SERVICE_TIMEOUT)
        commands.run(("systemctl", "restart", f"{name}.socket"), SERVICE_TIMEOUT)

    def stop_socket(self, name: str) -> None:
        """Stop a socket whose file is gone, with its service, and have systemd read its units."""
        commands.run(("systemctl", "stop", f"{name}.socket"), SERVICE_TIMEOUT)
        # One that could not listen would stay in the list of what has failed.
        with contextlib.suppress(commands.CommandError):
            commands.run(("systemctl", "reset-failed", f"{name}.socket"), SERVICE_TIMEOUT)
        commands.run(("systemctl", "daemon-reload"), SERVICE_TIMEOUT)

    def settle_devices(self) -> None:
        """Wait until udev has no event left."""
        command = ("udevadm", "settle", f"--timeout={SETTLE_TIMEOUT:.0f}")
        commands.run(command, SERVICE_TIMEOUT)

    def reload_udev(self) -> None:
        """Have udev read its rules again; udevadm returns once it has been told."""
        commands.run(("udevadm", "control", "--reload"), SERVICE_TIMEOUT)

    def stop(self, service: str) -> None:
        """Stop a service, which stays enabled for the next boot."""
        commands.run(("systemctl", "stop", f"{service}.service"), SERVICE_TIMEOUT)

    def start(self, service: str) -> None:
        """Start a service."""
        commands.run(("systemctl", "start", f"{service}.service"), SERVICE_TIMEOUT)


def _update_grub(command: tuple[str, ...]) -> None:
    """Have update-grub write a new grub.cfg beside the old one, and replace that once it is whole.

    By itself grub-mkconfig writes over grub.cfg (``cat ${grub_cfg}.new > ${grub_cfg}``): after a
    power cut or with a full disk at that moment the host does not boot.
    """
    target = Path(os.path.realpath(GRUB_CONFIG))
    made = target.with_name(f"{target.name}.pci-passthrough")
    made.unlink(missing_ok=True)
    try:
        commands.run((*command, f"--output={made}"), REBUILD_TIMEOUT, lock.descriptors())
        # Somebody's own update-grub may know no --output, and has written grub.cfg itself.
        if made.exists():
            files.move_into_place(made, target)
    finally:
        for left in (made, made.with_name(f"{made.name}.new")):
            left.unlink(missing_ok=True)


def _choose_rebuild(served: Iterable[generators.Generator]) -> tuple[str, ...]:
    """Give the first installed command that rebuilds the images; the very first where none is."""
    commands_known = [command for each in served for command in each.rebuilds]
    return next((each for each in commands_known if shutil.which(each[0])), commands_known[0])


def _settle_images(prefixes: Iterable[str]) -> None:
    """Wait until every image on /boot is on the disk, and where GRUB finds it.

    The caller records next that the images are built.

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
