"""From answers to scores: per benchmark, per domain and overall.

Overall is the mean over all items, so a benchmark weighs as many items as it has. Errors are left out of every mean:
a verifier that failed says nothing about the model.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from components.evaluation.statistics import mean_interval, pass_at_k
from components.evaluation.suite import metrics_of
from components.evaluation.types import Answer, Evaluation, Metric, Score, read_answers
from components.failures import BadInput, InfrastructureError

# Folder of an evaluation artifact with the files that metrics were computed from, named `benchmark.file`.
FILES = "files"


def score_answers(answers: Iterable[Answer], confidence: float, name: str = "overall") -> Score:
    """Score of a set of answers.

    Raises:
        InfrastructureError: every answer is an error, so there is no score.
    """
    answers = list(answers)
    items: dict[tuple[str, str], list[float]] = defaultdict(list)
    for answer in answers:
        if answer.value is not None:
            items[answer.benchmark, answer.item].append(answer.value)
    if not items:
        raise InfrastructureError(f"{name}: none of {len(answers)} answers could be verified, so there is no score")
    samples = max(len(values) for values in items.values())
    outcomes = Counter(answer.outcome for answer in answers)
    return Score(
        avg=mean_interval([sum(values) / len(values) for values in items.values()], samples, confidence),
        pass_at={k: _mean_pass_at(items.values(), k) for k in _powers_of_two(samples)},
        samples=samples,
        items=len(items),
        answers=len(answers),
        correct=outcomes["correct"],
        wrong=outcomes["wrong"],
        scored=outcomes["scored"],
        truncated=outcomes["truncated"],
        no_answer=outcomes["no-answer"],
        errors=outcomes["error"],
        refused=outcomes["refused"],
        judge_failed=outcomes["judge-failed"],
        mean_tokens=sum(answer.tokens for answer in answers) / len(answers),
    )


def summarise(
    answers: list[Answer], settings: Mapping[str, Any], confidence: float, files: Mapping[str, Path] | None = None
) -> Evaluation:
    """Groups answers by benchmark and domain, in the order they first appear, and scores each group.

    files: `benchmark.file` -> path, what metrics of some benchmarks need (the standings of contests).
    """
    benchmarks: dict[str, list[Answer]] = defaultdict(list)
    domains: dict[str, list[Answer]] = defaultdict(list)
    for answer in answers:
        benchmarks[answer.benchmark].append(answer)
        domains[answer.domain].append(answer)
    return Evaluation(
        answers=answers,
        settings=dict(settings),
        benchmarks={name: score_answers(group, confidence, name) for name, group in benchmarks.items()},
        domains={name: score_answers(group, confidence, name) for name, group in domains.items()},
        overall=score_answers(answers, confidence),
        metrics=further_metrics(benchmarks, confidence, files or {}),
    )


def further_metrics(
    benchmarks: Mapping[str, Sequence[Answer]], confidence: float, files: Mapping[str, Path]
) -> dict[str, dict[str, Metric]]:
    """What standard benchmarks say beside avg@k; benchmarks without such numbers are left out."""
    found = {}
    for name, answers in benchmarks.items():
        function = metrics_of(name)
        values = function(answers, confidence, own_files(files, name)) if function is not None else {}
        if values:
            found[name] = values
    return found


def own_files(files: Mapping[str, Path], benchmark: str) -> dict[str, Path]:
    """`file` -> path of one benchmark, from `benchmark.file` -> path of all."""
    return {key.partition(".")[2]: path for key, path in files.items() if key.partition(".")[0] == benchmark}


def load_evaluation(directory: Path) -> Evaluation:
    """Reads an evaluation artifact; scores are computed again from its answers, so they cannot disagree.

    Raises:
        BadInput: a file is missing or not of an evaluation.
    """
    scores, items = directory / "scores.json", directory / "items.jsonl"
    for path in (scores, items):
        if not path.is_file():
            raise BadInput("an evaluation holds items.jsonl and scores.json", where=str(path))
    settings = json.loads(scores.read_text()).get("settings")
    if not isinstance(settings, dict) or "confidence" not in settings:
        raise BadInput("no settings of an evaluation", where=f"{scores}: settings")
    files = {path.name: path for path in sorted((directory / FILES).glob("*"))}
    return summarise(read_answers(items), settings, settings["confidence"], files)


def _powers_of_two(samples: int) -> list[int]:
    """1, 2, 4, ... and `samples` itself."""
    return sorted({1 << power for power in range(samples.bit_length()) if 1 << power <= samples} | {samples})


def _mean_pass_at(items: Iterable[list[float]], k: int) -> float:
    found = [pass_at_k(len(values), sum(value >= 1 for value in values), k) for values in items if len(values) >= k]
    return sum(found) / len(found)
