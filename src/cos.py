"""What the unit tells collectors of metrics: the databags of cos-agent and metrics-endpoint.

The interfaces are cos_agent and prometheus_scrape, as the repository canonical/
charm-relation-interfaces has them. The rules lie beside this file in ``prometheus_alert_rules/``
and the dashboard in ``grafana_dashboards/``, where Canonical's charms have theirs.
"""

from __future__ import annotations

import base64
import json
import lzma
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from passthrough.reporting import metrics

_HERE = Path(__file__).resolve().parent
RULES = _HERE / "prometheus_alert_rules/pci-passthrough.yaml"
DASHBOARD = _HERE / "grafana_dashboards/pci-passthrough.json"
# As a path of the collector's scrape, and as the exporter answers it.
_METRICS_PATH = "/metrics"
# A metric of ours in an expression, with the brace that opens what it selects, where it has one.
_SELECTOR = re.compile(rf"\b({metrics.PREFIX}[a-z_]+)(\{{)?")


def agent_unit(topology: Mapping[str, str], port: int) -> dict[str, str]:
    """The unit's databag of cos-agent: one key, whose value is JSON.

    Args:
        topology: who tells it, by Juju's names.
        port: where the exporter listens on this host.
    """
    config = {
        "metrics_alert_rules": rules(topology),
        "log_alert_rules": {},
        "dashboards": [dashboard()],
        "metrics_scrape_jobs": [_job(f"localhost:{port}")],
        "log_slots": [],
    }
    return {"config": json.dumps(config, sort_keys=True)}


def scrape_application(topology: Mapping[str, str], port: int) -> dict[str, str]:
    """The application's databag of metrics-endpoint; each value is JSON.

    Args:
        topology: who tells it, by Juju's names.
        port: where every unit's exporter listens.
    """
    told = {
        "scrape_metadata": dict(topology),
        "scrape_jobs": [_job(f"*:{port}")],  # the star stands for every unit's address
        "alert_rules": rules(topology),
    }
    return {key: json.dumps(value, sort_keys=True) for key, value in told.items()}


def scrape_unit(unit: str, address: str) -> dict[str, str]:
    """A unit's databag of metrics-endpoint.

    Args:
        unit: its name.
        address: where it is reached.
    """
    return {"prometheus_scrape_unit_address": address, "prometheus_scrape_unit_name": unit}


def rules(topology: Mapping[str, str]) -> dict[str, Any]:
    """The alert rules of one application: they select and label its metrics alone."""
    labels = {f"juju_{name}": topology[name] for name in ("model", "model_uuid", "application")}
    matchers = ",".join(f"{name}={json.dumps(value)}" for name, value in labels.items())
    stem = f"{topology['model']}_{topology['model_uuid'][:8]}_{topology['application']}"
    written = yaml.safe_load(RULES.read_text(encoding="utf-8"))
    more = {**labels, "juju_charm": topology["charm_name"]}
    return {
        "groups": [
            {
                **group,
                "name": f"{stem}_{group['name']}",
                "rules": [_for_one(rule, matchers, more) for rule in group["rules"]],
            }
            for group in written["groups"]
        ]
    }


def _for_one(rule: Mapping[str, Any], matchers: str, labels: Mapping[str, str]) -> dict[str, Any]:
    def select(found: re.Match[str]) -> str:
        return f"{found[1]}{{{matchers}" + ("," if found[2] else "}")

    expression = _SELECTOR.sub(select, rule["expr"])
    return {**rule, "expr": expression, "labels": {**rule["labels"], **labels}}


def dashboard() -> str:
    """The dashboard as the interface has it: JSON, compressed by xz, in base64."""
    text = json.dumps(json.loads(DASHBOARD.read_text(encoding="utf-8")), sort_keys=True)
    return base64.b64encode(lzma.compress(text.encode("utf-8"))).decode("ascii")


def _job(target: str) -> dict[str, Any]:
    return {"metrics_path": _METRICS_PATH, "static_configs": [{"targets": [target]}]}
