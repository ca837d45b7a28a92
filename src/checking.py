"""What the NRPE check repeats: how a hook found the host. Knows no Juju."""

from __future__ import annotations

import dispatched
from passthrough.effects import nrpe
from passthrough.reporting import alarm
from passthrough.reporting.verify import checklist
from passthrough.site import Site


def write(site: Site, done: dispatched.Done) -> bool:
    """Have the check on the host, and give it its report.

    Args:
        site: the application on this host.
        done: what the hook did.

    Returns:
        False where the check cannot be had yet: nrpe has not installed its server.

    Raises:
        OSError: when a file cannot be written.
    """
    if not nrpe.install(site):
        return False
    nrpe.write_report(site, *_judge(done))
    return True


def _judge(done: dispatched.Done) -> alarm.Report:
    match done:
        case dispatched.Reconciled(result):
            decision = result.decision
        case dispatched.Seen(decision):
            pass
        case dispatched.Failed(problem):
            return alarm.judge_problem(problem)
        case _:
            return alarm.judge_problem(RuntimeError("the hook did not look at the host"))
    return alarm.judge(checklist.verify(decision), decision.plan.reboot)
