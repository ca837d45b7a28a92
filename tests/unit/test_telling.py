"""A status that is true while a hook works, and before the first one has."""

from __future__ import annotations

import re
from pathlib import Path

import ops
import pytest
from harness.constants import GPUS
from harness.unit import PRINCIPAL, Unit

import telling


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


def test_juju_that_takes_no_status_stops_no_rebuild(unit: Unit, tools, monkeypatch):
    class Refusing:
        @property
        def status(self) -> None:
            return None

        @status.setter
        def status(self, _: object) -> None:
            raise ops.ModelError("ERROR connection is shutdown")

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
