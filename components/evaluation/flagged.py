"""Scores without the benchmark items that stand in the training data, beside the scores with them.

Decontamination removes the training records, and says which benchmark items they resembled (decontamination.json). A
score that falls when those items are left out was partly memory of what an earlier stage, or the base model, had seen.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from html import escape
from pathlib import Path

from components.evaluation.scores import score_answers
from components.evaluation.statistics import Estimate
from components.evaluation.types import Evaluation

Flagged = Mapping[str, Mapping[str, Mapping[str, str]]]


@dataclass(frozen=True)
class Compared:
    """One benchmark. items: flagged ones, by the strongest level that found them. without: None when none is left."""

    items: Mapping[str, int]
    all: Estimate
    without: Estimate | None


def read_flagged(path: Path) -> Flagged:
    """{benchmark: {item: {"level", "decision"}}} of a decontamination.json; older ones have none."""
    return json.loads(path.read_text()).get("flagged", {})


def read_searched(path: Path) -> frozenset[str]:
    """The benchmarks that training data was searched for, of a decontamination.json."""
    return frozenset(json.loads(path.read_text())["counts"].get("benchmarks", {}))


def compare(evaluation: Evaluation, flagged: Flagged) -> dict[str, Compared]:
    """Benchmarks with flagged items (of decision `removed`) that were evaluated, and `overall` when there are any."""
    confidence = evaluation.overall.avg.confidence
    gone = {
        (benchmark, item): found["level"]
        for benchmark, items in flagged.items()
        for item, found in items.items()
        if found["decision"] == "removed"
    }
    asked = {(answer.benchmark, answer.item) for answer in evaluation.answers}
    gone = {key: level for key, level in gone.items() if key in asked}
    compared = {}
    for name in [*evaluation.benchmarks, "overall"] if gone else []:
        levels = Counter(level for (benchmark, _), level in gone.items() if name in (benchmark, "overall"))
        if not levels:
            continue
        score = evaluation.overall if name == "overall" else evaluation.benchmarks[name]
        left = [
            answer
            for answer in evaluation.answers
            if name in (answer.benchmark, "overall") and (answer.benchmark, answer.item) not in gone
        ]
        verified = any(answer.value is not None for answer in left)
        without = score_answers(left, confidence, name).avg if verified else None
        compared[name] = Compared(dict(sorted(levels.items())), score.avg, without)
    return compared


def write_compared(path: Path, compared: Mapping[str, Compared]) -> None:
    """Writes flagged.json: {benchmark: {"items": {level: n}, "all": {...}, "without": {...} or null}}."""
    content = {name: asdict(found) for name, found in compared.items()}
    path.write_text(json.dumps(content, indent=2) + "\n")


def table(compared: Mapping[str, Compared], unsearched: Sequence[str] = ()) -> str:
    """HTML for the evaluation's report. unsearched: benchmarks that the training data was not searched for."""
    told = f"<p>The training data was not searched for {escape(', '.join(unsearched))}.</p>" if unsearched else ""
    if not compared:
        return told or "<p>No item of these benchmarks was found in the training data.</p>"
    rows = "".join(
        "<tr>"
        + "".join(
            f"<td>{escape(cell)}</td>"
            for cell in (
                name,
                ", ".join(f"{count} {level}" for level, count in found.items.items()),
                _shown(found.all),
                _shown(found.without),
            )
        )
        + "</tr>"
        for name, found in compared.items()
    )
    return (
        "<h2>Items found in the training data</h2><table><thead><tr><th>benchmark</th><th>flagged items</th>"
        f"<th>all items %</th><th>without them %</th></tr></thead><tbody>{rows}</tbody></table>{told}"
    )


def _shown(estimate: Estimate | None) -> str:
    if estimate is None:
        return "none left"
    return f"{100 * estimate.value:.1f} ({100 * estimate.low:.1f} to {100 * estimate.high:.1f})"
