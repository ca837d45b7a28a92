"""Fixtures of the lab tier: a machine boots once per module.

Progress goes to standard error as it was before pytest captured it: a run of many minutes is never
silent. At the end stands where the time went.
"""

import functools
import os
from collections.abc import Iterator

import pytest

from lab import booting, errors, guest, machine, progress, requirements

STEPS = pytest.StashKey[progress.Progress]()


def pytest_configure(config: pytest.Config) -> None:
    """Keep a way to the terminal: pytest does not capture yet."""
    stream = os.fdopen(os.dup(2), "w")
    config.add_cleanup(stream.close)
    config.stash[STEPS] = progress.Progress(stream)


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    """Show where the time went."""
    if config.stash[STEPS].steps:
        terminalreporter.section("where the time went in the lab")
        terminalreporter.write_line(config.stash[STEPS].table())


@pytest.fixture(scope="session")
def steps(request: pytest.FixtureRequest) -> progress.Progress:
    """The session's progress."""
    return request.config.stash[STEPS]


@pytest.fixture(scope="session")
def boot(steps: progress.Progress) -> booting.Boot:
    """Boots a machine of the table on its own image: to be used in a with statement."""
    try:
        requirements.check()
    except errors.LabError as error:
        if os.environ.get("CI") == "true":
            raise
        pytest.skip(str(error))
    return functools.partial(booting.boot, steps=steps)


@pytest.fixture(scope="module")
def intel(boot: booting.Boot) -> Iterator[guest.Guest]:
    """The machine `intel`, freshly booted, for the tests of one module in their order."""
    with boot(machine.INTEL) as host:
        yield host
