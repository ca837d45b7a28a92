"""The checks of claims, boot files and drivers: green when ready, red for what is wrong."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from harness import hosttree, made
from harness.constants import CLAIMED, GPUS
from harness.fakekernel import FakeKernel, FakeTools

from passthrough import reconcile, survey
from passthrough.reporting.verify import checklist, result
from passthrough.reporting.verify.result import FAIL, OK, Check
from passthrough.site import Site

Look = Callable[..., dict[str, Check]]
NOTHING_CLAIMED = {"devices": "none to claim", "boot-files": "none"}


@pytest.fixture
def look(tree: hosttree.HostTree) -> Look:
    """Run every check; each by its name."""

    def run(devices: str = GPUS, **config: object) -> dict[str, Check]:
        decision = survey.decide(
            made.wanted(devices, **config), survey.look(Site(tree.root, "pci-passthrough"))
        )
        return {check.name: check for check in checklist.verify(decision)}

    return run


@pytest.fixture
def ready(tree: hosttree.HostTree) -> hosttree.HostTree:
    """The host with its devices on vfio-pci, see the fixture `tree`."""
    return tree


def failed(checks: dict[str, Check]) -> set[str]:
    return {name for name, check in checks.items() if check.status == FAIL}


def test_a_host_that_is_ready_is_green(ready, look: Look):
    checks = look()
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


def test_a_host_with_nothing_to_claim_is_green_and_has_little_to_show(look: Look):
    checks = look("x=1234:5678")
    assert failed(checks) == set()
    assert {name: checks[name].seen for name in NOTHING_CLAIMED} == NOTHING_CLAIMED
    assert not [name for name in checks if name.startswith(("driver", "group", "command-line"))]


def test_every_failed_check_says_how_to_mend_it(look: Look):
    checks = look()
    assert {"iommu", "boot-files", "initramfs", "grub", "driver 0000:83:00.0"} <= failed(checks)
    assert all(check.fix for check in checks.values() if check.status == FAIL)


def test_a_refused_item_is_shown(ready, look: Look):
    checks = look("gpu=10de:1bb0@0000:3b:00.0")
    assert checks["devices"].status == FAIL
    assert "holds 8086:1572, not 10de:1bb0" in checks["devices"].seen


def test_a_driver_that_is_wrong_is_named(ready, look: Look):
    ready.bind("0000:84:00.1", None)
    ready.bind("0000:83:00.0", "nouveau")
    checks = look()
    seen = {name: checks[name].seen for name in failed(checks) if name.startswith("driver ")}
    assert seen == {"driver 0000:83:00.0": "nouveau", "driver 0000:84:00.1": "no driver"}


@pytest.mark.parametrize(
    ("path", "what"),
    [
        ("etc/default/grub.d/95-pci-passthrough.cfg", {"boot-files", "grub"}),
        ("etc/initramfs-tools/hooks/pci-passthrough", {"boot-files", "initramfs"}),
        ("etc/udev/rules.d/60-pci-passthrough.rules", {"boot-files"}),
    ],
)
def test_a_file_that_somebody_changed_is_named(ready, look: Look, path: str, what: set[str]):
    ready.write(path, ready.read(path) + "# mine\n", 0o755 if "hooks" in path else 0o644)
    checks = look()
    assert what <= failed(checks)
    assert f"/{path}" in checks["boot-files"].seen


def test_an_option_that_waits_for_a_reboot_is_named(ready, look: Look, tools: FakeTools):
    wanted = made.wanted(GPUS, kernel_options="pci=realloc")
    reconcile.reconcile(Site(ready.root, "pci-passthrough"), wanted, tools, lambda said: None)
    check = look(kernel_options="pci=realloc")["command-line"]
    assert (check.status, check.seen) == (FAIL, "the running kernel lacks pci=realloc")


@pytest.mark.parametrize("driver", ["vfio-pci", "pci-stub", None])
def test_a_group_shared_with_harmless_company_is_viable(ready, look: Look, driver: str | None):
    """The other function belongs to another application, or to nobody."""
    groups = {"0000:83:00.0": 7, "0000:83:00.1": 7, "0000:84:00.0": 7, "0000:84:00.1": 7}
    ready.iommu_on(groups)
    for address in ("0000:84:00.0", "0000:84:00.1"):
        ready.bind(address, driver)
    check = look("gpu=10de:1bb0@0000:83:00.0")["group 7"]
    assert (check.status, check.seen) == (OK, " ".join(groups))


def test_checks_write_nothing(ready, look: Look, kernel: FakeKernel):
    before = ready.snapshot("etc", "var", "boot", "run", "sys")
    look()
    assert ready.snapshot("etc", "var", "boot", "run", "sys") == before
    assert kernel.writes() == []
