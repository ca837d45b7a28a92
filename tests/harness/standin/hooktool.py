# The program behind every hook tool's name: hands its arguments to the agent and does what it
# answers, as Juju's own hook tools do. Started a dozen times per hook, on slow machines too, so it
# runs with -I -S and imports nothing that Python has not loaded already, but for the C socket.
# pyright: reportAttributeAccessIssue=false
"""Multiplexer script of the stand-in's hook tools; see server.py for the other end."""

import _socket
import sys
from posix import environ

FILE_FLAG = "--file"


def read_file_argument(args):
    """Content behind ``--file``: it is this process that sees the charm's files, not the agent."""
    for n, arg in enumerate(args):
        path = None
        if arg == "--":
            break
        if arg == FILE_FLAG and n + 1 < len(args):
            path = args[n + 1]
        elif arg.startswith(FILE_FLAG + "="):
            path = arg[len(FILE_FLAG) + 1 :]
        if path == "-":
            return sys.stdin.buffer.read()
        if path is not None:
            with open(path, "rb") as file:
                return file.read()
    return b""


def main():
    name = sys.argv[0].rpartition("/")[2]
    fields = [name, *sys.argv[1:]]
    payload = [field.encode("utf-8", "surrogateescape") for field in fields]
    payload.append(read_file_argument(sys.argv[1:]))
    message = b"".join(len(field).to_bytes(4, "big") + field for field in payload)
    connection = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM)
    connection.connect(environ[b"JUJU_AGENT_SOCKET_ADDRESS"])
    connection.sendall(len(message).to_bytes(4, "big") + message)
    answer = b""
    while chunk := connection.recv(65536):
        answer += chunk
    if len(answer) < 5:
        sys.exit("ERROR the agent hung up on " + name)
    length = int.from_bytes(answer[1:5], "big")
    sys.stdout.buffer.write(answer[5 : 5 + length])
    sys.stderr.buffer.write(answer[5 + length :])
    sys.stdout.flush()
    sys.exit(answer[0])


main()
