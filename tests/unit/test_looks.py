"""How often a hook or an action looks at the host: once, and once more where it changed something.

What is asked again for safety is counted apart, by function, as are the passes over the open files
of all processes: a look makes one at the most, and none while the kernel says that nobody has the
functions; each function that is to leave its driver costs one of its own.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterable
from typing import Any

import pytest
from harness import unit as units
from harness.constants import CLAIMED, GPUS, INIT_TOP, MODULES, ONE
from harness.unit import HOOKS, NRPE, PRINCIPAL, Unit
from harness.world import World
from ops import testing

from passthrough import survey
from passthrough.effects import nrpe
from passthrough.system import procfs

FIRST, SECOND = CLAIMED[:2], CLAIMED[2:]
ACTIONS = ("list-devices", "plan", "verify")
NOVA_PCI = testing.Relation("nova-pci")
CONTROLLER = testing.SubordinateRelation(
    "nova-cloud-controller", remote_app_name="nova-cloud-controller"
)


@dataclasses.dataclass
class Looks:
    """What was read of the host.

    Attributes:
        whole: looks at everything.
        again: the functions of each question that was asked again for safety.
        own: how often a run read what it had just written itself.
        passes: passes over the open files of all processes.
    """

    whole: int = 0
    again: tuple[tuple[str, ...], ...] = ()
    own: int = 0
    passes: int = 0


class Counter:
    """Counts what is read from now on."""

    def __init__(self, patch: pytest.MonkeyPatch):
        self.seen = Looks()
        look, ask_again, own = survey.look, survey.ask_again, survey.read_own_again
        devices = procfs.Processes.__dict__["opened"].func

        def count_look(*values: Any) -> survey.Facts:
            self.seen.whole += 1
            return look(*values)

        def count_question(facts: survey.Facts, addresses: Iterable[str]) -> survey.Facts:
            asked = tuple(addresses)
            self.seen.again += (asked,)
            return ask_again(facts, asked)

        def count_own(*values: Any) -> survey.Facts:
            self.seen.own += 1
            return own(*values)

        def count_pass(processes: procfs.Processes) -> object:
            self.seen.passes += 1
            return devices(processes)

        counted = functools.cached_property(count_pass)
        counted.__set_name__(procfs.Processes, "opened")
        patch.setattr(survey, "look", count_look)
        patch.setattr(survey, "ask_again", count_question)
        patch.setattr(survey, "read_own_again", count_own)
        patch.setattr(procfs.Processes, "opened", counted)

    def of(self, job: Callable[[], object]) -> Looks:
        """What a job reads."""
        self.seen = Looks()
        job()
        return self.seen


@pytest.fixture
def counter(monkeypatch: pytest.MonkeyPatch) -> Counter:
    return Counter(monkeypatch)


@pytest.fixture(params=[False, True], ids=["no-nova", "nova"])
def fresh(
    make_world: Callable[..., World],
    monkeypatch: pytest.MonkeyPatch,
    request: pytest.FixtureRequest,
) -> Unit:
    """A unit whose host has seen nothing of the charm, with Nova and without."""
    world = make_world()
    if request.param:
        world.nova.install()
    units.find_world(world, monkeypatch)
    return Unit(world)


@pytest.fixture
def settled(fresh: Unit, counter: Counter) -> Unit:
    """A unit that has its devices, and nothing left to do."""
    fresh.run(devices=GPUS)
    fresh.world.reboot()
    for event in ("start", "config_changed"):
        assert fresh.run(event).name == "active"
    return fresh


def has_nova(unit: Unit) -> bool:
    return (unit.world.root / "etc/nova").exists()


class TestNothingChanges:
    @pytest.mark.parametrize("event", [*HOOKS, "leader_elected"])
    def test_a_hook_looks_once_and_asks_no_process(self, settled: Unit, counter, event: str):
        assert counter.of(lambda: settled.run(event)) == Looks(1)

    @pytest.mark.parametrize("event", ["relation_joined", "relation_changed"])
    def test_so_does_the_principals_relation(self, settled: Unit, counter, event: str):
        assert counter.of(lambda: settled.run(event, PRINCIPAL)) == Looks(1)

    def test_so_does_a_relation_of_nova_pci(self, settled: Unit, counter):
        settled.relate(PRINCIPAL, NOVA_PCI)
        assert counter.of(lambda: settled.run("relation_created", NOVA_PCI)) == Looks(1)

    def test_with_nrpe_the_guests_are_asked_in_the_same_look(self, settled: Unit, counter):
        settled.world.kernel.hold(FIRST[0])
        (settled.world.root / nrpe.CONFIGURATION).mkdir(parents=True)
        settled.relate(PRINCIPAL, NRPE)
        for event in ("relation_joined", "relation_changed"):
            assert counter.of(lambda event=event: settled.run(event, NRPE)) == Looks(1, passes=1)
        for event in HOOKS:
            assert counter.of(lambda event=event: settled.run(event)) == Looks(1, passes=1)
        assert counter.of(lambda: settled.run("relation_broken", NRPE)) == Looks(1)

    def test_with_nrpe_no_process_is_asked_where_the_kernel_says_that_nobody_has_any(
        self, settled: Unit, counter
    ):
        (settled.world.root / nrpe.CONFIGURATION).mkdir(parents=True)
        settled.relate(PRINCIPAL, NRPE)
        for event in HOOKS:
            assert counter.of(lambda event=event: settled.run(event)) == Looks(1)

    @pytest.mark.parametrize("action", ACTIONS)
    def test_an_action_asks_no_process_where_the_kernel_says_that_nobody_has_any(
        self, settled: Unit, counter, action: str
    ):
        assert counter.of(lambda: settled.act(action, format="table")) == Looks(1)

    @pytest.mark.parametrize("action", ACTIONS)
    def test_an_action_looks_once(self, settled: Unit, counter, action: str):
        """The guests are asked by verify; list-devices asks what else uses a device."""
        settled.world.kernel.hold(FIRST[0])
        asks = action != "plan"
        assert counter.of(lambda: settled.act(action, format="table")) == Looks(1, passes=asks)
        assert counter.of(lambda: settled.run("update_status")) == Looks(1), "and so it stays"

    def test_a_rebind_that_is_refused_looks_once(self, settled: Unit, counter):
        found = counter.of(lambda: settled.act_in_vain("rebind", address="0000:85:00.0"))
        assert found == Looks(1)

    def test_a_host_that_waits_for_its_reboot(self, fresh: Unit, counter):
        fresh.run(devices=GPUS)
        for event in HOOKS:
            assert counter.of(lambda event=event: fresh.run(event)) == Looks(1)

    def test_before_devices_is_set(self, fresh: Unit, counter):
        for event in HOOKS:
            assert counter.of(lambda event=event: fresh.run(event)) == Looks(1)

    def test_a_wrong_option_is_no_reason_to_look(self, settled: Unit, counter):
        settled.run(devices="gpu=10de:zzzz")
        for event in HOOKS:
            assert counter.of(lambda event=event: settled.run(event)) == Looks()
        assert counter.of(lambda: settled.act_in_vain("plan")) == Looks()

    @pytest.mark.parametrize("action", ["plan", "verify", "rebind"])
    def test_a_host_that_cannot(self, fresh: Unit, counter, action: str):
        """The status is made of what the action met."""
        fresh.world.tree.write("run/systemd/container", "lxc\n")
        for event in HOOKS:
            assert counter.of(lambda event=event: fresh.run(event, devices=GPUS)) == Looks(1)
        message, _ = fresh.act_in_vain(action)
        assert message.startswith("this unit is in a container")
        assert fresh.status == f"blocked: {message}"
        assert counter.of(lambda: fresh.act_in_vain(action)) == Looks(1)

    def test_what_a_guest_keeps(self, settled: Unit, counter):
        settled.world.kernel.hold(SECOND[0])
        settled.run(devices=ONE)
        assert counter.of(settled.run) == Looks(1, passes=1)


class TestSomethingChanges:
    def test_the_first_configuration(self, fresh: Unit, counter):
        found = counter.of(lambda: fresh.run(devices=GPUS))
        assert found == Looks(2, own=has_nova(fresh))

    def test_the_boot_that_brought_the_devices_changes_nothing_but_the_offer(
        self, fresh: Unit, counter
    ):
        fresh.run(devices=GPUS)
        fresh.world.reboot()
        assert counter.of(lambda: fresh.run("start")) == Looks(1, own=has_nova(fresh))

    def test_a_card_less_is_asked_about_once_it_was_withdrawn_and_as_it_leaves(
        self, settled: Unit, counter
    ):
        found = counter.of(lambda: settled.run(devices=ONE))
        again, own = ((SECOND,), 1) if has_nova(settled) else ((), 0)
        # One pass behind the withdrawal, and one of each function that leaves. For the look the
        # kernel says that nobody has any.
        assert found == Looks(2, again, own, passes=len(again) + len(SECOND))

    def test_of_a_card_more_each_function_is_asked_about_before_it_is_bound(
        self, settled: Unit, counter
    ):
        settled.run(devices=ONE)
        found = counter.of(lambda: settled.run(devices=GPUS))
        assert found == Looks(2, tuple((each,) for each in SECOND), own=has_nova(settled))

    @pytest.mark.parametrize("path", [MODULES, INIT_TOP], ids=["rebuilds-nothing", "rebuilds"])
    def test_a_file_that_drifted(self, settled: Unit, counter, path: str):
        settled.world.tree.write(path, "# edited\n")
        assert counter.of(lambda: settled.run("update_status")) == Looks(2)

    def test_a_driver_that_drifted(self, settled: Unit, counter):
        """What would be withdrawn is asked about, of the kernel; before it is bound, of all."""
        settled.world.tree.bind(FIRST[0], "nouveau")
        found = counter.of(lambda: settled.run("update_status"))
        assert found == Looks(2, (FIRST[:1],), passes=has_nova(settled))

    def test_both_that_drifted(self, settled: Unit, counter):
        settled.world.tree.bind(FIRST[0], "nouveau")
        settled.world.tree.write(INIT_TOP, "# edited\n")
        found = counter.of(lambda: settled.run("update_status"))
        assert found == Looks(2, (FIRST[:1],), passes=has_nova(settled))

    def test_a_rebuild_that_fails(self, settled: Unit, counter):
        settled.world.tools.failing["grub"] = "no space left"
        assert counter.of(lambda: settled.run(kernel_options="nosmt")) == Looks(2)

    def test_rebind(self, settled: Unit, counter):
        """Before and after; no function is unbound before it was asked about."""
        found = counter.of(lambda: settled.act("rebind"))
        assert found == Looks(2, own=1, passes=len(CLAIMED))

    def test_stop_and_then_remove(self, settled: Unit, counter):
        again, own = ((CLAIMED,), 1) if has_nova(settled) else ((), 0)
        found = counter.of(lambda: settled.run("stop"))
        assert found == Looks(2, again, own, passes=len(again) + len(CLAIMED))
        assert counter.of(lambda: settled.run("remove")) == Looks(1)


class TestElsewhere:
    def test_a_unit_beside_a_controller_never_looks(self, settled: Unit, counter):
        unit = Unit(settled.world, "nova-cloud-controller/0", (CONTROLLER,))
        unit.configure(devices=GPUS)
        for event in (*HOOKS, "stop", "remove"):
            assert counter.of(lambda event=event: unit.run(event)) == Looks()
        assert counter.of(lambda: unit.act("plan")) == Looks()
        assert counter.of(lambda: unit.act_in_vain("rebind")) == Looks()

    def test_a_unit_beside_nobody_never_looks(self, fresh: Unit, counter):
        unit = Unit(fresh.world, relations=())
        for event in HOOKS:
            assert counter.of(lambda event=event: unit.run(event, devices=GPUS)) == Looks()
