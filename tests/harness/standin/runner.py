"""Run ``dispatch`` once: its environment, its process, its hook tools."""

from __future__ import annotations

import dataclasses
import os
import pathlib
import select
import signal
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence

from harness.standin import server, toolbox
from harness.standin.context import HookContext
from harness.standin.model import VERSIONS
from harness.standin.records import EventRun

# What a systemd service finds on Ubuntu; the agent puts its tools in front of it.
SYSTEM_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin:/snap/bin"
DEFAULT_TIMEOUT = 1800.0


@dataclasses.dataclass
class Surroundings:
    """How the charm's process is started.

    Attributes:
        env: added to the environment, and winning over it.
        path_prefix: directories between the hook tools and the system's PATH.
        command_prefix: put before ``dispatch``, such as ``["unshare", "-m"]``; it is started in
            the charm's directory and may read JUJU_CHARM_DIR.
        timeout: seconds until a hook is killed.
        tools_fail_after: how many calls of hook tools Juju answers in a hook; then all fail.
    """

    env: Mapping[str, str] = dataclasses.field(default_factory=dict)
    path_prefix: Sequence[str] = ()
    command_prefix: Sequence[str] = ()
    timeout: float = DEFAULT_TIMEOUT
    tools_fail_after: int | None = None


def environment(
    context: HookContext,
    charm: pathlib.Path,
    tools: pathlib.Path,
    socket: str,
    surroundings: Surroundings,
) -> dict[str, str]:
    """Environment of one run, as in HookVars of internal/worker/uniter/runner/context in juju/juju.

    Nothing is inherited: what pytest or a shell had set must not change what the charm does.
    """
    unit, event, model = context.unit, context.event, context.model
    is_action = context.parameters is not None
    number = context.name.rpartition("/")[2]
    env = {
        "APT_LISTCHANGES_FRONTEND": "none",
        "CHARM_DIR": str(charm),
        "CLOUD_API_VERSION": "",
        "DEBIAN_FRONTEND": "noninteractive",
        "HOME": "/root",
        "JUJU_AGENT_SOCKET_ADDRESS": socket,
        "JUJU_AGENT_SOCKET_NETWORK": "unix",
        "JUJU_API_ADDRESSES": "",
        "JUJU_AVAILABILITY_ZONE": "",
        "JUJU_CHARM_DIR": str(charm),
        "JUJU_CONTEXT_ID": f"{unit.name}-{number}-{time.time_ns()}",
        "JUJU_DISPATCH_PATH": context.name if is_action else f"hooks/{context.name}",
        "JUJU_HOOK_NAME": "" if is_action else context.name,
        "JUJU_MACHINE_ID": unit.machine,
        "JUJU_MODEL_NAME": model.name,
        "JUJU_MODEL_UUID": model.uuid,
        "JUJU_PRINCIPAL_UNIT": unit.principal,
        "JUJU_UNIT_NAME": unit.name,
        "JUJU_VERSION": VERSIONS[model.manner],
        "LANG": "C.UTF-8",
        "PATH": os.pathsep.join([str(tools), *surroundings.path_prefix, SYSTEM_PATH]),
        "TERM": "tmux-256color",
    }
    if is_action:
        action = str(model.next_action)
        env.update(
            JUJU_ACTION_NAME=number, JUJU_ACTION_UUID=action, JUJU_ACTION_TAG=f"action-{action}"
        )
    if event.relation is not None:
        endpoint = model.relations[event.relation].sides[unit.app]
        env.update(
            JUJU_RELATION=endpoint,
            JUJU_RELATION_ID=f"{endpoint}:{event.relation}",
            JUJU_REMOTE_APP=event.remote_app,
            JUJU_REMOTE_UNIT=event.remote_unit,
        )
        if event.departing:
            env["JUJU_DEPARTING_UNIT"] = event.departing
    if context.command:  # juju exec: a hook's surroundings without a hook
        env.update(JUJU_DISPATCH_PATH="", JUJU_HOOK_NAME="")
    return {**env, **surroundings.env}


class Process:
    """The charm's process, once it runs; `kill` is safe before and after."""

    def __init__(self) -> None:
        self._popen: subprocess.Popen[bytes] | None = None

    def kill(self) -> None:
        """Kill it with everything it started in its session."""
        if self._popen is not None and self._popen.poll() is None:
            os.killpg(self._popen.pid, signal.SIGKILL)

    def run(
        self, command: Sequence[str], cwd: pathlib.Path, env: Mapping[str, str], timeout: float
    ) -> tuple[int, str, str]:
        """Run to the end or the time limit; exit code, standard output and error.

        The output goes to files and not to pipes: a daemon that the hook leaves behind would hold
        a pipe open for ever.
        """
        with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
            self._popen = subprocess.Popen(
                command,
                cwd=cwd,
                env=dict(env),
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                start_new_session=True,
            )
            note = ""
            try:
                if not _ends(self._popen, timeout):
                    self.kill()
                    note = f"killed by the stand-in after {timeout:.0f} s\n"
                self._popen.wait()
            except BaseException:  # a test was interrupted: leave no hook running behind it
                self.kill()
                self._popen.wait()
                raise
            texts = []
            for file in (out, err):
                file.seek(0)
                texts.append(file.read().decode("utf-8", "replace"))
        return self._popen.returncode, texts[0], texts[1] + note


def _ends(process: subprocess.Popen[bytes], timeout: float) -> bool:
    """Wait for the end of a process; whether it came within that many seconds.

    `Popen.wait` with a time limit sleeps up to 50 ms between two looks, a tenth of a hook's time.
    """
    descriptor = os.pidfd_open(process.pid)
    try:
        end = select.poll()
        end.register(descriptor, select.POLLIN)
        return bool(end.poll(timeout * 1000))
    finally:
        os.close(descriptor)


def run(
    context: HookContext,
    process: Process,
    charm: pathlib.Path,
    tools: pathlib.Path,
    surroundings: Surroundings,
) -> EventRun:
    """Run the charm's ``dispatch`` for the context's event, with the hook tools served.

    Args:
        context: of this run; holds afterwards what the charm said and asked for.
        process: the process to run in; ``context.kill`` kills it.
        charm: the unit's charm directory.
        tools: directory of the hook tools.
        surroundings: how to start it.
    """

    def handle(tool: str, args: Sequence[str], content: bytes) -> tuple[int, str, str]:
        return toolbox.run(context, tool, args, content)

    started = time.monotonic()
    with server.HookToolServer(handle) as agent:
        env = environment(context, charm, tools, agent.address, surroundings)
        program = context.command or [str(charm / "dispatch")]
        command = [*surroundings.command_prefix, *program]
        code, out, err = process.run(command, charm, env, surroundings.timeout)
    for level, text in (("DEBUG", out), ("WARNING", err)):
        for line in text.splitlines():
            context.add_log(level, line)
    return EventRun(
        unit=context.unit.name,
        name=context.name,
        exit_code=code,
        seconds=time.monotonic() - started,
        calls=tuple(context.calls),
        stdout=out,
        stderr=err,
        reboot=context.reboot,
    )
