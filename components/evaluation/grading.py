"""Every answer to the scorer that can decide it: rules, or a judge; instructions in both of their modes.

One Scorer for a whole evaluation, so that the runner knows no kind by name.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

from components.data.schema import BenchmarkItem
from components.evaluation.judged.scorer import JudgedScorer
from components.failures import BadInput
from components.recipe.execution import ExecutionConfig
from components.rewards import extract
from components.rewards.instruction import failed_constraints
from components.rewards.types import Reward, RewardRequest, Scorer


class Grading:
    """rules decides every kind but `judged`, which `judged` decides."""

    def __init__(self, rules: Scorer, judged: JudgedScorer) -> None:
        self._rules, self._judged = rules, judged

    def score(self, requests: list[RewardRequest], deadline_s: float) -> list[Reward]:
        by_rule = [at for at, request in enumerate(requests) if request.verifier.kind != "judged"]
        by_judge = [at for at, request in enumerate(requests) if request.verifier.kind == "judged"]
        found: dict[int, Reward] = {}
        for scorer, places in ((self._rules, by_rule), (self._judged, by_judge)):
            if places:
                rewards = scorer.score([requests[at] for at in places], deadline_s)
                found.update(zip(places, rewards, strict=True))
        return [_with_both_modes(request, found[at]) for at, request in enumerate(requests)]

    def close(self) -> None:
        self._judged.close()
        self._rules.close()


def _with_both_modes(request: RewardRequest, reward: Reward) -> Reward:
    """Evidence `strict` and `loose`: whether each constraint held. `constraints`: how many there are."""
    if request.verifier.kind != "instruction" or reward.value is None:
        return reward
    reference = request.verifier.reference
    text = extract.final_text(request.response) or ""
    rows = reference["constraints"]
    evidence: dict[str, Any] = {**reward.evidence, "constraints": len(rows)}
    if text.strip():
        for mode in ("strict", "loose"):
            # One at a time: two constraints of a prompt may share an id.
            evidence[mode] = [not failed_constraints(text, {"constraints": [row]}, mode) for row in rows]
    return replace(reward, evidence=evidence)


def open_grading(
    held: ExitStack,
    items: Iterable[BenchmarkItem],
    judge: str,
    execution: ExecutionConfig,
    files: Mapping[str, Path],
    record: Path,
) -> Grading:
    """The scorer of these items, closed with `held`.

    Args:
        judge: model of `execution.judges`; empty when none is named.
        files: `benchmark.file` -> path.
        record: every question to the judge and its reply are appended here.
    Raises:
        BadInput: an item needs a judge or a file that is not there; before anything is sampled.
    """
    from components.rewards.judge import Judge
    from components.rewards.scorer import open_scorer

    opened = None
    if judge:
        endpoint = next((known for known in execution.judges if known.model == judge), None)
        if endpoint is None:
            names = ", ".join(known.model for known in execution.judges) or "none"
            raise BadInput(
                f"no endpoint is given for the judge {judge!r}",
                where="execution.judges",
                remedy=f"Add one with its base_url (there: {names})",
            )
        opened = Judge(endpoint, record=record, cache=Path(endpoint.cache) if endpoint.cache else None)
        held.callback(opened.close)
    concurrency = max((known.concurrency for known in execution.judges), default=1)
    judged = JudgedScorer(opened, files, concurrency)
    grading = Grading(open_scorer(tier=execution.sandbox_tier), judged)
    held.callback(grading.close)
    judged.check({str(item.verifier.reference["rule"]) for item in items if item.verifier.kind == "judged"})
    return grading


def judged_names(benchmarks: Mapping[str, Sequence[BenchmarkItem]]) -> list[str]:
    """Benchmarks with an item that a judge decides."""
    return [name for name, items in benchmarks.items() if any(item.verifier.kind == "judged" for item in items)]
