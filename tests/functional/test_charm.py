"""The packed charm's whole life on a made-up host: hooks, reboots, actions, removal.

What it writes is compared with tests/functional/golden, a tree for each initramfs generator. To
accept a change of the templates, run the tests with UPDATE_GOLDEN=1 and read the diff.
"""

from __future__ import annotations

import json
import os
import pathlib
import shutil
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from harness import hostbox, hosttree, standin
from harness.constants import CLAIMED, GPUS, KEPT, NATIVE, OWNED, READY

GOLDEN = pathlib.Path(__file__).parent / "golden"
PRINCIPAL = "nova-compute/0"
UNIT = "pci-passthrough/0"
PROGRAM = "var/lib/pci-passthrough/pci-passthrough.caretaker.pyz"
REBOOT = "blocked: reboot required: the IOMMU is off until the kernel starts with intel_iommu=on"
# Where files of the charm, or what is built of them, outlive a boot.
WATCHED = (*OWNED, "boot")
REBUILDS = ("update-initramfs", "dracut", "update-grub")


@pytest.fixture
def host(tmp_path: pathlib.Path, request: pytest.FixtureRequest) -> hosttree.HostTree:
    """A compute host without Nova, which has tests of its own; of another release by parameter."""
    return hosttree.compute_host(tmp_path / "host", ubuntu=getattr(request, "param", "22.04"))


def deploy(
    agent: standin.Agent, charm: pathlib.Path, devices: str = GPUS, **more: Any
) -> list[standin.EventRun]:
    more.setdefault("config", {"devices": devices})
    return agent.deploy(charm, principal=PRINCIPAL, **more)


def drivers(host: hosttree.HostTree) -> dict[str, str | None]:
    return {address: host.driver_of(address) for address in READY}


def rebuilds(box: hostbox.Box) -> list[str]:
    """The rebuilds that were run, by the program's name, and all of them well."""
    calls = box.calls(*REBUILDS)
    assert {call.exit_code for call in calls} <= {0}
    return [call.name for call in calls]


def reboot(box: hostbox.Box, agent: standin.Agent) -> None:
    """Reboot the host, see that no boot script complains, and let Juju run start again."""
    for script in box.reboot():
        assert (script.returncode, script.stdout, script.stderr) == (0, "", "")
    agent.rebooted()


def check_golden(name: str, written: dict[str, tuple[int, bytes | str]]) -> None:
    """Compare files with the golden tree of that name, or write it anew where told to.

    Of the golden files' modes only the executable bit counts: a checkout keeps no other.
    """
    golden = GOLDEN / name
    found = {
        path: (oct(mode), content.decode())
        for path, (mode, content) in written.items()
        if isinstance(content, bytes)
    }
    assert set(found) == set(written), "a link among the files"
    if os.environ.get("UPDATE_GOLDEN"):
        shutil.rmtree(golden, ignore_errors=True)
        for path, (mode, content) in found.items():
            (golden / path).parent.mkdir(parents=True, exist_ok=True)
            (golden / path).write_text(content)
            (golden / path).chmod(int(mode, 8))
    expected = {
        path.relative_to(golden).as_posix(): (
            oct(0o755 if os.access(path, os.X_OK) else 0o644),
            path.read_text(),
        )
        for path in golden.rglob("*")
        if path.is_file()
    }
    assert sorted(found) == sorted(expected)
    for path, entry in found.items():
        assert (path, *entry) == (path, *expected[path])


class TestLife:
    @pytest.mark.parametrize("host", ["22.04", "26.04"], indirect=True)
    def test_from_deploy_to_removal(self, agent, box, host, packed_charm):
        """One story, told whole: each step stands on the one before."""
        # A host of its own: IOMMU off, as its administrator set it where the kernel would not.
        host.write(
            "etc/default/grub",
            host.read("etc/default/grub").replace("splash", "splash intel_iommu=off"),
        )
        host.set_command_line("quiet splash intel_iommu=off")
        before = host.snapshot(*OWNED)

        # Deployed: files are written, each rebuild runs once, the devices stay where they are.
        deploy(agent, packed_charm)
        assert str(agent.status()) == REBOOT
        assert rebuilds(box) == ["update-initramfs", "update-grub"]
        assert drivers(host) == {**NATIVE, **KEPT}
        written = {
            path: entry for path, entry in host.snapshot(*OWNED).items() if path not in before
        }
        record = json.loads(bytes(written.pop("var/lib/pci-passthrough/pci-passthrough.json")[1]))
        assert record["record"]["taken"] == NATIVE
        del written[PROGRAM]  # test_caretaker.py runs it
        check_golden(host.generator, written)
        assert {path: host.snapshot(*OWNED)[path] for path in before} == before

        # Rebooted: the boot scripts have bound them before a native driver could.
        box.forget_calls()
        reboot(box, agent)
        assert host.read("proc/cmdline").endswith(" intel_iommu=off intel_iommu=on\n")
        assert host.kernel_log() == [f"pci-passthrough: {each} is on vfio-pci" for each in CLAIMED]
        assert drivers(host) == READY
        assert str(agent.status()) == "active: gpu: 2 ready"
        assert rebuilds(box) == []

        # One device less: it goes back to its drivers, and stays there.
        agent.config(devices="gpu=10de:1bb0@0000:83:00.0")
        given_back = {address: NATIVE[address] for address in CLAIMED[2:]}
        assert drivers(host) == {**READY, **given_back}
        assert str(agent.status()) == "active: gpu: 1 ready"
        assert rebuilds(box) == ["update-initramfs"]
        reboot(box, agent)
        assert drivers(host) == {**READY, **given_back}
        assert str(agent.status()) == "active: gpu: 1 ready"

        # Removed: everything is as it was, now and after another reboot.
        box.forget_calls()
        agent.remove()
        assert agent.units() == []
        assert drivers(host) == {**NATIVE, **KEPT}
        assert host.snapshot(*OWNED) == before
        assert rebuilds(box) == ["update-initramfs", "update-grub"]
        box.reboot()
        assert drivers(host) == {**NATIVE, **KEPT}
        assert host.read("proc/cmdline").endswith(" quiet splash intel_iommu=off\n")

    @pytest.mark.parametrize("host", ["26.04"], indirect=True)
    def test_initramfs_tools_core_beside_dracut_changes_nothing(
        self, agent, box, host, packed_charm
    ):
        """An upgrade leaves it behind: the files of dracut's are written, and claim at boot."""
        host.write("usr/share/initramfs-tools/hook-functions", "# -*- shell-script -*-\n")
        host.write("etc/kernel/postinst.d/initramfs-tools", "#!/bin/sh\n", mode=0o755)
        host.write("etc/initramfs-tools/initramfs.conf", "MODULES=most\n")
        before = host.snapshot(*OWNED)
        deploy(agent, packed_charm)
        written = {
            path: entry for path, entry in host.snapshot(*OWNED).items() if path not in before
        }
        del written["var/lib/pci-passthrough/pci-passthrough.json"], written[PROGRAM]
        check_golden("dracut", written)
        assert rebuilds(box) == ["update-initramfs", "update-grub"]
        reboot(box, agent)
        assert host.kernel_log() == [f"pci-passthrough: {each} is on vfio-pci" for each in CLAIMED]
        assert str(agent.status()) == "active: gpu: 2 ready"

    @pytest.mark.parametrize("host", ["24.04"], indirect=True)
    def test_a_kernel_whose_iommu_is_on_by_default_needs_no_reboot(
        self, agent, box, host, packed_charm
    ):
        host.iommu_on()
        before = host.snapshot(*OWNED)
        deploy(agent, packed_charm)
        assert str(agent.status()) == "active: gpu: 2 ready"
        assert drivers(host) == READY
        reboot(box, agent)
        assert drivers(host) == READY
        assert str(agent.status()) == "active: gpu: 2 ready"
        agent.remove()
        assert host.snapshot(*OWNED) == before
        assert drivers(host) == {**NATIVE, **KEPT}

    def test_hooks_with_nothing_changed_rewrite_and_rebuild_nothing(
        self, agent, box, host, packed_charm
    ):
        deploy(agent, packed_charm)
        for boots in range(2):
            if boots:
                reboot(box, agent)
            box.forget_calls()
            before = host.identities(*WATCHED)
            agent.config()
            agent.hook("update-status")
            agent.hook("start")
            agent.hook("juju-info-relation-changed")
            agent.upgrade(packed_charm)
            assert host.identities(*WATCHED) == before
            assert rebuilds(box) == []
            assert box.calls("modprobe") == []

    def test_an_update_status_with_nothing_changed_only_reads(self, agent, box, host, packed_charm):
        deploy(agent, packed_charm)
        reboot(box, agent)
        box.forget_calls()
        before = {**host.identities(*WATCHED), **host.snapshot("run", "sys")}
        agent.surroundings.env = {"PYTHONPROFILEIMPORTTIME": "1"}
        (run,) = agent.hook("update-status")
        assert {**host.identities(*WATCHED), **host.snapshot("run", "sys")} == before
        assert box.calls() == []
        # Not even those that ops runs for a charm that does nothing: it is not imported.
        assert [call.tool for call in run.calls] == []
        imported = {line.rpartition("|")[2].strip() for line in run.stderr.splitlines()}
        assert {"quiet", "passthrough.planning.plan"} <= imported
        unneeded = {
            "ops",
            "charm",
            "jinja2",
            "charmhelpers",
            "actions",
            "controller",
            "passthrough.reporting.verify",
        }
        assert not unneeded & imported

    def test_a_config_changed_with_nothing_changed_asks_for_the_options_alone(
        self, agent, box, host, packed_charm
    ):
        deploy(agent, packed_charm)
        reboot(box, agent)
        box.forget_calls()
        before = {**host.identities(*WATCHED), **host.snapshot("run", "sys")}
        agent.surroundings.env = {"PYTHONPROFILEIMPORTTIME": "1"}
        (run,) = agent.hook("config-changed")
        assert {**host.identities(*WATCHED), **host.snapshot("run", "sys")} == before
        assert box.calls() == []
        assert [call.tool for call in run.calls] == ["config-get"]
        imported = {line.rpartition("|")[2].strip() for line in run.stderr.splitlines()}
        assert {"jinja2", "passthrough.reconcile"} <= imported
        assert not {"ops", "charm"} & imported

    def test_no_matching_device_writes_nothing_and_asks_no_reboot(
        self, agent, box, host, packed_charm
    ):
        before, times = host.snapshot(*WATCHED), host.identities(*WATCHED)
        deploy(agent, packed_charm, devices="gpu=10de:2235, 10de:20b5@0000:83:00.*")
        agent.hook("update-status")
        assert str(agent.status()) == "active: no matching device"
        assert host.snapshot(*WATCHED) == before
        assert host.identities(*WATCHED) == times
        assert box.calls() == []
        assert agent.reboot_due() == ""

    def test_options_reach_the_next_boot(self, agent, box, host, packed_charm):
        config = {
            "devices": GPUS,
            "iommu-passthrough": "true",
            "allow-unsafe-interrupts": "true",
            "blacklist-drivers": "nvidiafb,nvidia-drm",
            "kernel-options": "pci=realloc,noaer isolcpus=2-31 video=efifb:off dyndbg=%p",
        }
        deploy(agent, packed_charm, config=config)
        assert host.read("etc/modprobe.d/pci-passthrough.conf").splitlines()[2:] == [
            "blacklist nvidia-drm",
            "blacklist nvidiafb",
            "options vfio_iommu_type1 allow_unsafe_interrupts=1",
        ]
        reboot(box, agent)
        assert host.read("proc/cmdline").endswith(
            " quiet splash intel_iommu=on iommu=pt modprobe.blacklist=nvidia-drm,nvidiafb"
            " vfio_iommu_type1.allow_unsafe_interrupts=1 pci=realloc,noaer isolcpus=2-31"
            " video=efifb:off dyndbg=%p\n"
        )
        assert str(agent.status()) == "active: gpu: 2 ready"
        assert host.driver_of("0000:85:00.0") == "nouveau"

    def test_a_failing_rebuild_is_told_in_its_own_words_and_tried_again(
        self, agent, box, host, packed_charm
    ):
        before = host.snapshot("etc/default")
        box.stub("update-grub", exit_code=1, stderr="grub-mkconfig: no space left\n")
        deploy(agent, packed_charm)
        status = agent.status()
        assert str(status).startswith("blocked: ")
        assert "failed with exit code 1: grub-mkconfig: no space left" in status.message
        assert host.snapshot("etc/default") == before
        box.stub("update-grub")
        agent.hook("update-status")
        assert str(agent.status()) == REBOOT
        reboot(box, agent)
        assert str(agent.status()) == "active: gpu: 2 ready"


class TestTwoApplications:
    def test_live_side_by_side_and_leave_one_by_one(self, agent, box, host, packed_charm):
        before = host.snapshot(*OWNED)
        deploy(agent, packed_charm, devices="gpu=10de:1bb0@0000:83:00.0")
        alone = host.snapshot(*OWNED)
        deploy(agent, packed_charm, app="more", config={"devices": "more=10de:1bb0@0000:84:00.0"})
        assert {path: host.snapshot(*OWNED)[path] for path in alone} == alone
        reboot(box, agent)
        assert drivers(host) == READY
        assert str(agent.status(UNIT)) == "active: gpu: 1 ready"
        assert str(agent.status("more/0")) == "active: more: 1 ready"

        agent.config({"devices": "more=10de:1bb0@0000:83:00.0"}, app="more")
        assert str(agent.status("more/0")) == (
            "blocked: devices: item 1 more=10de:1bb0@0000:83:00.0: 0000:83:00.0 is claimed by the"
            " application pci-passthrough already"
        )
        assert drivers(host) == {
            **READY,
            "0000:84:00.0": "nouveau",
            "0000:84:00.1": "snd_hda_intel",
        }

        agent.remove("more")
        assert {path: host.snapshot(*OWNED)[path] for path in alone} == alone
        assert str(agent.status(UNIT)) == "active: gpu: 1 ready"
        agent.remove("pci-passthrough")
        assert host.snapshot(*OWNED) == before
        assert drivers(host) == {**NATIVE, **KEPT}


# -- actions: one host for all of them ----------------------------------------------------------


class Deployed:
    """The charm on a host that has rebooted and is ready."""

    def __init__(self, place: pathlib.Path, host: hosttree.HostTree, box: hostbox.Box):
        self.host, self.box = host, box
        version = f"python{sys.version_info.major}.{sys.version_info.minor}"
        self.python = place / "python" / "python3"
        self.python.parent.mkdir()
        self.python.symlink_to(pathlib.Path(sys.base_prefix, "bin", version))
        self.agent = standin.Agent(
            place / "agent",
            command_prefix=box.command_prefix,
            path_prefix=[os.fspath(self.python.parent)],
            light_tools=True,
            compiled=True,
        )

    def act(self, name: str, **params: Any) -> tuple[standin.ActionResult, dict[str, Any]]:
        """Run an action for programs; its result, and its structured parts parsed."""
        given = {key.replace("_", "-"): params[key] for key in params}
        result = self.agent.action(name, {"format": "json", **given})
        return result, {key: json.loads(text) for key, text in result.results.items()}

    def show(self, name: str) -> str:
        """Run an action for people; its table."""
        return self.agent.action(name).results["table"]


@pytest.fixture(scope="module")
def deployed(
    tmp_path_factory: pytest.TempPathFactory, packed_charm: pathlib.Path
) -> Iterator[Deployed]:
    place = tmp_path_factory.mktemp("ready")
    host = hosttree.compute_host(place / "host")
    with hostbox.Box(host, place / "box", writable=[place]) as box:
        found = Deployed(place, host, box)
        deploy(found.agent, packed_charm)
        reboot(box, found.agent)
        assert str(found.agent.status()) == "active: gpu: 2 ready"
        yield found


class TestActions:
    def test_list_devices(self, deployed: Deployed):
        result, parts = deployed.act("list-devices")
        rows = {row["address"]: row for row in parts["devices"]}
        assert not result.failed
        assert set(rows) == set(os.listdir(deployed.host.root / "sys/bus/pci/devices"))
        card = rows["0000:83:00.0"]
        expected = {
            "id": "10de:1bb0",
            "driver": "vfio-pci",
            "numa-node": 1,
            "group-members": ["0000:83:00.0", "0000:83:00.1"],
            "device-type": "type-PCI",
            "claimable": True,
            "reason": None,
            "devices": "10de:1bb0@0000:83:00.0",
        }
        assert {key: card[key] for key in expected} == expected
        assert rows["0000:80:01.0"]["reason"] == "is a PCI bridge, which no guest can have"
        table = deployed.show("list-devices")
        for address in rows:
            assert address in table

    def test_list_devices_narrowed(self, deployed: Deployed):
        _, parts = deployed.act("list-devices", match="10de:*")
        assert [row["address"] for row in parts["devices"]] == sorted(READY)

    def test_plan_of_a_settled_host(self, deployed: Deployed):
        result, parts = deployed.act("plan")
        found = parts["plan"]
        assert [claim["address"] for claim in found["claims"]] == list(CLAIMED)
        for key in ("files", "rebuild", "bind", "release", "at-boot", "reboot", "refusals"):
            assert found[key] == [], key
        assert not result.failed
        assert "\nnothing to change" in deployed.show("plan")

    def test_verify(self, deployed: Deployed):
        result, parts = deployed.act("verify")
        assert not result.failed, result.message
        assert [each for each in parts["checks"] if each["status"] == "fail"] == []
        names = {each["name"] for each in parts["checks"]}
        assert {f"driver {address}" for address in CLAIMED} < names
        lines = deployed.show("verify").splitlines()
        for name in names:
            # The path of an image stands in a column of its own.
            check, _, subject = name.partition(" ")
            assert any(line.startswith(check) and subject in line for line in lines), name

    def test_verify_fails_where_a_driver_is_wrong_and_update_status_mends_it(
        self, deployed: Deployed
    ):
        deployed.host.bind("0000:84:00.0", "nouveau")
        result, parts = deployed.act("verify")
        failed = [each["name"] for each in parts["checks"] if each["status"] == "fail"]
        assert "driver 0000:84:00.0" in failed
        assert result.failed
        assert "driver 0000:84:00.0" in result.message
        deployed.agent.hook("update-status")
        assert drivers(deployed.host) == READY
        assert not deployed.act("verify")[0].failed

    def test_rebind(self, deployed: Deployed):
        result, parts = deployed.act("rebind")
        assert not result.failed, result.message
        assert {row["address"]: row["bound"] for row in parts["functions"]} == dict.fromkeys(
            CLAIMED, True
        )
        assert drivers(deployed.host) == READY

    def test_rebind_leaves_alone_what_a_guest_holds(self, deployed: Deployed):
        group = (deployed.host.directory("0000:83:00.0") / "iommu_group").resolve().name
        with deployed.box.holding(f"/dev/vfio/{group}") as process:
            result, parts = deployed.act("rebind")
        assert result.failed
        assert "0000:83:00.0: a guest holds it" in result.message
        assert str(process) in result.message
        assert [row["bound"] for row in parts["functions"]] == [False, False, True, True]
        assert drivers(deployed.host) == READY

    @pytest.mark.parametrize("address", ["0000:85:00.0", "83:00.0", "$(reboot)", "0000:83:00.0\n"])
    def test_rebind_refuses_what_is_not_claimed(self, deployed: Deployed, address: str):
        result, parts = deployed.act("rebind", address=address)
        assert result.failed
        assert " is not claimed on this host; claimed are 0000:83:00.0, 0000:83:00.1, " in (
            result.message
        )
        assert parts == {}

    def test_lend_and_take_back(self, deployed: Deployed):
        """One card goes to the host, over a hook and a boot, and comes back."""
        result, parts = deployed.act("lend", address="0000:83:00.0")
        assert not result.failed, result.message
        assert [(row["address"], row["driver"]) for row in parts["functions"]] == [
            ("0000:83:00.0", "nouveau"),
            ("0000:83:00.1", "snd_hda_intel"),
        ]
        told = "active: gpu: 1 ready; lent to the host: 0000:83:00.0, 0000:83:00.1"
        assert str(deployed.agent.status()) == told
        lent = {**READY, "0000:83:00.0": "nouveau", "0000:83:00.1": "snd_hda_intel"}
        deployed.agent.hook("update-status")
        assert (drivers(deployed.host), str(deployed.agent.status())) == (lent, told)
        reboot(deployed.box, deployed.agent)
        assert (drivers(deployed.host), str(deployed.agent.status())) == (lent, told)
        assert not deployed.act("verify")[0].failed
        result, parts = deployed.act("take-back", address="0000:83:00.1")
        assert not result.failed, result.message
        assert [row["driver"] for row in parts["functions"]] == ["vfio-pci", "vfio-pci"]
        assert drivers(deployed.host) == READY
        assert str(deployed.agent.status()) == "active: gpu: 2 ready"

    def test_lend_leaves_alone_what_a_guest_holds(self, deployed: Deployed):
        group = (deployed.host.directory("0000:83:00.0") / "iommu_group").resolve().name
        with deployed.box.holding(f"/dev/vfio/{group}") as process:
            result, parts = deployed.act("lend", address="0000:83:00.1")
        assert result.failed
        assert f"a guest holds it (process {process})" in result.message
        assert (parts, drivers(deployed.host)) == ({}, READY)
        assert str(deployed.agent.status()) == "active: gpu: 2 ready"

    @pytest.mark.parametrize("name", ["lend", "take-back"])
    @pytest.mark.parametrize("address", ["0000:85:00.0", "83:00.0", "$(reboot)", "0000:83:00.0\n"])
    def test_lending_refuses_what_is_not_claimed_or_lent(
        self, deployed: Deployed, name: str, address: str
    ):
        result, parts = deployed.act(name, address=address)
        assert result.failed
        said = {
            "lend": " is not claimed on this host; claimed are 0000:83:00.0, 0000:83:00.1, ",
            "take-back": " is not lent to this host; lent are none",
        }
        assert said[name] in result.message
        assert parts == {}

    def test_erase_refuses_what_is_no_disk(self, deployed: Deployed):
        card = "0000:83:00.0"
        result, parts = deployed.act("erase", address=card, confirm=card)
        assert f"{card} is no NVMe: its class is 030000, and not 0108xx" in result.message
        assert (parts, drivers(deployed.host)) == ({}, READY)

    @pytest.mark.parametrize("name", ["list-devices", "plan", "verify", "rebind"])
    def test_nothing_undeclared_is_taken(self, deployed: Deployed, name: str):
        with pytest.raises(standin.ActionRefusedError):
            deployed.agent.action(name, {"force": True})

    @pytest.mark.parametrize("name", ["list-devices", "plan", "verify"])
    def test_looking_changes_nothing(self, deployed: Deployed, name: str):
        deployed.box.forget_calls()
        before = deployed.host.identities(*WATCHED)
        deployed.act(name)
        assert deployed.host.identities(*WATCHED) == before
        assert rebuilds(deployed.box) == []
        assert str(deployed.agent.status()) == "active: gpu: 2 ready"

    @pytest.mark.parametrize(
        ("command", "part"),
        [("list", "devices"), ("plan", "plan"), ("verify", "checks")],
    )
    def test_the_command_line_says_the_same(self, deployed: Deployed, command: str, part: str):
        program = deployed.agent.unit_directory() / "charm/bin/pci-passthrough"
        options = [] if command == "list" else ["--devices", GPUS]
        done = deployed.box.run(
            [os.fspath(deployed.python), "-B", os.fspath(program), "--json", command, *options]
        )
        assert (done.returncode, done.stderr) == (0, "")
        action = {"list": "list-devices"}.get(command, command)
        assert json.loads(done.stdout) == deployed.act(action)[1][part]
