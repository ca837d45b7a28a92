"""Which hook proves that a unit leaves, and what it leaves behind, whatever fails."""

from __future__ import annotations

import json
import os
import re
import socket
import tempfile
from pathlib import Path

import ops
import pytest
from harness.constants import CLAIMED, GPUS, MODEL_UUID, OWNED, READY
from harness.hosttree import programs
from harness.killing import Tree
from harness.unit import AGENTS, NRPE, PRINCIPAL, Unit
from ops import testing

import charm
import entry
import leaving
import roles
from passthrough.effects import nrpe
from passthrough.effects import tools as host_tools
from passthrough.errors import PassthroughError
from passthrough.system import commands, journal

OLDER = "5.15.0-7-generic"
UNIT, NOVA = "pci-passthrough/0", "nova-compute/0"
CONTROLLER = testing.SubordinateRelation(
    "nova-cloud-controller", remote_app_name="nova-cloud-controller"
)
CEPH = testing.SubordinateRelation("juju-info", remote_app_name="ceph-osd")
GIVEN_BACK = ops.MaintenanceStatus("everything given back")
WAITS = ops.BlockedStatus("nova-compute/0's unit looks after this host")


def departed(departing: str, relation: str = "juju-info:0") -> leaving.Hook:
    endpoint = relation.partition(":")[0]
    return leaving.Hook(f"{endpoint}-relation-departed", UNIT, NOVA, departing, relation)


def broken(relation: str, remote: str = "nova-compute") -> leaving.Hook:
    endpoint = relation.partition(":")[0]
    return leaving.Hook(f"{endpoint}-relation-broken", UNIT, NOVA, "", relation, remote)


# The rows of docs/explanation/leaving.md, and Juju's own variants of each: the hook, the relations
# to its own principal that Juju still lists, and whether the unit leaves.
ROWS = {
    "departed-itself": (departed(UNIT), [], True),
    "departed-itself-from-a-foreign-principal": (
        departed(UNIT, "nova-cloud-controller:1"),
        ["juju-info:0"],
        True,
    ),
    "departed-itself-from-another-endpoint": (departed(UNIT, "nova-pci:2"), ["juju-info:0"], True),
    "departed-another": (departed(NOVA), [], False),
    "departed-a-unit-of-its-own-application": (departed("pci-passthrough/1"), [], False),
    "departed-nobody": (departed(""), [], False),
    "broken-last": (broken("juju-info:0"), [], True),
    "broken-last-and-still-listed": (broken("juju-info:0"), ["juju-info:0"], True),
    "broken-one-of-two": (broken("juju-info:0"), ["nova-cloud-controller:1"], False),
    "broken-one-of-two-and-still-listed": (
        broken("nova-cloud-controller:1"),
        ["juju-info:0", "nova-cloud-controller:1"],
        False,
    ),
    "broken-of-somebody-elses": (broken("juju-info:4", "ceph-osd"), [], False),
    "broken-of-a-name-that-begins-alike": (broken("juju-info:4", "nova-compute-b"), [], False),
    "broken-of-the-other-kind": (
        broken("nova-cloud-controller:1", "nova-cloud-controller"),
        ["juju-info:0"],
        False,
    ),
    "broken-of-nova-pci": (broken("nova-pci:2", "controller"), [], False),
    "broken-of-nrpe": (broken("nrpe-external-master:3", "nrpe"), [], False),
    "broken-of-a-collector": (broken("cos-agent:4", "opentelemetry-collector"), [], False),
    "broken-of-prometheus": (broken("metrics-endpoint:5", "prometheus"), [], False),
    "stop": (leaving.Hook("stop", UNIT, NOVA), ["juju-info:0"], True),
    "remove": (leaving.Hook("remove", UNIT, NOVA), ["juju-info:0"], True),
    "config-changed": (leaving.Hook("config-changed", UNIT, NOVA), [], False),
    "update-status": (leaving.Hook("update-status", UNIT, NOVA), [], False),
    "action": (leaving.Hook("", UNIT, NOVA), [], False),
}


@pytest.mark.parametrize(("hook", "listed", "expected"), ROWS.values(), ids=ROWS)
def test_what_proves_that_a_unit_leaves(hook: leaving.Hook, listed: list[str], expected: bool):
    assert leaving.proves(hook, lambda: listed) is expected
    # The cheap look at the name, before anything is imported, lets no proof pass by.
    assert entry.LEAVING.search(f"hooks/{hook.name}") or not expected


# Each row of the page's table, by the rows above that stand for it; None: TestHooks has it.
PAGE = (
    ["departed-itself", "departed-itself-from-a-foreign-principal"],
    ["departed-another", "departed-a-unit-of-its-own-application"],
    ["broken-last", "broken-last-and-still-listed"],
    ["broken-one-of-two", "broken-one-of-two-and-still-listed"],
    ["broken-of-somebody-elses", "broken-of-the-other-kind"],
    ["broken-of-nova-pci", "broken-of-nrpe"],
    ["broken-of-a-collector", "broken-of-prometheus"],
    ["stop", "remove"],
    None,
)


def test_the_page_says_of_every_hook_what_the_unit_does():
    page = Path(charm.__file__).parents[1] / "docs/explanation/leaving.md"
    table = page.read_text().split("<!-- checked: leaving -->\n")[1].split("\n\n")[0]
    said = [row.strip("| ").rpartition(" | ")[2] for row in table.splitlines()[2:]]
    assert len(said) == len(PAGE)
    for what, names in zip(said, PAGE, strict=True):
        for name in names or ():
            assert what.startswith("gives back" if ROWS[name][2] else "does nothing"), name


def test_a_hook_is_read_off_its_environment():
    environ = {
        "JUJU_DISPATCH_PATH": "hooks/juju-info-relation-departed",
        "JUJU_UNIT_NAME": UNIT,
        "JUJU_PRINCIPAL_UNIT": NOVA,
        "JUJU_DEPARTING_UNIT": UNIT,
        "JUJU_RELATION_ID": "juju-info:0",
        "JUJU_REMOTE_UNIT": NOVA,
    }
    hook = leaving.Hook.of(environ)
    assert hook == leaving.Hook(
        "juju-info-relation-departed", UNIT, NOVA, UNIT, "juju-info:0", "nova-compute"
    )
    assert leaving.Hook.of({"JUJU_DISPATCH_PATH": "actions/stop"}).name == ""


# Before ops: the environment and the tools alone


class Juju:
    """What Juju answers to its hook tools; what it has no answer for fails."""

    def __init__(self, **answers: object):
        self.answers = answers
        self.asked: list[tuple[str, ...]] = []

    def run(self, command: tuple[str, ...], timeout: float) -> tuple[str, ...]:
        self.asked.append(command)
        for key, value in self.answers.items():
            if " ".join(command).endswith(key.replace("_", " ")):
                return tuple(json.dumps(value, indent=1).splitlines())
        raise commands.CommandError(command, "failed with exit code 1", ("ERROR not found",), 1)


@pytest.fixture
def juju(monkeypatch: pytest.MonkeyPatch) -> Juju:
    """Juju does not answer any more."""
    found = Juju()
    monkeypatch.setattr(commands, "run", found.run)
    return found


def environment(unit: Unit, hook: str, **more: str) -> dict[str, str]:
    folder = unit.world.root / AGENTS / "unit-pci-passthrough-0/charm"
    return {
        "JUJU_DISPATCH_PATH": f"hooks/{hook}",
        "JUJU_UNIT_NAME": UNIT,
        "JUJU_PRINCIPAL_UNIT": NOVA,
        "JUJU_MODEL_UUID": MODEL_UUID,
        "JUJU_CHARM_DIR": str(folder),
        **more,
    }


HOOKS = {
    "departed": ("juju-info-relation-departed", {"JUJU_DEPARTING_UNIT": UNIT}),
    "broken": (
        "juju-info-relation-broken",
        {"JUJU_RELATION_ID": "juju-info:0", "JUJU_REMOTE_APP": "nova-compute"},
    ),
    "stop": ("stop", {}),
    "remove": ("remove", {}),
}


class TestBeforeOps:
    @pytest.mark.parametrize(("hook", "more"), HOOKS.values(), ids=HOOKS)
    def test_no_hook_tool_is_needed(self, ready_unit: Unit, kernel, juju: Juju, hook, more):
        ready_unit.run("start")
        site = ready_unit.world.site
        assert leaving.give_back_first(site, environment(ready_unit, hook, **more))
        assert "vfio-pci" not in kernel.drivers().values()
        assert ready_unit.world.record().is_empty
        # What comes later finds nothing to do.
        ready_unit.world.forget()
        assert leaving.give_back_first(site, environment(ready_unit, "stop"))
        assert (ready_unit.world.tools.calls, kernel.writes()) == ([], [])

    def test_a_relation_that_is_left_is_asked_for(self, ready_unit: Unit, kernel, juju: Juju):
        ready_unit.run("start")
        juju.answers = {
            "relation-ids_--format=json_juju-info": ["juju-info:0", "juju-info:7"],
            "--app_-r_juju-info:0": "nova-compute",
            "--app_-r_juju-info:7": "nova-compute",
        }
        hook, more = HOOKS["broken"]
        environ = environment(ready_unit, hook, **more)
        assert not leaving.give_back_first(ready_unit.world.site, environ)
        assert kernel.drivers() == READY
        juju.answers["--app_-r_juju-info:7"] = "ceph-osd"
        assert leaving.give_back_first(ready_unit.world.site, environ)
        assert "vfio-pci" not in kernel.drivers().values()

    @pytest.mark.parametrize(
        ("answer", "recorded", "kept"),
        [
            ("keep", "restore", True),
            ("restore", "keep", False),
            ("nonsense", "keep", True),
            ("nonsense", "restore", False),
            (None, "keep", True),
            (None, "restore", False),
        ],
    )
    def test_without_an_option_the_record_decides(
        self, ready_unit: Unit, kernel, tree, juju: Juju, answer, recorded, kept
    ):
        ready_unit.run(on_removal=recorded)
        before = tree.snapshot("etc")
        if answer:
            juju.answers = {"config-get_--format=json_on-removal": answer}
        assert leaving.give_back_first(ready_unit.world.site, environment(ready_unit, "stop"))
        assert (kernel.drivers() == READY) is kept
        assert (tree.snapshot("etc") == before) is kept

    def test_a_record_that_names_no_owner_is_left_to_the_unit(self, ready_unit: Unit, kernel, juju):
        with ready_unit.world.ledger() as ledger:
            ledger.update(owner=None)
        environ = environment(ready_unit, "stop")
        assert not leaving.give_back_first(ready_unit.world.site, environ)
        assert kernel.drivers() == READY
        assert ready_unit.run("stop") == GIVEN_BACK
        assert "vfio-pci" not in kernel.drivers().values()

    def test_what_ops_meets_behind_it_stops_nothing(
        self, ready_unit: Unit, kernel, juju, monkeypatch
    ):
        ready_unit.run("start")
        said: list[str] = []

        def fail(_: object) -> None:
            raise ops.ModelError("ERROR connection is shutdown")

        monkeypatch.setattr(ops, "main", fail)
        monkeypatch.setattr(journal, "say", lambda root, who, text: said.append(text))
        for key, value in environment(ready_unit, "stop").items():
            monkeypatch.setenv(key, value)
        entry.run(charm.ROOT)
        assert "vfio-pci" not in kernel.drivers().values()
        assert said[-1] == "all is done, and Juju was not told: ERROR connection is shutdown"
        assert "0000:83:00.0: given back" in said
        assert "everything given back" in said

    def test_a_hook_that_proves_nothing_fails_as_before(self, ready_unit: Unit, juju, monkeypatch):
        def fail(_: object) -> None:
            raise ops.ModelError("ERROR")

        monkeypatch.setattr(ops, "main", fail)
        for hook in ("config-changed", "juju-info-relation-departed"):
            monkeypatch.setenv("JUJU_DISPATCH_PATH", f"hooks/{hook}")
            monkeypatch.setenv("JUJU_UNIT_NAME", UNIT)
            with pytest.raises(ops.ModelError):
                entry.run(charm.ROOT)

    def test_a_host_that_fails_fails_the_hook_and_stands_in_the_journal(
        self, ready_unit: Unit, juju, monkeypatch
    ):
        ready_unit.run("start")
        said: list[str] = []
        monkeypatch.setattr(journal, "say", lambda root, who, text: said.append(text))
        ready_unit.world.tools.failing["initramfs"] = "No space left on device"
        site = ready_unit.world.site
        with pytest.raises(commands.CommandError, match="No space left on device"):
            leaving.give_back_first(site, environment(ready_unit, "stop"))
        assert said[-1].startswith("not everything is given back: initramfs failed")
        ready_unit.world.tools.failing.clear()
        assert leaving.give_back_first(site, environment(ready_unit, "stop"))

    def test_an_image_that_keeps_a_claim_is_named(self, ready_unit: Unit, juju, tools, monkeypatch):
        """A tool that exits with 0, and leaves one of two kernels' images as it was."""
        ready_unit.run("start")
        tree = ready_unit.world.tree
        tree.add_kernel(OLDER)
        tools.rebuild("initramfs", lambda sentence: None)
        image, rebuild = programs.image_of(tree.root, OLDER), tools.rebuild
        claiming = image.read_bytes()

        def leave_one(what: str, *values: object) -> None:
            rebuild(what, *values)
            if what == "initramfs":
                image.write_bytes(claiming)

        said: list[str] = []
        monkeypatch.setattr(journal, "say", lambda root, who, text: said.append(text))
        monkeypatch.setattr(tools, "rebuild", leave_one)
        site = ready_unit.world.site
        with pytest.raises(PassthroughError, match=f"/boot/{image.name}"):
            leaving.give_back_first(site, environment(ready_unit, "stop"))
        assert said[-1].startswith("not everything is given back: ")
        assert f"/boot/{image.name}" in said[-1]
        assert ready_unit.run("update_status").message.count(f"/boot/{image.name}") == 1
        monkeypatch.setattr(tools, "rebuild", rebuild)
        assert leaving.give_back_first(site, environment(ready_unit, "stop"))
        assert not [name for name in programs.read_initramfs(image) if "pci-passthrough" in name]


class TestHooks:
    """Through ops: the same, with a status."""

    def test_the_last_relation_to_its_principal_breaks(self, ready_unit: Unit, kernel, tree):
        before = tree.snapshot("etc", "var/lib")
        assert ready_unit.run("relation_broken", PRINCIPAL) == GIVEN_BACK
        assert "vfio-pci" not in kernel.drivers().values()
        assert tree.snapshot("etc", "var/lib") != before
        assert ready_unit.run("stop") == GIVEN_BACK

    def test_a_hook_in_between_claims_nothing_again(self, ready_unit: Unit, kernel, tools):
        ready_unit.run("relation_broken", PRINCIPAL)
        tools.calls.clear()
        for event in ("config_changed", "update_status", "start", "upgrade_charm"):
            assert ready_unit.run(event) == GIVEN_BACK
        assert "vfio-pci" not in kernel.drivers().values()
        assert tools.calls == []
        assert ready_unit.act("list-devices")
        assert ready_unit.status == "maintenance: everything given back"
        message, _ = ready_unit.act_in_vain("rebind")
        assert message == "this unit leaves the host"

    def test_a_rebuild_that_fails_is_not_repeated_at_each_update_status(
        self, ready_unit: Unit, tools, kernel, monkeypatch
    ):
        said: list[str] = []
        monkeypatch.setattr(journal, "say", lambda root, who, text: said.append(text))
        ready_unit.run("start")
        tools.failing["initramfs"] = "No space left on device"
        with pytest.raises(testing.errors.UncaughtCharmError):
            ready_unit.run("relation_broken", PRINCIPAL)
        full = ops.BlockedStatus("initramfs failed with exit code 1: No space left on device")
        tools.calls.clear()
        said.clear()
        assert [ready_unit.run("update_status") for _ in range(5)] == [full] * 5
        assert tools.calls.count("rebuild initramfs") == 1, "the first failure may be chance"
        assert len([each for each in said if each.startswith("not everything")]) == 1
        assert ready_unit.act("plan")
        assert ready_unit.status == "maintenance: the unit leaves the host", "not given back yet"
        tools.failing.clear()
        assert ready_unit.run("update_status") == full, "the pause is not over"
        assert ready_unit.run("config_changed") == GIVEN_BACK
        assert "vfio-pci" not in kernel.drivers().values()

    def test_a_principal_that_comes_again_ends_it(self, ready_unit: Unit, kernel):
        ready_unit.run("relation_broken", PRINCIPAL)
        assert ready_unit.run("relation_joined", PRINCIPAL) == ops.ActiveStatus("gpu: 2 ready")
        assert kernel.drivers() == READY

    def test_a_foreign_relation_that_breaks_changes_nothing(self, ready_unit: Unit, kernel):
        ready_unit.relate(PRINCIPAL, CEPH, CONTROLLER)
        for relation in (CEPH, CONTROLLER):
            assert ready_unit.run("relation_broken", relation) == ops.ActiveStatus("gpu: 2 ready")
        for relation in (PRINCIPAL, CEPH, CONTROLLER):
            assert ready_unit.run("relation_departed", relation).name == "active"
        assert kernel.drivers() == READY

    def test_the_check_goes_without_a_hook_of_its_own(self, ready_unit: Unit, tree):
        (tree.root / nrpe.CONFIGURATION).mkdir(parents=True)
        before = tree.snapshot("etc/nagios", "usr/local")
        ready_unit.relate(PRINCIPAL, NRPE)
        ready_unit.run("config_changed")
        assert tree.snapshot("etc/nagios", "usr/local") != before
        ready_unit.run("relation_broken", PRINCIPAL)
        assert tree.snapshot("etc/nagios", "usr/local") == before

    def test_what_it_did_stands_in_the_journal(self, ready_unit: Unit, monkeypatch):
        with tempfile.TemporaryDirectory(dir="/tmp") as place:
            (Path(place) / "dev").mkdir()
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
                listener.bind(os.fspath(Path(place) / "dev/log"))
                listener.setblocking(False)
                say, said = journal.say, []

                def redirect(_: Path, who: str, text: str) -> None:
                    assert say(Path(place), who, text)
                    said.append(listener.recv(10_000).decode())

                monkeypatch.setattr(journal, "say", redirect)
                ready_unit.run("stop")
        assert all(line.startswith(f"<29>pci-passthrough[{os.getpid()}]: ") for line in said)
        told = [line.partition(": ")[2] for line in said]
        assert "/etc/modules-load.d/pci-passthrough.conf: removed" in told
        assert told[-1] == "everything given back"


class TestKeep:
    def test_nothing_changes_and_the_record_says_so(self, ready_unit: Unit, kernel, tree, tools):
        ready_unit.run(on_removal="keep")
        before = tree.snapshot("etc", "boot", "usr/lib/dracut")
        for event in ("relation_broken", "stop", "remove"):
            relation = PRINCIPAL if event == "relation_broken" else None
            assert ready_unit.run(event, relation) == ops.MaintenanceStatus(
                "everything stays in place: on-removal is keep"
            )
        assert tree.snapshot("etc", "boot", "usr/lib/dracut") == before
        assert (kernel.drivers(), tools.calls) == (READY, [])
        kept = ready_unit.world.record()
        assert (kept.owner, kept.keep, set(kept.taken)) == (None, True, set(CLAIMED))

    def test_the_next_unit_takes_it_over_as_it_is(self, ready_unit: Unit, kernel, tools):
        ready_unit.run(on_removal="keep")
        ready_unit.run("stop")
        kernel.forget_writes()
        newcomer = Unit(ready_unit.world, number=7)
        assert newcomer.run("install", devices=GPUS) == ops.ActiveStatus("gpu: 2 ready")
        assert (tools.calls, kernel.writes()) == ([], [])
        taken = newcomer.world.record()
        assert taken.owner
        assert (taken.owner.unit, taken.keep) == ("pci-passthrough/7", False)
        assert newcomer.run("stop") == GIVEN_BACK

    def test_an_option_of_no_such_value_keeps_what_the_record_has(self, ready_unit: Unit, kernel):
        ready_unit.run(on_removal="keep")
        assert ready_unit.run(on_removal="kepe") == ops.BlockedStatus(
            'on-removal: "kepe" is not one of restore, keep'
        )
        ready_unit.run("stop")
        assert kernel.drivers() == READY


class TestOneOwner:
    """Audit case h02: two principals of one host, one application."""

    @pytest.fixture
    def second(self, ready_unit: Unit) -> Unit:
        """A unit beside ceph-osd, on the host of a unit that is ready."""
        ready_unit.relate(PRINCIPAL, CEPH)
        ready_unit.run("start")
        found = Unit(ready_unit.world, "ceph-osd/0", (PRINCIPAL, CEPH), number=1)
        found.configure(devices=GPUS)
        return found

    def test_the_second_says_who_and_writes_nothing(self, second: Unit, tree, tools, kernel):
        before = Tree(tree.root)
        for event in ("install", "config_changed", "start", "update_status"):
            assert second.run(event) == WAITS
        endings = (".pci-passthrough-waits", "metadata.yaml", "config.yaml", "actions.yaml")
        assert Tree(tree.root).without(*endings) == before.without(*endings)
        assert (tools.calls, kernel.writes()) == ([], [])
        assert second.logged("WARNING") == ["nova-compute/0's unit looks after this host"], "once"
        assert second.logged("ERROR") == []

    def test_the_second_goes_and_releases_nothing(self, second: Unit, tree, kernel):
        second.run("config_changed")
        before = tree.snapshot(*OWNED)
        for event, relation in (("relation_broken", CEPH), ("stop", None), ("remove", None)):
            assert second.run(event, relation) == ops.MaintenanceStatus(
                "everything stays in place: pci-passthrough/0 looks after this host"
            )
        assert tree.snapshot(*OWNED) == before
        assert kernel.drivers() == READY

    def test_its_actions_look_and_change_nothing(self, second: Unit, tree, kernel):
        assert second.act("plan")
        assert second.status == "blocked: nova-compute/0's unit looks after this host"
        message, results = second.act_in_vain("rebind")
        assert message == "nova-compute/0's unit looks after this host"
        assert (results, kernel.writes()) == ({}, [])

    def test_the_owners_host_is_handed_over_as_it_is(
        self, ready_unit: Unit, second: Unit, tree, kernel, tools
    ):
        second.run("config_changed")
        kernel.forget_writes()
        before = tree.snapshot("etc", "boot")
        assert ready_unit.run("relation_broken", PRINCIPAL) == ops.MaintenanceStatus(
            "everything stays in place: pci-passthrough/1 looks after this host"
        )
        assert ready_unit.run("stop").name == "maintenance"
        assert second.run("update_status") == ops.ActiveStatus("gpu: 2 ready")
        assert tree.snapshot("etc", "boot") == before
        assert (tools.calls, kernel.writes(), kernel.drivers()) == ([], [], READY)
        assert second.run("relation_broken", CEPH) == GIVEN_BACK
        assert "vfio-pci" not in kernel.drivers().values()

    def test_all_units_of_a_removed_application_leave_nothing(
        self, ready_unit: Unit, second: Unit, kernel
    ):
        second.run("config_changed")
        second.run("relation_broken", CEPH)
        assert ready_unit.run("relation_broken", PRINCIPAL) == GIVEN_BACK
        assert "vfio-pci" not in kernel.drivers().values()

    def test_the_other_order_leaves_nothing_too(self, ready_unit: Unit, second: Unit, kernel):
        second.run("config_changed")
        ready_unit.run("relation_broken", PRINCIPAL)
        assert second.run("stop") == GIVEN_BACK
        assert "vfio-pci" not in kernel.drivers().values()

    def test_the_seconds_nrpe_leaves_the_owners_check(self, ready_unit: Unit, second: Unit, tree):
        (tree.root / nrpe.CONFIGURATION).mkdir(parents=True)
        ready_unit.relate(PRINCIPAL, NRPE)
        ready_unit.run("config_changed")
        second.relate(PRINCIPAL, CEPH, NRPE)
        before = tree.snapshot("etc/nagios", "usr/local", "run/pci-passthrough")
        second.run("config_changed")
        second.run("relation_broken", NRPE)
        assert tree.snapshot("etc/nagios", "usr/local", "run/pci-passthrough") == before

    def test_the_compute_services_unit_takes_the_host(self, ready_unit: Unit, second: Unit, tools):
        """The unit beside ceph-osd came first, and the metadata tell who the compute service is."""
        with ready_unit.world.ledger() as ledger:
            ledger.update(owner=second.owner)
        assert ready_unit.run("config_changed") == ops.BlockedStatus(
            "ceph-osd/0's unit looks after this host"
        )
        for unit, name in (("nova-compute-0", "nova-compute"), ("ceph-osd-0", "ceph-osd")):
            path = ready_unit.world.root / AGENTS / f"unit-{unit}/charm/metadata.yaml"
            path.parent.mkdir(parents=True)
            path.write_text(f"name: {name}\n")
        assert ready_unit.run("update_status") == ops.ActiveStatus("gpu: 2 ready")
        assert second.run("update_status") == WAITS
        assert tools.calls == []

    def test_a_settled_owner_notices_that_another_took_the_host(
        self, ready_unit: Unit, second: Unit
    ):
        assert ready_unit.run("start").name == "active"
        with ready_unit.world.ledger() as ledger:
            ledger.update(owner=second.owner)
        assert ready_unit.run("update_status") == ops.BlockedStatus(
            "ceph-osd/0's unit looks after this host"
        )


class TestMisplaced:
    """A unit beside a principal that it is not made for."""

    def place(self, unit: Unit, principal: str, metadata: str) -> None:
        name = principal.replace("/", "-")
        path = unit.world.root / AGENTS / f"unit-{name}/charm/metadata.yaml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(metadata)

    def check(self, unit: Unit, relation: testing.SubordinateRelation, expected: str) -> None:
        """It says which line to undo, does nothing to the host, and nothing on leaving."""
        tree = unit.world.tree
        before = tree.snapshot(*OWNED, "boot", "run")
        for event in ("install", "config_changed", "start", "update_status"):
            assert unit.run(event, devices=GPUS) == ops.BlockedStatus(expected)
        assert unit.act("list-devices")
        assert unit.status == f"blocked: {expected}"
        message, _ = unit.act_in_vain("rebind")
        assert message == expected
        for event in ("relation_broken", "stop"):
            unit.run(event, relation if event == "relation_broken" else None)
        assert tree.snapshot(*OWNED, "boot", "run") == before
        assert unit.world.tools.calls == []
        assert re.search(r"; juju remove-relation \S+:\S+ \S+$", expected)
        assert len(f"{expected}") <= 120, "juju status cuts it there"

    @pytest.mark.parametrize("metadata", ["name: nova-cloud-controller\n", ""])
    def test_a_controller_through_juju_info(self, world, unit: Unit, metadata: str):
        relation = testing.SubordinateRelation("juju-info", remote_app_name="nova-cloud-controller")
        found = Unit(world, "nova-cloud-controller/0", (relation,))
        self.place(found, "nova-cloud-controller/0", metadata)
        self.check(
            found,
            relation,
            "nova-cloud-controller/0 is a controller; juju remove-relation"
            " pci-passthrough:juju-info nova-cloud-controller",
        )

    def test_a_controller_through_both_works(self, world, unit: Unit):
        wrong = testing.SubordinateRelation("juju-info", remote_app_name="nova-cloud-controller")
        found = Unit(world, "nova-cloud-controller/0", (wrong, CONTROLLER))
        self.place(found, "nova-cloud-controller/0", "name: nova-cloud-controller\n")
        assert found.run(devices=GPUS) == ops.ActiveStatus(
            "gpu: published to nova-cloud-controller"
        )
        assert world.tools.calls == []

    def test_a_subordinate_through_juju_info(self, world, unit: Unit):
        relation = testing.SubordinateRelation("juju-info", remote_app_name="ovn-chassis")
        found = Unit(world, "ovn-chassis/0", (relation,))
        self.place(found, "ovn-chassis/0", "name: ovn-chassis\nsubordinate: true\n")
        self.check(
            found,
            relation,
            "ovn-chassis/0 is a subordinate; juju remove-relation"
            " pci-passthrough:juju-info ovn-chassis",
        )

    def test_a_chain_of_subordinates(self, world, unit: Unit):
        found = Unit(world, "nrpe/5", (PRINCIPAL, NRPE))
        self.check(
            found,
            NRPE,
            "nrpe/5 is a subordinate: units without end; juju remove-relation"
            " pci-passthrough:nrpe-external-master nrpe",
        )

    @pytest.mark.parametrize(
        ("more", "expected"),
        [
            (
                "provides: {nrpe-external-master: {interface: nrpe-external-master}}\n",
                "blocked: nrpe/5 is a subordinate: units without end; juju remove-relation"
                " pci-passthrough:nrpe-external-master nrpe",
            ),
            (
                "",
                "blocked: nrpe/5 is a subordinate; juju remove-relation"
                " pci-passthrough:juju-info nrpe",
            ),
            (None, "waiting: waiting for a principal: integrate nova-compute"),
        ],
        ids=["chain", "juju-info", "cannot-be-told"],
    )
    def test_one_that_is_left_behind(self, world, unit: Unit, more: str | None, expected: str):
        """The relation is gone, and Juju leaves the unit below its subordinate."""
        before = world.tree.snapshot(*OWNED, "boot", "run")
        found = Unit(world, "nrpe/5", (PRINCIPAL,))
        if more is not None:
            self.place(found, "nrpe/5", f"name: nrpe\nsubordinate: true\n{more}")
        for event in ("config_changed", "update_status", "leader_elected"):
            found.run(event, devices=GPUS)
            assert found.status == expected
        assert found.act("list-devices")
        assert found.status == expected
        found.run("stop")
        assert world.tree.snapshot(*OWNED, "boot", "run") == before
        assert world.tools.calls == []

    def test_the_first_unit_of_a_chain_goes_on(self, ready_unit: Unit):
        ready_unit.relate(PRINCIPAL, NRPE)
        assert ready_unit.run("config_changed") == ops.ActiveStatus("gpu: 2 ready")

    @pytest.mark.parametrize("metadata", [None, "", "{", "name: my-hypervisor\n"])
    def test_any_other_principal_will_do(self, world, unit: Unit, metadata: str | None):
        relation = testing.SubordinateRelation("juju-info", remote_app_name="mine")
        found = Unit(world, "mine/0", (relation,))
        if metadata is not None:
            self.place(found, "mine/0", metadata)
        assert found.run(devices=GPUS).name == "blocked"
        assert world.tools.calls == ["rebuild initramfs", "rebuild grub"]


def test_a_tie_leads_to_the_units_own_principal(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("JUJU_PRINCIPAL_UNIT", NOVA)
    assert roles.application_of(roles.principal()) == "nova-compute"


@pytest.fixture(autouse=True)
def no_real_tools(monkeypatch: pytest.MonkeyPatch, world) -> None:
    """`entry.run` and `leaving` run on the test's host."""
    monkeypatch.setattr(charm, "ROOT", world.root)
    monkeypatch.setattr(host_tools, "HostTools", lambda: world.tools)
