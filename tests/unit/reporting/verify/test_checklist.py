"""The checks of claims, boot files and drivers: green when ready, red for what is wrong."""

from __future__ import annotations

import pytest
from harness.constants import CLAIMED, GPUS, GRUB, INITRAMFS_HOOK, NATIVE, RULES
from harness.world import World

from passthrough.host import initramfs
from passthrough.reporting.verify import result
from passthrough.reporting.verify.result import FAIL, OK, Check
from passthrough.state import record

NOTHING_CLAIMED = {"devices": "none to claim", "boot-files": "none"}


def failed(checks: dict[str, Check]) -> set[str]:
    return {name for name, check in checks.items() if check.status == FAIL}


def test_a_host_that_is_ready_is_green(ready: World):
    checks = ready.checks(GPUS)
    assert failed(checks) == set()
    assert not result.has_failed(tuple(checks.values()))
    assert checks["devices"] == Check("devices", OK, "4 functions claimed")
    assert checks["boot-files"] == Check("boot-files", OK, "as written")
    assert {name for name in checks if name.startswith("driver ")} == {
        f"driver {address}" for address in CLAIMED
    }
    groups = {check.seen for name, check in checks.items() if name.startswith("group ")}
    assert groups == {"0000:83:00.0 0000:83:00.1", "0000:84:00.0 0000:84:00.1"}
    assert "intel_iommu=on" in checks["command-line"].seen


def test_a_card_without_its_vfs_is_red(world: World):
    world.tree.function("0000:05:00.0", "144d:a824", 0x010802, driver="nvme", total_vfs=2)
    checks = world.checks('{id: "144d:a824", vfs: 2}')
    assert checks["vfs 0000:05:00.0"] == Check(
        "vfs 0000:05:00.0", FAIL, "0 of 2", "run the action reconcile, and see dmesg"
    )


def test_an_erase_that_has_not_come_to_its_end_is_red(ready: World):
    address = CLAIMED[0]
    with ready.ledger() as ledger:
        ledger.update(erasing={address: record.BEGUN})
    assert ready.shown(f"erase {address}") == (
        "fail: has not come to its end -> run the action erase again:"
        f" address={address} confirm={address}"
    )


def test_what_is_lent_is_green_on_the_hosts_driver_and_no_claim(ready: World):
    ready.lend(CLAIMED[0])
    checks = ready.checks(GPUS)
    assert failed(checks) == set()
    for each in CLAIMED[:2]:
        seen = f"to the host, on {NATIVE[each]}; the action take-back ends that"
        assert checks[f"lent {each}"] == Check(f"lent {each}", OK, seen)
        assert f"driver {each}" not in checks


def test_what_is_lent_and_still_on_vfio_pci_is_red(ready: World):
    ready.lend(CLAIMED[0])
    with ready.ledger() as ledger:
        ledger.update(taken={**ledger.present.taken, CLAIMED[0]: "nouveau"})
    ready.tree.bind(CLAIMED[0], "vfio-pci")
    assert ready.shown(f"lent {CLAIMED[0]}") == (
        "fail: is not given back yet -> run the action reconcile"
    )


def test_a_host_with_nothing_to_claim_is_green_and_has_little_to_show(world: World):
    checks = world.checks("x=1234:5678")
    assert failed(checks) == set()
    assert {name: checks[name].seen for name in NOTHING_CLAIMED} == NOTHING_CLAIMED
    assert not [name for name in checks if name.startswith(("driver", "group", "command-line"))]


def test_every_failed_check_says_how_to_mend_it(world: World):
    checks = world.checks(GPUS)
    assert {"iommu", "boot-files", "initramfs", "grub", "driver 0000:83:00.0"} <= failed(checks)
    assert all(check.fix for check in checks.values() if check.status == FAIL)


def causes(checks: dict[str, Check]) -> dict[str, str]:
    """The failed checks that follow from no other, with their ways out."""
    found = {name: checks[name].fix for name in failed(checks)}
    for fix in found.values():
        if fix.startswith("follows from "):
            assert fix.removeprefix("follows from ") in found, "a check that failed"
    return {name: fix for name, fix in found.items() if not fix.startswith("follows from ")}


def test_a_host_before_its_reboot_has_one_cause(world: World):
    world.hook(GPUS)
    assert causes(world.checks()) == {
        "iommu": "reboot, as this kernel was started with intel_iommu=off; then check the"
        " firmware's settings"
    }
    assert len(failed(world.checks())) > 5


def test_a_host_before_its_first_hook_has_two(world: World):
    assert causes(world.checks(GPUS)) == {
        "boot-files": "run the action reconcile",
        "iommu": "reboot once the action reconcile has run, as this kernel was started with"
        " intel_iommu=off; then check the firmware's settings",
    }


def test_a_host_that_is_switched_off_is_told_no_rebind(ready: World):
    ready.tree.set_command_line("quiet intel_iommu=on pci-passthrough=off")
    ready.tree.bind("0000:83:00.0", "nouveau")
    found = ready.checks(GPUS)
    assert found["driver 0000:83:00.0"].fix == "follows from switch"


def test_a_driver_that_rebind_can_mend_is_told_so(ready: World):
    ready.tree.bind("0000:83:00.0", "nouveau")
    assert causes(ready.checks(GPUS)) == {
        "driver 0000:83:00.0": "run the rebind action, or reboot the host"
    }


def test_a_refused_item_is_shown(ready: World):
    checks = ready.checks("gpu=10de:1bb0@0000:3b:00.0")
    assert checks["devices"].status == FAIL
    assert "holds 8086:1572, not 10de:1bb0" in checks["devices"].seen


def test_a_driver_that_is_wrong_is_named(ready: World):
    ready.tree.bind("0000:84:00.1", None)
    ready.tree.bind("0000:83:00.0", "nouveau")
    checks = ready.checks(GPUS)
    seen = {name: checks[name].seen for name in failed(checks) if name.startswith("driver ")}
    assert seen == {"driver 0000:83:00.0": "nouveau", "driver 0000:84:00.1": "no driver"}


@pytest.mark.parametrize(
    ("path", "what"),
    [
        (GRUB, {"boot-files", "grub"}),
        (INITRAMFS_HOOK, {"boot-files", "initramfs"}),
        (RULES, {"boot-files"}),
    ],
)
def test_a_file_that_somebody_changed_is_named(ready: World, path: str, what: set[str]):
    ready.tree.write(path, ready.tree.read(path) + "# mine\n", 0o755 if "hooks" in path else 0o644)
    checks = ready.checks(GPUS)
    assert what <= failed(checks)
    assert f"/{path}" in checks["boot-files"].seen


def test_an_option_that_waits_for_a_reboot_is_named(ready: World):
    ready.hook(GPUS, kernel_options="pci=realloc")
    check = ready.checks()["command-line"]
    assert (check.status, check.seen) == (FAIL, "the running kernel lacks pci=realloc")


@pytest.mark.parametrize("driver", ["vfio-pci", "pci-stub", None])
def test_a_group_shared_with_harmless_company_is_viable(ready: World, driver: str | None):
    """The other function belongs to another application, or to nobody."""
    groups = {"0000:83:00.0": 7, "0000:83:00.1": 7, "0000:84:00.0": 7, "0000:84:00.1": 7}
    ready.tree.iommu_on(groups)
    for address in ("0000:84:00.0", "0000:84:00.1"):
        ready.tree.bind(address, driver)
    check = ready.checks("gpu=10de:1bb0@0000:83:00.0")["group 7"]
    assert (check.status, check.seen) == (OK, " ".join(groups))


def test_checks_write_nothing(ready: World):
    before = ready.tree.snapshot("etc", "var", "boot", "run", "sys")
    ready.checks(GPUS)
    after = ready.tree.snapshot("etc", "var", "boot", "run", "sys")
    del after[initramfs.CACHE]  # what was read out of an image is kept, and nothing else
    assert after == before
    assert ready.kernel.writes() == []
