"""The stages `corpus` and `decontaminate` on real parts: generator, files, tokenizer, Great Expectations."""

import json

import pytest

from components.artifacts.local import LocalContext
from components.data.jsonl import read_benchmarks, read_corpus
from components.failures import BadInput
from components.recipe.data import (
    BenchmarkSource,
    CorpusConfig,
    DecontaminateConfig,
    DedupConfig,
    FileSource,
    GeneratorSource,
)
from components.recipe.model import ModelConfig
from tasks.stage import STAGES, StageConfig

NANO = ModelConfig(preset="nano")
GENERATOR = GeneratorSource(pretrain=50, sft=200, rl=60, preference=40, benchmark=8)


def corpus(root, section):
    context = LocalContext(root, "corpus", seed=1, quiet=True)
    return context, STAGES["corpus"].function()(context, {}, StageConfig(section, NANO))


def clean(root, corpus_context):
    context = LocalContext(root, "decontaminate", quiet=True)
    inputs = {"corpus": corpus_context.ref("corpus")}
    return context, STAGES["decontaminate"].function()(context, inputs, StageConfig(DecontaminateConfig(), None))


def test_generated_and_own_data_through_both_stages(tmp_path):
    problems = [
        {"problem": f"What is {n} plus {n + 3}?", "answer": str(2 * n + 3), "solution": "add"} for n in range(40)
    ]
    (tmp_path / "own.jsonl").write_text("".join(json.dumps(row) + "\n" for row in problems))
    (tmp_path / "bench.jsonl").write_text("".join(json.dumps(row) + "\n" for row in problems[:5]))
    section = CorpusConfig(
        sources=(GENERATOR, FileSource(uri=str(tmp_path / "own.jsonl"), split="sft", licence="MIT")),
        benchmarks=(BenchmarkSource(name="own", uri=str(tmp_path / "bench.jsonl")),),
        dedup=DedupConfig(drop=False),  # the generator draws with replacement
    )
    context, result = corpus(tmp_path / "corpus", section)
    assert result.summary["sft"] == 240
    assert result.summary["benchmark:own"] == 5
    sources = json.loads((context.output / "sources.json").read_text())
    assert {"uri", "sha256", "licence", "records", "split"} <= sources[0].keys()
    assert sum(entry["records"] for entry in sources if entry["split"] == "sft") == 240
    assert (context.root / "attachments" / "gates" / "sft.html").is_file()
    cleaned, summary = clean(tmp_path / "clean", context)
    assert summary.summary["removed"] == 5
    before, after = read_corpus(context.output), read_corpus(cleaned.output)
    kept = {record.id for record in after["sft"]}
    assert after["sft"] == [record for record in before["sft"] if record.id in kept]
    assert len(before["sft"]) - len(after["sft"]) == 5
    assert after["rl"] == before["rl"]
    assert read_benchmarks(cleaned.output) == read_benchmarks(context.output)


def test_too_many_malformed_records_stop_the_stage_with_their_source(tmp_path):
    rows = [json.dumps({"prompt": f"Question {n}", "response": "yes"}) for n in range(20)]
    path = tmp_path / "own.jsonl"
    path.write_text("\n".join([*rows, '{"prompt": "Hi"}']))
    section = CorpusConfig(sources=(FileSource(uri=str(path), split="sft"),))
    with pytest.raises(BadInput, match=r"too many malformed records.*own\.jsonl"):
        corpus(tmp_path / "corpus", section)
