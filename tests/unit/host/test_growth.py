"""On a larger host nothing that is there once is read more often: counts, not times."""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import ItemsView
from pathlib import Path

import pytest
from harness import reads

from bench import busy, crowds
from passthrough.host import disks, pci
from passthrough.host.uses import kinds, network
from passthrough.system import namespaces, procfs

SMALL = crowds.Size(processes=4, files=10, interfaces=8, disks=8, namespaces=2)


def read_by(place: Path, size: crowds.Size) -> collections.Counter[str]:
    """What one look reads of a host of that size, each path with how often."""
    crowds.write(place, size)
    with reads.noted() as seen:
        busy.look(place)
    return collections.Counter(each.removeprefix(f"{place}/") for each in seen)


@pytest.mark.parametrize(
    "more",
    [
        {"processes": 12},
        {"processes": 12, "namespaces": 12},
        {"files": 30},
        {"interfaces": 18},
        {"disks": 18},
        {"functions": 192},
    ],
    ids=str,
)
def test_what_both_have_is_read_as_often(tmp_path: Path, more: dict[str, int]):
    small = read_by(tmp_path / "small", SMALL)
    large = read_by(tmp_path / "large", dataclasses.replace(SMALL, **more))
    assert len(large) > len(small)
    often = {path: (small[path], large[path]) for path in small if large[path] > small[path]}
    assert often == {}


def test_addresses_and_connections_are_read_once_for_all_interfaces(tmp_path: Path):
    seen = read_by(tmp_path, crowds.Size(interfaces=40))
    assert (seen["proc/net/if_inet6"], seen["proc/net/tcp6"]) == (2, 2)  # hook, and `list`


class Labels(collections.UserDict[str, str]):
    """Names of volumes, which count how often all of them are walked."""

    walks = 0

    def items(self) -> ItemsView[str, str]:
        """Count, and give them."""
        self.walks += 1
        return super().items()


def test_volumes_are_found_by_their_names_without_a_walk_each(tmp_path: Path):
    names = [f"dm-{number}" for number in range(50)]
    labels = Labels({name: f"group-{name}" for name in names})
    known = disks.Disks(dict.fromkeys(names, frozenset()), {}, {}, {}, labels)
    for name in names:
        assert list(known.named(tmp_path, f"/dev/mapper/group-{name}")) == [name]
    assert labels.walks == 1


class Uppers(tuple[namespaces.Upper, ...]):
    """Interfaces of other namespaces, which count how often all of them are walked."""

    __slots__ = ()
    walks = 0

    def __iter__(self):
        """Count, and give them."""
        type(self).walks += 1
        return super().__iter__()


def test_what_stands_on_interfaces_elsewhere_is_walked_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    crowds.write(tmp_path, crowds.Size(interfaces=40))
    told = namespaces.Interfaces(uppers=Uppers([namespaces.Upper("eth0", 2)]))
    monkeypatch.setattr(procfs.Processes, "interfaces", told)
    unseen = network.Unseen(tmp_path, procfs.Processes.none())
    functions = pci.read(tmp_path).functions.values()
    found = [use for each in functions for use in unseen.of(each)]
    what = "port0 carries eth0 in another network namespace"
    assert found.count(kinds.Use(kinds.Kind.PORT, what)) >= 1
    assert Uppers.walks == 1
