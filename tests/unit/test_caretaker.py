"""The caretaker: when it acts, what it gives back, what it leaves, and that it goes itself."""

from __future__ import annotations

import json
import os
import pathlib
import shutil
import subprocess
import sys
from collections.abc import Callable

import pytest
from harness import killing
from harness.constants import CLAIMED, DRIVERS, GPUS, NATIVE, ONE, OWNED, READY
from harness.world import World
from unit.host import test_domains, test_identity, test_juju_agents

from passthrough import caretaker
from passthrough.caretaker import Moment, Past, Sight, Verdict
from passthrough.effects import exporting, nrpe, turns
from passthrough.errors import BusyError, PassthroughError
from passthrough.host import exporter_files, juju_agents, watch
from passthrough.planning import caretaking
from passthrough.planning.exporting import Listen
from passthrough.reporting import plan_text
from passthrough.state import look, record
from passthrough.system import files, lock, timed_write

HOUR = 3600.0
OWNER = record.Owner(test_juju_agents.MODEL, "pci-passthrough/0", "nova-compute/0")
FOLDER = f"{juju_agents.AGENTS}/unit-pci-passthrough-0"
AGENT = "jujud-machine-3"
RECORD = "var/lib/pci-passthrough/pci-passthrough.json"


class TestJudge:
    """Pure: by looks of (hours, sight), the verdict behind the last one."""

    @staticmethod
    def after(*looks: tuple[float, Sight], boot: str = "a") -> Verdict:
        past, verdict = None, Verdict.NOTHING
        for hours, sight in looks:
            verdict, past = caretaker.judge(sight, past, Moment(boot, hours * HOUR))
        return verdict

    @pytest.mark.parametrize("sight", [Sight.FOLDER_GONE, Sight.OTHER_MODEL])
    def test_two_looks_ten_minutes_apart(self, sight: Sight):
        assert self.after((1, sight)) is Verdict.WAIT
        assert self.after((1, sight), (1 + 9.9 / 60, sight)) is Verdict.WAIT
        assert self.after((1, sight), (1 + 10.1 / 60, sight)) is Verdict.GIVE_BACK

    @pytest.mark.parametrize("between", [Sight.LIVES, Sight.UNCLEAR, Sight.OTHER_MODEL])
    def test_any_other_sight_in_between_begins_anew(self, between: Sight):
        looks = ((1, Sight.FOLDER_GONE), (1.1, between), (1.2, Sight.FOLDER_GONE))
        assert self.after(*looks) is Verdict.WAIT

    @pytest.mark.parametrize("sight", [Sight.LIVES, Sight.UNCLEAR])
    def test_no_evidence_however_often(self, sight: Sight):
        assert self.after(*((number, sight) for number in range(100))) is Verdict.NOTHING

    def test_no_agent_takes_a_day_of_uptime(self):
        looks = [(number / 4, Sight.NO_AGENT) for number in range(4 * 24 + 1)]
        assert self.after(*looks[:-1]) is Verdict.WAIT
        assert self.after(*looks) is Verdict.GIVE_BACK

    def test_a_day_asleep_is_no_day_of_uptime(self):
        assert self.after((1, Sight.NO_AGENT), (26, Sight.NO_AGENT)) is Verdict.WAIT

    def test_another_boot_begins_anew(self):
        past = Past("a", Sight.FOLDER_GONE, 0.0, 0.0)
        verdict, now = caretaker.judge(Sight.FOLDER_GONE, past, Moment("b", 5 * HOUR))
        assert verdict is Verdict.WAIT
        assert now == Past("b", Sight.FOLDER_GONE, 5 * HOUR, 5 * HOUR)

    def test_a_clock_that_jumps_back_begins_anew(self):
        assert self.after((5, Sight.FOLDER_GONE), (1, Sight.FOLDER_GONE)) is Verdict.WAIT

    def test_a_boot_without_an_id_tells_nothing(self):
        looks = ((1, Sight.FOLDER_GONE), (2, Sight.FOLDER_GONE))
        assert self.after(*looks, boot="") is Verdict.NOTHING

    def test_turned_off(self):
        past = Past("a", Sight.FOLDER_GONE, 0.0, 0.0)
        now = Moment("a", HOUR)
        off = caretaker.judge(Sight.FOLDER_GONE, past, now, off=True)
        assert off == (Verdict.OFF, None)


class Left:
    """A world whose unit is looked after: what a caretaker finds, and its runs."""

    def __init__(self, world: World):
        self.world = world
        self.root = world.root
        self.seconds = HOUR
        self.told: list[str] = []

    @property
    def boot(self) -> str:
        return (self.root / "proc/sys/kernel/random/boot_id").read_text().strip()

    def vanish(self) -> None:
        shutil.rmtree(self.root / FOLDER)

    def run(self, minutes: float = 11.0) -> int:
        """One run of the caretaker, so long after the one before; its exit code."""
        self.seconds += minutes * 60
        self.told = []
        return caretaker.run(
            self.world.site,
            lambda: self.world.tools,
            Moment(self.boot, self.seconds),
            self.told.append,
        )

    def look_twice(self) -> int:
        assert self.run() == 0
        return self.run()

    def files(self) -> dict[str, object]:
        return self.world.snapshot(*OWNED)


@pytest.fixture
def bare(make_world: Callable[..., World]) -> World:
    """A host with Nova and a Juju machine, which the charm has not touched."""
    world = make_world()
    world.nova.install()
    world.turn_iommu_on()
    for agent in ("machine-3", "unit-nova-compute-0", "unit-pci-passthrough-0"):
        test_juju_agents.put_agent(world.root, agent)
    for folder in ("etc/systemd/system", "etc/nova/nova.conf.d"):
        (world.root / folder).mkdir(parents=True, exist_ok=True)
    world.tools.services[AGENT] = "run"
    return world


def own(world: World) -> None:
    """Have the record name its owner, as the charm's hooks do."""
    with lock.hold(world.root, "a test"), record.open(world.site) as ledger:
        ledger.update(owner=OWNER)


@pytest.fixture
def left(bare: World) -> Left:
    """The same once its devices are bound and offered."""
    bare.hook(GPUS)
    own(bare)
    assert bare.drivers() == READY
    return Left(bare)


class TestGivingBack:
    def test_the_host_is_as_it_was(self, bare: World):
        was = bare.tree.snapshot(*OWNED)
        bare.hook(GPUS)
        own(bare)
        left = Left(bare)
        left.vanish()
        assert left.run() == 0
        assert (bare.drivers(), left.told) == (READY, []), "one look is no evidence"
        assert left.run() == 0
        del was[f"{FOLDER}/agent.conf"]
        assert bare.tree.snapshot(*OWNED) == was
        assert bare.drivers() == DRIVERS
        assert left.told[0] == "pci-passthrough/0 has vanished: giving back what it left"
        assert bare.tools.timers == set()
        assert not list((left.root / "run").glob("pci-passthrough*"))
        assert bare.nova.restarts() == 2

    def test_a_hundred_runs_beside_a_living_unit(self, left: Left):
        was = left.files()
        left.world.tools.running = lambda service: pytest.fail("nobody has to ask for services")
        assert [left.run() for _ in range(100)] == [0] * 100
        assert left.files() == was
        assert not (left.root / "run/pci-passthrough.caretaker-pci-passthrough").exists()

    def test_the_nrpe_check_goes_too(self, left: Left):
        (left.root / nrpe.CONFIGURATION).mkdir(parents=True)
        nrpe.install(left.world.site)
        left.vanish()
        assert left.look_twice() == 0
        assert not any((left.root / path).exists() for path in nrpe.owned_files("pci-passthrough"))

    def test_the_exporter_goes_too(self, left: Left):
        with lock.hold(left.root, "a test"), record.open(left.world.site) as ledger:
            exporting.install(ledger, Listen(10285), left.world.tools)
        look.write(left.world.site, look.Look())
        left.vanish()
        assert left.look_twice() == 0
        paths = (*exporter_files.owned_files("pci-passthrough"), look.path_of("pci-passthrough"))
        assert not any((left.root / path).exists() for path in paths)
        assert left.world.tools.sockets == set()

    def test_no_agent_for_a_day(self, left: Left):
        shutil.rmtree(left.root / "var/lib/juju")
        assert {left.run(30) for _ in range(48)} == {0}
        assert left.world.drivers() == READY
        left.run(30)
        assert left.world.drivers() == {**READY, **NATIVE}

    def test_an_agent_that_comes_back_within_the_day(self, left: Left):
        away = left.root / "var/lib/juju.away"
        (left.root / "var/lib/juju").rename(away)
        for _ in range(40):
            left.run(30)
        away.rename(left.root / "var/lib/juju")
        left.run(30)
        (left.root / "var/lib/juju").rename(away)
        for _ in range(40):
            left.run(30)
        assert left.world.drivers() == READY

    def test_the_evidence_is_looked_at_again_under_the_lock(
        self, left: Left, monkeypatch: pytest.MonkeyPatch
    ):
        left.vanish()
        left.run()
        hold = lock.hold

        def hold_late(*values, **named):
            test_juju_agents.put_agent(left.root, "unit-pci-passthrough-0")
            return hold(*values, **named)

        monkeypatch.setattr(lock, "hold", hold_late)
        assert left.run() == 0
        assert left.world.drivers() == READY

    def test_another_run_has_the_lock(self, left: Left, monkeypatch: pytest.MonkeyPatch):
        left.vanish()
        left.run()
        monkeypatch.setattr(lock, "WAIT", 0.0)
        handle = os.open(left.root / lock.PATH, os.O_RDWR | os.O_CREAT)
        lock.fcntl.flock(handle, lock.fcntl.LOCK_EX)
        assert (left.run(), left.told) == (0, [])
        assert left.world.drivers() == READY
        os.close(handle)
        left.run()
        assert left.world.drivers() == {**READY, **NATIVE}

    def test_packages_are_being_installed(self, left: Left, monkeypatch: pytest.MonkeyPatch):
        def wait(*values: object) -> None:
            raise BusyError("packages are being installed", "the next hook tries again")

        left.vanish()
        left.run()
        with monkeypatch.context() as patch:
            patch.setattr(turns, "taken", wait)
            assert left.run() == 0, "time alone mends it"
        assert left.world.drivers() == READY
        assert left.run() == 0
        assert left.world.drivers() == {**READY, **NATIVE}

    def test_report_in_placement_stays_without_a_template(self, left: Left):
        left.world.hook(GPUS, report_in_placement=True)
        text = left.world.nova.path.read_text()
        left.vanish()
        left.look_twice()
        after = left.world.nova.path.read_text()
        assert "device_spec" not in after
        assert "alias" not in after
        assert "report_in_placement = true\n" in after
        assert set(after.splitlines()) < set(text.splitlines())
        assert left.world.record().is_empty


class TestLeaving:
    """What is left alone."""

    def test_a_guest_keeps_its_card_until_it_ends(self, left: Left):
        held = left.world.kernel.hold("0000:84:00.0")
        left.vanish()
        assert left.look_twice() == 0
        kept = dict.fromkeys(CLAIMED[2:], "vfio-pci")  # they share a group
        assert left.world.drivers() == {**READY, **NATIVE, **kept}
        said = f"left to guests that hold or name them, or to their driver: {' '.join(kept)}"
        assert left.told[-1] == said
        calls = list(left.world.tools.calls)
        left.run()
        assert said not in left.told, "it is in the journal already"
        assert left.world.tools.calls == calls, "nothing is rebuilt for it"
        assert watch.is_installed(left.root, "pci-passthrough")
        left.world.kernel.close(held)
        left.run()
        assert left.world.drivers() == {**READY, **NATIVE}
        assert not watch.is_installed(left.root, "pci-passthrough")
        assert not (left.root / RECORD).exists()

    def test_so_does_a_guest_that_is_shut_off(self, left: Left):
        path = test_domains.define(left.root, "instance-00000001")  # it names 0000:84:00.1
        left.vanish()
        left.look_twice()
        assert left.world.drivers() == {**READY, **NATIVE, "0000:84:00.1": "vfio-pci"}
        path.unlink()
        left.run()
        assert left.world.drivers() == {**READY, **NATIVE}

    @pytest.mark.parametrize("serial", ["", "00-04-4b-ff-fe-99-99-99"])
    def test_other_cards_at_the_records_addresses(self, bare: World, serial: str):
        test_identity.put_serial(bare.tree)
        bare.hook(GPUS)
        own(bare)
        left = Left(bare)
        left.vanish()
        if serial:
            test_identity.put_serial(bare.tree, serial)
        else:
            other = bare.root / "sys/bus/pci/devices/0000:83:00.0/uevent"
            other.write_text(other.read_text().replace("10DE:1BB0", "10DE:2330"))
        was = left.files()
        assert left.look_twice() == caretaker.EXIT_FAILED
        assert left.files() == was
        now = "10de:1bb0 00-04-4b-ff-fe-99-99-99" if serial else f"10de:2330 {test_identity.SERIAL}"
        assert left.told == [
            f"/{RECORD} is of other cards: 0000:83:00.0 was 10de:1bb0 {test_identity.SERIAL} and is"
            f" {now}, so nothing was touched"
        ]
        assert (left.run(), left.told) == (caretaker.EXIT_FAILED, []), "said once"

    def test_a_card_that_was_taken_out_is_no_other_card(self, left: Left):
        shutil.rmtree(left.root / "sys/bus/pci/devices/0000:83:00.1", ignore_errors=True)
        link = left.root / "sys/bus/pci/devices/0000:83:00.1"
        if link.is_symlink():
            link.unlink()
        left.vanish()
        assert left.look_twice() == 0
        assert not (left.root / RECORD).exists()

    def test_a_newer_record(self, left: Left):
        path = left.root / RECORD
        newer = path.read_text().replace(f'"format": {record.FORMAT}', '"format": 99')
        path.write_text(newer)
        left.vanish()
        assert left.run() == caretaker.EXIT_FAILED
        assert "in format 99, of a newer revision" in left.told[0]
        assert (left.run(), left.told) == (caretaker.EXIT_FAILED, []), "said once"
        assert path.read_text() == newer
        assert left.world.drivers() == READY

    @pytest.mark.parametrize(
        ("old", "new", "name"),
        [('"keep"', '"vdpa": 1, "keep"', "vdpa"), ('"grub": ', '"zipl": "1", "grub": ', "zipl")],
    )
    def test_what_it_does_not_know(self, left: Left, old: str, new: str, name: str):
        path = left.root / RECORD
        path.write_text(path.read_text().replace(old, new))
        left.vanish()
        assert left.look_twice() == caretaker.EXIT_FAILED
        assert left.told == [
            f"/{RECORD} holds what this caretaker does not know ({name}), so nothing was touched"
        ]
        assert left.world.drivers() == READY

    def test_what_a_later_charm_calls_forgettable_hinders_nobody(self, left: Left):
        path = left.root / RECORD
        data = json.loads(path.read_text())
        data["record"]["moods"] = {"0000:83:00.0": "blue"}
        data["forgettable"] = [*data["forgettable"], "moods"]
        path.write_text(json.dumps(data))
        left.vanish()
        assert left.look_twice() == 0
        assert left.world.drivers() == {**READY, **NATIVE}
        assert not path.exists()

    @pytest.mark.parametrize(
        "named", [None, "moods", 5, True, {"moods": 1}, [["moods"]], [None], ["mood"], []]
    )
    def test_nothing_else_is_forgettable(self, left: Left, named: object):
        path = left.root / RECORD
        data = json.loads(path.read_text())
        data["record"]["moods"] = 1
        data["forgettable"] = named
        path.write_text(json.dumps(data))
        left.vanish()
        assert left.look_twice() == caretaker.EXIT_FAILED
        assert "does not know (moods)" in left.told[0]
        assert left.world.drivers() == READY

    def test_a_rebuild_that_it_does_not_know_is_never_forgettable(self, left: Left):
        path = left.root / RECORD
        data = json.loads(path.read_text())
        data["record"]["activated"]["zipl"] = "1"
        data["forgettable"] = ["zipl", "activated"]
        path.write_text(json.dumps(data))
        left.vanish()
        assert left.look_twice() == caretaker.EXIT_FAILED
        assert "does not know (zipl)" in left.told[0]

    @pytest.mark.parametrize("how", ["option", "file"])
    def test_turned_off(self, left: Left, how: str):
        if how == "file":
            (left.root / watch.SWITCH).touch()
        else:
            with lock.hold(left.root, "a test"), record.open(left.world.site) as ledger:
                ledger.update(keep=True, owner=None)
        left.vanish()
        assert [left.run() for _ in range(5)] == [0] * 5
        assert left.world.drivers() == READY
        if how == "file":
            (left.root / watch.SWITCH).unlink()
            left.look_twice()
            assert left.world.drivers() == {**READY, **NATIVE}


def unmount(left: Left) -> None:
    """The folder's file system is not there yet; the agent's service is, on that of the root."""
    shutil.rmtree(left.root / "var/lib/juju")
    (left.root / f"etc/systemd/system/{AGENT}.service").touch()


def move(left: Left) -> None:
    """Somebody has moved /var/lib/juju, and a link leads to it."""
    shutil.rmtree(left.root / FOLDER)
    with lock.hold(left.root, "a test"), record.open(left.world.site) as ledger:
        ledger.update(caretaker=ledger.present.caretaker._replace(filesystem="id 123"))


def empty(left: Left) -> None:
    """As a re-bootstrap does, which comes back within hours."""
    shutil.rmtree(left.root / "var/lib/juju")
    (left.root / "var/lib/juju/agents").mkdir(parents=True)


def stop(left: Left) -> None:
    """As while the agent is upgraded."""
    shutil.rmtree(left.root / FOLDER)
    del left.world.tools.services[AGENT]


def refresh(left: Left) -> None:
    """Juju takes the former charm away before the new one is in its place."""
    shutil.rmtree(left.root / FOLDER / "charm", ignore_errors=True)


def replace(left: Left) -> None:
    """The machine has another agent, of another controller: nobody knows whose the folder was."""
    shutil.rmtree(left.root / FOLDER)
    test_juju_agents.put_agent(left.root, "machine-9")
    left.world.tools.services["jujud-machine-9"] = "run"


class TestNever:
    """What looks like a unit that vanished, and is none, for most of a day."""

    @pytest.mark.parametrize("happen", [unmount, move, empty, stop, refresh, replace])
    def test_nothing_is_touched(self, left: Left, happen: Callable[[Left], None]):
        happen(left)
        was, calls = left.files(), list(left.world.tools.calls)
        for _ in range(46):
            assert (left.run(30), left.told) == (0, [])
        assert (left.files(), left.world.tools.calls) == (was, calls)
        assert left.world.drivers() == READY

    def test_a_boot_clock_that_jumps_begins_anew(self, left: Left):
        left.vanish()
        left.run()
        left.run(-60)
        assert left.world.drivers() == READY
        left.run(9)
        assert left.world.drivers() == READY
        left.run(2)
        assert left.world.drivers() == {**READY, **NATIVE}

    def test_no_wall_clock_is_asked(self, left: Left, monkeypatch: pytest.MonkeyPatch):
        """Whoever sets the date has no second look at once."""
        seen: list[float] = []
        monkeypatch.setattr(
            caretaker, "run", lambda site, tools, now, say: seen.append(now.seconds) or 0
        )
        monkeypatch.setattr(caretaker.time, "time", lambda: pytest.fail("the wall clock"))
        for _ in range(2):
            assert caretaker.main(["qat"]) == 0
        assert 0 <= seen[1] - seen[0] < 60

    def test_a_refresh_between_the_look_and_the_lock(
        self, left: Left, monkeypatch: pytest.MonkeyPatch
    ):
        """A unit of the next revision has come, and written what this caretaker does not know."""
        left.vanish()
        left.run()
        hold, path = lock.hold, left.root / RECORD

        def hold_late(*values, **named):
            test_juju_agents.put_agent(left.root, "unit-pci-passthrough-1")
            newer = f'"format": {record.NEWEST + 1}'
            path.write_text(path.read_text().replace(f'"format": {record.FORMAT}', newer))
            return hold(*values, **named)

        monkeypatch.setattr(lock, "hold", hold_late)
        assert left.run() == caretaker.EXIT_FAILED
        assert "of a newer revision" in left.told[0]
        assert left.world.drivers() == READY


class TestPlan:
    """The caretaker's files stand in a plan as others do, but for a diff."""

    def changes(self, world: World, devices: str, **config: object) -> list[tuple[str, str]]:
        decision = world.decide(devices, **config)
        present = watch.read(world.root, "pci-passthrough")
        found = plan_text.describe_plan(decision, (), present)["caretaker"]
        text = " ".join(plan_text.plan_text(decision, caretaker=present).split())
        for each in found:
            assert f"caretaker: {each['change']} {each['path']} " in f"{text} "
        assert text.count("caretaker: ") == len(found)
        return [(each["change"], each["path"].removeprefix("/")) for each in found]

    OWNED = watch.owned_files("pci-passthrough")

    def test_it_comes_with_the_first_claim(self, bare: World):
        assert self.changes(bare, GPUS) == [("create", path) for path in self.OWNED]
        assert self.changes(bare, "") == []
        bare.hook(GPUS)
        assert self.changes(bare, GPUS) == []

    def test_another_revisions_is_replaced(self, left: Left):
        (left.root / self.OWNED[0]).write_bytes(b"PK")
        (left.root / self.OWNED[2]).unlink()
        changes = [("replace", self.OWNED[0]), ("create", self.OWNED[2])]
        assert self.changes(left.world, GPUS) == changes

    def test_it_goes_with_the_last(self, left: Left):
        assert self.changes(left.world, "") == [("remove", path) for path in self.OWNED]
        left.world.kernel.hold("0000:84:00.0")
        assert self.changes(left.world, "") == [], "it stays for what a guest keeps"

    def test_it_stays_as_long_as_the_record(self, left: Left):
        """A card that comes late shall cost no second reboot."""
        with left.world.ledger() as ledger:
            ledger.update(reboot=record.Reboot("plan", "boot"))
        assert self.changes(left.world, "gpu=10de:ffff") == []
        left.world.hook("gpu=10de:ffff")
        assert watch.is_installed(left.root, "pci-passthrough")

    def test_nobody_has_looked_for_it(self, bare: World):
        decision = bare.decide(GPUS)
        assert plan_text.describe_plan(decision)["caretaker"] == []
        assert "caretaker" not in plan_text.plan_text(decision)


class TestFailing:
    def test_a_rebuild_that_fails_is_told_once_and_not_tried_at_every_look(self, left: Left):
        left.world.tools.failing["initramfs"] = "no space left on device"
        left.vanish()
        assert left.look_twice() == caretaker.EXIT_FAILED
        assert "no space left on device" in left.told[-1]
        tries = [self.tries(left) for _ in range(400)]
        assert sum(tries) == 6, "after 1, 2, 4, 8 and 16 hours, and each day from then on"
        left.world.tools.failing.clear()
        for _ in range(24 * 6):
            left.run()
        assert left.world.drivers() == {**READY, **NATIVE}
        assert not watch.is_installed(left.root, "pci-passthrough")

    @staticmethod
    def tries(left: Left) -> int:
        before = left.world.tools.calls.count("rebuild initramfs")
        assert left.run() == caretaker.EXIT_FAILED, "it stays a failed unit"
        assert not [each for each in left.told if "no space" in each], "it is said already"
        return left.world.tools.calls.count("rebuild initramfs") - before

    def test_a_read_only_root(self, left: Left, monkeypatch: pytest.MonkeyPatch):
        ensure = files.ensure

        def refuse(path, *values, **named):
            if "/run/" in os.fspath(path):
                return ensure(path, *values, **named)
            raise OSError(30, "Read-only file system", os.fspath(path))

        left.vanish()
        left.run()
        monkeypatch.setattr(files, "ensure", refuse)
        assert left.run() == caretaker.EXIT_FAILED
        assert "Read-only file system" in left.told[-1]
        assert (left.run(), left.told) == (caretaker.EXIT_FAILED, [])

    @pytest.mark.parametrize("text", ["", "{", '{"format": 1}', '{"format": 2, "boot": "x"}', "[]"])
    def test_a_damaged_memory_is_no_evidence(self, left: Left, text: str):
        left.vanish()
        left.run()
        path = left.root / "run/pci-passthrough.caretaker-pci-passthrough"
        files.ensure(path, text, 0o600)
        left.run()
        assert left.world.drivers() == READY

    @pytest.mark.parametrize(
        ("old", "new"), [('"failures": 0', '"failures": "x"'), ("}", ', "a": 1}')]
    )
    def test_neither_is_a_memory_of_something_else(self, left: Left, old: str, new: str):
        left.vanish()
        left.run()
        path = left.root / "run/pci-passthrough.caretaker-pci-passthrough"
        files.ensure(path, path.read_text().replace(old, new), 0o600)
        left.run()
        assert left.world.drivers() == READY

    def test_nor_one_that_others_may_write(self, left: Left):
        left.vanish()
        left.run()
        (left.root / "run/pci-passthrough.caretaker-pci-passthrough").chmod(0o666)
        left.run()
        assert left.world.drivers() == READY


class TestItself:
    def test_it_comes_with_the_first_file(self, bare: World):
        seen: list[bool] = []
        bare.tools.before_rebuild = lambda what: seen.append(
            watch.is_installed(bare.root, "pci-passthrough")
        )
        bare.hook(GPUS)
        assert set(seen) == {True}
        assert bare.tools.timers == {"pci-passthrough-caretaker"}
        assert bare.record().caretaker.started
        assert bare.record().caretaker.filesystem == juju_agents.find_filesystem(bare.root)

    def test_it_goes_with_the_last(self, left: Left):
        left.world.leave()
        assert not any((left.root / path).exists() for path in watch.owned_files("pci-passthrough"))
        assert left.world.tools.timers == set()

    def test_without_a_record_it_goes_and_touches_nothing_else(self, left: Left):
        """A unit may live: its record may have been moved aside, as a message advises."""
        (left.root / RECORD).unlink()
        was = left.files()
        assert left.run() == 0
        assert left.world.drivers() == READY
        gone = {path: was[path] for path in was if path not in left.files()}
        assert set(gone) == set(watch.owned_files("pci-passthrough"))
        left.world.hook()
        assert watch.is_installed(left.root, "pci-passthrough")

    @pytest.mark.parametrize("kind", range(4))
    def test_a_hook_brings_back_what_is_missing(self, left: Left, kind: int):
        path = left.root / watch.owned_files("pci-passthrough")[kind]
        text = path.read_bytes()
        path.unlink()
        left.world.hook()
        assert path.read_bytes() == text

    def test_a_timer_that_does_not_start_is_tried_again(self, bare: World):
        bare.tools.failing["systemctl"] = "bus is gone"
        bare.hook(GPUS)
        assert bare.drivers() == READY, "the devices are what matters"
        assert bare.record().caretaker.started == ""
        bare.tools.failing.clear()
        bare.hook()
        assert bare.tools.timers == {"pci-passthrough-caretaker"}

    def test_a_timer_that_does_not_stop_ends_with_the_boot(self, left: Left):
        left.world.tools.failing["systemctl"] = "bus is gone"
        left.vanish()
        assert left.look_twice() == 0
        assert not watch.is_installed(left.root, "pci-passthrough")

    def test_a_card_that_was_replaced_is_known_by_the_next_hook(self, left: Left):
        test_identity.put_serial(left.world.tree)
        left.world.hook()
        known = left.world.record().identities["0000:83:00.0"]
        assert known == {"id": "10de:1bb0", "serial": test_identity.SERIAL}

    def test_what_is_given_back_is_known_no_more(self, left: Left):
        left.world.hook(ONE)
        assert set(left.world.record().identities) == {"0000:83:00.0", "0000:83:00.1"}


@pytest.mark.faults
def test_every_kill_is_mended(bare: World, monkeypatch: pytest.MonkeyPatch):
    """By the next look in the same boot, and by those of another boot."""
    monkeypatch.setattr(timed_write, "write", killing.write_in_process)
    bare.hook(GPUS)
    own(bare)
    left = Left(bare)
    left.vanish()
    left.run()
    start, seconds = killing.Tree(left.root), left.seconds
    program = left.root / watch.program_path("pci-passthrough")
    left.run()
    wanted = bare.tree.snapshot(*OWNED)
    mended: list[killing.Tree] = []
    number = 0
    while True:
        number += 1
        start.put_back(left.root)
        left.seconds = seconds
        if not killing.run_killed(number, bare.kernel, bare.tools, left.run):
            break
        killed = killing.Tree(left.root)
        if killed in mended[-1:]:
            continue  # an fsync changes nothing that outlives a kill
        mended.append(killed)
        while program.exists():  # as long as it is, there is a timer in memory
            left.run()
        assert bare.tree.snapshot(*OWNED) == wanted, f"kill {number}"
        assert bare.drivers() == DRIVERS

        killed.put_back(left.root)
        bare.reboot()
        while program.exists() and (left.root / watch.boot_path("pci-passthrough")).exists():
            left.run()
        found = bare.tree.snapshot(*OWNED)
        inert = {path for path in watch.owned_files("pci-passthrough")[:3] if path in found}
        assert {path: found[path] for path in found if path not in inert} == wanted
        assert bare.drivers() == DRIVERS, f"kill {number}, then a boot"
    assert number > 40


class TestProgram:
    """The copy of the code, as the system's Python runs it: without the charm and its packages."""

    @pytest.fixture
    def program(self, left: Left) -> pathlib.Path:
        return left.root / watch.program_path("pci-passthrough")

    def run(self, program: pathlib.Path, code: str) -> subprocess.CompletedProcess[str]:
        text = f"import sys; sys.path.insert(0, {os.fspath(program)!r}); {code}"
        command = [sys.executable, "-I", "-S", "-B", "-c", text]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    def test_it_holds_all_that_it_imports(self, program: pathlib.Path):
        modules = "passthrough.caretaker, passthrough.reconcile, passthrough.effects.nrpe"
        more = "passthrough.state.settled, passthrough.effects.watching, passthrough.host.identity"
        code = f"import {modules}, {more}; passthrough.caretaker._find_tools()"
        code += "; print(sorted({each.split('.')[0] for each in sys.modules} & {'jinja2', 'yaml',"
        code += " 'ops', 'charmhelpers'}))"
        done = self.run(program, code)
        assert (done.stdout, done.stderr) == ("[]\n", "")

    def test_a_look_beside_a_living_unit_imports_nothing_that_acts(
        self, program: pathlib.Path, left: Left
    ):
        code = "from pathlib import Path; from passthrough import caretaker, site"
        code += f"; place = site.Site(Path({os.fspath(left.root)!r}), 'pci-passthrough')"
        code += "; print(caretaker.run(place, None, caretaker.Moment('a', 1.0), print))"
        code += "; print([each for each in ('survey', 'reconcile', 'effects', 'planning', 'nova')"
        code += " if f'passthrough.{each}' in sys.modules])"
        done = self.run(program, code)
        assert (done.stdout, done.stderr) == ("0\n[]\n", "")

    def test_it_is_the_same_bytes_each_time(self, program: pathlib.Path):
        caretaking.pack.cache_clear()
        assert caretaking.pack().encode("utf-8", "surrogateescape") == program.read_bytes()

    def test_main(self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
        seen = []
        monkeypatch.setattr(
            caretaker, "run", lambda site, tools, now, say: seen.append((site, now)) or 0
        )
        assert caretaker.main(["qat"]) == 0
        [(site, now)] = seen
        assert site.application == "qat"
        assert now.seconds > 0
        with pytest.raises(ValueError, match="is not the name"):
            caretaker.main(["../x"])

        def fail(*values: object) -> int:
            raise PassthroughError("it cannot be kept")

        monkeypatch.setattr(caretaker, "run", fail)
        assert caretaker.main(["qat"]) == caretaker.EXIT_FAILED
        assert capsys.readouterr().err == "it cannot be kept\n"

    def test_a_native_driver_is_loaded_without_charmhelpers(self, monkeypatch):
        from passthrough.system import commands

        ran = []

        def run(command, timeout, descriptors=()):
            ran.append(command)
            raise commands.CommandError(command, "is not installed on this host")

        monkeypatch.setattr(commands, "run", run)
        caretaker._find_tools().load_native("nouveau")
        assert ran == [("modprobe", "nouveau")]


def test_reconcile_takes_it_back_when_nothing_came_of_it(bare: World):
    """A first hook whose configuration matches nothing leaves nothing behind."""
    was = bare.tree.snapshot(*OWNED)
    bare.hook("gpu=10de:ffff")
    bare.hook("")
    assert bare.tree.snapshot(*OWNED) == was
