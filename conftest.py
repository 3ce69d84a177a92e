"""What `make test` means by green: every cell and test ran, and nothing passed by accident.

nbval marks cells after a timed-out one as expected failures and skips what is tagged so; here
any such outcome is a failure, and so is a notebook cell that was not executed. Under xdist the
controller judges: it sees every outcome, and learns from its workers what was collected.
"""

import json
import os
import tempfile
from collections.abc import Iterable
from pathlib import Path

import pytest

NOTEBOOKS = Path(__file__).parent / "notebooks"
OUTCOMES: dict[str, pytest.TestReport] = {}
NOT_CHECKED = "not checked"  # record_property: why a test could not check what it is for
COLLECTED: set[str] = set()  # node ids

if "PYTEST_XDIST_WORKER" in os.environ:  # before torch is imported, and for the kernels it starts
    os.environ["OMP_NUM_THREADS"] = "1"


def pytest_configure(config: pytest.Config) -> None:
    """Runs made by tests go to a temporary reports folder, not into the checkout."""
    folder = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
    config.add_cleanup(folder.cleanup)
    os.environ["FLUXTTICE_REPORTS"] = folder.name  # no fixture: cells of notebooks use none


def pytest_collection_finish(session: pytest.Session) -> None:
    COLLECTED.update(item.nodeid for item in session.items)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_node_collection_finished(node: object, ids: Iterable[str]) -> None:
    COLLECTED.update(ids)


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    if report.when == "call" or report.outcome != "passed":
        OUTCOMES[report.nodeid] = report


def _not_green() -> list[str]:
    odd = [
        f"{name}: {'xpassed' if report.passed else 'xfailed or skipped'}"
        for name, report in OUTCOMES.items()
        if hasattr(report, "wasxfail") or report.skipped
    ]
    return odd + _unexecuted()


def _unexecuted() -> list[str]:
    """Code cells of the notebooks under test that were collected short or never ran."""
    missing = []
    for path in sorted(NOTEBOOKS.glob("*.ipynb")):
        prefix = f"notebooks/{path.name}::"
        if not any(name.startswith(prefix) for name in COLLECTED):
            continue  # this run was not asked for the notebook
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
        expected = sum(cell["cell_type"] == "code" for cell in cells)
        ran = sum(name.startswith(prefix) for name in OUTCOMES)
        if ran != expected:
            missing.append(f"{path.name}: {ran} of {expected} code cells were executed")
    return missing


@pytest.hookimpl(tryfirst=True)
def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    worker = hasattr(session.config, "workerinput")  # sees its own part only
    if exitstatus == pytest.ExitCode.OK and not worker and _not_green():
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    for name, report in OUTCOMES.items():
        for kind, why in report.user_properties:
            if kind == NOT_CHECKED:
                terminalreporter.write_line(f"NOT CHECKED {name}: {why}", yellow=True)
    for line in _not_green():
        terminalreporter.write_line(f"NOT GREEN {line}", red=True)
