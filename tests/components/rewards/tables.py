"""The reward tables of docs/rewards.md: `python -m tests.components.rewards.tables` prints them, from real runs.

Reference answers come from ../shared/data beside the repository; without it those tables are left out, saying so.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from components.data.schema import Verifier
from components.rewards.normalise import normal
from components.rewards.scorer import RuleScorer, open_scorer
from components.rewards.types import Reward, RewardRequest
from tests.components.rewards.instructions import IFBENCH, IFEVAL, OURS
from tests.components.rewards.pairs import DIFFERENT, EQUAL, MISSED

BENCHMARKS = Path(__file__).resolve().parents[4] / "shared" / "data" / "benchmarks"
FILES = ("math500", "aime_2024", "aime_2025", "hmmt_feb_2024", "olymmath_en_hard", "olympiadbench_math")
STEP = 7  # each answer is compared with the one this many items on


def reference_answers(name: str) -> list[str] | None:
    """The answers of a benchmark in file order; None where it is not here."""
    path = BENCHMARKS / f"{name}.jsonl"
    if not path.exists():
        return None
    rows = [json.loads(line)["answer"] for line in path.read_text().splitlines()]
    return [str(row[0] if isinstance(row, list) else row).strip().strip("$") for row in rows]


def rewritings(answer: str) -> Iterable[str]:
    """The same answer as other people write it; only those that change the text."""
    forms = {
        "blanks": re.sub(r"(?<=[,+=])\s*(?=[^\s{}])", " ", answer),
        "fractions": answer.replace("\\frac{", "\\dfrac{"),
        "dollars": f"${answer}$",
        "full stop": f"{answer}.",
        "sizes": re.sub(r"\\left|\\right", "", answer),
        "assignment": f"x = {answer}" if re.fullmatch(r"-?\d+", answer) else answer,
        "thousands": f"{int(answer):,}" if re.fullmatch(r"\d{4,}", answer) else answer,
        "decimal": f"{answer}.0" if re.fullmatch(r"-?\d+", answer) else answer,
        "slash": re.sub(r"^(-?)\\frac\{(\d+)\}\{(\d+)\}$", r"\1\2/\3", answer),
        "division": re.sub(r"^(-?)(\d+)$", r"\1\\frac{\2}{1}", answer),
    }
    return [form for form in forms.values() if form != answer]


def scored(scorer: RuleScorer, pairs: list[tuple[str, str]]) -> list[Reward]:
    verifier = {reference: Verifier(kind="math", reference={"answer": reference}) for _, reference in pairs}
    batch = [RewardRequest("r", "p", f"\\boxed{{{answer}}}", verifier[reference]) for answer, reference in pairs]
    return scorer.score(batch, deadline_s=60.0)


def others(answers: list[str]) -> list[tuple[str, str]]:
    """Answers of different items that differ as text."""
    turned = zip(answers, answers[STEP:] + answers[:STEP], strict=True)
    return [(left, right) for left, right in turned if normal(left) != normal(right)]


def main() -> None:
    with open_scorer(verify_workers=2) as scorer:
        pairs = [*((*pair, True) for pair in EQUAL), *((*pair, False) for pair in DIFFERENT)]
        rewards = scored(scorer, [pair[:2] for pair in pairs])
        found = Counter((right, reward.value == 1.0) for (*_, right), reward in zip(pairs, rewards, strict=True))
        ways = Counter("symbols" if "method" in reward.evidence else "text or numbers" for reward in rewards)
        print("| hand-checked pairs | of them | called equal | called different |\n| --- | --- | --- | --- |")
        for right, name in ((True, "equal"), (False, "different, attacks among them")):
            equal, unequal = found[right, True], found[right, False]
            print(f"| {name} | {equal + unequal} | {equal} | {unequal} |")
        told = ", ".join(f"{count} by {way}" for way, count in ways.items())
        print(f"\nDecided: {told}. Known to be missed: {len(MISSED)}.\n")
        print("| benchmark | answers | itself | rewritten | called equal | another item's | called equal |")
        print("| --- | --- | --- | --- | --- | --- | --- |")
        for name in FILES:
            answers = reference_answers(name)
            if answers is None:
                print(f"| {name} | not here: ../shared/data is absent | | | | | |")
                continue
            itself = scored(scorer, [(answer, answer) for answer in answers])
            again = scored(scorer, [(form, answer) for answer in answers for form in rewritings(answer)])
            foreign = others(answers)
            false = [
                (pair, reward) for pair, reward in zip(foreign, scored(scorer, foreign), strict=True) if reward.value
            ]
            counts = [len(answers), sum(r.value == 1.0 for r in itself), len(again), sum(r.value == 1.0 for r in again)]
            print(f"| {name} | " + " | ".join(map(str, [*counts, len(foreign), len(false)])) + " |")
            for (left, right), _ in false:
                print(f"  false: {left} = {right}")
    kinds = (("IFEval", IFEVAL), ("IFBench", IFBENCH), ("ringflow's own", OURS))
    print("\n| instructions | types | responses that keep one | that break one |\n| --- | --- | --- | --- |")
    for name, rows in kinds:
        print(f"| {name} | {len({row[0] for row in rows})} | {len(rows)} | {len(rows)} |")


if __name__ == "__main__":
    main()
