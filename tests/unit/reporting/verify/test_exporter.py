"""The check of the exporter of metrics: whether it is there as asked for, and answers."""

from __future__ import annotations

import contextlib
import dataclasses
import socket
import threading
from collections.abc import Iterator

import pytest
from harness.unit import Unit

from passthrough.host import exporter_files
from passthrough.reporting.verify import evidence
from passthrough.reporting.verify import host as host_checks
from passthrough.state import record
from passthrough.system import http_get

APP = "pci-passthrough"
ALL = " ".join(f"/{path}" for path in exporter_files.owned_files(APP))


@pytest.fixture
def on(ready_unit: Unit) -> Unit:
    """A unit whose option asks for metrics."""
    ready_unit.run("config_changed", metrics=True)
    return ready_unit


def shown(unit: Unit) -> str:
    return unit.world.shown("exporter")


def test_it_is_there(on: Unit):
    assert shown(on) == "ok: listens on port 10285"


def test_where_nobody_asks_for_it_there_is_no_check(ready_unit: Unit):
    assert "exporter" not in ready_unit.world.checks()


def test_it_is_off_although_the_option_asks_for_it(on: Unit):
    with on.world.ledger() as ledger:
        ledger.update(exporter="")
    for path in exporter_files.owned_files(APP):
        (on.world.root / path).unlink()
    said = "fail: the option metrics asks for it, and it is off -> run the action reconcile"
    assert shown(on) == said


def test_it_is_there_although_it_is_off(on: Unit):
    with on.world.ledger() as ledger:
        ledger.update(exporter="")
    assert shown(on) == f"fail: is off, and {ALL} is there -> run the action reconcile"
    on.run("config_changed", metrics=False)
    assert "exporter" not in on.world.checks()


def test_a_file_is_gone(on: Unit):
    path = exporter_files.service_path(APP)
    (on.world.root / path).unlink()
    assert shown(on) == f"fail: lacks /{path} -> run the action reconcile"
    on.run("config_changed")
    assert shown(on).startswith("ok: ")


def test_a_file_is_another(on: Unit):
    on.world.tree.write(exporter_files.service_path(APP), "[Service]\n")
    assert shown(on) == f"fail: somebody has changed {ALL} -> run the action reconcile"


def test_systemd_does_not_listen(on: Unit):
    with on.world.ledger() as ledger:
        ledger.update(exporter=record.NOT_LISTENING)
    assert shown(on) == (
        "fail: systemd does not listen for it -> run the action reconcile; if it stays so, see"
        " systemctl status pci-passthrough-exporter.socket"
    )


@pytest.mark.parametrize(
    ("problem", "said"),
    [
        ("", "answers on port 10285"),
        ("Connection refused", "does not answer on port 10285: Connection refused"),
    ],
)
def test_of_this_host_it_is_asked(on: Unit, problem: str, said: str):
    decision = on.world.decide()
    seen = evidence.read(decision, keep=False)
    asked = dataclasses.replace(seen.exporter, problem=problem)
    (check,) = host_checks._exporter(decision, dataclasses.replace(seen, exporter=asked))
    assert (check.status, check.seen) == ("fail" if problem else "ok", said)


def test_options_that_nobody_may_read_ask_for_none(
    ready_unit: Unit, monkeypatch: pytest.MonkeyPatch
):
    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(evidence.settled, "kept_options", refuse)
    assert "exporter" not in ready_unit.world.checks()


@contextlib.contextmanager
def answering(*parts: bytes) -> Iterator[int]:
    """Listen on a port, and send these bytes to whoever comes."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def run() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(4096)
                for each in parts:
                    connection.sendall(each)

        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        yield listener.getsockname()[1]
        thread.join(5)


@pytest.mark.parametrize(
    ("answer", "problem"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", ""),
        (b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n", "404 Not Found"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nok", "its answer ends early"),
        (b"SSH-2.0-OpenSSH_9.6\r\n", "SSH-2.0-OpenSSH_9.6"),
        (b"", "Remote end closed connection"),
    ],
)
def test_what_answers_is_told_from_what_does_not(answer: bytes, problem: str):
    with answering(answer) as port:
        found = http_get.find_problem("127.0.0.1", port, "/metrics", 5.0)
    assert found.startswith(problem)
    assert bool(found) == bool(problem)


def test_nobody_listens():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    assert "refused" in http_get.find_problem("127.0.0.1", port, "/metrics", 5.0)


def test_who_never_answers_is_not_waited_for():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        found = http_get.find_problem("127.0.0.1", listener.getsockname()[1], "/metrics", 0.1)
    assert found == "timed out"
