"""The exporter: what it reads of a host, what it leaves out, and how it answers on its sockets."""

from __future__ import annotations

import json
import os
import pathlib
import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable

import pytest
from harness import hosttree
from harness.constants import CLAIMED, GPU_ID
from harness.world import World
from hypothesis import given
from hypothesis import strategies as st

from passthrough import exporter
from passthrough.host import health
from passthrough.planning import exporting
from passthrough.reporting import metrics
from passthrough.site import Site
from passthrough.state import look

APP = "pci-passthrough"
FIRST, AUDIO, SECOND = CLAIMED[:3]
# A line of Prometheus' format 0.0.4, its labels' values escaped.
LINE = re.compile(r'[a-z_]+(?:\{(?:[a-z_]+="(?:[^"\\\n]|\\["\\n])*",?)+\})? -?[0-9.e+]+')
SEEN = look.Look(
    at=1_700_000_000.25,
    functions=(
        look.Function(FIRST, GPU_ID, "gpu", is_offered=True),
        look.Function(AUDIO, "10de:10f0", "gpu", is_companion=True),
        look.Function(SECOND, GPU_ID, "gpu", is_quarantined=True),
    ),
    aliases=("gpu", "qat"),
    needs_reboot=False,
    restarts=2,
)


@pytest.fixture
def site(ready: World) -> Site:
    """A host that has its devices, and what a hook has left of it."""
    look.write(ready.site, SEEN)
    return ready.site


def put(tree: hosttree.HostTree, name: str, content: str | bytes, address: str = FIRST) -> None:
    path = tree.directory(address) / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())


def told(site: Site) -> dict[str, float]:
    text = exporter.measure(site)
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    assert [line for line in lines if not LINE.fullmatch(line)] == []
    pairs = [line.rpartition(" ") for line in lines]
    assert len({name for name, _, _ in pairs}) == len(pairs), "Prometheus refuses a second sample"
    return {name.removeprefix("pci_passthrough_"): float(value) for name, _, value in pairs}


def of(metric: str, address: str = FIRST, **labels: str) -> str:
    pairs = [f'{key}="{value}"' for key, value in {"address": address, **labels}.items()]
    return f"{metric}{{{','.join(pairs)}}}"


class TestLook:
    def test_what_a_hook_has_left(self, site: Site):
        found = told(site)
        assert found['claimed{alias="gpu"}'] == 2
        assert found['offered{alias="gpu"}'] == 1
        assert found['quarantined{alias="gpu"}'] == 1
        assert found['claimed{alias="qat"}'] == found['held{alias="qat"}'] == 0
        assert found["last_look_timestamp_seconds"] == SEEN.at
        assert found["nova_compute_restarts_total"] == 2
        assert (found["blocked"], found["reboot_required"]) == (0, 0)

    def test_before_the_first_hook_nothing_is_told(self, ready: World):
        assert exporter.measure(ready.site) == ""

    @pytest.mark.parametrize(
        "content",
        ["", "{", "[]", "null", '{"format": 2}', '{"format": 1}', "\udcff", "[" * 99999],
    )
    def test_a_damaged_file_tells_nothing(self, site: Site, content: str):
        path = site.root / look.path_of(APP)
        path.write_text(content, encoding="utf-8", errors="surrogateescape")
        assert exporter.measure(site) == ""

    @pytest.mark.parametrize("address", ["../../../etc", "0000:83:00.0\n", "x"])
    def test_what_is_no_address_is_no_path(self, site: Site, address: str):
        path = site.root / look.path_of(APP)
        data = json.loads(path.read_text())
        data["functions"][0]["address"] = address
        path.write_text(json.dumps(data))
        assert exporter.measure(site) == ""

    def test_a_file_that_nobody_may_read(self, site: Site, monkeypatch: pytest.MonkeyPatch):
        def fail(*_: object) -> None:
            raise PermissionError(13, "Permission denied")

        monkeypatch.setattr(look.files, "read", fail)
        assert exporter.measure(site) == ""

    def test_everybody_may_read_it(self, site: Site):
        path = site.root / look.path_of(APP)
        assert path.stat().st_mode & 0o777 == 0o644
        assert path.parent.stat().st_mode & 0o777 == 0o755

    def test_it_comes_back_as_it_was(self, site: Site):
        assert look.read(site) == SEEN


class TestKernel:
    def test_who_has_what(self, site: Site, tree: hosttree.HostTree):
        put(tree, "enable", "1\n")
        put(tree, "enable", "0\n", SECOND)
        found = told(site)
        info = of("function_info", id=GPU_ID, alias="gpu", driver="vfio-pci", state="held")
        assert found[info] == 1
        assert found['held{alias="gpu"}'] == 1
        put(tree, "enable", "0\n")
        assert told(site)['held{alias="gpu"}'] == 0

    @pytest.mark.parametrize("content", ["", "yes\n", None])
    def test_who_has_it_is_not_told(self, site: Site, tree: hosttree.HostTree, content: str | None):
        put(tree, "enable", "0\n", SECOND)
        if content is None:
            (tree.directory(FIRST) / "enable").unlink(missing_ok=True)
        else:
            put(tree, "enable", content)
        found = told(site)
        assert 'held{alias="gpu"}' not in found
        assert found[of("function_info", id=GPU_ID, alias="gpu", driver="vfio-pci", state="bound")]

    @pytest.mark.parametrize("is_held", [False, True, None])
    def test_of_a_variant_the_last_hook_tells(
        self, site: Site, tree: hosttree.HostTree, is_held: bool | None
    ):
        """The kernel says of vfio-pci alone whether somebody has a function open."""
        put(tree, "enable", "0\n", SECOND)
        tree.bind(FIRST, "nvgrace_gpu_vfio_pci")
        (tree.directory(FIRST) / "vfio-dev/vfio0").mkdir(parents=True)
        first = SEEN.functions[0]._replace(is_held=is_held)
        look.write(site, SEEN._replace(functions=(first, *SEEN.functions[1:])))
        found = told(site)
        assert found.get('held{alias="gpu"}') == (None if is_held is None else int(is_held))
        info = of(
            *("function_info", FIRST),
            id=GPU_ID,
            alias="gpu",
            driver="nvgrace_gpu_vfio_pci",
            state="bound",
        )
        assert found[info] == 1, "what a hook has seen is no state of now"

    def test_one_that_lost_its_driver(self, site: Site, tree: hosttree.HostTree):
        tree.bind(FIRST, "nouveau")
        found = told(site)
        assert found[of("function_info", id=GPU_ID, alias="gpu", driver="nouveau", state="unbound")]

    def test_one_that_has_gone(self, site: Site, tree: hosttree.HostTree):
        tree.unplug(FIRST)
        found = told(site)
        assert found[of("function_info", id=GPU_ID, alias="gpu", driver="", state="missing")] == 1
        assert found[of("function_sick")] == 1
        assert found[of("function_finding", kind="missing", verdict="sick")] == 1

    def test_errors_and_width(self, site: Site, tree: hosttree.HostTree):
        put(tree, "aer_dev_correctable", "RxErr 4711\nTOTAL_ERR_COR 4711\n")
        put(tree, "aer_dev_fatal", "DLP 1\nTOTAL_ERR_FATAL 1\n")
        put(tree, "current_link_width", "8\n")
        put(tree, "max_link_width", "16\n")
        put(tree, "max_link_width", "16\n", "0000:80:01.0")
        found = told(site)
        assert found[of("function_aer_errors_total", severity="correctable")] == 4711
        assert found[of("function_aer_errors_total", severity="fatal")] == 1
        assert of("function_aer_errors_total", severity="nonfatal") not in found
        assert found[of("function_link_width_ratio")] == 0.5
        assert found[of("function_sick")] == 1
        assert found[of("function_sick", SECOND)] == 0
        assert found[of("function_finding", kind="narrow-link", verdict="alert")] == 1

    def test_one_that_sleeps_is_not_woken(self, site: Site, tree: hosttree.HostTree):
        put(tree, "power_state", "D3cold\n")
        config = tree.directory(FIRST) / "config"
        config.unlink()
        os.mkfifo(config)  # whoever opens it to read waits for ever
        found = told(site)
        assert found[of("function_asleep")] == 1
        assert of("function_sick") not in found
        assert of("function_link_width_ratio") not in found

    def test_whether_it_sleeps_is_not_told(self, site: Site, tree: hosttree.HostTree):
        put(tree, "power_state", "unknown\n")
        put(tree, "power/runtime_status", "?\n")
        found = told(site)
        assert of("function_asleep") not in found
        assert of("function_sick") not in found

    @pytest.mark.parametrize("error", [OSError(5, "Input/output error"), ValueError("no number")])
    def test_one_that_cannot_be_read_takes_no_other_along(
        self, site: Site, monkeypatch: pytest.MonkeyPatch, error: Exception
    ):
        read = health.Reader.of

        def fail(self: health.Reader, function: exporter.pci.Function) -> health.Signs:
            if function.address == FIRST:
                raise error
            return read(self, function)

        monkeypatch.setattr(health.Reader, "of", fail)
        found = told(site)
        assert not any(FIRST in name for name in found)
        assert found[of("function_sick", SECOND)] == 0
        assert 'held{alias="gpu"}' not in found, "what cannot be told is not none"
        assert found['held{alias="qat"}'] == 0

    def test_one_that_is_there_and_tells_nothing_is_not_missing(
        self, site: Site, tree: hosttree.HostTree
    ):
        (tree.directory(FIRST) / "uevent").unlink()
        assert not any(FIRST in name for name in told(site))

    def test_nothing_is_written_and_no_device_opened(
        self, site: Site, tree: hosttree.HostTree, monkeypatch: pytest.MonkeyPatch
    ):
        opened: list[tuple[str, int]] = []
        real = os.open

        def watch(
            path: str | pathlib.Path, flags: int, *rest: int, dir_fd: int | None = None
        ) -> int:
            begin = "" if dir_fd is None else os.readlink(f"/proc/self/fd/{dir_fd}")
            whole = os.path.join(begin, os.fspath(path))
            opened.append((whole.removeprefix(os.fspath(tree.root)), flags))
            return real(path, flags, *rest, dir_fd=dir_fd)

        monkeypatch.setattr(os, "open", watch)
        told(site)
        assert opened
        assert [flags for _, flags in opened if flags & (os.O_WRONLY | os.O_RDWR)] == []
        assert {path.split("/")[1] for path, _ in opened} <= {"proc", "run", "sys"}


class TestText:
    def test_each_metric_has_its_help_and_type_once(self, site: Site):
        lines = exporter.measure(site).splitlines()
        named = [line.split()[2] for line in lines if line.startswith("# TYPE ")]
        assert named == [each.name for each in metrics.TABLE if each.name in named]
        assert {line.split()[2] for line in lines if line.startswith("# HELP ")} == set(named)

    @given(value=st.text(max_size=20))
    def test_any_value_of_a_label_is_escaped(self, value: str):
        text = metrics.render({metrics.OFFERED: {(value,): 1}})
        *_, sample = text.removesuffix("\n").split("\n")
        assert LINE.fullmatch(sample)
        quoted = sample[sample.index('"') : sample.rindex('"') + 1]
        plain = re.sub(r"\\(.)", lambda found: {"n": "\n"}.get(found[1], found[1]), quoted[1:-1])
        assert plain == value

    @pytest.mark.parametrize(
        ("value", "said"), [(True, "1"), (2.0, "2"), (0.5, "0.5"), (1e18, "1" + "0" * 18)]
    )
    def test_numbers(self, value: float, said: str):
        assert metrics.render({metrics.BLOCKED: {(): value}}).endswith(f"blocked {said}\n")

    def test_names_are_as_prometheus_asks(self):
        for each in metrics.TABLE:
            assert re.fullmatch(r"pci_passthrough_[a-z_]+", each.name)
            assert each.name.endswith("_total") == (each.kind is metrics.Kind.COUNTER)
            assert not each.help.endswith(".")
        assert len({each.name for each in metrics.TABLE}) == len(metrics.TABLE)


def ask(request: bytes, answer: Callable[[], str] = lambda: "x 1\n") -> tuple[str, bytes]:
    """Answer one request; the status, and the body."""
    head, _, body = exporter.respond(request, answer).partition(b"\r\n\r\n")
    status, *headers = head.decode().split("\r\n")
    length = next(each for each in headers if each.startswith("Content-Length: "))
    assert not body or int(length.split()[1]) == len(body)
    return status.partition(" ")[2], body


class TestRespond:
    def test_the_metrics(self):
        request = b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n"
        assert ask(request) == ("200 OK", b"x 1\n")
        assert b"text/plain; version=0.0.4" in exporter.respond(request, lambda: "")
        assert ask(b"GET /metrics?a=b HTTP/1.0\r\n\r\n") == ("200 OK", b"x 1\n")

    def test_the_head_alone(self):
        assert ask(b"HEAD /metrics HTTP/1.1\r\n\r\n") == ("200 OK", b"")

    @pytest.mark.parametrize("path", ["/", "/metrics/", "/etc/passwd", "//metrics", "metrics"])
    def test_nothing_else_is_there(self, path: str):
        assert ask(f"GET {path} HTTP/1.1\r\n\r\n".encode())[0] == "404 Not Found"

    @pytest.mark.parametrize(
        "request_",
        [
            b"POST /metrics HTTP/1.1\r\n\r\n",
            b"GET /metrics\r\n\r\n",
            b"GET /metrics HTTP/2.0\r\n\r\n",
            b"GET /metrics HTTP/1.1\r\n",
            b"\x16\x03\x01\r\n\r\n",
            b"A" * 8192,
        ],
    )
    def test_what_is_no_request(self, request_: bytes):
        assert ask(request_)[0] == "400 Bad Request"

    def test_a_mistake_is_told_in_the_journal(self, capsys: pytest.CaptureFixture[str]):
        def fail() -> str:
            raise KeyError("nobody thought of it")

        status, body = ask(b"GET /metrics HTTP/1.1\r\n\r\n", fail)
        assert (status, body) == ("500 Internal Server Error", b"see the journal of this host\n")
        assert "nobody thought of it" in capsys.readouterr().err

    def test_what_is_no_utf8_is_sent_all_the_same(self):
        assert ask(b"GET /metrics HTTP/1.1\r\n\r\n", lambda: "\udcff\n") == ("200 OK", b"?\n")

    @given(st.binary(max_size=200))
    def test_whatever_comes_gets_an_answer(self, request: bytes):
        assert ask(request + b"\r\n\r\n")[0][:3] in ("200", "400", "404")


@pytest.fixture
def listener():
    with socket.create_server(("127.0.0.1", 0)) as made_one:
        yield made_one


def fetch(listener: socket.socket) -> bytes:
    """What a scrape gets; nothing where it is turned away."""
    found = b""
    try:
        with socket.create_connection(listener.getsockname(), timeout=10) as connection:
            connection.sendall(b"GET /metrics HTTP/1.1\r\n\r\n")
            while part := connection.recv(65536):
                found += part
    except ConnectionError:
        pass
    return found


class TestServer:
    def serve(self, listener: socket.socket, answer: Callable[[], str]) -> None:
        server = exporter.Server([listener], answer)
        threading.Thread(target=server.serve, daemon=True).start()

    def test_one_after_another(self, listener: socket.socket):
        count = iter(range(9))
        self.serve(listener, lambda: f"x {next(count)}\n")
        assert [fetch(listener)[-4:] for _ in range(3)] == [b"x 0\n", b"x 1\n", b"x 2\n"]

    def test_a_request_in_pieces(self, listener: socket.socket):
        self.serve(listener, lambda: "x 1\n")
        with socket.create_connection(listener.getsockname(), timeout=10) as connection:
            for part in (b"GET /met", b"rics HTTP/1.1\r\nA: b\r", b"\n\r\n"):
                connection.sendall(part)
                time.sleep(0.01)
            assert connection.recv(65536).startswith(b"HTTP/1.1 200 OK")

    def test_who_says_nothing_keeps_nobody_out(self, listener: socket.socket):
        self.serve(listener, lambda: "x 1\n")
        with socket.create_connection(listener.getsockname(), timeout=10):
            assert fetch(listener).endswith(b"x 1\n")

    def test_only_a_few_at_once(self, listener: socket.socket, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.setattr(exporter, "_AT_ONCE", 1)
        self.serve(listener, lambda: "x 1\n")
        with socket.create_connection(listener.getsockname(), timeout=10) as first:
            second = socket.create_connection(listener.getsockname(), timeout=10)
            with second:
                assert second.recv(1) == b"", "closed at once"
            first.sendall(b"GET /metrics HTTP/1.1\r\n\r\n")
            assert first.recv(65536).endswith(b"x 1\n")
            while first.recv(1):
                pass  # the slot is free once the connection has ended
        deadline = time.monotonic() + 10
        while not fetch(listener).endswith(b"x 1\n"):
            assert time.monotonic() < deadline

    def test_without_a_thread_it_goes_on(
        self, listener: socket.socket, monkeypatch: pytest.MonkeyPatch
    ):
        def fail(_: threading.Thread) -> None:
            raise RuntimeError("can't start new thread")

        server = exporter.Server([listener], lambda: "x 1\n")
        monkeypatch.setattr(threading.Thread, "start", fail)
        with socket.create_connection(listener.getsockname(), timeout=10) as connection:
            server.serve_once()
            assert connection.recv(1) == b""

    def test_a_connection_that_has_gone_already(self, listener: socket.socket):
        server = exporter.Server([listener], lambda: "x 1\n")
        connection = socket.create_connection(listener.getsockname(), timeout=10)
        listener.setblocking(True)
        accepted, _ = listener.accept()
        listener.setblocking(False)
        with connection, accepted:
            key = server._selector.get_key(listener)
            server._selector.select = lambda: [(key, 1)]  # pyright: ignore
            server.serve_once()


class TestTalk:
    def test_who_is_too_slow_is_left_alone(self):
        ours, theirs = socket.socketpair()
        with theirs:
            exporter.talk(ours, lambda: "x 1\n", seconds=0.05)
            assert theirs.recv(1) == b""

    def test_so_is_who_has_no_time_left(self):
        ours, theirs = socket.socketpair()
        with theirs:
            exporter.talk(ours, lambda: "x 1\n", seconds=0.0)
            assert theirs.recv(1) == b""

    def test_who_goes_away_first_hears_nothing(self):
        ours, theirs = socket.socketpair()
        theirs.close()
        exporter.talk(ours, lambda: pytest.fail("nobody asks"))

    def test_a_head_without_an_end(self):
        ours, theirs = socket.socketpair()
        with theirs:
            theirs.sendall(b"GET /metrics HTTP/1.1\r\n" + b"A" * 9000)
            exporter.talk(ours, lambda: "x 1\n")
            assert theirs.recv(65536).startswith(b"HTTP/1.1 400 ")


class TestInherited:
    def test_sockets_for_another_process_are_not_ours(self):
        assert exporter.inherited({"LISTEN_PID": "1", "LISTEN_FDS": "1"}, 2) == []
        assert exporter.inherited({"LISTEN_PID": "2", "LISTEN_FDS": "x"}, 2) == []
        assert exporter.inherited({}, 2) == []

    def test_started_by_hand_it_says_who_starts_it(self, capsys: pytest.CaptureFixture[str]):
        assert exporter.main([APP]) == exporter.EXIT_FAILED
        assert "systemd starts this program" in capsys.readouterr().err

    def test_the_application_has_to_be_one(self):
        with pytest.raises(ValueError, match="is not the name"):
            exporter.main(["../x"])

    def test_main_serves_what_it_is_handed(
        self, listener: socket.socket, monkeypatch: pytest.MonkeyPatch
    ):
        served: list[exporter.Server] = []
        monkeypatch.setattr(exporter, "_FIRST", os.dup(listener.fileno()))
        monkeypatch.setenv("LISTEN_PID", str(os.getpid()))
        monkeypatch.setenv("LISTEN_FDS", "1")
        monkeypatch.setattr(exporter.Server, "serve", lambda self: served.append(self))
        assert exporter.main([APP]) == 0
        (server,) = served
        assert server._ask() == exporter.measure(Site(pathlib.Path("/"), APP))


class TestProgram:
    """The copy of the code, as the system's Python runs it."""

    def test_it_holds_what_it_imports_and_no_more(self, tmp_path: pathlib.Path):
        program = tmp_path / "exporter.pyz"
        program.write_bytes(exporting.pack().encode("utf-8", "surrogateescape"))
        code = f"import sys; sys.path.insert(0, {os.fspath(program)!r})"
        code += "; from passthrough import exporter; print(*sorted(each.__file__ for name, each"
        code += " in sys.modules.items() if name.startswith('passthrough')))"
        command = [sys.executable, "-I", "-S", "-B", "-c", code]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        loaded = {each.removeprefix(f"{program}/passthrough/") for each in done.stdout.split()}
        assert loaded == set(exporting.PARTS)

    def test_it_is_the_same_bytes_each_time(self):
        first = exporting.pack()
        exporting.pack.cache_clear()
        assert exporting.pack() == first
