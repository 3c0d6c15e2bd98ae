"""The table over stages: one row per evaluated model, one column per benchmark, each cell a score with its interval."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from components.evaluation.statistics import PairedComparison, compare
from components.evaluation.types import Evaluation, Score

if TYPE_CHECKING:
    from rich.table import Table


def stage_rows(evaluations: Mapping[str, Evaluation]) -> list[dict[str, Any]]:
    """JSON form: one row per stage, in order, with a score per benchmark and the comparison with the stage before.

    evaluations: stage name -> evaluation, in the order of the recipe.
    """
    rows, previous = [], None
    for stage, evaluation in evaluations.items():
        rows.append(
            {
                "stage": stage,
                "scores": {name: _cell(score) for name, score in _columns(evaluation).items()},
                "change": {} if previous is None else change(previous, evaluation),
            }
        )
        previous = evaluation
    return rows


def change(before: Evaluation, after: Evaluation) -> dict[str, dict[str, Any]]:
    """Paired comparison per benchmark both have, and over all items; `overall` first."""
    found: dict[str, dict[str, Any]] = {}
    for name in ("overall", *(name for name in after.benchmarks if name in before.benchmarks)):
        benchmark = None if name == "overall" else name
        left, right = before.item_means(benchmark), after.item_means(benchmark)
        if left.keys() & right.keys():
            samples = min(before.overall.samples, after.overall.samples)
            found[name] = _comparison(compare(left, right, samples, after.overall.avg.confidence))
    return found


def markdown_table(evaluations: Mapping[str, Evaluation]) -> str:
    """GitHub Markdown. Cells: percent [interval], then the paired change to the row above where it is decided."""
    header, body = _text_table(evaluations)
    lines = [f"| {' | '.join(header)} |", f"|{'|'.join(['---'] + ['---:'] * (len(header) - 1))}|"]
    return "\n".join(lines + [f"| {' | '.join(row)} |" for row in body]) + "\n"


def rich_table(evaluations: Mapping[str, Evaluation], title: str = "Held-out scores") -> Table:
    """For the terminal."""
    from rich.table import Table

    header, body = _text_table(evaluations)
    table = Table(title=title, caption=caption(evaluations))
    for number, name in enumerate(header):
        table.add_column(name, justify="right" if number else "left")
    for row in body:
        table.add_row(*row)
    return table


def caption(evaluations: Mapping[str, Evaluation]) -> str:
    """What the numbers are, in one line."""
    first = next(iter(evaluations.values()))
    return (
        f"avg@{first.overall.samples} in percent [{100 * first.overall.avg.confidence:g} % interval, items as clusters]"
        ", change to the row above where its paired interval excludes 0"
    )


def _text_table(evaluations: Mapping[str, Evaluation]) -> tuple[list[str], list[list[str]]]:
    rows = stage_rows(evaluations)
    names = list(dict.fromkeys(name for row in rows for name in row["scores"]))
    failures = ("truncated", "no_answer", "errors")
    body = []
    for row in rows:
        cells = [_text_cell(row["scores"].get(name), row["change"].get(name)) for name in names]
        overall = row["scores"]["overall"]
        shares = [f"{100 * overall[kind] / overall['answers']:.1f}" for kind in failures]
        body.append([row["stage"], *cells, *shares, f"{overall['mean_tokens']:.0f}"])
    return ["stage", *names, "truncated %", "no answer %", "errors %", "tokens"], body


def _text_cell(score: dict[str, Any] | None, changed: dict[str, Any] | None) -> str:
    if score is None:
        return "-"
    text = f"{100 * score['avg']:.1f} [{100 * score['low']:.1f}, {100 * score['high']:.1f}]"
    if changed and changed["verdict"] != "undecided":
        text += f" {100 * changed['difference']:+.1f}"
    return text


def _columns(evaluation: Evaluation) -> dict[str, Score]:
    return {**evaluation.benchmarks, "overall": evaluation.overall}


def _cell(score: Score) -> dict[str, Any]:
    return {
        "avg": score.avg.value,
        "low": score.avg.low,
        "high": score.avg.high,
        "pass_at": {str(k): value for k, value in score.pass_at.items()},
        "items": score.items,
        "answers": score.answers,
        "truncated": score.truncated,
        "no_answer": score.no_answer,
        "errors": score.errors,
        "mean_tokens": score.mean_tokens,
    }


def _comparison(found: PairedComparison) -> dict[str, Any]:
    return {
        "difference": found.difference,
        "low": found.low,
        "high": found.high,
        "items": found.items,
        "gained": found.gained,
        "lost": found.lost,
        "detectable": found.detectable,
        "verdict": found.verdict,
    }
