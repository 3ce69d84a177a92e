"""What `make test` means by green: every cell and test ran, and nothing passed by accident.

nbval marks cells after a timed-out one as expected failures and skips what is tagged so; here
any such outcome is a failure, and so is a notebook cell that was not executed.
"""

import json
from pathlib import Path

import pytest

NOTEBOOKS = Path(__file__).parent / "notebooks"
OUTCOMES: dict[str, pytest.TestReport] = {}


@pytest.fixture(autouse=True, scope="session")
def reports_in_temporary_folder(tmp_path_factory: pytest.TempPathFactory):
    """Runs made by tests go to a temporary reports folder, not into the checkout."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FLUXTTICE_REPORTS", str(tmp_path_factory.mktemp("reports")))
        yield


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    if report.when == "call" or report.outcome != "passed":
        OUTCOMES[report.nodeid] = report


def _not_green(session: pytest.Session) -> list[str]:
    odd = [
        f"{name}: {'xpassed' if report.passed else 'xfailed or skipped'}"
        for name, report in OUTCOMES.items()
        if hasattr(report, "wasxfail") or report.skipped
    ]
    return odd + [name for name in _unexecuted(session)]


def _unexecuted(session: pytest.Session) -> list[str]:
    """Code cells of the notebooks under test that were collected short or never ran."""
    missing = []
    for path in sorted(NOTEBOOKS.glob("*.ipynb")):
        ran = [name for name in OUTCOMES if f"{path.name}::" in name]
        if not any(item.nodeid.startswith(f"notebooks/{path.name}") for item in session.items):
            continue  # this run was not asked for the notebook
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
        expected = sum(cell["cell_type"] == "code" for cell in cells)
        if len(ran) != expected:
            missing.append(f"{path.name}: {len(ran)} of {expected} code cells were executed")
    return missing


@pytest.hookimpl(tryfirst=True)
def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    if exitstatus == pytest.ExitCode.OK and _not_green(session):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    for line in _not_green(terminalreporter._session):
        terminalreporter.write_line(f"NOT GREEN {line}", red=True)
