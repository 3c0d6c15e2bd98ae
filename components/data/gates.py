"""Quality gates on Great Expectations: one suite per split, severity decides, Data Docs beside the artifact.

The suites (components.data.suites) look at columns of facts, so their cost does not grow with text length. A critical
expectation that fails stops the stage with the expectation, the observed value and example records; a warning is
returned and shown. `CheckpointResult.success` is False for any failure, warnings too: severity is read per result.
"""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from components.data.gate_pages import NO_TIME, settle, write_index
from components.data.suites import Expect, expectation
from components.failures import BadInput

EXAMPLES = 3


@dataclass(frozen=True)
class Finding:
    """An expectation that failed."""

    suite: str
    severity: str
    meaning: str
    expectation: str
    column: str
    observed: str
    examples: tuple[str, ...]

    def __str__(self) -> str:
        shown = f"; for example {', '.join(self.examples)}" if self.examples else ""
        seen = f"{self.expectation} on {self.column or 'the table'}, observed {self.observed}"
        return f"{self.suite}: {self.meaning} ({seen}){shown}"


@dataclass(frozen=True)
class GateReport:
    """findings: everything that failed. evaluated: expectations run. directory: results.json, docs/index.html and
    index.html, which has everything on one page and links to the pages beside it, as they are attached to a run."""

    findings: tuple[Finding, ...]
    evaluated: int
    directory: Path

    @property
    def pages(self) -> dict[str, Path]:
        """{name: file} worth showing beside a run: index, results.json and the validation page of every suite."""
        own = {"index": self.directory / "index.html", "results": self.directory / "results.json"}
        return own | self.validations

    @property
    def validations(self) -> dict[str, Path]:
        """{suite: its page in the Data Docs}."""
        root = self.directory / "docs" / "validations"
        return {page.relative_to(root).parts[0]: page for page in sorted(root.rglob("*.html"))}

    @property
    def warnings(self) -> tuple[Finding, ...]:
        return tuple(finding for finding in self.findings if finding.severity != "critical")

    @property
    def critical(self) -> tuple[Finding, ...]:
        return tuple(finding for finding in self.findings if finding.severity == "critical")

    def require(self, where: str, remedy: str = "") -> None:
        """Raises BadInput when a critical expectation failed."""
        if self.critical:
            more = f" (and {len(self.critical) - 1} more)" if len(self.critical) > 1 else ""
            raise BadInput(
                f"a critical data gate failed: {self.critical[0]}{more}",
                where=where,
                remedy=remedy or "Correct the sources, or set the gate in the recipe under corpus.gates",
            )


def run_gates(
    tables: Mapping[str, tuple[Sequence[Expect], Mapping[str, Sequence[Any]]]], directory: Path
) -> GateReport:
    """Validates every table and writes Data Docs and results.json into `directory`.

    Args:
        tables: {suite name: (expectations, columns)}; every table has a column `id` that examples are named by. An
            empty table is judged by its row count alone, a column of None is not judged.
    """
    import great_expectations as gx
    import pandas as pd
    from great_expectations.core.run_identifier import RunIdentifier
    from great_expectations.data_context.types.base import ProgressBarsConfig

    for name in ("great_expectations", "great_expectations.data_context"):
        logging.getLogger(name).setLevel(logging.ERROR)
    directory = Path(directory).resolve()
    directory.mkdir(parents=True, exist_ok=True)
    context = gx.get_context(mode="ephemeral")
    context.variables.progress_bars = ProgressBarsConfig(globally=False)
    for site in list(context.list_data_docs_sites()):
        context.delete_data_docs_site(site)
    context.add_data_docs_site(
        "gates",
        {
            "class_name": "SiteBuilder",
            "site_index_builder": {"class_name": "DefaultSiteIndexBuilder"},
            "store_backend": {"class_name": "TupleFilesystemStoreBackend", "base_directory": str(directory / "docs")},
        },
    )
    source = context.data_sources.add_pandas("records")
    findings: list[Finding] = []
    results: dict[str, Any] = {}
    evaluated = 0
    for name, (expectations, table) in tables.items():
        frame = pd.DataFrame({column: list(values) for column, values in table.items()})
        used = [expect for expect in expectations if _applies(expect, table)]
        definition = context.validation_definitions.add(
            gx.ValidationDefinition(
                name=name,
                data=source.add_dataframe_asset(name).add_batch_definition_whole_dataframe("all"),
                suite=context.suites.add(
                    gx.ExpectationSuite(name=name, expectations=[expectation(expect) for expect in used])
                ),
            )
        )
        checkpoint = context.checkpoints.add(
            gx.Checkpoint(
                name=name,
                validation_definitions=[definition],
                result_format={"result_format": "SUMMARY", "partial_unexpected_count": EXAMPLES},
            )
        )
        (outcome,) = checkpoint.run(
            batch_parameters={"dataframe": frame}, run_id=RunIdentifier(run_name="gate", run_time=NO_TIME)
        ).run_results.values()
        evaluated += len(outcome.results)
        results[name] = [_summary(result) for result in outcome.results]
        findings += [_finding(name, result, frame) for result in outcome.results if not result.success]
    # Once for all suites: the checkpoint's own UpdateDataDocsAction would rebuild the index for every one.
    context.build_data_docs()
    # Tutorial pictures and fonts, 4 MB that no result needs.
    for folder in ("fonts", "images"):
        shutil.rmtree(directory / "docs" / "static" / folder, ignore_errors=True)
    settle(directory / "docs")
    findings.sort(key=lambda finding: (finding.severity != "critical", finding.suite, finding.meaning))
    validations = GateReport(tuple(findings), evaluated, directory).validations
    inside = {name: page.relative_to(directory / "docs").as_posix() for name, page in validations.items()}
    write_index(directory / "docs" / "index.html", results, findings, inside)
    write_index(directory / "index.html", results, findings, {name: f"{name}.html" for name in validations})
    (directory / "results.json").write_text(
        json.dumps({"suites": results, "findings": [asdict(finding) for finding in findings]}, indent=1) + "\n"
    )
    return GateReport(tuple(findings), evaluated, directory)


def _applies(expect: Expect, table: Mapping[str, Sequence[Any]]) -> bool:
    """Whether there is anything to ask: an empty table is judged by its row count, a column without values not at all.

    A number over all records decides more than the rows of a sample do.
    """
    if expect.kind == "rows":
        return "records" not in table
    if not table:
        return False
    if expect.kind == "custom" or not expect.column:
        return True
    return any(value is not None for value in table.get(expect.column, ()))


def _summary(result) -> dict[str, Any]:
    config = result.expectation_config
    return {
        "expectation": config.type,
        "column": config.kwargs.get("column", ""),
        "meaning": (config.meta or {}).get("meaning", ""),
        "severity": str(getattr(config.severity, "value", config.severity)),
        "success": bool(result.success),
        "observed": _observed(result),
    }


def _observed(result) -> str:
    """What Great Expectations saw, in words."""
    problem = result.exception_info or {}
    if problem.get("raised_exception"):
        return f"an error: {problem.get('exception_message')}"
    found = result.result
    if "observed_value" in found:
        value = found["observed_value"]
        return f"{float(value):.4g}" if isinstance(value, float) else str(value)
    return f"{found.get('unexpected_count', 0)} of {found.get('element_count', 0)} unexpected"


def _finding(name: str, result, frame) -> Finding:
    summary = _summary(result)
    rows = result.result.get("partial_unexpected_index_list") or []
    if not rows and summary["column"] == "duplicate_fraction":
        rows = list(frame.index[frame["duplicate"]])
    return Finding(
        suite=name,
        severity=summary["severity"],
        meaning=summary["meaning"],
        expectation=summary["expectation"],
        column=summary["column"],
        observed=summary["observed"],
        examples=tuple(_example(frame, row, summary["column"]) for row in rows[:EXAMPLES]),
    )


def _example(frame, row: int, column: str) -> str:
    value = frame[column].iloc[row]
    source = f" from {frame['source'].iloc[row]}" if "source" in frame.columns else ""
    return f"{frame['id'].iloc[row]}{source} ({column}={value})"
