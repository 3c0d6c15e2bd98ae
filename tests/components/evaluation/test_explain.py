"""One number, back to its answers, settings, model and data; a number that its answers do not give is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from components.artifacts.local import LocalContext
from components.evaluation.explain import explain, item_means, render_text, to_json
from components.evaluation.runner import evaluate
from components.failures import BadInput, IntegrityError
from components.recipe.evaluation import EvaluationConfig
from components.recipe.execution import ExecutionConfig
from tests.components.evaluation.fakes import CODEC, ExactScorer, KnownEngines, item
from tests.components.lineage.conftest import publish, store  # noqa: F401

SHARDS = [
    {"uri": f"s3://data/{name}", "sha256": digest * 64, "licence": "mit", "records": 3, "split": split}
    for name, digest, split in (("web", "a", "pretrain"), ("chats", "b", "sft"), ("pairs", "c", "preference"))
] + [{"uri": "s3://data/sums", "sha256": "d" * 64, "licence": "mit", "records": 4, "split": "sums"}]


@pytest.fixture
def evaluated(publish, tmp_path: Path):  # noqa: F811
    """publish an evaluation of half-right answers; the summary may be changed."""
    corpus = publish("corpus", "corpus", files={"sources.json": json.dumps(SHARDS)})
    counts = {"sft": {"records": 3, "kept": 2, "removed": 1}, "benchmarks": {}}
    files = {"decontamination.json": json.dumps({"counts": counts})}
    clean = publish("decontaminate", "clean-corpus", inputs={"corpus": corpus}, files=files)
    model = publish(
        "sft", "checkpoint", inputs={"data": clean}, reads={"data": ["data/sft.jsonl"]}, git_commit="c" * 40
    )
    items = {"sums": [item(number) for number in range(4)]}
    context = LocalContext(tmp_path / "evaluation", "evaluate-sft", 5, ExecutionConfig(engines=1), quiet=True)
    config = EvaluationConfig(samples=2, max_new_tokens=16)
    settings = {"model": model.fingerprint}
    engines = KnownEngines(lambda request: request.endswith("|0"))
    evaluation = evaluate(engines, CODEC, items, config, ExactScorer(), context, settings)
    evaluation.write(context.output)
    made = {path.name: path.read_text() for path in context.output.iterdir()}
    values = {"evaluate.samples": {"value": 2, "origin": "--set evaluate.samples=2"}}

    def make(summary=None, judged=model):
        return publish(
            "evaluate-sft",
            "evaluation",
            {"summary": summary, "model": judged.stage},
            {"model": judged, "corpus": corpus},
            files=made,
            summary={"sums": 0.5, "overall": 0.5, **(summary or {})},
            values=values,
            mlflow_run_id="f" * 32,
        )

    return make


def test_a_model_behind_http_is_named(store, evaluated, publish, tmp_path):  # noqa: F811
    made = {path.name: path.read_text() for path in (tmp_path / "evaluation" / "output").iterdir()}
    corpus = publish("benchmarks", "corpus", files={"sources.json": json.dumps(SHARDS)})
    settings = json.loads(made["scores.json"])
    settings["settings"] |= {"model": "qwen3", "endpoint": "http://127.0.0.1:1/v1"}
    made["scores.json"] = json.dumps(settings)
    summary = {"sums": 0.5, "overall": 0.5}
    ref = publish("evaluate", "evaluation", {}, {"corpus": corpus}, files=made, summary=summary)
    found = explain(store, ref, "sums")
    assert found.model is None
    assert "model       qwen3 at http://127.0.0.1:1/v1, which the store does not hold" in render_text(found)
    assert to_json(found)["model"] == {"model": "qwen3", "endpoint": "http://127.0.0.1:1/v1"}


def test_a_score_is_explained_down_to_answers_settings_model_and_data(store, evaluated):  # noqa: F811
    found = explain(store, evaluated(), "sums")
    assert (found.score.avg.value, len(found.answers)) == (0.5, 8)
    assert found.model.ref.stage == "sft"
    assert [source.uri for source in found.trained_on] == ["s3://data/chats"], "what its stages opened"
    assert [source.uri for source in found.benchmarks] == ["s3://data/sums"]
    assert [(mean, count) for _, mean, count in item_means(found)] == [(0.5, 2)] * 4
    text = render_text(found, answers=2)
    for shown in (
        "evaluate-sft/sums = 0.5000",
        "4 items x 2 answers: 8 answers, 4 correct, 4 wrong",
        "0 always right, 0 never right, 4 sometimes",
        f"model       {found.model.label}",
        "commit cccccccccccc",
        "samples = 2  (--set evaluate.samples=2)",
        "sha256 bbbbbbbbbbbb",
        "removed 1 records",
        "expected  1",
    ):
        assert shown in text, shown
    assert text.count("asked") == 2
    plain = json.loads(json.dumps(to_json(found)))
    assert len(plain["answers"]) == 8
    assert plain["config"]["evaluate.samples"]["origin"] == "--set evaluate.samples=2"
    assert explain(store, evaluated()).name == "overall"


def test_what_cannot_be_explained_is_refused(store, publish, evaluated):  # noqa: F811
    with pytest.raises(BadInput, match="Scores: overall, sums"):
        explain(store, evaluated(), "nothing")
    with pytest.raises(BadInput, match="has no scores of its own"):
        explain(store, publish("sft", "checkpoint"))
    with pytest.raises(IntegrityError, match=r"sums was published as 0\.75, its answers give 0\.500000"):
        explain(store, evaluated({"sums": 0.75}), "sums")
    other = publish("rlvr-1", "checkpoint")
    with pytest.raises(IntegrityError, match=f"with fingerprint {other.fingerprint}"):
        explain(store, evaluated(judged=other), "sums")
