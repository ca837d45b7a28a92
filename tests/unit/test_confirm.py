"""The kernel is asked for a disk before it is taken, and the answer holds until it is."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Callable, Generator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from harness import uses
from harness.constants import GPUS, INIT_TOP
from harness.unit import Unit
from harness.world import World

from passthrough import errors, rebind
from passthrough.system import exclusive, timed_write

DISK = "0000:02:00.0"
DEVICES = f"disk=144d:a808@{DISK}"
HELD = "something in the kernel has nvme0n1"


class Answers:
    """Answers an exclusive open: ``asked`` are the nodes, ``now`` those that are held."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch):
        self.error = 0
        self.asked: list[str] = []
        self.now: list[str] = []
        self.on_answer: Callable[[], object] = lambda: None
        monkeypatch.setattr(exclusive, "hold", self._hold)

    @contextlib.contextmanager
    def _hold(
        self, devices: Sequence[exclusive.Device], seconds: float
    ) -> Generator[Mapping[str, int]]:
        names = [os.path.basename(each.path) for each in devices]
        self.asked += names
        self.now += names
        error = self.error
        self.on_answer()
        yield {each.path: error for each in devices if error}
        for name in names:
            self.now.remove(name)


@pytest.fixture
def answers(monkeypatch: pytest.MonkeyPatch) -> Answers:
    return Answers(monkeypatch)


@pytest.fixture
def on(world: World) -> World:
    """The world of a host with its IOMMU on, and an idle disk."""
    world.turn_iommu_on()
    return with_disk(world)


def with_disk(world: World) -> World:
    uses.disk(world.tree, DISK, "nvme0n1", "259:0", "nvme/nvme0")
    return world


def test_the_answer_holds_until_the_driver_is_off(
    on: World, answers: Answers, monkeypatch: pytest.MonkeyPatch
):
    held: list[tuple[str, list[str]]] = []
    real = timed_write.write

    def unbind(path: Path, *rest: Any) -> int | None:
        held.append((path.name, [*answers.now]))
        return real(path, *rest)

    monkeypatch.setattr(timed_write, "write", unbind)
    on.hook(DEVICES)
    assert on.tree.driver_of(DISK) == "vfio-pci"
    assert held == [("unbind", ["nvme0n1"])]
    assert answers.now == []
    assert answers.asked == ["nvme0n1"] * 2, "before it is recorded, and before its driver changes"


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (errno.EBUSY, f"holds a disk that is in use: {HELD}"),
        (
            errno.EIO,
            "may be in use: it cannot be told whether nvme0n1 is free (Input/output error)",
        ),
        (errno.ETIMEDOUT, "may be in use: it cannot be told whether nvme0n1 is free (no answer)"),
    ],
)
@pytest.mark.parametrize("iommu", [True, False])
def test_a_disk_that_the_kernel_does_not_give_is_refused(
    world: World, answers: Answers, error: int, reason: str, iommu: bool
):
    """Also where only a reboot could bind it: the claim at boot asks nobody."""
    on = with_disk(world)
    if iommu:
        on.turn_iommu_on()
    answers.error = error
    on.hook(f"{DEVICES}, gpu=10de:1bb0@0000:83:00.0")
    assert on.tree.driver_of(DISK) == "nvme"
    assert DISK not in on.record().taken
    assert DISK not in on.tree.read(INIT_TOP)
    assert on.status.startswith(f"blocked: devices: item 1 {DEVICES}")
    assert reason in on.status
    assert "0000:83:00.0" in on.record().taken
    answers.error = 0
    on.hook()
    assert DISK in on.record().taken
    if iommu:
        assert on.status == "active: disk: 1 ready, gpu: 1 ready"


def test_what_begins_between_the_two_questions_is_seen(on: World, answers: Answers):
    def begin() -> None:
        answers.error = errno.EBUSY

    answers.on_answer = begin
    on.hook(DEVICES)
    assert on.tree.driver_of(DISK) == "nvme"
    assert str(on.result.outcome.failed[DISK]) == (
        f"{DISK}: left alone, as it cannot be claimed any more: {HELD}"
    )


def test_what_an_operator_allows_is_not_asked_for(on: World, answers: Answers):
    answers.error = errno.EBUSY
    on.hook(f'[{{alias: disk, id: "144d:a808", address: "{DISK}", allow-in-use: true}}]')
    assert on.tree.driver_of(DISK) == "vfio-pci"
    assert answers.asked == []


def test_where_a_list_objects_the_kernel_is_not_asked(on: World, answers: Answers):
    uses.mount(on.tree, "259:0", "/srv", "/dev/nvme0n1")
    on.hook(DEVICES)
    assert "holds a mounted file system: /srv" in on.status
    assert answers.asked == []


def test_looking_asks_nobody(on: World, answers: Answers):
    decision = on.decide(DEVICES)
    on.checks(DEVICES)
    assert [each.address for each in decision.plan.bind] == [DISK]
    assert answers.asked == []


def test_a_card_that_the_host_gave_up_is_not_asked_for_again(on: World, answers: Answers):
    on.hook(DEVICES)
    answers.asked.clear()
    on.hook(f"{DEVICES}, {GPUS}")
    on.hook("")
    assert answers.asked == []


def test_an_update_status_that_finds_nothing_new_asks_nobody(ready_unit: Unit, answers: Answers):
    uses.disk(ready_unit.world.tree, DISK, "nvme0n1", "259:0", "nvme/nvme0")
    ready_unit.run("config_changed")
    ready_unit.run("update_status")
    assert answers.asked == []


def test_rebind_asks_where_a_card_has_fallen_back(on: World, answers: Answers):
    on.hook(DEVICES)
    assert rebind.rebind(on.decide(), rebind.Chosen(DISK), on.tools) == {DISK: None}
    on.tree.bind(DISK, "nvme")
    answers.asked.clear()
    answers.error = errno.EBUSY
    (error,) = rebind.rebind(on.decide(), rebind.Chosen(DISK), on.tools).values()
    assert isinstance(error, errors.PostponedError)
    assert HELD in str(error)
    assert on.tree.driver_of(DISK) == "nvme"
    answers.error = 0
    assert rebind.rebind(on.decide(), rebind.Chosen(DISK), on.tools) == {DISK: None}
    assert on.tree.driver_of(DISK) == "vfio-pci"
