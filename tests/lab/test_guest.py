"""A guest has the device: Nova reads what the charm wrote, and libvirt gives it to a guest.

The stages follow one another on one machine, as in test_main_job.py: Nova looks, guests start, the
charm is asked to take what a guest holds, and does so when that guest is gone.
"""

import dataclasses
import json
from collections.abc import Iterator
from typing import Any

import pytest

from lab import booting, kernel, machine, nested, nova, story, unit

pytestmark = pytest.mark.row("guest")

CARDS = {name: machine.NOVA[name] for name in ("gpu0", "gpu1", "gpu2")}
FIRST, SECOND = CARDS["gpu0"].address, CARDS["gpu1"].address
CARD_ID = CARDS["gpu0"].functions[FIRST].id
GIVEN = f"gpu={CARD_ID}@{FIRST}, gpu={CARD_ID}@{SECOND}"
FEWER = f"gpu={CARD_ID}@{SECOND}"
FLAVORS = ("", "gpu:1", "gpu:2", "gpu:3")
DROP_IN = "/etc/nova/nova.conf.d/pci-passthrough.conf"
# Seconds that systemd gives nova-compute to become ready: less than the lab's and than its own.
SHORT_START = "[Service]\nTimeoutStartSec=45\n"
# The guests, named for what they are given.
WITHOUT, WITH_FIRST, WITH_SECOND = "without", "with-first", "with-second"


@dataclasses.dataclass(frozen=True)
class Story(story.Story):
    """A story with guests in the machine."""

    guests: nested.Nested

    def find_process(self, name: str) -> str:
        """Return the process that runs a guest, by libvirt's own note of it."""
        return self.host.read(f"/run/libvirt/qemu/{name}.pid").strip()


def cards_in(lines: list[str]) -> list[str]:
    """Return the lines of lspci -nn about a function of the cards, the companion's included."""
    ids = {function.id for function in CARDS["gpu0"].functions.values()}
    return [line for line in lines if any(f"[{each}]" in line for each in ids)]


@pytest.fixture(scope="module")
def bound(boot: booting.Boot) -> Iterator[Story]:
    """The charm is deployed, two cards are claimed, and the machine has been rebooted."""
    with boot(machine.NOVA, disk_cache="writeback") as host:
        charm = unit.Unit(host)
        with host.progress.step("deploy with two cards claimed"):
            charm.deploy(devices=GIVEN)
        charm.reboot("reboot with two cards claimed")
        yield Story(host, charm, nested.Nested(host))


@pytest.fixture(scope="module")
def seen(bound: Story) -> dict[str, Any]:
    """What the real Nova makes of it."""
    with bound.host.progress.step("Nova's libvirt driver lists the devices"):
        return nova.ask(bound.host, flavors=FLAVORS)


@pytest.fixture(scope="module")
def running(bound: Story, seen: dict[str, Any]) -> Story:
    """Three guests run: one without a device, and one for each claimed card."""
    bound.guests.define(WITHOUT)
    bound.guests.define(WITH_FIRST, [seen["hostdevs"][FIRST]])
    bound.guests.define(WITH_SECOND, [seen["hostdevs"][SECOND]])
    bound.guests.start(WITHOUT, WITH_FIRST, WITH_SECOND)
    bound.guests.stop(WITHOUT)
    return bound


@pytest.fixture(scope="module")
def stopped(running: Story) -> Story:
    """The guest with the first card was stopped."""
    running.guests.stop(WITH_FIRST)
    return running


@pytest.fixture(scope="module")
def again(stopped: Story) -> Story:
    """The guest with the first card runs a second time."""
    stopped.guests.start(WITH_FIRST)
    return stopped


@pytest.fixture(scope="module")
def fewer(again: Story) -> Story:
    """The first card was taken out of the configuration while its guest runs."""
    with again.host.progress.step("take out a card that a guest holds"):
        again.charm.configure(devices=FEWER)
    return again


@pytest.fixture(scope="module")
def waiting(fewer: Story) -> Story:
    """nova-compute was started; it waits for a message broker, of which there is none."""
    fewer.host.write(f"/etc/systemd/system/{nova.SERVICE}.service.d/lab.conf", SHORT_START)
    fewer.host.run(["systemctl", "daemon-reload"])
    fewer.host.run(["systemctl", "enable", nova.SERVICE])  # invoke-rc.d restarts no other
    fewer.host.run(["systemctl", "start", "--no-block", nova.SERVICE])
    return fewer


@pytest.fixture(scope="module")
def freed(waiting: Story) -> Story:
    """The guest with the first card was stopped, and the next hook ran."""
    waiting.guests.stop(WITH_FIRST)
    with waiting.host.progress.step("update-status after the guest stopped"):
        waiting.charm.run_hook("update-status")
    return waiting


@pytest.fixture(scope="module")
def removed(freed: Story) -> Story:
    """The application was removed while a guest has the second card."""
    freed.host.run(["systemctl", "stop", nova.SERVICE])
    with freed.host.progress.step("remove the application while a guest runs"):
        freed.charm.remove()
    return freed


def test_the_unit_is_ready(bound: Story) -> None:
    assert bound.charm.read_status() == "active: gpu: 2 ready"


def test_the_drop_in_is_novas_and_nobody_elses(bound: Story) -> None:
    shown = bound.host.run(["stat", "--format", "%U:%G %a", DROP_IN]).stdout.strip()
    assert shown == "root:nova 640"


def test_the_services_own_configuration_code_reads_the_drop_in(seen: dict[str, Any]) -> None:
    offered = [json.loads(text) for text in seen["options"]["device_spec"]]
    assert [each["address"] for each in offered] == [FIRST, SECOND]
    assert list(seen["aliases"]) == ["gpu"]


def test_novas_libvirt_driver_lists_every_function(seen: dict[str, Any]) -> None:
    assert set(machine.NOVA.functions) <= set(seen["listed"])


def test_nova_assigns_the_two_cards_and_neither_companions_nor_the_third(
    seen: dict[str, Any],
) -> None:
    assert seen["assignable"] == [FIRST, SECOND]


def test_the_scheduler_takes_what_is_there_and_refuses_one_card_more(seen: dict[str, Any]) -> None:
    assert seen["passes"] == {"": True, "gpu:1": True, "gpu:2": True, "gpu:3": False}


@pytest.mark.parametrize("name", [WITH_FIRST, WITH_SECOND])
def test_a_guest_sees_its_card_alone(running: Story, name: str) -> None:
    found = cards_in(running.guests.read_devices(name))
    running.host.progress.say(f"lspci in the guest '{name}': {'; '.join(found)}")
    assert len(found) == 1
    assert f"[{CARD_ID}]" in found[0]


def test_a_guest_without_a_device_sees_none(running: Story) -> None:
    lines = running.guests.read_devices(WITHOUT)
    assert lines
    assert cards_in(lines) == []


def test_rebind_refuses_a_card_that_a_guest_holds(running: Story) -> None:
    answer = running.charm.run_action("rebind", check=False, address=FIRST)
    assert answer["failed"]
    assert "a guest holds it" in answer["message"]
    assert running.find_process(WITH_FIRST) in answer["message"]
    assert running.guests.is_running(WITH_FIRST)
    assert running.read_drivers() == running.with_claimed("gpu0", "gpu1")


def test_after_its_guest_a_card_is_still_on_vfio(stopped: Story) -> None:
    assert stopped.read_drivers() == stopped.with_claimed("gpu0", "gpu1")


def test_no_native_driver_touched_it_in_between(stopped: Story) -> None:
    log = stopped.host.read_kernel_log()
    for address, function in CARDS["gpu0"].functions.items():
        mentions = kernel.find_mentions(log, address)
        assert mentions
        assert [line for line in mentions if str(function.driver).partition("-")[0] in line] == []


def test_the_card_goes_into_a_guest_a_second_time(again: Story) -> None:
    assert len(cards_in(again.guests.read_devices(WITH_FIRST))) == 1


def test_a_card_taken_out_stays_with_its_guest(fewer: Story) -> None:
    assert fewer.guests.is_running(WITH_FIRST)
    assert fewer.read_drivers() == fewer.with_claimed("gpu0", "gpu1")
    assert FIRST in fewer.host.read(DROP_IN)


def test_the_status_says_what_is_pending_and_who_holds_it(fewer: Story) -> None:
    assert fewer.charm.read_status().startswith(
        f"blocked: {FIRST}: a guest holds it (process {fewer.find_process(WITH_FIRST)}), and it"
        " is given back when that guest is gone"
    )


def test_the_next_hook_after_the_guest_gives_the_card_back(freed: Story) -> None:
    assert freed.read_drivers() == freed.with_claimed("gpu1")
    assert freed.charm.read_status() == "active: gpu: 1 ready"
    assert FIRST not in freed.host.read(DROP_IN)
    assert freed.guests.is_running(WITH_SECOND)


def test_nova_compute_that_is_not_ready_holds_up_no_hook(freed: Story) -> None:
    said = f"{nova.SERVICE}: started anew, but not ready yet: invoke-rc.d"
    assert freed.charm.read_log().count(said) == 1


def test_removal_leaves_a_card_to_its_guest_and_says_so(removed: Story) -> None:
    assert removed.guests.is_running(WITH_SECOND)
    assert removed.read_drivers() == removed.with_claimed("gpu1")
    said = f"{SECOND}: left on vfio-pci until the next boot for a guest"
    assert said in removed.charm.read_log()


def test_after_removal_nova_is_offered_nothing(removed: Story) -> None:
    assert removed.host.run(["test", "-e", DROP_IN], check=False).status == 1
