"""The caretaker that the packed charm installs, run by the system's own Python after the unit went.

What a real systemd makes of its units is the lab's to show.
"""

from __future__ import annotations

import json
import pathlib
import shutil
import subprocess

import pytest
from harness import hostbox, hosttree, standin
from harness.constants import GPUS, KEPT, NATIVE, OWNED, READY
from harness.hosttree import services

AGENTS = "var/lib/juju/agents"
FOLDER = f"{AGENTS}/unit-pci-passthrough-0"
MODEL = "5f1f3a3b-6b5f-4a9b-8b1a-0c1d2e3f4a5b"
MACHINE = "jujud-machine-0"
SERVICE = "etc/systemd/system/pci-passthrough-caretaker.service"
RECORD = "var/lib/pci-passthrough/pci-passthrough.json"
MEMORY = "run/pci-passthrough.caretaker-pci-passthrough"


@pytest.fixture
def host(tmp_path: pathlib.Path) -> hosttree.HostTree:
    """A compute host with Nova, an IOMMU and a Juju machine."""
    tree = hosttree.compute_host(tmp_path / "host", ubuntu="24.04")
    tree.install_nova()
    tree.iommu_on()
    for agent in ("machine-0", "unit-nova-compute-0", "unit-pci-passthrough-0"):
        tree.write(f"{AGENTS}/{agent}/agent.conf", f"tag: {agent}\nmodel: model-{MODEL}\n")
    services.set_state(tree.root, MACHINE, active=True)
    return tree


@pytest.fixture
def before(host: hosttree.HostTree) -> dict[str, object]:
    """What the host shall be again, but for the folder of the unit."""
    found: dict[str, object] = {**host.snapshot(*OWNED)}
    del found[f"{FOLDER}/agent.conf"]
    return found


@pytest.fixture
def deployed(
    agent: standin.Agent, host: hosttree.HostTree, before: dict[str, object], packed_charm
) -> standin.Agent:
    """The packed charm, with its devices bound; ``before`` is asked for first."""
    agent.deploy(packed_charm, principal="nova-compute/0", config={"devices": GPUS})
    assert str(agent.status()) == "active: gpu: 2 ready"
    assert drivers(host) == READY
    assert json.loads(host.read(RECORD))["record"]["owner"]["unit"] == "pci-passthrough/0"
    return agent


def drivers(host: hosttree.HostTree) -> dict[str, str | None]:
    return {address: host.driver_of(address) for address in READY}


def look(box: hostbox.Box, host: hosttree.HostTree) -> subprocess.CompletedProcess[str]:
    """Run the caretaker as its service does."""
    (command,) = (
        line.removeprefix("ExecStart=").split()
        for line in host.read(SERVICE).splitlines()
        if line.startswith("ExecStart=")
    )
    assert command[0] == "/usr/bin/python3"
    done = box.run(command)
    assert "Traceback" not in done.stderr
    return done


def let_ten_minutes_pass(host: hosttree.HostTree) -> None:
    """Date the first look back: no test can wait for the boot clock."""
    path = host.root / MEMORY
    memory = json.loads(path.read_text())
    memory["past"]["first"] -= 601
    path.write_text(json.dumps(memory))
    path.chmod(0o600)


def test_a_unit_that_vanished_leaves_the_host_as_it_was(deployed, box, host, before):
    assert look(box, host).returncode == 0
    assert not (host.root / MEMORY).exists(), "the unit lives"
    shutil.rmtree(host.root / FOLDER)
    was = host.snapshot(*OWNED)
    for _ in range(2):
        done = look(box, host)
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert host.snapshot(*OWNED) == was, "ten minutes have not passed"
    assert drivers(host) == READY
    let_ten_minutes_pass(host)
    done = look(box, host)
    assert done.returncode == 0, done.stderr
    assert done.stderr.startswith("pci-passthrough/0 has vanished: giving back what it left\n")
    assert host.snapshot(*OWNED) == before
    assert drivers(host) == {**NATIVE, **KEPT}
    assert not list((host.root / "run").glob("pci-passthrough.*"))
    box.reboot()
    assert drivers(host) == {**NATIVE, **KEPT}


def test_beside_an_agent_that_is_stopped_nothing_is_touched(deployed, box, host):
    shutil.rmtree(host.root / FOLDER)
    services.set_state(host.root, MACHINE, active=False)
    was = host.snapshot(*OWNED)
    for _ in range(3):
        assert look(box, host).returncode == 0
        assert not (host.root / MEMORY).exists(), "no evidence"
    assert host.snapshot(*OWNED) == was


def test_what_a_guest_holds_stays_until_it_ends(deployed, box, host, before):
    shutil.rmtree(host.root / FOLDER)
    assert look(box, host).returncode == 0
    let_ten_minutes_pass(host)
    kept = {address: "vfio-pci" for address in NATIVE if address.startswith("0000:84")}
    group = (host.directory("0000:84:00.0") / "iommu_group").resolve().name
    with box.holding(f"/dev/vfio/{group}"):
        done = look(box, host)
        assert done.returncode == 0, done.stderr
        assert done.stderr.endswith(f"{' '.join(kept)}\n")
        assert drivers(host) == {**NATIVE, **KEPT, **kept}
        assert look(box, host).returncode == 0
    assert look(box, host).returncode == 0
    assert drivers(host) == {**NATIVE, **KEPT}
    assert host.snapshot(*OWNED) == before


def test_a_rebuild_that_fails_is_a_failed_unit_that_says_why(deployed, box, host, before):
    shutil.rmtree(host.root / FOLDER)
    assert look(box, host).returncode == 0
    let_ten_minutes_pass(host)
    box.stub("update-initramfs", exit_code=1, stderr="No space left on device\n")
    box.forget_calls()
    done = look(box, host)
    assert done.returncode == 1
    assert "No space left on device" in done.stderr
    done = look(box, host)
    assert (done.returncode, done.stderr) == (1, "")
    assert len(box.calls("update-initramfs")) == 1
    box.stub("update-initramfs")
    (host.root / MEMORY).unlink()
    assert look(box, host).returncode == 0
    let_ten_minutes_pass(host)
    assert look(box, host).returncode == 0
    assert host.snapshot(*OWNED) == before


def test_with_keep_all_stays_as_it_was_the_moment_before(deployed, box, host):
    deployed.config(**{"on-removal": "keep"})
    was = host.snapshot(*OWNED)
    deployed.remove()
    shutil.rmtree(host.root / FOLDER)
    for _ in range(3):
        assert look(box, host).returncode == 0
        assert not (host.root / MEMORY).exists()
    found = host.snapshot(*OWNED)
    del was[f"{FOLDER}/agent.conf"], was[RECORD], found[RECORD]
    assert found == was
    assert drivers(host) == READY


def test_a_removal_that_juju_carries_out_takes_the_caretaker_along(deployed, box, host, before):
    deployed.remove()
    shutil.rmtree(host.root / FOLDER)
    assert host.snapshot(*OWNED) == before
    stopped = [call.args for call in box.calls("systemctl") if call.args[0] == "stop"]
    assert stopped == [("stop", "pci-passthrough-caretaker.timer")]
