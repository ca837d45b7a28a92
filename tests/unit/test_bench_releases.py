"""The benchmark of a release gives back what it says, and asks as often as it says."""

from __future__ import annotations

import pathlib

import pytest

from bench import busy, crowds, releases
from passthrough.host import pci

SIZE = crowds.Size(processes=6, files=5)


@pytest.mark.parametrize(("has_own_nodes", "passes"), [(False, 0), (True, 2)])
def test_a_release_can_be_made_again(tmp_path: pathlib.Path, has_own_nodes: bool, passes: int):
    host = releases.Host(tmp_path, SIZE, has_own_nodes=has_own_nodes)
    for _ in range(2):
        with busy.counted() as listed:
            run = host.release()
        assert run.cpu > 0
        assert len(listed) == passes * SIZE.processes
        drivers = {pci.driver_of(tmp_path, each) for each in host.addresses}
        assert drivers == {pci.VFIO_PCI}
    assert len(host.addresses) == 8


def test_the_goal_is_about_the_busy_host_alone():
    (groups, own) = releases.compare(1, lambda text: None, SIZE)
    assert (groups.goal, own.goal) == (None, None)
    assert groups.name.startswith("release of 8 functions, 30 open files, groups alone / ")
