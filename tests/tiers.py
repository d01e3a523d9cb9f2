"""A plugin for pytest: fast tests stay fast, and ``--distiller NAME`` chooses the tests of one distiller.

A test is fast unless it is marked ``slow``, ``process``, ``browser`` or ``gpu``. A fast test may not start processes.
With ``--fast-limit SECONDS``, as in ``make check`` and ``make test``, a fast test that takes longer fails, and the
slowest tests are listed.

The limit is on the processor time of pytest's own process, not on the time that passes: on a busy machine a test waits
for the processor, and that must not fail it. Fixtures shared by several tests are not counted. A test over the limit is
run once more before it fails, because the first use of something (an import, a parser, a convolution of a new shape)
takes time once in a process, in whichever test comes first.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Generator
from typing import Any

import pytest
from _pytest.runner import runtestprotocol

TIERS = {"slow", "process", "browser", "gpu"}  # what ``make check`` leaves out
LISTED = 15
SECONDS = "processor seconds"
STARTS = {
    "subprocess.Popen",
    "os.fork",
    "os.forkpty",
    "os.posix_spawn",
}  # Python's audit events; a shell does not count

begun = pytest.StashKey[float]()  # processor time at the start of the test, without shared fixtures
starts: list[str] = []  # of processes, since the present test began


def audit(event: str, arguments: tuple[Any, ...]) -> None:
    if event in STARTS:
        starts.append(f"{event} {arguments[1] if event == 'subprocess.Popen' else ''}")


def pytest_configure(config: pytest.Config) -> None:
    sys.addaudithook(audit)


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("spotkd")
    group.addoption("--fast-limit", type=float, metavar="SECONDS", help="fail tests without a marker that take longer")
    group.addoption("--distiller", metavar="NAME", help="run this distiller's tests alone, those in tests/distillers")


def is_fast(item: pytest.Item) -> bool:
    return TIERS.isdisjoint(marker.name for marker in item.iter_markers())


# Fast tests


@pytest.hookimpl(wrapper=True)
def pytest_runtest_setup(item: pytest.Item) -> Generator[None, None, None]:
    starts.clear()
    item.stash[begun] = time.process_time()
    yield


@pytest.hookimpl(wrapper=True)
def pytest_fixture_setup(fixturedef: Any, request: pytest.FixtureRequest) -> Generator[None, Any, Any]:
    start = time.process_time()
    try:
        return (yield)
    finally:
        if fixturedef.scope != "function" and begun in request._pyfuncitem.stash:
            request._pyfuncitem.stash[begun] += time.process_time() - start


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, None, None]:
    try:
        yield
    finally:
        item.user_properties[:] = [(SECONDS, time.process_time() - item.stash[begun])]
    if starts and is_fast(item):
        pytest.fail(f"{item.nodeid} starts a process and is not marked process: {starts[0]}", pytrace=False)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item, nextitem: pytest.Item | None) -> bool | None:
    limit = item.config.getoption("--fast-limit")
    if limit is None or not is_fast(item):
        return None
    item.ihook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
    reports = runtestprotocol(item, nextitem=nextitem, log=False)
    if all(report.passed for report in reports) and seconds(reports[1]) > limit:
        item._initrequest()  # type: ignore[attr-defined]
        reports = runtestprotocol(item, nextitem=nextitem, log=False)
        if reports[1].passed and seconds(reports[1]) > limit:
            reports[1].outcome = "failed"
            reports[1].longrepr = (
                f"{item.nodeid} takes {seconds(reports[1]):.2f} s of processor time and is not marked slow: at most "
                f"{limit:g} s are allowed. Make it faster (less data, fewer epochs, a shared fixture), or mark it."
            )
    for report in reports:
        item.ihook.pytest_runtest_logreport(report=report)
    item.ihook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)
    return True


def seconds(report: pytest.TestReport) -> float:
    return next((float(str(value)) for name, value in report.user_properties if name == SECONDS), 0.0)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    if config.getoption("--fast-limit") is None:
        return
    reports = [
        report
        for outcome in ("passed", "failed")
        for report in terminalreporter.stats.get(outcome, [])
        if report.when == "call"
    ]
    terminalreporter.write_sep("=", f"slowest {LISTED} tests, in {SECONDS}")
    for report in sorted(reports, key=seconds, reverse=True)[:LISTED]:
        tiers = ", ".join(sorted(TIERS & set(report.keywords))) or "fast"
        terminalreporter.write_line(f"{seconds(report):8.2f}  {report.nodeid} ({tiers})")


# The tests of one distiller


def distillers_of(item: pytest.Item) -> set[str]:
    """Whose test it is: by its parameter ``name`` or ``variant``, or else by its marker ``distillers``."""
    from spotkd import DISTILLERS

    from .distillers.common import VARIANTS

    callspec = getattr(item, "callspec", None)
    parameters = callspec.params if callspec is not None else {}
    for key in ("name", "variant"):
        if key in parameters:
            return {VARIANTS[parameters[key]][0]}
    names = {name for marker in item.iter_markers("distillers") for name in marker.args}
    return set(DISTILLERS) if names == {"all"} else names


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    chosen = config.getoption("--distiller")
    tests = [item for item in items if "distillers" in item.path.parts]
    if tests:
        whose = {item: distillers_of(item) for item in tests}
        if unknown := [item.nodeid for item, names in whose.items() if not names]:
            raise pytest.UsageError(f"no parameter name and no @pytest.mark.distillers(...): {', '.join(unknown)}")
    if chosen is None:
        return
    from spotkd import DISTILLERS, SpotkdError

    try:
        DISTILLERS[chosen]
    except SpotkdError as error:
        raise pytest.UsageError(str(error)) from error
    keep = [item for item in tests if chosen in whose[item]]
    if not keep:
        raise pytest.UsageError(f"no test of {chosen} among those collected: they are in tests/distillers")
    config.hook.pytest_deselected(items=[item for item in items if item not in keep])
    items[:] = keep
