from __future__ import annotations

import gzip
import json
from pathlib import Path

from flows.bench._programs import program_table, rewarded


def response(language: str, verdict: str) -> dict:
    return {"reward": {"value": 0.0, "verdict": "", "evidence": {"sandbox": verdict, "language": language}}}


def test_programs_are_counted_by_language_and_over_steps(tmp_path: Path) -> None:
    steps = {
        0: [response("perl", "wrong-answer"), response("bash", "accepted")],
        1: [response("perl", "runtime-error"), {"reward": {"value": 1.0, "verdict": "correct", "evidence": {}}}],
        9: [response("perl", "accepted"), response("perl", "infrastructure-error")],
    }
    for step, rows in steps.items():
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (tmp_path / f"rewards-{step:06d}.jsonl.gz").write_bytes(gzip.compress(text.encode()))
    lines = program_table(rewarded(tmp_path)).splitlines()
    assert lines[2] == "| bash | 1 | 1 | 0 | 0 | 0 | 100.0% | 100.0% |"
    assert lines[3] == "| perl | 4 | 1 | 1 | 1 | 1 | 25.0% | 25.0% |"
    assert len(lines) == 4
