"""IFEval and IFBench: instructions that a rule can check, strict and loose, by prompt and by instruction.

avg@k is the strict accuracy by prompt. The paper's four numbers (arXiv 2311.07911, section 3) are metrics of their own;
published results of IFEval often give the strict one by prompt, IFBench's the loose one (arXiv 2507.02833).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from statistics import fmean

from components.data.schema import Verifier
from components.evaluation.benchmark import Benchmark, Hub, Question, RecordProblem, Row, text
from components.evaluation.statistics import mean_interval, ratio_interval
from components.evaluation.types import Answer, Metric
from components.rewards.instruction import UNSUPPORTED


def instructions(row: Row) -> Question:
    """prompt, instruction_id_list, kwargs (absent arguments are null in some exports)."""
    names, arguments = row["instruction_id_list"], row["kwargs"]
    if not isinstance(names, list) or not names or len(names) != len(arguments):
        raise RecordProblem("kwargs", "as many entries as instruction_id_list are expected")
    constraints = [
        {"id": name, "arguments": {key: value for key, value in (given or {}).items() if value is not None}}
        for name, given in zip(names, arguments, strict=True)
    ]
    verifier = Verifier(kind="instruction", reference={"constraints": constraints})
    return Question(str(row.get("key", "")) or text(row, "prompt"), text(row, "prompt"), verifier)


def checkable(row: Row) -> bool:
    """False for the few IFBench types that need a trained tagger or a pronouncing dictionary."""
    return not any(name in UNSUPPORTED for name in row["instruction_id_list"])


def four_accuracies(answers: Sequence[Answer], confidence: float, files: Mapping[str, Path]) -> dict[str, Metric]:
    """prompt strict/loose and instruction strict/loose, from evidence `strict` and `loose` (a boolean each)."""
    found: dict[str, Metric] = {}
    for mode in ("strict", "loose"):
        prompts: dict[str, list[float]] = {}
        followed: dict[str, list[float]] = {}
        asked: dict[str, int] = {}
        for answer in answers:
            if answer.value is None:
                continue
            held = answer.evidence.get(mode)
            # An answer that never ended its reasoning follows nothing.
            held = [False] * int(answer.evidence.get("constraints", 1)) if held is None else held
            prompts.setdefault(answer.item, []).append(float(all(held)))
            followed.setdefault(answer.item, []).append(float(sum(held)))
            asked[answer.item] = len(held)
        if not prompts:
            return {}
        interval = mean_interval([sum(v) / len(v) for v in prompts.values()], 1, confidence)
        found[f"prompt {mode}"] = Metric(interval.value, interval.low, interval.high)
        every = ratio_interval([fmean(counts) for counts in followed.values()], list(asked.values()), confidence)
        found[f"instruction {mode}"] = Metric(every.value, every.low, every.high)
    return found


_rules = partial(Benchmark, domain="general", read=instructions, metrics=four_accuracies, max_new_tokens=32_768 - 4096)

BENCHMARKS = (
    _rules(
        name="ifeval",
        title="IFEval",
        source="arXiv 2311.07911",
        headline="prompt strict",
        hub=Hub("google/IFEval", "train"),
    ),
    _rules(
        name="ifbench",
        title="IFBench",
        source="arXiv 2507.02833",
        headline="prompt loose",
        keep=checkable,
        hub=Hub("allenai/IFBench_test", "train"),
    ),
)
