"""Reward-hacking monitors: what a policy does when it earns reward without doing the task, as numbers of a step.

    length          correlation of reward and length inside groups: longer (or shorter) pays as such
    repetition      share of word 8-grams that repeat an earlier one of the same response
    empty           responses without an answer
    hard-coded      accepted programs whose text holds a test's input and its output: they print what the test expects
    disagreement    comparisons a judge decides the other way when the order is turned, and spread between judges

Pure functions of a step's groups; each bound that is passed is an alarm with its number. Alarms are logged and warned
of, not fatal: a person looks at the evidence and decides.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from components.recipe.rewards import MonitorConfig
from components.rewards import extract
from components.rewards.types import Reward, RewardRequest

GRAM = 8
_FEWEST = 16  # responses; a correlation over fewer is chance
# A literal shorter than this stands in too many honest programs.
_TELLING = 4


def monitor(scored: Sequence[tuple[RewardRequest, Reward]]) -> dict[str, float]:
    """The step's numbers under `monitor/`; one that does not apply is left out."""
    if not scored:
        return {}
    report = {
        "monitor/repetition": float(np.mean([repetition(request.response) for request, _ in scored])),
        "monitor/empty_fraction": sum(not _answered(request) for request, _ in scored) / len(scored),
    }
    correlation = length_correlation(scored)
    if correlation is not None:
        report["monitor/length_correlation"] = correlation
    accepted = [(q, r) for q, r in scored if q.verifier.kind == "code" and r.verdict == "correct"]
    if accepted:
        hard = sum(hard_coded(request) for request, _ in accepted)
        report["monitor/hard_coded_fraction"] = hard / len(accepted)
    disagreement = judge_disagreement([reward for _, reward in scored])
    if disagreement is not None:
        report["monitor/judge_disagreement"] = disagreement
    return report


def alarms(report: Mapping[str, float], bounds: MonitorConfig) -> list[str]:
    """One sentence for each bound that is passed."""
    rows = (
        ("length_correlation", abs, bounds.max_length_correlation, "reward follows length: is it paid for?"),
        ("repetition", float, bounds.max_repetition, "responses repeat themselves"),
        ("empty_fraction", float, bounds.max_empty_fraction, "responses have no answer"),
        ("hard_coded_fraction", float, bounds.max_hard_coded_fraction, "accepted programs hold the tests' outputs"),
        ("judge_disagreement", float, bounds.max_judge_disagreement, "the judge contradicts itself or another one"),
    )
    found = []
    for name, size, bound, meaning in rows:
        value = report.get(f"monitor/{name}")
        if value is not None and size(value) > bound:
            found.append(f"{name} {value:.3g} passes {bound:g}: {meaning}")
    return found


def repetition(text: str, gram: int = GRAM) -> float:
    """Share of the word n-grams that stood in the text before; 0 for a text of fewer words."""
    words = text.split()
    grams = [tuple(words[at : at + gram]) for at in range(len(words) - gram + 1)]
    return 1.0 - len(set(grams)) / len(grams) if grams else 0.0


def length_correlation(scored: Sequence[tuple[RewardRequest, Reward]]) -> float | None:
    """Pearson's r of reward and characters, both less their group's mean; None where one of them never varies,
    or over too few responses."""
    groups: dict[str, list[tuple[float, float]]] = {}
    for request, reward in scored:
        if reward.value is not None:
            key = request.group or request.prompt
            groups.setdefault(key, []).append((reward.value, float(len(request.response))))
    parts = [np.array(rows) - np.mean(rows, axis=0) for rows in groups.values() if len(rows) > 1]
    if sum(map(len, parts)) < _FEWEST:
        return None
    values, lengths = np.concatenate(parts).T
    scale = math.sqrt(float(values @ values) * float(lengths @ lengths))
    return float(values @ lengths) / scale if scale > 1e-12 else None


def hard_coded(request: RewardRequest) -> bool:
    """Whether the program's text holds the expected output of a test together with its input.

    An output alone may be a constant of the task; an input beside it is a lookup of tests.
    """
    source = extract.program(request.response) or ""
    squeezed = "".join(source.split())
    for test in request.verifier.reference.get("tests") or ():
        given, expected = _literals(test)
        if len(given) + len(expected) >= 2 * _TELLING and given in squeezed and expected in squeezed:
            return True
    return False


def _literals(test: Mapping[str, Any]) -> tuple[str, str]:
    """Input and output of a test, without white space: as a program would have to spell them."""
    if "call" in test:
        given = str(test["call"]).partition("(")[2].removesuffix(")")
        return "".join(given.split()), "".join(str(test.get("result", "")).split())
    lines = (str(test.get(name, "")).strip().replace("\n", "\\n") for name in ("stdin", "stdout"))
    given, expected = ("".join(line.split()) for line in lines)
    return given, expected


def judge_disagreement(rewards: Sequence[Reward]) -> float | None:
    """Share of judged comparisons whose verdict turned with the order, or in which judges chose opposite sides; for
    rubrics the share of criteria on which judges differ. None where nothing was judged."""
    differs = total = 0
    for reward in rewards:
        for evidence in (reward.evidence, *(part["evidence"] for part in reward.evidence.get("parts", ()))):
            for game in evidence.get("games", ()):
                if game.get("asked"):
                    choices = {choice for both in game["verdicts"].values() for choice in both}
                    total, differs = total + 1, differs + ({"A", "B"} <= choices)
            met = list(evidence.get("met", {}).values()) if isinstance(evidence.get("met"), dict) else []
            if len(met) > 1:
                total += len(met[0])
                differs += sum(len(set(column)) > 1 for column in zip(*met, strict=True))
    return differs / total if total else None


def _answered(request: RewardRequest) -> bool:
    return bool((extract.final_text(request.response) or "").strip())
