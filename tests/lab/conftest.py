"""Fixtures of the lab tier: a machine boots once per module.

Progress goes to standard error as it was before pytest captured it: a run of many minutes is never
silent. At the end stand where the time went and what was proved of each kind of host.
"""

import contextlib
import json
import os
import pathlib
from collections.abc import Iterator

import pytest

from lab import booting, errors, guest, matrix, progress, requirements
from lab import machine as machines

HERE = pathlib.Path(__file__).parent
STEPS = pytest.StashKey[progress.Progress]()
ROW = "row"


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add what chooses the rows of the matrix, and where its table goes for programs."""
    group = parser.getgroup("the lab's matrix")
    group.addoption(
        "--rows",
        default=matrix.ALWAYS,
        help="the kinds of host to test: always (and all that has no row), all, or names of rows"
        " or machines, separated by commas",
    )
    group.addoption("--matrix-json", metavar="FILE", help="write the table as JSON, too")


def pytest_configure(config: pytest.Config) -> None:
    """Keep a way to the terminal: pytest does not capture yet."""
    stream = os.fdopen(os.dup(2), "w")
    config.add_cleanup(stream.close)
    config.stash[STEPS] = progress.Progress(stream)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Keep the tests of the rows that are asked for, and note in each test whose it is."""
    asked = str(config.getoption("rows"))
    try:
        chosen = {row.name for row in matrix.choose(asked)}
    except ValueError as error:
        raise pytest.UsageError(f"--rows: {error}") from error
    kept = []
    for item in items:
        marker = item.get_closest_marker(ROW)
        if marker is None:
            wanted = asked == matrix.ALWAYS or not item.path.is_relative_to(HERE)
        else:
            wanted = marker.args[0] in chosen
            item.user_properties.append((ROW, marker.args[0]))
        if wanted:
            kept.append(item)
    config.hook.pytest_deselected(items=[item for item in items if item not in kept])
    items[:] = kept


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    """Show what was proved of each kind of host, and where the time went."""
    outcomes = _read_outcomes(terminalreporter)
    if outcomes:
        described = matrix.describe(matrix.choose(str(config.getoption("rows"))), outcomes)
        terminalreporter.section("what was proved of each kind of host")
        terminalreporter.write_line(matrix.format_table(described))
        file = config.getoption("matrix_json")
        if file:
            path = pathlib.Path(file)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(described, indent=2) + "\n")
    if config.stash[STEPS].steps:
        terminalreporter.section("where the time went in the lab")
        terminalreporter.write_line(config.stash[STEPS].table())


def _read_outcomes(terminalreporter: pytest.TerminalReporter) -> list[matrix.Outcome]:
    """Return how each test of a row ended: the worst of its set-up, itself and its tear-down."""
    found: dict[str, matrix.Outcome] = {}
    reports = [
        report
        for name in ("passed", "failed", "error", "skipped", "")  # "" has set-ups that went well
        for report in terminalreporter.stats.get(name, [])
        if isinstance(report, pytest.TestReport) and ROW in dict(report.user_properties)
    ]
    for report in reports:
        row = str(dict(report.user_properties)[ROW])
        former = found.get(report.nodeid, matrix.Outcome(row, matrix.PASSED, 0.0))
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else ""
        found[report.nodeid] = matrix.Outcome(
            row,
            report.outcome if report.outcome != "passed" else former.result,
            former.seconds + report.duration,
            reason or former.reason,
        )
    return list(found.values())


@pytest.fixture(scope="session")
def steps(request: pytest.FixtureRequest) -> progress.Progress:
    """The session's progress."""
    return request.config.stash[STEPS]


@pytest.fixture(scope="session")
def boot(steps: progress.Progress) -> booting.Boot:
    """Boots a machine of the table on its own image: to be used in a with statement.

    Where this host cannot run it the tests are skipped with the reason, and fail in CI.
    """

    @contextlib.contextmanager
    def boot_or_skip(
        machine: machines.Machine, *, disk_cache: str = guest.FORGETFUL
    ) -> Iterator[guest.Guest]:
        with contextlib.ExitStack() as stack:
            try:
                requirements.check()
                booted = booting.boot(machine, steps, disk_cache=disk_cache)
                host = stack.enter_context(booted)
            except errors.UnableError as error:
                if os.environ.get("CI") == "true":
                    raise
                pytest.skip(str(error))
            yield host

    return boot_or_skip


@pytest.fixture(scope="module")
def intel(boot: booting.Boot) -> Iterator[guest.Guest]:
    """The machine `intel`, freshly booted, for the tests of one module in their order."""
    with boot(machines.INTEL) as host:
        yield host
