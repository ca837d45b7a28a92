"""``pci-passthrough`` on a host: the same view as the actions, and never a change."""

from __future__ import annotations

import json
import os
import pathlib
import re
import subprocess
import sys
from collections.abc import Callable

import pytest
from harness import hosttree, uses
from harness.constants import CLAIMED, GPUS, GRUB, INIT_TOP, OWNED
from harness.unit import Unit
from harness.world import World

from passthrough import arguments as line
from passthrough import cli
from passthrough.state import settled

Run = Callable[..., tuple[int, str, str]]
EVERYWHERE = ("etc", "var", "boot", "run", "usr", "sys", "proc", "dev")


@pytest.fixture
def run(tree: hosttree.HostTree, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run the command line on `tree`: exit code, output, errors."""

    def call(*arguments: str) -> tuple[int, str, str]:
        code = cli.main(["--root", os.fspath(tree.root), *arguments])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return call


def test_a_closed_output_is_no_reason_for_a_traceback(tree: hosttree.HostTree):
    program = pathlib.Path(__file__).resolve().parents[2] / "bin/pci-passthrough"
    words = [sys.executable, "-IS", program, "--root", tree.root, "list"]
    found = subprocess.run(
        ["/bin/sh", "-c", 'exec "$@" >&-', "sh", *words],
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    assert found.returncode == 70
    assert found.stderr.count("\n") == 1, found.stderr


class TestList:
    def test_shows_every_function(self, run: Run, tree):
        code, shown, errors = run("list")
        assert (code, errors) == (0, "")
        for address in os.listdir(tree.root / "sys/bus/pci/devices"):
            assert address in shown

    def test_gives_programs_the_same(self, run: Run):
        code, shown, _ = run("--json", "list")
        rows = {row["address"]: row for row in json.loads(shown)}
        assert code == 0
        assert len(rows) == 14
        card, bridge = rows["0000:83:00.0"], rows["0000:80:01.0"]
        assert (card["id"], card["driver"], card["numa-node"]) == ("10de:1bb0", "nouveau", 1)
        assert (card["claimable"], card["reason"]) == (True, None)
        assert card["devices"] == "10de:1bb0@0000:83:00.0"
        assert bridge["claimable"] is False
        assert bridge["reason"] == "is a PCI bridge, which no guest can have"

    def test_gives_text_that_the_option_takes(self, run: Run, world: World):
        rows = json.loads(run("--json", "list")[1])
        for row in rows:
            if row["claimable"]:
                text = row["devices"]
                assert row["address"] in world.decide(text).outcome.addresses

    def test_says_what_is_lent_and_by_whom(self, world, capsys):
        world.turn_iommu_on()
        world.hook(GPUS)
        world.lend("0000:83:00.0")
        capsys.readouterr()
        cli.main(["--root", os.fspath(world.root), "--json", "list"])
        rows = {row["address"]: row for row in json.loads(capsys.readouterr().out)}
        reason = "is lent to the host by pci-passthrough until the action take-back"
        assert [address for address, row in rows.items() if row["lent"]] == list(CLAIMED[:2])
        assert (rows[CLAIMED[0]]["claimable"], rows[CLAIMED[0]]["reason"]) == (False, reason)
        cli.main(["--root", os.fspath(world.root), "list"])
        printed = capsys.readouterr().out
        assert re.search(r"0000:83:00\.0 +10de:1bb0 +nouveau +1? *lent ", printed), printed
        assert f"0000:83:00.0 0000:83:00.1: {reason}" in " ".join(printed.split())

    @pytest.mark.parametrize(
        "words",
        [
            "list",
            "--json list",
            "list --json --debug",
            "--debug --root {root} list",
            "list --root {root} --json",
            "--root / --root {root}/var/.. --json --json list",
        ],
    )
    def test_the_words_of_scripts_are_read_as_argparse_reads_them(self, tree, words: str):
        given = words.format(root=tree.root).split()
        plain = cli._read_listing(given)
        whole = cli.parser().parse_args(given)
        assert plain
        for name in ("command", "root", "json", "debug"):
            assert getattr(plain, name) == getattr(whole, name), name

    @pytest.mark.parametrize(
        "words",
        [
            "",
            "--json",
            "list list",
            "list --help",
            "--version list",
            "--js list",
            "--json=1 list",
            "list extra",
            "--root",
            "list --root",
            "--root --json list",
            "--root -x list",
            "--root={root} list",
            "--root {root}/nowhere list",
            "-- list",
            "plan",
            "verify --json",
        ],
    )
    def test_other_words_are_left_to_argparse(self, tree, words: str):
        assert cli._read_listing(words.format(root=tree.root).split()) is None

    def test_imports_little(self, tree):
        """Scripts call it often, and on a small host imports are most of what it takes."""
        program = (
            "import sys; sys.path.insert(0, sys.argv.pop(1))\n"
            "from passthrough import cli; cli.main()\n"
            "print(*sys.modules, file=sys.stderr)"
        )
        source = pathlib.Path(cli.__file__).parent.parent
        command = [sys.executable, "-ISc", program, source, "--root", tree.root, "--json", "list"]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        loaded = set(done.stderr.split())
        assert "passthrough.reporting.inventory" in loaded
        not_needed = {
            "config", "nova", "planning.claims", "planning.plan", "reconcile",
            "reporting.inventory_tree", "reporting.tables", "state", "survey",
        }  # fmt: skip
        heavy = {"argparse", "gettext", "locale", "shutil", "socket", "textwrap", "typing"}
        heavy |= {"yaml", "jinja2", "ops", "charmhelpers"}
        assert loaded & {*heavy, *(f"passthrough.{name}" for name in not_needed)} == set()


class TestPlan:
    def test_shows_what_would_change_and_changes_nothing(self, run: Run, tree):
        before = tree.snapshot(*EVERYWHERE)
        code, shown, errors = run("plan", "--devices", GPUS)
        assert (code, errors) == (0, "")
        assert f"+++ b/{INIT_TOP}\n" in shown
        assert f"bind at the next boot: {CLAIMED[0]}" in shown
        assert "reboot required: the IOMMU is off until" in shown
        assert tree.snapshot(*EVERYWHERE) == before

    def test_names_files_after_the_application(self, run: Run):
        shown = run("--json", "plan", "--devices", GPUS, "--application", "qat")[1]
        paths = [each["path"] for each in json.loads(shown)["files"]]
        assert "/etc/modules-load.d/pci-passthrough-qat.conf" in paths

    def test_of_a_settled_host_is_empty(self, run: Run, ready: World):
        code, shown, _ = run("plan", "--devices", GPUS)
        assert code == 0
        assert "\nnothing to change\n" in shown
        assert "reboot required" not in shown

    def test_of_an_item_that_is_refused_has_its_exit_code(self, run: Run):
        code, shown, errors = run("plan", "--devices", "x=8086:2020@0000:00:00.0")
        assert (code, errors) == (cli.EXIT_ITEM_REFUSED, "")
        assert "not claimed: devices: item 1 x=8086:2020@0000:00:00.0: 0000:00:00.0 is a" in shown


class TestVerify:
    def test_is_green_on_a_host_that_is_ready(self, run: Run, ready: World):
        code, shown, errors = run("--json", "verify", "--devices", GPUS)
        checks = json.loads(shown)
        assert [each for each in checks if each["status"] == "fail"] == []
        assert {"iommu", "boot-files", "initramfs", "grub"} <= {each["name"] for each in checks}
        assert {f"driver {address}" for address in CLAIMED} <= {each["name"] for each in checks}
        assert (code, errors) == (0, "")

    def test_fails_with_its_exit_code_where_a_driver_is_wrong(self, run: Run, ready: World):
        ready.tree.bind("0000:84:00.0", "nouveau")
        code, shown, _ = run("verify", "--devices", GPUS)
        assert code == cli.EXIT_FAILED_CHECK
        assert "driver 0000:84:00.0" in shown
        assert "to mend it: " in shown

    def test_fails_before_the_reboot(self, run: Run):
        code, shown, _ = run("--json", "verify", "--devices", GPUS)
        failed = {each["name"]: each for each in json.loads(shown) if each["status"] == "fail"}
        assert code == cli.EXIT_FAILED_CHECK
        assert failed["iommu"]["seen"] == "no IOMMU groups"
        assert failed["iommu"]["fix"].startswith("reboot")
        assert failed["driver 0000:83:00.0"]["seen"] == "nouveau"

    def test_writes_nothing(self, run: Run, ready: World):
        before = ready.tree.snapshot(*EVERYWHERE)
        assert run("verify", "--devices", GPUS)[0] == 0
        assert run("verify", "--devices", "gpu=10de:1bb0")[0] == cli.EXIT_FAILED_CHECK
        assert ready.tree.snapshot(*EVERYWHERE) == before


@pytest.mark.parametrize("command", ["plan", "verify"])
@pytest.mark.parametrize(
    ("devices", "message"),
    [
        (
            "gpu=10de:zzzz",
            'devices: item 1 "gpu=10de:zzzz": product id "zzzz" is not four hex digits, e.g.'
            " 10de:1bb0",
        ),
        (
            "a=10de:1bb0, b=10de:1bb0@84:00.0",
            "devices: item 2 b=10de:1bb0@0000:84:00.0: 0000:84:00.0 is claimed by item 1"
            " (a=10de:1bb0) too; narrow one of them by address",
        ),
    ],
    ids=["grammar", "twice"],
)
def test_what_is_refused_goes_to_stderr_with_its_exit_code(
    run: Run, command: str, devices: str, message: str
):
    assert run(command, "--devices", devices) == (
        cli.EXIT_REFUSED,
        "",
        f"pci-passthrough: {message}\n",
    )


@pytest.mark.parametrize("name", ["../../etc", "a b", "$(x)", "A"])
def test_an_application_that_juju_would_not_name_so_is_refused(run: Run, capsys, name: str):
    with pytest.raises(SystemExit) as caught:
        run("plan", "--devices", GPUS, "--application", name)
    assert caught.value.code == cli.EXIT_REFUSED
    message = f"argument --application: {name!r} is not the name of a Juju application\n"
    assert capsys.readouterr().err.endswith(message)


class TestWithoutDevices:
    """plan and verify go by what the unit on this host was last told."""

    @pytest.mark.parametrize("command", ["plan", "verify"])
    def test_it_says_the_same_as_the_action(self, run: Run, ready_unit: Unit, command: str):
        ready_unit.run("config_changed", devices=GPUS)
        told = ready_unit.act(command)[{"plan": "plan", "verify": "checks"}[command]]
        code, shown, errors = run("--json", command)
        assert (code, errors) == (0, "")
        assert json.loads(shown) == told

    def test_all_options_are_as_they_were_told(self, run: Run, unit: Unit, capsys):
        unit.run(devices=GPUS, kernel_options="hugepages=64")
        assert unit.status.startswith("blocked: reboot required")
        capsys.readouterr()  # what the unit's tools have said
        assert json.loads(run("--json", "plan")[1])["files"] == []
        others = json.loads(run("--json", "plan", "--devices", GPUS)[1])["files"]
        assert [each["path"] for each in others] == [f"/{GRUB}"], "the others have their defaults"

    def test_what_is_not_accepted_is_refused_as_the_unit_says(self, run: Run, ready_unit: Unit):
        ready_unit.run("config_changed", devices=GPUS)
        ready_unit.run("config_changed", devices="gpu=10de:zzzz")
        code, shown, errors = run("plan")
        assert (code, shown) == (cli.EXIT_REFUSED, "")
        assert errors == f"pci-passthrough: {ready_unit.status.removeprefix('blocked: ')}\n"

    def test_exceptions_are_tried_in_their_place(self, run: Run, ready_unit: Unit, tree):
        ready_unit.run("config_changed", devices=GPUS)
        name = tree.root / "proc/sys/kernel/hostname"
        given = f"{name.read_text().strip()}=83:00.0"
        plan = json.loads(run("--json", "plan", "--host-exceptions", given)[1])
        assert {each["address"] for each in plan["claims"]} == {"0000:84:00.0", "0000:84:00.1"}
        assert plan["release"] == ["0000:83:00.0", "0000:83:00.1"]
        assert json.loads(run("--json", "plan")[1])["release"] == []

    def test_exceptions_go_with_devices(self, run: Run, tree):
        name = tree.root / "proc/sys/kernel/hostname"
        given = f"{name.read_text().strip()}=83:00.0"
        shown = run("--json", "plan", "--devices", GPUS, "--host-exceptions", given)[1]
        assert {each["address"] for each in json.loads(shown)["claims"]} == {
            "0000:84:00.0", "0000:84:00.1",
        }  # fmt: skip

    def refused(self, run: Run, capsys, *arguments: str) -> str:
        capsys.readouterr()  # what the unit's tools have said
        with pytest.raises(SystemExit) as caught:
            run("plan", *arguments)
        assert caught.value.code == cli.EXIT_REFUSED
        captured = capsys.readouterr()
        assert captured.out == ""
        return captured.err.splitlines()[-1].removeprefix("pci-passthrough plan: error: ")

    def test_nothing_that_is_kept_is_said(self, run: Run, capsys):
        assert self.refused(run, capsys) == (
            "no unit has left its options on this host since it booted; give --devices"
        )

    def test_of_several_applications_one_is_to_be_named(self, run: Run, capsys, tree):
        for name, devices in (("gpu", GPUS), ("qat", "qat=8086:37c8")):
            settled.keep(tree.root, f"{name}/0", settled.unsettled({"devices": devices}))
        assert self.refused(run, capsys) == (
            "the options of gpu, qat are kept here; name one by --application"
        )
        paths = [
            each["path"]
            for each in json.loads(run("--json", "plan", "--application", "gpu")[1])["files"]
        ]
        assert "/etc/modules-load.d/pci-passthrough-gpu.conf" in paths
        assert self.refused(run, capsys, "--application", "nic") == (
            "no unit of nic has left its options on this host since it booted; give --devices, or"
            " another --application: gpu, qat"
        )

    def test_the_only_application_needs_no_name(self, run: Run, tree):
        settled.keep(tree.root, "gpu/0", settled.unsettled({"devices": GPUS}))
        paths = [each["path"] for each in json.loads(run("--json", "plan")[1])["files"]]
        assert "/etc/modules-load.d/pci-passthrough-gpu.conf" in paths

    def test_a_boot_or_the_units_end_forgets_them(self, run: Run, ready_unit: Unit, capsys):
        ready_unit.run("stop")
        assert self.refused(run, capsys).startswith("no unit has left its options")


@pytest.mark.parametrize("revision", ["ch:amd64/pci-passthrough-12", ""])
def test_the_version_is_the_charms_revision(
    tmp_path: pathlib.Path, capsys, monkeypatch: pytest.MonkeyPatch, revision: str
):
    if revision:
        (tmp_path / ".juju-charm").write_text(f"{revision}\n")
    place = tmp_path / "src/passthrough/arguments.py"
    monkeypatch.setattr(line, "__file__", os.fspath(place))
    with pytest.raises(SystemExit) as caught:
        cli.main(["--version"])
    assert caught.value.code == 0
    named = revision or "not deployed by Juju"
    assert capsys.readouterr().out == f"pci-passthrough ({named}), JSON schema 1\n"


@pytest.mark.parametrize("arguments", [[], ["plan"], ["bind"]], ids=["none", "no-devices", "other"])
def test_wrong_usage_is_explained(run: Run, capsys, arguments: list[str]):
    with pytest.raises(SystemExit) as caught:
        run(*arguments)
    assert caught.value.code == 2
    assert "usage: pci-passthrough" in capsys.readouterr().err


def test_an_empty_tree_is_a_host_without_pci(tmp_path: pathlib.Path, capsys):
    (tmp_path / "sys").mkdir()
    assert cli.main(["--root", os.fspath(tmp_path), "--json", "list"]) == 0
    assert json.loads(capsys.readouterr().out) == []
    assert list(tmp_path.iterdir()) == [tmp_path / "sys"]


@pytest.mark.parametrize("command", [["list"], ["plan", "--devices", "gpu=10de:1bb0"]])
def test_without_root_what_can_be_told_is_told_and_the_rest_is_said_once(
    run: Run, tree, monkeypatch: pytest.MonkeyPatch, command: list[str]
):
    """The kernel shows other users' open files, and perhaps crypttab, to root alone."""
    uses.node(tree, "0000:83:00.0", "drm/card1", "226:1", "/dev/dri/card1")
    uses.process(tree, 812, "/usr/bin/Xorg", "/dev/dri/card1")
    tree.write("etc/crypttab", "data /dev/sdz none\n")
    before = run(*command)
    real_list = os.listdir

    def list_own(path: str | os.PathLike[str]) -> list[str]:
        if os.fspath(path).endswith("/proc/812/fd"):
            raise PermissionError(13, "Permission denied", os.fspath(path))
        return real_list(path)

    monkeypatch.setattr(os, "listdir", list_own)
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setattr(os, "access", lambda path, mode: not str(path).endswith("crypttab"))
    code, shown, errors = run(*command)
    assert code == 0
    assert "/dev/dri/card1 is open in process 812 (Xorg)" in before[1]
    assert "process 812" not in shown
    assert "cannot be told" not in shown
    assert errors == (
        "pci-passthrough: not run as root: what other users' processes have open is not seen, so"
        " a function that is free here may be in use; the charm itself sees it\n"
    )


def test_a_tree_without_rights_to_write_is_enough(run: Run, tree):
    """An ordinary user looks at a host: nothing there is theirs."""
    for directory in (*OWNED, "run"):
        if (tree.root / directory).exists():
            (tree.root / directory).chmod(0o555)
    assert run("plan", "--devices", GPUS)[0] == 0


class TestGlobalOptions:
    @pytest.mark.parametrize("command", [["list"], ["plan", "--devices", GPUS]])
    def test_stand_before_the_command_or_after_it(self, tree, capsys, command: list[str]):
        where = ["--root", os.fspath(tree.root), "--json"]
        shown: list[str] = []
        for arguments in ([*where, *command], [*command, *where], [*where[:2], *command, "--json"]):
            assert cli.main(arguments) == 0
            shown.append(capsys.readouterr().out)
        assert shown == shown[:1] * 3
        json.loads(shown[0])

    @pytest.mark.parametrize("command", [["list"], ["plan"], ["verify"]])
    def test_a_root_may_be_relative(
        self, run: Run, ready: World, capsys, monkeypatch: pytest.MonkeyPatch, command: list[str]
    ):
        arguments = [*command, *(["--devices", GPUS] if command != ["list"] else [])]
        expected = run(*arguments)
        monkeypatch.chdir(ready.tree.root.parent)
        code = cli.main(["--root", ready.tree.root.name, *arguments])
        captured = capsys.readouterr()
        assert (code, captured.out, captured.err) == expected

    def test_a_root_without_sys_is_no_host(self, tmp_path: pathlib.Path, capsys):
        with pytest.raises(SystemExit) as caught:
            cli.main(["list", "--root", os.fspath(tmp_path)])
        assert caught.value.code == cli.EXIT_REFUSED
        message = f"argument --root: {tmp_path} has no folder sys, so it is no host's root\n"
        assert capsys.readouterr().err.endswith(message)


class TestAnUnexpectedError:
    @pytest.fixture(autouse=True)
    def broken(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def fail(*_: object, **__: object) -> None:
            raise KeyError("a\nb")

        monkeypatch.setattr("passthrough.host.pci.read", fail)

    def test_is_one_line_with_its_exit_code(self, run: Run):
        message = "pci-passthrough: unexpected KeyError: 'a\\nb'; --debug shows where\n"
        assert run("list") == (cli.EXIT_UNEXPECTED, "", message)

    def test_shows_where_to_who_debugs(self, run: Run):
        with pytest.raises(KeyError):
            run("list", "--debug")


def call(tree: hosttree.HostTree, tail: str) -> subprocess.CompletedProcess:
    """Run `list` as a process of its own, through a shell."""
    program = "from passthrough import cli; raise SystemExit(cli.main())"
    source = os.fspath(pathlib.Path(cli.__file__).parent.parent)
    script = f'"$0" -c "$1" --root "$2" list {tail}'
    command = ["bash", "-o", "pipefail", "-c", script, sys.executable, program, tree.root]
    given = {**os.environ, "PYTHONPATH": source}
    return subprocess.run(command, capture_output=True, check=False, env=given)


def test_a_reader_that_stops_is_no_error(tree):
    for number in range(1000):  # more than a pipe holds
        bus, slot = divmod(number, 32)
        tree.function(f"0000:{0xA0 + bus:02x}:{slot:02x}.0", "8086:1520", 0x020000)
    done = call(tree, "| head -n 1")
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout.startswith(b"GROUP")
