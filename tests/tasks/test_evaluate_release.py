"""Stages `select`, `evaluate` and `release` on real parts: vLLM engines, a megatron learner, a fresh engine at last."""

from __future__ import annotations

import json

import pytest

from components.artifacts.local import LocalContext
from components.cluster.warm import release_all
from components.data.jsonl import write_corpus
from components.data.schema import RlRecord
from components.evaluation.scores import load_evaluation
from components.failures import Diverged
from components.model.tokenizer import load_tokenizer
from components.recipe.evaluation import EvaluationConfig, ReleaseConfig, SelectConfig
from components.recipe.execution import ExecutionConfig
from components.recipe.model import ModelConfig
from components.release.server_command import model_directory
from tasks.stage import StageConfig
from tasks.stages.evaluate import run as evaluate
from tasks.stages.release import run as release
from tasks.stages.select import run as select
from tests.components.evaluation.fakes import item
from tests.components.release.random_model import write_random_model

pytestmark = [pytest.mark.engine, pytest.mark.slow, pytest.mark.timeout(900)]
MODEL = ModelConfig(preset="smoke")
EXECUTION = ExecutionConfig(engines=1, learners=1, max_num_seqs=16, start_deadline_s=600)
EVALUATE = EvaluationConfig(samples=2, max_new_tokens=24)


@pytest.fixture(scope="module")
def artifacts(tmp_path_factory):
    """A checkpoint, a corpus with two benchmarks and a clean corpus, as local artifacts."""
    root = tmp_path_factory.mktemp("artifacts")
    made = {}
    for name, kind in (("rlhf", "checkpoint"), ("corpus", "corpus"), ("decontaminate", "clean-corpus")):
        context = LocalContext(root / name, name, execution=EXECUTION, quiet=True)
        if kind == "checkpoint":
            write_random_model(context.output / "model")
        else:
            benchmarks = {"sums": [item(n) for n in range(6)], "codes": [item(n, "codes", "code") for n in range(3)]}
            write_corpus(context.output, {}, benchmarks)
            sources = [{"uri": "generator:nano", "sha256": "a" * 64, "licence": "CC0", "records": 5, "split": "sft"}]
            (context.output / "sources.json").write_text(json.dumps(sources))
            counts = {"sft": {"records": 5, "kept": 4, "removed": 1, "review": 0}, "semantic": {"compared": 5}}
            (context.output / "decontamination.json").write_text(json.dumps({"counts": counts}))
        made[name] = context.ref(kind)
    yield root, made
    release_all()


def test_a_candidate_is_selected(artifacts, tmp_path):
    """Random models answer nothing rightly: all prompts are asked, nobody leaves, and the longest trained is taken."""
    sft = LocalContext(tmp_path / "sft", "sft", execution=EXECUTION, quiet=True)
    for step in (10, 20):
        write_random_model(sft.output / "candidates" / str(step), seed=step)
    prompts = [RlRecord(**item(n).model_dump(exclude={"benchmark"})) for n in range(8)]
    data = LocalContext(tmp_path / "data", "decontaminate", execution=EXECUTION, quiet=True)
    write_corpus(data.output, {"rl": prompts}, {})
    context = LocalContext(tmp_path / "select", "select", 7, EXECUTION, quiet=True)
    config = SelectConfig(items=6, batch=3, samples=2, max_new_tokens=8)
    inputs = {"model": sft.ref("checkpoint"), "data": data.ref("clean-corpus")}
    result = select(context, inputs, StageConfig(config, MODEL))
    assert (result.summary["chosen_step"], result.summary["asked"], result.summary["of"]) == (20, 12, 12)
    assert "cannot tell apart" in result.summary["selection"]
    chosen, kept = (path / "model.safetensors" for path in (context.output / "model", sft.output / "candidates" / "20"))
    assert chosen.read_bytes() == kept.read_bytes()
    told = json.loads((context.output / "selection.json").read_text())
    assert [look["items"] for look in told["looks"]] == [3, 6]
    assert context.series("select/20") == [(3, 0.0), (6, 0.0)]


def test_evaluated_and_released(artifacts, tmp_path):
    root, made = artifacts
    inputs = {"model": made["rlhf"], "corpus": made["corpus"]}
    contexts = [LocalContext(root / name, "evaluate-rlhf", 7, EXECUTION, quiet=True) for name in ("first", "second")]
    results = [evaluate(context, inputs, StageConfig(EVALUATE, MODEL)) for context in contexts]
    first, second = (load_evaluation(context.output) for context in contexts)
    assert first.answers == second.answers  # its own seed per answer: the same draws on the same weights
    assert (first.overall.items, first.overall.answers) == (9, 18)
    assert len({answer.response for answer in first.answers}) > 9
    assert results[0].summary.keys() >= {"sums", "codes", "overall", "samples"}
    assert contexts[0].series("benchmark/overall/avg") == [(0, first.overall.avg.value)]
    tokenizer = load_tokenizer("nano")
    assert all(
        (answer.finish == "stop") == (answer.tokens < EVALUATE.max_new_tokens or answer.outcome != "truncated")
        for answer in first.answers
    )
    assert first.settings["eos_token_id"] == tokenizer.eos_token_id

    inputs |= {"data": made["decontaminate"], "evaluate-rlhf": contexts[0].ref("evaluation")}
    context = LocalContext(root / "release", "release", 7, EXECUTION, quiet=True)
    result = release(context, inputs, StageConfig(ReleaseConfig(model_name="ring-test"), MODEL))
    parity = json.loads((context.output / "parity.json").read_text())
    assert parity["within"]
    assert parity["p99_abs_dlogp"] <= 1e-5
    assert parity["mean_abs_dlogp"] <= 1e-6
    assert parity["sequences"] == 9
    # A random model draws filler tokens, whose text is encoded again as several characters.
    assert parity["tokens"] >= sum(answer.tokens for answer in first.answers if answer.sample == 0)
    assert result.summary["registered_model"] == "ring-test"
    assert result.contract.dtype == "float32"
    assert model_directory(context.output) == (context.output / "model").resolve()
    assert "and by embedding" in (context.output / "README.md").read_text()
    assert json.loads((context.output / "scores.json").read_text())["stages"][0]["stage"] == "rlhf"

    strict = StageConfig(ReleaseConfig(model_name="ring-test", dtype="bfloat16"), MODEL)
    refused = LocalContext(root / "refused", "release", 7, EXECUTION, quiet=True)
    with pytest.raises(Diverged, match=r"not released: .*bfloat16 weights.*set release\.parity_tolerance"):
        release(refused, inputs, strict)

    # On a CPU vLLM loads the same weights as float32, which must not be the float32 release's.
    eighth = LocalContext(root / "fp8", "release", 7, EXECUTION, quiet=True)
    section = ReleaseConfig(model_name="ring-test", dtype="fp8", parity_tolerance=0.1)
    result = release(eighth, inputs, StageConfig(section, MODEL))
    assert result.contract.dtype == "fp8"
    assert 1e-5 < result.summary["parity_mean_abs_dlogp"] < 0.05
    assert "FP8 (e4m3" in (eighth.output / "README.md").read_text()
    assert "of these weights as float32" in (eighth.output / "README.md").read_text()
    assert not (eighth.scratch / "float32").exists()

    # 4 bits: experts only as float32, linear layers by vLLM's own kernels for CPUs.
    for dtype, parity_of in (("int4", "of these weights as float32"), ("int4-dense", "of these files in vLLM")):
        fourth = LocalContext(root / dtype, "release", 7, EXECUTION, quiet=True)
        section = ReleaseConfig(model_name="ring-test", dtype=dtype, parity_tolerance=0.5)
        result = release(fourth, inputs, StageConfig(section, MODEL))
        assert result.contract.dtype == dtype
        assert 1e-3 < result.summary["parity_mean_abs_dlogp"] < 0.2
        card = (fourth.output / "README.md").read_text()
        assert "int4 (compressed-tensors pack-quantized" in card
        assert parity_of in card
        assert ("--dtype int4-dense" in card) == (dtype == "int4")
