"""No sentence is taken apart: what it is made of stands beside it, see `problem` and `errors`."""

from __future__ import annotations

import ast
import pathlib
import re
from collections.abc import Iterator

import pytest

SOURCE = pathlib.Path(__file__).resolve().parents[2] / "src"
FILES = sorted(SOURCE.rglob("*.py"))

# What our sentences are joined with: a fact with its way out, a place with a fact.
JOINTS = ("; ", ": ", ". ")
# Every way that looks for a piece of text in another one in order to go on with a part of it.
TAKES_APART = re.compile(
    r"(.+\.)?(partition|rpartition|split|rsplit|removeprefix|removesuffix|find|rfind|index|rindex)"
)
# What gives a sentence, or text for one; no index into that means anything.
SAYS = re.compile(r"str|repr|(.+\.)?(show|bare|plain|sentence|fact|way_out|reason|refusal)")
# Formats of others that have one of our joints, and where each is read.
FOREIGN = {("passthrough/nova/release.py", "line.split(': ', 1)")}  # deb822, of dpkg's status


def text_of(node: ast.AST) -> str:
    """The text of a literal, also of one with something put in; else nothing."""
    parts = node.values if isinstance(node, ast.JoinedStr) else [node]
    return "".join(
        str(part.value) if isinstance(part, ast.Constant) and isinstance(part.value, str) else "…"
        for part in parts
    )


def looks_for_a_joint(node: ast.AST) -> bool:
    return (
        isinstance(node, ast.Call)
        and TAKES_APART.fullmatch(ast.unparse(node.func)) is not None
        and any(joint in text_of(argument) for argument in node.args for joint in JOINTS)
    )


def cuts_a_sentence(node: ast.AST) -> bool:
    return (
        isinstance(node, ast.Subscript)
        and isinstance(node.value, ast.Call)
        and SAYS.fullmatch(ast.unparse(node.value.func)) is not None
    )


def taken_apart(tree: ast.AST) -> Iterator[str]:
    """Every expression that takes a sentence apart, as it is written."""
    for node in ast.walk(tree):
        if looks_for_a_joint(node) or cuts_a_sentence(node):
            yield ast.unparse(node)


@pytest.mark.parametrize(
    "code",
    [
        "reason.partition('; ')[0]",
        "survey.plan.grub_problem.partition(': ')",
        "str(error).removeprefix(f'{address}: ')",
        "re.split('; |: ', message)",
        "message[message.index('; '):]",
        "text.rsplit('. ', 1)",
        "quoting.show(program)[1:-1]",
        "str(refusal)[10:]",
        "words.sentence(problem)[:80]",
    ],
)
def test_a_sentence_that_is_taken_apart_is_found(code: str):
    assert list(taken_apart(ast.parse(code)))


@pytest.mark.parametrize(
    "code",
    [
        "'; '.join(reasons)",
        "path.partition('/')",
        "line.split(':')",
        "str(error)",
        "words.fact(problem)",
        "links(path)[0]",
        "_read(root / f'proc/{process}/stat').rpartition(')')",
    ],
)
def test_what_joins_or_reads_a_format_is_none(code: str):
    assert not list(taken_apart(ast.parse(code)))


def test_no_module_takes_a_sentence_apart():
    found = {
        (str(path.relative_to(SOURCE)), code)
        for path in FILES
        for code in taken_apart(ast.parse(path.read_text(encoding="utf-8")))
    }
    assert found == FOREIGN
