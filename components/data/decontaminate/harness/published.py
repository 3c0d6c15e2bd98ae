"""Published contamination pairs as a test set: measured as they are, with the thresholds that own injections set.

Each pair's training text is searched for its benchmark text, all benchmark texts of the file being in the index. What
the sources call positive differs: rephrased by a language model (by construction), called contaminated by people, or by
a model (silver). Names of the figures say which.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from components.data.decontaminate.detector import Detector
from components.data.decontaminate.engine import Run, TextRecord, build_items
from components.data.decontaminate.evidence import Evidence
from components.data.decontaminate.rows import lines
from components.recipe.data import DecontaminateConfig

Pair = tuple[str, str, str]  # group, benchmark text, training text


def _human(row: dict[str, Any]) -> str:
    verdict = row.get("Is it contaminated?") or row.get("human_label") or row.get("human_verdict") or ""
    return (
        "called contaminated by people"
        if str(verdict).strip().upper()[:1] in ("Y", "T", "1", "C")
        else "called clean by people"
    )


def _rephrased(name: str) -> Callable[[dict], Iterable[Pair]]:
    return lambda row: [(f"{name} {row.get('variant', 'rephrased')}", row["benchmark_text"], row["text"])]


FILES: dict[str, Callable[[dict], Iterable[Pair]]] = {
    "llmdecon_gsm8k_rephrased": _rephrased("GSM8K"),
    "llmdecon_humaneval_rephrased": _rephrased("HumanEval"),
    "llmdecon_mmlu_rephrased": _rephrased("MMLU"),
    "metamath_gsm8k_backward": lambda row: [("GSM8K backward (derived)", row["original_question"], row["question"])],
    "llmdecon_codealpaca_humaneval_judged": lambda row: [
        (f"CodeAlpaca and HumanEval, judged {verdict}", row["test"], train)
        for train, verdict in zip(row["train"], row["results"], strict=False)
    ],
    "audit_math500_human_verdicts": lambda row: [
        (f"MATH-500, {_human(row)}", row["math500_problem"], row["train_problem"])
    ],
    "audit_math500_flagged_pairs": lambda row: [
        (f"MATH-500, flagged by an audit ({row['contamination_type']})", row["math500_problem"], row["train_problem"])
    ],
    "soft_contamination_pairs": lambda row: [
        (f"{row['benchmark']}, {row['match_type']}, judged {bool(row['is_sd'])}", row["test_text"], row["corpus_text"])
    ],
}  # fmt: skip


def published(folder: Path, config: DecontaminateConfig) -> dict[str, tuple[int, int, int]]:
    """{group: (pairs flagged, of them for another item only, pairs)} of contamination/*.jsonl in a folder."""
    counts: dict[str, list[int]] = defaultdict(lambda: [0, 0, 0])
    for name, pairs_of in FILES.items():
        path = Path(folder) / "contamination" / f"{name}.jsonl"
        if not path.is_file():
            continue
        pairs = [pair for _, line in lines(str(path)) for pair in pairs_of(json.loads(line)) if all(map(_filled, pair))]
        items = {text: f"b{number}" for number, text in enumerate(dict.fromkeys(text for _, text, _ in pairs))}
        flagged: dict[str, set[str]] = defaultdict(set)

        def sink(evidence: Evidence, flagged: dict[str, set[str]] = flagged) -> None:
            if evidence.decision == "removed":
                flagged[evidence.item].add(evidence.benchmark_item)

        benchmark = {name: [TextRecord(item, (("question", text),)) for text, item in items.items()]}
        run = Run(Detector(build_items(benchmark), config), sink)
        run.begin(name)
        ids = [f"r{number}" for number in range(len(pairs))]
        run.absorb(name, ids, run.detector.search(name, ids, [(("question", text),) for _, _, text in pairs]))
        for record, (group, text, _) in zip(ids, pairs, strict=True):
            counts[group][0] += record in flagged
            counts[group][1] += record in flagged and items[text] not in flagged[record]
            counts[group][2] += 1
    return {group: tuple(found) for group, found in counts.items()}


def _filled(text: Any) -> bool:
    return isinstance(text, str) and bool(text.strip())
