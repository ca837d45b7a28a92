"""Nova's drop-in on a made-up compute host: written, read, withdrawn, deferred, crashed."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable

import pytest
from harness.constants import GPUS, NOVA, ONE
from harness.world import World

from passthrough.config import options
from passthrough.effects import tools
from passthrough.nova import facts as nova_facts
from passthrough.reporting.status import Kind, Status
from passthrough.state import record
from passthrough.system import commands


@pytest.fixture
def world(make_world: Callable[..., World]) -> World:
    """The world of a compute host."""
    world = make_world()
    world.nova.install()
    return world


@pytest.fixture
def ready(world: World) -> World:
    """A unit whose devices are bound and offered."""
    world.make_ready()
    return world


class TestOffering:
    def test_aliases_at_once_and_devices_when_they_are_ready(self, world: World):
        world.hook(GPUS)
        assert world.nova.offered() == []
        assert "alias = " in world.nova.path.read_text()
        world.reboot()
        assert world.hook() == Status(Kind.ACTIVE, "gpu: 2 ready")
        assert world.nova.offered() == ["0000:83:00.0", "0000:84:00.0"]
        assert world.nova.restarts() == 2

    def test_file_belongs_to_nova_and_nobody_else_reads_it(self, ready: World):
        found = ready.nova.path.stat()
        assert stat.S_IMODE(found.st_mode) == 0o640
        assert found.st_gid == os.getgid()

    def test_a_second_hook_touches_nothing(self, ready: World):
        before = ready.nova.path.stat()
        for _ in range(2):
            ready.hook()
        after = ready.nova.path.stat()
        assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
        assert (ready.tools.calls, ready.said) == ([], [])

    def test_without_nova_there_is_no_file(self, make_world):
        world = make_world()
        world.hook(GPUS)
        assert not (world.root / "etc/nova").exists()
        assert world.nova.restarts() == 0

    def test_a_device_that_lost_vfio_is_withdrawn(self, ready: World):
        ready.kernel.fail_probe("0000:84:00.0", "vfio-pci")
        ready.tree.bind("0000:84:00.0", "nouveau")
        ready.kernel.refuse("0000:84:00.0/driver/unbind")
        ready.hook()
        assert ready.nova.offered() == ["0000:83:00.0"]
        assert ready.nova.restarts() == 1

    def test_also_when_a_rebuild_fails(self, ready: World):
        ready.kernel.fail_probe("0000:84:00.0", "vfio-pci")
        ready.tree.bind("0000:84:00.0", "nouveau")
        ready.tools.failing["grub"] = "no space left"
        with pytest.raises(commands.CommandError):
            ready.hook(GPUS, kernel_options="pci=realloc")
        assert ready.nova.offered() == ["0000:83:00.0"]

    def test_also_when_the_record_cannot_be_written(self, ready: World, monkeypatch):
        """The disk is full once grub has been rebuilt, and for the record alone."""
        put = record.Ledger.put
        ready.tree.bind("0000:83:00.0", None)
        ready.kernel.fail_probe("0000:83:00.0", "vfio-pci", "nouveau")

        def refuse(ledger, content):
            if record.DIRTY not in content.activated.values():
                raise OSError(errno.ENOSPC, "No space left on device")
            return put(ledger, content)

        ready.tools.before_rebuild = lambda what: monkeypatch.setattr(record.Ledger, "put", refuse)
        with pytest.raises(OSError, match="No space left"):
            ready.hook(GPUS, kernel_options="nosmt")
        assert ready.nova.offered() == ["0000:84:00.0"]

    def test_a_device_that_is_given_back_is_withdrawn_first(self, ready: World):
        seen = ready.root / ".made/seen"

        def look(name: str, text: str) -> None:
            if name.endswith("unbind"):  # in a child process
                with seen.open("a") as log:
                    log.write(f"{text} {ready.nova.offered()} {ready.nova.restarts()}\n")

        ready.kernel.before_write = look
        assert ready.hook(ONE) == Status(Kind.ACTIVE, "gpu: 1 ready")
        assert seen.read_text().splitlines() == [
            "0000:84:00.0 ['0000:83:00.0'] 1",
            "0000:84:00.1 ['0000:83:00.0'] 1",
        ]
        assert ready.nova.restarts() == 1

    def test_a_device_that_a_guest_holds_stays(self, ready: World):
        held = ready.kernel.hold("0000:84:00.0")
        ready.hook(ONE)
        assert ready.nova.offered() == ["0000:83:00.0", "0000:84:00.0"]
        assert ready.nova.restarts() == 0
        ready.kernel.close(held)
        assert ready.hook() == Status(Kind.ACTIVE, "gpu: 1 ready")
        assert ready.nova.offered() == ["0000:83:00.0"]


class TestRestart:
    def test_only_if_it_runs(self, world: World):
        world.tools.services.clear()
        world.hook(GPUS)
        assert world.nova.restarts() == 0
        world.tools.services["nova-compute"] = "started by somebody, with the file in place"
        world.hook()
        assert world.nova.restarts() == 0

    def test_denied_is_said_and_not_asked_for_again(self, world: World):
        world.hook(GPUS)
        world.reboot()
        world.tools.calls.clear()
        world.tools.restarts_denied = True
        deferred = Status(
            Kind.ACTIVE,
            "gpu: 2 ready; nova-compute's restart is deferred: run its restart-services action",
        )
        assert world.hook() == deferred
        assert world.hook() == deferred
        assert world.nova.restarts() == 1

    def test_is_over_when_somebody_restarted_it(self, world: World):
        world.hook(GPUS)
        world.reboot()
        world.tools.restarts_denied = True
        world.hook()
        world.tools.services["nova-compute"] = "another run"
        world.tools.calls.clear()
        assert world.hook() == Status(Kind.ACTIVE, "gpu: 2 ready")
        assert world.nova.restarts() == 0
        assert world.record().nova.deferred == ""

    def test_another_change_is_asked_for_again(self, world: World):
        world.hook(GPUS)
        world.reboot()
        world.tools.restarts_denied = True
        world.hook()
        world.tools.restarts_denied = False
        world.tools.calls.clear()
        assert world.hook(ONE) == Status(Kind.ACTIVE, "gpu: 1 ready")
        assert world.nova.restarts() == 1

    def test_a_failed_one_is_tried_again(self, world: World):
        world.tools.failing["restart"] = "Job for nova-compute.service failed"
        with pytest.raises(commands.CommandError):
            world.hook(GPUS)
        assert world.nova.path.exists()
        world.tools.failing.clear()
        world.tools.calls.clear()
        world.hook()
        assert world.nova.restarts() == 1
        world.hook()
        assert world.nova.restarts() == 1

    def test_a_new_run_that_is_not_ready_has_read_the_file(self, world: World, monkeypatch):
        def start_without_a_broker(service: str) -> bool:
            world.tools.calls.append(f"restart {service}")
            world.tools.services[service] = "a run that waits for its message broker"
            said = ("Job for nova-compute.service failed because a timeout was exceeded.",)
            raise commands.CommandError(("invoke-rc.d",), "failed with exit code 1", said)

        monkeypatch.setattr(world.tools, "restart", start_without_a_broker)
        assert world.hook(GPUS).message.startswith("reboot required")
        assert any("not ready yet: invoke-rc.d failed" in each for each in world.said)
        world.hook()
        assert world.nova.restarts() == 1

    def test_a_crash_between_the_file_and_the_restart(self, world: World, monkeypatch):
        class CrashError(BaseException):
            pass

        def crash(service: str) -> bool:
            raise CrashError(service)

        with monkeypatch.context() as patch:
            patch.setattr(world.tools, "restart", crash)
            with pytest.raises(CrashError):
                world.hook(GPUS)
        assert world.nova.path.exists()
        world.hook()
        assert world.nova.restarts() == 1


class TestLeaving:
    def test_leaves_nothing(self, ready: World):
        before = ready.tree.snapshot("etc/nova")
        assert NOVA in before
        ready.leave()
        assert NOVA not in ready.tree.snapshot("etc/nova")
        assert not (ready.root / record.DIRECTORY).exists()
        assert ready.nova.restarts() == 1

    @pytest.mark.parametrize("was_there", [True, False])
    def test_the_directory_goes_if_it_came_with_the_file(self, world: World, was_there: bool):
        directory = world.nova.path.parent
        if not was_there:
            directory.rmdir()
        world.hook(GPUS)
        world.leave()
        assert directory.is_dir() is was_there

    def test_the_directory_stays_with_others_files_in_it(self, world: World):
        world.nova.path.parent.rmdir()
        world.hook(GPUS)
        (world.nova.path.parent / "other.conf").write_text("")
        world.leave()
        assert (world.nova.path.parent / "other.conf").exists()
        assert not world.nova.path.exists()

    def test_a_denied_restart_leaves_no_record(self, ready: World):
        ready.tools.restarts_denied = True
        ready.leave()
        assert not ready.nova.path.exists()
        assert not (ready.root / record.DIRECTORY).exists()

    def test_report_in_placement_stays_and_is_said(self, ready: World):
        ready.hook(GPUS, report_in_placement=True)
        ready.said.clear()
        ready.leave()
        assert ready.nova.path.read_text().endswith("report_in_placement = true\n")
        assert ready.said[-1].startswith(f"/{NOVA}: stays, as Nova does not start without")
        assert not (ready.root / record.DIRECTORY).exists()

    def test_no_devices_any_more(self, ready: World):
        ready.hook("")
        assert not ready.nova.path.exists()
        assert ready.nova.restarts() == 1


class TestApplications:
    def test_two_on_one_host_have_a_file_each(self, ready: World):
        other = ready.beside("nvme")
        other.hook("ssd=144d:a808")
        assert other.nova.path.name == "pci-passthrough-nvme.conf"
        assert ready.nova.offered() == ["0000:83:00.0", "0000:84:00.0"]
        other.leave()
        assert ready.nova.path.exists()
        assert not other.nova.path.exists()

    def test_the_same_alias_of_two_is_set_once(self, ready: World):
        third = ready.beside("third")
        third.hook("gpu=10de:1bb0@0000:85:00.0")
        assert "alias = " not in third.nova.path.read_text()
        ready.hook()
        assert "alias = " in ready.nova.path.read_text()


class TestOptions:
    def test_what_nova_does_not_know_is_refused_before_a_byte_is_written(self, make_world):
        world = make_world(ubuntu="22.04")
        world.nova.install()
        before = world.tree.snapshot("etc", "var")
        with pytest.raises(options.OptionError, match="traits needs Nova 27"):
            world.hook("[{alias: gpu, id: '10de:1bb0', traits: blue}]")
        assert world.tree.snapshot("etc", "var") == before
        assert world.tools.calls == []

    def test_problems_block(self, world: World):
        world.tree.write(
            "etc/nova/nova.conf",
            '[pci]\nalias = {"name": "gpu", "vendor_id": "10de", "product_id": "1eb8"}\n',
        )
        found = world.hook(GPUS)
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
