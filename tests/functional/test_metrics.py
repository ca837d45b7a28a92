"""The packed charm's metrics, as the real Prometheus scrapes them: rules, dashboard, all of it.

What a real systemd makes of the exporter's units is not shown here: the test listens in its place,
by the lines of the socket, and starts the program by the line of the service.
"""

from __future__ import annotations

import base64
import contextlib
import http.client
import json
import lzma
import os
import pathlib
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.parse
from collections.abc import Iterator
from typing import Any

import pytest
import yaml
from harness import hostbox, hosttree, missing, standin
from harness.constants import CLAIMED, GPUS, OWNED

PRINCIPAL = "nova-compute/0"
UNIT, AGENT, ENDPOINT = "pci-passthrough/0", "cos-agent", "metrics-endpoint"
UNITS = "etc/systemd/system/pci-passthrough-exporter"
HERE = pathlib.Path(__file__).resolve().parent
RULES = HERE.parents[1] / "src/prometheus_alert_rules/pci-passthrough.yaml"
DASHBOARD = HERE.parents[1] / "src/grafana_dashboards/pci-passthrough.json"
NOBODY = 65534
# Seconds. Prometheus starts within one, and scrapes each second.
SOON = 60.0
# As systemd hands sockets over (sd_listen_fds(3)); the number of this process stays through exec.
HAND_OVER = """
import os, sys
given, *command = sys.argv[1:]
for place, number in enumerate(given.split(","), 3):
    os.dup2(int(number), place)
os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS=str(len(given.split(","))))
os.execvp(command[0], command)
"""


def program(name: str) -> str:
    path = shutil.which(name)
    if not path:
        missing.skip(f"there is no {name}: apt-get install prometheus")
    return path


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return taken.getsockname()[1]


@pytest.fixture
def host(tmp_path: pathlib.Path) -> hosttree.HostTree:
    """A compute host whose IOMMU is on; one card has had errors, and nobody has any."""
    tree = hosttree.compute_host(tmp_path / "host")
    tree.install_nova()
    tree.iommu_on()
    counter = tree.directory(CLAIMED[0]) / "aer_dev_correctable"
    counter.write_text("RxErr 7\nTOTAL_ERR_COR 7\n")
    return tree


@pytest.fixture
def deployed(agent: standin.Agent, packed_charm: pathlib.Path) -> standin.Agent:
    config = {"devices": GPUS, "metrics-port": free_port()}
    agent.deploy(packed_charm, principal=PRINCIPAL, config=config)
    assert str(agent.status()) == "active: gpu: 2 ready"
    return agent


def collect(agent: standin.Agent) -> dict[str, Any]:
    """Relate a collector; what it is told."""
    agent.integrate(
        f"pci-passthrough:{AGENT}", "collector", units=["collector/0"], sharing=PRINCIPAL
    )
    return json.loads(agent.relation_data(AGENT, UNIT)["config"])


def values(host: hosttree.HostTree, kind: str, key: str) -> list[str]:
    """What one of the exporter's units has for a key."""
    lines = host.read(f"{UNITS}.{kind}").splitlines()
    return [line.partition("=")[2] for line in lines if line.startswith(f"{key}=")]


@contextlib.contextmanager
def running(host: hosttree.HostTree, box: hostbox.Box) -> Iterator[None]:
    """The exporter, started as its units say: by nobody, with sockets that are handed over."""
    with contextlib.ExitStack() as stack:
        sockets = [
            stack.enter_context(socket.create_server((address, int(port))))
            for address, _, port in (
                each.rpartition(":") for each in values(host, "socket", "ListenStream")
            )
        ]
        numbers = [each.fileno() for each in sockets]
        (start,) = values(host, "service", "ExecStart")
        rights = [f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups"]
        command = [
            *box.command_prefix,
            *(sys.executable, "-I", "-S", "-c", HAND_OVER, ",".join(map(str, numbers))),
            *("setpriv", *rights, "--no-new-privs"),
            *start.split(),
        ]
        said = stack.enter_context(tempfile.TemporaryFile("w+"))
        process = subprocess.Popen(command, pass_fds=numbers, stderr=said, start_new_session=True)
        try:
            yield
        finally:
            os.killpg(process.pid, signal.SIGKILL)  # what entered the box, and the exporter in it
            process.wait()
        said.seek(0)
        assert said.read() == ""


def fetch(address: str, path: str) -> tuple[str, str]:
    """The content's type, and the content, of an answer over HTTP."""
    connection = http.client.HTTPConnection(address, timeout=SOON)
    with contextlib.closing(connection):
        connection.request("GET", path)
        answer = connection.getresponse()
        return answer.headers["Content-Type"] or "", answer.read().decode("utf-8")


class Prometheus:
    """The real one, on a port of its own, with this configuration."""

    def __init__(self, place: pathlib.Path, config: dict[str, Any]):
        self.address = f"127.0.0.1:{free_port()}"
        file = place / "prometheus.yml"
        file.write_text(yaml.safe_dump(config))
        checked = subprocess.run(
            [program("promtool"), "check", "config", file], capture_output=True, text=True
        )
        assert checked.returncode == 0, checked.stderr
        self.command = [
            program("prometheus"),
            f"--config.file={file}",
            f"--storage.tsdb.path={place / 'data'}",
            f"--web.listen-address={self.address}",
            "--log.level=error",
        ]

    def __enter__(self) -> Prometheus:
        self._process = subprocess.Popen(self.command, stderr=subprocess.PIPE, text=True)
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()

    def get(self, path: str, **query: str) -> Any:
        _, text = fetch(self.address, f"/api/v1/{path}?{urllib.parse.urlencode(query)}")
        found = json.loads(text)
        assert found["status"] == "success", found
        return found["data"]

    def ask(self, query: str) -> list[dict[str, Any]]:
        return self.get("query", query=query)["result"]

    def wait_for(self, query: str) -> list[dict[str, Any]]:
        """Ask until there is an answer."""
        deadline = time.monotonic() + SOON
        while True:
            with contextlib.suppress(ConnectionError, json.JSONDecodeError):  # it is starting
                found = self.ask(query)
                if found:
                    return found
            assert time.monotonic() < deadline, f"{query}: {self.get('targets')}"
            time.sleep(0.2)


def test_the_real_prometheus_scrapes_what_the_charm_told_the_collector(
    deployed: standin.Agent,
    host: hosttree.HostTree,
    box: hostbox.Box,
    tmp_path: pathlib.Path,
):
    config = collect(deployed)
    (job,) = config["metrics_scrape_jobs"]
    labels = {
        "juju_model": deployed.model().name,
        "juju_model_uuid": deployed.model().uuid,
        "juju_application": "pci-passthrough",
        "juju_unit": UNIT,
    }
    for each in job["static_configs"]:
        each["labels"] = labels  # as collectors do, by what they know of Juju
    rules = tmp_path / "rules.yaml"
    rules.write_text(yaml.safe_dump(config["metrics_alert_rules"]))
    settings = {
        "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
        "scrape_configs": [{"job_name": "pci-passthrough", **job}],
        "rule_files": [str(rules)],
    }
    with running(host, box), Prometheus(tmp_path, settings) as prometheus:
        (found,) = prometheus.wait_for('pci_passthrough_offered{alias="gpu"}')
        assert found["value"][1] == "2"
        assert {key: found["metric"][key] for key in labels} == labels
        states = prometheus.ask("pci_passthrough_function_info")
        assert {each["metric"]["address"]: each["metric"]["state"] for each in states} == (
            dict.fromkeys(CLAIMED, "ready")
        )
        (errors,) = prometheus.ask("pci_passthrough_function_aer_errors_total > 0")
        assert (errors["metric"]["severity"], errors["value"][1]) == ("correctable", "7")
        check_rules(prometheus, config["metrics_alert_rules"])
        check_dashboard(prometheus, config["dashboards"])
        check_text(job["static_configs"][0]["targets"][0])


def check_rules(prometheus: Prometheus, told: dict[str, Any]) -> None:
    """Every rule is evaluated, and selects what was scraped."""
    prometheus.wait_for("pci_passthrough_blocked")
    deadline = time.monotonic() + SOON
    while True:
        (group,) = prometheus.get("rules")["groups"]
        states = {each["name"]: each["health"] for each in group["rules"]}
        if "unknown" not in states.values() or time.monotonic() > deadline:
            break
        time.sleep(0.2)
    expected = {each["alert"]: "ok" for each in told["groups"][0]["rules"]}
    assert states == expected
    for rule in told["groups"][0]["rules"]:
        for selector in re.findall(r"pci_passthrough_[a-z_]+\{[^}]*juju_application", rule["expr"]):
            assert selector.count("{") == 1
    (blocked,) = [each for each in told["groups"][0]["rules"] if "blocked" in each["expr"]]
    selector = blocked["expr"].partition(" == ")[0]
    assert prometheus.ask(selector), "the rule finds this application's metric"


def check_dashboard(prometheus: Prometheus, packed: list[str]) -> None:
    """Every query of the dashboard runs, and what is always there is found."""
    (dashboard,) = (json.loads(lzma.decompress(base64.b64decode(each))) for each in packed)
    variables = {
        each["name"]: "|".join(prometheus_values(prometheus, each["definition"]))
        for each in dashboard["templating"]["list"]
        if each["type"] == "query"
    }
    assert variables == {
        "juju_model": "standin",
        "juju_application": "pci-passthrough",
        "juju_unit": UNIT,
    }
    # A card without a fresh error, without a finding, and whose link's width nobody tells.
    expected = {"PCI Express errors", "Findings", "Width of links"}
    deadline = time.monotonic() + SOON
    while True:
        empty = {
            panel["title"]
            for panel in dashboard["panels"]
            for target in panel["targets"]
            if not prometheus.ask(fill(target["expr"], variables))
        }
        if empty == expected or time.monotonic() > deadline:
            break
        time.sleep(0.2)  # a rate takes a second scrape
    assert empty == expected


def prometheus_values(prometheus: Prometheus, definition: str) -> list[str]:
    """What Grafana offers for a variable: the values of a label."""
    inner = re.fullmatch(r"label_values\((.*), (\w+)\)", definition)
    assert inner
    query, label = re.sub(r"\$\w+", ".*", inner[1]), inner[2]
    return sorted({each["metric"][label] for each in prometheus.ask(query)})


def fill(query: str, variables: dict[str, str]) -> str:
    for name, value in {**variables, "__rate_interval": "1m"}.items():
        query = query.replace(f"${name}", value)
    assert "$" not in query
    return query


def check_text(target: str) -> None:
    """Prometheus' own tool has nothing to say against the text."""
    kind, text = fetch(target, "/metrics")
    assert kind.startswith("text/plain; version=0.0.4")
    done = subprocess.run(
        [program("promtool"), "check", "metrics"], input=text, capture_output=True, text=True
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_every_road_takes_the_exporter_away(
    deployed: standin.Agent, host: hosttree.HostTree, box: hostbox.Box
):
    """The relation's end, the option, and the unit's removal; nothing of it is left behind."""
    before = host.snapshot(*OWNED)
    record = "var/lib/pci-passthrough/pci-passthrough.json"

    def check() -> None:
        assert {**host.snapshot(*OWNED), record: None} == {**before, record: None}
        assert "exporter" not in json.loads(host.read(record))["record"]
        assert list((host.root / "run").glob("pci-passthrough/*.look")) == []

    collect(deployed)
    assert values(host, "socket", "ListenStream")
    deployed.remove_relation(f"pci-passthrough:{AGENT}")
    check()

    deployed.config(metrics=True)
    assert values(host, "socket", "ListenStream")
    deployed.config(metrics=False)
    check()

    deployed.integrate(f"pci-passthrough:{ENDPOINT}", "prometheus", units=["prometheus/0"])
    listening = values(host, "socket", "ListenStream")
    data = deployed.relation_data(ENDPOINT, UNIT)
    (job,) = json.loads(deployed.relation_data(ENDPOINT, "pci-passthrough")["scrape_jobs"])
    port = job["static_configs"][0]["targets"][0].partition(":")[2]
    assert listening == [f"127.0.0.1:{port}", f"{data['prometheus_scrape_unit_address']}:{port}"]
    started = [call.args for call in box.calls("systemctl") if "exporter" in call.args[-1]]
    assert started[-1] == ("restart", "pci-passthrough-exporter.socket")
    deployed.remove()
    assert not any("exporter" in path for path in host.snapshot(*OWNED, "run"))
    stopped = [call.args for call in box.calls("systemctl") if "exporter" in call.args[-1]]
    assert ("stop", "pci-passthrough-exporter.socket") in stopped


def test_the_rules_fire_when_they_should():
    for command in (
        ("check", "rules", str(RULES)),
        ("test", "rules", str(HERE / "alert_rules.test.yaml")),
    ):
        done = subprocess.run([program("promtool"), *command], capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr


def test_every_rule_is_tried():
    rules = yaml.safe_load(RULES.read_text())["groups"][0]["rules"]
    tests = yaml.safe_load((HERE / "alert_rules.test.yaml").read_text())["tests"]
    tried = {row["alertname"] for each in tests for row in each["alert_rule_test"]}
    assert tried == {each["alert"] for each in rules}
