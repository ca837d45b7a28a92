"""``reboot=when-idle`` on a host that others need, and on the same host when nobody does any more.

What others are is real as far as the kernel and systemd show it: a control group of Docker's name,
a process of Ceph's name, and a service that is nova-compute to systemd.
"""

from collections.abc import Iterator

import pytest

from lab import booting, guest, machine, story

pytestmark = pytest.mark.row("idle")

GIVEN = "gpu=1234:1111@0000:83:00.0"
CONTAINER = f"docker-{'0123456789ab' + 'c' * 52}.scope"
OSD = "/usr/local/bin/ceph-osd"
SERVICE = """\
[Service]
ExecStart=/bin/sleep infinity
[Install]
WantedBy=multi-user.target
"""


@pytest.fixture(scope="module")
def needed(boot: booting.Boot) -> Iterator[story.Watched]:
    """A container and an OSD run, and the charm is deployed with the option."""
    with boot(machine.INTEL) as host:
        host.write("/etc/systemd/system/nova-compute.service", SERVICE)
        host.run(["systemctl", "enable", "--now", "nova-compute"])
        host.run(["cp", "/bin/sleep", OSD])
        host.run(["systemd-run", "--unit=osd", OSD, "infinity"])
        host.run(f"systemd-run --scope --unit={CONTAINER} sleep infinity >/dev/null 2>&1 &")
        told = story.begin(host)
        with host.progress.step("deploy on a host that others need"):
            told.charm.deploy(devices=GIVEN, reboot="when-idle")
        yield told


@pytest.fixture(scope="module")
def idle(needed: story.Watched) -> story.Watched:
    """Nobody needs the host any more, and the next hook has run."""
    needed.host.run(["systemctl", "stop", "osd", CONTAINER])
    needed.charm.run_hook("update-status")
    return needed


@pytest.fixture(scope="module")
def rebooted(idle: story.Watched) -> story.Watched:
    """Juju has carried the reboot out."""
    idle.charm.reboot("the reboot that the charm asked for")
    return idle


def read_state(host: guest.Guest) -> str:
    """Return systemd's state of nova-compute."""
    return host.run(["systemctl", "is-active", "nova-compute"], check=False).stdout.strip()


def test_a_host_that_others_need_is_waited_for(needed: story.Watched) -> None:
    status = needed.charm.read_status()
    assert status.startswith("waiting: reboot when nobody needs the host, and now ")
    assert "container docker 0123456789ab" in status
    assert "ceph-osd (process " in status
    assert read_state(needed.host) == "active"


def test_an_idle_host_is_rebooted_with_nova_compute_down(idle: story.Watched) -> None:
    assert idle.charm.read_status().startswith("maintenance: rebooting: ")
    assert read_state(idle.host) == "inactive"


def test_the_boot_brings_the_card_and_nova_compute(rebooted: story.Watched) -> None:
    assert rebooted.charm.read_status() == "active: gpu: 1 ready"
    assert rebooted.read_drivers() == rebooted.with_claimed("gpu0")
    assert read_state(rebooted.host) == "active"
