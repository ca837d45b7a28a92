"""A power cut in the middle of a hook: the host boots, and the next hook mends what is half done.

The stages are fixtures that follow one another on one machine, as in test_main_job.py. Its disk
keeps what the guest has flushed and nothing else, so a power cut is one.
"""

import contextlib
import dataclasses
import json
import threading
from collections.abc import Callable, Iterator

import pytest

from lab import booting, errors, files, kernel, kills, machine, story, unit

pytestmark = pytest.mark.row("crash")

GPU = list(machine.INTEL["gpu0"].functions)
NIC = machine.INTEL["nic1"].address
BEFORE = {"devices": f"gpu=1234:1111@{GPU[0]}"}
# With another option for the kernel every file is written anew, and everything is rebuilt.
OPTION = "hung_task_panic=0"
AFTER = {"devices": f"{BEFORE['devices']}, nic=8086:10d3@{NIC}", "kernel-options": OPTION}
WATCHED = ("/etc", "/boot", "/var/lib/pci-passthrough")
DROP_IN = "/etc/default/grub.d/95-pci-passthrough.cfg"
RULES = "/etc/udev/rules.d/60-pci-passthrough.rules"
INIT_TOP = "/etc/initramfs-tools/scripts/init-top/pci-passthrough"
HOOK = "/etc/initramfs-tools/hooks/pci-passthrough"
RECORD = "/var/lib/pci-passthrough/pci-passthrough.json"
GRUB = "/boot/grub/grub.cfg"
# What mkinitramfs makes when it begins, to be renamed when it is whole; what update-grub writes to
# for the charm.
HALF_IMAGE = "/boot/initrd.img-*.new"
HALF_GRUB = "/boot/grub/grub.cfg.pci-passthrough.new"
# One process that forks nothing: in a machine that is emulated a loop of the shell's slows all.
WAIT_FOR = """
import glob, sys, time
while not glob.glob(sys.argv[1]):
    time.sleep(0.05)
"""
# Beside an image while update-initramfs is at work: the new one, and the old one for its return.
UNFINISHED = (".new", ".dpkg-bak")


@dataclasses.dataclass(frozen=True)
class Story(story.Story):
    """A story with power cuts."""

    def look(self, name: str) -> None:
        """Remember the files and drivers of this moment by that name."""
        self.seen[name] = files.read_tree(self.host, *WATCHED)
        self.seen[f"drivers {name}"] = self.read_drivers()

    def cut_power_when(self, pattern: str, job: Callable[[], object]) -> None:
        """Do a job that ends with the power: cut as soon as there is a file of that pattern.

        Raises:
            LabError: the job came to its end before.
        """
        ended: list[str] = []

        def work() -> None:
            # It cannot come to its end; how it failed is of no interest.
            with contextlib.suppress(errors.LabError):
                job()
                ended.append("the job was done before the power was cut")

        worker = threading.Thread(target=work)
        worker.start()
        self.host.run(["python3", "-c", WAIT_FOR, pattern])
        self.host.cut_power()
        worker.join()
        if ended:
            raise errors.LabError(ended[0])


def content_of(tree: files.Tree, path: str) -> str | None:
    return tree[path].content if path in tree else None


def image_of(tree: files.Tree) -> dict[str, str]:
    """Return the content of every kernel's initramfs."""
    return {
        path: tree[path].content
        for path in tree
        if path.startswith("/boot/initrd.img-") and not path.endswith(UNFINISHED)
    }


@pytest.fixture(scope="module")
def deployed(boot: booting.Boot) -> Iterator[Story]:
    """The charm is deployed, nothing is asked of it yet."""
    with boot(machine.INTEL, disk_cache="writeback") as host:
        charm = unit.Unit(host)
        with host.progress.step("deploy"):
            charm.deploy()
        host.run("sync")
        found = Story(host, charm)
        found.look("at first")
        yield found


@pytest.fixture(scope="module")
def cut_in_initramfs(deployed: Story) -> Story:
    """A card was claimed; the power was cut while the new initramfs was made."""
    found = deployed
    with found.host.progress.step("claim a card until update-initramfs is at work"):
        found.cut_power_when(HALF_IMAGE, lambda: found.charm.configure(BEFORE))
    found.host.power_on("boot after a power cut in update-initramfs")
    found.look("cut in initramfs")
    found.seen["record"] = json.loads(found.host.read(RECORD))["record"]
    return found


@pytest.fixture(scope="module")
def cut_in_grub(cut_in_initramfs: Story) -> Story:
    """The interrupted hook ran again; the power was cut while the new grub.cfg was made."""
    found = cut_in_initramfs
    with found.host.progress.step("run the hook again until update-grub is at work"):
        found.cut_power_when(HALF_GRUB, lambda: found.charm.juju("rebooted", show=True))
    found.host.power_on("boot after a power cut in update-grub")
    found.look("cut in grub")
    return found


@pytest.fixture(scope="module")
def mended(cut_in_grub: Story) -> Story:
    """The hook came to its end, and the machine was rebooted in an orderly way."""
    found = cut_in_grub
    with found.host.progress.step("run the hook again to its end"):
        found.charm.juju("rebooted", show=True)
    found.seen["status"] = found.charm.read_status()
    found.look("mended")
    found.charm.reboot("reboot with a card claimed")
    return found


@pytest.fixture(scope="module")
def cut_in_bind(mended: Story) -> Story:
    """A run was killed while it bound a device, and the power was cut; a hook has run since."""
    killing = kills.Kills(mended.host, AFTER)
    with mended.host.progress.step("an undisturbed run"):
        killing.learn()
    mended.look("undisturbed")
    with mended.host.progress.step("kill a run while it binds"):
        mended.seen["killed"] = killing.kill("drivers_probe")
    mended.seen["drivers halfway"] = mended.read_drivers()
    mended.host.cut_power()
    mended.host.power_on("boot after a power cut while a device was bound")
    mended.look("cut in bind")
    mended.seen["line"] = kernel.read_command_line(mended.host)
    with mended.host.progress.step("the next hook"):
        mended.charm.configure(AFTER)
    mended.look("after bind")
    return mended


@pytest.fixture(scope="module")
def drifted(cut_in_bind: Story) -> Story:
    """Somebody took a file and a device away; a hook has run since."""
    found = cut_in_bind
    found.host.run(f"rm {RULES} && echo {NIC} >/sys/bus/pci/devices/{NIC}/driver/unbind")
    with found.host.progress.step("update-status after a file and a device were taken away"):
        found.seen["log"] = found.charm.run_hook("update-status").output
    found.look("repaired")
    return found


def test_after_a_cut_in_update_initramfs_the_host_boots_as_before(cut_in_initramfs: Story) -> None:
    seen = cut_in_initramfs.seen
    assert seen["drivers cut in initramfs"] == cut_in_initramfs.with_claimed()
    assert image_of(seen["cut in initramfs"]) == image_of(seen["at first"])
    assert content_of(seen["cut in initramfs"], GRUB) == content_of(seen["at first"], GRUB)


def test_after_a_cut_in_update_initramfs_the_record_says_that_it_is_not_done(
    cut_in_initramfs: Story,
) -> None:
    record = cut_in_initramfs.seen["record"]
    assert record["activated"] == {"grub": "", "initramfs": ""}
    assert set(record["taken"]) == set(GPU)


def test_after_a_cut_in_update_grub_the_host_boots_with_the_old_configuration(
    cut_in_grub: Story,
) -> None:
    seen = cut_in_grub.seen
    assert seen["drivers cut in grub"] == cut_in_grub.with_claimed()
    assert content_of(seen["cut in grub"], GRUB) == content_of(seen["at first"], GRUB)
    assert image_of(seen["cut in grub"]) != image_of(seen["at first"])


@pytest.mark.parametrize("when", ["cut in initramfs", "cut in grub"])
@pytest.mark.parametrize("path", [DROP_IN, RULES, INIT_TOP, HOOK])
def test_a_cut_leaves_every_file_old_or_new(mended: Story, when: str, path: str) -> None:
    new = content_of(mended.seen["mended"], path)
    assert new
    assert content_of(mended.seen[when], path) in (None, new)


def test_the_hook_that_comes_to_its_end_asks_for_the_reboot(mended: Story) -> None:
    assert mended.seen["status"].startswith("blocked: reboot required: ")


def test_after_the_reboot_the_card_is_bound(mended: Story) -> None:
    assert mended.read_drivers() == mended.with_claimed("gpu0")
    assert mended.charm.read_status() == "active: gpu: 1 ready"


def test_nothing_half_written_is_left(mended: Story) -> None:
    assert [path for path in mended.seen["mended"] if path.endswith((".new", ".former"))] == []


def test_after_a_cut_while_a_device_is_bound_grub_finds_what_the_run_had_made(
    cut_in_bind: Story,
) -> None:
    """Half a second before the cut, that is, though GRUB does not replay the journal."""
    seen = cut_in_bind.seen
    assert seen["killed"]["step"] == "write /sys/bus/pci/drivers_probe"
    assert seen["drivers halfway"] == {**cut_in_bind.with_claimed("gpu0"), NIC: None}
    assert OPTION in seen["line"]
    assert seen["drivers cut in bind"] == cut_in_bind.with_claimed("gpu0", "nic1")


def test_after_a_cut_while_a_device_is_bound_the_next_hook_ends_alike(cut_in_bind: Story) -> None:
    seen = cut_in_bind.seen
    assert files.list_changed(seen["undisturbed"], seen["after bind"]) == set()
    assert seen["drivers after bind"] == cut_in_bind.with_claimed("gpu0", "nic1")


def test_after_a_cut_while_a_device_is_bound_the_unit_is_ready(cut_in_bind: Story) -> None:
    assert cut_in_bind.charm.read_status() == "active: gpu: 1 ready, nic: 1 ready"
    assert cut_in_bind.list_failed_checks() == ""


def test_what_somebody_took_away_is_repaired_and_reported(drifted: Story) -> None:
    assert f"repaired: {RULES} was missing" in drifted.seen["log"]
    assert drifted.seen["drivers repaired"] == drifted.with_claimed("gpu0", "nic1")
    before, after = drifted.seen["after bind"], drifted.seen["repaired"]
    assert {path for path in files.list_changed(before, after) if "initrd" not in path} == set()
