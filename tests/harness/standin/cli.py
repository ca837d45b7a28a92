"""``standin --dir DIR COMMAND …``: the agent from a shell, for the guest of the lab.

Exit codes: 0 done, 1 a hook or action failed, 2 refused (unknown option, action, unit …).
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence

from harness.standin import declared
from harness.standin.agent import Agent
from harness.standin.errors import HookFailedError, StandinError
from harness.standin.model import JUJU_3, VERSIONS, app_of
from harness.standin.records import EventRun, LogLine


def _pairs(texts: Sequence[str]) -> dict[str, str]:
    for text in texts:
        if "=" not in text:
            raise StandinError(f"expected KEY=VALUE, got {text!r}")
    return dict(text.split("=", 1) for text in texts)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="standin", description=__doc__)
    parser.add_argument("--dir", required=True, help="directory of the model and the units")
    parser.add_argument("--env", action="append", default=[], metavar="K=V", help="for every hook")
    parser.add_argument("--manner", choices=tuple(VERSIONS), default=JUJU_3, help="of a new model")
    parser.add_argument("--path-prefix", action="append", default=[], metavar="DIR")
    parser.add_argument("-v", "--verbose", action="store_true", help="show the charm's log")
    commands = parser.add_subparsers(dest="command", required=True)

    def command(name: str, text: str, *, unit: bool = True) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=text)
        if unit:
            sub.add_argument("--unit", help="APP/N; the only one by default")
        return sub

    deploy = command("deploy", "deploy a charm, or add a unit", unit=False)
    deploy.add_argument("charm")
    deploy.add_argument("--app")
    deploy.add_argument("--unit", type=int, metavar="N")
    deploy.add_argument("--principal", metavar="APP/N")
    deploy.add_argument("--principal-endpoint", metavar="ENDPOINT", help="name or interface")
    deploy.add_argument("--config", action="append", default=[], metavar="K=V")
    config = command("config", "set options, run config-changed")
    config.add_argument("--reset", action="append", default=[], metavar="K")
    config.add_argument("values", nargs="*", metavar="K=V")
    hook = command("hook", "run one hook, such as update-status")
    hook.add_argument("name")
    hook.add_argument("--relation", metavar="ENDPOINT")
    action = command("action", "run an action, print its results as JSON")
    action.add_argument("name")
    action.add_argument("params", nargs="*", metavar="K=V")
    status = command("status", "print the unit's status")
    status.add_argument("--json", action="store_true")
    command("log", "print the unit's log")
    integrate = command("integrate", "relate APP:ENDPOINT to another application", unit=False)
    integrate.add_argument("local")
    integrate.add_argument("remote")
    integrate.add_argument("--remote-unit", action="append", default=[], metavar="APP/N")
    data = command("relation-data", "print a databag, or write a simulated one", unit=False)
    data.add_argument("endpoint")
    data.add_argument("owner", help="unit or application")
    data.add_argument("--app", help="application with the charm")
    data.add_argument("values", nargs="*", metavar="K=V")
    remove = command("remove", "remove an application, or a relation APP:ENDPOINT", unit=False)
    remove.add_argument("target", nargs="?")
    remove.add_argument("remote", nargs="?")
    remove.add_argument("--force", action="store_true", help="without stop and remove")
    upgrade = command("upgrade", "upgrade the charm", unit=False)
    upgrade.add_argument("charm")
    upgrade.add_argument("--app")
    command("rebooted", "the machine has rebooted", unit=False)
    resolve = command("resolve", "run the failed hook again")
    resolve.add_argument("--no-retry", action="store_true", help="take it as done instead")
    return parser


def _show_run(run: EventRun) -> None:
    outcome = f"exit {run.exit_code}" if run.exit_code else ""
    if run.reboot:
        outcome = f"reboot requested ({run.reboot})"
    line = f"{run.unit:<22} {run.name:<32} {run.seconds:6.2f} s  {outcome}"
    print(line.rstrip(), file=sys.stderr, flush=True)


def _format_log(line: LogLine) -> str:
    stamp = time.strftime("%H:%M:%S", time.localtime(line.at))
    return f"{line.unit} {stamp} {line.level:<7} {line.event}: {line.message}"


def _show_log(line: LogLine) -> None:
    print(_format_log(line), file=sys.stderr, flush=True)


def _action(agent: Agent, args: argparse.Namespace) -> int:
    params = declared.parse_parameters(_pairs(args.params))
    result = agent.action(args.name, params, unit=args.unit)
    shown = {"results": result.results, "log": result.log, "failed": result.failed}
    print(json.dumps({**shown, "message": result.message}, indent=2, ensure_ascii=False))
    return 1 if result.failed else 0


def _status(agent: Agent, args: argparse.Namespace) -> int:
    status = agent.status(args.unit)
    if args.json:
        shown = {"status": status.name, "message": status.message}
        print(json.dumps({**shown, "reboot": agent.reboot_due()}, ensure_ascii=False))
    else:
        print(status)
    return 0


def _relation_data(agent: Agent, args: argparse.Namespace) -> int:
    if args.values:
        agent.set_remote_data(args.endpoint, args.owner, _pairs(args.values), app=args.app)
    else:
        bag = agent.relation_data(args.endpoint, args.owner, app=args.app)
        print(json.dumps(bag, indent=2, sort_keys=True, ensure_ascii=False))
    return 0


def _remove(agent: Agent, args: argparse.Namespace) -> int:
    if args.target and ":" in args.target:
        agent.remove_relation(args.target, args.remote)
    else:
        agent.remove(args.target, force=args.force)
    return 0


def _run(agent: Agent, args: argparse.Namespace) -> int:
    """Run the commands that print nothing but their runs."""
    if args.command == "deploy":
        agent.deploy(
            args.charm,
            app=args.app,
            unit=args.unit,
            principal=args.principal,
            endpoint=args.principal_endpoint,
            config=_pairs(args.config),
        )
    elif args.command == "config":
        app = app_of(args.unit) if args.unit else None
        agent.config(_pairs(args.values), app=app, reset=args.reset)
    elif args.command == "hook":
        agent.hook(args.name, unit=args.unit, relation=args.relation)
    elif args.command == "integrate":
        agent.integrate(args.local, args.remote, units=args.remote_unit)
    elif args.command == "upgrade":
        agent.upgrade(args.charm, app=args.app)
    elif args.command == "rebooted":
        agent.rebooted()
    elif args.command == "resolve":
        agent.resolve(unit=args.unit, retry=not args.no_retry)
    elif args.command == "log":
        for line in agent.log(args.unit):
            print(_format_log(line))
    return 0


_SPECIAL = {
    "action": _action,
    "status": _status,
    "relation-data": _relation_data,
    "remove": _remove,
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; see the module's docstring for the exit codes."""
    args = _parser().parse_args(argv)
    try:
        agent = Agent(
            args.dir,
            env=_pairs(args.env),
            path_prefix=args.path_prefix,
            manner=args.manner,
            light_tools=True,  # an emulated machine pays for every start
            on_run=_show_run,
            on_log=_show_log if args.verbose else None,
        )
        return _SPECIAL.get(args.command, _run)(agent, args)
    except HookFailedError as error:
        print(f"ERROR {error}", file=sys.stderr)
        return 1
    except StandinError as error:
        print(f"ERROR {error}", file=sys.stderr)
        return 2
