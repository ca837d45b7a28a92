"""What a shell makes of a file of settings, compared with bash itself.

bash reads files of assignments that Hypothesis makes up: no letter of their alphabet spells a
builtin that does anything, and there is no program on its PATH.
"""

from __future__ import annotations

import pathlib
import shutil
import subprocess
import tempfile

import hypothesis
import pytest
from hypothesis import strategies

from passthrough.host import shell_settings

NAMES = ("GRUB_CMDLINE_LINUX", "GRUB_CMDLINE_LINUX_DEFAULT", "A")
BASH = shutil.which("bash")

# Sources $1 and prints what it holds then: each name's value, or nothing where it is not set.
_PROGRAM = """
set -f
. "$1" >/dev/null 2>"$1.err"
for each in GRUB_CMDLINE_LINUX GRUB_CMDLINE_LINUX_DEFAULT A; do
    printf '%s\\0' "${!each-}"
done
"""


def ask_bash(texts: list[str]) -> list[tuple[tuple[str, ...], str]]:
    """What bash holds after each of the texts, and what it said of an error."""
    assert BASH
    with tempfile.TemporaryDirectory() as directory:
        answers: list[tuple[tuple[str, ...], str]] = []
        for number, text in enumerate(texts):
            path = pathlib.Path(directory, str(number))
            path.write_text(text)
            done = subprocess.run(
                [BASH, "--norc", "--noprofile", "-c", _PROGRAM, "bash", path],
                capture_output=True,
                text=True,
                env={"PATH": directory + "/none", "LC_ALL": "C.UTF-8"},
                check=False,
                timeout=60,
            )
            said = pathlib.Path(f"{path}.err").read_text()
            answers.append((tuple(done.stdout.split("\0")[: len(NAMES)]), said))
        return answers


def ask_us(text: str) -> tuple[str | None, ...]:
    found = shell_settings.source(text)
    return tuple(map(found.value, NAMES))


_WORDS = strategies.sampled_from(
    ["quiet", "iommu=pt", "intel_iommu=on,sm_on", "vfio-pci.ids=10de:1bb0", "a.b=/c:%d@+-"]
)
_NAME = strategies.sampled_from(NAMES)
_REFERENCE = strategies.one_of(
    _NAME.map(lambda name: f"${name}"),
    _NAME.map(lambda name: f"${{{name}}}"),
    strategies.tuples(
        _NAME, strategies.sampled_from([":-", "-", ":+", "+", ":=", "="]), _WORDS
    ).map(lambda each: f"${{{each[0]}{each[1]}{each[2]}}}"),
)
_QUOTED = strategies.lists(
    strategies.one_of(
        _WORDS,
        _REFERENCE,
        strategies.sampled_from([" ", "  ", "\t", "\\\n", "\n", "#", "'", ";", "&", '\\"', "\\$"]),
        strategies.sampled_from(["\\\\", "\\a", "(", ")", "}", "|", "~", "*"]),
    ),
    max_size=6,
).map(lambda parts: '"' + "".join(parts) + '"')
_SINGLE = strategies.lists(
    strategies.one_of(_WORDS, strategies.sampled_from([" ", "\\", '"', "$A", "\n", "#", "\\\n"])),
    max_size=4,
).map(lambda parts: "'" + "".join(parts) + "'")
_BARE = strategies.lists(
    strategies.one_of(
        _WORDS, _REFERENCE, strategies.sampled_from(["\\ ", "\\\n", "\\#", "\\'", "x#"])
    ),
    max_size=3,
).map("".join)
_VALUE = strategies.lists(strategies.one_of(_QUOTED, _SINGLE, _BARE), max_size=3).map("".join)
_ASSIGNMENT = strategies.tuples(
    strategies.sampled_from(["", "", "export ", "  "]),
    _NAME,
    strategies.sampled_from(["=", "=", "+="]),
    _VALUE,
).map("".join)
_LINE = strategies.one_of(
    _ASSIGNMENT,
    _ASSIGNMENT,
    strategies.tuples(_ASSIGNMENT, _ASSIGNMENT).map("; ".join),
    strategies.tuples(_ASSIGNMENT, _ASSIGNMENT).map(" && ".join),
    strategies.tuples(_ASSIGNMENT, _ASSIGNMENT)
    .map(" ".join)
    .filter(lambda each: "export" not in each),
    _NAME.map(lambda name: f"unset {name}"),
    _ASSIGNMENT.map(lambda each: "# " + each.replace("\n", " ")),
    _ASSIGNMENT.map(lambda each: f"{each} # A=1"),
    _ASSIGNMENT.map(lambda each: f"({each})"),
    _ASSIGNMENT.map(lambda each: f"{{ {each}\n}}"),
    strategies.just(""),
)
_FILE = strategies.lists(_LINE, max_size=6).map(lambda lines: "\n".join(lines) + "\n")


@pytest.mark.skipif(not BASH, reason="compares with bash")
@hypothesis.given(strategies.lists(_FILE, min_size=1, max_size=8))
@hypothesis.settings(max_examples=25, deadline=None)
def test_assignments_are_read_as_bash_reads_them(texts: list[str]):
    for text, (values, said) in zip(texts, ask_bash(texts), strict=True):
        if not said:
            assert ask_us(text) == values, text


@pytest.mark.skipif(not BASH, reason="compares with bash")
@hypothesis.given(
    strategies.lists(
        strategies.text(alphabet='AAA===+++""\'\\\\\n\n  ;;#${}()&|xy:-', max_size=40),
        min_size=1,
        max_size=8,
    )
)
@hypothesis.settings(max_examples=40, deadline=None)
def test_whatever_else_is_read_as_bash_reads_it_or_is_not_known(texts: list[str]):
    for text, (values, said) in zip(texts, ask_bash(texts), strict=True):
        if said:
            continue  # bash gives up somewhere, and so does update-grub
        for ours, theirs in zip(ask_us(text), values, strict=True):
            assert ours in (None, theirs), text


_CHOICE = strategies.sampled_from(
    [
        "if [ -n \"$A\" ]; then {}; fi",
        "if [ x = x ]; then {}; else {}; fi",
        "[ -z \"$A\" ] && {}",
        "[ -z \"$A\" ] || {}",
        "case $A in a) {};; *) {};; esac",
        "for each in a b; do {}; done",
        "f() {{ {}; }}",
        "f() {{\n{}\n}}\nf",
        "A=$(A=a; echo $A) {}",
        "true | {}",
        "eval '{}'",
        "echo {}",
        "echo <<x\n{}\nx\n{}",
        "A=1 [ x = y ]; {}",
        "A=1 :; {}",
        "f() {{ {}; }}; f() {{ {}; }}; f",
        ": ${{A:=a}} ${{A=b}}; {}",
        "command export {}; \"export\" {}",
        "A=~; {}",
    ]
)  # fmt: skip
_PLAIN = strategies.tuples(_NAME, strategies.sampled_from(["=", "+="]), _WORDS).map("".join)


@pytest.mark.skipif(not BASH, reason="compares with bash")
@hypothesis.given(
    strategies.lists(
        strategies.lists(
            strategies.tuples(_CHOICE, _PLAIN, _PLAIN).map(lambda each: each[0].format(*each[1:]))
            | _PLAIN,
            max_size=4,
        ).map("\n".join),
        min_size=1,
        max_size=8,
    )
)
@hypothesis.settings(max_examples=25, deadline=None)
def test_what_only_a_run_tells_is_not_known_or_right(texts: list[str]):
    for text, (values, _) in zip(texts, ask_bash(texts), strict=True):
        for ours, theirs in zip(ask_us(text), values, strict=True):
            assert ours in (None, theirs), text


@hypothesis.given(strategies.text(alphabet="A=+\"'\\\n ;#${}()&|`<>:-eéif", max_size=200))
def test_any_text_is_read_without_a_crash(text: str):
    shell_settings.source(text)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("A=quiet", "quiet"),
        ('A="quiet splash"', "quiet splash"),
        ('A="a \\\n  b"\n', "a   b"),
        ("A='a \\\n b'\n", "a \\\n b"),
        ('A=a\nA+=" b"\n', "a b"),
        ('export A="a"\n', "a"),
        ("A=a; A=$A,b # A=c", "a,b"),
        ('B=x; A="${B:-y} ${C:-z}"', "x z"),
        ("A=a\nif [ -e /x ]; then A=b; fi\n", None),
        ("A=a\n[ -e /x ] && A=b\n", None),
        ("A=a\n[ -e /x ] && A=a\n", "a"),
        ("A=`cat /x`\n", None),
        ("A=$(cat /x)\n", None),
        ("A=a\n(A=b)\n", "a"),
        ("A=a\nA=b cat\n", "a"),
        ("A=a\n. /etc/x\n", None),
        ("A=a\nexit 0\nA=b\n", "a"),
        ("A=a\ncat <<x\nA=b\nx\n", "a"),
        ("f() {\nA=b\n}\nA=a\n", "a"),
        ("A=a\nfor A in b; do :; done\n", None),
        ("A=a\nunset A\n", ""),
        ('A="a', None),
        ("A=$'a'", None),
        ("A=$0", None),
        ("A=${B%x}", None),
        ("A=${B:-$C}x", "x"),
        ('A=$"a b"', "a b"),
        ("A=$(echo \\) 'b)'", None),
        ("A=a\nif x; then unset A; fi\n", None),
        ("if x; then unset A; fi\n", ""),
        ("eval x\nunset A\n", ""),
        ("eval x\nA=${B:-b}\n", None),
        ("eval x\nA=a\n", "a"),
        ("A=a\nunset -v\nunset 1x\n", "a"),
        ("A=a\ncat <<-x\nA=b\n\tx\nA+=c", "ac"),
        ("A=a\ncat <<x\nA=b\n", "a"),
        ("A=a 2>/dev/null\n", "a"),
        ("A=a :\n", None),  # a in sh, nothing in bash
        ("A=a\nA=b export B=x\n", None),
        ("A=a\nA=b $B\n", "a"),
        ('A=a\n"export" A=b\n', "b"),
        ("A=a\n\\export A=b\n", "b"),
        ("A=a\ncommand export A=b\n", "b"),
        ("B=A\nexport $B=b\n", None),
        ("A=~/x\n", None),
        ("A='~/x'\n", "~/x"),
        (": ${A:=b}\n", "b"),
        ("A=a\n: ${A:=b}\n", "a"),
        ("x && : ${A:=b}\n", None),
        ("eval x\n: ${A=b}\n", None),
        ("A=a\nf() {\nA=b\n}\n", "a"),
        ("A=a\nf() {\nA=b\n}\nf c\n", None),
        ("A=a\nf() {\ng() {\nA=b\n}\nA=c\n}\nf\n", None),
    ],
)
def test_the_shapes_of_an_assignment(text: str, value: str | None):
    assert shell_settings.source(text).value("A") == value


def test_an_assignment_knows_its_lines_its_text_and_what_it_mentions():
    text = '# first\nA="a \\\n$B \\\nc"; C=1\n'
    before = shell_settings.Sourced({"B": "b"})
    first, second = shell_settings.source(text, before).assignments
    assert first == shell_settings.Assignment(
        "A", range(2, 5), "a b c", ("a ", " c"), frozenset({"B"})
    )
    assert (second.name, second.lines, second.value) == ("C", range(4, 5), "1")
