"""The agent's end of the hook tools: a Unix socket, one request per tool run."""

from __future__ import annotations

import os
import pathlib
import shutil
import socketserver
import sys
import tempfile
import threading
from collections.abc import Callable, Sequence
from typing import Any

from harness.standin.errors import StandinError

# (tool, arguments, content of --file) to (exit code, standard output, standard error)
Handler = Callable[[str, Sequence[str], bytes], tuple[int, str, str]]

_PYTHON = f"{os.path.realpath(sys.executable)} -ISE"
_SOCKET_PATH_LIMIT = 107  # sun_path of struct sockaddr_un, less its final zero: unix(7)


def install_tools(directory: pathlib.Path, names: Sequence[str], *, light: bool = False) -> None:
    """Write the multiplexer script and a link for every tool name into ``directory``.

    The script starts this very interpreter, isolated (-I) and without site-packages (-S): whatever
    environment the charm has, the tools do not change.

    Args:
        directory: created where it is missing.
        names: of the tools.
        light: write the script in Perl. A start of it costs 3 ms of processor time, one of Python
            10, and a hook has a dozen: a third of what it costs.
    """
    directory.mkdir(parents=True, exist_ok=True)
    script = directory / "hooktool"
    program, interpreter = ("hooktool.pl", "/usr/bin/perl") if light else ("hooktool.py", _PYTHON)
    source = pathlib.Path(__file__).with_name(program).read_text(encoding="utf-8")
    text = f"#!{interpreter}\n{source}"
    if not script.exists() or script.read_text(encoding="utf-8") != text:
        script.write_text(text, encoding="utf-8")
        script.chmod(0o755)
    for name in names:
        link = directory / name
        if not link.is_symlink():
            link.symlink_to(script.name)


class HookToolServer:
    """Serves hook tools while a hook runs; a context manager.

    The socket lies in a private directory of its own under the temporary directory: the charm's
    directory may be too deep for a Unix socket's address.

    Attributes:
        address: path of the socket, for JUJU_AGENT_SOCKET_ADDRESS.
    """

    def __init__(self, handler: Handler):
        self._directory = tempfile.mkdtemp(prefix="standin-")
        self.address = os.path.join(self._directory, "agent.socket")
        if len(os.fsencode(self.address)) > _SOCKET_PATH_LIMIT:
            shutil.rmtree(self._directory)
            raise StandinError(f"{self.address}: too long for a socket; set a shorter TMPDIR")

        class Request(socketserver.StreamRequestHandler):
            def handle(self) -> None:
                size = int.from_bytes(self.rfile.read(4), "big")
                message = self.rfile.read(size)
                if not size or len(message) < size:
                    return  # the tool was killed while it spoke
                tool, *args, content = _split(message)
                texts = [arg.decode("utf-8", "surrogateescape") for arg in args]
                code, out, err = handler(tool.decode(), texts, content)
                encoded = out.encode("utf-8", "surrogateescape")
                self.wfile.write(bytes([code]) + len(encoded).to_bytes(4, "big") + encoded)
                self.wfile.write(err.encode("utf-8", "surrogateescape"))

        self._server = _Server(self.address, Request)
        self._thread = threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True
        )

    def __enter__(self) -> HookToolServer:
        self._thread.start()
        return self

    def __exit__(self, *_: Any) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()
        shutil.rmtree(self._directory)
        if self._server.failure:
            raise self._server.failure


class _Server(socketserver.UnixStreamServer):
    """One request at a time, as a hook's tools are answered; keeps the first error of a handler."""

    failure: BaseException | None = None
    request_queue_size = 64

    def handle_error(self, request: Any, client_address: Any) -> None:
        error = sys.exc_info()[1]
        # A killed hook takes its tools along; their broken pipes are nobody's fault.
        if not isinstance(error, (BrokenPipeError, ConnectionResetError)):
            self.failure = self.failure or error


def _split(message: bytes) -> list[bytes]:
    fields = []
    while message:
        size = int.from_bytes(message[:4], "big")
        fields.append(message[4 : 4 + size])
        message = message[4 + size :]
    return fields
