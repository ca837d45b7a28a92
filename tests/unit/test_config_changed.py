"""A config-changed that brings nothing: it does all on the host, and asks Juju for the options."""

from __future__ import annotations

import fcntl
from typing import Any

import ops
import pytest
from harness import hosttree
from harness.constants import MODULES, ONE
from harness.drifts import DRIFT, remembered, spoil
from harness.fakekernel import FakeKernel
from harness.unit import METRICS, NRPE, PRINCIPAL, Unit
from ops import testing

from passthrough import frozen, reconcile
from passthrough.effects import apply
from passthrough.host import watch
from passthrough.site import Site
from passthrough.state import record
from passthrough.system import lock

READY = ops.ActiveStatus("gpu: 2 ready")


@pytest.fixture
def whole(settled: Unit, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """One entry for each hook that came to ops."""
    found: list[str] = []
    real = settled.context.run

    def counted(event: Any, state: Any) -> Any:
        found.append(event.name)
        return real(event, state)

    monkeypatch.setattr(settled.context, "run", counted)
    return found


def test_it_does_all_on_the_host_and_needs_no_framework(
    settled: Unit, runs: list[str], whole: list[str], tree: hosttree.HostTree
):
    before = remembered(settled, tree).read_text()
    for count in (1, 2, 3):
        assert settled.run("config_changed") == READY
        assert runs == ["reconcile"] * count
    assert whole == []
    assert remembered(settled, tree).read_text() == before
    settled.run("update_status")
    assert len(runs) == 3, "the unit is as settled as it was"


def test_another_option_comes_to_the_framework(settled: Unit, runs: list[str], whole: list[str]):
    assert settled.run("config_changed", devices=ONE) == ops.ActiveStatus("gpu: 1 ready")
    assert (runs, whole) == (["reconcile"], ["config_changed"])
    settled.run("config_changed")
    assert whole == ["config_changed"]


@pytest.mark.parametrize("answer", [None, [], {}, "error"])
def test_where_juju_does_not_answer_the_framework_asks_again(
    settled: Unit, runs: list[str], whole: list[str], monkeypatch: pytest.MonkeyPatch, answer: Any
):
    monkeypatch.setattr(settled, "_answer", lambda *_: answer)
    assert settled.run("config_changed") == READY
    assert (runs, whole) == (["reconcile"], ["config_changed"])


@pytest.mark.parametrize("drift", DRIFT, ids=[each.__name__ for each in DRIFT])
def test_what_changed_on_the_host_is_mended(
    settled: Unit, tree: hosttree.HostTree, kernel: FakeKernel, whole: list[str], drift: Any
):
    content, drivers = tree.read(MODULES), kernel.drivers()
    drift(tree)
    assert settled.run("config_changed") == READY
    assert whole == ["config_changed"], "Juju's log says what was repaired"
    assert (tree.read(MODULES), kernel.drivers()) == (content, drivers)


def test_no_memory_of_a_template_is_believed(settled: Unit, tree: hosttree.HostTree):
    """As a forged one, which an update-status would go by."""
    right = tree.read(MODULES)
    spoil(remembered(settled, tree), rendered={"modules-load.conf.j2": "0" * 64})
    tree.write(MODULES, "# forged\n")
    settled.run("config_changed")
    assert tree.read(MODULES) == right


def test_the_caretakers_files_are_made_good(
    settled: Unit, tree: hosttree.HostTree, whole: list[str]
):
    """No look compares them, and Juju has nothing to learn of it."""
    path = watch.program_path("pci-passthrough")
    right = (tree.root / path).read_bytes()
    (tree.root / path).write_bytes(b"# edited\n")
    assert settled.run("config_changed") == READY
    assert (tree.root / path).read_bytes() == right
    assert whole == []


def test_a_check_gets_its_report(settled: Unit, tree: hosttree.HostTree, whole: list[str]):
    (tree.root / "etc/nagios/nrpe.d").mkdir(parents=True)
    settled.relate(PRINCIPAL, NRPE)
    settled.run("config_changed")
    assert whole == ["config_changed"], "its relation is new"
    report = tree.root / "run/pci-passthrough/pci_passthrough.nrpe"
    report.unlink()
    assert settled.run("config_changed") == READY
    assert report.exists()
    assert whole == ["config_changed"]
    report.unlink()
    report.mkdir()
    settled.run("config_changed")
    assert len(whole) == 2, "what cannot be written is the framework's to tell"


def test_collectors_learn_of_a_new_address(settled: Unit, whole: list[str]):
    """It is the hook by which Juju tells of one."""
    settled.relate(PRINCIPAL, METRICS)
    settled.run("relation_created", METRICS)
    whole.clear()
    for count in (1, 2):
        settled.run("config_changed")
        assert len(whole) == count


def test_a_service_that_was_stopped_for_a_reboot_is_started(
    settled: Unit, tree: hosttree.HostTree, whole: list[str]
):
    site = Site(tree.root, "pci-passthrough")
    with lock.hold(tree.root, "a test"), record.open(site) as ledger:
        ledger.update(reboot=record.Reboot("a plan", "a boot", stopped=True))
    settled.run("config_changed")
    assert whole == ["config_changed"]
    last = record.read(site).reboot
    assert last
    assert not last.stopped


def test_while_another_run_is_at_work_the_framework_says_so(
    settled: Unit, tree: hosttree.HostTree, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(lock, "WAIT", 0.0)
    with (tree.root / lock.PATH).open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        assert "is at work on this host" in settled.run("config_changed").message
    assert settled.run("config_changed") == READY


def test_a_run_that_breaks_down_is_done_again_and_told(
    settled: Unit, whole: list[str], monkeypatch: pytest.MonkeyPatch
):
    def fail(*_: Any, **__: Any) -> None:
        raise RuntimeError("no such luck")

    with monkeypatch.context() as patch:
        patch.setattr(reconcile, "reconcile", fail)
        assert "no such luck" in settled.run("config_changed").message
    assert whole == ["config_changed"]
    assert settled.run("update_status") == READY


def test_a_run_that_was_killed_is_made_up_for(
    settled: Unit, runs: list[str], monkeypatch: pytest.MonkeyPatch
):
    def kill(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(reconcile, "reconcile", kill)
        with pytest.raises(KeyboardInterrupt):
            settled.run("config_changed")
    assert settled.run("update_status") == READY
    assert runs == ["reconcile"]


@pytest.mark.parametrize(
    "found",
    [{"did": ("bound",)}, {"repaired": ("mended",)}],
    ids=["did", "repaired"],
)
def test_whatever_a_run_did_juju_is_told(
    settled: Unit, whole: list[str], monkeypatch: pytest.MonkeyPatch, found: dict[str, Any]
):
    real = reconcile.reconcile

    def busy(*values: Any, **named: Any) -> reconcile.Result:
        return frozen.replace(real(*values, **named), outcome=apply.Outcome(**found))

    monkeypatch.setattr(reconcile, "reconcile", busy)
    settled.run("config_changed")
    assert whole == ["config_changed"]


@pytest.mark.parametrize("event", ["config_changed", "update_status"])
def test_a_status_that_juju_did_not_take_is_set_by_the_hook_that_it_runs_again(
    settled: Unit, monkeypatch: pytest.MonkeyPatch, event: str
):
    def fail(*_: Any, **__: Any) -> None:
        raise ops.ModelError("connection is shut down")

    with monkeypatch.context() as patch:
        patch.setattr(ops.Unit, "status", property(fset=fail))
        with pytest.raises(testing.errors.UncaughtCharmError):
            settled.run("config_changed", devices=ONE)
    assert settled.run(event) == ops.ActiveStatus("gpu: 1 ready")
