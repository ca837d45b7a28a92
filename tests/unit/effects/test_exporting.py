"""The exporter comes with its files, and every kill on either way is made up for."""

from __future__ import annotations

import functools
from collections.abc import Callable

import pytest
from harness import killing
from harness.world import World

from passthrough.effects import exporting
from passthrough.host import exporter_files, watch
from passthrough.planning.exporting import Listen
from passthrough.state import look, record
from passthrough.system import commands, lock

APP = "pci-passthrough"
NAME = exporter_files.unit_name(APP)
HERE, EVERYWHERE = Listen(10285), Listen(10285, "192.0.2.7")


def install(world: World, listen: Listen = HERE) -> None:
    with lock.hold(world.root, "a test"), world.ledger() as ledger:
        exporting.install(ledger, listen, world.tools)


def remove(world: World) -> None:
    with lock.hold(world.root, "a test"), world.ledger() as ledger:
        exporting.remove(ledger, world.tools)


def files(world: World) -> list[bool]:
    return [(world.root / path).exists() for path in exporter_files.owned_files(APP)]


def test_it_comes_and_goes_whole(world: World):
    before = world.tree.snapshot("etc", "var/lib", "run")
    install(world)
    look.write(world.site, look.Look())
    assert all(files(world))
    assert exporter_files.is_installed(world.root, APP)
    assert world.tools.sockets == {NAME}
    remove(world)
    after = world.tree.snapshot("etc", "var/lib", "run")
    added = set(after) - set(before)
    assert {path for path in added if "lock" not in path} == set()
    assert world.tools.sockets == set()
    assert world.record().is_empty


def test_what_listens_already_is_left_alone(world: World):
    install(world)
    install(world)
    assert world.tools.calls.count(f"listen {NAME}") == 1
    install(world, EVERYWHERE)
    assert world.tools.calls.count(f"listen {NAME}") == 2
    assert "ListenStream=192.0.2.7:10285\n" in world.tree.read(exporter_files.socket_path(APP))


def test_another_file_is_put_right(world: World):
    install(world)
    world.tree.write(exporter_files.service_path(APP), "[Service]\nExecStart=/bin/false\n")
    install(world)
    assert "DynamicUser=yes" in world.tree.read(exporter_files.service_path(APP))
    assert world.tools.calls.count(f"listen {NAME}") == 2


def test_a_socket_that_does_not_listen_is_tried_again(world: World):
    world.tools.failing["socket"] = "Address already in use"
    with pytest.raises(commands.CommandError, match="already in use"):
        install(world)
    assert world.record().exporter == record.NOT_LISTENING
    world.tools.failing.clear()
    install(world)
    assert world.record().exporter not in ("", record.NOT_LISTENING)


def test_a_socket_that_does_not_stop_ends_with_the_boot(
    world: World, caplog: pytest.LogCaptureFixture
):
    install(world)
    world.tools.failing["socket"] = "no answer"
    remove(world)
    assert not any(files(world))
    assert world.record().is_empty
    assert "ends with this boot" in caplog.text


def test_where_there_is_none_systemd_is_not_asked(world: World):
    world.tools.failing["socket"] = "nobody asks"
    remove(world)
    assert not (world.root / watch.BOOT).exists()


@pytest.mark.parametrize("job", [install, remove])
def test_every_kill_is_made_up_for(world: World, job: Callable[[World], None]):
    """Whatever a kill leaves, the record names it, and the next run brings all or nothing."""
    number, killed = 0, True
    while killed:
        number += 1
        install(world)
        if job is install:
            remove(world)
        killed = killing.run_killed(
            number, world.kernel, world.tools, functools.partial(job, world)
        )
        left = any(files(world))
        assert not left or world.record().exporter, f"kill {number}: nobody would take it away"
        if job is install:
            install(world)
            assert all(files(world)), f"kill {number}"
        remove(world)
        assert not any(files(world)), f"kill {number}"
        assert world.record().is_empty, f"kill {number}"
    assert number > 5
