"""The stand-in's ``juju``: what it accepts runs hooks, on several machines, in both manners."""

from __future__ import annotations

import dataclasses
import json
import os
import pathlib
import subprocess
from collections.abc import Callable, Sequence

import pytest
from harness import standin
from harness.standin import JUJU_3, JUJU_4, command

METADATA = """\
name: ours
subordinate: true
requires: {juju-info: {interface: juju-info, scope: container}}
provides:
  controller: {interface: nova-vmware, scope: container}
  checks: {interface: nrpe-external-master, scope: container}
  web: {interface: nova_pci}
"""
DISPATCH = """\
#!/bin/sh
hook=${JUJU_DISPATCH_PATH##*/}
echo "ran $hook"
case $hook in
config-changed) status-set active "$(config-get text)";;
controller-relation-joined) relation-set to=$JUJU_REMOTE_UNIT;;
greet) action-set said="hello $(action-get who)"; action-log one;;
give-up) action-fail "not today";;
crash) exit 3;;
esac
[ "$hook" = config-changed ] && [ "$(config-get text)" = fail ] && exit 1
[ "$hook" = config-changed ] && [ "$(config-get text)" = fall ] && juju-reboot
exit 0
"""


@dataclasses.dataclass(frozen=True)
class Call:
    args: tuple[str, ...]


class Host:
    """This machine itself, with a program called reboot that only says so."""

    def __init__(self, place: pathlib.Path):
        self.place = place
        self.boots = 0
        self.command_prefix = ["env"]
        program = place / "reboot"
        place.mkdir()
        program.write_text(f"#!/bin/sh\necho >> {place}/reboots\n")
        program.chmod(0o755)

    def run(self, command: Sequence[str], *, timeout: float = 60.0) -> object:
        env = {"PATH": f"{self.place}:{os.environ['PATH']}"}
        return subprocess.run(
            command, env=env, capture_output=True, text=True, timeout=timeout, check=False
        )

    def calls(self, *names: str) -> list[Call]:
        file = self.place / "reboots"
        known = file.exists() and "reboot" in names
        return [Call(()) for _ in file.read_text().splitlines()] if known else []

    def reboot(self) -> None:
        self.boots += 1


@pytest.fixture
def charm(tmp_path: pathlib.Path) -> pathlib.Path:
    place = tmp_path / "ours"
    place.mkdir()
    (place / "metadata.yaml").write_text(METADATA)
    (place / "config.yaml").write_text("options: {text: {type: string, default: a}}\n")
    (place / "actions.yaml").write_text(
        "greet: {params: {who: {type: string}}}\ngive-up: {}\ncrash: {}\n"
    )
    (place / "dispatch").write_text(DISPATCH)
    (place / "dispatch").chmod(0o755)
    return place


@pytest.fixture
def hosts() -> dict[str, Host]:
    return {}


Make = Callable[[str], command.Command]


@pytest.fixture
def make(tmp_path: pathlib.Path, charm: pathlib.Path, hosts: dict[str, Host]) -> Make:
    def of(manner: str) -> command.Command:
        def host(number: str) -> Host:
            hosts[number] = Host(tmp_path / f"host-{number}")
            return hosts[number]

        agent = standin.Agent(tmp_path / "agent", manner=manner)
        return command.Command(agent, charm, ["ubuntu@22.04"], host, tmp_path)

    return of


@pytest.fixture(params=[JUJU_3, JUJU_4])
def juju(make: Make, request: pytest.FixtureRequest) -> command.Command:
    """A model with our charm beside nova-compute, on machine 0."""
    found = make(request.param)
    for name in ("nova-compute", "ours"):
        found.line(f"juju deploy {name} --base ubuntu@22.04")
    found.line("juju integrate ours:juju-info nova-compute:juju-info")
    return found


def ask(juju: command.Command, line: str) -> dict:
    return json.loads(juju.line(f"juju {line} --format json"))


class TestDeploy:
    def test_a_subordinate_comes_with_its_principals(self, juju: command.Command):
        assert juju.agent.units("ours") == ["ours/0"]
        assert str(juju.agent.status("ours/0")) == "active: a"
        juju.line("juju add-unit nova-compute")
        assert juju.agent.units("ours") == ["ours/0", "ours/1"]
        units = juju.agent.model().units
        assert (units["ours/1"].machine, units["ours/1"].principal) == ("1", "nova-compute/1")
        folder = juju.agent.unit_directory("ours/1")
        assert folder.parent.name == "machine-1"
        assert (folder.parent / "unit-nova-compute-1").is_dir(), "beside its principal's"

    def test_to_machines_that_are_there(self, juju: command.Command):
        juju.line("juju add-machine ssh:ubuntu@a --base ubuntu@22.04")
        juju.line("juju deploy keeper --base ubuntu@22.04 --num-units 2 --to 1,0")
        units = juju.agent.model().units
        assert [units[f"keeper/{n}"].machine for n in (0, 1)] == ["1", "0"]
        with pytest.raises(standin.ModelError, match="machine 7 not found"):
            juju.line("juju add-unit keeper --to 7")

    def test_options_and_files(self, juju: command.Command, tmp_path: pathlib.Path):
        (tmp_path / "text").write_text("from a file")
        juju.line("juju deploy ours more --base ubuntu@22.04 --config text=b")
        assert ask(juju, "config more")["settings"]["text"]["value"] == "b"
        assert juju.line("juju config more text") == "b\n"
        juju.line("juju config ours text=@text")
        assert str(juju.agent.status("ours/0")) == "active: from a file"
        juju.line("juju config ours --reset text")
        assert str(juju.agent.status("ours/0")) == "active: a"

    def test_an_overlay(self, make: Make, tmp_path: pathlib.Path):
        juju = make(JUJU_4)
        juju.line("juju deploy nova-compute --base ubuntu@22.04")
        (tmp_path / "over.yaml").write_text(
            "applications:\n  ours: {charm: ours, base: ubuntu@22.04/stable, options: {text: o}}\n"
            "relations: [[ours:juju-info, nova-compute:juju-info]]\n"
        )
        for _ in range(2):  # a second time it finds all in place
            juju.line("juju deploy ./bundle.yaml --overlay ./over.yaml")
        assert str(juju.agent.status("ours/0")) == "active: o"

    def test_what_the_rules_refuse_runs_nothing(self, juju: command.Command):
        before = juju.agent.model()
        for line in ("deploy ours x --base ubuntu@20.04", "config ours x=1", "add-unit ours"):
            code, _, said = juju("juju", line.split())
            assert (code, said[:6]) == (1, "ERROR ")
        assert juju.agent.model() == before


class TestTasks:
    def test_an_action(self, juju: command.Command):
        (task,) = ask(juju, "run ours/leader greet who=you").values()
        assert task["status"] == "completed"
        assert task["results"] == {"return-code": 0, "said": "hello you"}
        assert task["unit"] == "ours/0"
        assert "hello you" in juju.line("juju run ours/0 greet who=you --wait=15m")

    def test_parameters_from_a_file(self, juju: command.Command, tmp_path: pathlib.Path):
        (tmp_path / "p.yaml").write_text("who: her")
        assert "hello her" in juju.line(f"juju run ours/0 greet --params {tmp_path}/p.yaml")

    def test_a_failed_action_ends_the_command_by_version(self, juju: command.Command):
        code, out, said = juju("juju", ["run", "ours/0", "give-up", "--format", "json"])
        (task,) = json.loads(out).values()
        assert (task["status"], task["message"]) == ("failed", "not today")
        assert code == (1 if juju.manner == JUJU_4 else 0)
        assert ("task failed" in said) is (juju.manner == JUJU_4)

    def test_an_action_that_dies_always_does(self, juju: command.Command):
        code, out, said = juju("juju", ["run", "ours/0", "crash", "--format", "json"])
        assert (code, "task failed" in said) == (1, True)
        assert json.loads(out)["ours/0"]["results"]["return-code"] == 3

    def test_exec_has_the_hook_tools(self, juju: command.Command):
        assert juju.line("juju exec --unit ours/0 -- config-get text") == "a\n"
        hook = "'JUJU_DISPATCH_PATH=hooks/config-changed ./dispatch'"
        juju.line("juju exec --unit ours/0 'status-set blocked hm'")
        assert str(juju.agent.status("ours/0")) == "blocked: hm"
        juju.line(f"juju exec --unit ours/0 {hook}")
        assert str(juju.agent.status("ours/0")) == "active: a"
        with pytest.raises(standin.ModelError, match="task failed"):
            juju.line("juju exec --unit ours/0 false")

    def test_exec_and_ssh_on_a_machine(self, juju: command.Command):
        code, out, _ = juju("juju", ["exec", "--format", "json", "--machine", "0", "--", "echo hi"])
        assert (code, json.loads(out)["0"]["results"]["stdout"]) == (0, "hi\n")
        assert juju.line("juju ssh ubuntu@0 sudo echo 'a b'") == "a b\n"
        assert juju.line("juju ssh ours/0") == ""
        with pytest.raises(standin.ModelError, match="exit status 1"):
            juju.line("juju ssh ours/0 false")


class TestReboot:
    def test_of_the_machine_that_is_told(self, juju: command.Command, hosts: dict[str, Host]):
        juju.line("juju add-unit nova-compute")
        juju.line("juju ssh nova-compute/1 sudo reboot")
        assert [hosts[number].boots for number in ("0", "1")] == [0, 1]
        assert juju.agent.calls(unit="ours/1")[-1].event in ("start", "config-changed")

    def test_that_the_charm_asks_for(self, juju: command.Command, hosts: dict[str, Host]):
        juju.line("juju config ours text=fall")
        assert hosts["0"].boots == 1
        assert juju.agent.reboot_due() == ""


class TestStatus:
    def test_units_below_their_principals(self, juju: command.Command):
        found = ask(juju, "status")
        unit = found["applications"]["nova-compute"]["units"]["nova-compute/0"]
        ours = unit["subordinates"]["ours/0"]
        assert ours["workload-status"]["current"] == "active"
        assert ours["leader"] is True
        assert found["applications"]["ours"]["subordinate-to"] == ["nova-compute"]
        assert found["machines"]["0"]["juju-status"]["current"] == "started"
        assert found["model"]["version"].startswith(juju.manner)
        assert "ours/0" in juju.line("juju status")

    def test_a_failed_hook_is_the_units_error(self, juju: command.Command):
        juju.line("juju config ours text=fail")
        unit = ask(juju, "status")["applications"]["nova-compute"]["units"]["nova-compute/0"]
        shown = unit["subordinates"]["ours/0"]["workload-status"]
        assert (shown["current"], shown["message"]) == ("error", 'hook failed: "config-changed"')
        juju.line("juju config ours text=fine")
        assert str(juju.agent.status("ours/0")) == "active: fine"

    def test_show_unit_has_the_databags(self, juju: command.Command):
        juju.line("juju deploy nova-cloud-controller --base ubuntu@22.04")
        juju.line("juju integrate ours:controller nova-cloud-controller:nova-vmware")
        found = ask(juju, "show-unit nova-cloud-controller/0")["nova-cloud-controller/0"]
        (relation,) = found["relation-info"]
        assert (relation["endpoint"], relation["related-endpoint"]) == ("nova-vmware", "controller")
        assert relation["related-units"]["ours/1"]["data"]["to"] == "nova-cloud-controller/0"

    def test_what_a_client_asks_first(self, juju: command.Command):
        juju.line("juju add-model --no-switch mine")
        assert ask(juju, "version")["version"].startswith(juju.manner)
        (controller,) = ask(juju, "show-controller").values()
        assert controller["details"]["api-endpoints"] == [], "no API: pytest-operator has none"
        assert "ran install" in juju.line("juju debug-log -m mine")
        juju.line("juju destroy-model mine --no-prompt --destroy-storage --force")


class TestRemoval:
    @pytest.mark.parametrize(
        "line",
        [
            "remove-relation ours:juju-info nova-compute",
            "remove-unit nova-compute/0 --no-prompt",
            "remove-application ours --no-prompt",
            "remove-application ours --no-prompt --force",
        ],
    )
    def test_takes_the_unit_away(self, juju: command.Command, line: str):
        juju.line(f"juju {line}")
        assert juju.agent.units("ours") == []
        assert ("ours" in ask(juju, "status")["applications"]) is ("application" not in line)

    def test_then_it_can_come_back(self, juju: command.Command):
        juju.line("juju remove-application ours --no-prompt")
        juju.line("juju deploy ours --base ubuntu@22.04")
        juju.line("juju integrate ours:juju-info nova-compute:juju-info")
        assert juju.agent.units("ours") == ["ours/0"]
        juju.line("juju remove-relation ours:juju-info nova-compute")
        juju.line("juju integrate ours:juju-info nova-compute:juju-info")
        assert juju.agent.units("ours") == ["ours/1"]

    def test_a_principal_waits_for_its_subordinates(self, juju: command.Command):
        gone: list[str] = []
        juju.agent._on_run = lambda run: gone.append(f"{run.unit} {run.name}")
        juju.line("juju remove-unit nova-compute/0 --no-prompt")
        ours = [n for n, name in enumerate(gone) if name.startswith("ours/0")]
        stop = gone.index("nova-compute/0 stop")
        assert max(ours) < stop
        with pytest.raises(standin.ModelError, match="is a subordinate"):
            juju.line("juju remove-unit ours/0 --no-prompt")

    def test_a_refresh(self, juju: command.Command, charm: pathlib.Path):
        juju.line(f"juju refresh ours --path {charm}")
        assert juju.agent.model().applications["ours"].charm_version == 2
        with pytest.raises(standin.ModelError, match="cannot upgrade"):
            juju.line(f"juju refresh nova-compute --path {charm}")


class TestChains:
    @pytest.fixture
    def beside_nrpe(self, make: Make, request: pytest.FixtureRequest) -> command.Command:
        juju = make(request.param)
        for name in ("nova-compute", "ours", "nrpe"):
            juju.line(f"juju deploy {name} --base ubuntu@22.04")
        juju.line("juju integrate ours:juju-info nova-compute:juju-info")
        juju.line("juju integrate nrpe:nrpe-external-master nova-compute:nrpe-external-master")
        return juju

    LINE = "juju integrate ours:checks nrpe:nrpe-external-master"

    @pytest.mark.parametrize("beside_nrpe", [JUJU_3], indirect=True)
    def test_juju_3_makes_no_unit_below_a_subordinate(self, beside_nrpe: command.Command):
        beside_nrpe.line(self.LINE)
        assert beside_nrpe.agent.units() == ["nova-compute/0", "nrpe/0", "ours/0"]

    @pytest.mark.parametrize("beside_nrpe", [JUJU_4], indirect=True)
    def test_juju_4_makes_them_without_end(self, beside_nrpe: command.Command):
        juju = beside_nrpe
        juju.agent.adopt(chain=5)
        juju.line(self.LINE)
        units = juju.agent.model().units
        chain = {name: unit.principal for name, unit in units.items() if "-" not in unit.principal}
        del chain["nova-compute/0"]
        assert len(chain) == 5
        for unit, principal in chain.items():
            assert {unit.partition("/")[0], principal.partition("/")[0]} == {"ours", "nrpe"}
        assert any(principal in chain for principal in chain.values()), "one below another"

        # The relation goes, they stay; with their application by force they go from the last on.
        juju.line("juju remove-relation ours:checks nrpe")
        assert set(chain) <= set(juju.agent.units())
        juju.line("juju remove-application nrpe --force --no-prompt")
        assert juju.agent.units() == ["nova-compute/0", "ours/0"]

    @pytest.mark.parametrize("beside_nrpe", [JUJU_4], indirect=True)
    def test_without_a_bound_the_test_ends(self, beside_nrpe: command.Command):
        with pytest.raises(standin.NotModelledError, match="units without end"):
            beside_nrpe.line(self.LINE)


def test_a_program_on_the_path(juju: command.Command, tmp_path: pathlib.Path):
    """The way that jubilant goes: a process of its own, which asks this one."""
    with juju.serve(tmp_path / "bin") as env:
        done = subprocess.run(
            [tmp_path / "bin/juju", "status", "--format", "json", "--model", "mine"],
            env={**os.environ, **env},
            capture_output=True,
            text=True,
            check=True,
        )
        refused = subprocess.run(
            [tmp_path / "bin/juju", "config", "none", "a=b"],
            env={**os.environ, **env},
            capture_output=True,
            text=True,
            check=False,
        )
    assert "ours" in json.loads(done.stdout)["applications"]
    assert (refused.returncode, refused.stderr) == (1, 'ERROR application "none" not found\n')
