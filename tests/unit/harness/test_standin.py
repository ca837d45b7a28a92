"""Tests of the unit-agent stand-in: a stand-in that is wrong would make every other test wrong.

Formats are proved by the real ops (tests/harness/standin/testcharm), refusals and processes by
charms that are a few lines of shell.
"""

import itertools
import json
import os
import pathlib
import re
import stat
import subprocess
import sys
import time
import zipfile

import pytest
from harness import standin
from harness.standin import bytecode, charmdir, declared, server, toolbox

TESTS = pathlib.Path(__file__).parents[2]
HARNESS = TESTS / "harness"
TESTCHARM = HARNESS / "standin" / "testcharm"
ENV = {"TESTCHARM_PYTHON": sys.executable}
SUBORDINATE = (
    "subordinate: true\n"
    "requires: {host: {interface: juju-info, scope: container}}\n"
    "provides: {controller: {interface: vmware, scope: container}, web: {interface: w}}"
)


def names(runs):
    return [run.name for run in runs]


def logged(agent, unit, event, label):
    """JSON behind the first word `label` of the lines that the test charm logged in `event`."""
    lines = [line for line in agent.log(unit) if line.event == event and line.level == "INFO"]
    texts = [line.message for line in lines if line.message.startswith(label + " ")]
    return [json.loads(text.partition(" ")[2]) for text in texts]


def case(**hooks):
    """A shell script that runs a command in each of the named hooks (``_`` for ``-``)."""
    arms = [f"{name.replace('_', '-')}) {command};;" for name, command in hooks.items()]
    return "\n".join(["case $hook in", *arms, "esac"])


@pytest.fixture
def agent(tmp_path):
    return standin.Agent(tmp_path / "agent", env=ENV)


@pytest.fixture
def shell_charm(tmp_path):
    """Make a charm whose dispatch is a shell script, and which is a principal by default."""
    serial = itertools.count()

    def make(script="", *, name="shell", metadata="provides: {web: {interface: w}}", **files):
        charm = tmp_path / f"charm-{next(serial)}"
        charm.mkdir()
        (charm / "metadata.yaml").write_text(f"name: {name}\n{metadata}\n")
        (charm / "config.yaml").write_text("options: {text: {type: string, default: a}}\n")
        (charm / "actions.yaml").write_text("act: {}\n")
        for file, text in files.items():
            (charm / file).write_text(text)
        dispatch = charm / "dispatch"
        dispatch.write_text(f"#!/bin/sh\nhook=${{JUJU_DISPATCH_PATH##*/}}\n{script}\n")
        dispatch.chmod(0o755)
        return charm

    return make


@pytest.fixture(scope="module")
def deployed(tmp_path_factory):
    """The ops charm beside ncc/0, and its runs; only for tests that change nothing."""
    agent = standin.Agent(tmp_path_factory.mktemp("deployed"), env=ENV)
    config = {"text": "hi", "ratio": "1.5"}
    runs = agent.deploy(TESTCHARM, principal="ncc/0", endpoint="vmware", config=config)
    return agent, runs


class TestDeploy:
    def test_runs_the_hooks_in_jujus_order(self, deployed):
        _, runs = deployed
        assert names(runs) == [
            "install",
            "controller-relation-created",
            "leader-elected",
            "config-changed",
            "start",
            "controller-relation-joined",
            "controller-relation-changed",
        ]
        assert {run.exit_code for run in runs} == {0}

    def test_the_status_is_the_charms(self, deployed):
        agent, _ = deployed
        assert str(agent.status()) == "active: text is 'hi'"

    def test_environment_of_a_plain_hook(self, deployed):
        agent, _ = deployed
        (env,) = logged(agent, None, "install", "environment")
        assert env["JUJU_UNIT_NAME"] == "testcharm/0"
        assert env["JUJU_PRINCIPAL_UNIT"] == "ncc/0"
        assert env["JUJU_DISPATCH_PATH"] == "hooks/install"
        assert env["JUJU_HOOK_NAME"] == "install"
        assert env["JUJU_CHARM_DIR"] == str(agent.unit_directory() / "charm")
        assert "JUJU_RELATION" not in env

    def test_environment_of_a_relation_hook(self, deployed):
        agent, _ = deployed
        (env,) = logged(agent, None, "controller-relation-joined", "environment")
        assert env["JUJU_RELATION"] == "controller"
        assert env["JUJU_RELATION_ID"] == "controller:0"
        assert env["JUJU_REMOTE_APP"] == "ncc"
        assert env["JUJU_REMOTE_UNIT"] == "ncc/0"
        (created,) = logged(agent, None, "controller-relation-created", "environment")
        assert created["JUJU_REMOTE_UNIT"] == ""

    def test_no_remote_unit_is_listed_before_it_joins(self, deployed):
        agent, runs = deployed
        assert logged(agent, None, "controller-relation-created", "relation") == [{"ncc": {}}]
        (joined,) = logged(agent, None, "controller-relation-joined", "relation")
        assert joined["ncc/0"]["private-address"] == "10.0.0.10"
        assert not [call for call in runs[0].calls if call.tool == "relation-list"]

    def test_databags_are_written_through_ops(self, deployed):
        agent, _ = deployed
        assert agent.relation_data("controller", "testcharm") == {"app-text": "hi"}
        assert agent.relation_data("controller", "testcharm/0")["unit-text"] == "hi"
        written = {tuple(call.data.items()) for call in agent.calls("relation-set")}
        assert written == {(("app-text", "hi"),), (("unit-text", "hi"),)}

    def test_the_callers_environment_does_not_leak(self, shell_charm, tmp_path, monkeypatch):
        monkeypatch.setenv("PYTHONPATH", "/leak")
        agent = standin.Agent(tmp_path / "a", env={"EXTRA": "1"}, path_prefix=["/first"])
        agent.deploy(shell_charm(case(start="env")))
        printed = {line.message for line in agent.log() if line.event == "start"}
        assert "EXTRA=1" in printed
        assert not any(line.startswith("PYTHONPATH=") for line in printed)
        (path,) = [line for line in printed if line.startswith("PATH=")]
        assert path.startswith(f"PATH={tmp_path / 'a' / 'tools'}:/first:/usr/local/sbin:")

    def test_what_a_hook_prints_is_logged(self, deployed):
        agent, _ = deployed
        printed = [line for line in agent.log() if line.message == "printed by the hook"]
        assert [(line.event, line.level) for line in printed] == [("config-changed", "DEBUG")]

    def test_needs_a_principal_for_a_subordinate(self, agent):
        with pytest.raises(standin.ModelError, match="needs a principal"):
            agent.deploy(TESTCHARM)

    def test_peer_relations_are_refused_not_guessed(self, agent, shell_charm):
        charm = shell_charm(metadata="peers: {c: {interface: c}}")
        with pytest.raises(standin.NotModelledError, match="peer"):
            agent.deploy(charm)


class TestTools:
    def test_through_ops(self, deployed):
        agent, _ = deployed
        result = agent.action("exercise")
        assert not result.failed, result.run.stderr
        model = json.loads((agent.directory / "model.json").read_text())
        assert result.log == ("half way",)
        assert result.results == {
            "app-status": "set by the leader",
            "config": '{"count": 3, "enabled": false, "ratio": 1.5, "text": "hi"}',
            "leader": "True",
            "model": model["uuid"],
            "network": "10.0.0.10",
            "own-app-data": "hi",
            "planned": "1",
            "ports": "['80/tcp']",
            "state": '{"key": "value"}',
            "status": {"name": "active", "message": "text is 'hi'"},
        }
        assert str(agent.app_status()) == "blocked: set by the leader"
        assert model["applications"]["testcharm"]["workload_version"] == "1.2.3"
        assert model["units"]["testcharm/0"]["ports"] == ["80/tcp"]

    def test_calls_are_recorded_with_their_data(self, agent, shell_charm):
        agent.deploy(shell_charm(case(act="action-set a.b=1 c='x=y'")))
        result = agent.action("act")
        (call,) = agent.calls("action-set")
        assert (call.event, call.exit_code) == ("actions/act", 0)
        assert call.data == {"a.b": "1", "c": "x=y"}
        assert result.results == {"a": {"b": "1"}, "c": "x=y"}

    @pytest.mark.parametrize(
        ("command", "message"),
        [
            ("relation-get -r web:9 - other/0", "relation not found"),
            ("relation-get - other/0", "no relation id specified"),
            ("status-set splendid", "invalid status"),
            ("is-leader --fast", "flag provided but not defined: --fast"),
            ("config-get", "only --format=json"),
            ("action-get", "not running an action"),
            ("open-port lots", "invalid port"),
            ("relation-set -r", "flag needs an argument"),
        ],
    )
    def test_refusals(self, agent, shell_charm, command, message):
        with pytest.raises(standin.HookFailedError, match=r"exit code [12]\b") as caught:
            agent.deploy(shell_charm(command))
        assert re.search(f"ERROR .*{message}", caught.value.output)

    def test_a_tool_that_is_not_modelled_ends_the_test(self, agent, shell_charm):
        with pytest.raises(standin.NotModelledError, match="install: the charm ran: secret-ids"):
            agent.deploy(shell_charm("secret-ids || true"))

    def test_arguments_survive_byte_for_byte(self, agent, shell_charm):
        text = "-a\né"
        agent.deploy(shell_charm(case(start=f'juju-log -l ERROR -- "{text}"')))
        assert [line.message for line in agent.log() if line.level == "ERROR"] == [text]


class TestConfig:
    @pytest.mark.parametrize(
        ("name", "value", "message"),
        [
            ("nope", "1", 'unknown option "nope"'),
            ("count", "many", 'option "count" expected int, got "many"'),
            ("count", True, 'option "count" expected int, got true'),
            ("enabled", "yes", 'option "enabled" expected boolean, got "yes"'),
            ("text", 5, 'option "text" expected string, got 5'),
        ],
    )
    def test_refused_as_juju_does(self, deployed, name, value, message):
        agent, _ = deployed
        before = (agent.directory / "model.json").read_bytes()
        with pytest.raises(standin.ModelError, match=re.escape(message)):
            agent.config({"text": "other", name: value})
        assert (agent.directory / "model.json").read_bytes() == before

    @pytest.mark.parametrize(
        ("kind", "text", "value"),
        [("boolean", "T", True), ("int", "-3", -3), ("float", "2", 2.0), ("int", "", None)],
    )
    def test_text_becomes_the_declared_type(self, kind, text, value):
        assert declared.parse_option({"options": {"o": {"type": kind}}}, "o", text) == value

    def test_set_reset_and_rerun(self, agent, shell_charm):
        charm = shell_charm(case(config_changed="juju-log -- $(config-get text)"))
        agent.deploy(charm, config={"text": "b"})
        assert names(agent.config(text="c")) == ["config-changed"]
        assert names(agent.config()) == ["config-changed"]
        agent.config(reset=["text"])
        seen = [line.message for line in agent.log() if line.event == "config-changed"]
        assert seen == ["b", "c", "c", "a"]


class TestAction:
    @pytest.mark.parametrize(
        ("params", "message"),
        [
            ({}, '"who" property is missing'),
            ({"who": 5}, "must be of type string"),
            ({"who": "Bob"}, "does not match pattern"),
            ({"who": "bob", "times": True}, "must be of type integer"),
            ({"who": "bob", "times": 0}, "out of range"),
            ({"who": "bob", "style": "odd"}, "must match one of"),
            ({"who": "bob", "extra": 1}, 'additional property "extra" is not allowed'),
        ],
    )
    def test_parameters_are_refused(self, deployed, params, message):
        agent, _ = deployed
        with pytest.raises(standin.ActionRefusedError, match=message):
            agent.action("greet", params)

    def test_an_unknown_action_is_refused(self, deployed):
        agent, _ = deployed
        with pytest.raises(standin.ActionRefusedError, match="not defined"):
            agent.action("dance")

    def test_an_unknown_schema_keyword_is_not_guessed(self):
        actions = {"a": {"params": {"p": {"oneOf": []}}}}
        with pytest.raises(standin.NotModelledError, match="oneOf"):
            declared.action_parameters(actions, "a", {"p": 1})

    def test_defaults_are_filled_in(self, deployed):
        agent, _ = deployed
        assert agent.action("greet", {"who": "bob"}).results == {"greeting": "hello bob"}

    def test_action_fail_keeps_the_results(self, deployed):
        agent, _ = deployed
        result = agent.action("give-up")
        assert (result.failed, result.message) == (True, "no way out")
        assert result.results == {"tried": "yes"}

    def test_an_exception_fails_the_action_and_not_the_unit(self, deployed):
        agent, _ = deployed
        result = agent.action("crash")
        assert (result.failed, result.message) == (True, "exit status 1")
        assert "Uncaught RuntimeError" in result.run.stderr
        assert agent.status().name == "active"

    @pytest.mark.parametrize(
        ("text", "value"),
        [
            ("0000:83:00.0", "0000:83:00.0"),
            ("1", 1),
            ("true", True),
            ("no", False),
            ("[1]", [1]),
            ("", ""),
        ],
    )
    def test_typed_parameters_from_text(self, text, value):
        assert declared.parse_parameters({"a.b": text}) == {"a": {"b": value}}


class TestFailure:
    def test_a_failed_hook_changes_no_relation_and_waits(self, agent, shell_charm):
        write = 'relation-set at="$(config-get text)"; [ "$(config-get text)" != bad ]'
        agent.deploy(shell_charm(case(web_relation_changed=write)), config={"text": "bad"})
        with pytest.raises(standin.HookFailedError, match="web-relation-changed"):
            agent.integrate("shell:web", "other")
        assert str(agent.status()) == 'error: hook failed: "web-relation-changed"'
        assert "at" not in agent.relation_data("web", "shell/0")
        with pytest.raises(standin.ModelError, match="in error"):
            agent.hook("update-status")
        assert names(agent.config(text="good")) == ["web-relation-changed", "config-changed"]
        assert agent.status().name != "error"
        assert agent.relation_data("web", "shell/0")["at"] == "good"

    def test_other_units_go_on(self, agent, shell_charm):
        bad = shell_charm(case(config_changed='[ "$(config-get text)" != bad ]'), name="bad")
        agent.deploy(bad)
        agent.deploy(shell_charm(name="good"))
        for app, text in (("bad", "bad"), ("good", "new")):
            with pytest.raises(standin.HookFailedError, match="bad/0"):
                agent.config(text=text, app=app)
        runs = [line.event for line in agent.calls(unit="good/0")]
        assert runs == []
        assert agent.status("good/0").name != "error"

    def test_resolve_without_retry_skips_the_hook(self, agent, shell_charm):
        with pytest.raises(standin.HookFailedError):
            agent.deploy(shell_charm(case(config_changed="false")))
        assert names(agent.resolve(retry=False)) == ["start"]
        assert agent.status().name != "error"

    def test_a_signal_and_the_time_limit(self, tmp_path, shell_charm):
        agent = standin.Agent(tmp_path / "agent", timeout=0.5)
        charm = shell_charm(case(act="kill -9 $$", config_changed="sleep 60"))
        with pytest.raises(standin.HookFailedError, match="killed by the stand-in") as caught:
            agent.deploy(charm)
        assert caught.value.exit_code == -9
        assert agent.action("act").run.exit_code == -9

    def test_a_daemon_left_behind_does_not_hold_the_agent(self, agent, shell_charm):
        started = time.monotonic()
        agent.deploy(shell_charm(case(install="sleep 20 &")))
        assert time.monotonic() - started < 10


class TestReboot:
    def test_after_the_hook(self, agent, shell_charm):
        agent.deploy(shell_charm(case(update_status="juju-reboot")))
        (run,) = agent.hook("update-status")
        assert (run.reboot, agent.reboot_due()) == ("after-hook", "after-hook")
        assert agent.config(text="x") == []  # the machine is going down
        with pytest.raises(standin.ModelError, match="reboot is due"):
            agent.hook("update-status")
        assert names(agent.rebooted()) == ["config-changed", "start"]
        assert agent.reboot_due() == ""

    def test_now_kills_the_hook_and_runs_it_again(self, agent, shell_charm):
        now = "[ -e rebooted ] || { touch rebooted; juju-reboot --now; touch survived; }"
        runs = agent.deploy(shell_charm(case(config_changed=now)))
        assert (runs[-1].reboot, runs[-1].exit_code) == ("now", -9)
        assert names(agent.rebooted()) == ["config-changed", "start"]
        assert not (agent.unit_directory() / "charm" / "survived").exists()

    def test_an_action_may_not(self, agent, shell_charm):
        agent.deploy(shell_charm(case(act="juju-reboot")))
        result = agent.action("act")
        assert result.failed
        assert "not supported when running an action" in result.run.stderr


class TestRelations:
    def test_one_application_beside_two_principals(self, agent, shell_charm):
        script = 'echo "$JUJU_PRINCIPAL_UNIT"; relation-ids --format=json host'
        charm = shell_charm(script, metadata=SUBORDINATE)
        agent.deploy(charm, principal="nova-compute/0")
        runs = agent.deploy(charm, principal="ncc/0", endpoint="controller")
        # Juju tells a unit of its application's relation to another principal, but never joins it.
        assert [run.name for run in runs if run.unit == "shell/1"] == [
            "install",
            "host-relation-created",
            "controller-relation-created",
            "leader-settings-changed",
            "config-changed",
            "start",
            "controller-relation-joined",
            "controller-relation-changed",
        ]
        assert [run.name for run in runs if run.unit == "shell/0"] == [
            "controller-relation-created"
        ]
        assert runs[-1].stdout.split() == ["ncc/0", '["host:0"]']

    def test_remote_data_comes_as_events(self, agent, shell_charm):
        show = "relation-get --format=json"
        agent.deploy(shell_charm(case(web_relation_changed=show)))
        data = {"other": {"app": "1"}, "other/0": {"unit": "2"}}
        runs = agent.integrate("shell:web", "other", data=data)
        assert [run.name.partition("relation-")[2] for run in runs] == [
            "created",
            "changed",  # application data, before any unit joins
            "joined",
            "changed",
        ]
        assert json.loads(runs[1].stdout) == {"app": "1"}
        assert json.loads(runs[3].stdout)["unit"] == "2"
        assert agent.set_remote_data("web", "other/0", {"unit": "2"}) == []
        (run,) = agent.set_remote_data("web", "other/0", {"unit": "", "new": "3"})
        assert {k: v for k, v in json.loads(run.stdout).items() if "-" not in k} == {"new": "3"}

    def test_two_charms_talk_to_each_other(self, agent, shell_charm):
        write = "relation-set -r web:0 at=$(config-get text)"
        script = case(web_relation_created=write, config_changed=f"{write} || true")
        agent.deploy(shell_charm(script))
        reader = case(db_relation_changed="relation-get at")
        agent.deploy(shell_charm(reader, name="reader", metadata="requires: {db: {interface: w}}"))
        runs = agent.integrate("shell", "reader")
        changed = [run for run in runs if run.name == "db-relation-changed"]
        assert [(run.unit, run.stdout) for run in changed] == [("reader/0", "a\n")]
        runs = agent.config(text="new", app="shell")
        assert [(run.unit, run.name) for run in runs] == [
            ("shell/0", "config-changed"),
            ("reader/0", "db-relation-changed"),
        ]
        assert runs[1].stdout == "new\n"

    @pytest.mark.parametrize(
        ("command", "refusal"),
        [
            ("relation-get --format=json -r web:0 - shell --app", "permission denied"),
            ("relation-set -r web:0 --app a=b", "cannot write relation settings"),
            ("relation-get -r web:0 - shell/0", "permission denied"),
            ("relation-get -r web:0 - other/7", "not found"),
            ("relation-get -r db:0 - other/0", "relation not found"),
            ("status-set --application=true active", "not the leader"),
        ],
    )
    def test_a_follower_is_refused(self, agent, shell_charm, command, refusal):
        charm = shell_charm(case(act=command))
        agent.deploy(charm)
        agent.deploy(charm)
        agent.integrate("shell:web", "other")
        result = agent.action("act", unit="shell/1")
        assert result.failed
        assert refusal in result.run.stderr
        if "app" in command:
            agent.elect("shell/1")
            assert not agent.action("act", unit="shell/1").failed

    def test_hooks_by_name(self, agent, shell_charm):
        agent.deploy(shell_charm("echo $JUJU_HOOK_NAME $JUJU_REMOTE_UNIT"))
        agent.integrate("shell:web", "other")
        assert names(agent.hook("update-status")) == ["update-status"]
        (run,) = agent.hook("relation-changed", relation="web")
        assert run.stdout.split() == ["web-relation-changed", "other/0"]
        with pytest.raises(standin.ModelError, match="no-such"):
            agent.hook("no-such-relation-changed")


class TestRemoval:
    def test_the_relation_to_the_principal_takes_the_unit_along(self, agent, shell_charm):
        departed = 'echo "$JUJU_DEPARTING_UNIT"; relation-list --format=json; relation-get key'
        broken = 'echo "$JUJU_REMOTE_APP$JUJU_REMOTE_UNIT"; relation-ids --format=json'
        script = case(host_relation_departed=departed, host_relation_broken=broken)
        agent.deploy(shell_charm(script, metadata=SUBORDINATE), principal="nova-compute/0")
        agent.set_remote_data("host", "nova-compute/0", {"key": "value"})
        charm = agent.unit_directory() / "charm"
        runs = agent.remove_relation("shell:host", "nova-compute")
        assert names(runs) == ["host-relation-departed", "host-relation-broken", "stop", "remove"]
        # The unit is dying by now, so it is the one that departs; the principal's data stays.
        assert runs[0].stdout.split() == ["shell/0", "[]", "value"]
        assert runs[1].stdout.split() == ["nova-compute", '["host:0"]']
        assert agent.units() == []
        assert not charm.exists()
        with pytest.raises(standin.ModelError, match="not installed"):
            agent.hook("update-status", unit="shell/0")

    def test_of_the_application(self, agent, shell_charm):
        agent.deploy(shell_charm("echo $JUJU_DEPARTING_UNIT"))
        agent.integrate("shell:web", "other", units=["other/0", "other/1"])
        runs = agent.remove()
        assert [run.name.replace("web-relation-", "") for run in runs] == [
            "departed",
            "departed",
            "broken",
            "stop",
            "remove",
        ]
        assert runs[0].stdout.strip() == "shell/0"

    def test_of_a_relation_that_leaves_the_unit_alive(self, agent, shell_charm):
        agent.deploy(shell_charm("echo $JUJU_DEPARTING_UNIT"))
        agent.integrate("shell:web", "other")
        runs = agent.remove_relation("shell:web")
        assert names(runs) == ["web-relation-departed", "web-relation-broken"]
        assert runs[0].stdout.strip() == "other/0"
        assert agent.units() == ["shell/0"]

    def test_a_principal_takes_its_subordinates_along(self, agent, shell_charm):
        agent.deploy(shell_charm(metadata=SUBORDINATE), principal="nova-compute/0")
        assert names(agent.remove_unit("nova-compute/0"))[-2:] == ["stop", "remove"]


class TestManners:
    """What differs between Juju 3.6 and 4.0, as it was read and seen."""

    TELL = """\
echo "$hook departing=$JUJU_DEPARTING_UNIT"
for end in host controller; do relation-ids --format=json $end; done
"""

    @pytest.fixture
    def beside(self, tmp_path, shell_charm):
        """Make the agents of a manner, with a unit beside nova-compute/0 and a foreign relation."""

        def make(manner, **opened):
            agent = standin.Agent(tmp_path / "agent", env=ENV, manner=manner)
            agent.deploy(shell_charm(self.TELL, metadata=SUBORDINATE), principal="nova-compute/0")
            agent.integrate("shell:controller", "ncc", units=["ncc/0"])
            agent.adopt(**opened)
            return agent

        return make

    @staticmethod
    def of_first(runs):
        return [run for run in runs if run.unit == "shell/0"]

    def test_juju_3_tells_of_its_own_principal_and_stops(self, beside):
        agent = beside(standin.JUJU_3)
        runs = self.of_first(agent.remove_relation("shell:host", "nova-compute"))
        assert names(runs)[-2:] == ["stop", "remove"]
        assert "controller-relation-departed" not in names(runs)
        assert "departing=shell/0" in runs[0].stdout

    def test_juju_3_may_still_call_it_alive(self, beside):
        agent = beside(standin.JUJU_3, late_death=True)
        runs = self.of_first(agent.remove_relation("shell:host", "nova-compute"))
        assert "departing=nova-compute/0" in runs[0].stdout
        assert names(runs)[-2:] == ["stop", "remove"]

    @pytest.mark.parametrize("own_first", [False, True])
    def test_juju_4_tells_of_all_and_takes_it_out_of_the_model(self, beside, own_first):
        agent = beside(standin.JUJU_4, own_first=own_first)
        folder = agent.unit_directory("shell/0")
        runs = self.of_first(agent.remove_relation("shell:host", "nova-compute"))
        foreign = ["controller-relation-departed", "controller-relation-broken"]
        own = ["host-relation-departed", "host-relation-broken"]
        assert names(runs) == (own if own_first else foreign + own)
        assert all(
            "departing=shell/0" in run.stdout for run in runs if run.name.endswith("departed")
        )
        assert runs[-1].stdout.split()[-2:] == ["[]", "[]"], "none is listed any more"
        assert not folder.exists()
        assert agent.log("shell/0"), "what it said is still to be read"

    def test_juju_4_tells_the_other_unit_whose_end_it_was(self, beside):
        agent = beside(standin.JUJU_4)
        runs = agent.remove_relation("shell:host", "nova-compute")
        told = [run for run in runs if run.unit == "shell/1" and "relation" in run.name]
        assert names(told) == ["host-relation-departed", "host-relation-broken"]
        assert "departing=nova-compute/0" in told[0].stdout
        assert agent.units() == ["shell/1"]

    def test_juju_4_may_run_stop_without_tools(self, beside):
        agent = beside(standin.JUJU_4, late_stop=True)
        runs = self.of_first(agent.remove())
        assert names(runs)[-1] == "stop"
        assert {call.exit_code for call in runs[-1].calls} == {1}
        assert agent.units() == []

    @pytest.mark.parametrize("manner", [standin.JUJU_3, standin.JUJU_4])
    def test_by_force_there_is_no_stop(self, beside, manner):
        runs = beside(manner).remove(force=True)
        assert not {"stop", "remove"} & {*names(runs)}

    def test_tools_fail_in_the_middle(self, agent, shell_charm):
        script = "relation-ids --format=json web; juju-log x; config-get --format=json; exit 0"
        agent.deploy(shell_charm(script))
        agent.surroundings.tools_fail_after = 1
        (run,) = agent.hook("update-status")
        assert [call.exit_code for call in run.calls] == [0, 1]
        assert "ERROR connection is shutdown before send" in run.stderr

    def test_a_unit_vanishes_without_a_hook(self, agent, shell_charm):
        agent.deploy(shell_charm())
        folder = agent.unit_directory()
        assert "model: model-" in (folder / "agent.conf").read_text()
        agent.vanish("shell/0")
        assert not folder.exists()
        assert agent.units() == []

    def test_a_principal_has_a_folder_where_it_is_placed(self, agent, shell_charm):
        agent.deploy(shell_charm(metadata=SUBORDINATE), principal="nova-compute/0")
        agent.place("nova-compute/0", {"name": "nova-compute"})
        folder = agent.directory / "unit-nova-compute-0"
        assert json.loads((folder / "charm/metadata.yaml").read_text())["name"] == "nova-compute"
        assert (folder / "agent.conf").exists()


class TestUpgrade:
    def test_replaces_the_files_and_keeps_what_the_charm_made(self, agent, shell_charm):
        script = case(install="touch made")
        agent.deploy(shell_charm(script, old_file="x"))
        runs = agent.upgrade(shell_charm(script, new_file="y"))
        assert names(runs) == ["upgrade-charm", "config-changed"]
        charm = agent.unit_directory() / "charm"
        assert (charm / "made").exists()
        assert (charm / "new_file").exists()
        assert not (charm / "old_file").exists()


class TestCharmFile:
    @staticmethod
    def pack(path, entries):
        with zipfile.ZipFile(path, "w") as archive:
            for name, (mode, content) in entries.items():
                info = zipfile.ZipInfo(name)
                info.external_attr = mode << 16
                archive.writestr(info, content)
        return path

    def test_modes_and_links_survive(self, tmp_path):
        entries = {
            "dispatch": (stat.S_IFREG | 0o755, "#!/bin/sh\n"),
            "venv/link": (stat.S_IFLNK | 0o777, "../dispatch"),
            "secret": (stat.S_IFREG | 0o640, "s"),
        }
        charmdir.unpack(self.pack(tmp_path / "c.charm", entries), tmp_path / "unit" / "charm")
        charm = tmp_path / "unit" / "charm"
        assert os.access(charm / "dispatch", os.X_OK)
        assert os.readlink(charm / "venv" / "link") == "../dispatch"
        assert stat.S_IMODE((charm / "secret").stat().st_mode) == 0o640

    def test_a_path_out_of_the_charm_is_refused(self, tmp_path):
        entries = {"../out": (stat.S_IFREG | 0o644, "")}
        with pytest.raises(standin.CharmError, match="points out"):
            charmdir.unpack(self.pack(tmp_path / "c.charm", entries), tmp_path / "unit" / "charm")

    def test_yaml_is_read_with_the_charms_own_parser(self, tmp_path):
        parser = "def safe_load(text):\n    return {'parsed': text}\n"
        entries = {
            "metadata.yaml": (stat.S_IFREG | 0o644, "name: c"),
            "venv/lib/python3.99/site-packages/yaml.py": (stat.S_IFREG | 0o644, parser),
        }
        found = charmdir.read_declarations(self.pack(tmp_path / "c.charm", entries))
        assert found == {"metadata": {"parsed": "name: c"}, "config": {}, "actions": {}}

    def test_no_charm_and_no_zip(self, tmp_path):
        with pytest.raises(standin.CharmError, match="no such charm"):
            standin.Agent(tmp_path / "a").deploy(tmp_path / "none.charm")
        (tmp_path / "bad.charm").write_text("text")
        with pytest.raises(standin.CharmError, match=r"bad\.charm"):
            standin.Agent(tmp_path / "a").deploy(tmp_path / "bad.charm")


class TestCommandLine:
    @staticmethod
    def run(directory, *args, module=False):
        how = ["-m", "harness.standin"] if module else [str(HARNESS / "standin")]
        command = [sys.executable, *how, "--dir", str(directory), *args]
        env = {**os.environ, "PYTHONPATH": str(TESTS)} if module else None
        return subprocess.run(
            command, capture_output=True, text=True, check=False, env=env, timeout=60
        )

    def test_a_session(self, tmp_path, shell_charm):
        charm = shell_charm(
            case(
                act='action-set a.b=1; action-log x; [ "$(config-get text)" != no ]',
                config_changed='status-set blocked -- "text $(config-get text)"',
            )
        )
        where = tmp_path / "dir"
        done = self.run(where, "deploy", str(charm), "--config", "text=v", module=True)
        assert done.returncode == 0, done.stderr
        assert re.search(r"shell/0 +install +\d+\.\d\d s", done.stderr)
        assert self.run(where, "status").stdout == "blocked: text v\n"
        shown = json.loads(self.run(where, "status", "--json").stdout)
        assert shown == {"status": "blocked", "message": "text v", "reboot": ""}
        done = self.run(where, "action", "act")
        assert (done.returncode, json.loads(done.stdout)["results"]) == (0, {"a": {"b": "1"}})
        assert self.run(where, "config", "text=no").returncode == 0
        assert self.run(where, "action", "act").returncode == 1
        refused = self.run(where, "config", "nope=1")
        assert (refused.returncode, refused.stderr) == (2, 'ERROR unknown option "nope"\n')
        assert self.run(where, "integrate", "shell:web", "other").returncode == 0
        assert self.run(where, "relation-data", "web", "other", "k=v").returncode == 0
        assert json.loads(self.run(where, "relation-data", "web", "other").stdout) == {"k": "v"}
        assert "config-changed" in self.run(where, "hook", "config-changed").stderr
        assert self.run(where, "remove").returncode == 0

    def test_a_failed_hook(self, tmp_path, shell_charm):
        done = self.run(tmp_path / "dir", "deploy", str(shell_charm("echo why >&2; false")))
        assert done.returncode == 1
        assert "hook 'install' failed with exit code 1\nwhy" in done.stderr
        assert self.run(tmp_path / "dir", "status").stdout == 'error: hook failed: "install"\n'
        assert "WARNING install: why" in self.run(tmp_path / "dir", "log").stdout


def test_the_command_prefix_starts_in_the_charms_directory(tmp_path, shell_charm):
    agent = standin.Agent(tmp_path / "a", command_prefix=["sh", "-c", 'pwd; exec "$@"', "sh"])
    runs = agent.deploy(shell_charm("true"))
    assert runs[0].stdout.strip() == str(agent.unit_directory() / "charm")


def test_hook_tools_refuse_a_socket_that_is_too_deep(tmp_path, monkeypatch):
    deep = tmp_path / ("d" * 100)
    deep.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(deep))
    with pytest.raises(standin.StandinError, match="shorter TMPDIR"):
        server.HookToolServer(lambda *_: (0, "", ""))
    assert list(deep.iterdir()) == []


@pytest.mark.parametrize("light", [False, True])
class TestHookTools:
    """The program in Python and the one in Perl: arguments in, output and exit code out."""

    @pytest.mark.parametrize(
        ("arguments", "content"),
        [
            ([], b""),
            (["--format=json", "two words", "ü", ""], b""),
            ([b"\xff=\x80"], b""),
            (["x" * 100_000], b""),
            (["-r", "0", "--file", "{file}"], b"in a file\0\xff\n"),
            (["--file={file}", "--app"], b"in a file\0\xff\n"),
            (["--file", "-"], b"typed\n"),
            (["--file=-"], b"typed\n"),
            (["--", "--file", "{file}"], b""),
            (["--file"], b""),
        ],
    )
    def test_the_agent_gets_arguments_and_content(self, tmp_path, light, arguments, content):
        file = tmp_path / "content"
        file.write_bytes(b"in a file\0\xff\n")
        given = [text.format(file=file) if isinstance(text, str) else text for text in arguments]
        asked, done = self.run(tmp_path, light, given, lambda: (0, "", ""))
        texts = [os.fsdecode(text) for text in given]
        assert asked == [("relation-set", texts, content)]
        assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")

    def test_the_charm_gets_output_errors_and_exit_code(self, tmp_path, light):
        out = "ü\0" + "x" * 200_000
        _, done = self.run(tmp_path, light, [], lambda: (7, out, "ERROR ß\n"))
        assert done.returncode == 7
        assert done.stdout == out.encode()
        assert done.stderr == "ERROR ß\n".encode()

    def test_an_agent_that_hangs_up_is_an_error(self, tmp_path, light):
        with pytest.raises(ZeroDivisionError):
            self.run(tmp_path, light, [], lambda: 1 // 0)
        done = self.done
        assert (done.returncode, done.stdout) == (1, b"")
        assert done.stderr == b"ERROR the agent hung up on relation-set\n"

    @pytest.mark.parametrize("arguments", [[], ["--file", "/none"]])
    def test_without_an_agent_or_a_file_it_fails(self, tmp_path, light, arguments):
        server.install_tools(tmp_path / "tools", ["relation-set"], light=light)
        done = self.start(tmp_path, arguments, str(tmp_path / "none"))
        assert (done.returncode, done.stdout) == (1, b"")
        assert b"No such file or directory" in done.stderr

    def run(self, tmp_path, light, arguments, answer):
        """Run the tool with an agent that answers so; what that was asked, and the end."""
        asked = []

        def handle(*request):
            asked.append(request)
            return answer()

        server.install_tools(tmp_path / "tools", ["relation-set"], light=light)
        with server.HookToolServer(handle) as agent:
            self.done = self.start(tmp_path, arguments, agent.address)
        return asked, self.done

    def start(self, tmp_path, arguments, address):
        command = [tmp_path / "tools" / "relation-set", *arguments]
        env = {"JUJU_AGENT_SOCKET_ADDRESS": address}
        return subprocess.run(command, input=b"typed\n", capture_output=True, env=env, check=False)


class TestCompiled:
    """Compiled modules beside a charm's own are used, until the module changes."""

    SEEN = "import sys; sys.path.insert(0, sys.argv[1]); import module; print(module.VALUE)"

    @pytest.fixture
    def packed(self, tmp_path):
        path = tmp_path / "some.charm"
        with zipfile.ZipFile(path, "w") as archive:
            for name, text in (("src/module.py", "VALUE = 1\n"), ("metadata.yaml", "name: one")):
                archive.writestr(name, text)
            dispatch = zipfile.ZipInfo("dispatch")
            dispatch.external_attr = 0o755 << 16
            archive.writestr(dispatch, "#!/bin/sh\ntrue\n")
        return path

    def look(self, charm):
        """The value of the module, and whether it was compiled for that."""
        command = [sys.executable, "-vBISc", self.SEEN, str(charm / "src")]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        compiled = re.search(r"# code object from '?[^ ]*src/module.py", done.stderr)
        return int(done.stdout), bool(compiled)

    def test_they_are_used(self, tmp_path, packed):
        charmdir.unpack(packed, tmp_path / "plain")
        assert self.look(tmp_path / "plain") == (1, True)
        charmdir.unpack(packed, tmp_path / "charm")
        bytecode.lay_down(packed, tmp_path / "charm")
        assert self.look(tmp_path / "charm") == (1, False)

    def test_a_module_that_changed_since_is_compiled_again(self, tmp_path, packed):
        charmdir.unpack(packed, tmp_path / "charm")
        bytecode.lay_down(packed, tmp_path / "charm")
        module = tmp_path / "charm/src/module.py"
        module.write_text("VALUE = 2\n")
        os.utime(module, (1, 1))
        assert self.look(tmp_path / "charm") == (2, True)

    def test_another_charm_in_the_same_place_is_another_one(self, tmp_path, packed):
        bytecode.lay_down(packed, self.unpacked(packed, tmp_path / "first"))
        with zipfile.ZipFile(packed, "a") as archive:
            archive.writestr("src/more.py", "")
        os.utime(packed, (1, 1))
        charm = self.unpacked(packed, tmp_path / "second")
        bytecode.lay_down(packed, charm)
        assert len(list(charm.rglob("more.*.pyc"))) == 1

    def unpacked(self, packed, target):
        charmdir.unpack(packed, target)
        return target

    def test_the_first_hook_of_an_agent_finds_them(self, tmp_path, packed):
        for compiled in (False, True):
            agent = standin.Agent(tmp_path / f"agent-{compiled}", compiled=compiled)
            agent.deploy(packed)
            found = list(agent.unit_directory().rglob("module.*.pyc"))
            assert len(found) == compiled


def test_a_charm_that_changed_is_read_again(tmp_path):
    packed = tmp_path / "some.charm"
    for number, name in enumerate(("one", "two")):
        with zipfile.ZipFile(packed, "w") as archive:
            archive.writestr("metadata.yaml", f"name: {name}")
        os.utime(packed, (number, number))
        assert charmdir.read_declarations(packed)["metadata"] == {"name": name}


def test_the_readme_lists_every_tool():
    readme = (HARNESS / "standin" / "README.md").read_text(encoding="utf-8")
    assert [name for name in toolbox.names() if f"`{name}`" not in readme] == []
