"""The caretaker on a real kernel and systemd: the unit vanished, and its host is given back.

The stages follow one another on one machine, as in test_main_job.py.
"""

import json
from collections.abc import Iterator

import pytest

from lab import booting, caretaking, files, held, machine, story, unit

pytestmark = pytest.mark.row("vanished")

GIVEN = "gpu=1234:1111@0000:83:00.0, gpu=1234:1111@0000:84:00.0"
HELD = "0000:84:00.0"
LOOKED = "/run/lab-looked"
LOOKS = (
    f"while systemctl reset-failed {caretaking.NAME}; do"
    f" systemctl start {caretaking.NAME}; echo $? >>{LOOKED}; done"
)
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


@pytest.fixture(scope="module")
def deployed(boot: booting.Boot) -> Iterator[story.Watched]:
    """The charm has its cards on a machine of Juju's, and nothing has vanished."""
    with boot(machine.INTEL, disk_cache="writeback") as host:
        caretaking.begin(host)
        charm = unit.Unit(host)
        found = story.Watched(host, charm, files.read_tree(host, *caretaking.WATCHED))
        with host.progress.step("claim two cards"):
            charm.deploy(devices=GIVEN)
        caretaking.put_agents(host)
        charm.reboot("reboot with two cards claimed")
        assert found.read_drivers() == found.with_claimed("gpu0", "gpu1")
        yield found


@pytest.fixture(scope="module")
def living(deployed: story.Watched) -> story.Watched:
    """A hundred looks beside the unit."""
    deployed.seen["living"] = [caretaking.look(deployed) for _ in range(5)]
    # systemd counts starts, and refuses the sixth within ten seconds.
    start = f"systemctl reset-failed; systemctl start {caretaking.NAME} || exit"
    command = f"for i in $(seq 95); do {start}; done"
    deployed.seen["many"] = deployed.host.run(command, check=False).status
    deployed.seen["timer"] = deployed.host.run(
        ["systemctl", "is-active", f"{caretaking.NAME}.timer"]
    ).stdout
    return deployed


@pytest.fixture(scope="module")
def stopped(living: story.Watched) -> story.Watched:
    """Looks without evidence: the agent stopped, its folders not mounted."""
    host = living.host
    host.run(["systemctl", "stop", caretaking.AGENT_SERVICE])
    host.run(["mv", caretaking.UNIT, "/root/away"])
    living.seen["agent stopped"] = caretaking.look(living), caretaking.has_memory(living)
    host.run(["mv", "/root/away", caretaking.UNIT])
    host.run(["systemctl", "start", caretaking.AGENT_SERVICE])
    host.run(["mount", "-t", "tmpfs", "none", "/var/lib/juju"])
    living.seen["not mounted"] = caretaking.look(living), caretaking.has_memory(living)
    caretaking.put_agents(host)
    host.run(["rm", "-r", caretaking.UNIT])
    living.seen["another file system"] = caretaking.look(living), caretaking.has_memory(living)
    host.run(["umount", "/var/lib/juju"])
    host.run(["mv", caretaking.FOLDER, "/root/juju"])
    living.seen["moved"] = caretaking.look(living), caretaking.has_memory(living)
    host.run(["mkdir", "-p", caretaking.AGENTS])
    living.seen["empty"] = caretaking.look(living), caretaking.has_memory(living)
    return living


@pytest.fixture(scope="module")
def re_bootstrapped(stopped: story.Watched) -> story.Watched:
    """Not even a service of Juju's was left for some hours; then all of it came back."""
    host = stopped.host
    service = f"/etc/systemd/system/{caretaking.AGENT_SERVICE}.service"
    host.run(["mv", service, "/root/service"])
    stopped.seen["no agent"] = caretaking.look(stopped), caretaking.has_memory(stopped)
    for _ in range(2):
        caretaking.let_pass(stopped, caretaking.ALMOST_A_DAY / 2)
        stopped.seen["almost a day later"] = caretaking.look(stopped), stopped.read_drivers()
    host.run(["mv", "/root/service", service])
    host.run(["rm", "-r", caretaking.FOLDER])
    host.run(["mv", "/root/juju", caretaking.FOLDER])
    stopped.seen["back"] = caretaking.look(stopped), caretaking.has_memory(stopped)
    return stopped


@pytest.fixture(scope="module")
def refreshed(re_bootstrapped: story.Watched) -> story.Watched:
    """The charm was refreshed, and its caretaker, while one look came after the other."""
    host = re_bootstrapped.host
    host.run(f"printf x >>{caretaking.PROGRAM}")  # as of another revision
    host.run(["systemd-run", "--unit=lab-looks", "sh", "-c", LOOKS])
    re_bootstrapped.charm.run_hook("upgrade-charm")
    host.run(["systemctl", "stop", "lab-looks"])
    re_bootstrapped.seen["looks"] = host.read(LOOKED).split()
    re_bootstrapped.seen["after them"] = (
        caretaking.look(re_bootstrapped),
        caretaking.has_memory(re_bootstrapped),
        re_bootstrapped.read_drivers(),
    )
    return re_bootstrapped


@pytest.fixture(scope="module")
def vanished(refreshed: story.Watched) -> story.Watched:
    """The unit's folder is gone; one look, a clock that jumps, and a reboot."""
    host = refreshed.host
    host.run(["rm", "-r", caretaking.UNIT])
    refreshed.seen["first look"] = caretaking.look(refreshed), caretaking.has_memory(refreshed)
    for jump in ("+2 days", "-4 days", "+2 days"):
        host.run(["date", "--set", jump])
        (well, _), drivers = caretaking.look(refreshed), refreshed.read_drivers()
        refreshed.seen[jump] = well, drivers
    host.reboot("reboot after the unit vanished")
    wait = f"until [ -e {caretaking.MEMORY} ]; do sleep 1; done"
    host.run(["timeout", "300", "sh", "-c", wait])
    refreshed.seen["drivers after the boot"] = refreshed.read_drivers()
    return refreshed


@pytest.fixture(scope="module")
def other_cards(vanished: story.Watched) -> story.Watched:
    """Ten minutes later, with a record out of a backup, of another card at a taken address."""
    host = vanished.host
    kept = host.read(caretaking.RECORD)
    record = json.loads(kept)
    record["record"]["identities"][HELD]["id"] = "10de:1db6"
    host.write(caretaking.RECORD, json.dumps(record))
    caretaking.let_ten_minutes_pass(vanished)
    vanished.seen["other cards"] = caretaking.look(vanished)
    vanished.seen["drivers of other cards"] = vanished.read_drivers()
    host.write(caretaking.RECORD, kept)
    return vanished


@pytest.fixture(scope="module")
def full(other_cards: story.Watched) -> story.Watched:
    """The record is of these cards again, and /boot is full."""
    host = other_cards.host
    caretaking.let_ten_minutes_pass(other_cards)
    host.run(["python3", "-c", FILL, FILLER])
    with host.progress.step("a look while the disk of /boot is full"):
        other_cards.seen["full"] = caretaking.look(other_cards)
    other_cards.seen["full again"] = caretaking.look(other_cards)
    host.run(["rm", FILLER])
    return other_cards


@pytest.fixture(scope="module")
def kept(full: story.Watched) -> story.Watched:
    """There is room again, and a process has one of the cards."""
    if not caretaking.has_memory(full):
        caretaking.look(full)
    caretaking.let_ten_minutes_pass(full)
    held.start(full.host, HELD)
    with full.host.progress.step("give back while a process has a card"):
        full.seen["kept"] = caretaking.look(full)
    full.seen["drivers while kept"] = full.read_drivers()
    held.stop(full.host)
    return full


@pytest.fixture(scope="module")
def given_back(kept: story.Watched) -> story.Watched:
    """The process has ended."""
    kept.seen["given back"] = caretaking.look(kept)
    kept.seen["tree"] = files.read_tree(kept.host, *caretaking.WATCHED)
    kept.seen["drivers"] = kept.read_drivers()
    shown = ["systemctl", "list-units", "--all", "--plain", "--no-legend", f"{caretaking.NAME}*"]
    kept.seen["units"] = kept.host.run(shown).stdout
    kept.seen["claims"] = caretaking.find_claims(kept.host)
    kept.host.reboot("reboot without the charm")
    return kept


def test_beside_a_living_unit_a_hundred_looks_do_nothing(living: story.Watched) -> None:
    assert living.seen["living"] == [(True, "")] * 5
    assert living.seen["many"] == 0
    assert living.seen["timer"] == "active\n"


@pytest.mark.parametrize(
    "how", ["agent stopped", "not mounted", "another file system", "moved", "empty"]
)
def test_what_is_no_evidence(stopped: story.Watched, how: str) -> None:
    (well, _), remembered = stopped.seen[how]
    assert well
    assert not remembered


def test_without_any_agent_less_than_a_day_is_not_enough(re_bootstrapped: story.Watched) -> None:
    (well, _), remembered = re_bootstrapped.seen["no agent"]
    assert (well, remembered) == (True, True), "the look has seen it"
    (well, _), drivers = re_bootstrapped.seen["almost a day later"]
    assert well
    assert drivers == re_bootstrapped.with_claimed("gpu0", "gpu1")
    (well, _), remembered = re_bootstrapped.seen["back"]
    assert (well, remembered) == (True, False)


def test_a_refresh_in_the_middle_of_looks_is_no_evidence(refreshed: story.Watched) -> None:
    looks = refreshed.seen["looks"]
    assert len(looks) > 1
    assert set(looks) == {"0"}
    (well, _), remembered, drivers = refreshed.seen["after them"]
    assert (well, remembered) == (True, False)
    assert drivers == refreshed.with_claimed("gpu0", "gpu1")


@pytest.mark.parametrize("jump", ["+2 days", "-4 days"])
def test_a_clock_that_jumps_brings_no_second_look(vanished: story.Watched, jump: str) -> None:
    assert vanished.seen[jump] == (True, vanished.with_claimed("gpu0", "gpu1"))


def test_a_record_of_other_cards_gives_nothing_back(other_cards: story.Watched) -> None:
    well, said = other_cards.seen["other cards"]
    assert not well
    assert f"is of other cards: {HELD} was 10de:1db6 and is 1234:1111" in said
    assert other_cards.seen["drivers of other cards"] == other_cards.with_claimed("gpu0", "gpu1")


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


def test_no_image_and_no_configuration_of_grubs_holds_a_claim(given_back: story.Watched) -> None:
    assert given_back.seen["claims"] == []


def test_and_so_it_stays_over_a_boot(given_back: story.Watched) -> None:
    assert given_back.read_drivers() == given_back.with_claimed()
    log = given_back.host.read_kernel_log()
    assert [line for line in log if line.startswith(story.AT_BOOT)] == []
