"""The packed charm's NRPE check: what nagios-nrpe-server would say of a host, hook by hook."""

from __future__ import annotations

import json
import os
import pathlib
import subprocess

import pytest
from harness import hostbox, hosttree, standin
from harness.constants import GPUS

PRINCIPAL, RELATION = "nova-compute/0", "pci-passthrough:nrpe-external-master"
CONFIGURATION, PLUGINS = "etc/nagios/nrpe.d", "usr/local/lib/nagios/plugins"
NOBODY = 65534


@pytest.fixture
def host(tmp_path: pathlib.Path) -> hosttree.HostTree:
    """A compute host where the nrpe charm has installed its server."""
    tree = hosttree.compute_host(tmp_path / "host")
    for directory in (CONFIGURATION, PLUGINS):
        (tree.root / directory).mkdir(parents=True)
    # As a kernel shows it that remaps interrupts.
    tree.write("proc/interrupts", "           CPU0\n   2:    0  IR-IO-APIC    2-edge  timer\n")
    return tree


def ask(host: hosttree.HostTree, box: hostbox.Box) -> tuple[int, str]:
    """Run the check's command as the server does: as a user without any rights."""
    (file,) = (host.root / CONFIGURATION).iterdir()
    lines = file.read_text(encoding="utf-8").splitlines()
    (command,) = (line.partition("]=")[2] for line in lines if line.startswith("command["))
    drop = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups"]
    done = subprocess.run(
        [*box.command_prefix, *(drop if os.geteuid() == 0 else []), *command.split()],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stderr == ""
    return done.returncode, done.stdout


def test_a_check_from_the_first_hook_to_the_last(
    host: hosttree.HostTree,
    box: hostbox.Box,
    agent: standin.Agent,
    packed_charm: pathlib.Path,
):
    agent.deploy(packed_charm, principal=PRINCIPAL, config={"devices": GPUS})
    assert list((host.root / CONFIGURATION).iterdir()) == []

    # nrpe is another subordinate of the same principal.
    agent.integrate(RELATION, "nrpe", units=["nrpe/0"], sharing=PRINCIPAL)
    data = agent.relation_data("nrpe-external-master", "pci-passthrough/0")
    (check,) = json.loads(data["monitors"])["monitors"]["remote"]["nrpe"].values()
    assert [path.stem for path in (host.root / CONFIGURATION).iterdir()] == [check["command"]]
    code, text = ask(host, box)
    assert (code, text[:25]) == (1, "WARNING: reboot required:")

    for script in box.reboot():
        assert script.returncode == 0
    agent.rebooted()
    assert ask(host, box)[0] == 0

    # A hook mends what it can; what it cannot, an operator hears of.
    agent.config(devices="gpu=10de:zzzz")
    code, text = ask(host, box)
    assert (code, text[:27]) == (2, 'CRITICAL: devices: item 1 "'[:27])
    agent.config(devices=GPUS)
    assert ask(host, box)[0] == 0

    agent.remove_relation(RELATION)
    assert list((host.root / CONFIGURATION).iterdir()) == []
    assert list((host.root / PLUGINS).iterdir()) == []
