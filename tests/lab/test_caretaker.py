"""The caretaker on a real kernel and systemd: the unit vanished, and its host is given back.

The stages follow one another on one machine, as in test_main_job.py. Juju is made up: folders of
agents, and a service of the machine's agent that sleeps.
"""

import json
from collections.abc import Iterator

import pytest

from lab import booting, files, guest, held, machine, story, unit

pytestmark = pytest.mark.row("vanished")

GIVEN = "gpu=1234:1111@0000:83:00.0, gpu=1234:1111@0000:84:00.0"
HELD = "0000:84:00.0"
AGENTS = "/var/lib/juju/agents"
UNIT = f"{AGENTS}/unit-pci-passthrough-0"
AGENT_SERVICE = "jujud-machine-0"
AGENT = "[Service]\nExecStart=/bin/sleep infinity\n[Install]\nWantedBy=multi-user.target\n"
NAME = "pci-passthrough-caretaker"
RECORD = "/var/lib/pci-passthrough/pci-passthrough.json"
MEMORY = "/run/pci-passthrough.caretaker-pci-passthrough"
FILLER = "/boot/lab-filler"
# Leaves less room than an image takes, also of the blocks that are root's alone.
FILL = """
import os, sys
room = os.statvfs("/boot")
with open(sys.argv[1], "wb") as file:
    for blocks in range(room.f_bfree, 0, -64):
        try:
            os.posix_fallocate(file.fileno(), 0, blocks * room.f_frsize)
            break
        except OSError:
            continue
"""
WATCHED = (*story.WATCHED, "/var/lib/pci-passthrough")


def read_model(host: guest.Guest) -> str:
    """Return the model that the record's owner is of, and the agents are said to be."""
    return json.loads(host.read(RECORD))["record"]["owner"]["model"]


def put_agents(host: guest.Guest, model: str) -> None:
    """Make the folders of the agents that a machine of this model has."""
    for name in ("machine-0", "unit-nova-compute-0", "unit-pci-passthrough-0"):
        host.run(["mkdir", "-p", f"{AGENTS}/{name}"])
        host.write(f"{AGENTS}/{name}/agent.conf", f"tag: {name}\nmodel: model-{model}\n")


def look(found: story.Story) -> tuple[bool, str]:
    """Have the caretaker's service run once; return whether it went well, and what it said."""
    host = found.host
    host.run(["systemctl", "reset-failed", NAME], check=False)
    since = host.run(["date", "+%s.%N"]).stdout.strip()
    done = host.run(["systemctl", "start", NAME], check=False)
    # What the service says itself, without systemd's lines about it.
    own = f"_SYSTEMD_UNIT={NAME}.service"
    said = host.run(["journalctl", own, "-o", "cat", f"--since=@{since}", "--quiet"]).stdout
    return not done.status, said


def has_memory(found: story.Story) -> bool:
    """Return whether the last look has seen evidence."""
    return not found.host.run(["test", "-e", MEMORY], check=False).status


def let_ten_minutes_pass(found: story.Story) -> None:
    """Date the first look back, and let nothing wait."""
    memory = json.loads(found.host.read(MEMORY))
    memory["past"]["first"] -= 601
    memory["pause_until"] = 0
    found.host.write(MEMORY, json.dumps(memory))
    found.host.run(["chmod", "600", MEMORY])


@pytest.fixture(scope="module")
def deployed(boot: booting.Boot) -> Iterator[story.Watched]:
    """The charm has its cards on a machine of Juju's, and nothing has vanished."""
    with boot(machine.INTEL, disk_cache="writeback") as host:
        host.write(f"/etc/systemd/system/{AGENT_SERVICE}.service", AGENT)
        host.run(["systemctl", "daemon-reload"])
        host.run(["systemctl", "enable", "--now", AGENT_SERVICE])
        host.run(["mkdir", "-p", AGENTS])
        charm = unit.Unit(host)
        found = story.Watched(host, charm, files.read_tree(host, *WATCHED))
        with host.progress.step("claim two cards"):
            charm.deploy(devices=GIVEN)
        put_agents(host, read_model(host))
        charm.reboot("reboot with two cards claimed")
        assert found.read_drivers() == found.with_claimed("gpu0", "gpu1")
        yield found


@pytest.fixture(scope="module")
def living(deployed: story.Watched) -> story.Watched:
    """A hundred looks beside the unit."""
    deployed.seen["living"] = [look(deployed) for _ in range(5)]
    # systemd counts starts, and refuses the sixth within ten seconds.
    command = f"for i in $(seq 95); do systemctl reset-failed; systemctl start {NAME} || exit; done"
    deployed.seen["many"] = deployed.host.run(command, check=False).status
    deployed.seen["timer"] = deployed.host.run(["systemctl", "is-active", f"{NAME}.timer"]).stdout
    return deployed


@pytest.fixture(scope="module")
def stopped(living: story.Watched) -> story.Watched:
    """Looks without evidence: the agent stopped, its folders not mounted."""
    host = living.host
    host.run(["systemctl", "stop", AGENT_SERVICE])
    host.run(["mv", UNIT, "/root/away"])
    living.seen["agent stopped"] = look(living), has_memory(living)
    host.run(["mv", "/root/away", UNIT])
    host.run(["systemctl", "start", AGENT_SERVICE])
    host.run(["mount", "-t", "tmpfs", "none", "/var/lib/juju"])
    living.seen["not mounted"] = look(living), has_memory(living)
    put_agents(host, read_model(host))
    host.run(["rm", "-r", UNIT])
    living.seen["another file system"] = look(living), has_memory(living)
    host.run(["umount", "/var/lib/juju"])
    return living


@pytest.fixture(scope="module")
def vanished(stopped: story.Watched) -> story.Watched:
    """The unit's folder is gone; one look, and a reboot."""
    stopped.host.run(["rm", "-r", UNIT])
    stopped.seen["first look"] = look(stopped), has_memory(stopped)
    stopped.host.reboot("reboot after the unit vanished")
    wait = f"until [ -e {MEMORY} ]; do sleep 1; done"
    stopped.host.run(["timeout", "300", "sh", "-c", wait])
    stopped.seen["drivers after the boot"] = stopped.read_drivers()
    return stopped


@pytest.fixture(scope="module")
def full(vanished: story.Watched) -> story.Watched:
    """Ten minutes later, with a /boot that is full."""
    host = vanished.host
    let_ten_minutes_pass(vanished)
    host.run(["python3", "-c", FILL, FILLER])
    with host.progress.step("a look while the disk of /boot is full"):
        vanished.seen["full"] = look(vanished)
    vanished.seen["full again"] = look(vanished)
    host.run(["rm", FILLER])
    return vanished


@pytest.fixture(scope="module")
def kept(full: story.Watched) -> story.Watched:
    """There is room again, and a process has one of the cards."""
    if not has_memory(full):
        look(full)
    let_ten_minutes_pass(full)
    held.start(full.host, HELD)
    with full.host.progress.step("give back while a process has a card"):
        full.seen["kept"] = look(full)
    full.seen["drivers while kept"] = full.read_drivers()
    held.stop(full.host)
    return full


@pytest.fixture(scope="module")
def given_back(kept: story.Watched) -> story.Watched:
    """The process has ended."""
    kept.seen["given back"] = look(kept)
    kept.seen["tree"] = files.read_tree(kept.host, *WATCHED)
    kept.seen["drivers"] = kept.read_drivers()
    shown = ["systemctl", "list-units", "--all", "--plain", "--no-legend", f"{NAME}*"]
    kept.seen["units"] = kept.host.run(shown).stdout
    kept.host.reboot("reboot without the charm")
    return kept


def test_beside_a_living_unit_a_hundred_looks_do_nothing(living: story.Watched) -> None:
    assert living.seen["living"] == [(True, "")] * 5
    assert living.seen["many"] == 0
    assert living.seen["timer"] == "active\n"


@pytest.mark.parametrize("how", ["agent stopped", "not mounted", "another file system"])
def test_what_is_no_evidence(stopped: story.Watched, how: str) -> None:
    (well, _), remembered = stopped.seen[how]
    assert well
    assert not remembered


def test_one_look_and_a_boot_are_not_enough(vanished: story.Watched) -> None:
    assert vanished.seen["first look"][1], "the look has seen it"
    assert vanished.seen["drivers after the boot"] == vanished.with_claimed("gpu0", "gpu1")


def test_a_full_boot_is_a_failed_unit_that_says_why_once(full: story.Watched) -> None:
    well, said = full.seen["full"]
    assert not well
    assert "space" in said
    well, said = full.seen["full again"]
    assert not well
    assert "space" not in said


def test_what_a_process_has_stays(kept: story.Watched) -> None:
    well, said = kept.seen["kept"]
    assert well, said
    assert HELD in said
    assert kept.seen["drivers while kept"][HELD] == "vfio-pci"
    assert kept.seen["drivers while kept"]["0000:83:00.0"] != "vfio-pci"


def test_then_the_host_is_as_before(given_back: story.Watched) -> None:
    well, said = given_back.seen["given back"]
    assert well, said
    assert given_back.seen["drivers"] == given_back.with_claimed()
    changed = files.list_changed(given_back.first, given_back.seen["tree"])
    # update-initramfs makes another image of the same files.
    assert {each for each in changed if not each.startswith("/boot/initrd.img-")} == set()
    assert given_back.seen["units"] == ""


def test_and_so_it_stays_over_a_boot(given_back: story.Watched) -> None:
    assert given_back.read_drivers() == given_back.with_claimed()
    log = given_back.host.read_kernel_log()
    assert [line for line in log if line.startswith(story.AT_BOOT)] == []
