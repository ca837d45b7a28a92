"""Any life of a host whose units come and go ends with one owner, and then as it was before.

Random sequences of units that are deployed, configured, removed by each of Juju's roads, or that
vanish; of kills and full disks on the way, guests, boots, and looks of the caretaker. On the way a
unit that is not the owner writes nothing and releases nothing, no guest loses its device, and the
caretaker gives nothing back while a unit lives. When all is calm again, the host is what a fresh
install of the owner's configuration makes of it; when the last unit has gone, it is what it was
before the first one came.
"""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import hypothesis
import pytest
from harness import killing
from harness import unit as units
from harness.constants import APPLICATION, GPUS, MODEL_UUID, ONE
from harness.unit import Unit
from harness.world import World
from hypothesis import strategies
from ops import testing
from unit.host import test_juju_agents

import leaving
from passthrough import caretaker
from passthrough.host import juju_agents, watch
from passthrough.state import record
from passthrough.system import commands, timed_write

pytestmark = pytest.mark.faults

LIVES = 45
STEPS = 7
COMPUTE, STORAGE = "nova-compute/0", "ceph-osd/0"
RELATIONS = {
    COMPUTE: testing.SubordinateRelation("juju-info", remote_app_name="nova-compute"),
    STORAGE: testing.SubordinateRelation("juju-info", remote_app_name="ceph-osd"),
}
RECORD = f"{record.DIRECTORY}/{APPLICATION}.json"
MACHINE = "jujud-machine-3"
HELD = "0000:84:00.0"
# The hooks of a unit that leaves, by the road; on Juju 4 what comes behind the first may not run.
ROADS = {
    "departed": ("juju-info-relation-departed", "juju-info-relation-broken", "stop"),
    "broken": ("juju-info-relation-broken", "stop"),
    "broken-alone": ("juju-info-relation-broken",),
    "stop": ("stop", "remove"),
}
CONFIGS = ("", ONE, GPUS)
# Every life begins as one of these, so that whatever is notable happens often enough.
BEGINNINGS = (
    (COMPUTE,),
    (STORAGE,),
    (COMPUTE, STORAGE),  # the second waits
    (STORAGE, COMPUTE),  # the second takes the host
)
# What has to have happened in the end: a machine in which it does not proves nothing about it.
NOTABLE = (
    *(f"given back by {road}" for road in ROADS),
    "given back by the caretaker",
    "handed over",
    "taken over from one that vanished",
    "taken by the compute service's unit",
    "another unit is blocked",
    "another unit left",
    "kept in place",
    "held by a guest",
    "killed while it leaves",
    "killed while it takes over",
    "killed caretaker",
    "full disk while it leaves",
)


class Trouble(NamedTuple):
    """What goes wrong in a run: a kill at an effect, or a disk that is full."""

    kill_at: int = 0
    full: bool = False


CALM = Trouble()
TROUBLES = (
    strategies.just(CALM)
    | strategies.builds(Trouble, kill_at=strategies.integers(1, 60))
    | strategies.just(Trouble(full=True))
)


class Life:
    """A host, the units on it, and what of it is worth counting."""

    def __init__(self, world: World, patch: pytest.MonkeyPatch, seen: collections.Counter[str]):
        units.find_world(world, patch)
        self.world, self.root, self.seen = world, world.root, seen
        self.config = GPUS
        self.keeps = False
        self.units: dict[str, Unit] = {}  # by the principal
        self.vanished: set[str] = set()
        self.deployed = 0
        self.seconds = 3600.0
        self.held: Path | None = None
        world.nova.install()
        world.turn_iommu_on()
        for folder in ("etc/systemd/system", "etc/nova/nova.conf.d"):
            (self.root / folder).mkdir(parents=True, exist_ok=True)
        for what in ("initramfs", "grub"):
            world.tools.rebuild(what, lambda said: None)
        for agent in ("machine-3", "unit-nova-compute-0", "unit-ceph-osd-0"):
            folder = test_juju_agents.put_agent(self.root, agent)
            charm = agent.removeprefix("unit-").rpartition("-")[0]
            (folder / "charm").mkdir()
            (folder / "charm/metadata.yaml").write_text(f"name: {charm}\n")
        # The charm's own folders stand where the caretaker looks for them.
        (self.root / ".juju").symlink_to(self.root / "var/lib/juju")
        world.tools.services[MACHINE] = "run"
        self.before = self.state()

    # What is to be seen.

    def state(self) -> dict[str, object]:
        """All that decides how the host runs, but for whose it is and Juju's own folders."""
        found = self.world.snapshot("etc", "boot/grub", "var/lib")
        return {
            key: value
            for key, value in found.items()
            if key != RECORD and not key.startswith("var/lib/juju/")
        }

    def settled(self) -> dict[str, object]:
        """The state with what the record says of it, where a unit looks after the host."""
        known = self.world.record()
        mine = dataclasses.replace(known, owner=None, reboot=None, keep=False)
        return {**self.state(), "record": mine if not known.is_empty else record.Record()}

    @property
    def owner(self) -> str:
        """The unit that looks after the host by the record; empty for none."""
        owner = self.world.record().owner
        return owner.unit if owner else ""

    def name_of(self, unit: Unit) -> str:
        return unit.owner.unit

    def folder_of(self, unit: str) -> Path:
        return self.root / juju_agents.AGENTS / f"unit-{unit.replace('/', '-')}"

    def is_there(self, unit: str) -> bool:
        return bool(unit) and self.folder_of(unit).exists()

    def heir_of(self, leaver: Unit) -> str:
        """The unit that gets the host when this one leaves: the first one that waits for it."""
        waiting = [
            self.name_of(each)
            for each in self.units.values()
            if each is not leaver
            and (self.folder_of(self.name_of(each)) / "charm/.pci-passthrough-waits").exists()
        ]
        return min(waiting, key=lambda name: int(name.rpartition("/")[2]), default="")

    # What happens.

    def deploy(self, principal: str) -> None:
        number = self.deployed
        self.deployed += 1
        test_juju_agents.put_agent(self.root, f"unit-{APPLICATION}-{number}")
        relations = (RELATIONS[principal],)
        self.units[principal] = Unit(self.world, principal, relations, number=number)

    def hook(self, principal: str, event: str, trouble: Trouble = CALM) -> None:
        """One hook of a unit; only the owner, or who comes to be it, touches the host."""
        unit = self.units[principal]
        unit.configure(devices=self.config, on_removal="keep" if self.keeps else "restore")
        me, owner = self.name_of(unit), self.owner
        takes = me != owner and bool(owner)
        was = self.state()
        if takes and self.is_there(owner) and principal != COMPUTE:
            unit.run(event)
            assert unit.status == f"blocked: {COMPUTE}'s unit looks after this host" or (
                unit.status == f"blocked: {STORAGE}'s unit looks after this host"
            )
            assert self.state() == was, "it writes nothing"
            assert self.owner == owner
            self.seen["another unit is blocked"] += 1
            return
        with self.full_disk(trouble):
            killed = trouble.kill_at and killing.run_killed(
                trouble.kill_at, self.world.kernel, self.world.tools, lambda: unit.run(event)
            )
            if killed:
                self.seen["killed while it takes over"] += takes
            # A hook that was killed is run again; what the child did stands on the disk.
            unit.run("config_changed" if killed else event)
        if not self.world.record().is_empty:
            assert self.owner == me
        if takes:
            gone = not self.is_there(owner)
            self.seen["taken over from one that vanished"] += gone and owner in self.vanished
            self.seen["taken by the compute service's unit"] += not gone

    def leave(self, principal: str, road: str, trouble: Trouble) -> None:
        """A unit leaves by the hooks of a road; the last of them comes to its end."""
        unit = self.units[principal]
        me, was, owner = self.name_of(unit), self.state(), self.owner
        keeps = self.world.record().keep
        # What shall stay waits for whoever comes next, by the hooks of that one.
        heir = self.heir_of(unit) if me == owner and not keeps else ""
        held = self.held is not None and self.world.tree.driver_of(HELD) == "vfio-pci"
        hooks = [self.environment(unit, principal, hook) for hook in ROADS[road]]

        def run(environ: dict[str, str]) -> None:
            leaving.give_back_first(self.world.site, environ)

        if trouble.kill_at:
            killed = killing.run_killed(
                trouble.kill_at, self.world.kernel, self.world.tools, lambda: run(hooks[0])
            )
            self.seen["killed while it leaves"] += killed
        elif trouble.full:
            with self.full_disk(trouble):
                try:
                    run(hooks[0])
                except commands.CommandError:
                    self.seen["full disk while it leaves"] += 1
        for environ in hooks:  # the first one again, as Juju does
            run(environ)
        self.forget(principal)
        if me != owner or heir or keeps:
            assert self.state() == was, "everything stays in place"
            assert self.owner == ("" if me == owner and not heir else heir or owner)
            self.seen["another unit left"] += me != owner and bool(owner)
            self.seen["handed over"] += bool(heir)
            self.seen["kept in place"] += keeps and not heir and was != self.before
        elif held:
            assert self.world.tree.driver_of(HELD) == "vfio-pci"
            self.seen["held by a guest"] += 1
        else:
            assert self.state() == self.before, f"{me} has left by {road}"
            assert self.world.record().is_empty
            self.seen[f"given back by {road}"] += was != self.before

    def environment(self, unit: Unit, principal: str, hook: str) -> dict[str, str]:
        return {
            "JUJU_DISPATCH_PATH": f"hooks/{hook}",
            "JUJU_UNIT_NAME": self.name_of(unit),
            "JUJU_DEPARTING_UNIT": self.name_of(unit) if hook.endswith("departed") else "",
            "JUJU_PRINCIPAL_UNIT": principal,
            "JUJU_RELATION_ID": "juju-info:0",
            "JUJU_REMOTE_APP": principal.partition("/")[0],
            "JUJU_MODEL_UUID": MODEL_UUID,
            "JUJU_CHARM_DIR": str(self.root / units.AGENTS / self.folder_of(unit.owner.unit).name)
            + "/charm",
        }

    def vanish(self, principal: str) -> None:
        """Juju takes the agent away, and no hook has run."""
        self.vanished.add(self.name_of(self.units[principal]))
        self.forget(principal)

    def forget(self, principal: str) -> None:
        shutil.rmtree(self.folder_of(self.name_of(self.units.pop(principal))))

    def look(self, minutes: float, trouble: Trouble = CALM) -> None:
        """One look of the caretaker; beside a unit that lives it does nothing."""
        if not watch.is_installed(self.root, APPLICATION):
            return  # no timer, no look
        was, told = self.state(), self.world.record()
        self.seconds += minutes * 60

        def run() -> None:
            boot = (self.root / "proc/sys/kernel/random/boot_id").read_text().strip()
            now = caretaker.Moment(boot, self.seconds)
            caretaker.run(self.world.site, lambda: self.world.tools, now, lambda said: None)

        with self.full_disk(trouble):
            killed = trouble.kill_at and killing.run_killed(
                trouble.kill_at, self.world.kernel, self.world.tools, run
            )
            if not killed:
                run()
        if (self.units and not told.is_empty) or told.keep:
            assert (self.state(), self.world.record()) == (was, told), "a unit lives, or keep"
        self.seen["killed caretaker"] += bool(killed) and self.state() != was
        if not killed and not told.is_empty and self.world.record().is_empty:
            assert self.state() == self.before
            self.seen["given back by the caretaker"] += 1

    @contextlib.contextmanager
    def full_disk(self, trouble: Trouble) -> Iterator[None]:
        if trouble.full:
            self.world.tools.failing["initramfs"] = "No space left on device"
        yield
        self.world.tools.failing.clear()

    def boot(self) -> None:
        self.release()
        self.world.reboot()
        self.world.turn_iommu_on()
        self.seconds = 60.0

    def hold(self) -> None:
        if self.held is None and self.world.tree.driver_of(HELD) == "vfio-pci":
            self.held = self.world.kernel.hold(HELD)

    def release(self) -> None:
        if self.held:
            self.world.kernel.close(self.held)
            self.held = None

    def check_guest(self) -> None:
        assert self.held is None or self.world.tree.driver_of(HELD) == "vfio-pci"

    # What happens in a life, as `STEP` draws it.

    def work(self, principal: str, event: str, trouble: Trouble) -> None:
        """A hook of the unit beside this principal, which is deployed where it is not."""
        if principal not in self.units:
            self.deploy(principal)
        self.hook(principal, event, trouble)

    def configure(self, devices: str, keeps: bool) -> None:
        """Other options, of which Juju tells every unit."""
        self.config, self.keeps = devices, keeps
        for principal in sorted(self.units):
            self.hook(principal, "config_changed")

    def part(self, which: int, road: str, with_guest: bool, trouble: Trouble) -> None:
        """One of the units leaves, the owner more often than another."""
        self.use(with_guest)
        there = self.owner_first()
        if there:
            self.leave(there[which % len(there)], road, trouble)

    def lose(self, after: int, looks: int, trouble: Trouble) -> None:
        """The owner vanishes without a hook, or in the middle of its last; the caretaker looks."""
        if not self.units:
            return
        principal = self.owner_first()[0]
        if after:
            environ = self.environment(self.units[principal], principal, "stop")
            killing.run_killed(
                after,
                self.world.kernel,
                self.world.tools,
                lambda: leaving.give_back_first(self.world.site, environ),
            )
        self.vanish(principal)
        for each in (CALM, trouble)[:looks]:
            self.look(11, each)

    def use(self, starts: bool) -> None:
        """A guest starts, or ends."""
        if starts:
            self.hold()
        else:
            self.release()

    def owner_first(self) -> list[str]:
        """The principals of the units on the host, the owner's first."""
        return sorted(self.units, key=lambda each: self.name_of(self.units[each]) != self.owner)

    # How it ends.

    def calm(self) -> dict[str, object]:
        """Let nothing go wrong any more; the state that the one owner then has."""
        self.release()
        self.keeps = False
        if not self.units and self.world.record().keep:
            self.deploy(COMPUTE)  # nobody else gives back what shall stay
        for _ in range(2):
            for principal in sorted(self.units):
                self.hook(principal, "config_changed")
        for principal in self.units:
            unit = self.units[principal]
            blocked = unit.status.startswith("blocked: ") and "looks after" in unit.status
            is_owner = self.owner in ("", self.name_of(unit))
            assert blocked is not is_owner, "one owner a host"
        return self.settled()

    def end(self) -> None:
        """Every unit leaves, and the caretaker gives back what is left."""
        for principal in sorted(self.units):
            self.seen["end"] += 1
            self.leave(principal, tuple(ROADS)[self.seen["end"] % len(ROADS)], CALM)
        for _ in range(300):  # it may be waiting for a day, as a disk was full
            if watch.is_installed(self.root, APPLICATION):
                self.look(11)
        assert self.state() == self.before
        assert self.world.record() == record.Record()
        assert not watch.is_installed(self.root, APPLICATION)


def play(life: Life, step: tuple[Any, ...]) -> None:
    """One thing that happens on a host."""
    name, *values = step
    getattr(life, name)(*values)
    life.check_guest()


PRINCIPALS = strategies.sampled_from([COMPUTE, STORAGE])
EVENTS = strategies.sampled_from(["config_changed", "update_status", "start"])
# Every kind as often as any other: what comes of them, NOTABLE counts.
STEP = strategies.one_of(
    strategies.tuples(strategies.just("work"), PRINCIPALS, EVENTS, TROUBLES),
    strategies.tuples(
        strategies.just("configure"),
        strategies.sampled_from([*CONFIGS, ONE, GPUS]),
        strategies.booleans(),
    ),
    strategies.tuples(
        strategies.just("part"),
        strategies.integers(0, 2),
        strategies.sampled_from(list(ROADS)),
        strategies.booleans(),
        TROUBLES,
    ),
    strategies.tuples(
        strategies.just("lose"),
        strategies.just(0) | strategies.integers(1, 40),
        strategies.sampled_from([0, 2, 2]),
        strategies.builds(Trouble, kill_at=strategies.integers(4, 60)) | TROUBLES,
    ),
    strategies.tuples(strategies.just("look"), strategies.sampled_from([5, 11, 11, 25]), TROUBLES),
    strategies.tuples(strategies.just("boot")),
    strategies.tuples(strategies.just("use"), strategies.booleans()),
)


def fresh_states(make_life: Callable[[], Life]) -> dict[str, dict[str, object]]:
    """The state of a fresh install of each configuration."""
    found: dict[str, dict[str, object]] = {}
    for config in CONFIGS:
        life = make_life()
        life.config = config
        life.deploy(COMPUTE)
        found[config] = life.calm()
        shutil.rmtree(life.root)
    return found


def test_every_life_has_one_owner_and_leaves_the_host_as_it_was(
    make_world: Callable[..., World], monkeypatch: pytest.MonkeyPatch
):
    def fail(command: tuple[str, ...], timeout: float, *more: object) -> tuple[str, ...]:
        raise commands.CommandError(command, "failed with exit code 1", ("ERROR gone",), 1)

    monkeypatch.setattr(timed_write, "write", killing.write_in_process)
    monkeypatch.setattr(commands, "run", fail)  # Juju answers no hook tool in a unit that leaves
    seen: collections.Counter[str] = collections.Counter()

    def make_life() -> Life:
        return Life(make_world(), monkeypatch, seen)

    fresh = fresh_states(make_life)

    @hypothesis.settings(
        max_examples=LIVES,
        deadline=None,
        derandomize=True,
        database=None,
        print_blob=False,
        # Shrinking a life takes minutes; while looking for a cause, add Phase.shrink.
        phases=(hypothesis.Phase.generate,),
        suppress_health_check=(
            hypothesis.HealthCheck.too_slow,
            hypothesis.HealthCheck.data_too_large,
            hypothesis.HealthCheck.large_base_example,
        ),
    )
    @hypothesis.given(
        beginning=strategies.sampled_from(BEGINNINGS),
        keeps=strategies.sampled_from([False, False, True]),
        steps=strategies.lists(STEP, min_size=STEPS, max_size=STEPS),
    )
    def live(beginning: tuple[str, ...], keeps: bool, steps: list[tuple[Any, ...]]) -> None:
        life = make_life()
        life.keeps = keeps
        for principal in beginning:
            life.deploy(principal)
            life.hook(principal, "config_changed")
        for step in steps:
            play(life, step)
        found = life.calm()
        if life.units:
            assert found == fresh[life.config]
        life.end()
        shutil.rmtree(life.root)

    live()
    assert [what for what in NOTABLE if not seen[what]] == [], seen
