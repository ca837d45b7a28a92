"""A kill or a power cut at any moment: the host boots, and the next hook mends what is half done.

The stages are fixtures that follow one another on one machine, as in test_main_job.py. Its disk
keeps what the guest has flushed and nothing else, so a power cut is one.
"""

import contextlib
import dataclasses
import json
import pathlib
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from lab import booting, errors, files, guest, kernel, machine, unit

pytestmark = pytest.mark.row("crash")

GPU = list(machine.INTEL["gpu0"].functions)
NIC = machine.INTEL["nic1"].address
BEFORE = {"devices": f"gpu=1234:1111@{GPU[0]}"}
# With another option for the kernel every file is written anew, and everything is rebuilt.
OPTION = "lab.crash=1"
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
KILLS_SECONDS = 3600.0
CRASHING = pathlib.Path(__file__).with_name("inside") / "crashing.py"
# Every step of a run whose kill leaves something else behind, in their order.
STEPS = (
    f"replace {RECORD}",
    f"replace {RULES}",
    f"replace {INIT_TOP}",
    "run update-initramfs",
    f"replace {RECORD}",
    f"replace {DROP_IN}",
    "run update-grub",
    f"replace {GRUB}",
    f"replace {RECORD}",
    "run modprobe",
    f"write /sys/bus/pci/devices/{NIC}/driver_override",
    f"write /sys/bus/pci/devices/{NIC}/driver/unbind",
    "write /sys/bus/pci/drivers_probe",
    "remove /run/pci-passthrough.lock",
)


@dataclasses.dataclass
class Story:
    """The machine, the charm on it, and what the stages saw on their way, by their names."""

    host: guest.Guest
    charm: unit.Unit
    seen: dict[str, Any] = dataclasses.field(default_factory=dict)

    def look(self, name: str) -> None:
        """Remember the files and drivers of this moment by that name."""
        self.seen[name] = files.read_tree(self.host, *WATCHED)
        self.seen[f"drivers {name}"] = self.read_drivers()

    def read_drivers(self) -> dict[str, str | None]:
        found = kernel.read_functions(self.host)
        return {address: found[address].driver for address in machine.INTEL.functions}

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

    def configure(self, options: dict[str, str]) -> None:
        """Set options and run config-changed."""
        self.charm.juju("config", *map("=".join, options.items()), show=True)

    def crash(self, *words: str) -> list[dict[str, Any]]:
        """Run crashing.py for the change from BEFORE to AFTER; return its lines."""
        script = f"{unit.LIBRARY}/{CRASHING.name}"
        self.host.put(CRASHING, script)
        options = (json.dumps(BEFORE), json.dumps(AFTER))
        command = ["python3", script, unit.CHARM_FOLDER, *options, *words]
        printed = self.host.run(command, timeout=KILLS_SECONDS, on_line=self.host.progress.waiting)
        return [json.loads(line) for line in printed.stdout.splitlines()]


def natively() -> dict[str, str | None]:
    return {address: each.driver for address, each in machine.INTEL.functions.items()}


def on_vfio(*addresses: str) -> dict[str, str | None]:
    """Return every function's driver with these on vfio-pci."""
    return {**natively(), **dict.fromkeys(addresses, kernel.VFIO)}


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
def story(boot: booting.Boot) -> Iterator[Story]:
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
def cut_in_initramfs(story: Story) -> Story:
    """A card was claimed; the power was cut while the new initramfs was made."""
    with story.host.progress.step("claim a card until update-initramfs is at work"):
        story.cut_power_when(HALF_IMAGE, lambda: story.configure(BEFORE))
    story.host.power_on("boot after a power cut in update-initramfs")
    story.look("cut in initramfs")
    story.seen["record"] = json.loads(story.host.read(RECORD))
    return story


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
def killed(mended: Story) -> Story:
    """A run that claims a second device was killed before each of its steps."""
    with mended.host.progress.step("kill a run before each of its steps"):
        mended.seen["kills"] = mended.crash()
    mended.look("undisturbed")
    return mended


@pytest.fixture(scope="module")
def cut_in_bind(killed: Story) -> Story:
    """A run was killed while it bound the device, and the power was cut; a hook has run since."""
    with killed.host.progress.step("kill a run while it binds"):
        killed.seen["killed"] = killed.crash("drivers_probe")
    killed.seen["drivers halfway"] = killed.read_drivers()
    killed.host.cut_power()
    killed.host.power_on("boot after a power cut while a device was bound")
    killed.look("cut in bind")
    killed.seen["line"] = kernel.read_command_line(killed.host)
    with killed.host.progress.step("the next hook"):
        killed.configure(AFTER)
    killed.look("after bind")
    return killed


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
    assert seen["drivers cut in initramfs"] == natively()
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
    assert seen["drivers cut in grub"] == natively()
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
    assert mended.read_drivers() == on_vfio(*GPU)
    assert mended.charm.read_status() == "active: gpu: 1 ready"


def test_nothing_half_written_is_left(mended: Story) -> None:
    assert [
        path for path in mended.seen["mended"] if path.endswith((".new", "passthrough.new"))
    ] == []


def test_a_run_was_killed_before_every_step(killed: Story) -> None:
    names = iter(kill["step"] for kill in killed.seen["kills"])
    assert [step for step in STEPS if step not in names] == []


def test_a_kill_before_any_step_leaves_whole_files_and_the_next_run_ends_alike(
    killed: Story,
) -> None:
    """Alike: the same bytes, the same images, the same drivers as after an undisturbed run."""
    wrong = [
        kill
        for kill in killed.seen["kills"]
        if kill["torn"] or kill["not mended"] or kill["not put back"]
    ]
    assert wrong == []


def test_after_a_cut_while_a_device_is_bound_the_host_boots_with_old_or_new(
    cut_in_bind: Story,
) -> None:
    """GRUB does not replay a journal: it may load the image that was there before the last one."""
    seen = cut_in_bind.seen
    assert seen["killed"] == [{"killed": True}]
    assert seen["drivers halfway"] == {**on_vfio(*GPU), NIC: None}
    assert seen["drivers cut in bind"] in (on_vfio(*GPU), on_vfio(*GPU, NIC))


def test_after_a_cut_while_a_device_is_bound_the_next_hook_ends_alike(cut_in_bind: Story) -> None:
    seen = cut_in_bind.seen
    assert files.list_changed(seen["undisturbed"], seen["after bind"]) == set()
    assert seen["drivers after bind"] == on_vfio(*GPU, NIC)


def test_after_a_cut_while_a_device_is_bound_the_unit_says_what_this_boot_lacks(
    cut_in_bind: Story,
) -> None:
    """As with the image, GRUB may have read the grub.cfg that was there before the last one."""
    status = cut_in_bind.charm.read_status()
    if OPTION in cut_in_bind.seen["line"]:
        assert status == "active: gpu: 1 ready, nic: 1 ready"
        verified = cut_in_bind.charm.run_action("verify", check=False)
        assert not verified["failed"], verified["results"]["table"]
    else:
        assert status == f"blocked: reboot required: the running kernel lacks {OPTION}"


def test_what_somebody_took_away_is_repaired_and_reported(drifted: Story) -> None:
    assert f"repaired: {RULES} was missing" in drifted.seen["log"]
    assert drifted.seen["drivers repaired"] == on_vfio(*GPU, NIC)
    before, after = drifted.seen["after bind"], drifted.seen["repaired"]
    assert {path for path in files.list_changed(before, after) if "initrd" not in path} == set()
