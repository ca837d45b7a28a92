"""A host that boots with dracut's initramfs: claimed in it, verified in it, removed from it.

The stages follow one another on one machine, as in test_main_job.py. dracut's own boot is the
point here; what the charm does with any initramfs generator is shown there.
"""

from collections.abc import Iterator

import pytest

from lab import booting, kernel, machine, story

MACHINES = [
    pytest.param(machine.DRACUT, id="dracut", marks=pytest.mark.row("dracut")),
    pytest.param(machine.NEWER_DRACUT, id="newer-dracut", marks=pytest.mark.row("newer-dracut")),
]
GIVEN = "gpu=1234:1111@0000:83:00.0, gpu=1234:1111@0000:84:00.0"
MODULE = "/usr/lib/dracut/modules.d/91pci-passthrough"
OWNED = {
    "/etc/default/grub.d/95-pci-passthrough.cfg",
    "/etc/dracut.conf.d/pci-passthrough.conf",
    "/etc/modules-load.d/pci-passthrough.conf",
    "/etc/systemd/system/multi-user.target.d",
    "/etc/systemd/system/multi-user.target.d/pci-passthrough-caretaker.conf",
    "/etc/systemd/system/pci-passthrough-caretaker.service",
    "/etc/systemd/system/pci-passthrough-caretaker.timer",
    "/etc/udev/rules.d/60-pci-passthrough.rules",
    MODULE,
    f"{MODULE}/claim.sh",
    f"{MODULE}/module-setup.sh",
}
# Where dracut puts a pre-udev hook of priority 00; the folder above is another one in dracut 10x.
HOOK = "hooks/pre-udev/00-claim.sh"


@pytest.fixture(scope="module", params=MACHINES)
def fresh(boot: booting.Boot, request: pytest.FixtureRequest) -> Iterator[story.Watched]:
    """The machine has booted, and the charm is not deployed."""
    with boot(request.param) as host:
        yield story.begin(host)


@pytest.fixture(scope="module")
def claimed(fresh: story.Watched) -> story.Watched:
    """Two cards are claimed; the machine has not been rebooted yet."""
    with fresh.host.progress.step("deploy, claim two cards"):
        fresh.charm.deploy(devices=GIVEN)
    return fresh


@pytest.fixture(scope="module")
def bound(claimed: story.Watched) -> story.Watched:
    """The machine has been rebooted with two cards claimed."""
    claimed.charm.reboot("reboot with two cards claimed")
    return claimed


@pytest.fixture(scope="module")
def removed(bound: story.Watched) -> story.Watched:
    """The application was removed."""
    with bound.host.progress.step("remove the application"):
        bound.charm.remove()
    return bound


def list_image(host: story.Watched) -> set[str]:
    """Return the paths in the running kernel's initramfs."""
    release = host.host.run(["uname", "-r"]).stdout.strip()
    listing = host.host.run(["lsinitrd", f"/boot/initrd.img-{release}"]).stdout
    # As `ls -l` prints it: the path is the last word of a line, or stands before an arrow.
    lines = (line.partition(" -> ")[0].split() for line in listing.splitlines())
    return {words[-1] for words in lines if len(words) > 5}


def test_the_host_has_dracut_and_no_initramfs_tools(fresh: story.Watched) -> None:
    assert fresh.host.run(["test", "-x", "/usr/bin/dracut"], check=False).status == 0
    hooks = "/usr/share/initramfs-tools/hook-functions"
    assert fresh.host.run(["test", "-e", hooks], check=False).status == 1


def test_a_claim_writes_what_dracut_reads_and_rebuilds_the_image_that_boots(
    claimed: story.Watched,
) -> None:
    release = claimed.host.run(["uname", "-r"]).stdout.strip()
    made = {"/boot/grub/grub.cfg", f"/boot/initrd.img-{release}"}
    assert claimed.list_changed() == OWNED | made
    assert claimed.charm.read_status().startswith("blocked: reboot required: ")


def test_the_image_holds_our_hook_vfio_and_the_native_drivers(claimed: story.Watched) -> None:
    """Without the native drivers in it there would be no race to win."""
    found = list_image(claimed)
    # Debian 13 compresses them.
    modules = {path.rpartition("/")[2].removesuffix(".xz") for path in found}
    assert [path for path in found if path.endswith(HOOK)]
    assert {"vfio-pci.ko", "vfio_iommu_type1.ko", "bochs.ko", "snd-hda-intel.ko"} <= modules


def test_after_the_reboot_two_cards_are_on_vfio_and_all_else_is_as_it_was(
    bound: story.Watched,
) -> None:
    assert bound.read_drivers() == bound.with_claimed("gpu0", "gpu1")


@pytest.mark.parametrize("name", ["gpu0", "gpu1"])
def test_no_native_driver_ever_touched_a_claimed_card(bound: story.Watched, name: str) -> None:
    assert bound.find_touches(name) == []


def test_the_kept_card_met_its_native_drivers_after_the_claims_were_made(
    bound: story.Watched,
) -> None:
    log = bound.host.read_kernel_log()
    last_claim = max(number for number, line in enumerate(log) if line.startswith(story.AT_BOOT))
    for address, function in bound.host.machine["gpu2"].functions.items():
        mentions = kernel.find_mentions(log, address)
        assert [line for line in mentions if str(function.driver) not in line] == []
        assert log.index(mentions[0]) > last_claim


def test_after_the_reboot_the_unit_is_ready_and_verify_passes(bound: story.Watched) -> None:
    assert bound.charm.read_status() == "active: gpu: 2 ready"
    assert bound.list_failed_checks() == ""


def test_removal_leaves_no_file_and_gives_the_cards_back(removed: story.Watched) -> None:
    changed = removed.list_changed()
    assert {path for path in changed if not path.startswith("/boot/initrd.img-")} == set()
    assert removed.read_drivers() == removed.with_claimed()


def test_removal_takes_the_hook_out_of_the_image(removed: story.Watched) -> None:
    assert [path for path in list_image(removed) if path.endswith(HOOK)] == []
