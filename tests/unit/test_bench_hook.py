"""The benchmark of the hooks: which are compared, with what, and by which of their figures."""

from __future__ import annotations

import contextlib
import json
import pathlib
from collections.abc import Iterator

import pytest

from bench import hook, pairs


class Stub:
    """An agent whose hooks take what they take."""

    def __init__(self, report: pathlib.Path, seconds: float):
        self.ran: list[str] = []
        self._report, self._seconds = report, seconds

    def hook(self, name: str) -> None:
        self.ran.append(name)
        used = {"seconds": self._seconds, "cpu": 1.0, "peak_kib": 1024}
        self._report.write_text(json.dumps(used))

    def status(self) -> str:
        return f"active: gpu: {hook.CLAIMS} ready"


@pytest.fixture
def agents(monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path) -> list[Stub]:
    """The agents that a measurement has made, ours and the empty charm's by turns."""
    made: list[Stub] = []

    @contextlib.contextmanager
    def make(place: pathlib.Path, charm: pathlib.Path) -> Iterator[tuple[Stub, Stub, pathlib.Path]]:
        report = tmp_path / f"{len(made)}.json"
        made.extend((Stub(report, 2.0), Stub(report, 1.0)))
        yield made[-2], made[-1], report

    monkeypatch.setattr(hook, "_agents", make)
    return made


def test_each_hook_is_compared_with_an_empty_charms(agents: list[Stub]):
    found = hook.measure(pathlib.Path("x.charm"), 1, lambda text: None)
    size = f"{hook.FUNCTIONS} functions and {hook.CLAIMS} claims"
    assert [(each.name, each.goal, each.judged, each.verdict) for each in found] == [
        (f"update-status, {size} / an empty charm's", 1.25, "seconds", "MISSED"),
        (f"config-changed, {size} / an empty charm's", 1.25, "cpu", "met"),
        (f"start, {size} / an empty charm's", None, "seconds", ""),
    ]
    ours, empty = agents
    assert ours.ran == empty.ran == [name for name in hook.HOOKS for _ in range(2)]


def test_another_revision_is_no_goal(agents: list[Stub]):
    found = hook.measure(pathlib.Path("x.charm"), 1, lambda text: None, ("abc", pathlib.Path("y")))
    former = [each for each in found if each.name.endswith(" / that of abc")]
    assert [each.name.partition(",")[0] for each in former] == list(hook.HOOKS)
    assert {each.goal for each in former} == {None}
    assert [len(each.ran) for each in agents] == [12, 6, 6, 0]


def test_a_unit_that_is_not_ready_is_no_figure(agents: list[Stub], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(Stub, "status", lambda self: "blocked: reboot required")
    with pytest.raises(pairs.BenchError, match="the unit is not ready: blocked: reboot required"):
        hook.measure(pathlib.Path("x.charm"), 1, lambda text: None)
