"""What an evaluation is made of: answers, scores with intervals, and the settings they were taken with.

Files of an evaluation artifact: `items.jsonl` (one Answer per line, the truth), `scores.json` (Evaluation.scores and
settings, derived), `report.html` (per-item browser, derived).
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from components.evaluation.statistics import Estimate
from components.failures import BadInput

Outcome = Literal["correct", "wrong", "scored", "truncated", "no-answer", "refused", "judge-failed", "error"]


@dataclass(frozen=True)
class Answer:
    """One sampled answer and its verdict.

    outcome: exactly one of eight. `error` (the verifier failed) and `judge-failed` (no verdict from the judge) have no
    value and never count as an answer; `truncated` hit the token limit without being right; `no-answer` ended without
    an answer the verifier could read; `refused` was declined by the model or a filter; `scored` has a grade between
    right and wrong.
    value: the verifier's, in [0, 1]; None for errors.
    tokens: length of the response in tokens, with its stop token.
    """

    benchmark: str
    item: str
    sample: int
    domain: str
    family: str
    level: int
    seed: int
    prompt: str
    response: str
    reference: str
    verdict: str
    outcome: Outcome
    value: float | None
    finish: Literal["stop", "length", "refused"]
    tokens: int
    evidence: dict[str, Any] = field(default_factory=dict)

    @property
    def key(self) -> tuple[str, str, int]:
        return self.benchmark, self.item, self.sample


@dataclass(frozen=True)
class Metric:
    """A further number of a benchmark, with its interval where there is one.

    unit: fraction (shown in percent), percent, rating or count.
    """

    value: float
    low: float | None = None
    high: float | None = None
    unit: Literal["fraction", "percent", "rating", "count"] = "fraction"

    def __str__(self) -> str:
        scale = 100 if self.unit == "fraction" else 1
        digits = 0 if self.unit in ("rating", "count") else 1
        text = f"{scale * self.value:.{digits}f}"
        if self.low is None or self.high is None:
            return text
        return f"{text} [{scale * self.low:.{digits}f}, {scale * self.high:.{digits}f}]"


@dataclass(frozen=True)
class Score:
    """Score of one benchmark, domain or the whole.

    avg: avg@k over all answers but errors (truncated, refused and no-answer count 0, and are listed apart).
    pass_at: k -> unbiased pass@k, over items with at least k answers that are not errors.
    items: items with at least one answer that is not an error; answers: all answers, errors included.
    correct, wrong, scored, truncated, no_answer, refused, judge_failed, errors: answers by outcome; they add up to
    `answers`.
    """

    avg: Estimate
    pass_at: Mapping[int, float]
    samples: int
    items: int
    answers: int
    correct: int
    wrong: int
    scored: int
    truncated: int
    no_answer: int
    errors: int
    mean_tokens: float
    refused: int = 0
    judge_failed: int = 0


@dataclass(frozen=True)
class Evaluation:
    """Answers, what they were taken with, and the scores made from them.

    settings: all that makes scores comparable (sampling, seed, contract, engine): another setting is another score.
    metrics: benchmark -> its further numbers (components.evaluation.benchmark), such as `prompt loose` or `rating`.
    """

    answers: list[Answer]
    settings: Mapping[str, Any]
    benchmarks: Mapping[str, Score]
    domains: Mapping[str, Score]
    overall: Score
    metrics: Mapping[str, Mapping[str, Metric]] = field(default_factory=dict)

    def item_means(self, benchmark: str | None = None, domain: str | None = None) -> dict[str, float]:
        """`benchmark/item` -> mean value over answers that are not errors: the unit of a paired comparison."""
        values: dict[str, list[float]] = defaultdict(list)
        for answer in self.answers:
            wanted = (benchmark in (None, answer.benchmark)) and (domain in (None, answer.domain))
            if wanted and answer.value is not None:
                values[f"{answer.benchmark}/{answer.item}"].append(answer.value)
        return {item: sum(found) / len(found) for item, found in values.items()}

    def scores(self) -> dict[str, Any]:
        """The content of scores.json."""
        return {
            "settings": dict(self.settings),
            "overall": asdict(self.overall),
            "benchmarks": {name: asdict(score) for name, score in self.benchmarks.items()},
            "domains": {name: asdict(score) for name, score in self.domains.items()},
            "metrics": {name: {k: asdict(v) for k, v in found.items()} for name, found in self.metrics.items()},
        }

    def write(self, directory: Path) -> None:
        """Writes items.jsonl and scores.json."""
        write_answers(directory / "items.jsonl", self.answers)
        (directory / "scores.json").write_text(json.dumps(self.scores(), indent=2) + "\n")


def write_answers(path: Path, answers: list[Answer]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as stream:
        stream.writelines(json.dumps(asdict(answer), ensure_ascii=False) + "\n" for answer in answers)


def read_answers(path: Path) -> list[Answer]:
    """Raises BadInput, with file and line, for a row that is not an Answer."""
    answers = []
    with path.open() as stream:
        for number, line in enumerate(stream, 1):
            try:
                answers.append(Answer(**json.loads(line)))
            except (ValueError, TypeError) as error:
                raise BadInput(f"not an evaluation answer: {error}", where=f"{path}:{number}") from error
    return answers
