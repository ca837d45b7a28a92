"""The NRPE check: what the plugin says for what the charm found."""

from __future__ import annotations

import json
import os
import pathlib
import stat
import subprocess
import time

import pytest
import yaml

from passthrough.effects import nrpe
from passthrough.errors import PassthroughError
from passthrough.problem import Kind, Problem
from passthrough.reporting import alarm
from passthrough.reporting.verify.result import FAIL, OK, UNKNOWN, Check
from passthrough.site import Site

APP = "pci-passthrough"
GOOD = Check("iommu", OK, "18 IOMMU groups")
BAD = Check("driver 0000:83:00.0", FAIL, "nouveau", "run the rebind action")
DARK = Check("lockdown", UNKNOWN, "not readable")


@pytest.fixture
def root(tmp_path: pathlib.Path) -> pathlib.Path:
    """A host where the nrpe charm has installed its server."""
    (tmp_path / nrpe.CONFIGURATION).mkdir(parents=True)
    return tmp_path


def run_plugin(root: pathlib.Path, application: str = APP) -> tuple[int, str]:
    """Run the command of nrpe.d as the server does, in a root of its own."""
    configuration, _ = nrpe.owned_files(application)
    lines = (root / configuration).read_text(encoding="utf-8").splitlines()
    (command,) = (line.partition("]=")[2] for line in lines if line.startswith("command["))
    plugin, report = (root / part.lstrip("/") for part in command.split())
    done = subprocess.run([plugin, report], capture_output=True, text=True, check=False)
    assert done.stderr == ""
    return done.returncode, done.stdout


def test_nothing_is_installed_where_there_is_no_server(tmp_path: pathlib.Path):
    assert nrpe.install(Site(tmp_path, APP)) is False
    assert list(tmp_path.iterdir()) == []


def test_server_can_read_and_run_what_is_installed(root: pathlib.Path):
    assert nrpe.install(Site(root, APP)) is True
    modes = [stat.S_IMODE((root / path).stat().st_mode) for path in nrpe.owned_files(APP)]
    assert modes == [0o644, 0o755]


def test_a_second_install_changes_nothing(root: pathlib.Path):
    nrpe.install(Site(root, APP))
    before = [(root / path).stat().st_ino for path in nrpe.owned_files(APP)]
    nrpe.install(Site(root, APP))
    assert [(root / path).stat().st_ino for path in nrpe.owned_files(APP)] == before


@pytest.mark.parametrize(
    ("checks", "reboot", "code", "text"),
    [
        pytest.param([GOOD, GOOD], (), 0, "OK: 2 checks passed\n", id="all passed"),
        pytest.param([GOOD, DARK], (), 0, "OK: 2 checks passed\n", id="unknown is no fault"),
        pytest.param(
            [GOOD, BAD],
            (),
            2,
            "CRITICAL: 1 of 2 checks failed: driver 0000:83:00.0: nouveau\n",
            id="drift",
        ),
        pytest.param(
            [GOOD, BAD],
            ("the IOMMU is off",),
            1,
            "WARNING: reboot required: the IOMMU is off\n",
            id="reboot pending",
        ),
        pytest.param([], (), 0, "OK: 0 checks passed\n", id="no check"),
    ],
)
def test_plugin_says_what_was_found(
    root: pathlib.Path, checks: list[Check], reboot: tuple[str, ...], code: int, text: str
):
    nrpe.install(Site(root, APP))
    reasons = [Problem(Kind.IOMMU_IS_OFF, fact) for fact in reboot]
    nrpe.write_report(Site(root, APP), *alarm.judge(checks, reasons))
    assert run_plugin(root) == (code, text)


def test_plugin_says_what_kept_the_charm_from_looking(root: pathlib.Path):
    nrpe.install(Site(root, APP))
    nrpe.write_report(
        Site(root, APP), *alarm.judge_problem(PassthroughError("devices: item 1: no id"))
    )
    assert run_plugin(root) == (2, "CRITICAL: devices: item 1: no id\n")


def test_plugin_does_not_know_before_the_first_hook(root: pathlib.Path):
    nrpe.install(Site(root, APP))
    code, text = run_plugin(root)
    assert (code, text[:8]) == (3, "UNKNOWN:")


def test_a_report_that_grew_old_is_not_believed(root: pathlib.Path):
    """A unit agent that is gone says nothing any more; that must not read as OK."""
    nrpe.install(Site(root, APP))
    nrpe.write_report(Site(root, APP), *alarm.judge([GOOD]))
    report = next((root / nrpe.REPORTS).iterdir())
    then = time.time() - nrpe.MAX_AGE - 60
    os.utime(report, (then, then))
    assert run_plugin(root) == (
        3,
        f"UNKNOWN: the charm has not looked at this host for {nrpe.MAX_AGE // 60 + 1} minutes\n",
    )
    nrpe.write_report(Site(root, APP), *alarm.judge([GOOD]))
    assert run_plugin(root)[0] == 0, "the same text again is a new look"


def test_text_is_one_line_without_performance_data(root: pathlib.Path):
    nrpe.install(Site(root, APP))
    bad = Check("grub", FAIL, "update-grub failed | line 1\nline 2 " + "x" * 2000)
    nrpe.write_report(Site(root, APP), *alarm.judge([bad]))
    _, text = run_plugin(root)
    assert text.count("\n") == 1
    assert "|" not in text
    assert len(text) < 600


def test_removal_leaves_only_what_the_server_had(root: pathlib.Path):
    nrpe.install(Site(root, APP))
    nrpe.write_report(Site(root, APP), *alarm.judge([GOOD]))
    nrpe.remove(Site(root, APP))
    assert [path for path in root.rglob("*") if path.is_file()] == []
    nrpe.remove(Site(root, APP))


def test_applications_do_not_share_a_check(root: pathlib.Path):
    for application in (APP, "qat"):
        nrpe.install(Site(root, application))
    nrpe.write_report(Site(root, APP), *alarm.judge([GOOD]))
    nrpe.write_report(Site(root, "qat"), *alarm.judge([BAD]))
    assert run_plugin(root)[0] == 0
    assert run_plugin(root, "qat")[0] == 2
    nrpe.remove(Site(root, "qat"))
    assert run_plugin(root)[0] == 0


@pytest.mark.parametrize(
    ("application", "name"), [(APP, "pci_passthrough"), ("qat", "pci_passthrough_qat")]
)
def test_relation_data_names_the_command_of_the_configuration(
    root: pathlib.Path, application: str, name: str
):
    nrpe.install(Site(root, application))
    data = nrpe.monitors(application)
    assert yaml.safe_load(data) == json.loads(data)
    assert json.loads(data)["monitors"] == {
        "remote": {"nrpe": {name: {"command": f"check_{name}"}}}
    }
    configuration = (root / nrpe.owned_files(application)[0]).read_text(encoding="utf-8")
    assert f"command[check_{name}]=" in configuration
