"""What a shell that sources a file of settings holds afterwards, such as /etc/default/grub.

Reads the text and runs nothing. Source: the Shell Command Language of POSIX, chapter 2, and
bash(1) for ``+=``. What only a run would tell, such as the output of a command or what stands in an
``if``, makes the variables that it reaches unknown.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from typing import NamedTuple

_NAME = re.compile(r"[A-Za-z_]\w*", re.ASCII)
_ASSIGNED = re.compile(r"([A-Za-z_]\w*)(\+?)=", re.ASCII)
_SPECIAL = "0123456789@*#?-$!"
_BLANKS, _ENDS = " \t", " \t\n;&|()<>"
# Builtins that assign what stands in their arguments.
_DECLARING = ("export", "readonly", "declare", "typeset", "local")
# Builtins after which nobody knows what a variable holds without running them.
_RUNNING = ("eval", ".", "source", "read", "mapfile", "readarray", "getopts", "printf", "let")
# POSIX's special built-ins (2.14): an assignment in front of one outlives it in sh, and not in
# bash, so it is not known. "" is no command.
_SPECIAL_BUILTINS = (
    "", ":", ".", "break", "continue", "eval", "exec", "exit", "export", "readonly", "return",
    "set", "shift", "times", "trap", "unset",
)  # fmt: skip
_PREFIXES = ("", "command", "builtin")  # the command's name comes after them
_NOT_KNOWN = "?"
_NAMING = ("for", "select", "case")  # a variable or a word follows
_OPENING = ("if", "while", "until", *_NAMING)
_CLOSING = ("fi", "done", "esac")
_RESERVED = (*_OPENING, *_CLOSING, "then", "elif", "else", "do", "!", "{", "}")


class Assignment(NamedTuple):
    """One assignment, in the order of the file.

    Attributes:
        name: the variable.
        lines: the numbers of its lines, from 1.
        value: what the variable holds then; None where only a run would tell.
        literals: the stretches of its text that are no expansion.
        mentions: the variables that its text mentions.
        appends: whether it was made by ``+=``.
    """

    name: str
    lines: range
    value: str | None
    literals: tuple[str, ...] = ()
    mentions: frozenset[str] = frozenset()
    appends: bool = False


@dataclasses.dataclass(frozen=True)
class Sourced:
    """What a shell makes of a file.

    Attributes:
        variables: what each variable holds in the end; None where only a run would tell.
        assignments: in the order of the file; an ``unset`` is one of no text.
        is_open: whether the file runs what may have set any other variable.
    """

    variables: Mapping[str, str | None] = dataclasses.field(default_factory=dict[str, "str | None"])
    assignments: tuple[Assignment, ...] = ()
    is_open: bool = False

    def value(self, name: str) -> str | None:
        """What a variable holds, nothing where it is not set; None where only a run would tell."""
        return self.variables.get(name, None if self.is_open else "")


def source(text: str, before: Sourced | None = None) -> Sourced:
    """Work out what a shell holds that has sourced a file.

    Args:
        text: the file's.
        before: what the shell held before.
    """
    reader = _Reader(text, before or Sourced())
    reader.run()
    return Sourced(reader.variables, tuple(reader.assignments), reader.is_open)


class _Part(NamedTuple):
    """A part of a word: text, or the expansion of a variable, or what only a run would tell."""

    text: str = ""
    is_quoted: bool = False
    name: str = ""
    operator: str = ""
    operand: tuple[_Part, ...] = ()
    is_opaque: bool = False


class _Word(NamedTuple):
    parts: tuple[_Part, ...]
    lines: range
    is_whole: bool = True

    @property
    def plain(self) -> str:
        """The word where it holds no quotes and no expansion; empty otherwise."""
        if any(part.is_quoted or part.name or part.is_opaque for part in self.parts):
            return ""
        return "".join(part.text for part in self.parts)


@dataclasses.dataclass
class _Command:
    """A simple command while it is read, and where it stands.

    Attributes:
        words: its words up to here.
        enclosing: what it stands in: reserved words; ``(`` for another shell; a ``function``, of
            which ``()`` is the head.
        is_optional: whether the command before it decides whether it runs.
        is_piped: whether it reads from the command before it, in another shell.
    """

    words: list[_Word] = dataclasses.field(default_factory=list["_Word"])
    enclosing: list[str] = dataclasses.field(default_factory=list[str])
    is_optional: bool = False
    is_piped: bool = False


class _Reader:
    """Reads one file from its beginning to its end."""

    def __init__(self, text: str, before: Sourced):
        self.variables = dict(before.variables)
        self.is_open = before.is_open
        self.assignments: list[Assignment] = []
        self._text = text
        self._at = 0
        self._is_whole = True
        self._here: list[str] = []  # the words that end here-documents to come
        self._function = ""  # the last one that was defined

    def run(self) -> None:
        """Read all of it."""
        now = _Command()
        while True:
            operator = self._operator()
            if not operator and self._at < len(self._text):
                self._take(now, self._word())
            elif operator in ("<", ">"):
                self._redirect()
            else:
                self._end(now, operator)
                if not operator:
                    return

    def _take(self, now: _Command, word: _Word) -> None:
        """Take a word into the command, unless it is a reserved one or a redirection's number."""
        plain = word.plain
        if plain.isdecimal() and self._peek() in tuple("<>"):
            return
        if not now.words and plain in _RESERVED:
            if plain in _OPENING:
                now.enclosing.append(plain)
            ends = ("function",) if plain == "}" else _OPENING if plain in _CLOSING else ()
            if now.enclosing and now.enclosing[-1] in ends:
                now.enclosing.pop()
            if plain not in _NAMING:
                return
        now.words.append(word)

    def _end(self, now: _Command, operator: str) -> None:
        """Do what the command does; ``operator`` is what ends it, empty at the file's end."""
        if operator == "(" and len(now.words) == 1:
            now.enclosing.append("()")
            # Of one within another it is not told apart which runs.
            self._function = "" if "function" in now.enclosing else now.words[0].plain
            now.words = []
            return
        piped = now.is_piped or operator in ("|", "&")
        idle = "function" in now.enclosing and not self._is_called(self._function)
        if not (piped or idle or "(" in now.enclosing):
            is_certain = not (now.is_optional or now.enclosing)
            for word in now.words:
                if not self._split(word):
                    self._assign_in(word, certain=is_certain)
            self._run(now.words, certain=is_certain)
        certain = self._succeeds(now.words)
        if operator == "(":
            now.enclosing.append("(")
        elif operator == ")" and now.enclosing[-1:] == ["("]:
            now.enclosing.pop()
        elif operator == ")" and now.enclosing[-1:] == ["()"]:
            now.enclosing[-1] = "function"
        now.is_optional = operator == "||" or (
            operator == "&&" and (now.is_optional or not certain)
        )
        now.is_piped = operator == "|"
        now.words = []

    def _is_called(self, function: str) -> bool:
        """Tell whether the file may run a function that it defines; it has the name once more."""
        named = re.findall(rf"(?<![\w-]){re.escape(function)}(?![\w-])", self._text)
        return not function or len(named) > 1

    def _succeeds(self, words: list[_Word]) -> bool:
        """Tell whether a command succeeds for certain: all that it does is to assign."""
        others = [word for word in words if not self._split(word)]
        opaque = any(part.is_opaque for word in words for part in word.parts)
        return not opaque and (
            not others or (len(others) == 1 and others[0].plain in ("export", "readonly"))
        )

    def _run(self, words: list[_Word], *, certain: bool) -> None:
        """Do what a simple command does; ``certain`` tells whether the shell runs it for certain.

        An assignment in front of a program's name is that program's alone.
        """
        before, name, rest = self._split_command(words)
        if name in _SPECIAL_BUILTINS:
            for word in before:
                self._assign(word, certain=certain and not name)
        if name in _DECLARING:
            self._declare(rest, certain=certain)
        elif name == "unset":
            for word in rest:
                self._unset(word, certain=certain)
        elif name in _NAMING and rest:
            self.variables[rest[0].plain] = None
        elif name in ("exit", "return") and certain:
            self._at = len(self._text)
        elif name in _RUNNING:
            self._open()

    def _split_command(self, words: list[_Word]) -> tuple[list[_Word], str, list[_Word]]:
        """Split a command into the assignments before it, its name, and the rest."""
        count = next((at for at, word in enumerate(words) if not self._split(word)), len(words))
        name, rest = "", words[count:]
        while rest and name in _PREFIXES:
            name, rest = self._expand(rest[0].parts) or _NOT_KNOWN, rest[1:]
        return words[:count], name, rest

    def _declare(self, words: list[_Word], *, certain: bool) -> None:
        for word in words:
            if self._split(word):
                self._assign(word, certain=certain)
            elif any(_mentioned(part) or part.is_opaque for part in word.parts):
                self._open()  # the name itself is not known

    def _open(self) -> None:
        """Note that any variable may have been set."""
        self.variables.clear()
        self.is_open = True

    def _split(self, word: _Word) -> tuple[str, str, tuple[_Part, ...]] | None:
        """Split ``NAME=…`` into the name, ``+`` or nothing, and the rest; None for another word."""
        head, count = "", 0
        for part in word.parts:
            if part.is_quoted or part.name or part.is_opaque:
                break
            head, count = head + part.text, count + 1
        found = _ASSIGNED.match(head)
        if not found:
            return None
        rest = _Part(head[found.end() :])
        return found[1], found[2], (rest, *word.parts[count:])

    def _assign(self, word: _Word, *, certain: bool) -> None:
        split = self._split(word)
        if not split:
            return
        name, plus, parts = split
        value = None if parts[0].text.startswith("~") else self._expand(parts)
        before = self._value(name)
        if plus:
            value = None if value is None or before is None else before + value
        is_known = word.is_whole and (certain or value == before)
        self._note(name, word, value if is_known else None, parts, appends=bool(plus))

    def _assign_in(self, word: _Word, *, certain: bool) -> None:
        """Assign what the expansions of a command's argument do, as in ``: ${NAME:=word}``."""
        for part in word.parts:
            if not part.operator.endswith("="):
                continue
            before = self._value(part.name)
            value = self._expand((part,))
            self._note(part.name, word, value if certain or value == before else None, (part,))

    def _note(
        self,
        name: str,
        word: _Word,
        value: str | None,
        parts: tuple[_Part, ...],
        *,
        appends: bool = False,
    ) -> None:
        """Give a variable its value, None where that is not known, and note of what it was made."""
        self.variables[name] = value
        flat = _flatten(parts)
        self.assignments.append(
            Assignment(
                name,
                word.lines,
                value,
                tuple(part.text for part in flat if part.text and not part.is_opaque),
                frozenset(each for part in flat for each in _mentioned(part)),
                appends=appends,
            )
        )

    def _unset(self, word: _Word, *, certain: bool) -> None:
        name = word.plain
        if not _NAME.fullmatch(name):
            return
        if certain and not self.is_open:
            self.variables.pop(name, None)
        elif certain:
            self.variables[name] = ""
        elif name in self.variables:
            self.variables[name] = None
        self.assignments.append(Assignment(name, word.lines, None))

    def _expand(self, parts: tuple[_Part, ...]) -> str | None:
        found = ""
        for part in parts:
            if part.is_opaque:
                return None
            value = self._expand_name(part) if part.name else part.text
            if value is None:
                return None
            found += value
        return found

    def _expand_name(self, part: _Part) -> str | None:
        value = self._value(part.name)
        if not part.operator:
            return value
        if value is None:
            return None
        is_set = part.name in self.variables
        has = bool(value) if part.operator.startswith(":") else is_set
        kind = part.operator[-1]
        if kind == "+":
            return self._expand(part.operand) if has else ""
        if has:
            return value
        other = self._expand(part.operand)
        if kind == "=":
            self.variables[part.name] = other
        return other

    def _value(self, name: str) -> str | None:
        return self.variables.get(name, None if self.is_open else "")

    def _peek(self, ahead: int = 0) -> str:
        return self._text[self._at + ahead : self._at + ahead + 1]

    def _line(self) -> int:
        return self._text.count("\n", 0, self._at) + 1

    def _operator(self) -> str:
        """Pass over blanks and comments; give the operator that follows, or nothing."""
        while self._at < len(self._text):
            char = self._peek()
            if char in _BLANKS:
                self._at += 1
            elif char == "\\" and self._peek(1) == "\n":
                self._at += 2
            elif char == "#":
                end = self._text.find("\n", self._at)
                self._at = len(self._text) if end < 0 else end
            elif char in "&|" and self._peek(1) == char:
                self._at += 2
                return char * 2
            elif char in _ENDS:
                self._at += 1
                if char == "\n":
                    self._skip_here_documents()
                return char
            else:
                return ""
        return ""

    def _redirect(self) -> None:
        """Pass over a redirection and its target, and remember a here-document."""
        is_here = self._text[self._at - 1 : self._at + 1] == "<<" and self._peek(1) != "<"
        while self._peek() and self._peek() in "<>&|-":
            self._at += 1
        while self._peek() and self._peek() in _BLANKS:
            self._at += 1
        word = self._word()
        if is_here:
            self._here.append("".join(part.text for part in word.parts))

    def _skip_here_documents(self) -> None:
        for end in self._here:
            while self._at < len(self._text):
                line, _, _ = self._text[self._at :].partition("\n")
                self._at += len(line) + 1
                if line.lstrip("\t") == end:
                    break
        self._here.clear()

    def _word(self) -> _Word:
        first = self._line()
        self._is_whole = True
        parts = tuple(self._parts(_ENDS))
        return _Word(parts, range(first, self._line() + 1), self._is_whole)

    def _parts(self, ends: str, *, is_quoted: bool = False) -> list[_Part]:
        """Read the parts of a word up to, and without, one of ``ends``."""
        found: list[_Part] = []
        while self._at < len(self._text) and self._peek() not in ends:
            char = self._peek()
            if char == "\\":
                found += self._escaped(is_quoted=is_quoted)
            elif char == "'" and not is_quoted:
                end = self._find("'", self._at + 1)
                found.append(_Part(self._text[self._at + 1 : end], is_quoted=True))
                self._at = end + 1
            elif char == '"':
                self._at += 1
                found += self._quoted()
            elif char == "$":
                found += self._dollar(is_quoted=is_quoted)
            elif char == "`":
                start = self._at
                self._at = self._find("`", start + 1) + 1
                found.append(_Part(self._text[start : self._at], is_opaque=True))
            else:
                self._at += 1
                found.append(_Part(char, is_quoted=is_quoted))
        return found

    def _quoted(self) -> list[_Part]:
        """Read what double quotes hold, and the quote that ends it."""
        found = [_Part("", is_quoted=True), *self._parts('"', is_quoted=True)]
        self._is_whole = self._is_whole and self._at < len(self._text)
        self._at += 1
        return found

    def _escaped(self, *, is_quoted: bool) -> list[_Part]:
        char = self._peek(1)
        self._at += 2
        if char == "\n":
            return []
        if not char or (is_quoted and char not in '$`"\\'):
            return [_Part("\\" + char, is_quoted=True)]
        return [_Part(char, is_quoted=True)]

    def _dollar(self, *, is_quoted: bool) -> list[_Part]:
        start = self._at
        self._at += 1
        char = self._peek()
        if char == "(":
            self._at = self._skip_command(start + 1)
            return [_Part(self._text[start : self._at], is_opaque=True)]
        if char == "{":
            self._at += 1
            return [self._braced(start, is_quoted=is_quoted)]
        name = _NAME.match(self._text, self._at)
        if name:
            self._at = name.end()
            return [_Part(name=name[0], is_quoted=is_quoted)]
        if char and (char in _SPECIAL or (char == "'" and not is_quoted)):
            # What bash makes of $'…' another shell reads otherwise.
            self._at = self._find("'", self._at + 1) + 1 if char == "'" else self._at + 1
            return [_Part(self._text[start : self._at], is_opaque=True)]
        if char == '"' and not is_quoted:
            return []  # for the message catalogs, and otherwise as without the dollar
        return [_Part("$", is_quoted=is_quoted)]

    def _braced(self, start: int, *, is_quoted: bool) -> _Part:
        """Read the rest of ``${…}``."""
        name = _NAME.match(self._text, self._at)
        operator = ""
        if name:
            self._at = name.end()
            if self._peek() == ":" and self._peek(1) in tuple("-+="):
                operator = self._text[self._at : self._at + 2]
            elif self._peek() in tuple("-+="):
                operator = self._peek()
            self._at += len(operator)
        operand = tuple(self._parts("}", is_quoted=is_quoted))
        is_plain = bool(name) and (bool(operator) or not operand)
        self._is_whole = self._is_whole and self._at < len(self._text)
        self._at += 1
        if name and is_plain:
            return _Part(name=name[0], is_quoted=is_quoted, operator=operator, operand=operand)
        return _Part(self._text[start : self._at], is_opaque=True)

    def _skip_command(self, at: int) -> int:
        """Find the end of ``$(…)``, whose first parenthesis is at ``at``."""
        depth = 0
        while at < len(self._text):
            char = self._text[at]
            if char == "\\":
                at += 1
            elif char in "'\"":
                at = self._find(char, at + 1)
            depth += (char == "(") - (char == ")")
            at += 1
            if not depth:
                return at
        self._is_whole = False
        return len(self._text)

    def _find(self, char: str, at: int) -> int:
        """Find where a quote ends, but for single ones past what a backslash protects."""
        while at < len(self._text) and self._text[at] != char:
            at += 2 if self._text[at] == "\\" and char != "'" else 1
        self._is_whole = self._is_whole and at < len(self._text)
        return min(at, len(self._text))


def _flatten(parts: tuple[_Part, ...]) -> list[_Part]:
    """The parts with those of their operands; text that hangs together in one of them."""
    found: list[_Part] = []
    for part in parts:
        last = found[-1] if found else _Part(is_opaque=True)
        if part.text and last.text and not (part.is_opaque or last.is_opaque):
            found[-1] = _Part(last.text + part.text)
        elif part.text or part.name:
            found.append(part)
        found += _flatten(part.operand)
    return found


def _mentioned(part: _Part) -> list[str]:
    if part.is_opaque:
        return re.findall(r"\$\{?[#!]?([A-Za-z_]\w*)", part.text, re.ASCII)
    # Of ${NAME+word} the word alone gets in.
    return [part.name] if part.name and not part.operator.endswith("+") else []
