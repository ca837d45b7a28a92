"""Rebuilds: not while dpkg does, done when it is in the image, and put back where it is not.

The stages are fixtures that follow one another on one machine, as in test_main_job.py. A small
package of our own stands for a kernel's: its postinst makes an image anew, under dpkg's locks.
"""

import threading
from collections.abc import Callable, Iterator

import pytest

from lab import booting, files, machine, ssh, story, unit

pytestmark = pytest.mark.row("rebuilds")

ONE = f"gpu=1234:1111@{machine.INTEL['gpu0'].address}"
NIC = f"nic=8086:10d3@{machine.INTEL['nic1'].address}"
TWO = f"{ONE}, {NIC}"
SETTINGS = "/etc/initramfs-tools/update-initramfs.conf"
INIT_TOP = "scripts/init-top/pci-passthrough"
# GRUB, linux-version and update-initramfs sort it behind the machine's own kernel.
OLD = "1.0.0-old"
FILL = "/etc/initramfs-tools/hooks/zz-fill"
FILLER = "/boot/filler"
PACKAGE = """\
set -e
mkdir -p /root/p/DEBIAN
printf '%s\\n' 'Package: like-a-kernel' 'Version: 1' 'Architecture: all' 'Maintainer: the lab' \\
    'Description: makes an image anew' >/root/p/DEBIAN/control
printf '%s\\n' '#!/bin/sh' 'set -e' 'touch /run/postinst' 'update-initramfs -u -k "$(uname -r)"' \\
    >/root/p/DEBIAN/postinst
chmod 755 /root/p/DEBIAN/postinst
dpkg-deb --build /root/p /root/like-a-kernel.deb
"""
INSTALL = "rm -f /run/postinst; dpkg --install /root/like-a-kernel.deb 2>&1"
# One process that forks nothing: in a machine that is emulated a loop of the shell's slows all.
WAIT_FOR = """
import glob, sys, time
while not glob.glob(sys.argv[1]):
    time.sleep(0.05)
"""
# Another kernel of the same files; its image has to be there to be made anew.
SECOND = f"""\
set -e
now=$(uname -r)
cp -al "/lib/modules/$now" /lib/modules/{OLD}
cp "/boot/vmlinuz-$now" /boot/vmlinuz-{OLD}
cp "/boot/config-$now" /boot/config-{OLD}
cp "/boot/initrd.img-$now" /boot/initrd.img-{OLD}
"""
# Runs when an image is made: the older kernel's finds three MiB left on the disk, those for root
# alone among them.
FULL = f"""\
#!/bin/sh
[ "$1" = prereqs ] && exit 0
[ "$version" = {OLD} ] || exit 0
free=$(($(stat -f -c %f /boot) * $(stat -f -c %S /boot) / 1048576))
fallocate --length "$((free - 3))M" {FILLER}
"""


class Job:
    """Something that goes on while the test looks at the machine."""

    def __init__(self, do: Callable[[], object]):
        self._do = do
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        self.result = self._do()

    def wait(self) -> object:
        self._thread.join()
        return self.result


def wait_for(found: story.Story, pattern: str) -> None:
    found.host.run(["python3", "-c", WAIT_FOR, pattern])


def list_image(found: story.Story, release: str = "$(uname -r)") -> str:
    """Return the files of an image; fails where it is not whole."""
    return found.host.run(f"lsinitramfs /boot/initrd.img-{release}").stdout


def sums(found: story.Story) -> str:
    return found.host.run("sha256sum /boot/initrd.img-*").stdout


@pytest.fixture(scope="module")
def refused(boot: booting.Boot) -> Iterator[story.Story]:
    """The charm is deployed and asked for a card, and update-initramfs is told not to work."""
    with boot(machine.INTEL) as host:
        found = story.Story(host, unit.Unit(host))
        host.run(PACKAGE)
        host.run(f"cp {SETTINGS} /root/settings; echo update_initramfs=no >{SETTINGS}")
        first = files.read_tree(host, "/etc/default", "/etc/initramfs-tools", "/boot")
        with host.progress.step("deploy while update_initramfs=no"):
            found.charm.deploy(devices=ONE)
        found.seen["status"] = found.charm.read_status()
        after = files.read_tree(host, "/etc/default", "/etc/initramfs-tools", "/boot")
        found.seen["changed"] = files.list_changed(first, after)
        host.run(f"cp /root/settings {SETTINGS}")
        yield found


@pytest.fixture(scope="module")
def hook_first(refused: story.Story) -> story.Story:
    """A package came while a hook rebuilt, and once more behind it."""
    found = refused
    with found.host.progress.step("a package while a hook rebuilds"):
        hook = Job(lambda: found.charm.run_hook("update-status"))
        wait_for(found, "/boot/initrd.img-*.new")
        found.seen["dpkg meanwhile"] = found.host.run(INSTALL, check=False)
        hook.wait()
    found.seen["status behind"] = found.charm.read_status()
    found.seen["image behind"] = list_image(found)
    return found


@pytest.fixture(scope="module")
def dpkg_first(hook_first: story.Story) -> story.Story:
    """A hook that has to rebuild came while a package was installed."""
    found = hook_first
    with found.host.progress.step("a hook while a package is installed"):
        dpkg = Job(lambda: found.host.run(INSTALL, check=False))
        wait_for(found, "/boot/initrd.img-*.new")
        found.charm.configure({"devices": TWO})
        found.seen["status meanwhile"] = found.charm.read_status()
        found.seen["dpkg first"] = dpkg.wait()
    with found.host.progress.step("the next hook"):
        found.charm.run_hook("update-status")
    found.seen["image in the end"] = list_image(found)
    return found


@pytest.fixture(scope="module")
def full(dpkg_first: story.Story) -> story.Story:
    """The disk was full at the second kernel's image, and the machine has booted since."""
    found = dpkg_first
    found.host.run(SECOND)
    found.host.write(FILL, FULL)
    found.host.run(f"chmod 755 {FILL}")
    found.seen["sums before"] = sums(found)
    with found.host.progress.step("a rebuild that fills the disk at the second kernel"):
        found.charm.configure({"devices": ONE})
    found.seen["status full"] = found.charm.read_status()
    found.host.run(f"rm -f {FILLER} {FILL}")
    found.seen["sums full"] = sums(found)
    found.seen["left"] = found.host.run("ls -A /boot").stdout
    found.host.reboot("boot after a rebuild that failed")
    found.seen["drivers full"] = found.read_drivers()
    return found


@pytest.fixture(scope="module")
def mended(full: story.Story) -> story.Story:
    """There is room again, and another hook has run."""
    with full.host.progress.step("the next hook, with room"):
        full.charm.juju("rebooted", show=True)
    return full


def test_update_initramfs_no_is_told_and_nothing_is_changed(refused: story.Story) -> None:
    assert refused.seen["status"] == (
        f"blocked: {SETTINGS} says update_initramfs=no, so no image is made anew; set"
        " update_initramfs=yes there"
    )
    assert refused.seen["changed"] == set()


def test_a_package_that_comes_while_a_hook_rebuilds_waits(hook_first: story.Story) -> None:
    meanwhile = hook_first.seen["dpkg meanwhile"]
    assert isinstance(meanwhile, ssh.Result)
    assert meanwhile.status != 0
    assert "lock" in meanwhile.stdout
    assert hook_first.seen["status behind"].startswith("blocked: reboot required")
    assert INIT_TOP in hook_first.seen["image behind"]


def test_a_hook_that_comes_while_a_package_is_installed_waits(dpkg_first: story.Story) -> None:
    first = dpkg_first.seen["dpkg first"]
    assert isinstance(first, ssh.Result)
    assert first.status == 0, first.stdout
    meanwhile = dpkg_first.seen["status meanwhile"]
    assert meanwhile.startswith(("blocked: reboot required", "waiting: packages are being"))
    assert INIT_TOP in dpkg_first.seen["image in the end"]
    assert dpkg_first.charm.read_status().startswith("blocked: reboot required")


def test_a_disk_that_is_full_at_the_second_kernel_leaves_both_as_they_were(
    full: story.Story,
) -> None:
    assert full.seen["status full"].startswith("blocked: update-initramfs -u -k all failed with")
    assert "No space left on device" in full.seen["status full"]
    assert full.seen["sums full"] == full.seen["sums before"]
    assert ".kept" not in full.seen["left"]


def test_the_next_boot_claims_what_it_claimed_before(full: story.Story) -> None:
    """What the failed hook was to give back is still in /etc, in the record, and in the image."""
    assert full.seen["drivers full"] == full.with_claimed("gpu0", "nic1")


def test_with_room_the_next_hook_makes_up_for_it(mended: story.Story) -> None:
    assert mended.charm.read_status() == "active: gpu: 1 ready"
    assert mended.read_drivers() == mended.with_claimed("gpu0")
    for release in ("$(uname -r)", OLD):
        assert INIT_TOP in list_image(mended, release)
