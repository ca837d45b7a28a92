"""QEMU's monitor: what happens to hardware, such as an error on a link, is asked for there."""

import json
import pathlib
import socket
from typing import Any, TextIO

from lab import errors

ANSWER_SECONDS = 30.0


def arguments(path: pathlib.Path) -> tuple[str, ...]:
    """Return what QEMU has to be started with so that its monitor answers on that socket."""
    place = str(path).replace(",", ",,")
    return (
        *("-chardev", f"socket,id=monitor,path={place},server=on,wait=off"),
        *("-mon", "chardev=monitor,mode=control"),
    )


def ask(path: pathlib.Path, command: str) -> str:
    """Return what the monitor says to a command as people type it: mostly nothing, if it did it.

    Source: human-monitor-command in QEMU's qapi/misc.json.

    Raises:
        LabError: it did not answer, or did not take the command.
    """
    request = {"execute": "human-monitor-command", "arguments": {"command-line": command}}
    try:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(ANSWER_SECONDS)
            connection.connect(str(path))
            with connection.makefile("rw", encoding="utf-8") as lines:
                lines.readline()  # its greeting
                for each in ({"execute": "qmp_capabilities"}, request):
                    lines.write(json.dumps(each) + "\n")
                    lines.flush()
                    answer = _read_answer(lines)
    except OSError as error:
        raise errors.LabError(f"QEMU's monitor did not answer to '{command}': {error}") from error
    if "error" in answer:
        raise errors.LabError(f"QEMU's monitor refused '{command}': {answer['error']}")
    return str(answer["return"])


def _read_answer(lines: TextIO) -> dict[str, Any]:
    """Return the next line that is an answer, and none of the events between."""
    for line in lines:
        answer = json.loads(line)
        if "event" not in answer:
            return answer
    raise OSError("it hung up")
