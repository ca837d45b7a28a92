"""A container inside a guest, on the guest's own files: as LXD's, a user of the guest's kernel."""

import contextlib
import time
from collections.abc import Iterator

from lab import errors, guest

FOLDER = "/run/inside"
# What the container writes goes there; the guest's own files stay as they are.
WRITTEN = f"{FOLDER}/upper"
NAME = "inside"
START = f"""
set -e
mkdir -p {WRITTEN}/etc/systemd/system {FOLDER}/work {FOLDER}/root
# It would wait for a serial line that a container does not have.
ln -s /dev/null {WRITTEN}/etc/systemd/system/serial-getty@ttyS0.service
mount -t overlay overlay {FOLDER}/root \
    -o lowerdir=/,upperdir={WRITTEN},workdir={FOLDER}/work
systemd-run --quiet --unit={NAME} systemd-nspawn --quiet --boot --machine={NAME} \
    --directory={FOLDER}/root --private-network --link-journal=no
"""
STOP = f"machinectl terminate {NAME}; umount {FOLDER}/root"
START_SECONDS = 300.0
POLL_SECONDS = 1.0


class Container:
    """A container of systemd-nspawn whose own systemd has started."""

    def __init__(self, host: guest.Guest, leader: str) -> None:
        self._host = host
        self._leader = leader

    def run(self, command: str) -> str:
        """Run a shell's command line inside; return what it printed.

        Raises:
            CommandError: it failed.
        """
        enter = ["nsenter", f"--target={self._leader}", "--all", "--"]
        return self._host.run([*enter, "sh", "-ec", command]).stdout


@contextlib.contextmanager
def start(host: guest.Guest) -> Iterator[Container]:
    """Start a container and wait until its services are up, well or not.

    Yields:
        The container; it is gone afterwards.

    Raises:
        LabError: it does not start; the message has the end of its log.
    """
    try:
        with host.progress.step("start a container"):
            host.run(START)
            found = _wait_up(host)
        yield found
    finally:
        host.run(STOP, check=False)  # the machine is thrown away anyhow


def _wait_up(host: guest.Guest) -> Container:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        shown = host.run(f"machinectl show {NAME} --property=Leader --value", check=False)
        if shown.status == 0:
            found = Container(host, shown.stdout.strip())
            if found.run("systemctl is-system-running || true").strip() in ("running", "degraded"):
                return found
        time.sleep(POLL_SECONDS)
    said = host.run(f"journalctl --no-pager --unit={NAME}", check=False).output
    raise errors.LabError(f"the container does not start:\n{errors.tail(said)}")
