"""The exporter: answers Prometheus with the metrics of one application's host.

systemd listens, and starts it with the first scrape (sd_listen_fds(3)): it opens no port, has no
network of its own and no rights. It repeats what the last hook has left, and reads what the kernel
tells of a function's health without waking it. What cannot be told is left out, never 0; a file
that cannot be read takes nothing else along.

    python3 -I -S -B /var/lib/pci-passthrough/APPLICATION.exporter.pyz APPLICATION
"""

from __future__ import annotations

import collections
import errno
import os
import re
import selectors
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from passthrough import naming
from passthrough.host import health as reading
from passthrough.host import pci
from passthrough.planning import health
from passthrough.reporting import metrics
from passthrough.site import Site
from passthrough.state import look
from passthrough.system import sysfs

PATH = "/metrics"
EXIT_FAILED = 1

# The first descriptor that systemd hands over (SD_LISTEN_FDS_START of sd_listen_fds(3)).
_FIRST = 3
# A scrape is one short request. Whoever says more, or takes longer, is not Prometheus.
_LONGEST_HEAD = 8192
_SECONDS = 5.0
# Of each address that is listened on, so that nobody on the network keeps this host's own out.
_AT_ONCE = 8
_REQUEST = re.compile(rb"(GET|HEAD) ([^ ?]+)(?:\?[^ ]*)? HTTP/1\.[0-9]\r\n")
_SEVERITIES = tuple(reading.Severity)

Found = dict[metrics.Metric, dict[tuple[str, ...], float]]


def measure(site: Site) -> str:
    """Give the metrics of a host as the text that Prometheus reads."""
    found: Found = {metric: {} for metric in metrics.TABLE}
    seen = look.read(site)
    if seen:
        _add_host(found, seen)
        _add_functions(found, site.root, seen)
    return metrics.render(found)


def _add_host(found: Found, seen: look.Look) -> None:
    """What the last hook says of the host as a whole, and of each alias."""
    for metric, value in (
        (metrics.REBOOT, seen.needs_reboot),
        (metrics.BLOCKED, seen.is_blocked),
        (metrics.RESTARTS, seen.restarts),
        (metrics.LOOKED, seen.at),
    ):
        if value is not None:
            found[metric][()] = float(value)
    if seen.at is None:
        return
    primary = [each for each in seen.functions if each.alias and not each.is_companion]
    for alias in dict.fromkeys([*seen.aliases, *(each.alias for each in primary)]):
        mine = [each for each in primary if each.alias == alias]
        found[metrics.CLAIMED][alias,] = len(mine)
        found[metrics.OFFERED][alias,] = sum(each.is_offered for each in mine)
        found[metrics.QUARANTINED][alias,] = sum(each.is_quarantined for each in mine)


def _add_functions(found: Found, root: Path, seen: look.Look) -> None:
    """What the kernel says of each function."""
    reader = reading.Reader(root)
    held: dict[str, list[bool | None]] = collections.defaultdict(list)
    for alias in seen.aliases:
        held[alias] = []
    for each in seen.functions:
        try:
            function = _read(root, each.address)
            judged = _judge(reader, each, function)
        except (OSError, ValueError):
            if each.alias and not each.is_companion:
                held[each.alias].append(None)
            continue  # of this function nothing can be told
        has_holder = _has_holder(root, function)
        if each.alias and not each.is_companion:
            is_on_variant = has_holder is None and function and function.driver != pci.VFIO_PCI
            held[each.alias].append(each.is_held if is_on_variant else has_holder)
        state = _state(function, has_holder)
        driver = (function.driver if function else None) or ""
        found[metrics.INFO][each.address, each.id, each.alias, driver, state] = 1
        _add_health(found, judged)
    for alias, said in held.items():
        if None not in said:
            found[metrics.HELD][alias,] = sum(map(bool, said))


def _read(root: Path, address: str) -> pci.Function | None:
    """Read one function; None where it is not there.

    Raises:
        OSError: when that cannot be told.
        ValueError: when an attribute is not as the kernel has it.
    """
    function = pci.read_some(root, [address], overrides=False).functions.get(address)
    if function is None and sysfs.is_there_or_raise(f"{root}/{pci.DEVICES}/{address}"):
        raise OSError(errno.EIO, "there, and not readable", address)
    return function


def _judge(
    reader: reading.Reader, known: look.Function, function: pci.Function | None
) -> health.Health:
    if function is None:
        return health.judge_missing(known.address, known.id)
    return health.judge(known.address, reader.of(function))


def _has_holder(root: Path, function: pci.Function | None) -> bool | None:
    """Whether somebody has a function open, see `vfio_users.Closed`; None where nobody tells."""
    if function is None or not function.is_on_vfio:
        return False
    if function.driver != pci.VFIO_PCI:
        return None
    said = sysfs.regular_value_if_there(f"{root}/{pci.DEVICES}/{function.address}/enable")
    return said != "0" if said is not None and said.isdecimal() else None


def _state(function: pci.Function | None, has_holder: bool | None) -> str:
    if function is None:
        return "missing"
    if not function.is_on_vfio:
        return "unbound"
    return "bound" if has_holder is None else "held" if has_holder else "ready"


def _add_health(found: Found, judged: health.Health) -> None:
    address, signs = judged.address, judged.signs
    if judged.verdict is not health.Verdict.UNKNOWN:
        found[metrics.SICK][address,] = judged.verdict is health.Verdict.SICK
    for each in judged.findings:
        found[metrics.FINDING][address, each.kind, each.verdict or "note"] = 1
    if signs.power is not reading.Power.UNKNOWN:
        found[metrics.ASLEEP][address,] = signs.power is reading.Power.ASLEEP
    for severity in _SEVERITIES:
        if severity in signs.errors:
            found[metrics.ERRORS][address, severity] = signs.errors[severity].total
    if signs.width and signs.widest:
        found[metrics.WIDTH][address,] = signs.width / signs.widest


def respond(head: bytes, answer: Callable[[], str]) -> bytes:
    """Answer one request.

    Args:
        head: what was received of it, at most up to the empty line behind its headers.
        answer: gives the metrics.
    """
    request = _REQUEST.match(head)
    if not request or not head.endswith(b"\r\n\r\n"):
        return _response("400 Bad Request", "only GET and HEAD are answered\n")
    method, path = request.groups()
    if path != PATH.encode():
        return _response("404 Not Found", f"the metrics are at {PATH}\n")
    try:
        text, status, kind = answer(), "200 OK", metrics.CONTENT_TYPE
    except Exception:  # the next scrape gets an answer, and the journal says what was wrong
        traceback.print_exc()
        text, status, kind = "see the journal of this host\n", "500 Internal Server Error", ""
    whole = _response(status, text, kind)
    return whole if method == b"GET" else whole[: whole.index(b"\r\n\r\n") + 4]


def _response(status: str, text: str, kind: str = "") -> bytes:
    # What was no UTF-8 in the files has become surrogates, which nobody may send.
    body = text.encode("utf-8", "replace")
    headers = (
        f"HTTP/1.1 {status}",
        f"Content-Type: {kind or 'text/plain; charset=utf-8'}",
        f"Content-Length: {len(body)}",
        "Connection: close",
    )
    return "\r\n".join([*headers, "", ""]).encode() + body


def talk(connection: socket.socket, answer: Callable[[], str], seconds: float = _SECONDS) -> None:
    """Receive one request and answer it; whoever takes longer is left alone."""
    try:
        with connection:
            head = _receive(connection, time.monotonic() + seconds)
            if head:
                connection.settimeout(seconds)
                connection.sendall(respond(head, answer))
    except OSError:
        return  # it has gone away, or was too slow


def _receive(connection: socket.socket, until: float) -> bytes:
    """Receive the head of a request; what there is of it where it is too long, or ends before.

    Raises:
        OSError: when it takes too long.
    """
    head = b""
    while b"\r\n\r\n" not in head and len(head) < _LONGEST_HEAD:
        left = until - time.monotonic()
        if left <= 0:
            raise TimeoutError
        connection.settimeout(left)
        part = connection.recv(_LONGEST_HEAD - len(head))
        if not part:
            break
        head += part
    whole, end, _ = head.partition(b"\r\n\r\n")
    return whole + end


class Server:
    """Answers on sockets that listen, a few requests of each at once.

    Args:
        listeners: the sockets.
        answer: gives the metrics; asked by one request at a time.
    """

    def __init__(self, listeners: Iterable[socket.socket], answer: Callable[[], str]):
        self._answer = answer
        self._turn = threading.Lock()
        self._selector = selectors.DefaultSelector()
        for listener in listeners:
            listener.setblocking(False)
            slots = threading.Semaphore(_AT_ONCE)
            self._selector.register(listener, selectors.EVENT_READ, (listener, slots))

    def serve(self) -> None:
        """Answer for ever."""
        while True:
            self.serve_once()

    def serve_once(self) -> None:
        """Wait until somebody comes, and take everybody who is there."""
        for key, _ in self._selector.select():
            listener, slots = key.data
            try:
                connection, _ = listener.accept()
            except OSError:
                continue  # it has gone away already
            if slots.acquire(blocking=False):
                self._start(connection, slots)
            else:
                connection.close()

    def _start(self, connection: socket.socket, slots: threading.Semaphore) -> None:
        def run() -> None:
            try:
                talk(connection, self._ask)
            finally:
                slots.release()

        try:
            threading.Thread(target=run, daemon=True).start()
        except RuntimeError:  # the host has no thread left for it
            connection.close()
            slots.release()

    def _ask(self) -> str:
        with self._turn:
            return self._answer()


def inherited(environ: dict[str, str], process: int) -> list[socket.socket]:
    """The sockets that systemd has handed over to this process, see sd_listen_fds(3).

    Args:
        environ: the environment.
        process: the number of this process, which they have to be meant for.
    """
    if environ.get("LISTEN_PID") != str(process):
        return []
    count = environ.get("LISTEN_FDS", "")
    numbers = range(_FIRST, _FIRST + int(count)) if count.isdecimal() else ()
    return [socket.socket(fileno=number) for number in numbers]


def main(arguments: Sequence[str] | None = None) -> int:
    """Answer for the application that the first argument names; returns the exit code."""
    given = sys.argv[1:] if arguments is None else arguments
    site = Site(Path("/"), naming.check_application(given[0]))
    listeners = inherited(dict(os.environ), os.getpid())
    if not listeners:
        print("systemd starts this program, with the sockets that it listens on", file=sys.stderr)
        return EXIT_FAILED
    Server(listeners, lambda: measure(site)).serve()
    return 0
