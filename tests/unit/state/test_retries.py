"""A rebuild that failed: tried again at once, then after growing pauses, or when things change."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from passthrough.errors import PassthroughError
from passthrough.site import Site
from passthrough.state import retries

ERROR = PassthroughError("update-initramfs failed", "make room")
FILE = "run/pci-passthrough.rebuild-pci-passthrough"


class Clock:
    """The time since the boot, in seconds."""

    def __init__(self):
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(retries, "time", clock)
    return clock


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path, "pci-passthrough")


def is_held_back(site: Site, key: str = "k") -> bool:
    try:
        retries.check(site, key)
    except retries.HeldBackError:
        return True
    return False


def test_the_first_failure_holds_nothing_back(site: Site, clock: Clock):
    assert not is_held_back(site)
    retries.note(site, "k", ERROR)
    assert not is_held_back(site)


def test_pauses_grow_up_to_the_longest(site: Site, clock: Clock):
    retries.note(site, "k", ERROR)
    pauses = []
    for _ in range(12):
        retries.note(site, "k", ERROR)
        started = clock.now
        while is_held_back(site):
            clock.now += 300
        pauses.append(clock.now - started)
    assert pauses[:4] == [600, 1200, 2400, 4800]
    assert pauses[-3:] == [retries.LONGEST_PAUSE] * 3
    assert pauses == sorted(pauses)


def test_what_is_held_back_says_what_was_wrong(site: Site, clock: Clock):
    retries.note(site, "k", ERROR)
    retries.note(site, "k", ERROR)
    with pytest.raises(retries.HeldBackError) as caught:
        retries.check(site, "k")
    assert str(caught.value) == "update-initramfs failed; make room"


def test_a_change_is_worth_another_try(site: Site, clock: Clock):
    retries.note(site, "k", ERROR)
    retries.note(site, "k", ERROR)
    assert is_held_back(site)
    assert not is_held_back(site, "other")
    retries.note(site, "other", ERROR)
    assert not is_held_back(site, "other")


def test_what_is_done_is_forgotten(site: Site, clock: Clock):
    retries.note(site, "k", ERROR)
    retries.note(site, "k", ERROR)
    retries.forget(site)
    assert not is_held_back(site)
    assert list((site.root / "run").iterdir()) == []
    retries.forget(site)


def test_another_application_has_its_own(site: Site, clock: Clock):
    other = Site(site.root, "other")
    retries.note(site, "k", ERROR)
    retries.note(site, "k", ERROR)
    assert not is_held_back(other)


@pytest.mark.parametrize(
    "kept",
    [
        "",
        "{broken",
        "[]",
        "null",
        '{"format": 2}',
        '{"format": 1, "key": "k", "times": "many", "due": 1, "said": ""}',
        '{"format": 1, "key": "k", "times": 2, "due": 1e999, "said": "x"}',
        '{"format": 1, "key": "k", "times": 2, "due": 1e9, "said": "x"}',
        '{"format": 1, "key": "k"}',
    ],
)
def test_what_something_else_wrote_holds_nothing_back(site: Site, clock: Clock, kept: str):
    path = site.root / FILE
    path.parent.mkdir()
    path.write_text(kept)
    path.chmod(0o600)
    assert not is_held_back(site)
    retries.note(site, "k", ERROR)
    assert json.loads(path.read_text())["said"] == str(ERROR)


def test_what_somebody_else_could_write_holds_nothing_back(site: Site, clock: Clock):
    retries.note(site, "k", ERROR)
    retries.note(site, "k", ERROR)
    (site.root / FILE).chmod(0o666)
    assert not is_held_back(site)
