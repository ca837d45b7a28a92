"""Nova's drop-in on a made-up compute host: written, read, withdrawn, deferred, crashed."""

from __future__ import annotations

import errno
import os
import stat

import pytest
from harness import fakekernel, made
from harness.fakekernel import GPUS

from passthrough import reconcile
from passthrough.config import options
from passthrough.effects import tools
from passthrough.nova import facts as nova_facts
from passthrough.nova import lines as nova_lines
from passthrough.reporting import status
from passthrough.reporting.status import Status
from passthrough.site import Site
from passthrough.state import record
from passthrough.system import commands

DROP_IN = "etc/nova/nova.conf.d/pci-passthrough.conf"
ONE = "gpu=10de:1bb0@0000:83:00.0"


class Unit:
    """One application's unit beside nova-compute."""

    def __init__(self, tree, tools, application: str = "pci-passthrough"):
        self.tree, self.tools, self.application = tree, tools, application
        self.wanted = options.Options()
        self.said: list[str] = []

    def hook(self, devices: str | None = None, **config: object) -> Status:
        if devices is not None:
            self.wanted = made.wanted(devices, **config)
        result = reconcile.reconcile(
            Site(self.tree.root, self.application), self.wanted, self.tools, self.said.append
        )
        return status.summarize(result.decision, result.outcome.failed)

    def leave(self) -> None:
        reconcile.reconcile(
            Site(self.tree.root, self.application),
            options.Options(leaving=True),
            self.tools,
            self.said.append,
        )

    @property
    def path(self):
        return self.tree.root / nova_lines.path_of(self.application)

    def offered(self) -> list[str]:
        """The addresses in the drop-in."""
        text = self.path.read_text() if self.path.exists() else ""
        return [
            line.split('"')[3]
            for line in text.splitlines()
            if line.startswith(("device_spec", "passthrough_whitelist"))
        ]

    def restarts(self) -> int:
        return self.tools.calls.count("restart nova-compute")

    @property
    def known(self) -> record.Nova:
        return record.read(Site(self.tree.root, self.application)).nova


@pytest.fixture
def tree(make_host):
    made_host = make_host()
    made_host.install_nova()
    made_host.write("etc/group", f"root:x:0:\nnova:x:{os.getgid()}:nova\n")
    return made_host


@pytest.fixture
def unit(tree, kernel, tools) -> Unit:
    del kernel  # answers behind the tree
    tools.services["nova-compute"] = "run"
    return Unit(tree, tools)


@pytest.fixture
def ready(unit: Unit, kernel: fakekernel.FakeKernel) -> Unit:
    """A unit whose devices are bound and offered."""
    unit.hook(GPUS)
    kernel.reboot()
    unit.hook()
    unit.tools.calls.clear()
    unit.said.clear()
    return unit


class TestOffering:
    def test_aliases_at_once_and_devices_when_they_are_ready(self, unit: Unit, kernel):
        unit.hook(GPUS)
        assert unit.offered() == []
        assert "alias = " in unit.path.read_text()
        kernel.reboot()
        assert unit.hook() == Status("active", "gpu: 2 ready")
        assert unit.offered() == ["0000:83:00.0", "0000:84:00.0"]
        assert unit.restarts() == 2

    def test_file_belongs_to_nova_and_nobody_else_reads_it(self, ready: Unit):
        found = ready.path.stat()
        assert stat.S_IMODE(found.st_mode) == 0o640
        assert found.st_gid == os.getgid()

    def test_a_second_hook_touches_nothing(self, ready: Unit):
        before = ready.path.stat()
        for _ in range(2):
            ready.hook()
        after = ready.path.stat()
        assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
        assert (ready.tools.calls, ready.said) == ([], [])

    def test_without_nova_there_is_no_file(self, make_host, monkeypatch):
        tree = make_host()
        unit = Unit(tree, fakekernel.FakeTools(tree))
        fakekernel.FakeKernel(tree, monkeypatch)
        unit.hook(GPUS)
        assert not (tree.root / "etc/nova").exists()
        assert unit.restarts() == 0

    def test_a_device_that_lost_vfio_is_withdrawn(self, ready: Unit, kernel):
        kernel.fail_probe("0000:84:00.0", "vfio-pci")
        ready.tree.bind("0000:84:00.0", "nouveau")
        kernel.refuse("0000:84:00.0/driver/unbind")
        ready.hook()
        assert ready.offered() == ["0000:83:00.0"]
        assert ready.restarts() == 1

    def test_also_when_a_rebuild_fails(self, ready: Unit, kernel):
        kernel.fail_probe("0000:84:00.0", "vfio-pci")
        ready.tree.bind("0000:84:00.0", "nouveau")
        ready.tools.failing["grub"] = "no space left"
        with pytest.raises(commands.CommandError):
            ready.hook(GPUS, kernel_options="pci=realloc")
        assert ready.offered() == ["0000:83:00.0"]

    def test_also_when_the_record_cannot_be_written(self, ready: Unit, kernel, monkeypatch):
        """The disk is full once grub has been rebuilt, and for the record alone."""
        put = record.Ledger.put
        ready.tree.bind("0000:83:00.0", None)
        kernel.fail_probe("0000:83:00.0", "vfio-pci", "nouveau")

        def refuse(ledger, content):
            if record.DIRTY not in content.activated.values():
                raise OSError(errno.ENOSPC, "No space left on device")
            return put(ledger, content)

        ready.tools.before_rebuild = lambda what: monkeypatch.setattr(record.Ledger, "put", refuse)
        with pytest.raises(OSError, match="No space left"):
            ready.hook(GPUS, kernel_options="a=b")
        assert ready.offered() == ["0000:84:00.0"]

    def test_a_device_that_is_given_back_is_withdrawn_first(self, ready: Unit, kernel):
        seen = ready.tree.root / ".made/seen"

        def look(name: str, text: str) -> None:
            if name.endswith("unbind"):  # in a child process
                with seen.open("a") as log:
                    log.write(f"{text} {ready.offered()} {ready.restarts()}\n")

        kernel.before_write = look
        assert ready.hook(ONE) == Status("active", "gpu: 1 ready")
        assert seen.read_text().splitlines() == [
            "0000:84:00.0 ['0000:83:00.0'] 1",
            "0000:84:00.1 ['0000:83:00.0'] 1",
        ]
        assert ready.restarts() == 1

    def test_a_device_that_a_guest_holds_stays(self, ready: Unit, kernel):
        held = kernel.hold("0000:84:00.0")
        ready.hook(ONE)
        assert ready.offered() == ["0000:83:00.0", "0000:84:00.0"]
        assert ready.restarts() == 0
        held.unlink()
        assert ready.hook() == Status("active", "gpu: 1 ready")
        assert ready.offered() == ["0000:83:00.0"]


class TestRestart:
    def test_only_if_it_runs(self, unit: Unit):
        unit.tools.services.clear()
        unit.hook(GPUS)
        assert unit.restarts() == 0
        unit.tools.services["nova-compute"] = "started by somebody, with the file in place"
        unit.hook()
        assert unit.restarts() == 0

    def test_denied_is_said_and_not_asked_for_again(self, unit: Unit, kernel):
        unit.hook(GPUS)
        kernel.reboot()
        unit.tools.calls.clear()
        unit.tools.restarts_denied = True
        deferred = Status(
            "active",
            "gpu: 2 ready; nova-compute's restart is deferred: run its restart-services action",
        )
        assert unit.hook() == deferred
        assert unit.hook() == deferred
        assert unit.restarts() == 1

    def test_is_over_when_somebody_restarted_it(self, unit: Unit, kernel):
        unit.hook(GPUS)
        kernel.reboot()
        unit.tools.restarts_denied = True
        unit.hook()
        unit.tools.services["nova-compute"] = "another run"
        unit.tools.calls.clear()
        assert unit.hook() == Status("active", "gpu: 2 ready")
        assert unit.restarts() == 0
        assert unit.known.deferred == ""

    def test_another_change_is_asked_for_again(self, unit: Unit, kernel):
        unit.hook(GPUS)
        kernel.reboot()
        unit.tools.restarts_denied = True
        unit.hook()
        unit.tools.restarts_denied = False
        unit.tools.calls.clear()
        assert unit.hook(ONE) == Status("active", "gpu: 1 ready")
        assert unit.restarts() == 1

    def test_a_failed_one_is_tried_again(self, unit: Unit):
        unit.tools.failing["restart"] = "Job for nova-compute.service failed"
        with pytest.raises(commands.CommandError):
            unit.hook(GPUS)
        assert unit.path.exists()
        unit.tools.failing.clear()
        unit.tools.calls.clear()
        unit.hook()
        assert unit.restarts() == 1
        unit.hook()
        assert unit.restarts() == 1

    def test_a_new_run_that_is_not_ready_has_read_the_file(self, unit: Unit, monkeypatch):
        def start_without_a_broker(service: str) -> bool:
            unit.tools.calls.append(f"restart {service}")
            unit.tools.services[service] = "a run that waits for its message broker"
            said = ("Job for nova-compute.service failed because a timeout was exceeded.",)
            raise commands.CommandError(("invoke-rc.d",), "failed with exit code 1", said)

        monkeypatch.setattr(unit.tools, "restart", start_without_a_broker)
        assert unit.hook(GPUS).message.startswith("reboot required")
        assert any("not ready yet: invoke-rc.d failed" in each for each in unit.said)
        unit.hook()
        assert unit.restarts() == 1

    def test_a_crash_between_the_file_and_the_restart(self, unit: Unit, monkeypatch):
        class CrashError(BaseException):
            pass

        def crash(service: str) -> bool:
            raise CrashError(service)

        with monkeypatch.context() as patch:
            patch.setattr(unit.tools, "restart", crash)
            with pytest.raises(CrashError):
                unit.hook(GPUS)
        assert unit.path.exists()
        unit.hook()
        assert unit.restarts() == 1


class TestLeaving:
    def test_leaves_nothing(self, ready: Unit):
        before = ready.tree.snapshot("etc/nova")
        assert DROP_IN in before
        ready.leave()
        assert DROP_IN not in ready.tree.snapshot("etc/nova")
        assert not (ready.tree.root / record.DIRECTORY).exists()
        assert ready.restarts() == 1

    @pytest.mark.parametrize("was_there", [True, False])
    def test_the_directory_goes_if_it_came_with_the_file(self, unit: Unit, was_there: bool):
        directory = unit.path.parent
        if not was_there:
            directory.rmdir()
        unit.hook(GPUS)
        unit.leave()
        assert directory.is_dir() is was_there

    def test_the_directory_stays_with_others_files_in_it(self, unit: Unit):
        unit.path.parent.rmdir()
        unit.hook(GPUS)
        (unit.path.parent / "other.conf").write_text("")
        unit.leave()
        assert (unit.path.parent / "other.conf").exists()
        assert not unit.path.exists()

    def test_a_denied_restart_leaves_no_record(self, ready: Unit):
        ready.tools.restarts_denied = True
        ready.leave()
        assert not ready.path.exists()
        assert not (ready.tree.root / record.DIRECTORY).exists()

    def test_report_in_placement_stays_and_is_said(self, ready: Unit):
        ready.hook(GPUS, report_in_placement=True)
        ready.said.clear()
        ready.leave()
        assert ready.path.read_text().endswith("report_in_placement = true\n")
        assert ready.said[-1].startswith(f"/{DROP_IN}: stays, as Nova does not start without")
        assert not (ready.tree.root / record.DIRECTORY).exists()

    def test_no_devices_any_more(self, ready: Unit):
        ready.hook("")
        assert not ready.path.exists()
        assert ready.restarts() == 1


class TestApplications:
    def test_two_on_one_host_have_a_file_each(self, ready: Unit):
        other = Unit(ready.tree, ready.tools, "nvme")
        other.hook("ssd=144d:a808")
        assert other.path.name == "pci-passthrough-nvme.conf"
        assert ready.offered() == ["0000:83:00.0", "0000:84:00.0"]
        other.leave()
        assert ready.path.exists()
        assert not other.path.exists()

    def test_the_same_alias_of_two_is_set_once(self, ready: Unit):
        third = Unit(ready.tree, ready.tools, "third")
        third.hook("gpu=10de:1bb0@0000:85:00.0")
        assert "alias = " not in third.path.read_text()
        ready.hook()
        assert "alias = " in ready.path.read_text()


class TestOptions:
    def test_what_nova_does_not_know_is_refused_before_a_byte_is_written(self, make_host, tools):
        tree = make_host(ubuntu="22.04")
        tree.install_nova()
        before = tree.snapshot("etc", "var")
        unit = Unit(tree, fakekernel.FakeTools(tree))
        with pytest.raises(options.OptionError, match="traits needs Nova 27"):
            unit.hook("[{alias: gpu, id: '10de:1bb0', traits: blue}]")
        assert tree.snapshot("etc", "var") == before
        assert unit.tools.calls == []

    def test_problems_block(self, unit: Unit):
        unit.tree.write(
            "etc/nova/nova.conf",
            '[pci]\nalias = {"name": "gpu", "vendor_id": "10de", "product_id": "1eb8"}\n',
        )
        found = unit.hook(GPUS)
        assert found.kind == "blocked"
        assert found.message.startswith("devices: alias gpu is ")


class TestHostTools:
    """The two methods of HostTools, on made-up programs of the same interface."""

    @pytest.fixture
    def programs(self, tmp_path, monkeypatch):
        def write(name: str, script: str) -> None:
            path = tmp_path / name
            path.write_text(f"#!/bin/sh\n{script}\n")
            path.chmod(0o755)

        monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
        return write

    @pytest.mark.parametrize(
        ("shown", "run"),
        [
            ("ActiveState=active\nInvocationID=abc", "abc"),
            ("InvocationID=abc\nActiveState=activating", "abc"),
            ("ActiveState=active\nInvocationID=", "unknown"),
            ("ActiveState=inactive\nInvocationID=abc", None),
            ("ActiveState=failed\nInvocationID=", None),
        ],
    )
    def test_running(self, programs, shown: str, run: str | None):
        programs("systemctl", f"printf '{shown}\\n'")
        assert tools.HostTools().running(nova_facts.SERVICE) == run

    @pytest.mark.parametrize(("code", "restarted"), [(0, True), (101, False)])
    def test_restart(self, programs, tmp_path, code: int, restarted: bool):
        programs("invoke-rc.d", f'echo "$@" >{tmp_path}/asked; exit {code}')
        assert tools.HostTools().restart(nova_facts.SERVICE) is restarted
        assert (tmp_path / "asked").read_text() == "--disclose-deny nova-compute restart\n"

    def test_restart_that_fails(self, programs):
        programs("invoke-rc.d", "echo Job failed; exit 1")
        with pytest.raises(commands.CommandError, match=r"exit code 1: Job failed"):
            tools.HostTools().restart(nova_facts.SERVICE)
