"""The files that make claims survive a reboot: their text, and what their shell really does."""

from __future__ import annotations

import dataclasses
import pathlib
import subprocess
import sys
import textwrap

import pytest
from harness import hosttree, made
from harness.constants import CLAIMED, GPUS
from harness.made import CARDS_OFF as CARDS

from passthrough import enums
from passthrough.config import options
from passthrough.host import generators, machine, modules
from passthrough.planning import boot_files, templates

VT_D = machine.Platform(iommu_table="DMAR", has_grub=True, generator=generators.INITRAMFS_TOOLS)


def desired(
    devices: str = GPUS,
    application: str = "pci-passthrough",
    facts: machine.Platform = VT_D,
    functions=CARDS,
    **config: object,
) -> dict[str, boot_files.File]:
    """Every owned file by its path, as `plan` asks for them."""
    wanted = made.wanted(devices, **config)
    claimed = made.decide(devices, *functions).claims
    blacklist = boot_files.blacklisted_drivers(
        wanted, claimed, made.host(*functions), modules.Aliases.none()
    )
    tokens = boot_files.kernel_options(wanted, blacklist, facts)
    twins = boot_files.find_twins(claimed, made.host(*functions))
    asked = boot_files.Wanted(
        application=application,
        claims=claimed,
        twins=twins,
        blacklist=blacklist,
        kernel_options=tokens,
        allow_unsafe_interrupts=wanted.allow_unsafe_interrupts,
        generator=facts.generator,
    )
    files = boot_files.desired_files(asked, templates.Renderer())
    return {file.path: file for file in files}


def texts(**values) -> dict[str, str]:
    """The files that should be there, and what they should hold."""
    return {
        path: file.content for path, file in desired(**values).items() if file.content is not None
    }


HEADER = """\
# Written by the Juju charm pci-passthrough (application pci-passthrough).
# Edits are overwritten; change the charm's options instead: juju config pci-passthrough
"""


class TestFiles:
    def test_text_of_those_that_are_no_script(self):
        found = texts(blacklist_drivers="nouveau nvidiafb", allow_unsafe_interrupts=True)
        assert found["etc/default/grub.d/95-pci-passthrough.cfg"] == HEADER + (
            'GRUB_CMDLINE_LINUX_DEFAULT="$GRUB_CMDLINE_LINUX_DEFAULT intel_iommu=on'
            ' modprobe.blacklist=nouveau,nvidiafb vfio_iommu_type1.allow_unsafe_interrupts=1"\n'
        )
        assert found["etc/modules-load.d/pci-passthrough.conf"] == (
            f"{HEADER}vfio_iommu_type1\nvfio_pci\n"
        )
        assert found["etc/modprobe.d/pci-passthrough.conf"] == HEADER + (
            "blacklist nouveau\n"
            "blacklist nvidiafb\n"
            "options vfio_iommu_type1 allow_unsafe_interrupts=1\n"
        )
        rule = (
            'KERNEL=="{}", ATTR{{vendor}}=="0x10de", ATTR{{device}}=="0x{}", TEST=="iommu_group",'
            ' ATTR{{[pci/{}]vendor}}=="0x10de", ATTR{{[pci/{}]device}}=="0x{}",'
            ' ATTR{{driver_override}}="vfio-pci", RUN{{builtin}}+="kmod load vfio-pci",'
            """ RUN+="/bin/sh -c 'echo %k >/sys/bus/pci/drivers_probe'\""""
        )
        gpu = ("1bb0", *["0000:85:00.0"] * 2, "1bb0")
        audio = ("10f0", *["0000:85:00.1"] * 2, "10f0")
        assert found["etc/udev/rules.d/60-pci-passthrough.rules"].splitlines()[7:] == [
            'ACTION!="add", GOTO="pci-passthrough_end"',
            'SUBSYSTEM!="pci", GOTO="pci-passthrough_end"',
            "# Switched off for this boot; the last two are what GRUB's recovery entries carry.",
            'IMPORT{cmdline}="pci-passthrough"',
            'ENV{pci-passthrough}=="off", GOTO="pci-passthrough_end"',
            'IMPORT{cmdline}="recovery", GOTO="pci-passthrough_end"',
            'IMPORT{cmdline}="single", GOTO="pci-passthrough_end"',
            rule.format("0000:83:00.0", *gpu),
            rule.format("0000:83:00.1", *audio),
            rule.format("0000:84:00.0", *gpu),
            rule.format("0000:84:00.1", *audio),
            'LABEL="pci-passthrough_end"',
        ]

    @pytest.mark.parametrize(
        ("generator", "executables"),
        [
            (
                generators.INITRAMFS_TOOLS,
                {
                    "etc/initramfs-tools/hooks/pci-passthrough",
                    "etc/initramfs-tools/scripts/init-top/pci-passthrough",
                },
            ),
            (
                generators.DRACUT,
                {
                    "usr/lib/dracut/modules.d/91pci-passthrough/claim.sh",
                    "usr/lib/dracut/modules.d/91pci-passthrough/module-setup.sh",
                },
            ),
        ],
    )
    def test_scripts_belong_to_one_generator(
        self, generator: generators.Generator, executables: set[str]
    ):
        found = desired(facts=dataclasses.replace(VT_D, generator=generator))
        present = {path: file for path, file in found.items() if file.content is not None}
        assert {path for path, file in present.items() if file.mode == 0o755} == executables
        assert {file.mode for file in present.values()} == {0o755, 0o644}
        others = {*generators.GENERATORS} - {generator}
        for other in others:
            assert not any(other.name in path for path in present)

    def test_are_named_after_the_application(self):
        first, second = texts(), texts(application="qat")
        assert not set(first) & set(second)
        assert [path.replace("-qat", "") for path in second] == list(first)
        assert all("(application qat)" in text for text in second.values())

    @pytest.mark.parametrize(
        "config", [{}, {"kernel_options": "quiet", "allow_unsafe_interrupts": True}], ids=repr
    )
    def test_are_all_gone_where_nothing_is_claimed(self, config):
        assert texts(devices="x=1234:5678", **config) == {}
        assert set(desired(devices="")) == {
            file.path for file in boot_files.owned_files("pci-passthrough")
        }

    def test_leave_modprobe_and_grub_out_where_they_would_say_nothing(self):
        amd = dataclasses.replace(VT_D, iommu_table="IVRS")
        found = texts(facts=amd, blacklist_drivers="")
        assert not [path for path in found if "grub" in path or "modprobe" in path]
        assert found

    def test_are_the_same_bytes_for_the_same_input(self):
        assert texts() == texts()

    def test_that_feed_a_rebuild_say_which(self):
        feeds = {path: file.feeds for path, file in desired().items()}
        assert feeds["etc/default/grub.d/95-pci-passthrough.cfg"] == enums.Rebuild.GRUB
        assert feeds["etc/modprobe.d/pci-passthrough.conf"] == enums.Rebuild.INITRAMFS
        assert (
            feeds["etc/initramfs-tools/scripts/init-top/pci-passthrough"] == enums.Rebuild.INITRAMFS
        )
        assert feeds["etc/modules-load.d/pci-passthrough.conf"] is None
        assert feeds["etc/udev/rules.d/60-pci-passthrough.rules"] == enums.Rebuild.INITRAMFS


class TestKernelOptions:
    @pytest.mark.parametrize(
        ("table", "config", "tokens"),
        [
            ("DMAR", {}, ("intel_iommu=on",)),
            ("IVRS", {}, ()),
            ("IORT", {}, ()),
            ("DMAR", {"iommu": "off"}, ()),
            ("IVRS", {"iommu_passthrough": True}, ("iommu=pt",)),
            (
                "DMAR",
                {"iommu_passthrough": True, "kernel_options": "intel_iommu=on,sm_on quiet"},
                ("intel_iommu=on", "iommu=pt", "intel_iommu=on,sm_on", "quiet"),
            ),
            (
                "IVRS",
                {"allow_unsafe_interrupts": True},
                ("vfio_iommu_type1.allow_unsafe_interrupts=1",),
            ),
        ],
        ids=["intel", "amd", "arm", "off", "pt", "operators-last", "unsafe"],
    )
    def test_fit_the_host(self, table: str, config, tokens: tuple[str, ...]):
        facts = machine.Platform(iommu_table=table)
        assert boot_files.kernel_options(made.wanted("", **config), (), facts) == tokens

    def test_name_the_blacklisted_drivers_once(self):
        tokens = boot_files.kernel_options(
            options.Options(), ("nouveau", "nvidia"), machine.Platform()
        )
        assert tokens == ("modprobe.blacklist=nouveau,nvidia",)


class TestBlacklist:
    NVIDIA = ("nouveau", "nvidia", "nvidia_drm", "nvidiafb")
    # As the drivers' own tables have them.
    ALIASES = (
        "pci:v000010DEd*sv*sd*bc03sc*i* nouveau",
        "pci:v000010DEd*sv*sd*bc03sc*i* nvidiafb",
        "pci:v000010DEd*sv*sd*bc03sc00i00* nvidia",
        "pci:v000010DEd*sv*sd*bc03sc02i00* nvidia",
        "pci:v000010DEd*sv*sd*bc06sc80i00* nvidia",
        "pci:v00001002d000074A1sv*sd*bc12sc00i00* amdgpu",
        "pci:v00001002d*sv*sd*bc03sc00i00* amdgpu",
    )

    def keep_off(self, wanted, claimed, *functions, aliases=None, others=()) -> tuple[str, ...]:
        return boot_files.blacklisted_drivers(
            wanted, claimed, made.host(*functions), aliases or modules.Aliases.none(), others
        )

    @pytest.mark.parametrize(
        ("devices", "functions", "names"),
        [
            ("10de:1bb0", CARDS, NVIDIA),
            (GPUS, CARDS, ()),
            ("10de:1bb0", [*CARDS, made.function("0000:02:00.0", "1a03:2000")], NVIDIA),
            ("10de:1bb0", [*CARDS, made.function("0000:02:00.0", "10de:0001", 0x030200)], ()),
            (
                "10de:1bb0",
                [*CARDS, made.function("0000:02:00.0", "10de:0002", 0x040300, driver="nvidia")],
                ("nouveau", "nvidia_drm", "nvidiafb"),
            ),
            ("- {id: 10de:10f0, companions: false}", CARDS, ()),
            ("8086:1572", [made.function("0000:3b:00.0", "8086:1572", made.ETHERNET)], ()),
            ("x=dead:beef", CARDS, ()),
        ],
        ids=[
            "all",
            "one-kept",
            "other-vendor-kept",
            "3d-kept",
            "driver-in-use",
            "audio",
            "nic",
            "none",
        ],
    )
    def test_auto(self, devices: str, functions, names: tuple[str, ...]):
        wanted = made.wanted(devices)
        claimed = made.decide(devices, *functions).claims
        assert self.keep_off(wanted, claimed, *functions) == names

    @pytest.mark.parametrize(("devices", "names"), [(GPUS, ("nouveau",)), ("x=dead:beef", ())])
    def test_named_drivers_only_while_something_is_claimed(self, devices, names):
        wanted = made.wanted(devices, blacklist_drivers="nouveau")
        claimed = made.decide(devices, *CARDS).claims
        assert self.keep_off(wanted, claimed, *CARDS) == names

    @pytest.mark.parametrize("bound", [True, False], ids=["bound", "not-yet"])
    @pytest.mark.parametrize("tells", [True, False], ids=["aliases", "no-aliases"])
    @pytest.mark.parametrize(
        ("claimed", "kept", "driver", "names"),
        [
            (
                "10de:2335 0302 nvidia",
                "10de:22a3 0680 pci:v000010DEd000022A3sv*sd*bc06sc80i00",
                "nvidia-nvswitch nvidia",
                ("nouveau", "nvidia_drm", "nvidiafb"),
            ),
            (
                "1002:744c 0300 amdgpu",
                "1002:74a1 1200 pci:v00001002d000074A1sv*sd*bc12sc00i00",
                "amdgpu amdgpu",
                ("radeon",),
            ),
        ],
        ids=["nvswitch", "accelerator"],
    )
    def test_auto_keeps_no_driver_off_that_a_function_which_stays_needs(
        self, tmp_path, claimed, kept, driver, names, tells, bound
    ):
        """On a driver of another name than its module, or on none yet."""
        identity, class_code, native = claimed.split()
        gpu = made.function("0000:18:00.0", identity, int(class_code, 16) << 8, driver=native)
        identity, class_code, modalias = kept.split()
        stays = made.function(
            "0000:05:00.0",
            identity,
            int(class_code, 16) << 8,
            driver=driver.split()[0] if bound else None,
            module=driver.split()[1] if bound else None,
            modalias=modalias.replace("*", "00000000"),
        )
        tree = hosttree.HostTree(tmp_path / "host")
        if tells:
            tree.aliases(*self.ALIASES)
        aliases = modules.Aliases(tree.root)
        wanted = made.wanted(gpu.id)
        outcome = made.decide(gpu.id, gpu, stays)
        found = self.keep_off(wanted, outcome.claims, gpu, stays, aliases=aliases)
        if not tells and not bound:
            # Nobody can tell which of its vendor's drivers the accelerator wants.
            names = ()
        assert found == names

    def test_auto_heeds_no_function_of_another_application(self, tmp_path):
        tree = hosttree.HostTree(tmp_path / "host")
        tree.aliases(*self.ALIASES)
        aliases = modules.Aliases(tree.root)
        modalias = "pci:v000010DEd000022A3sv000010DEsd00001796bc06sc80i00"
        switch = made.function(
            "0000:05:00.0", "10de:22a3", 0x068000, driver="vfio-pci", modalias=modalias
        )
        claimed = made.decide("10de:1bb0", *CARDS, switch).claims
        wanted = made.wanted("10de:1bb0")
        values = {"aliases": aliases, "others": [switch.address]}
        assert self.keep_off(wanted, claimed, *CARDS, switch, **values) == self.NVIDIA
        assert "nvidia" not in self.keep_off(wanted, claimed, *CARDS, switch, aliases=aliases)


class TestTwins:
    def twins(self, devices: str, *functions) -> dict[str, list[str]]:
        claimed = made.decide(devices, *functions).claims
        return boot_files.find_twins(claimed, made.host(*functions))

    def test_are_what_the_host_keeps_of_a_model(self):
        assert self.twins(GPUS, *CARDS) == {
            "0000:83:00.0": ["0000:85:00.0"],
            "0000:83:00.1": ["0000:85:00.1"],
            "0000:84:00.0": ["0000:85:00.0"],
            "0000:84:00.1": ["0000:85:00.1"],
        }

    def test_are_none_where_all_of_a_model_are_claimed(self):
        found = self.twins("10de:1bb0", *CARDS)
        assert set(found) == {function.address for function in CARDS}
        assert not any(found.values())

    def test_are_no_vfs_which_come_after_the_boot_scripts(self):
        """Some cards give their VFs the id that they have themselves."""
        card = made.function("0000:3b:00.0", "144d:a824", made.STORAGE, total_vfs=2)
        vfs = [
            made.function(f"0000:3b:00.{n}", "144d:a824", made.STORAGE, physfn=card.address)
            for n in (1, 2)
        ]
        assert self.twins("144d:a824@3b:00.0", card, *vfs) == {"0000:3b:00.0": []}
        assert self.twins("144d:a824@3b:00.1", card, *vfs) == {"0000:3b:00.1": []}

    def test_are_nothing_behind_vmd_whose_driver_comes_after_the_boot_scripts(self):
        card = made.function("0000:5e:00.0", "144d:a80a", made.STORAGE)
        behind = made.function("10000:01:00.0", "144d:a80a", made.STORAGE)
        assert self.twins("144d:a80a@0000:5e:00.0", card, behind) == {card.address: []}


# -- the shell in the files ----------------------------------------------------------------------

EVERYTHING = {
    "blacklist_drivers": "nouveau",
    "allow_unsafe_interrupts": True,
    "kernel_options": "pci=realloc,noaer isolcpus=2-31 video=efifb:off dyndbg=%p",
}
SHELLCHECK = pathlib.Path(sys.executable).parent / "shellcheck"


def sh(*arguments: str | pathlib.Path, cwd: pathlib.Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["sh", *arguments], cwd=cwd, capture_output=True, text=True, check=False, timeout=30
    )


@pytest.fixture(params=generators.GENERATORS)
def scripts(request: pytest.FixtureRequest, tmp_path: pathlib.Path) -> list[pathlib.Path]:
    """Every file that a shell reads, written below tmp_path."""
    facts = dataclasses.replace(VT_D, generator=request.param)
    written = []
    for path, text in texts(facts=facts, **EVERYTHING).items():
        if path.endswith((".cfg", ".sh")) or text.startswith("#!"):
            script = tmp_path / path
            script.parent.mkdir(parents=True, exist_ok=True)
            script.write_text(text)
            written.append(script)
    return written


def test_every_script_is_shell(scripts: list[pathlib.Path], tmp_path: pathlib.Path):
    assert len(scripts) == 3
    for script in scripts:
        shell = "bash" if script.read_text().startswith("#!/bin/bash") else "sh"
        command = [SHELLCHECK, f"--shell={shell}", "--severity=warning"]
        # SC1091: it sources the generator's own functions. SC2034, SC2154: GRUB and dracut read
        # and set those.
        command += ["--exclude=SC1091,SC2034,SC2154", script]
        checked = subprocess.run(command, capture_output=True, text=True, check=False)
        assert checked.returncode == 0, checked.stdout
        assert sh("-n", script, cwd=tmp_path).returncode == 0


def test_grub_drop_in_appends_and_runs_nothing(tmp_path: pathlib.Path):
    drop_in = tmp_path / "95.cfg"
    drop_in.write_text(texts(**EVERYTHING)["etc/default/grub.d/95-pci-passthrough.cfg"])
    done = sh(
        "-euc",
        'GRUB_CMDLINE_LINUX_DEFAULT="quiet splash"; . ./95.cfg; echo "$GRUB_CMDLINE_LINUX_DEFAULT"',
        cwd=tmp_path,
    )
    assert (done.stderr, done.stdout) == (
        "",
        "quiet splash intel_iommu=on modprobe.blacklist=nouveau"
        " vfio_iommu_type1.allow_unsafe_interrupts=1 pci=realloc,noaer isolcpus=2-31"
        " video=efifb:off dyndbg=%p\n",
    )


def test_initramfs_hook_adds_the_modules_and_names_no_prerequisite(tmp_path: pathlib.Path):
    functions = tmp_path / "hook-functions"
    functions.write_text('manual_add_modules() { echo "add $*"; }\n')
    hook = tmp_path / "hook"
    text = texts()["etc/initramfs-tools/hooks/pci-passthrough"]
    hook.write_text(text.replace("/usr/share/initramfs-tools/hook-functions", str(functions)))
    asked, run = sh(hook, "prereqs", cwd=tmp_path), sh(hook, cwd=tmp_path)
    assert (asked.returncode, asked.stdout) == (0, "")
    assert (run.returncode, run.stdout) == (0, "add vfio vfio_iommu_type1 vfio_pci\n")


# The kernel's side, after every echo: what was written to unbind or drivers_probe takes effect.
KERNEL = """\
echo() {
    printf '%s\\n' "$*"
    for unbind in SYS/drivers/*/unbind; do
        [ -s "$unbind" ] || continue
        read -r address <"$unbind"
        : >"$unbind"
        rm "${unbind%/*}/$address" "SYS/devices/$address/driver"
    done
    if [ -s SYS/drivers_probe ]; then
        read -r address <SYS/drivers_probe
        : >SYS/drivers_probe
        printf 'probed %s\\n' "$address" >>SYS/log
        bind_to_vfio "$address"
    fi
}
bind_to_vfio() {
    read -r override <"SYS/devices/$1/driver_override"
    [ "$override" = vfio-pci ] && [ -d SYS/drivers/vfio-pci ] || return 0
    [ -e "SYS/devices/$1/driver" ] && return 0
    ln -s "SYS/devices/$1" "SYS/drivers/vfio-pci/$1"
    ln -s SYS/drivers/vfio-pci "SYS/devices/$1/driver"
}
modprobe() {
    printf 'modprobe %s\\n' "$*" >>SYS/log
    [ "$*" = vfio-pci ] || return 0
    [ -e SYS/no-vfio ] && return 1
    mkdir -p SYS/drivers/vfio-pci
    for device in SYS/devices/*; do bind_to_vfio "${device##*/}"; done
}
"""


class BootedHost:
    """A made-up /sys/bus/pci, and the script of one generator to run against it."""

    def __init__(self, directory: pathlib.Path, generator: generators.Generator):
        self.pci = directory / "pci"
        self.messages = directory / "kmsg"
        self.command_line = directory / "cmdline"
        self.command_line.write_text("root=/dev/sda1 quiet intel_iommu=on\n")
        (self.pci / "devices").mkdir(parents=True)
        (self.pci / "drivers_probe").touch()
        for function in CARDS:
            self.add(function.address, function.vendor, function.product)
        facts = dataclasses.replace(VT_D, generator=generator)
        (text,) = [text for text in texts(facts=facts).values() if "/proc/cmdline" in text]
        for real, made_up in (
            ("/sys/bus/pci", str(self.pci)),
            ("/proc/cmdline", str(self.command_line)),
            (">/dev/kmsg", f">>{self.messages}"),
        ):
            assert real in text
            text = text.replace(real, made_up)
        self.script = directory / "claim.sh"
        self.script.write_text(KERNEL.replace("SYS", str(self.pci)) + text)
        # dracut sources its hooks, init-top is run; both must leave the boot going.
        self.command = (
            [self.script]
            if generator == generators.INITRAMFS_TOOLS
            else ["-c", f". {self.script}; printf 'the boot goes on\\n'"]
        )

    def add(self, address: str, vendor: str, product: str, grouped: bool = True) -> None:
        device = self.pci / "devices" / address
        device.mkdir(exist_ok=True)
        (device / "vendor").write_text(f"0x{vendor}\n")
        (device / "device").write_text(f"0x{product}\n")
        (device / "driver_override").write_text("(null)\n")
        if grouped:
            (device / "iommu_group").touch()
        else:
            (device / "iommu_group").unlink(missing_ok=True)

    def bind(self, address: str, driver: str) -> None:
        directory = self.pci / "drivers" / driver
        directory.mkdir(parents=True, exist_ok=True)
        (directory / "unbind").touch()
        (directory / address).symlink_to(self.pci / "devices" / address)
        (self.pci / "devices" / address / "driver").symlink_to(directory)

    def run(self, *arguments: str) -> str:
        """Run the script; what it and the boot behind it printed."""
        done = sh(*self.command, *arguments, cwd=self.pci)
        assert done.stderr == ""
        assert done.returncode == 0
        return done.stdout

    def drivers(self) -> dict[str, str | None]:
        return {
            path.name: (path / "driver").resolve().name if (path / "driver").exists() else None
            for path in sorted((self.pci / "devices").iterdir())
        }

    def overrides(self) -> dict[str, str]:
        found = {
            path.name: (path / "driver_override").read_text().strip()
            for path in sorted((self.pci / "devices").iterdir())
        }
        return {address: text for address, text in found.items() if text != "(null)"}

    def log(self) -> list[str]:
        path = self.pci / "log"
        return path.read_text().splitlines() if path.exists() else []

    def said(self) -> list[str]:
        return self.messages.read_text().splitlines() if self.messages.exists() else []


class TestAtBoot:
    @pytest.fixture(params=generators.GENERATORS)
    def booted(self, request: pytest.FixtureRequest, tmp_path: pathlib.Path) -> BootedHost:
        return BootedHost(tmp_path, request.param)

    def test_the_claimed_functions_and_no_other_are_on_vfio_pci(self, booted: BootedHost):
        booted.run()
        assert booted.drivers() == {
            **dict.fromkeys(CLAIMED, "vfio-pci"),
            "0000:85:00.0": None,
            "0000:85:00.1": None,
        }
        assert booted.overrides() == dict.fromkeys(CLAIMED, "vfio-pci")
        assert booted.said() == [f"pci-passthrough: {each} is on vfio-pci" for each in CLAIMED]

    def test_every_override_is_set_before_a_module_is_loaded(self, booted: BootedHost):
        booted.run()
        # Loading vfio-pci has bound all of them: there was no need to probe any.
        assert booted.log() == ["modprobe -q vfio_iommu_type1", "modprobe vfio-pci"]

    def test_another_card_in_the_slot_is_left_alone(self, booted: BootedHost):
        booted.add("0000:83:00.0", "8086", "1572")
        booted.bind("0000:83:00.0", "i40e")
        booted.run()
        assert booted.drivers()["0000:83:00.0"] == "i40e"
        assert "0000:83:00.0" not in booted.overrides()
        assert booted.said()[0] == (
            "pci-passthrough: 0000:83:00.0 is 0x8086:0x1572, not 0x10de:0x1bb0: left alone"
        )
        assert booted.drivers()["0000:84:00.0"] == "vfio-pci"

    def test_a_card_that_is_gone_is_passed_over(self, booted: BootedHost):
        for name in ("0000:83:00.0", "0000:83:00.1"):
            (booted.pci / "devices" / name).rename(booted.pci / name)
        booted.run()
        assert booted.said()[:2] == [
            "pci-passthrough: 0000:83:00.0 is not there",
            "pci-passthrough: 0000:83:00.1 is not there",
        ]
        assert booted.drivers()["0000:84:00.0"] == "vfio-pci"

    @pytest.mark.parametrize(
        ("instead", "shown"),
        [(None, "gone"), ("8086:1572", "0x8086:0x1572")],
        ids=["gone", "other"],
    )
    def test_where_a_twin_is_not_what_it_was_its_model_is_left_alone(
        self, booted: BootedHost, instead: str | None, shown: str
    ):
        """The third card was taken out: what is at the others' addresses may be any of them."""
        twin = "0000:85:00.0"
        if instead:
            vendor, _, product = instead.partition(":")
            booted.add(twin, vendor, product)
        else:
            (booted.pci / "devices" / twin).rename(booted.pci / twin)
        booted.bind("0000:83:00.0", "nouveau")
        booted.run()
        assert booted.drivers()["0000:83:00.0"] == "nouveau"
        assert booted.overrides() == dict.fromkeys(("0000:83:00.1", "0000:84:00.1"), "vfio-pci")
        assert booted.said()[:2] == [
            f"pci-passthrough: {twin} is {shown}, not 0x10de:0x1bb0, so {each} may be another one:"
            " left alone"
            for each in ("0000:83:00.0", "0000:84:00.0")
        ]

    def test_without_an_iommu_nothing_is_touched(self, booted: BootedHost):
        for function in CARDS:
            booted.add(function.address, function.vendor, function.product, grouped=False)
        booted.bind("0000:83:00.0", "nouveau")
        booted.run()
        assert booted.overrides() == {}
        assert booted.drivers()["0000:83:00.0"] == "nouveau"
        assert booted.log() == []
        assert booted.said() == [
            f"pci-passthrough: {each} has no IOMMU group, the IOMMU is off: left alone"
            for each in CLAIMED
        ]

    def test_a_twin_that_vanishes_while_it_is_looked_at_is_gone(self, booted: BootedHost):
        """What was read of the claim's own vendor before says nothing about it."""
        (booted.pci / "devices/0000:85:00.0/vendor").unlink()
        sh(*booted.command, cwd=booted.pci)  # the shell says on its own that it cannot open it
        assert "0000:83:00.0" not in booted.overrides()
        assert "0000:85:00.0 is :0x1bb0, not 0x10de:0x1bb0, so 0000:83:00.0" in booted.said()[0]

    @pytest.mark.parametrize(
        "line",
        [
            "root=/dev/sda1 pci-passthrough=off quiet",
            "pci_passthrough=off",
            "pci-passthrough=on pci-passthrough=off",
            "root=/dev/sda1 ro recovery nomodeset dis_ucode_ldr",
            "ro single",
        ],
    )
    def test_it_can_be_switched_off_on_the_command_line(self, booted: BootedHost, line: str):
        booted.command_line.write_text(line)
        booted.run()
        assert booted.overrides() == {}
        assert booted.log() == []
        assert booted.said() == ["pci-passthrough: switched off on the kernel command line"]

    def test_a_similar_token_does_not_switch_it_off(self, booted: BootedHost):
        booted.command_line.write_text(
            "pci-passthrough=offline x.pci-passthrough=off recovery=1 singles\n"
        )
        booted.run()
        assert booted.overrides() == dict.fromkeys(CLAIMED, "vfio-pci")

    def test_a_driver_that_is_built_in_is_asked_to_let_go(self, booted: BootedHost):
        booted.bind("0000:83:00.0", "xhci_hcd")
        booted.bind("0000:85:00.0", "xhci_hcd")
        booted.run()
        assert booted.drivers()["0000:83:00.0"] == "vfio-pci"
        assert booted.drivers()["0000:85:00.0"] == "xhci_hcd"
        assert booted.log()[-1] == "probed 0000:83:00.0"
        assert booted.said()[:2] == [
            "pci-passthrough: 0000:83:00.0: a driver that is built in or was loaded before has it,"
            " asking it to let go",
            "pci-passthrough: 0000:83:00.0 is on vfio-pci",
        ]

    def test_vfio_pci_built_into_the_kernel_is_probed(self, booted: BootedHost):
        (booted.pci / "drivers" / "vfio-pci").mkdir(parents=True)
        (booted.pci / "no-vfio").touch()  # modprobe of a built-in driver binds nothing
        booted.run()
        assert [line for line in booted.log() if line.startswith("probed")] == [
            f"probed {each}" for each in CLAIMED
        ]
        assert set(booted.drivers().values()) == {"vfio-pci", None}

    def test_a_missing_vfio_pci_is_said_and_does_not_stop_the_boot(self, booted: BootedHost):
        (booted.pci / "no-vfio").touch()
        booted.run()
        assert booted.said() == [f"pci-passthrough: {each} is not on vfio-pci" for each in CLAIMED]


def test_dracut_boots_on_behind_a_switched_off_script(tmp_path: pathlib.Path):
    booted = BootedHost(tmp_path, generators.DRACUT)
    booted.command_line.write_text("pci-passthrough=off")
    assert booted.run() == "the boot goes on\n"


def test_init_top_names_no_prerequisite_and_does_nothing_when_asked(tmp_path: pathlib.Path):
    booted = BootedHost(tmp_path, generators.INITRAMFS_TOOLS)
    assert booted.run("prereqs") == ""
    assert booted.overrides() == {}


def test_init_top_sorts_before_udev_for_any_application():
    for application in ("pci-passthrough", "zz"):
        (path,) = [path for path in texts(application=application) if "/init-top/" in path]
        assert path.rpartition("/")[2] < "udev"


def test_dracut_module_installs_the_script_before_udev_and_what_modprobe_is_to_know(
    tmp_path: pathlib.Path,
):
    facts = dataclasses.replace(VT_D, generator=generators.DRACUT)
    found = texts(facts=facts)
    module = tmp_path / "module-setup.sh"
    module.write_text(found["usr/lib/dracut/modules.d/91pci-passthrough/module-setup.sh"])
    run = textwrap.dedent(
        """
        instmods() { echo "instmods hostonly='$hostonly' $*"; }
        inst_hook() { echo "inst_hook $*"; }
        inst_multiple() { echo "inst_multiple $*"; }
        moddir=/m hostonly=yes
        . ./module-setup.sh
        check && depends && installkernel && install
        """
    )
    done = subprocess.run(
        ["bash", "-euc", run], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert (done.stderr, done.stdout) == (
        "",
        "instmods hostonly='' vfio vfio_iommu_type1 vfio_pci\ninst_hook pre-udev 00 /m/claim.sh\n"
        "inst_multiple -o /etc/modprobe.d/pci-passthrough.conf\n",
    )
    assert found["etc/dracut.conf.d/pci-passthrough.conf"].endswith(
        'add_dracutmodules+=" pci-passthrough "\n'
    )
