"""A unit whose host is as the last hook left it: an update-status looks, and asks Juju nothing."""

from __future__ import annotations

import fcntl
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ops
import pytest
from harness import hosttree
from harness.constants import GPUS, MODULES, ONE, OWNED
from harness.drifts import DRIFT, edit, remembered, spoil
from harness.fakekernel import FakeKernel
from harness.unit import NRPE, PRINCIPAL, Unit
from ops import testing

from passthrough import reconcile
from passthrough.system import files, lock

ROOT = Path(__file__).resolve().parents[2]

READY = ops.ActiveStatus("gpu: 2 ready")


@pytest.fixture
def ready(ready_unit: Unit) -> Unit:
    """See `ready_unit`."""
    return ready_unit


def test_a_settled_unit_only_looks(settled: Unit, runs: list[str]):
    sets = len(settled.context.unit_status_history)
    for _ in range(3):
        assert settled.run("update_status") == READY
    assert runs == []
    assert len(settled.context.unit_status_history) == sets, "the status was set again"


def test_a_unit_without_such_a_past_does_all(ready: Unit, runs: list[str]):
    assert ready.run("update_status") == READY
    assert runs == ["reconcile"]
    ready.run("update_status")
    assert runs == ["reconcile"]


@pytest.mark.parametrize("event", ["install", "upgrade_charm", "config_changed", "start"])
def test_every_other_hook_does_all(settled: Unit, runs: list[str], event: str):
    assert settled.run(event) == READY
    assert runs == ["reconcile"]


@pytest.mark.parametrize("drift", DRIFT, ids=[each.__name__ for each in DRIFT])
def test_what_changed_on_the_host_is_mended(
    settled: Unit,
    tree: hosttree.HostTree,
    kernel: FakeKernel,
    runs: list[str],
    drift: Callable[[hosttree.HostTree], None],
):
    settled.run("update_status")
    content, drivers = tree.read(MODULES), kernel.drivers()
    drift(tree)
    assert settled.run("update_status") == READY
    assert runs == ["reconcile"]
    assert files.read(tree.root / MODULES) == files.Present(content, 0o644)
    assert kernel.drivers() == drivers
    assert settled.run("update_status") == READY
    assert runs == ["reconcile"], "it has settled again"


def test_a_changed_option_is_the_business_of_its_own_hook(
    settled: Unit, tree: hosttree.HostTree, runs: list[str]
):
    """Juju runs config-changed for it; an update-status before that looks, and changes nothing."""
    before = tree.snapshot(*OWNED)
    assert settled.run("update_status", devices=ONE) == READY
    assert (runs, tree.snapshot(*OWNED)) == ([], before)
    assert settled.run("config_changed") == ops.ActiveStatus("gpu: 1 ready")
    runs.clear()
    assert settled.run("update_status") == ops.ActiveStatus("gpu: 1 ready")
    assert runs == []


def test_with_anything_to_mend_the_options_are_read_anew(settled: Unit, tree: hosttree.HostTree):
    edit(tree)
    assert settled.run("update_status", devices="gpu=10de:zzzz").name == "blocked"
    assert settled.run("update_status", devices=GPUS) == READY


def test_a_host_that_waits_for_its_reboot_is_not_settled(unit: Unit, runs: list[str]):
    unit.run(devices=GPUS)
    for _ in range(2):
        assert unit.run("update_status").name == "blocked"
    assert len(runs) == 3


def test_a_removed_unit_has_forgotten(settled: Unit, runs: list[str]):
    settled.run("stop")
    runs.clear()
    settled.run("update_status")
    assert runs == ["reconcile"]


@pytest.mark.parametrize(
    "values",
    [
        {"settled": "0" * 64},
        {"settled": ""},
        {"settled": None},
        {"options": []},
        {"options": {"devices": 7}},
        {"options": {"devices": "gpu=10de:zzzz"}},
        {"rendered": {}},
        {"rendered": 1},
        {"rendered": {"modules-load.conf.j2": "0" * 64, "x": "y"}},
        {"settled": "0" * 64, "rendered": {"grub.cfg.j2": ""}},
        {"more": 1},
        {"format": 1},
        {"format": 4},
        {"has_check": None},
    ],
)
def test_a_damaged_memory_changes_nothing_on_the_host(
    settled: Unit, tree: hosttree.HostTree, values: dict[str, Any]
):
    before = tree.snapshot(*OWNED)
    spoil(remembered(settled, tree), **values)
    assert settled.run("update_status") == READY
    assert tree.snapshot(*OWNED) == before


@pytest.mark.parametrize("content", ["", "{", "[]", "\udcff"])
def test_a_memory_that_is_none_is_written_anew(
    settled: Unit, tree: hosttree.HostTree, runs: list[str], content: str
):
    path = remembered(settled, tree)
    good = path.read_text()
    path.write_bytes(content.encode("utf-8", "surrogateescape"))
    assert settled.run("update_status") == READY
    assert runs == ["reconcile"]
    assert path.read_text() == good


def test_a_memory_that_others_could_write_is_not_believed(
    settled: Unit, tree: hosttree.HostTree, runs: list[str]
):
    remembered(settled, tree).chmod(0o666)
    assert settled.run("update_status") == READY
    assert runs == ["reconcile"]
    remembered(settled, tree)


def test_a_status_that_an_action_set_does_not_stay(settled: Unit, tree: hosttree.HostTree):
    """As an operator mends by hand what verify has shown."""
    good = tree.read("boot/grub/grub.cfg")
    tree.write("boot/grub/grub.cfg", good.replace("intel_iommu=on", "quiet"))
    settled.act("list-devices")
    assert settled.state.unit_status.name == "blocked"
    tree.write("boot/grub/grub.cfg", good)
    assert settled.run("update_status") == READY


def test_a_hook_that_failed_and_is_not_run_again_is_made_up_for(
    settled: Unit, monkeypatch: pytest.MonkeyPatch
):
    """`juju resolved --no-retry` after what no hook can tell of, such as that it was killed."""

    def fail(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(reconcile, "reconcile", fail)
        with pytest.raises(KeyboardInterrupt):
            settled.run("config_changed", devices=ONE)
    settled.configure(devices=ONE)
    assert settled.run("update_status") == ops.ActiveStatus("gpu: 1 ready")


def test_a_hook_that_broke_down_is_made_up_for(settled: Unit, monkeypatch: pytest.MonkeyPatch):
    def fail(*_: Any, **__: Any) -> None:
        raise RuntimeError("connection is shut down")

    with monkeypatch.context() as patch:
        patch.setattr(reconcile, "reconcile", fail)
        settled.run("config_changed", devices=ONE)
    assert settled.status.startswith("blocked: unexpected RuntimeError: connection is shut down; ")
    assert settled.run("update_status") == ops.ActiveStatus("gpu: 1 ready")


def test_a_forged_memory_can_hide_a_change_but_writes_none(
    settled: Unit, tree: hosttree.HostTree, monkeypatch: pytest.MonkeyPatch
):
    """Whoever can write it is root; still no byte of theirs gets into a file."""
    from passthrough.planning import templates

    right = tree.read(MODULES)
    seen: list[dict[str, Any]] = []
    real = templates._trace

    def spy(template: str, context: Any, content: str) -> str:
        seen.append({"template": template, "context": dict(context)})
        return real(template, context, content)

    monkeypatch.setattr(templates, "_trace", spy)
    settled.run("update_status")
    context = next(each["context"] for each in seen if each["template"] == "modules-load.conf.j2")
    known = dict(json.loads(remembered(settled, tree).read_text())["rendered"])
    known["modules-load.conf.j2"] = real("modules-load.conf.j2", context, "# forged\n")
    spoil(remembered(settled, tree), rendered=known)
    tree.write(MODULES, "# forged\n")
    settled.run("update_status")
    assert tree.read(MODULES) == "# forged\n", "that much it can do"
    settled.run("config_changed")
    assert tree.read(MODULES) == right


def test_a_related_nrpe_still_gets_its_report(
    settled: Unit, tree: hosttree.HostTree, runs: list[str]
):
    settled.relate(PRINCIPAL, NRPE)
    settled.run("config_changed")
    runs.clear()
    settled.run("update_status")
    assert runs == ["reconcile"], "its server is not installed yet, and may be any time"
    (tree.root / "etc/nagios/nrpe.d").mkdir(parents=True)
    settled.run("update_status")
    runs.clear()
    report = tree.root / "run/pci-passthrough/pci_passthrough.nrpe"
    report.unlink()
    assert settled.run("update_status") == READY
    assert report.read_text().startswith(("0\n", "2\n"))
    assert runs == []


def test_one_nrpe_of_two_leaves_the_check(settled: Unit, tree: hosttree.HostTree):
    two = [
        testing.SubordinateRelation("nrpe-external-master", remote_app_name=name)
        for name in ("nrpe", "nrpe-new")
    ]
    (tree.root / "etc/nagios/nrpe.d").mkdir(parents=True)
    settled.relate(PRINCIPAL, *two)
    settled.run("config_changed")
    old, new = two
    settled.run("relation_broken", old)
    settled.relate(PRINCIPAL, settled.state.get_relation(new.id))
    settled.run("update_status")
    assert (tree.root / "run/pci-passthrough/pci_passthrough.nrpe").exists()
    assert list((tree.root / "etc/nagios/nrpe.d").iterdir())


def test_while_another_run_is_at_work_the_hook_waits_for_it(
    settled: Unit, tree: hosttree.HostTree, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(lock, "WAIT", 0.0)
    with (tree.root / lock.PATH).open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        assert "is at work on this host" in settled.run("update_status").message
    assert settled.run("update_status") == READY


def test_a_report_that_cannot_be_written_is_the_full_hooks_to_tell(
    settled: Unit, tree: hosttree.HostTree, runs: list[str]
):
    (tree.root / "etc/nagios/nrpe.d").mkdir(parents=True)
    settled.relate(PRINCIPAL, NRPE)
    settled.run("config_changed")
    runs.clear()
    report = tree.root / "run/pci-passthrough/pci_passthrough.nrpe"
    report.unlink()
    report.mkdir()
    assert settled.run("update_status") == READY
    assert runs == ["reconcile"]
    assert any("the NRPE check is not up to date" in line for line in settled.logged("ERROR"))


def test_a_settled_unit_imports_no_framework():
    """It is most of what a hook costs: ops, and the YAML and the tracing that it brings."""
    assert loaded_by("entry") & {"ops", "yaml", "charm", "opentelemetry"} == set()


def test_what_changes_a_host_is_imported_by_hooks_that_do():
    """Every few minutes beside guests: imports are most of what the charm adds to Juju's own."""
    loaded = loaded_by("charm")
    assert "passthrough.survey" in loaded
    heavy = {"actions", "jinja2", "charmhelpers", "charms.pci_passthrough.v0.nova_pci"}
    acting = {"effects", "reconcile", "reporting.verify"}
    assert loaded & {*heavy, *(f"passthrough.{name}" for name in acting)} == set()


def loaded_by(module: str) -> set[str]:
    """The modules that a hook has imported which imports one of ours."""
    path = os.pathsep.join([str(ROOT / "src"), str(ROOT / "lib")])
    done = subprocess.run(
        [sys.executable, "-c", f"import {module}, sys; print(*sys.modules)"],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=True,
    )
    return set(done.stdout.split())
