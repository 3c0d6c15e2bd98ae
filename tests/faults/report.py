"""Writes the fault matrix from the tests themselves: one row per test marked `fault`, with what it came to.

    python -m pytest -p tests.faults.report --fault-report docs/faults.md -m fault tests

A run of a part replaces that part's rows.
`@pytest.mark.fault(what, when, expected)` stands at a test or at one of its parameters.
"""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from components.artifacts.code import CodeState

PLACE = "<!-- table -->"
END = "<!-- end of table -->"
COLUMNS = 7
RESULTS = {"passed": "as expected", "failed": "**NOT as expected**", "skipped": "not run"}


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--fault-report", metavar="FILE", help="write the fault matrix into this Markdown file")


def pytest_configure(config: pytest.Config) -> None:
    if path := config.getoption("--fault-report"):
        config.pluginmanager.register(Matrix(Path(path)), "fault-matrix")


class Matrix:
    """Collects rows while the tests run. rows: test id -> (what, when, expected, result, seconds)."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.rows: dict[str, tuple[str, str, str, str, float]] = {}

    @pytest.hookimpl(hookwrapper=True)
    def pytest_runtest_makereport(self, item: pytest.Item):
        outcome = yield
        report = outcome.get_result()
        mark = item.get_closest_marker("fault")
        if mark is None or (report.when != "call" and report.passed):
            return
        result = RESULTS[report.outcome]
        if report.skipped and isinstance(report.longrepr, tuple):
            result += f": {report.longrepr[2].removeprefix('Skipped: ')}"
        what, when, expected = mark.args
        self.rows[item.nodeid] = (what, when, expected, result, report.duration)

    def pytest_sessionfinish(self) -> None:
        """Rows of this session replace earlier ones of the same test and fault; the others stay, with their date."""
        text = self.path.read_text(encoding="utf-8")
        head, _, rest = text.partition(PLACE)
        old, _, tail = rest.partition(END)
        rows = {key: cells for cells in map(_cells, old.splitlines()) if cells and (key := (*cells[:3], cells[6]))}
        now: dict[tuple[str, ...], str] = {}
        for node, (what, when, expected, result, seconds) in self.rows.items():
            test = f"`{node.replace('tests/', '', 1).partition('[')[0]}`"
            key = (what, when, expected, test)
            if key in now and now[key] != RESULTS["passed"]:
                continue  # one of several cases of this row went wrong: that is what it says
            now[key] = result
            rows[key] = [what, when, expected, result, f"{seconds:.1f}", _today(), test]
        order = list(dict.fromkeys(key[0] for key in rows))
        lines = [
            f"{len(rows)} faults, {sum(cells[3] == RESULTS['passed'] for cells in rows.values())} as expected.",
            "",
            "| fault | when | expected | result | seconds | run | test |",
            "|---|---|---|---|---|---|---|",
            *(f"| {' | '.join(rows[key])} |" for key in sorted(rows, key=lambda key: order.index(key[0]))),
        ]
        self.path.write_text("\n".join([head + PLACE, *lines, END]) + tail, encoding="utf-8")


def _cells(line: str) -> list[str]:
    """The cells of a row of results; empty for any other line."""
    cells = [cell.strip() for cell in line.strip().strip("|").split(" | ")]
    return cells if len(cells) == COLUMNS and cells[0] != "fault" else []


def _today() -> str:
    return f"{time.strftime('%Y-%m-%d')} {CodeState.read(Path(__file__).parents[2]).commit[:8]}"
