"""The few commands run on the host: real processes, programs made up on PATH."""

from __future__ import annotations

import os
import pathlib
import time
from collections.abc import Callable

import pytest
from charmhelpers import osplatform

from passthrough import enums
from passthrough.effects import tools
from passthrough.host import generators
from passthrough.system import commands

Install = Callable[[str, str], None]


@pytest.fixture
def calls(tmp_path: pathlib.Path) -> pathlib.Path:
    """What the made-up programs were called with, a line each."""
    path = tmp_path / "calls"
    path.touch()
    return path


@pytest.fixture
def install(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, calls: pathlib.Path
) -> Install:
    """Put made-up programs on an otherwise empty PATH."""
    programs = tmp_path / "bin"
    programs.mkdir()
    monkeypatch.setenv("PATH", os.fspath(programs))

    def make(name: str, text: str) -> None:
        path = programs / name
        path.write_text(f'#!/bin/sh\necho "{name} $*" >>{calls}\n{text}\n')
        path.chmod(0o755)

    return make


class TestRun:
    def test_gives_the_last_lines(self, install: Install):
        install(
            "tool", "i=0; while [ $i -lt 20 ]; do echo line $i; echo; i=$((i+1)); done; echo e >&2"
        )
        assert commands.run(("tool", "-x"), timeout=10) == (
            *(f"line {number}" for number in range(13, 20)),
            "e",
        )

    def test_failure_names_the_command_its_code_and_its_last_words(self, install: Install):
        install("tool", "echo 'E: no space left' >&2; echo '  on device '; exit 3")
        with pytest.raises(commands.CommandError) as caught:
            commands.run(("tool", "-u", "all"), timeout=10)
        assert str(caught.value) == (
            "tool -u all failed with exit code 3: E: no space left | on device"
        )
        assert caught.value.command == ("tool", "-u", "all")
        assert caught.value.tail == ("E: no space left", "on device")

    def test_silent_failure_ends_without_a_colon(self, install: Install):
        install("tool", "exit 1")
        with pytest.raises(commands.CommandError, match=r"^tool failed with exit code 1$"):
            commands.run(("tool",), timeout=10)

    def test_missing_program_is_named(self, install: Install):
        with pytest.raises(commands.CommandError, match=r"^tool is not installed on this host$"):
            commands.run(("tool",), timeout=10)

    def test_program_that_nobody_may_execute_is_named(self, install: Install, tmp_path):
        install("tool", "")
        (tmp_path / "bin/tool").chmod(0o644)
        with pytest.raises(
            commands.CommandError, match=r"^tool -u cannot be started: Permission den"
        ):
            commands.run(("tool", "-u"), timeout=10)

    def test_hanging_program_is_killed(self, install: Install, monkeypatch):
        install("tool", "echo begun; exec /bin/sleep 60")
        started = time.monotonic()
        with pytest.raises(commands.CommandError, match=r"^tool was killed after 0 s"):
            commands.run(("tool",), timeout=0.4)
        assert time.monotonic() - started < 10

    def test_one_that_closes_its_output_and_stays_is_killed(self, install: Install):
        install("tool", "echo begun; exec >&- 2>&-; exec /bin/sleep 60")
        started = time.monotonic()
        with pytest.raises(commands.CommandError, match=r"^tool was killed after 0 s: begun$"):
            commands.run(("tool",), timeout=0.4)
        assert time.monotonic() - started < 10

    def test_each_line_is_heeded_while_the_command_runs(self, install: Install, tmp_path):
        """The second line waits for the first to be heeded."""
        install("tool", f"printf 'fi'; echo rst; read -r word <{tmp_path}/go; echo $word; printf e")
        os.mkfifo(tmp_path / "go")
        heard: list[str] = []

        def heed(line: str) -> None:
            heard.append(line)
            if line == "first":
                (tmp_path / "go").write_text("second\n")

        assert commands.run(("tool",), 10, heed=heed) == ("first", "second", "e")
        assert heard == ["first", "second"], "what has no end is no line"

    def test_whoever_fails_to_heed_leaves_no_process(self, install: Install, tmp_path):
        install("tool", f"echo $$ >{tmp_path}/number; echo line; exec /bin/sleep 60")

        def fail(line: str) -> None:
            raise KeyError(line)

        with pytest.raises(KeyError):
            commands.run(("tool",), 30, heed=fail)
        assert not pathlib.Path("/proc", (tmp_path / "number").read_text().strip()).exists()

    def test_no_shell_sees_the_arguments(self, install: Install, calls: pathlib.Path):
        install("tool", "")
        commands.run(("tool", "$(reboot)", "a b"), timeout=10)
        assert calls.read_text() == "tool $(reboot) a b\n"

    def test_bytes_that_are_no_text_do_not_stop_it(self, install: Install):
        install("tool", r"printf '\377\n'")
        assert commands.run(("tool",), timeout=10) == ("\ufffd",)

    def test_nothing_waits_for_an_answer(self, install: Install):
        install("tool", "read -r answer; echo got:$answer")
        assert commands.run(("tool",), timeout=10) == ("got:",)


class TestRebuild:
    @pytest.mark.parametrize(
        ("what", "programs", "command"),
        [
            (
                enums.Rebuild.GRUB,
                ["update-grub"],
                "update-grub --output=/boot/grub/grub.cfg.pci-passthrough",
            ),
            (enums.Rebuild.INITRAMFS, ["update-initramfs", "dracut"], "update-initramfs -u -k all"),
            (enums.Rebuild.INITRAMFS, ["dracut"], "dracut --force --regenerate-all"),
        ],
        ids=["grub", "update-initramfs", "dracut-alone"],
    )
    def test_runs_one_command_and_says_so(
        self,
        install: Install,
        calls: pathlib.Path,
        what: enums.Rebuild,
        programs: list[str],
        command: str,
    ):
        for program in programs:
            install(program, "")
        said: list[str] = []
        tools.HostTools().rebuild(what, said.append)
        assert calls.read_text().strip() == command
        shown = command.partition(" --output")[0]
        assert said[0] == f"{shown}: running"
        assert said[-1].startswith(f"{shown}: done in ")

    def test_says_which_kernel_it_comes_to(self, install: Install):
        lines = (
            "update-initramfs: Generating /boot/initrd.img-6.8.0-45-generic",
            "I: The initramfs will attempt to resume from /dev/dm-1",
            "dracut: Executing: /usr/bin/dracut --kver=5.15.0-119-generic --force",
        )
        install("update-initramfs", "\n".join(f"echo '{line}'" for line in lines))
        reached: list[str] = []
        tools.HostTools().rebuild(
            enums.Rebuild.INITRAMFS, lambda said: None, generators.INITRAMFS_TOOLS, reached.append
        )
        assert reached == ["6.8.0-45-generic", "5.15.0-119-generic"]

    @pytest.mark.parametrize(
        ("generator", "programs", "command"),
        [
            (generators.INITRAMFS_TOOLS, ["update-initramfs", "dracut"], "update-initramfs"),
            (generators.DRACUT, ["update-initramfs", "dracut"], "update-initramfs"),
            (generators.DRACUT, ["dracut"], "dracut"),
        ],
        ids=["initramfs-tools", "dracut-with-a-command-of-its-own", "dracut"],
    )
    def test_rebuilds_with_the_command_of_the_generator(
        self,
        install: Install,
        calls: pathlib.Path,
        generator: generators.Generator,
        programs: list[str],
        command: str,
    ):
        for program in programs:
            install(program, "")
        tools.HostTools().rebuild(enums.Rebuild.INITRAMFS, lambda said: None, generator)
        assert calls.read_text().split()[0] == command

    def test_no_other_generator_stands_in(self, install: Install):
        install("dracut", "")
        with pytest.raises(commands.CommandError, match=r"^update-initramfs .*is not installed"):
            tools.HostTools().rebuild(
                enums.Rebuild.INITRAMFS, lambda said: None, generators.INITRAMFS_TOOLS
            )

    def test_failure_is_the_tools_own(self, install: Install):
        install("update-grub", "echo 'syntax error'; exit 2")
        with pytest.raises(
            commands.CommandError, match=r"^update-grub .*failed with exit code 2: syn"
        ):
            tools.HostTools().rebuild(enums.Rebuild.GRUB, lambda said: None)


class TestTimer:
    def test_a_timer_starts_once_systemd_knows_its_file(self, install: Install, calls):
        install("systemctl", "")
        tools.HostTools().start_timer("x-caretaker")
        assert calls.read_text().splitlines() == [
            "systemctl daemon-reload",
            "systemctl restart x-caretaker.timer",
        ]

    def test_a_timer_whose_file_is_gone_stops(self, install: Install, calls):
        install("systemctl", "")
        tools.HostTools().stop_timer("x-caretaker")
        assert calls.read_text().splitlines() == [
            "systemctl stop x-caretaker.timer",
            "systemctl daemon-reload",
        ]


class TestSocket:
    def test_a_socket_listens_anew_once_systemd_knows_its_file(self, install: Install, calls):
        install("systemctl", "")
        tools.HostTools().start_socket("x-exporter")
        assert calls.read_text().splitlines() == [
            "systemctl daemon-reload",
            "systemctl restart x-exporter.socket",
        ]

    def test_a_socket_whose_file_is_gone_stops_and_leaves_no_failure(self, install: Install, calls):
        install("systemctl", '[ "$1" != reset-failed ]')
        tools.HostTools().stop_socket("x-exporter")
        assert calls.read_text().splitlines() == [
            "systemctl stop x-exporter.socket",
            "systemctl reset-failed x-exporter.socket",
            "systemctl daemon-reload",
        ]


class TestModules:
    @pytest.fixture(autouse=True)
    def ubuntu(self, monkeypatch: pytest.MonkeyPatch):
        """Charmhelpers refuses to be imported on any other distribution."""
        monkeypatch.setattr(osplatform, "get_platform", lambda: "ubuntu")

    def test_vfio_and_its_iommu_backend_are_loaded(self, install: Install, calls: pathlib.Path):
        install("modprobe", "")
        tools.HostTools().load_vfio()
        assert calls.read_text().splitlines() == ["modprobe vfio_iommu_type1", "modprobe vfio-pci"]

    def test_vfio_that_the_kernel_does_not_have_is_an_error(self, install: Install):
        install("modprobe", "exit 1")
        with pytest.raises(
            commands.CommandError, match=r"^modprobe vfio_iommu_type1 failed with exit"
        ):
            tools.HostTools().load_vfio()

    def test_a_host_without_modprobe_is_an_error(self, install: Install):
        with pytest.raises(
            commands.CommandError, match=r"^modprobe vfio_iommu_type1 is not installed"
        ):
            tools.HostTools().load_vfio()

    def test_a_modprobe_that_nobody_may_execute_is_an_error(self, install: Install, tmp_path):
        install("modprobe", "")
        (tmp_path / "bin/modprobe").chmod(0o644)
        with pytest.raises(
            commands.CommandError, match=r"^modprobe vfio_iommu_type1 cannot be start"
        ):
            tools.HostTools().load_vfio()

    def test_a_native_driver_that_is_not_there_is_none(self, install: Install, calls, caplog):
        install("modprobe", "exit 1")
        caplog.set_level("INFO")
        tools.HostTools().load_native("pci:v000010DEd00001BB0")
        assert calls.read_text() == "modprobe pci:v000010DEd00001BB0\n"
        assert "no native driver was loaded: modprobe pci:v000010DEd00001BB0 failed" in caplog.text


class TestServices:
    def test_a_service_is_stopped_and_started_by_systemd(self, install: Install, calls):
        install("systemctl", "")
        host = tools.HostTools()
        host.stop("nova-compute")
        host.start("nova-compute")
        assert calls.read_text().splitlines() == [
            "systemctl stop nova-compute.service",
            "systemctl start nova-compute.service",
        ]

    def test_udev_reads_its_rules_again(self, install: Install, calls: pathlib.Path):
        install("udevadm", "exit 0")
        tools.HostTools().reload_udev()
        assert calls.read_text() == "udevadm control --reload\n"

    def test_one_that_does_not_stop_is_an_error(self, install: Install):
        install("systemctl", "echo 'Job for nova-compute.service canceled.' >&2; exit 1")
        with pytest.raises(commands.CommandError, match="canceled"):
            tools.HostTools().stop("nova-compute")
