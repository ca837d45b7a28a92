"""The main job on a real kernel: claim two of three identical cards, give one back, remove it all.

Each stage is a fixture that does one thing once; a test asks for the stage it looks at. The stages
follow one another on one machine, so the order of the tests in this file is the order of the
story, and a stage that fails fails what comes after it at once.
"""

import dataclasses

import pytest

from lab import files, guest, kernel, machine, story

pytestmark = pytest.mark.row("initramfs-tools")

CARDS = {name: machine.INTEL[name] for name in ("gpu0", "gpu1", "gpu2")}
GIVEN = "gpu=1234:1111@0000:83:00.0, gpu=1234:1111@0000:84:00.0"
FEWER = "gpu=1234:1111@0000:83:00.0"
ABSENT = "gpu=10de:1bb0"
HOSTILE = "gpu=1234:1111@$(touch /etc/pwned)"
OFF = "intel_iommu=off"
ON = "intel_iommu=on"
OWNED = {
    "/etc/default/grub.d/95-pci-passthrough.cfg",
    "/etc/initramfs-tools/hooks/pci-passthrough",
    "/etc/initramfs-tools/scripts/init-top/pci-passthrough",
    "/etc/modules-load.d/pci-passthrough.conf",
    "/etc/systemd/system/multi-user.target.d",
    "/etc/systemd/system/multi-user.target.d/pci-passthrough-caretaker.conf",
    "/etc/systemd/system/pci-passthrough-caretaker.service",
    "/etc/systemd/system/pci-passthrough-caretaker.timer",
    "/etc/udev/rules.d/60-pci-passthrough.rules",
}
STATE = "/var/lib/pci-passthrough"
# Stand before the real commands on root's PATH and write down that they were called.
COUNTED = ("update-grub", "update-initramfs")
CALLS = "/var/log/calls"
COUNTER = '#!/bin/sh\necho {name} >>{calls}\nexec /usr/sbin/{name} "$@"\n'


@dataclasses.dataclass(frozen=True)
class Story(story.Watched):
    """A story on a machine that counts some of its commands."""

    def take_calls(self) -> list[str]:
        """Return which counted commands ran since the last time this was asked, sorted."""
        calls = self.host.read(CALLS).split()
        self.host.write(CALLS, "")
        return sorted(calls)


@pytest.fixture(scope="module")
def fresh(intel: guest.Guest) -> Story:
    """The charm is copied to the machine, whose commands are counted; it is not deployed."""
    for name in COUNTED:
        intel.write(f"/usr/local/sbin/{name}", COUNTER.format(name=name, calls=CALLS))
        intel.run(["chmod", "755", f"/usr/local/sbin/{name}"])
    intel.write(CALLS, "")
    return Story(**vars(story.begin(intel)))


@pytest.fixture(scope="module")
def unmatched(fresh: Story) -> Story:
    """The charm is deployed and told of a device that this machine does not have."""
    with fresh.host.progress.step("deploy, no device matches"):
        fresh.charm.deploy(devices=ABSENT)
    return fresh


@pytest.fixture(scope="module")
def attacked(unmatched: Story) -> Story:
    """A hostile address was set."""
    unmatched.charm.configure(devices=HOSTILE)
    return unmatched


@pytest.fixture(scope="module")
def claimed(attacked: Story) -> Story:
    """Two cards are claimed; the machine has not been rebooted yet."""
    attacked.take_calls()
    with attacked.host.progress.step("claim two cards"):
        attacked.charm.configure(devices=GIVEN)
    return attacked


@pytest.fixture(scope="module")
def bound(claimed: Story) -> Story:
    """The machine has been rebooted with two cards claimed."""
    claimed.charm.reboot("reboot with two cards claimed")
    return claimed


@pytest.fixture(scope="module")
def fewer(bound: Story) -> Story:
    """One card was taken out of the configuration again."""
    bound.take_calls()
    with bound.host.progress.step("give one card back"):
        bound.charm.configure(devices=FEWER)
    return bound


@pytest.fixture(scope="module")
def fewer_rebooted(fewer: Story) -> Story:
    """The machine has been rebooted with one card claimed."""
    fewer.charm.reboot("reboot with one card claimed")
    return fewer


@pytest.fixture(scope="module")
def removed(fewer_rebooted: Story) -> Story:
    """The application was removed."""
    with fewer_rebooted.host.progress.step("remove the application"):
        fewer_rebooted.charm.remove()
    return fewer_rebooted


@pytest.fixture(scope="module")
def removed_rebooted(removed: Story) -> Story:
    """The machine has been rebooted without the charm."""
    removed.host.reboot("reboot without the charm")
    return removed


@pytest.mark.row("no-match")
def test_without_a_matching_device_the_unit_is_active_and_asks_no_reboot(unmatched: Story) -> None:
    assert unmatched.charm.read_status() == "active: no matching device"


@pytest.mark.row("no-match")
def test_without_a_matching_device_nothing_is_written(unmatched: Story) -> None:
    assert unmatched.list_rewritten() == set()
    assert unmatched.take_calls() == []


def test_a_hostile_address_is_refused_and_nothing_is_written(attacked: Story) -> None:
    status = attacked.charm.read_status()
    assert status.startswith("blocked: ")
    assert "devices" in status
    assert "$(touch" in status
    assert attacked.list_rewritten() == set()


def test_a_claim_asks_for_a_reboot_and_says_why(claimed: Story) -> None:
    status = claimed.charm.read_status()
    assert status.startswith("blocked: reboot required: ")
    assert ON in status


def test_a_claim_writes_the_owned_files_and_what_grub_and_the_initramfs_make_of_them(
    claimed: Story,
) -> None:
    changed = claimed.list_changed()
    release = claimed.host.run(["uname", "-r"]).stdout.strip()
    folder = "/etc/initramfs-tools/scripts/init-top"
    made = {"/boot/grub/grub.cfg", f"/boot/initrd.img-{release}"}
    assert changed - {folder} == OWNED | made


def test_a_claim_rebuilds_the_initramfs_and_grub_once(claimed: Story) -> None:
    assert claimed.take_calls() == list(COUNTED)


def test_before_the_reboot_no_driver_has_changed(claimed: Story) -> None:
    assert claimed.read_drivers() == claimed.with_claimed()


@pytest.mark.parametrize("hook", ["update-status", "config-changed"])
def test_a_second_hook_rewrites_nothing(claimed: Story, hook: str) -> None:
    before = claimed.read_tree()
    claimed.charm.run_hook(hook)
    assert files.list_rewritten(before, claimed.read_tree()) == set()
    assert claimed.take_calls() == []


def test_after_the_reboot_two_cards_are_on_vfio_and_all_else_is_as_it_was(bound: Story) -> None:
    assert bound.read_drivers() == bound.with_claimed("gpu0", "gpu1")


def test_after_the_reboot_the_kernel_was_started_with_the_options(bound: Story) -> None:
    tokens = kernel.read_command_line(bound.host)
    assert tokens.index(ON) > tokens.index(OFF)


@pytest.mark.parametrize("address", [*CARDS["gpu0"].functions, *CARDS["gpu1"].functions])
def test_no_native_driver_ever_touched_a_claimed_function(bound: Story, address: str) -> None:
    mentions = kernel.find_mentions(bound.host.read_kernel_log(), address)
    assert f"{story.AT_BOOT} {address} is on vfio-pci" in mentions
    assert [line for line in mentions if not line.startswith((story.AT_BOOT, kernel.VFIO))] == []


def test_the_kept_card_met_its_native_drivers_after_the_claims_were_made(bound: Story) -> None:
    log = bound.host.read_kernel_log()
    last_claim = max(number for number, line in enumerate(log) if line.startswith(story.AT_BOOT))
    for address, driver in drivers_of("gpu2").items():
        mentions = kernel.find_mentions(log, address)
        assert [line for line in mentions if str(driver) not in line] == []
        assert log.index(mentions[0]) > last_claim


def test_after_the_reboot_the_unit_is_ready_and_verify_passes(bound: Story) -> None:
    assert bound.charm.read_status() == "active: gpu: 2 ready"
    verified = bound.charm.run_action("verify", check=False)
    assert not verified["failed"], verified["results"]["table"]


def test_after_the_reboot_a_hook_rewrites_nothing(bound: Story) -> None:
    before = bound.read_tree()
    bound.charm.run_hook("update-status")
    assert files.list_rewritten(before, bound.read_tree()) == set()
    assert bound.take_calls() == []


def test_a_card_taken_out_goes_back_to_its_native_drivers_at_once(fewer: Story) -> None:
    assert fewer.read_drivers() == fewer.with_claimed("gpu0")
    assert fewer.charm.read_status() == "active: gpu: 1 ready"


def test_a_card_taken_out_rebuilds_no_more_than_the_initramfs(fewer: Story) -> None:
    assert fewer.take_calls() == ["update-initramfs"]


def test_a_card_taken_out_stays_with_its_native_drivers_after_a_reboot(
    fewer_rebooted: Story,
) -> None:
    assert fewer_rebooted.read_drivers() == fewer_rebooted.with_claimed("gpu0")
    assert fewer_rebooted.charm.read_status() == "active: gpu: 1 ready"


def test_removal_gives_the_last_card_back(removed: Story) -> None:
    assert removed.read_drivers() == removed.with_claimed()


def test_removal_leaves_no_trace_in_etc(removed: Story) -> None:
    """Of the distribution's tools none rewrites a file of /etc: the comparison has no exception."""
    changed = removed.list_changed()
    assert {path for path in changed if not path.startswith("/boot/")} == set()


def test_removal_leaves_grub_as_it_was_and_no_state(removed: Story) -> None:
    changed = removed.list_changed()
    assert "/boot/grub/grub.cfg" not in changed
    assert removed.host.run(["test", "-e", STATE], check=False).status == 1


def test_after_removal_and_a_reboot_the_machine_is_as_it_was(removed_rebooted: Story) -> None:
    found = kernel.read_functions(removed_rebooted.host)
    assert [each for each, function in found.items() if function.driver == kernel.VFIO] == []
    assert removed_rebooted.read_drivers() == removed_rebooted.with_claimed()
    assert ON not in kernel.read_command_line(removed_rebooted.host)
    assert kernel.list_groups(found) == []


def drivers_of(name: str) -> dict[str, str | None]:
    return {address: each.driver for address, each in CARDS[name].functions.items()}
