"""The man page and the completions are as the command line is, and work where they are read."""

from __future__ import annotations

import pathlib
import re
import subprocess

import manual
import pytest

from passthrough import cli

BASH = manual.SHARE / "bash-completion/completions/pci-passthrough"
MAN = manual.SHARE / "man/man8/pci-passthrough.8"


def test_they_are_as_the_command_line_is():
    assert list(manual.find_outdated()) == [], "make reference"


def test_one_that_is_not_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path):
    (tmp_path / "there").write_text("else")
    found = {tmp_path / "there": "this", tmp_path / "not-there": "that"}
    monkeypatch.setattr(manual, "render", lambda: found)
    assert list(manual.find_outdated()) == list(found)


def complete(*words: str, folder: pathlib.Path | None = None) -> list[str]:
    """What bash offers for the last of the words."""
    script = (
        'source "$1"; shift; COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1));'
        ' _shtab_pci_passthrough; printf "%s\\n" "${COMPREPLY[@]}"'
    )
    done = subprocess.run(
        ["bash", "-c", script, "bash", BASH, "pci-passthrough", *words],
        cwd=folder, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stderr == ""
    return done.stdout.split()


def test_bash_completes_commands_and_options(tmp_path: pathlib.Path):
    assert complete("") == ["list", "plan", "verify"]
    assert complete("ver") == ["verify"]
    assert "--version" in complete("--")
    assert complete("plan", "--host") == ["--host-exceptions"]
    assert complete("list", "--dev") == []
    (tmp_path / "copy").mkdir()
    (tmp_path / "copy.txt").write_text("")
    assert complete("list", "--root", "co", folder=tmp_path) == ["copy"]


def test_bash_uses_it_for_the_program_wherever_it_lies():
    last = BASH.read_text().splitlines()[-1]
    assert re.fullmatch("complete .*-F _shtab_pci_passthrough pci-passthrough", last)


def test_the_man_page_names_every_option_command_and_exit_code():
    page = MAN.read_text().replace("\\-", "-").replace("\\fB", "").replace("\\fR", "")
    parser = cli.parser()
    commands = manual._commands(parser)
    options = {
        string
        for each in (parser, *commands.values())
        for action in each._actions
        for string in action.option_strings
    }
    assert {each for each in options if each not in page} == set()
    for command in commands:
        assert f"\n.B {command}\n" in page
    codes = {value for name, value in vars(cli).items() if name.startswith("EXIT_")}
    for code in (0, *codes):
        assert f"\n.B {code}\n" in page


def test_the_man_page_is_clean_roff():
    """No line begins with a mark that groff takes for a request of its own."""
    for line in MAN.read_text().splitlines():
        if line.startswith((".", "'")):
            assert re.match(r'\.(\\"|TH|SH|SS|TP|B|BR|br)( |$|")', line), line
