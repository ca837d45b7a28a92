"""A status that is true while a hook works, and before the first one has."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import ops
import pytest
from harness.constants import GPUS
from harness.unit import PRINCIPAL, Unit

import telling
from passthrough import enums


def said(unit: Unit) -> list[str]:
    """What the statuses of all hooks were, without the time of day."""
    return [
        re.sub(r"began \d\d:\d\d$", "began HH:MM", f"{each.name}: {each.message}")
        for each in unit.context.unit_status_history
    ]


def test_a_rebuild_is_told_when_it_begins(unit: Unit, tools):
    told: dict[str, int] = {}
    tools.before_rebuild = lambda what: told.update({what: len(tools.calls)})
    unit.run(devices=GPUS)
    kernel = telling.find_kernels(unit.world.root)[0]
    assert said(unit)[-2:] == [
        f"maintenance: rebuilding the initramfs for {kernel}, began HH:MM",
        "maintenance: rebuilding GRUB's configuration, began HH:MM",
    ]
    assert list(told) == ["initramfs", "grub"]
    assert unit.state.unit_status.name == "blocked"


def test_each_kernel_is_told_as_the_tool_comes_to_it(unit: Unit, tools):
    """The newest first, as the tool has it; the time is that of the whole rebuild."""
    root = unit.world.root
    newest = telling.find_kernels(root)[0]
    (root / "boot/vmlinuz-5.15.0-7-generic").touch()
    (root / "boot/initrd.img-5.15.0-7-generic").write_bytes(b"")
    unit.run(devices=GPUS)
    assert said(unit)[-4:] == [
        "maintenance: rebuilding the initramfs for 2 kernels, began HH:MM",
        f"maintenance: rebuilding the initramfs for {newest} (1 of 2), began HH:MM",
        "maintenance: rebuilding the initramfs for 5.15.0-7-generic (2 of 2), began HH:MM",
        "maintenance: rebuilding GRUB's configuration, began HH:MM",
    ]


class Announcing:
    """Tools whose rebuild comes to these kernels, and a unit that takes statuses."""

    def __init__(self, tools: Any, *kernels: str):
        self._tools, self._kernels = tools, kernels
        self.statuses: list[str] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._tools, name)

    def rebuild(self, what: Any, progress: Any, generator: Any, reached: Any) -> None:
        for kernel in self._kernels:
            reached(kernel)

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "status":
            self.statuses.append(re.sub(r", began .*", "", value.message))
        else:
            super().__setattr__(name, value)


def tell(unit: Unit, tools: Any, *kernels: str) -> tuple[list[str], list[str]]:
    """The statuses of a rebuild that comes to these kernels, and what its own caller is told."""
    announcing, told = Announcing(tools, *kernels), []
    asked = telling.Telling(announcing, announcing, unit.world.root)  # pyright: ignore[reportArgumentType]
    asked.rebuild(enums.Rebuild.INITRAMFS, lambda sentence: None, None, told.append)
    return announcing.statuses[1:], told


def test_a_kernel_that_two_tools_announce_is_one(unit: Unit, tools):
    """As where update-initramfs runs dracut, on a host with one kernel."""
    kernel = telling.find_kernels(unit.world.root)[0]
    assert tell(unit, tools, kernel, kernel) == ([], [kernel, kernel])


def test_kernels_that_boot_does_not_have_count_as_they_come(unit: Unit, tools):
    statuses, _ = tell(unit, tools, "6.9", "6.10")
    assert statuses == [
        "rebuilding the initramfs for 6.9",
        "rebuilding the initramfs for 6.10 (2 of 2)",
    ]


def test_a_hook_without_a_rebuild_says_nothing_in_between(ready_unit: Unit):
    ready_unit.run("start")
    assert not [each for each in said(ready_unit) if each.startswith("maintenance")]


@pytest.mark.parametrize("iommu", [True, False], ids=["iommu", "no-iommu"])
def test_before_the_first_hook_has_worked_nobody_is_asked_to_reboot(unit: Unit, iommu: bool):
    """Between install and config-changed Juju runs hooks that this charm has no use for."""
    if iommu:
        unit.world.turn_iommu_on()
    unit.configure(devices=GPUS)
    expected = "the next hook rebuilds the initramfs and GRUB's configuration"
    if iommu:
        expected += ", binds 4 functions"
    assert unit.run("relation_created", PRINCIPAL) == ops.WaitingStatus(expected)
    assert unit.act("plan")
    assert unit.status == f"waiting: {expected}"
    assert unit.run("config_changed").name == ("active" if iommu else "blocked")


def test_what_an_operator_has_to_do_first_is_still_said(unit: Unit):
    unit.configure(devices="gpu=10de:zzzz")
    assert unit.run("relation_created", PRINCIPAL).name == "blocked"


@pytest.mark.parametrize("error", [ops.ModelError("ERROR connection is shutdown"), OSError(2, "x")])
def test_juju_that_takes_no_status_stops_no_rebuild(unit: Unit, tools, error: Exception):
    class Refusing:
        @property
        def status(self) -> None:
            return None

        @status.setter
        def status(self, _: object) -> None:
            raise error

    asked = telling.Telling(Refusing(), tools, unit.world.root)  # pyright: ignore[reportArgumentType]
    asked.rebuild("grub", lambda sentence: None)  # pyright: ignore[reportArgumentType]
    assert tools.calls == ["rebuild grub"]


def test_the_newest_kernel_comes_first(tmp_path: Path):
    (tmp_path / "boot").mkdir()
    for version in ("6.8.0-9-generic", "6.8.0-45-generic", "5.15.0-119-generic"):
        (tmp_path / f"boot/vmlinuz-{version}").touch()
    assert telling.find_kernels(tmp_path) == (
        "6.8.0-45-generic",
        "6.8.0-9-generic",
        "5.15.0-119-generic",
    )
    assert telling.find_kernels(tmp_path / "nowhere") == ()
