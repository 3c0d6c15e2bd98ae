"""Answers with given verdicts, for metrics."""

from __future__ import annotations

from typing import Any

from components.evaluation.types import Answer


def answer(benchmark: str, item: str, sample: int, value: float | None, family: str = "", **evidence: Any) -> Answer:
    outcome = "error" if value is None else "correct" if value >= 1 else "wrong" if value <= 0 else "scored"
    return Answer(
        benchmark=benchmark,
        item=item,
        sample=sample,
        domain="general",
        family=family,
        level=0,
        seed=sample,
        prompt="q",
        response="a",
        reference="",
        verdict=outcome,
        outcome=outcome,
        value=value,
        finish="stop",
        tokens=5,
        evidence=evidence,
    )
