"""Recall and precision of the detector per benchmark, per kind of copy and per level, on a corpus with known copies.

Clean records are real ones. A real corpus may hold real copies, so `clean` alarms are shown by level and in the report,
not assumed away: exact and contained findings are copies by construction, the others are counted as false alarms.
"""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from components.data.decontaminate.code import code_windows
from components.data.decontaminate.detector import Detector, Fields
from components.data.decontaminate.engine import Run, TextRecord, build_items
from components.data.decontaminate.evidence import Evidence
from components.data.decontaminate.harness.inject import NEGATIVES, POSITIVES
from components.recipe.data import DecontaminateConfig

BATCH = 2048
# Findings that are copies whatever the corpus: nothing but dress differs.
CERTAIN = frozenset({"exact", "contained"})
# Shorter programs are idioms that thousands of programs hold.
FEWEST_WINDOWS = 12


@dataclass
class Measured:
    """injected, found: {(benchmark, kind): records}, made of and flagged at all. right: flagged for the very item they
    were made from.

    levels: {(benchmark, kind, level): injected records flagged}; alarms: {(benchmark, level): clean records flagged},
    both by the benchmark of the finding. clean: clean records. examples: evidence of false alarms.
    """

    injected: Counter = field(default_factory=Counter)
    found: Counter = field(default_factory=Counter)
    right: Counter = field(default_factory=Counter)
    levels: Counter = field(default_factory=Counter)
    clean: int = 0
    alarms: Counter = field(default_factory=Counter)
    examples: list[Evidence] = field(default_factory=list)

    def recall(self, kind: str, benchmark: str | None = None) -> float | None:
        """Share of injected copies that were flagged; None when none was injected."""
        keys = [key for key in self.injected if key[1] == kind and benchmark in (None, key[0])]
        injected = sum(self.injected[key] for key in keys)
        return sum(self.found[key] for key in keys) / injected if injected else None

    def share(self, kind: str, level: str) -> float:
        """Share of the injected copies of a kind that a level flagged; a copy may be flagged by several."""
        injected = sum(count for (_, own), count in self.injected.items() if own == kind)
        flagged = sum(count for (_, own, found), count in self.levels.items() if (own, found) == (kind, level))
        return flagged / injected if injected else 0.0

    @property
    def false_alarms(self) -> int:
        return sum(count for (_, level), count in self.alarms.items() if level not in CERTAIN)

    def precision(self, level: str | None = None, benchmark: str | None = None) -> float | None:
        """Right findings over all findings of a level and a benchmark; certain levels count clean alarms as copies."""

        def asked(own: str, found: str) -> bool:
            return benchmark in (None, own) and level in (None, found)

        counts = {True: 0, False: 0}
        for (own, kind, found), count in self.levels.items():
            if asked(own, found):
                counts[kind in POSITIVES] += count
        for (own, found), count in self.alarms.items():
            if asked(own, found):
                counts[found in CERTAIN] += count
        total = sum(counts.values())
        return counts[True] / total if total else None


def injections(
    benchmarks: Mapping[str, Sequence[TextRecord]], per_benchmark: int, seed: int
) -> list[tuple[str, str, str, str]]:
    """(benchmark, item, kind, text) of known copies and siblings of a sample of every benchmark."""
    made = []
    for name in sorted(benchmarks):
        draw = random.Random(f"{seed}/{name}")
        items = list(benchmarks[name])
        for item in draw.sample(items, min(per_benchmark, len(items))):
            parts = dict(item.parts)
            for kind, change in {**POSITIVES, **NEGATIVES}.items():
                text = parts["question"]
                if kind == "renamed code":
                    text = parts.get("solution", text)
                    if len(code_windows(text)) < FEWEST_WINDOWS:
                        continue
                changed = change(text, draw)
                if changed is not None:
                    made.append((name, item.id, kind, changed))
    return made


def measure(
    clean: Sequence[Fields],
    benchmarks: Mapping[str, Sequence[TextRecord]],
    config: DecontaminateConfig,
    per_benchmark: int = 100,
    seed: int = 0,
) -> Measured:
    """Injects known copies into a corpus of clean records and says what the detector makes of both."""
    made = injections(benchmarks, per_benchmark, seed)
    result = Measured(clean=len(clean))
    rows: list[tuple[str, Fields]] = [(f"clean#{n}", fields) for n, fields in enumerate(clean)]
    rows += [(f"{kind}#{n}", (("question", text),)) for n, (_, _, kind, text) in enumerate(made)]
    random.Random(seed).shuffle(rows)
    flagged: dict[str, list[Evidence]] = defaultdict(list)

    def sink(evidence: Evidence) -> None:
        if evidence.decision == "removed":
            flagged[evidence.item].append(evidence)

    run = Run(Detector(build_items(benchmarks), config), sink)
    run.begin("corpus")
    for start in range(0, len(rows), BATCH):
        part = rows[start : start + BATCH]
        ids = [name for name, _ in part]
        run.absorb("corpus", ids, run.detector.search("corpus", ids, [fields for _, fields in part]))
    for number, (benchmark, item, kind, _) in enumerate(made):
        evidence = flagged.get(f"{kind}#{number}", [])
        result.injected[benchmark, kind] += 1
        result.found[benchmark, kind] += bool(evidence)
        result.right[benchmark, kind] += any(found.benchmark_item == item for found in evidence)
        for place in {(found.benchmark, kind, found.level) for found in evidence}:
            result.levels[place] += 1
    for name, evidence in flagged.items():
        if name.startswith("clean#"):
            result.alarms[evidence[0].benchmark, evidence[0].level] += 1
            if evidence[0].level not in CERTAIN:
                result.examples.append(evidence[0])
    return result
