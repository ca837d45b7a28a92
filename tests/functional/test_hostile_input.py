"""Hostile and mistaken configuration, on the packed charm: blocked with a reason, nothing written.

One host and one unit for all: each case sets every option, and must leave no trace for the next.
"""

from __future__ import annotations

import os
import pathlib
import sys
from collections.abc import Iterator

import pytest
from harness import hostbox, hosttree, standin
from harness.constants import GPUS

EVERYWHERE = ("etc", "var", "usr", "boot", "sys", "dev")
ALL_KEYS = (
    "alias, id, address, exclude, device-type, numa-policy, resource-class, traits,"
    " live-migratable, managed, physical-network, trusted, one-time-use, driver, quarantine,"
    " companions, allow-in-use, vfs"
)
BAD_KERNEL_OPTION = (
    "not NAME or NAME=VALUE of letters, digits and . _ - , : / @ + % (quotes, spaces, ; and $"
    " cannot be passed on)"
)
BAD_ALIAS = (
    "is not a name of up to 64 letters, digits, '.', '_' and '-' that begins with a letter or digit"
)

CASES: dict[str, tuple[dict[str, str], str]] = {
    "id": (
        {"devices": "gpu=10de:zzzz"},
        'devices: item 1 "gpu=10de:zzzz": product id "zzzz" is not four hex digits, e.g. 10de:1bb0',
    ),
    "unknown-key": (
        {"devices": "- {id: 10de:1bb0, slot: 4}"},
        "devices: item 1 {'id': '10de:1bb0', 'slot': '4'}: unknown key \"slot\"; the keys are"
        f" {ALL_KEYS}",
    ),
    "other-id-there": (
        {"devices": "gpu=10de:1bb0@0000:05:00.0"},
        "devices: item 1 gpu=10de:1bb0@0000:05:00.0: 0000:05:00.0 holds 144d:a808, not 10de:1bb0;"
        " correct the id or the address",
    ),
    "twice": (
        {"devices": "a=10de:1bb0, b=10de:1bb0@0000:84:00.0"},
        "devices: item 2 b=10de:1bb0@0000:84:00.0: 0000:84:00.0 is claimed by item 1 (a=10de:1bb0)"
        " too; narrow one of them by address",
    ),
    "ten-thousand": (
        {"devices": "gpu=10de:1bb0@0000:83:00.0\n" * 10_000},
        'devices: item 257 "gpu=10de:1bb0@0000:83:00.0": there are 10000, and at most 256 are'
        " accepted. One item by id alone, or with an address glob such as 0000:8[34]:00.0, covers"
        " many devices",
    ),
    "newline-in-alias": (
        {"devices": '- {id: 10de:1bb0, alias: "a\\nGRUB_DEFAULT=1"}'},
        "devices: item 1 {'alias': 'a\\nGRUB_DEFAULT=1', 'id': '10de:1bb0'}: alias: alias"
        f' "a\\nGRUB_DEFAULT=1" {BAD_ALIAS}',
    ),
    "substitution-in-alias": (
        {"devices": "$(touch${IFS}/etc/x)=10de:1bb0"},
        'devices: item 1 "$(touch${IFS}/etc/x)=10de:1bb0": alias "$(touch${IFS}/etc/x)"'
        f" {BAD_ALIAS}",
    ),
    "quote-in-address": (
        {"devices": "10de:1bb0@0000:83:00.0'"},
        'devices: item 1 "10de:1bb0@0000:83:00.0\'": quotes are no part of an item; write'
        " 10de:1bb0@0000:83:00.0",
    ),
    "path-in-address": (
        {"devices": "10de:1bb0@../../../../etc"},
        'devices: item 1 "10de:1bb0@../../../../etc": address "../../../../etc" is not'
        " [DOMAIN:]BUS:SLOT.FUNCTION in hex, such as 0000:83:00.0 or the glob 0000:8[34]:00.0",
    ),
    "quote-in-trait": (
        {"devices": "- {id: 10de:1bb0, traits: 'A\"B'}"},
        "devices: item 1 {'id': '10de:1bb0', 'traits': 'A\"B'}: traits: \"A\"B\" is not a name of"
        " letters, digits and '_'",
    ),
    "substitution-in-kernel-options": (
        {"kernel-options": "quiet x=$(reboot)"},
        f'kernel-options: item 2 "x=$(reboot)": {BAD_KERNEL_OPTION}',
    ),
    "backticks-in-kernel-options": (
        {"kernel-options": "`reboot`"},
        f'kernel-options: item 1 "`reboot`": {BAD_KERNEL_OPTION}',
    ),
    "quote-in-kernel-options": (
        {"kernel-options": 'x="; reboot; "'},
        f'kernel-options: item 1 "x=";": {BAD_KERNEL_OPTION}',
    ),
    "grub-command-in-kernel-options": (
        {"kernel-options": "x=1;halt"},
        f'kernel-options: item 1 "x=1;halt": {BAD_KERNEL_OPTION}',
    ),
    "systemd-in-kernel-options": (
        {"kernel-options": "systemd.run=/sbin/poweroff"},
        'kernel-options: item 1 "systemd.run=/sbin/poweroff": tells systemd what to do, which'
        " decides what the host boots; leave it out",
    ),
    "root-in-kernel-options": (
        {"kernel-options": "root=/dev/sdb1"},
        'kernel-options: item 1 "root=/dev/sdb1": decides what the host boots; leave it out',
    ),
    "newline-in-drivers": (
        {"blacklist-drivers": "nouveau\ninstall;x"},
        "blacklist-drivers: item 2 \"install;x\": not a module name (letters, digits, '_' and"
        " '-'); write auto, or names such as nouveau,nvidiafb",
    ),
    "vfio-blacklisted": (
        {"blacklist-drivers": "vfio_pci"},
        'blacklist-drivers: item 1 "vfio_pci": the claimed devices need this driver; leave it out',
    ),
    "driver-of-the-disk": (
        {"blacklist-drivers": "nvidiafb,nvme"},
        'blacklist-drivers: item "nvme": 0000:05:00.0 (144d:a808) is on nvme; it is not claimed,'
        " and would lose that at the next boot: leave the name out, or claim that function too",
    ),
    "iommu": ({"iommu": "off\n"}, 'iommu: "off\\n" is not one of auto, manual, off'),
}


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> hosttree.HostTree:
    return hosttree.compute_host(tmp_path_factory.mktemp("host") / "tree")


@pytest.fixture(scope="module")
def box(host: hosttree.HostTree, tmp_path_factory: pytest.TempPathFactory) -> Iterator[hostbox.Box]:
    place = tmp_path_factory.mktemp("box")
    with hostbox.Box(host, place / "box", writable=[place.parent]) as started:
        yield started


@pytest.fixture(scope="module")
def agent(
    box: hostbox.Box, packed_charm: pathlib.Path, tmp_path_factory: pytest.TempPathFactory
) -> standin.Agent:
    """A unit whose option ``devices`` is not set yet."""
    place = tmp_path_factory.mktemp("agent")
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    (place / "python3").symlink_to(pathlib.Path(sys.base_prefix, "bin", version))
    found = standin.Agent(
        place / "units",
        command_prefix=box.command_prefix,
        path_prefix=[os.fspath(place)],
        light_tools=True,
        compiled=True,
    )
    found.deploy(packed_charm, principal="nova-compute/0")
    return found


@pytest.mark.parametrize(("config", "message"), CASES.values(), ids=CASES)
def test_it_is_refused_with_option_item_and_reason_and_no_file_changes(
    agent: standin.Agent,
    box: hostbox.Box,
    host: hosttree.HostTree,
    config: dict[str, str],
    message: str,
):
    box.forget_calls()
    before = host.snapshot(*EVERYWHERE)
    untouched = [
        name for name in ("iommu", "kernel-options", "blacklist-drivers") if name not in config
    ]
    agent.config({"devices": GPUS, **config}, reset=untouched)
    assert str(agent.status()) == f"blocked: {message}"
    assert host.snapshot(*EVERYWHERE) == before
    assert box.calls() == []


def test_an_action_is_refused_with_the_same_words(agent: standin.Agent):
    config, message = CASES["substitution-in-kernel-options"]
    agent.config({"devices": GPUS, **config}, reset=["iommu", "blacklist-drivers"])
    for action in ("plan", "verify", "rebind"):
        result = agent.action(action)
        assert (result.failed, result.message, result.results) == (True, message, {})
    assert not agent.action("list-devices").failed


def test_after_all_of_that_a_good_configuration_works(agent: standin.Agent, box: hostbox.Box):
    agent.config({"devices": GPUS}, reset=["iommu", "kernel-options", "blacklist-drivers"])
    assert agent.status().message.startswith("reboot required: ")
    box.reboot()
    agent.rebooted()
    assert str(agent.status()) == "active: gpu: 2 ready"


def test_a_mistake_later_on_leaves_what_works_alone(
    agent: standin.Agent, box: hostbox.Box, host: hosttree.HostTree
):
    box.forget_calls()
    before = host.snapshot(*EVERYWHERE)
    agent.config({"devices": "gpu=10de:zzzz"})
    assert str(agent.status()) == f"blocked: {CASES['id'][1]}"
    assert host.snapshot(*EVERYWHERE) == before
    assert box.calls() == []
    agent.config({"devices": GPUS})
    assert str(agent.status()) == "active: gpu: 2 ready"
    assert host.snapshot(*EVERYWHERE) == before


def test_no_mistake_stops_the_removal(agent: standin.Agent, host: hosttree.HostTree):
    agent.config({"devices": "$(reboot)"})
    agent.remove()
    assert not [path for path in host.snapshot("etc", "var/lib") if "pci-passthrough" in path]
    assert host.driver_of("0000:83:00.0") == "nouveau"
