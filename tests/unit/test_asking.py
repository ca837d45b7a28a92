"""Hook tools that are asked without ops: an answer, or none."""

from __future__ import annotations

import pathlib

import pytest

import asking


@pytest.mark.parametrize(
    ("script", "answer"),
    [
        ("""echo '{"devices":"","reboot":"never"}'""", {"devices": "", "reboot": "never"}),
        ("echo '[\"juju-info:0\"]'", ["juju-info:0"]),
        ("echo null", None),
        ("exit 0", None),
        ("echo '{'", None),
        ("echo '{}'; exit 1", None),
        ("echo 'WARNING old' >&2; echo '{}'", None),
    ],
)
def test_an_answer_is_json(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, script: str, answer: object
):
    tool = tmp_path / "config-get"
    tool.write_text(f"#!/bin/sh\n{script}\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    assert asking.ask("config-get", "--format=json") == answer


def test_a_tool_that_is_not_there_gives_no_answer():
    assert asking.ask("no-such-tool-of-juju") is None
