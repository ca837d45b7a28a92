"""The real Nova as a process that answers questions; see nova_probe.py for the questions."""

from __future__ import annotations

import json
import pathlib
import subprocess
from collections.abc import Iterable, Sequence
from typing import Any

from harness import hosttree

HERE = pathlib.Path(__file__).resolve().parent
NOVA_ENV = HERE.parents[1] / "scripts" / "nova_env"


class NovaClient:
    """One process of Nova's interpreter; a context manager.

    Args:
        command_prefix: command that it is run through, such as a host box's.
    """

    def __init__(self, command_prefix: Sequence[str] = ()):
        found = subprocess.run([str(NOVA_ENV)], stdout=subprocess.PIPE, text=True, check=True)
        self._command = [*command_prefix, found.stdout.strip(), str(HERE / "nova_probe.py")]

    def __enter__(self) -> NovaClient:
        self._process = subprocess.Popen(
            self._command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,  # warnings of its libraries; an error ends it
            text=True,
            env={"PATH": "/usr/bin:/bin"},
        )
        return self

    def __exit__(self, *_: object) -> None:
        self._process.communicate()

    def ask(self, **case: Any) -> dict[str, Any]:
        """Ask one question; the answer, whose ``error`` says that Nova refused."""
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.write(json.dumps(case) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        assert line, "Nova's interpreter died; run nova_probe.py by hand to see why"
        return json.loads(line)

    def look_at(self, tree: hosttree.HostTree, flavors: Iterable[str] = ()) -> dict[str, Any]:
        """Ask about a made-up host: its files in the order in which nova-compute reads them."""
        directory = tree.root / "etc/nova"
        named = (directory / "nova.conf", directory / "nova-compute.conf")
        files = [path for path in named if path.exists()]
        files += sorted((directory / "nova.conf.d").glob("*.conf"))
        return self.ask(
            files=[str(path) for path in files],
            sysfs=str(tree.root / "sys"),
            flavors=list(flavors),
        )
