"""An evaluation on its own reads what the pipeline's would: the checkpoint, and the data that it was trained on."""

from __future__ import annotations

import json

import pytest

from components.failures import BadInput
from components.recipe.evaluation import BenchmarksConfig, StandardBenchmark
from components.recipe.load import load_recipe
from flows.evaluated import with_models
from flows.graph import build
from flows.request import RECIPES
from tests.components.lineage.conftest import publish, store  # noqa: F401


@pytest.fixture
def trained(publish):  # noqa: F811
    """(clean corpus, checkpoint, release of it)."""
    corpus = publish("corpus", "corpus", files={"sources.json": "[]"})
    files = {"decontamination.json": json.dumps({"counts": {"benchmarks": {}}})}
    clean = publish("decontaminate", "clean-corpus", inputs={"corpus": corpus}, files=files)
    model = publish("rlhf", "checkpoint", inputs={"data": clean})
    return clean, model, publish("release", "release", inputs={"model": model})


def test_the_released_model_is_its_checkpoint_with_its_data(store, trained) -> None:  # noqa: F811
    clean, model, release = trained
    pipeline = build(load_recipe("smoke", (), RECIPES))
    alone = pipeline.evaluations({"evaluate": "model"})
    graph, given = with_models(alone, {"model": release.uri}, store)
    node = graph.nodes["evaluate"]
    assert {name: given.get(source, {}).get("uri") for name, source in node.inputs.items()} == {
        "model": model.uri, "contamination": clean.uri, "corpus": None,
    }  # fmt: skip
    inputs = {"model": model, "corpus": clean, "contamination": clean}
    assert node.identity(inputs) == pipeline.nodes["evaluate-rlhf"].identity(inputs)


@pytest.mark.parametrize(("dtype", "itself"), [("float32", False), ("bfloat16", True), ("fp8", True)])
def test_a_release_in_another_dtype_is_another_model(dtype, itself, store, publish, trained) -> None:  # noqa: F811
    _, model, _ = trained
    release = publish("release", "release", inputs={"model": model}, summary={"dtype": dtype}, config={"dtype": dtype})
    graph = build(load_recipe("smoke", (), RECIPES)).evaluations({"evaluate": "model"})
    _, given = with_models(graph, {"model": release.uri}, store)
    assert given["model"]["uri"] == (release.uri if itself else model.uri)
    assert given["model-data"]["uri"] == trained[0].uri


def test_standard_benchmarks_were_not_searched_for(store, trained) -> None:  # noqa: F811
    asked = BenchmarksConfig(benchmarks=(StandardBenchmark(name="gsm8k"),))
    graph = build(load_recipe("smoke", (), RECIPES)).standard_evaluations(asked, {"evaluate": "model"})
    graph, given = with_models(graph, {"model": trained[1].uri}, store)
    assert given.keys() == {"model"}
    assert graph.nodes["evaluate"].inputs == {"model": "model", "corpus": "benchmarks"}


def test_data_cannot_be_evaluated(store, trained) -> None:  # noqa: F811
    graph = build(load_recipe("smoke", (), RECIPES)).evaluations({"evaluate": "model"})
    with pytest.raises(BadInput, match="a clean-corpus cannot be evaluated"):
        with_models(graph, {"model": trained[0].uri}, store)
