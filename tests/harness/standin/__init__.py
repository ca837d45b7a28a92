"""A stand-in for Juju's unit agent: it runs a charm's ``dispatch`` without a controller.

The charm under test is the packed one and runs as its own process; only what surrounds it (the
agent, the hook tools, the model) is made up here, from the Python standard library alone, so that
the same code runs in a test process and inside a bare virtual machine. See README.md beside this
file for what is modelled and what is not.

    agent = standin.Agent(tmp_path)
    agent.deploy("build/pci-passthrough.charm", principal="nova-compute/0")
    agent.config(devices="gpu=1234:1111")
    assert str(agent.status()) == "blocked: reboot required: …"
"""

from harness.standin.agent import Agent
from harness.standin.errors import (
    ActionRefusedError,
    CharmError,
    HookFailedError,
    ModelError,
    NotModelledError,
    StandinError,
)
from harness.standin.model import JUJU_3, JUJU_4, Status
from harness.standin.records import ActionResult, Call, EventRun, LogLine

__all__ = [
    "JUJU_3",
    "JUJU_4",
    "ActionRefusedError",
    "ActionResult",
    "Agent",
    "Call",
    "CharmError",
    "EventRun",
    "HookFailedError",
    "LogLine",
    "ModelError",
    "NotModelledError",
    "StandinError",
    "Status",
]
