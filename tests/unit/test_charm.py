"""The wiring: every hook and action of the charm on a made-up host, through ops.testing."""

from __future__ import annotations

import json
import re
from typing import Any

import ops
import pytest
from harness.constants import CLAIMED, GPUS, ONE, OWNED, READY
from harness.hosttree import kernel as kernel_model
from harness.unit import DECLARED, HOOKS, PRINCIPAL, Unit
from ops import testing

import actions
from passthrough import survey
from passthrough.effects import turns
from passthrough.reporting import status
from passthrough.state import retries

EVERYWHERE = (*OWNED, "boot", "sys", "dev")
REBOOT = ops.BlockedStatus(
    "reboot required: the IOMMU is off until the kernel starts with intel_iommu=on"
)
NOT_SET = ops.BlockedStatus("devices is not set: run list-devices, then juju config devices=…")


@pytest.fixture
def ready(ready_unit: Unit) -> Unit:
    """See `ready_unit`."""
    return ready_unit


class TestRole:
    def test_without_a_principal_it_waits_and_writes_nothing(self, unit: Unit, tree):
        unit.relate()
        before = tree.snapshot(*EVERYWHERE)
        for event in HOOKS:
            assert unit.run(event, devices=GPUS) == ops.WaitingStatus(
                "waiting for a principal: integrate nova-compute"
            )
        assert tree.snapshot(*EVERYWHERE) == before

    def test_a_relation_of_another_unit_of_the_application_says_nothing(
        self, unit: Unit, tree, tools
    ):
        """Every unit sees the relation ids of all; only its own principal tells its role."""
        other = Unit(unit.world, principal="keystone/0")
        assert other.run(devices=GPUS).name == "waiting"
        assert tools.calls == []

    @pytest.mark.parametrize("principal", ["nova-compute/0", "nova-compute/12"])
    def test_any_unit_of_the_principal_will_do(self, unit: Unit, tree, principal: str):
        assert Unit(unit.world, principal=principal).run(devices=GPUS) == REBOOT


class TestHooks:
    @pytest.mark.parametrize("event", HOOKS)
    def test_each_does_the_same_one_thing(self, unit: Unit, tools, event: str):
        assert unit.run(event, devices=GPUS) == REBOOT
        assert tools.calls == ["rebuild initramfs", "rebuild grub"]

    @pytest.mark.parametrize("event", ["relation_joined", "relation_changed"])
    def test_the_principals_relation_does_it_too(self, unit: Unit, tools, event: str):
        unit.configure(devices=GPUS)
        assert unit.run(event, PRINCIPAL).name == "blocked"
        assert tools.calls == ["rebuild initramfs", "rebuild grub"]

    def test_before_devices_is_set_the_way_on_is_said(self, unit: Unit, tree):
        before = tree.snapshot(*EVERYWHERE)
        assert unit.run("install") == NOT_SET
        assert unit.run("start") == NOT_SET
        assert tree.snapshot(*EVERYWHERE) == before

    def test_after_the_reboot_start_finds_the_devices_ready(self, unit: Unit, kernel):
        unit.run(devices=GPUS)
        kernel.reboot()
        assert unit.run("start") == ops.ActiveStatus("gpu: 2 ready")
        assert kernel.drivers()["0000:85:00.0"] == "nouveau"

    def test_with_nothing_changed_no_hook_touches_anything(self, ready: Unit, kernel, tools, tree):
        before = tree.identities(*OWNED)
        for event in HOOKS:
            assert ready.run(event) == ops.ActiveStatus("gpu: 2 ready")
        assert tree.identities(*OWNED) == before
        assert (tools.calls, kernel.writes()) == ([], [])

    def test_no_matching_device_is_active_and_writes_nothing(self, unit: Unit, tree, tools):
        before = tree.snapshot(*EVERYWHERE)
        assert unit.run(devices="gpu=10de:2235") == ops.ActiveStatus("no matching device")
        assert tree.snapshot(*EVERYWHERE) == before
        assert tools.calls == []

    def test_a_failing_rebuild_is_told_and_tried_again(self, unit: Unit, tools):
        tools.failing["grub"] = "grub-mkconfig: syntax error"
        found = unit.run(devices=GPUS)
        assert found == ops.BlockedStatus(
            "grub failed with exit code 1: grub-mkconfig: syntax error"
        )
        tools.failing.clear()
        assert unit.run("update_status") == REBOOT

    def test_one_that_goes_on_failing_is_not_tried_at_each_update_status(
        self, unit: Unit, tools, monkeypatch
    ):
        now = 1000.0
        monkeypatch.setattr(retries.time, "monotonic", lambda: now)
        tools.failing["initramfs"] = "No space left on device"
        said = unit.run(devices=GPUS)
        tried = []
        for _ in range(24):
            now += 300
            tools.calls.clear()
            assert unit.run("update_status") == said
            tried.append(tools.calls == ["rebuild initramfs"])
        assert [number for number, each in enumerate(tried, 1) if each] == [1, 3, 7, 15]
        # So does an update-status behind a change, any other hook, and the one behind that.
        tools.failing.clear()
        tools.calls.clear()
        assert unit.run("update_status") == said
        assert tools.calls == []
        unit.configure(devices=ONE)
        assert unit.run("update_status") == REBOOT
        assert tools.calls == ["rebuild initramfs", "rebuild grub"]

    def test_other_hooks_try_at_once_and_so_does_the_update_status_behind_them(
        self, unit: Unit, tools
    ):
        tools.failing["grub"] = "No space left on device"
        said = unit.run(devices=GPUS)
        for event in ("update_status", "update_status", "start", "leader_elected"):
            assert unit.run(event) == said
        assert tools.calls.count("rebuild grub") == 4, "the second update-status waits"
        tools.failing.clear()
        assert unit.run("update_status") == REBOOT

    def test_what_keeps_a_rebuild_from_its_work_is_seen_to_be_gone(self, unit: Unit, tree, tools):
        settings = "etc/initramfs-tools/update-initramfs.conf"
        tree.write(settings, "update_initramfs=no\n")
        said = unit.run(devices=GPUS)
        assert said == ops.BlockedStatus(
            f"/{settings} says update_initramfs=no, so no image is made anew; set"
            " update_initramfs=yes there"
        )
        for _ in range(4):
            assert unit.run("update_status") == said
        assert tools.calls == []
        tree.write(settings, "update_initramfs=yes\n")
        assert unit.run("update_status") == REBOOT

    def test_while_somebody_else_rebuilds_it_waits(self, unit: Unit, tree, tools, monkeypatch):
        monkeypatch.setattr(turns, "WAIT", 0.0)
        tree.write("proc/4711/cmdline", "/bin/sh\0/usr/sbin/update-grub\0")
        assert unit.run(devices=GPUS) == ops.WaitingStatus(
            "update-grub runs (process 4711), for 0 s now; nothing was changed, and the next hook"
            " tries again"
        )
        (tree.root / "proc/4711/cmdline").unlink()
        assert unit.run("update_status") == REBOOT
        assert tools.calls == ["rebuild initramfs", "rebuild grub"]

    def test_what_is_done_goes_to_the_log(self, unit: Unit):
        unit.run(devices=GPUS)
        said = unit.logged("INFO")
        assert "/etc/default/grub.d/95-pci-passthrough.cfg: written" in said
        assert "initramfs: rebuilt" in said


HOSTILE = {
    "id": (
        {"devices": "gpu=10de:zzzz"},
        'devices: item 1 "gpu=10de:zzzz": product id "zzzz" is not four hex digits, e.g. 10de:1bb0',
    ),
    "key": (
        {"devices": "- {id: 10de:1bb0, slot: 1}"},
        "devices: item 1 {'id': '10de:1bb0', 'slot': '1'}: unknown key \"slot\"; the keys are"
        " alias, id, address, exclude, device-type, numa-policy, resource-class, traits,"
        " live-migratable, managed, physical-network, trusted, one-time-use, driver, quarantine,"
        " companions, allow-in-use, vfs",
    ),
    "other-id": (
        {"devices": "gpu=10de:1bb0@0000:3b:00.0"},
        "devices: item 1 gpu=10de:1bb0@0000:3b:00.0: 0000:3b:00.0 holds 8086:1572, not 10de:1bb0;"
        " correct the id or the address",
    ),
    "twice": (
        {"devices": "a=10de:1bb0, b=10de:1bb0@84:00.0"},
        "devices: item 2 b=10de:1bb0@0000:84:00.0: 0000:84:00.0 is claimed by item 1 (a=10de:1bb0)"
        " too; narrow one of them by address",
    ),
    "ten-thousand": (
        {"devices": "10de:1bb0 " * 10_000},
        'devices: item 257 "10de:1bb0": there are 10000, and at most 256 are accepted. One item by'
        " id alone, or with an address glob such as 0000:8[34]:00.0, covers many devices",
    ),
    "substitution": (
        {"devices": GPUS, "kernel_options": "x=$(reboot)"},
        'kernel-options: item 1 "x=$(reboot)": not NAME or NAME=VALUE of letters, digits and'
        " . _ - , : / @ + % (quotes, spaces, ; and $ cannot be passed on)",
    ),
    "newline": (
        {"devices": '- {id: 10de:1bb0, alias: "a\\nb"}'},
        "devices: item 1 {'alias': 'a\\nb', 'id': '10de:1bb0'}: alias: alias \"a\\nb\" is not a"
        " name of up to 64 letters, digits, '.', '_' and '-' that begins with a letter or digit",
    ),
    "quote": (
        {"devices": GPUS, "blacklist_drivers": "nouveau'"},
        "blacklist-drivers: item 1 \"nouveau'\": not a module name (letters, digits, '_' and '-');"
        " write auto, or names such as nouveau,nvidiafb",
    ),
}


class TestHostileConfiguration:
    @pytest.mark.parametrize(("config", "message"), HOSTILE.values(), ids=HOSTILE)
    def test_blocks_with_option_item_and_reason_and_writes_nothing(
        self, unit: Unit, tree, tools, config: dict[str, Any], message: str
    ):
        before = tree.snapshot(*EVERYWHERE)
        assert unit.run(**config) == ops.BlockedStatus(message)
        assert unit.run("update_status") == ops.BlockedStatus(message)
        assert tree.snapshot(*EVERYWHERE) == before
        assert tools.calls == []

    def test_leaves_what_an_earlier_configuration_made(self, ready: Unit, tree, kernel):
        before = tree.snapshot(*EVERYWHERE)
        assert ready.run(devices="gpu=10de:zzzz").name == "blocked"
        assert tree.snapshot(*EVERYWHERE) == before
        assert ready.run(devices=GPUS) == ops.ActiveStatus("gpu: 2 ready")

    def test_does_not_stop_the_removal(self, ready: Unit, kernel):
        ready.run(devices="gpu=10de:zzzz")
        ready.run("stop")
        assert "vfio-pci" not in kernel.drivers().values()

    @pytest.mark.parametrize("action", ["plan", "verify", "rebind"])
    def test_fails_an_action_with_the_same_words(self, unit: Unit, action: str):
        unit.run(devices="gpu=10de:zzzz")
        message, results = unit.act_in_vain(action)
        assert message == HOSTILE["id"][1]
        assert results == {}

    def test_leaves_list_devices_working(self, unit: Unit):
        unit.run(devices="gpu=10de:zzzz")
        assert len(unit.act("list-devices")["devices"]) == 14


class TestRemoval:
    def test_restores_etc_and_gives_the_devices_back(self, unit: Unit, kernel, tree, tools):
        before = tree.snapshot(*OWNED)
        unit.run(devices=GPUS, blacklist_drivers="nvidiafb", kernel_options="pci=realloc")
        kernel.reboot()
        unit.run("start")
        assert unit.run("stop") == ops.MaintenanceStatus("everything given back")
        assert tree.snapshot(*OWNED) == before
        assert "vfio-pci" not in kernel.drivers().values()
        tools.calls.clear()
        unit.run("remove")
        assert tools.calls == []

    def test_works_after_the_relation_is_gone(self, ready: Unit, kernel, tree):
        ready.relate()
        ready.run("stop")
        assert "vfio-pci" not in kernel.drivers().values()

    def test_that_cannot_rebuild_fails_so_that_juju_runs_it_again(self, ready: Unit, tools):
        tools.failing["initramfs"] = "No space left on device"
        with pytest.raises(testing.errors.UncaughtCharmError, match="No space left on device"):
            ready.run("stop")
        tools.failing.clear()
        assert ready.run("stop") == ops.MaintenanceStatus("everything given back")

    def test_leaves_what_a_guest_holds_and_says_so(self, ready: Unit, kernel):
        kernel.hold("0000:83:00.0")
        left = "left on vfio-pci until the next boot: 0000:83:00.0 0000:83:00.1"
        for event in ("stop", "remove"):
            assert ready.run(event) == ops.MaintenanceStatus(left)
        assert kernel.drivers()["0000:83:00.0"] == "vfio-pci"
        assert kernel.drivers()["0000:84:00.0"] == "nouveau"
        warnings = ready.logged("WARNING")
        assert any("0000:83:00.0" in warning for warning in warnings)

    def test_leaves_what_a_driver_does_not_let_go_of_and_says_so(self, ready: Unit, kernel):
        kernel.refuse("0000:83:00.0/driver/unbind")
        left = "left on vfio-pci until the next boot: 0000:83:00.0"
        assert ready.run("stop") == ops.MaintenanceStatus(left)
        assert kernel.drivers()["0000:83:00.0"] == "vfio-pci"
        assert kernel.drivers()["0000:84:00.0"] == "nouveau"
        warnings = ready.logged("WARNING")
        assert [
            each for each in warnings if each.startswith("left on vfio-pci until the next boot")
        ]


class TestActions:
    def test_list_devices_shows_table_and_structure(self, unit: Unit):
        found = unit.act("list-devices")
        rows = {row["address"]: row for row in found["devices"]}
        assert set(found) == {"table", "devices"}
        assert rows["0000:83:00.0"]["devices"] == "10de:1bb0@0000:83:00.0"
        assert all(address in found["table"] for address in rows)

    @pytest.mark.parametrize(
        ("match", "count"),
        [("10de:*", 6), ("0000:83:*", 2), ("0000:83:00.0", 1), ("8086:1572", 2), ("x", 0)],
    )
    def test_list_devices_can_be_narrowed(self, unit: Unit, match: str, count: int):
        assert len(unit.act("list-devices", match=match)["devices"]) == count

    @pytest.mark.parametrize(
        ("text", "reason"),
        [
            ("made-up=83:00.0", "is left out on this host by host-exceptions"),
            ("other=83:00.0", None),
            ("made-up=", None),
        ],
        ids=["here", "elsewhere", "not-accepted"],
    )
    def test_list_devices_shows_what_this_host_leaves_out(self, unit: Unit, text: str, reason):
        unit.configure(host_exceptions=text)
        (row,) = unit.act("list-devices", match="0000:83:00.0")["devices"]
        assert (row["claimable"], row["reason"]) == (reason is None, reason)

    def test_plan_shows_what_would_change_and_changes_nothing(self, unit: Unit, tree):
        unit.configure(devices=GPUS)
        before = tree.snapshot(*EVERYWHERE)
        found = unit.act("plan")
        assert found["plan"]["rebuild"] == ["initramfs", "grub"]
        assert [each["address"] for each in found["plan"]["claims"]] == list(CLAIMED)
        assert "+++ b/etc/default/grub.d/95-pci-passthrough.cfg" in found["table"]
        assert tree.snapshot(*EVERYWHERE) == before

    def test_verify_is_green_when_ready(self, ready: Unit):
        checks = ready.act("verify")["checks"]
        assert {check["status"] for check in checks} <= {"ok", "unknown"}
        assert {f"driver {address}" for address in CLAIMED} <= {each["name"] for each in checks}

    def test_verify_fails_and_still_shows_every_check(self, ready: Unit, tree):
        tree.bind("0000:84:00.0", "nouveau")
        message, results = ready.act_in_vain("verify")
        assert "to mend it: " in results["table"]
        message, results = ready.act_in_vain("verify", format="json")
        checks = {each["name"]: each for each in json.loads(results["checks"])}
        assert checks["driver 0000:84:00.0"]["status"] == "fail"
        assert "driver 0000:84:00.0" in message
        assert message.partition(" checks failed: ")[0].endswith(f" of {len(checks)}")

    def test_rebind_reports_every_function(self, ready: Unit, kernel):
        found = ready.act("rebind", format="json")
        assert ready.context.action_logs == [f"{each}: bound to vfio-pci" for each in CLAIMED]
        assert [each["address"] for each in found["functions"]] == list(CLAIMED)
        assert all(each["bound"] for each in found["functions"])
        found = ready.act("rebind")
        assert "0000:83:00.0  bound to vfio-pci" in found["table"]

    @pytest.mark.parametrize(
        ("match", "addresses"),
        [
            ("", CLAIMED),
            ("0000:84:*", CLAIMED[2:]),
            ("10de:1bb0", ("0000:83:00.0", "0000:84:00.0")),
            ("*", CLAIMED),
        ],
    )
    def test_rebind_can_be_narrowed(self, ready: Unit, match: str, addresses: tuple[str, ...]):
        found = ready.act("rebind", match=match, format="json")
        assert tuple(each["address"] for each in found["functions"]) == addresses

    @pytest.mark.parametrize("match", ["0000:85:*", "x"])
    def test_rebind_of_no_match_is_refused(self, ready: Unit, kernel, match: str):
        message, results = ready.act_in_vain("rebind", match=match)
        assert message.startswith(f'no claimed function matches "{match}"; claimed are 0000:83:00.')
        assert (results, kernel.writes()) == ({}, [])

    def test_rebind_of_what_a_guest_holds_fails_and_does_the_rest(self, ready: Unit, kernel):
        kernel.hold("0000:83:00.0")
        message, results = ready.act_in_vain("rebind", format="json")
        assert "0000:83:00.0: a guest holds it" in message
        bound = {row["address"]: row["bound"] for row in json.loads(results["functions"])}
        assert bound == {
            "0000:83:00.0": False,
            "0000:83:00.1": False,
            "0000:84:00.0": True,
            "0000:84:00.1": True,
        }

    def test_rebind_of_one_that_is_not_claimed_is_refused(self, ready: Unit, kernel):
        message, results = ready.act_in_vain("rebind", address="0000:85:00.0")
        assert message.startswith('"0000:85:00.0" is not claimed on this host; claimed are 0000:83')
        assert results == {}
        assert kernel.writes() == []

    def test_results_that_juju_cannot_carry_are_left_out_and_said(
        self, unit: Unit, monkeypatch: pytest.MonkeyPatch
    ):
        monkeypatch.setattr(actions, "MAX_RESULT", 4_000)
        message, results = unit.act_in_vain("list-devices", format="json")
        assert message.startswith("devices: more than Juju carries in one result; narrow the")
        assert results == {}, "half a text of JSON is none"
        assert list(unit.act("list-devices", format="table")) == ["table"]
        monkeypatch.setattr(actions, "MAX_RESULT", 400)
        message, results = unit.act_in_vain("list-devices", format="table")
        assert message.startswith("table: more than Juju carries in one result; narrow the")
        assert results == {}
        monkeypatch.setattr(actions, "MAX_RESULT", 4_000)
        assert unit.act("list-devices", match="0000:83:00.0")["devices"]

    @pytest.mark.parametrize(
        ("action", "key"),
        [
            ("list-devices", "devices"),
            ("plan", "plan"),
            ("verify", "checks"),
            ("rebind", "functions"),
        ],
    )
    def test_each_gives_one_result_of_the_kind_that_was_asked_for(
        self, ready: Unit, action: str, key: str
    ):
        assert list(ready.act(action, format="json")) == [key]
        assert list(ready.act(action, format="table")) == ["table"]
        declared = DECLARED["actions"][action]["params"]["format"]
        assert (declared["default"], declared["enum"]) == ("table", ["table", "json"])

    @pytest.mark.parametrize("action", ["list-devices", "plan", "verify"])
    def test_that_only_look_change_no_file(self, ready: Unit, tree, action: str):
        before = tree.identities(*OWNED)
        ready.act(action)
        assert tree.identities(*OWNED) == before

    def test_an_action_leaves_the_status_as_the_host_is(self, ready: Unit, tree):
        ready.act("plan")
        assert ready.status == "active: gpu: 2 ready"


class TestPlanOfWhatIsTried:
    def test_shows_it_and_changes_neither_host_nor_status(self, ready: Unit, tree):
        before = tree.identities(*OWNED)
        found = ready.act("plan", devices="gpu=10de:1bb0@0000:83:00.0")
        assert found["plan"]["release"] == ["0000:84:00.0", "0000:84:00.1"]
        assert found["plan"] != ready.act("plan")["plan"]
        assert tree.identities(*OWNED) == before
        assert ready.status == "active: gpu: 2 ready"

    def test_takes_every_option_by_its_name_and_type(self):
        options = DECLARED["config"]["options"]
        params = DECLARED["actions"]["plan"]["params"]
        in_schema = {"int": "integer"}  # JSON Schema's name, which Juju has for parameters
        assert {name: row["type"] for name, row in params.items() if name != "format"} == {
            name: in_schema.get(row["type"], row["type"]) for name, row in options.items()
        }
        assert [name for name, row in params.items() if "default" in row] == ["format"]

    def test_of_a_text_that_is_refused_fails_and_the_unit_stays_as_it_is(self, ready: Unit):
        message, results = ready.act_in_vain("plan", devices="gpu=10de:zzzz")
        assert message.startswith('devices: item 1 "gpu=10de:zzzz": product id "zzzz" is not')
        assert results == {}
        assert ready.status == "active: gpu: 2 ready"


class TestReconcile:
    def test_does_what_a_hook_does(self, ready: Unit, tree):
        tree.bind("0000:84:00.0", "nouveau")
        found = ready.act("reconcile", format="json")
        assert found == {"unit": {"status": "active", "message": "gpu: 2 ready"}}
        assert kernel_model.driver_of(tree.root, "0000:84:00.0") == "vfio-pci"
        assert ready.act("reconcile", format="table") == {"table": "active: gpu: 2 ready"}

    def test_asks_for_no_reboot_which_the_next_hook_does(self, unit: Unit):
        unit.configure(devices=GPUS, reboot="when-idle")
        message = unit.act("reconcile", format="json")["unit"]["message"]
        assert message == f"the next hook reboots the host: {REBOOT.message.partition(': ')[2]}"

    def test_fails_where_the_unit_is_blocked(self, unit: Unit):
        message, results = unit.act_in_vain("reconcile", format="json")
        assert message == NOT_SET.message
        assert json.loads(results["unit"]) == {"status": "blocked", "message": message}


@pytest.mark.parametrize("name", DECLARED["actions"])
def test_an_action_takes_nothing_that_is_not_declared(name: str):
    assert re.fullmatch("[a-z]+(-[a-z]+)*", name)
    assert DECLARED["actions"][name]["additionalProperties"] is False
    assert DECLARED["actions"][name]["description"]


class TestAnErrorThatNobodyHasThoughtOf:
    """Juju's error state would show a traceback to nobody, and stop the unit's other hooks."""

    TOLD = (
        "blocked: unexpected ValueError: two lines; the unit's log has the rest (juju debug-log),"
        " and the next hook tries again"
    )

    @staticmethod
    def break_down(*_: object, **__: object):
        raise ValueError("two\nlines")

    @pytest.mark.parametrize("event", HOOKS)
    def test_blocks_the_unit_with_a_sentence_and_the_next_hook_mends_it(
        self, unit: Unit, kernel, event: str, monkeypatch: pytest.MonkeyPatch
    ):
        unit.run(devices=GPUS)
        kernel.reboot()
        with monkeypatch.context() as patch:
            patch.setattr(survey, "look", self.break_down)
            unit.run(event)
            assert unit.status == self.TOLD
        (line,) = [each for each in unit.logged("ERROR") if "a mistake in this charm" in each]
        assert "Traceback" in line
        unit.run("update_status")
        assert unit.status == "active: gpu: 2 ready"

    def test_in_the_middle_of_the_work_leaves_nova_what_is_ready(
        self, ready: Unit, tools, monkeypatch: pytest.MonkeyPatch
    ):
        monkeypatch.setattr(tools, "rebuild", self.break_down)
        ready.run(devices="gpu=10de:1bb0")
        assert ready.status == self.TOLD

    def test_while_it_sums_up(self, ready: Unit, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.setattr(status, "summarize", self.break_down)
        ready.run()
        assert ready.status == self.TOLD

    def test_fails_an_action_with_the_same_sentence(
        self, ready: Unit, monkeypatch: pytest.MonkeyPatch
    ):
        with monkeypatch.context() as patch:
            patch.setattr(survey, "look", self.break_down)
            reason, _ = ready.act_in_vain("plan")
        assert f"blocked: {reason}" == self.TOLD == ready.status
        assert ready.act("plan")["plan"]["rebuild"] == []

    def test_lets_a_removal_fail_so_that_juju_runs_it_again(
        self, ready: Unit, monkeypatch: pytest.MonkeyPatch
    ):
        """Were it told and over, nobody would come back to give the devices back."""
        monkeypatch.setattr(survey, "look", self.break_down)
        with pytest.raises(testing.errors.UncaughtCharmError):
            ready.run("stop")


def test_two_applications_have_files_of_their_own(unit: Unit, tree, kernel):
    unit.run(devices="gpu=10de:1bb0@83:00.0")
    second = Unit(unit.world.beside("qat"))
    second.run(devices="gpu=10de:1bb0@84:00.0")
    kernel.reboot()
    for each in (unit, second):
        assert each.run("start") == ops.ActiveStatus("gpu: 1 ready")
    assert (tree.root / "etc/modules-load.d/pci-passthrough-qat.conf").exists()
    assert kernel.drivers() == READY


class TestRebootWhenIdle:
    @pytest.fixture
    def idle(self, unit: Unit, monkeypatch: pytest.MonkeyPatch) -> Unit:
        monkeypatch.setattr(ops.Unit, "reboot", lambda self: None)
        unit.world.nova.install()
        unit.configure(devices=GPUS, reboot="when-idle")
        return unit

    def test_stops_nova_compute_beside_its_own_principal(self, idle: Unit, tools):
        for name in ("nova-compute-0", "pci-passthrough-0"):
            idle.world.tree.write(f"var/lib/juju/agents/unit-{name}/agent.conf", "# format 2.0\n")
        idle.run()
        assert idle.status.startswith("maintenance: rebooting: the IOMMU is off")
        assert "stop nova-compute" in tools.calls

    def test_waits_for_the_unit_of_another_principal(self, idle: Unit, tools):
        idle.world.tree.write("var/lib/juju/agents/unit-nova-compute-7/agent.conf", "# x\n")
        idle.run()
        waiting = "waiting: reboot when nobody needs the host, and now unit nova-compute/7 do; "
        assert idle.status.startswith(waiting)
        idle.act("plan")
        assert idle.status.startswith(waiting)
        assert "stop nova-compute" not in tools.calls

    def test_that_juju_refuses_starts_nova_compute_at_once(
        self, idle: Unit, tools, monkeypatch: pytest.MonkeyPatch
    ):
        def refuse(_: ops.Unit) -> None:
            raise ops.ModelError("ERROR connection is shut down")

        monkeypatch.setattr(ops.Unit, "reboot", refuse)
        idle.run()
        assert idle.status.startswith("blocked: unexpected ModelError: ERROR connection is shut")
        assert tools.calls[-2:] == ["stop nova-compute", "start nova-compute"]

    def test_that_did_not_happen_gives_nova_compute_back_as_the_unit_leaves(
        self, idle: Unit, tools
    ):
        idle.run()
        tools.calls.clear()
        idle.run("stop")
        assert tools.calls[0] == "start nova-compute"
