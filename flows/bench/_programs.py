"""What became of the programs that code RLVR ran, by language, from the rewards that the stage's artifact keeps."""

from __future__ import annotations

import gzip
import json
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

EDGE = 3
"""Steps at the beginning and at the end whose shares are compared."""


def rewarded(rollouts: Path) -> Iterator[dict[str, Any]]:
    """Every response of an RL stage with its reward (components.rl.evidence) and its `step`."""
    for path in sorted(rollouts.glob("rewards-*.jsonl.gz")):
        step = int(path.name.removeprefix("rewards-").removesuffix(".jsonl.gz"))
        for line in gzip.decompress(path.read_bytes()).decode().splitlines():
            yield json.loads(line) | {"step": step}


def program_table(responses: Iterable[Mapping[str, Any]]) -> str:
    """A Markdown table: a row per language with programs, verdicts, and the share accepted at first and at last."""
    found: dict[str, list[tuple[int, str]]] = defaultdict(list)
    for response in responses:
        evidence = response["reward"].get("evidence") or {}
        if "sandbox" in evidence:
            found[evidence["language"]].append((response["step"], evidence["sandbox"]))
    lines = [
        "| language | programs | accepted | wrong answer | did not end well | failed by the machine "
        f"| right in the first {EDGE} steps | in the last {EDGE} |",
        "|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for language, programs in sorted(found.items()):
        count = len(programs)
        accepted = sum(verdict == "accepted" for _, verdict in programs)
        wrong = sum(verdict == "wrong-answer" for _, verdict in programs)
        machine = sum(verdict in ("infrastructure-error", "unavailable") for _, verdict in programs)
        steps = sorted({step for step, _ in programs})
        first, last = (_accepted(programs, chosen) for chosen in (steps[:EDGE], steps[-EDGE:]))
        cells = [f"{n:,}" for n in (count, accepted, wrong, count - accepted - wrong - machine, machine)]
        lines.append(f"| {language} | {' | '.join(cells)} | {first:.1%} | {last:.1%} |")
    return "\n".join(lines) + "\n"


def _accepted(programs: list[tuple[int, str]], steps: list[int]) -> float:
    verdicts = [verdict for step, verdict in programs if step in steps]
    return sum(verdict == "accepted" for verdict in verdicts) / len(verdicts)
