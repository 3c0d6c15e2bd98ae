"""Public corpora as people publish them, all read by detection alone. Skipped where the shared data is absent."""

from pathlib import Path

import pytest

from components.data.code_tests import LEETCODE_PRELUDE
from components.data.ingest import ingest
from components.data.sources import layout_of
from components.recipe.data import BenchmarkSource, FieldMap, FileSource
from components.rewards.probes import RewardProbes

DATA = Path(__file__).parents[3].parent / "shared" / "data"
pytestmark = pytest.mark.skipif(not DATA.is_dir(), reason="../shared/data is not there")
SAMPLE = 40

# corpus -> {split it can serve: layout}
CORPORA = {
    "aime_1983_2023.jsonl": {"sft": "problem-answer", "rl": "problem-answer", "pretrain": "problem-answer"},
    "arc_agi_1_training.jsonl": {"rl": "grids"},
    "code_contests_sample.jsonl.gz": {"rl": "code-tests"},
    "deepmath_sample.jsonl": {"rl": "problem-answer"},
    "dolly_sample.jsonl": {"sft": "prompt-response", "pretrain": "prompt-response"},
    "dpo_en_demo.jsonl": {"preference": "preference"},
    "gsm8k_train.jsonl.gz": {"sft": "problem-answer", "rl": "problem-answer"},
    "hh_rlhf_harmless_test.jsonl.gz": {"preference": "preference"},
    "journey_longcot_aime.jsonl": {"sft": "problem-answer", "rl": "problem-answer"},
    "kto_en_demo.jsonl": {"sft": "labelled"},
    "leetcode_train.jsonl.gz": {"rl": "code-tests"},
    "math_train.jsonl.gz": {"rl": "problem-answer"},
    "multisubject_rlvr.jsonl.gz": {"rl": "problem-answer"},
    "oasst_en_100.jsonl": {"sft": "message-tree", "preference": "message-tree"},
    "tool_reasoning_demo.jsonl": {"sft": "messages"},
}


def test_every_corpus_is_covered():
    assert {path.name for path in (DATA / "corpora").iterdir()} == set(CORPORA)


@pytest.mark.parametrize(("name", "split"), [(name, split) for name, splits in CORPORA.items() for split in splits])
def test_a_corpus_is_read_by_detection(name, split):
    found = ingest(FileSource(uri=str(DATA / "corpora" / name), split=split, limit=SAMPLE))
    entry = found.sources[0]
    assert (entry.layout, found.quarantine) == (CORPORA[name][split], [])
    assert len(found.records) == SAMPLE
    assert all(record.licence and record.row and record.source.endswith(f"#{record.row}") for record in found.records)
    if split == "preference":
        assert all(record.chosen != record.rejected for record in found.records)


def test_stored_solutions_of_leetcode_pass_their_tests():
    found = ingest(FileSource(uri=str(DATA / "corpora" / "leetcode_train.jsonl.gz"), split="rl", limit=12))
    assert all(record.verifier.reference["prelude"] == LEETCODE_PRELUDE for record in found.records)
    with RewardProbes() as probes:
        accepted = probes.solutions_accepted(found.records)
        broken = [record.model_copy(update={"solution": "class Solution: pass"}) for record in found.records[:2]]
        assert probes.solutions_accepted(broken) == [False, False]
        assert sum(accepted) >= 11
        humaneval = BenchmarkSource(name="humaneval", uri=str(DATA / "benchmarks" / "humaneval.jsonl"))
        assert all(probes.solutions_accepted(ingest(humaneval).records[:12]))


@pytest.mark.parametrize(
    ("name", "fields"),
    [
        ("aime_2025", None),
        ("gsm8k_test", None),
        ("math500", None),
        ("humaneval", None),
        ("mbpp_sanitized", None),
        ("codeforces_2024", None),
        ("arc_agi_1_evaluation", None),
        ("olymmath_en_hard", None),
        ("olympiadbench_math", FieldMap(problem="problem", answer="answer[0]", solution="solution[0]?")),
    ],
)
def test_verifiable_benchmarks_are_read(name, fields):
    source = BenchmarkSource(name=name, uri=str(DATA / "benchmarks" / f"{name}.jsonl"), fields=fields)
    assert layout_of(source, source.uri) is not None
    found = ingest(source)
    malformed = len(found.quarantine) / (len(found.quarantine) + len(found.records))
    assert malformed <= 0.1, found.quarantine[:3]
